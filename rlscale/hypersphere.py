"""Networks whose features and weights are kept at length 1: the actor and the critics of SimbaV2 (Lee et al. 2025).

A layer is a product with unit vectors, so its outputs are cosines, and learned scales say how much each of them counts.
The weights of a unit are a column of its kernel. An optimiser's step leaves the sphere; `on_sphere` puts them back.
"""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from rlscale.networks import LOG_STD_MAX, LOG_STD_MIN, Dense
from rlscale.types import Array

SHIFT = 3.0  # appended to the input, so that its length survives in the direction
EXPANSION = 4  # a block's hidden units over its width


def unit(x: Array) -> Array:
    """x / |x| over the last axis; 0 stays 0."""
    # A product with ones: XLA's CPU compiler adds up a row one number after another. The precision is for GPUs, which
    # may round to ten bits.
    square = jnp.dot(x * x, jnp.ones(x.shape[-1]), precision=jax.lax.Precision.HIGHEST)
    return x * jax.lax.rsqrt(jnp.maximum(square, 1e-24))[..., None]  # the floor keeps the slope at 0 finite


def on_sphere(params: Any) -> Any:
    """The parameters with each column of each kernel at length 1; scales and biases as they are."""

    def projected(path: Any, leaf: Array) -> Array:
        return unit_columns(leaf) if path[-1].key == "kernel" else leaf

    return jax.tree_util.tree_map_with_path(projected, params)


def unit_columns(kernel: Array) -> Array:
    """[in, out] -> [in, out]."""
    return kernel * jax.lax.rsqrt((kernel**2).sum(0))


def _dense(width: int) -> nn.Dense:
    """A layer without bias; orthogonal, then projected."""

    def initial(key: Array, shape: tuple[int, ...], dtype: Any = jnp.float32) -> Array:
        return unit_columns(nn.initializers.orthogonal()(key, shape, dtype))

    return Dense(width, use_bias=False, kernel_init=initial)


class Scale(nn.Module):
    """A learned factor for each unit, `first` at the start.

    The parameter is the factor in units of first/stored: it starts at `stored`, so that Adam, whose steps are alike for
    all parameters, moves the factor by first/stored of a step.
    """

    first: float
    stored: float

    @nn.compact
    def __call__(self, x: Array) -> Array:  # [..., n] -> [..., n]
        factor = self.param("factor", nn.initializers.constant(self.stored), x.shape[-1:])
        return x * (factor * (self.first / self.stored))


class SphereNet(nn.Module):
    """A residual trunk: the input as a direction, then `blocks` times a step on the sphere towards an MLP's output."""

    width: int
    blocks: int

    @nn.compact
    def __call__(self, x: Array) -> Array:  # [..., in] -> [..., width], of length 1
        root = (2 / self.width) ** 0.5
        x = unit(jnp.concatenate([x, jnp.full((*x.shape[:-1], 1), SHIFT)], axis=-1))
        x = unit(Scale(root, root)(_dense(self.width)(x)))
        for _ in range(self.blocks):
            inner = root / EXPANSION**0.5
            hidden = nn.relu(Scale(inner, inner)(_dense(EXPANSION * self.width)(x)))
            goal = unit(_dense(self.width)(hidden + 1e-8))  # a row of dead units has a direction, too
            x = unit(x + Scale(1 / (self.blocks + 1), self.width**-0.5)(goal - x))
        return x


class SphereHead(nn.Module):
    """From a trunk's features to `out` numbers of any size."""

    width: int
    out: int

    @nn.compact
    def __call__(self, x: Array) -> Array:  # [..., width] -> [..., out]
        x = Scale(1.0, 1.0)(_dense(self.width)(x))
        return _dense(self.out)(x) + self.param("bias", nn.initializers.zeros, (self.out,))


class SphereCritic(nn.Module):
    """Independent networks from state and action to the logits of the return's distribution."""

    width: int
    blocks: int
    atoms: int
    critics: int

    @nn.compact
    def __call__(self, obs: Array, action: Array) -> tuple[Array, ...]:  # [..., O], [..., A] -> critics × [..., K]
        x = jnp.concatenate([obs, action], axis=-1)
        trunks = [SphereNet(self.width, self.blocks)(x) for _ in range(self.critics)]
        return tuple(SphereHead(self.width, self.atoms)(trunk) for trunk in trunks)


class SphereActor(nn.Module):
    """Mean and log standard deviation before the tanh; log σ from −10 to 2 by a tanh, so that no gradient dies."""

    width: int
    blocks: int
    action_dim: int

    @nn.compact
    def __call__(self, obs: Array) -> tuple[Array, Array]:  # [..., O] -> [..., A], [..., A]
        x = SphereNet(self.width, self.blocks)(obs)
        mean, spread = (SphereHead(self.width, self.action_dim)(x) for _ in range(2))
        return mean, LOG_STD_MIN + (LOG_STD_MAX - LOG_STD_MIN) * 0.5 * (1 + jnp.tanh(spread))

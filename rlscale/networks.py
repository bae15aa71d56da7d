"""Flax modules that more than one learner uses."""

from __future__ import annotations

import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from rlscale.types import Array

LOG_STD_MIN, LOG_STD_MAX = -10.0, 2.0


@functools.cache  # every job of a sweep asks, and following an initialisation takes longer than all else in `make`
def parameter_shapes(network: nn.Module, *inputs: int) -> Any:
    """A network's parameters as shapes, for inputs of these lengths."""
    return jax.eval_shape(network.init, jax.random.key(0), *(jnp.zeros(n) for n in inputs))


@jax.custom_vjp
def product(x: Array, kernel: Array) -> Array:
    """x @ kernel: [..., n], [n, m] -> [..., m].

    XLA's CPU compiler is slow at some of the products that small networks are made of. One over few inputs, as a first
    layer's from a state of three numbers, is faster as a sum of outer products, in one kernel with the bias and ReLU
    after it. The gradient by the kernel, xᵀ @ slope, is faster as slopeᵀ @ x where the kernel is narrow, as a policy's
    heads; and where x is small, it pays to transpose it beforehand. The barriers keep the compiler from turning both
    back into the plain product.
    """
    return _matmul(x, kernel)


def _matmul(x: Array, kernel: Array) -> Array:
    n = len(kernel)
    if jax.default_backend() == "cpu" and n <= 4:
        return functools.reduce(jnp.add, (x[..., i : i + 1] * kernel[i] for i in range(n)))
    return x @ kernel


def _product_gradient(kept: tuple[Array, Array], slope: Array) -> tuple[Array, Array]:
    x, kernel = kept
    n, m = kernel.shape
    rows, slopes = x.reshape(-1, n), slope.reshape(-1, m)
    if jax.default_backend() == "cpu" and 4 * m <= n:
        by_kernel = jax.lax.optimization_barrier(slopes.T @ rows).T
    elif jax.default_backend() == "cpu" and rows.size < 2**14:
        by_kernel = jax.lax.optimization_barrier(rows.T) @ slopes
    else:
        by_kernel = rows.T @ slopes
    return _matmul(slope, kernel.T), by_kernel


product.defvjp(lambda x, kernel: (_matmul(x, kernel), (x, kernel)), _product_gradient)

Dense = functools.partial(nn.Dense, dot_general=lambda x, kernel, *_, **__: product(x, kernel))


class MLP(nn.Module):
    """`depth` hidden ReLU layers of `width`, then a linear layer to `out`; orthogonal(√2) kernels (jaxrl)."""

    width: int
    depth: int
    out: int

    @nn.compact
    def __call__(self, x: Array) -> Array:  # [..., in] -> [..., out]
        for _ in range(self.depth):
            x = nn.relu(Dense(self.width, kernel_init=nn.initializers.orthogonal(2**0.5))(x))
        return Dense(self.out, kernel_init=nn.initializers.orthogonal(2**0.5))(x)


class TwinQ(nn.Module):
    """Two independent state-action values."""

    width: int
    depth: int

    @nn.compact
    def __call__(self, obs: Array, action: Array) -> tuple[Array, Array]:  # [..., O], [..., A] -> 2 × [...]
        x = jnp.concatenate([obs, action], axis=-1)
        q1, q2 = (MLP(self.width, self.depth, 1)(x).squeeze(-1) for _ in range(2))
        return q1, q2


class GaussianPolicy(nn.Module):
    """Mean and log standard deviation of a Gaussian before the tanh; log σ clipped to [−10, 2] (jaxrl)."""

    width: int
    depth: int
    action_dim: int

    @nn.compact
    def __call__(self, obs: Array) -> tuple[Array, Array]:  # [..., O] -> [..., A], [..., A]
        x = obs
        for _ in range(self.depth):
            x = nn.relu(Dense(self.width, kernel_init=nn.initializers.orthogonal(2**0.5))(x))
        heads = Dense(2 * self.action_dim, kernel_init=nn.initializers.orthogonal(1.0))(x)
        mean, log_std = jnp.split(heads, 2, axis=-1)
        return mean, jnp.clip(log_std, LOG_STD_MIN, LOG_STD_MAX)


def tanh_gaussian(noise: Array, mean: Array, log_std: Array) -> tuple[Array, Array]:
    """The action tanh(u), u = mean + σ·noise with standard normal noise, and log π; [..., A] -> [..., A], [...].

    The density keeps the pre-tanh u: log(1 − tanh²u) = 2(log 2 − u − softplus(−2u)) is exact, where recovering u from
    a stored action explodes at ±1.
    """
    u = mean + jnp.exp(log_std) * noise
    gaussian = -0.5 * noise**2 - log_std - 0.5 * jnp.log(2 * jnp.pi)
    log_prob = (gaussian - 2 * (jnp.log(2.0) - u - jax.nn.softplus(-2 * u))).sum(-1)
    return jnp.tanh(u), log_prob


@jax.custom_vjp
def layer_norm(x: Array, scale: Array, bias: Array) -> Array:
    """(x − mean) / √(variance + 1e-6) · scale + bias over the last axis: [..., n], [n], [n] -> [..., n].

    flax's LayerNorm with its sums over a row, and its gradient's, as products with a vector: XLA's CPU compiler adds up
    a row one number after another, and is fast at matrix products.
    """
    return _layer_norm(x, scale, bias)[0]


def _layer_norm(x: Array, scale: Array, bias: Array) -> tuple[Array, tuple[Array, Array, Array]]:
    ones = jnp.ones_like(scale)
    centred = x - _mean(x, ones)
    inverse = jax.lax.rsqrt(_mean(centred**2, ones) + 1e-6)
    normal = centred * inverse
    return normal * scale + bias, (normal, inverse, scale)


def _layer_norm_gradient(kept: tuple[Array, Array, Array], slope: Array) -> tuple[Array, Array, Array]:
    normal, inverse, scale = kept
    by_scale = slope * normal
    by_x = inverse * (slope * scale - _mean(slope, scale) - normal * _mean(by_scale, scale))
    batch = tuple(range(slope.ndim - 1))
    return by_x, by_scale.sum(batch), slope.sum(batch)


def _mean(x: Array, weight: Array) -> Array:
    """Of x·weight over the last axis; [..., n], [n] -> [..., 1]."""
    # The highest precision, or a GPU may round what it adds up to ten bits.
    return jnp.dot(x, weight, precision=jax.lax.Precision.HIGHEST)[..., None] / x.shape[-1]


layer_norm.defvjp(_layer_norm, _layer_norm_gradient)


class LayerNorm(nn.Module):
    """`layer_norm` with its parameters, named and initialised as flax's."""

    @nn.compact
    def __call__(self, x: Array) -> Array:  # [..., n] -> [..., n]
        scale = self.param("scale", nn.initializers.ones, x.shape[-1:])
        return layer_norm(x, scale, self.param("bias", nn.initializers.zeros, x.shape[-1:]))


class BroNet(nn.Module):
    """A residual trunk: Dense, LayerNorm, ReLU, then `blocks` times x + LN(Dense(ReLU(LN(Dense(x))))).

    The norm is inside the branch and nothing follows the last sum (BRO's code); all kernels orthogonal(√2).
    """

    width: int
    blocks: int

    @nn.compact
    def __call__(self, x: Array) -> Array:  # [..., in] -> [..., width]
        def layer(x: Array) -> Array:
            return LayerNorm()(Dense(self.width, kernel_init=nn.initializers.orthogonal(2**0.5))(x))

        x = nn.relu(layer(x))
        for _ in range(self.blocks):
            x = x + layer(nn.relu(layer(x)))
        return x


class BroCritic(nn.Module):
    """Two independent BroNets from state and action to the quantiles of the return."""

    width: int
    blocks: int
    quantiles: int

    @nn.compact
    def __call__(self, obs: Array, action: Array) -> tuple[Array, Array]:  # [..., O], [..., A] -> 2 × [..., K]
        x = jnp.concatenate([obs, action], axis=-1)
        trunks = [BroNet(self.width, self.blocks)(x) for _ in range(2)]
        q1, q2 = (Dense(self.quantiles, kernel_init=nn.initializers.orthogonal(2**0.5))(t) for t in trunks)
        return q1, q2


class BroActor(nn.Module):
    """Mean and log standard deviation before the tanh; log σ from −10 to 2 by a tanh, so that no gradient dies."""

    width: int
    blocks: int
    action_dim: int

    @nn.compact
    def __call__(self, obs: Array) -> tuple[Array, Array]:  # [..., O] -> [..., A], [..., A]
        x = BroNet(self.width, self.blocks)(obs)
        mean = Dense(self.action_dim, kernel_init=nn.initializers.orthogonal(2**0.5))(x)
        squashed = jnp.tanh(Dense(self.action_dim, kernel_init=nn.initializers.orthogonal(1.0))(x))
        return mean, LOG_STD_MIN + (LOG_STD_MAX - LOG_STD_MIN) * 0.5 * (1 + squashed)


class OptimisticShift(nn.Module):
    """How far BRO's second actor moves the first one's mean (before the tanh); almost nothing at the start."""

    width: int
    blocks: int
    action_dim: int

    @nn.compact
    def __call__(self, obs: Array, mean: Array) -> Array:  # [..., O], [..., A] -> [..., A]
        x = BroNet(self.width, self.blocks)(jnp.concatenate([obs, mean], axis=-1))
        return Dense(self.action_dim, use_bias=False, kernel_init=nn.initializers.orthogonal(0.01))(x)


class EluMLP(nn.Module):
    """Hidden ELU layers of the given widths, then a linear layer to `out`; torch's default initialisation (PQL)."""

    hidden: tuple[int, ...]
    out: int

    @nn.compact
    def __call__(self, x: Array) -> Array:  # [..., in] -> [..., out]
        for width in self.hidden:
            x = nn.elu(_torch_dense(width, x.shape[-1])(x))
        return _torch_dense(self.out, x.shape[-1])(x)


def _torch_dense(width: int, inputs: int) -> nn.Dense:
    """Kernel and bias uniform in ±1/√inputs."""
    bound = inputs**-0.5

    def uniform(key: Array, shape: tuple[int, ...], dtype: Any = jnp.float32) -> Array:
        return jax.random.uniform(key, shape, dtype, -bound, bound)

    return Dense(width, kernel_init=uniform, bias_init=uniform)


class TwinHead(nn.Module):
    """Two independent networks from state and action to `out` numbers each: a value, or a distribution's logits."""

    hidden: tuple[int, ...]
    out: int

    @nn.compact
    def __call__(self, obs: Array, action: Array) -> tuple[Array, Array]:  # [..., O], [..., A] -> 2 × [..., out]
        x = jnp.concatenate([obs, action], axis=-1)
        h1, h2 = (EluMLP(self.hidden, self.out)(x) for _ in range(2))
        return h1, h2


class DeterministicPolicy(nn.Module):
    """An action, by a tanh."""

    hidden: tuple[int, ...]
    action_dim: int

    @nn.compact
    def __call__(self, obs: Array) -> Array:  # [..., O] -> [..., A] in (−1, 1)
        return jnp.tanh(EluMLP(self.hidden, self.action_dim)(obs))

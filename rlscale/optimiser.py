"""Adam and the step of size η along its direction."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.flatten_util import ravel_pytree

from rlscale.types import Array

PACKED = 2**14  # leaves of fewer numbers lie in one vector: a kernel for each would take longer than the copy


def adam(b1: float = 0.9, b2: float = 0.999, eps: float = 1e-8) -> optax.GradientTransformation:
    """Adam's direction, without a learning rate: `descend` applies η by hand.

    The numbers of optax.scale_by_adam but for rounding, in the paper's faster order (Kingma & Ba 2015, end of section
    2, with ε̂ = ε·√(1 − β₂ᵗ)): one division for each parameter instead of three.
    """

    def packed(tree: Any) -> tuple[tuple[dict[int, Array], Array], Callable[[dict[int, Array], Array], Any]]:
        leaves, structure = jax.tree.flatten(tree)
        large = {i: leaf for i, leaf in enumerate(leaves) if jnp.size(leaf) >= PACKED}
        vector, split = ravel_pytree({i: leaf for i, leaf in enumerate(leaves) if i not in large})

        def unpacked(large: dict[int, Array], vector: Array) -> Any:
            by_place = large | split(vector)
            return jax.tree.unflatten(structure, [by_place[i] for i in range(len(leaves))])

        return (large, vector), unpacked

    def init(params: Any) -> optax.ScaleByAdamState:
        return optax.scale_by_adam().init(packed(params)[0])

    def update(gradient: Any, state: Any, params: Any = None) -> tuple[Any, optax.ScaleByAdamState]:
        gradient, unpacked = packed(gradient)
        count = state.count + 1
        root = jnp.sqrt(1 - b2**count)
        rate = root / (1 - b1**count)
        mu = jax.tree.map(lambda m, g: b1 * m + (1 - b1) * g, state.mu, gradient)
        nu = jax.tree.map(lambda v, g: b2 * v + (1 - b2) * g**2, state.nu, gradient)
        direction = jax.tree.map(lambda m, v: rate * m / (jnp.sqrt(v) + eps * root), mu, nu)
        return unpacked(*direction), optax.ScaleByAdamState(count, mu, nu)

    return optax.GradientTransformation(init, update)


def descend(direction: Any, params: Any, learning_rate: Array | float) -> Any:
    """params − η·direction. η is a traced value, so one compiled program serves every learning rate."""
    return optax.apply_updates(params, jax.tree.map(lambda d: -learning_rate * d, direction))

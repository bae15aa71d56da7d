"""Adam and the step of size η along its direction."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import optax

from rlscale.packing import pack, unpack
from rlscale.types import Array


def adam(b1: float = 0.9, b2: float = 0.999, eps: float = 1e-8) -> optax.GradientTransformation:
    """Adam's direction, without a learning rate: `descend` applies η by hand.

    The numbers of optax.scale_by_adam but for rounding, in the paper's faster order (Kingma & Ba 2015, end of section
    2, with ε̂ = ε·√(1 − β₂ᵗ)): one division for each parameter instead of three. Its moments are packed.
    """

    def init(params: Any) -> optax.ScaleByAdamState:
        return optax.scale_by_adam().init(pack(params))

    def update(gradient: Any, state: Any, params: Any = None) -> tuple[Any, optax.ScaleByAdamState]:
        count = state.count + 1
        root = jnp.sqrt(1 - b2**count)
        rate = root / (1 - b1**count)
        gradient = pack(gradient)
        mu = jax.tree.map(lambda m, g: b1 * m + (1 - b1) * g, state.mu, gradient)
        nu = jax.tree.map(lambda v, g: b2 * v + (1 - b2) * g**2, state.nu, gradient)
        direction = jax.tree.map(lambda m, v: rate * m / (jnp.sqrt(v) + eps * root), mu, nu)
        return unpack(direction), optax.ScaleByAdamState(count, mu, nu)

    return optax.GradientTransformation(init, update)


def descend(direction: Any, params: Any, learning_rate: Array | float) -> Any:
    """params − η·direction. η is a traced value, so one compiled program serves every learning rate."""
    return optax.apply_updates(params, jax.tree.map(lambda d: -learning_rate * d, direction))

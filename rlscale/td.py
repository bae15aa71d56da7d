"""Temporal-difference arithmetic and the optimiser step that every learner shares."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import jax
import jax.numpy as jnp
import optax

from rlscale.types import Array


def polyak(targets: Any, params: Any, tau: float) -> Any:
    """Targets moved by τ towards the online parameters."""
    return jax.tree.map(lambda t, p: t + tau * (p - t), targets, params)


def descend(direction: Any, params: Any, learning_rate: Array | float) -> Any:
    """params − η·direction. η is a traced value, so one compiled program serves every learning rate."""
    return optax.apply_updates(params, jax.tree.map(lambda d: -learning_rate * d, direction))


def due(updates: Array, ratio: Fraction) -> Array:
    """Whether update number `updates` (from 0) is one of the ⌊n·ratio⌋ among the first n, for ratio ≤ 1.

    A function of the global counter, so the share is the same however updates are chunked. The counter is reduced
    first: int32 products stay far below overflow.
    """
    u = updates % ratio.denominator
    p, q = ratio.numerator, ratio.denominator
    return (u + 1) * p // q > u * p // q


def count(params: Any) -> int:
    """Number of parameters."""
    return sum(leaf.size for leaf in jax.tree.leaves(params))


def matmul_weights(params: Any) -> int:
    """Number of parameters that take part in a matrix product (kernels): 2 FLOPs each per forward row."""
    return sum(leaf.size for leaf in jax.tree.leaves(params) if jnp.ndim(leaf) >= 2)

"""Temporal-difference arithmetic that every learner shares."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import chex
import jax
import jax.numpy as jnp

from rlscale.types import Array


def polyak(targets: Any, params: Any, tau: float) -> Any:
    """Targets moved by τ towards the online parameters."""
    return jax.tree.map(lambda t, p: t + tau * (p - t), targets, params)


@jax.custom_vjp
def quantile_huber(quantiles: Array, targets: Array) -> Array:
    """Mean over targets j, sum over quantiles i, of |τ_i − 1{δ_ij < 0}|·Huber(δ_ij), δ_ij = y_j − q_i; κ = 1.

    [..., K], [..., J] -> [...], with τ_i = (i + ½) / K (Dabney et al. 2018, eq. 10; summed over i as in BRO's code).
    The targets get no gradient.

    The slope by hand, one target after another: automatic differentiation keeps all B·K·J pairs, which on a CPU takes
    many times as long.
    """
    return _quantile_huber(quantiles, targets)[0]


def _quantile_huber(quantiles: Array, targets: Array) -> tuple[Array, Array]:
    """The loss [...] and its negative gradient by the quantiles [..., K]."""
    chex.assert_equal_shape_prefix((quantiles, targets), quantiles.ndim - 1)
    tau = (jnp.arange(quantiles.shape[-1]) + 0.5) / quantiles.shape[-1]

    def one(sums: tuple[Array, Array], target: Array) -> tuple[tuple[Array, Array], None]:
        delta = target[..., None] - quantiles
        slope = jnp.clip(delta, -1.0, 1.0)  # of Huber, which is slope·(δ − slope/2) on both its branches
        weighted = jnp.where(delta < 0, 1 - tau, tau) * slope
        return (sums[0] + weighted * (delta - slope / 2), sums[1] + weighted), None

    zeros = jnp.zeros_like(quantiles)
    (loss, slope), _ = jax.lax.scan(one, (zeros, zeros), jnp.moveaxis(targets, -1, 0), unroll=10)
    return loss.sum(-1) / targets.shape[-1], slope / targets.shape[-1]


quantile_huber.defvjp(_quantile_huber, lambda slope, cotangent: (-slope * cotangent[..., None], None))


def project(probabilities: Array, atoms: Array, support: Array) -> Array:
    """A distribution on `atoms` [B, K] as one on the evenly spaced `support` [K]: each atom's mass is split between
    its two neighbours, what lies outside goes to the ends (Bellemare et al. 2017, eq. 7). [B, K] -> [B, K].
    """
    spacing = support[1] - support[0]
    inside = jnp.clip(atoms, support[0], support[-1])
    nearness = jnp.clip(1 - jnp.abs(inside[:, None, :] - support[:, None]) / spacing, 0.0, 1.0)  # [B, K, K]
    return (nearness * probabilities[:, None, :]).sum(-1)


def moments(steps: Array, mean: Array, variance: Array, rows: Array) -> tuple[Array, Array]:
    """Mean and variance [...] of all that was seen in `steps` vector steps, when `rows` [E, ...] are seen in another;
    each step weighs the same (Chan et al. 1983).
    """
    share, delta = 1 / (steps + 1), rows.mean(0) - mean
    variance = variance + share * (rows.var(0) - variance + (1 - share) * delta**2)
    return mean + share * delta, variance


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

"""Data, compute and budget: C_J(σ), the three questions (3.1, 3.2), σ*(F) and the Pareto frontier (METHOD A4)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.optimize import brentq

from analysis.fits import DataLaw
from analysis.uncertainty import Floats

Batch = Callable[[Floats], Floats]  # σ [n] → mean B* over tasks [n]


@dataclass(frozen=True)
class Point:
    """A setting on a law: σ, env steps, FLOPs. `at_end`: σ is an end of the range that was searched, not an optimum."""

    sigma: float
    data: float
    compute: float
    at_end: bool


def compute(n_params: float, batch: Any, sigma: Any, data: Any) -> Any:
    """C = 10 · N · B · σ · D in FLOPs (4.2, A.1)."""
    return 10.0 * n_params * batch * sigma * data


@dataclass(frozen=True)
class Frontier:
    """One threshold's D_J(σ) with its compute, searched over σ in [low, high]."""

    law: DataLaw
    batch: Batch
    n_params: float
    low: float
    high: float

    def compute(self, sigma: Any) -> Any:
        """C_J(σ) in FLOPs (4.2)."""
        sigma = np.asarray(sigma, dtype=float)
        return compute(self.n_params, self.batch(sigma.ravel()).reshape(sigma.shape), sigma, self.law(sigma))

    def at(self, sigma: float) -> Point:
        end = not self.low * (1 + 1e-4) < sigma < self.high * (1 - 1e-4)
        return Point(float(sigma), float(self.law(sigma)), float(self.compute(sigma)), end)

    def cheapest(self, delta: float) -> Point:
        """The σ that minimises C_J(σ) + delta · D_J(σ)."""
        best = argmin_log(lambda s: self.compute(s) + delta * self.law(s), np.array([self.low]), np.array([self.high]))
        return self.at(float(best.item()))

    def least_data(self, bound: float) -> Point | None:
        """Least data within a compute bound (4.3): the largest σ with C_J(σ) ≤ bound; None if there is none."""
        floor = self.cheapest(0.0)
        if floor.compute > bound:
            return None
        if self.compute(self.high) <= bound:
            return self.at(self.high)
        # C is a sum of powers of σ, so convex in ln σ: right of its minimum it crosses the bound once
        ends = np.log(floor.sigma), np.log(self.high)
        root = brentq(lambda t: float(np.log(self.compute(np.exp(t)) / bound)), *ends, xtol=1e-13)
        return self.at(float(np.exp(root)))

    def least_compute(self, bound: float) -> Point | None:
        """Least compute within a data bound (4.4, A.7, A.8); None if bound ≤ d_min or it needs σ beyond the range.

        The law's own σ(bound) is the answer wherever compute rises with σ; where it still falls, a larger σ needs
        both less data and less compute.
        """
        need = self.law.sigma_at(bound)
        if need > self.high:
            return None
        need = max(need, self.low)
        best = argmin_log(self.compute, np.array([need]), np.array([self.high]))
        sigma = float(best.item())
        return self.at(need if self.compute(need) <= self.compute(sigma) else sigma)


def argmin_log(cost: Callable[[Floats], Floats], low: Floats, high: Floats) -> Floats:
    """The σ in [low, high] (each [m]) with the least cost, to a relative 1e-9: a log grid of 257, then zoomed in on.

    `cost` maps σ [m, 257] to [m, 257], row by row.
    """
    low, high = np.log(low), np.log(high)
    rows = np.arange(len(low))
    unit = np.linspace(0.0, 1.0, 257)
    a, b = low, high
    for _ in range(4):
        grid = a[:, None] + (b - a)[:, None] * unit
        i = cost(np.exp(grid)).argmin(axis=1)
        centre, step = grid[rows, i], (b - a) / 256
        a, b = np.maximum(centre - step, low), np.minimum(centre + step, high)
    return np.asarray(np.exp(centre))


def best_return(
    frontiers: list[Frontier], thresholds: list[float], budget: float, delta: float
) -> tuple[float, Point] | None:
    """The highest return level whose cheapest setting costs at most `budget` (Problem 3.2); None if none does."""
    for threshold, frontier in sorted(zip(thresholds, frontiers, strict=True), key=lambda p: -p[0]):
        point = frontier.cheapest(delta)
        if point.compute + delta * point.data <= budget:
            return threshold, point
    return None


def optima_draws(
    params: Floats, batch: Floats, slope: Floats, n_params: float, delta: float, ends: tuple[float, float]
) -> Floats:
    """σ* and F of K draws of one threshold: params [K, 3] (d_min, beta, alpha), ln B and slope [K, T] → [K, 2]."""
    d_min, beta, alpha = params.T[:, :, None]

    def mean_batch(sigma: Floats) -> Floats:  # [K, n]
        return np.asarray(np.exp(batch[:, :, None] + slope[:, :, None] * np.log(sigma)[:, None, :]).mean(axis=1))

    def cost(sigma: Floats) -> Floats:
        data = d_min * (1.0 + (beta / sigma) ** alpha)
        return np.asarray(compute(n_params, mean_batch(sigma), sigma, data) + delta * data)

    one = np.ones(len(params))
    sigma = argmin_log(cost, ends[0] * one, ends[1] * one)
    return np.stack([sigma, cost(sigma[:, None])[:, 0]], axis=1)


def budget_law(budgets: Floats, sigma: Floats) -> tuple[Any, Any]:
    """σ*(F) = coefficient · F^exponent (4.5) through optima [..., J] by least squares in logs; needs two budgets."""
    x, y = np.log(budgets), np.log(sigma)
    dx = x - x.mean(axis=-1, keepdims=True)
    spread = np.asarray((dx**2).sum(axis=-1))
    # equal budgets (a draw in which two thresholds coincide) have no exponent: NaN, which intervals leave out
    exponent = (dx * y).sum(axis=-1) / np.where(spread > 0, spread, np.nan)
    return np.exp(y.mean(axis=-1) - exponent * x.mean(axis=-1)), exponent


def pareto(frontier: Frontier, count: int) -> tuple[Floats, Floats, Floats]:
    """(σ, D, C), `count` settings of which none is beaten in both data and compute: σ from the least C upwards."""
    sigma = np.geomspace(frontier.cheapest(0.0).sigma, frontier.high, count)
    return sigma, np.asarray(frontier.law(sigma)), np.asarray(frontier.compute(sigma))

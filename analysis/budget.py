"""Data, compute and budget: C_J(σ), the three questions (3.1, 3.2), σ*(F) and the Pareto frontier (METHOD A4)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.optimize import brentq

from analysis.uncertainty import Floats

Law = Callable[[Any], Any]  # σ → env steps
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

    law: Law
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
        """Least data within a compute bound (4.3); None if no σ in the range is within it.

        Where data falls with σ that is the largest σ with C_J(σ) ≤ bound.
        """
        return self._least(self.law, self.compute, bound)

    def least_compute(self, bound: float) -> Point | None:
        """Least compute within a data bound (4.4, A.7, A.8); None if no σ in the range is within it.

        Where compute rises with σ that is the law's own σ(bound); where it still falls, a larger σ needs both less
        data and less compute.
        """
        return self._least(self.compute, self.law, bound)

    def _least(self, cost: Law, bounded: Law, bound: float) -> Point | None:
        """The σ with the least `cost` of those around the minimum of `bounded` where that is ≤ bound."""
        least = float(argmin_log(bounded, np.array([self.low]), np.array([self.high])).item())
        if bounded(least) > bound:
            return None

        def excess(t: float) -> float:
            return float(np.log(bounded(np.exp(t)) / bound))

        ends = []
        for end in (self.low, self.high):
            inside = bounded(end) <= bound
            ends.append(end if inside else np.exp(brentq(excess, *sorted((np.log(least), np.log(end))), xtol=1e-13)))
        best = float(argmin_log(cost, np.array([ends[0]]), np.array([ends[1]])).item())
        return self.at(min((best, *ends), key=lambda s: float(cost(s))))


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


def optima_draws(
    log_data: Callable[[Floats], Floats], batch: Floats, slope: Floats, n_params: float, delta: float,
    ends: tuple[float, float],
) -> Floats:  # fmt: skip
    """σ* and F of K draws of one threshold: ln D at ln σ [K, n] → [K, n], ln B and slope [K, T] → [K, 2]."""

    def mean_batch(x: Floats) -> Floats:  # [K, n]
        return np.asarray(np.exp(batch[:, :, None] + slope[:, :, None] * x[:, None, :]).mean(axis=1))

    def cost(sigma: Floats) -> Floats:
        x = np.log(sigma)
        data = np.exp(log_data(x))
        return np.asarray(compute(n_params, mean_batch(x), sigma, data) + delta * data)

    one = np.ones(len(batch))
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
    start = frontier.cheapest(0.0).sigma
    end = float(argmin_log(frontier.law, np.array([start]), np.array([frontier.high])).item())
    sigma = np.geomspace(start, end, count)
    return sigma, np.asarray(frontier.law(sigma)), np.asarray(frontier.compute(sigma))

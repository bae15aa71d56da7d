"""What a person asks of the laws, and the answer: the three questions (METHOD A4; paper Problems 3.1 and 3.2)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from math import ceil, floor
from typing import Literal

import numpy as np

from analysis.budget import Frontier, Point
from analysis.uncertainty import Floats
from rlscale.typed import Mistake


@dataclass(frozen=True)
class Question:
    """One bound and, but for a budget, the return level to reach. `delta`: FLOPs that one env step costs."""

    bound: Literal["compute", "data", "budget"]
    limit: float
    target: float | None
    delta: float

    def words(self) -> str:
        if self.bound == "budget":
            return f"the highest return for F = C + {self.delta:.4g}·D ≤ {self.limit:g}"
        aim, unit = ("data", "FLOPs") if self.bound == "compute" else ("compute", "env steps")
        return f"the least {aim} that reaches {self.target:g} with at most {self.limit:g} {unit}"

    @property
    def asked(self) -> str:
        """What the answer makes as small as it can: D, C, or the F at which the level is reached."""
        return {"compute": "D", "data": "C", "budget": "F"}[self.bound]

    def value(self, data: Floats, compute: Floats) -> Floats:
        """The asked quantity of settings that take `data` env steps and `compute` FLOPs."""
        values = {"compute": data, "data": compute, "budget": compute + self.delta * data}
        return np.asarray(values[self.bound])

    def solve(self, frontier: Frontier) -> Point | None:
        """The best setting on one level's frontier; None if none keeps the bound (a budget binds across levels)."""
        if self.bound == "compute":
            return frontier.least_data(self.limit)
        if self.bound == "data":
            return frontier.least_compute(self.limit)
        return frontier.cheapest(self.delta)

    def answer(
        self, frontiers: Sequence[Frontier], thresholds: Sequence[float], level: int | None
    ) -> tuple[int, Point]:
        """(number of the level, setting). Raises Mistake naming the nearest bound that can be kept."""
        if level is not None:
            point = self.solve(frontiers[level])
            if point is None:
                raise Mistake(self._infeasible(frontiers[level]))
            return level, point
        order = sorted(range(len(thresholds)), key=lambda j: -thresholds[j])
        points = [self.solve(frontiers[j]) for j in order]
        costs = [p.compute + self.delta * p.data for p in points if p is not None]
        for j, point, cost in zip(order, points, costs, strict=True):
            if point is not None and cost <= self.limit:
                return j, point
        raise Mistake(
            f"budget={self.limit:g}: the lowest level {thresholds[order[-1]]:g} alone costs {up(costs[-1])}; "
            "give at least that"
        )

    def _infeasible(self, frontier: Frontier) -> str:
        if self.bound == "compute":
            least = frontier.cheapest(0.0)
            return (
                f"compute={self.limit:g}: reaching {self.target:g} takes at least {up(least.compute)} FLOPs "
                f"(at σ = {least.sigma:.3g}, {least.data:.3g} env steps); give that, or a lower target"
            )
        sigmas = np.geomspace(frontier.low, frontier.high, 1025)
        best = frontier.at(float(sigmas[np.argmin(frontier.law(sigmas))]))
        wider = "a larger extend" if best.at_end else "more compute does not help"
        mend = f"give that, a lower target, or {wider}" if best.at_end else f"give that or a lower target: {wider}"
        return (
            f"data={self.limit:g}: reaching {self.target:g} takes at least {up(best.data)} env steps "
            f"(at σ = {best.sigma:.3g}); {mend}"
        )

    def solve_draws(self, sigma: Floats, data: Floats, compute: Floats) -> tuple[Floats, Floats, Floats]:
        """(σ, D, C) [K] of the best setting in each draw: sigma [n], data and compute [K, n] on that grid.

        NaN in draws in which no setting keeps the bound. Exact to the grid's step.
        """
        bounded = {"compute": compute, "data": data, "budget": np.zeros_like(data)}[self.bound]
        value = np.where(bounded <= self.limit, self.value(data, compute), np.inf)
        rows, at = np.arange(len(data)), value.argmin(axis=1)
        found = np.isfinite(value[rows, at])
        values = sigma[at], data[rows, at], compute[rows, at]
        chosen, steps, flops = (np.where(found, v, np.nan) for v in values)
        return chosen, steps, flops

    def near(self, sigma: float) -> Fraction:
        """A σ that a person would type, within 8 % of the answer's on the side that keeps the bound."""
        below, above = {"compute": (1.08, 1.001), "data": (1.001, 1.08), "budget": (1.04, 1.04)}[self.bound]
        return plain_fraction(sigma, sigma / below, sigma * above)


def plain_fraction(value: float, low: float, high: float) -> Fraction:
    """The fraction in [low, high], 0 < low < high, with the least denominator; of several the nearest to `value`."""
    least = _least(Fraction(low), Fraction(high)).denominator
    return Fraction(min(max(round(value * least), ceil(Fraction(low) * least)), floor(Fraction(high) * least)), least)


def _least(low: Fraction, high: Fraction) -> Fraction:
    """A fraction of least denominator in [low, high], by the Stern–Brocot tree."""
    whole = ceil(low)
    return Fraction(whole) if whole <= high else whole - 1 + 1 / _least(1 / (high - whole + 1), 1 / (low - whole + 1))


def up(value: float) -> str:
    """Three digits, rounded up: a bound that is given as such can be kept."""
    text = f"{value:.3g}"
    return text if float(text) >= value else f"{value * 1.005:.3g}"

"""One return level's D(σ, N) with its price, asked within a box: in closed form where one exists, else by search.

Where the batch size is the same for every setting `analysis.allocate` answers in closed form, and within the box that
answer stands. With a law B*(σ, N) the price itself depends on the setting and the best ones lie on no line; cost need
not be convex in the logs either, so the box is searched: a grid over all of it, then windows that shrink and move.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from scipy.optimize import brentq

from analysis.allocate import Allocator, Box, Setting
from analysis.budget import compute
from analysis.size_laws import SizeBatchLaw, SizeDataLaw
from analysis.uncertainty import Floats

FIRST, WINDOW = 65, 17  # points per side of the grid over the whole box, and of the windows
SHRINK, FINEST = 6.0, 1e-7  # of windows, and where they stop: ends are exact, and minima between them far finer
END = 1e-4  # a setting this near an end of the box, relatively, is at that end

Price = float | SizeBatchLaw  # the batch size: one for all settings, or B*(σ, N)


@dataclass(frozen=True)
class SizeFrontier:
    """Settings of one return level in `box`; both D laws' terms fall, so its far corner has the least data."""

    law: SizeDataLaw
    batch: Price
    box: Box

    def batch_size(self, sigma: Any, n_params: Any) -> Any:
        """Transitions per update, as the law has it (not rounded)."""
        return batch_size(self.batch, sigma, n_params)

    def at(self, sigma: float, n_params: float) -> Setting:
        """What any setting takes."""
        data = float(self.law(sigma, n_params))
        return Setting(sigma, n_params, data, float(self._compute(sigma, n_params)))

    def cheapest(self, delta: float) -> Setting:
        """The least C + delta·D in the box."""
        if not isinstance(self.batch, SizeBatchLaw):
            return Allocator(self.law, self.batch).cheapest_in(self.box, delta)

        def cost(sigma: Any, n_params: Any) -> Any:
            return self._compute(sigma, n_params) + delta * self.law(sigma, n_params)

        return self._search(cost, self._anywhere)

    def least_data(self) -> Setting:
        """The setting of the box with the least data: its largest σ and N, at whatever price."""
        return self.at(self.box.sigma[1], self.box.n_params[1])

    def within_data(self, bound: float) -> Setting | None:
        """The least compute in the box with which `bound` env steps are enough; None if no setting needs so few."""
        best = None if isinstance(self.batch, SizeBatchLaw) else Allocator(self.law, self.batch).least_compute(bound)
        if best is not None and self.box.holds(best.sigma, best.n_params):
            return best
        left = bound / self.law.c - 1.0
        return None if left < self._least_terms else self._within_terms(left)

    def within_compute(self, bound: float) -> Setting | None:
        """The least data in the box within `bound` FLOPs; None if every setting costs more."""
        best = None if isinstance(self.batch, SizeBatchLaw) else Allocator(self.law, self.batch).least_data(bound)
        if best is not None and self.box.holds(best.sigma, best.n_params):
            return best
        cheap, far = self.cheapest(0.0), self.least_data()
        if cheap.compute > bound:
            return None
        if far.compute <= bound:
            return far

        # where the law is flat, compute says more about the terms above c than about the data, so search over those
        @cache
        def least(log_terms: float) -> Setting:
            return self._within_terms(float(np.exp(log_terms)))

        def excess(log_terms: float) -> float:  # falls as more data may be used
            return float(np.log(least(log_terms).compute / bound))

        low, high = float(np.log(self._least_terms)), float(np.log(self._terms(cheap.sigma, cheap.n_params)))
        if excess(high) >= 0:
            return cheap
        level, step = brentq(excess, low, high, xtol=1e-11) if excess(low) > 0 else low, 1e-12
        while level < high and excess(level) > 1e-9:  # one term may be lost in the other's rounding: keep the bound
            level, step = min(level + step, high), 4.0 * step
        return least(level)

    def ends(self, setting: Setting) -> list[str]:
        """Which of "utd" and "n_params" are at an end of the box, so no optimum of their own."""
        pairs = (("utd", setting.sigma, self.box.sigma), ("n_params", setting.n_params, self.box.n_params))
        return [name for name, x, (low, high) in pairs if not low * (1 + END) < x < high * (1 - END)]

    @property
    def _least_terms(self) -> float:
        far = self.least_data()
        return float(self._terms(far.sigma, far.n_params))

    def _terms(self, sigma: Any, n_params: Any) -> Any:
        """(a/σ)^alpha + (b/N)^beta: the data above the least, over the least."""
        return (self.law.a / sigma) ** self.law.alpha + (self.law.b / n_params) ** self.law.beta

    def _within_terms(self, most: float) -> Setting:
        """The least compute in the box where the two terms are at most `most`, which its far corner's are."""
        (sigma_low, sigma_high), (n_low, n_high) = self.box.sigma, self.box.n_params
        for_sigma = most - (self.law.b / n_high) ** self.law.beta  # what is left of it where N is largest
        least = self.law.a / for_sigma ** (1.0 / self.law.alpha) if for_sigma > 0 else sigma_high
        low = min(max(least, sigma_low), sigma_high)

        def settings(u: Floats, v: Floats) -> tuple[Floats, Floats]:
            sigma = _between(low, sigma_high, u)
            for_size = np.maximum(most - (self.law.a / sigma) ** self.law.alpha, 1e-300)
            smallest = np.clip(self.law.b / for_size ** (1.0 / self.law.beta), n_low, n_high)
            return sigma, _between(smallest, n_high, v)

        return self._search(self._compute, settings)

    def _compute(self, sigma: Any, n_params: Any) -> Any:
        return compute(n_params, self.batch_size(sigma, n_params), sigma, self.law(sigma, n_params))

    def _anywhere(self, u: Floats, v: Floats) -> tuple[Floats, Floats]:
        return _between(*self.box.sigma, u), _between(*self.box.n_params, v)

    def _search(
        self, cost: Callable[[Any, Any], Any], settings: Callable[[Floats, Floats], tuple[Floats, Floats]]
    ) -> Setting:
        u, v = argmin_square(lambda u, v: cost(*settings(u, v)))
        sigma, n_params = settings(np.array(u), np.array(v))
        return self.at(float(sigma), float(n_params))


def batch_size(batch: Price, sigma: Any, n_params: Any) -> Any:
    """Transitions per update at a setting, not rounded."""
    return batch(sigma, n_params) if isinstance(batch, SizeBatchLaw) else batch


def argmin_square(cost: Callable[[Floats, Floats], Floats]) -> tuple[float, float]:
    """(u, v) in [0, 1]² with the least cost: the best of a grid, then of windows around the best so far.

    `cost` maps u [n, 1] and v [1, n] to [n, n]. Each window also proposes the lowest point of a paraboloid through it,
    which follows a valley that runs across the grid. Raises ValueError where the cost is finite nowhere.
    """
    u, v, half, count, least = 0.5, 0.5, 0.5, FIRST, np.inf
    while half >= FINEST:
        us, vs = (np.unique(np.clip(np.linspace(x - half, x + half, count), 0.0, 1.0)) for x in (u, v))
        with np.errstate(over="ignore", invalid="ignore"):
            values = np.asarray(cost(us[:, None], vs[None, :]))
        values = np.where(np.isfinite(values), values, np.inf)
        i, j = np.unravel_index(int(values.argmin()), values.shape)
        if values[i, j] < least:
            u, v, least = float(us[i]), float(vs[j]), float(values[i, j])
        if not np.isfinite(least):
            raise ValueError("the cost is finite nowhere in the box")
        if half < 0.5 and np.isfinite(values).all() and (low := _paraboloid(us, vs, values)) is not None:
            there = float(cost(np.array([[low[0]]]), np.array([[low[1]]])).item())
            if there < least:
                (u, v), least = low, there
        half, count = half / SHRINK, WINDOW
    return u, v


def _paraboloid(us: Floats, vs: Floats, values: Floats) -> tuple[float, float] | None:
    """The lowest point in [0, 1]² of the paraboloid nearest to `values` [n, m]; None where it has none."""
    if min(len(us), len(vs)) < 3:
        return None
    (u, du), (v, dv) = ((x.mean(), np.ptp(x)) for x in (us, vs))
    x, y = (z.ravel() for z in np.meshgrid((us - u) / du, (vs - v) / dv, indexing="ij"))
    _, *slope, xx, xy, yy = np.linalg.lstsq(
        np.stack([np.ones_like(x), x, y, x * x, x * y, y * y], axis=1), values.ravel() - values.min(), rcond=None
    )[0]
    bend = np.array([[2.0 * xx, xy], [xy, 2.0 * yy]])
    if xx <= 0 or np.linalg.det(bend) <= 0:
        return None
    at = -np.linalg.solve(bend, np.array(slope))
    return float(np.clip(u + du * at[0], 0.0, 1.0)), float(np.clip(v + dv * at[1], 0.0, 1.0))


def _between(low: Any, high: Any, share: Floats) -> Floats:
    """From `low` (share 0) to `high` (share 1) in equal ratios; both ends exactly."""
    found = np.exp(np.log(low) + share * (np.log(high) - np.log(low)))
    return np.asarray(np.clip(found, low, high))

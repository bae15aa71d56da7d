"""The cheapest (σ, N) in closed form: for a data level, for a compute bound, and for a budget C + δ·D (METHOD B).

With D = c·(1 + A + B), A = (a/σ)^alpha, B = (b/N)^beta and C = k·σ·N·D, the settings that no other beats in both data
and compute lie on one line in (ln N, ln σ): alpha·A = beta·B, whatever the bound or δ. With x that common value,
s = 1/alpha + 1/beta and K = k·a·b·alpha^(1/alpha)·beta^(1/beta),

    σ = a·(alpha/x)^(1/alpha),  N = b·(beta/x)^(1/beta),  D = c·(1 + s·x),  C = K·x^−s·D,

so each question has one unknown. Smaller x: larger σ and N, less data. All of it holds for a batch size B that is the
same for every setting (k = 10·B).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from math import exp, inf, log, log1p
from typing import Any

import numpy as np

from analysis.budget import argmin_log, compute
from analysis.size_laws import SizeDataLaw
from analysis.uncertainty import Floats


@dataclass(frozen=True)
class Setting:
    """σ, N, and what they take: env steps `data` and FLOPs `compute`."""

    sigma: float
    n_params: float
    data: float
    compute: float


@dataclass(frozen=True)
class Box:
    """Ranges of σ and N, such as those of the measured settings; both ends belong to it."""

    sigma: tuple[float, float]
    n_params: tuple[float, float]

    def holds(self, sigma: float, n_params: float) -> bool:
        """Is the setting inside? If not, a law is an extrapolation there."""
        return self.sigma[0] <= sigma <= self.sigma[1] and self.n_params[0] <= n_params <= self.n_params[1]


@dataclass(frozen=True)
class Line:
    """ln σ = slope · ln N + intercept: where the best settings of a law lie."""

    slope: float
    intercept: float

    def sigma(self, n_params: float) -> float:
        """The σ that belongs to N."""
        return exp(self.slope * log(n_params) + self.intercept)


@dataclass(frozen=True)
class Allocator:
    """One return level's D_J(σ, N), priced at a batch size that does not depend on (σ, N)."""

    law: SizeDataLaw
    batch: float

    def at(self, sigma: float, n_params: float) -> Setting:
        """What any setting takes."""
        data = float(self.law(sigma, n_params))
        return Setting(sigma, n_params, data, self._price * sigma * n_params * data)

    def line(self) -> Line:
        """alpha·(a/σ)^alpha = beta·(b/N)^beta, solved for ln σ."""
        v = self.law
        return Line(v.beta / v.alpha, log(v.a) + (log(v.alpha / v.beta) - v.beta * log(v.b)) / v.alpha)

    def least_compute(self, data: float) -> Setting | None:
        """The least compute with which `data` env steps are enough; None if data ≤ c, which no setting reaches.

        For s < 1 compute along the line has a least value: where that takes less data, using more would cost more.
        """
        if data <= self.law.c:
            return None
        floor = self.cheapest(0.0)
        if floor is not None and floor.data <= data:
            return floor
        return self._on_line(log((data / self.law.c - 1.0) / self._s))

    def least_data(self, bound: float) -> Setting | None:
        """The least data within `bound` FLOPs; None if every setting costs more.

        For s > 1 compute falls to 0 along the line, so there is always an answer; for s < 1 it has a least value.
        """
        # ln C = ln(K·c) + s·v + ln(1 + s·e^−v) with v = −ln x, which is (s − 1)·v + ln(e^v + s)
        v = rightmost_root(self._s - 1.0, 1.0, log(self._s), log(bound) - self._log_price - log(self.law.c))
        return None if v is None else self._on_line(-v)

    def cheapest(self, delta: float) -> Setting | None:
        """The least C + delta·D, one env step costing `delta` FLOPs; None if delta = 0 and s ≥ 1.

        With delta = 0 and s ≥ 1, ever smaller σ·N are ever cheaper; else there is exactly one optimum, where
        k·σ·N·(1/x + s − 1) = delta.
        """
        q = self._s - 1.0
        if delta == 0.0:
            return self._on_line(-log(-q)) if q < 0 else None
        level = log(delta) - self._log_price
        if q > 0:  # s·v + ln(e^v + q), v = −ln x
            v = rightmost_root(self._s, 1.0, log(q), level)
        elif q < 0:  # w + s·ln(e^w + |q|), w = ln(1/x + q): the same increasing shape, and finite up to delta = 0
            w = rightmost_root(1.0, self._s, log(-q), level)
            v = None if w is None else float(np.logaddexp(w, log(-q)))
        else:
            v = level / (self._s + 1.0)
        return None if v is None else self._on_line(-v)

    def cheapest_in(self, box: Box, delta: float) -> Setting:
        """The least C + delta·D within `box`.

        The cost is a sum of products of powers of σ and N, so convex in their logs: its least value in the box is at
        the optimum if that lies inside, else on an edge.
        """
        best = self.cheapest(delta)
        if best is not None and box.holds(best.sigma, best.n_params):
            return best

        def cost(sigma: Any, n_params: Any) -> Any:
            return (self._price * sigma * n_params + delta) * self.law(sigma, n_params)

        found = [self.at(s, _least(partial(cost, s), box.n_params)) for s in box.sigma]
        found += [self.at(_least(partial(cost, n_params=n), box.sigma), n) for n in box.n_params]
        return min(found, key=lambda p: p.compute + delta * p.data)

    @property
    def _price(self) -> float:
        """k: FLOPs per env step, unit of σ and parameter."""
        return float(compute(1.0, self.batch, 1.0, 1.0))

    @property
    def _s(self) -> float:
        return 1.0 / self.law.alpha + 1.0 / self.law.beta

    @property
    def _log_price(self) -> float:
        """ln K."""
        v = self.law
        return log(self._price * v.a * v.b) + log(v.alpha) / v.alpha + log(v.beta) / v.beta

    def _on_line(self, log_x: float) -> Setting:
        v = self.law
        # a degenerate law (alpha near 0) puts its optimum beyond what a float can hold: inf then
        sigma = _exp(log(v.a) + (log(v.alpha) - log_x) / v.alpha)
        n_params = _exp(log(v.b) + (log(v.beta) - log_x) / v.beta)
        log_data = log(v.c) + log1p(self._s * _exp(log_x))
        return Setting(sigma, n_params, _exp(log_data), _exp(self._log_price - self._s * log_x + log_data))


def rightmost_root(slope: float, weight: float, log_h: float, level: float) -> float | None:
    """The largest w with slope·w + weight·ln(e^w + h) = level, where weight > 0 and slope + weight > 0; None if none.

    The left side is convex and rises to the right, so Newton's steps from a point right of the root never pass it.
    """
    w = level / (slope + weight)  # ln(e^w + h) ≥ w, so the left side is at least `level` here …
    if slope > 0:
        w = min(w, (level - weight * log_h) / slope)  # … and ≥ ln h
    for _ in range(200):
        value = slope * w + weight * float(np.logaddexp(w, log_h)) - level
        rise = slope + weight / (1.0 + _exp(log_h - w))
        if rise <= 0:  # left of the least value: it is above the level
            return None
        new = w - value / rise
        if not new < w - 1e-15 * max(1.0, abs(w)):
            return w
        w = new
    return None


def _least(cost: Callable[[Floats], Floats], ends: tuple[float, float]) -> float:
    """Where `cost` is least between the ends, which are not passed by a rounding error."""
    return float(np.clip(argmin_log(cost, np.array([ends[0]]), np.array([ends[1]])).item(), *ends))


def _exp(x: float) -> float:
    return exp(x) if x < 709.0 else inf

"""`compat=model_scaling`: the follow-up's own recipe, as its public code has it, so that its saved fits come out again.

Coordinates rescaled in log to [½, 2], values over their mean, all numbers through softplus, one start at raw 0, mean
squared log error, L-BFGS-B with a numeric gradient. The exponents that its shared fit calls shared are so in rescaled
coordinates: tasks measured on different grids end with different ones. Settings that never reach a level are left out,
which flatters the small and the slow; whoever calls knows them by their NaN or inf and lists them.
`analysis.size_fits` has none of these properties and is the default.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize

from analysis.size_fits import positive
from analysis.size_laws import SizeBatchLaw, SizeDataLaw
from analysis.uncertainty import Floats
from rlscale.typed import Mistake

TOLERANCE = 1e-12


def fit_data(sigma: Floats, n_params: Floats, data: Floats) -> SizeDataLaw:
    """D(σ, N) of one task, or of the average task, at one level: all [n]; data not finite is left out."""
    return fit_data_shared({"": (sigma, n_params, data)})[""]


def fit_data_shared(tasks: Mapping[str, tuple[Floats, Floats, Floats]]) -> dict[str, SizeDataLaw]:
    """The same for several tasks (σ, N, data) with two exponents for all, shared in rescaled coordinates."""
    scaled = {task: _rescaled(*columns) for task, columns in tasks.items()}

    def loss(raw: Floats) -> float:
        number = _softplus(raw)
        total = 0.0
        for i, s in enumerate(scaled.values()):
            law = SizeDataLaw(number[4 + 3 * i], number[2 + 3 * i], number[0], number[3 + 3 * i], number[1])
            total += s.error(law(s.x, s.z))
        return total

    number = _softplus(_minimum(loss, 2 + 3 * len(scaled)))
    laws = {}
    for i, (task, s) in enumerate(scaled.items()):
        a, b, c = number[2 + 3 * i : 5 + 3 * i]
        alpha, beta = number[0] / s.sigma.scale, number[1] / s.n_params.scale
        laws[task] = SizeDataLaw(float(c * s.mean), s.sigma.back(a), float(alpha), s.n_params.back(b), float(beta))
    return laws


def fit_batch(sigma: Floats, n_params: Floats, batch: Floats) -> SizeBatchLaw:
    """B*(σ, N) of one task: all [n]; batch sizes that are not finite are left out."""
    s = _rescaled(sigma, n_params, batch)

    def loss(raw: Floats) -> float:
        a, b, c, alpha = _softplus(raw)
        return s.error(SizeBatchLaw(a, alpha, b, c)(s.x, s.z))

    a, b, c, alpha = _softplus(_minimum(loss, 4))
    alpha /= s.sigma.scale
    # u^−alpha with u = exp((ln σ − shift) / scale) is σ^−(alpha/scale) times a number that belongs to a
    a *= s.mean * np.exp(alpha * s.sigma.shift)
    return SizeBatchLaw(float(a), float(alpha), s.n_params.back(b), float(c / s.n_params.scale))


def average(data: Floats) -> Floats:
    """Data of the average task [cells, levels] from `data` [tasks, cells, levels], NaN where a level was not reached.

    Each task over its own median, averaged over the tasks that reached the level, times the median of the medians. A
    task that is missing from a cell has no weight in it, so cells of slow settings average over the fast tasks; one
    that reached no level anywhere has none at all.
    """
    data = data[np.isfinite(data).any(axis=(1, 2))]
    medians = np.nanmedian(data, axis=(1, 2))
    reached = np.isfinite(data)
    total = np.where(reached, data / medians[:, None, None], 0.0).sum(axis=0)
    count = reached.sum(axis=0)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan) * np.median(medians)


def rounded_batch(batch: Any) -> NDArray[np.int_]:
    """To a multiple of 16, halves to even, at least 16; the predecessor truncates to a whole number before that."""
    return np.maximum(16, 16 * np.round(np.asarray(batch) / 16)).astype(int)


@dataclass(frozen=True)
class _Axis:
    """ln x ↦ (ln x − shift) / scale, which takes the measured x to [½, 2]."""

    shift: float
    scale: float

    def __call__(self, x: Floats) -> Floats:
        return np.asarray(np.exp((np.log(x) - self.shift) / self.scale))

    def back(self, u: float) -> float:
        return float(u**self.scale * np.exp(self.shift))


@dataclass(frozen=True)
class _Scaled:
    x: Floats
    z: Floats
    log_y: Floats
    mean: float
    sigma: _Axis
    n_params: _Axis

    def error(self, predicted: Floats) -> float:
        return float(np.mean((self.log_y - np.log(predicted)) ** 2))


def _rescaled(sigma: Floats, n_params: Floats, value: Floats) -> _Scaled:
    seen = np.isfinite(value)
    sigma, n_params, value = (np.asarray(x, dtype=float)[seen] for x in (sigma, n_params, value))
    positive(value, "a task")
    axes = _axis(sigma, "σ"), _axis(n_params, "N")
    mean = float(value.mean())
    return _Scaled(axes[0](sigma), axes[1](n_params), np.log(value / mean), mean, *axes)


def _axis(x: Floats, symbol: str) -> _Axis:
    if len(np.unique(x)) < 3:
        raise Mistake(f"a law in σ and N needs at least 3 levels of {symbol} and there are {len(np.unique(x))}")
    low, high = np.log(x.min()), np.log(x.max())
    scale = (high - low) / np.log(4)
    return _Axis(float(low - scale * np.log(0.5)), float(scale))


def _softplus(raw: Floats) -> Floats:
    return np.asarray(np.logaddexp(0.0, raw))


def _minimum(loss: Callable[[Floats], float], count: int) -> Floats:
    options = {"ftol": TOLERANCE, "gtol": TOLERANCE, "maxfun": 10**6}
    # a line search may try numbers at which a law overflows: its loss is infinite there, and it turns back
    with np.errstate(over="ignore", invalid="ignore"):
        return np.asarray(minimize(loss, np.zeros(count), method="L-BFGS-B", options=options).x)

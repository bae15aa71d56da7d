"""The hyperparameter law with an additive offset, value(σ) = offset + intercept · σ^exponent (D.2, D.3), an option.

The paper tried it and found that it predicts no better: on a grid of four σ the offset is hardly identified. It is here
so that anyone can see that on their own grid: the fit says how either law does at the largest σ, left out.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize

from analysis.best import Best
from analysis.fits import PowerLaws, law_json, levels, shared_slope
from analysis.uncertainty import Bootstrap, Floats, excess_scatter, interval

FEWEST = 4  # σ of a task: three fit the three numbers of a law of its own exactly
NONE = 8.0  # an offset e^8 times smaller than the smallest value is none
STEEP = 6.0  # the exponents searched lie in ±6


@dataclass(frozen=True)
class OffsetLaws(PowerLaws):
    """PowerLaws plus an offset: `log_offset` [T] and `log_offset_draws` [K, T] (natural log)."""

    log_offset: Floats
    log_offset_draws: Floats


def offset_laws(best: Best, bootstrap: Bootstrap, name: str) -> tuple[OffsetLaws, OffsetLaws, list[str]]:
    """The (shared, separate) laws through the best values, each task with its own offset ≥ 0, and notes.

    Squared error of logarithms; draws get the extra scatter that `power_laws` explains. A task with fewer than four σ
    takes the shared exponent and offset in the separate law too. Raises Mistake with fewer than three σ.
    """
    table = best.table
    levels(table["sigma"].to_numpy(float), f"{name} law")
    tasks = tuple(sorted(table["task"].unique()))
    member = table["task"].map({t: i for i, t in enumerate(tasks)}).to_numpy(int)
    x, y, draws = np.log(table["sigma"].to_numpy(float)), np.log(table["value"].to_numpy(float)), np.log(best.draws).T
    count = len(tasks)
    theta = fit(x, y, member)
    excess = excess_scatter(y - value(theta, x, member), draws.var(axis=0), len(y) - 2 * count - 1)
    draws = draws + np.sqrt(excess) * bootstrap.stream(f"scatter/{name}").standard_normal(draws.shape)
    together = _of_each(theta, count), _of_each(np.array([_refine(theta, x, d, member)[0] for d in draws]), count)
    apart, apart_draws, notes = [], [], []
    for t, task in enumerate(tasks):
        at = member == t
        if len(np.unique(x[at])) < FEWEST:
            notes.append(f"{name}: {task} has {at.sum()} σ, so its separate law takes the shared exponent and offset")
            apart.append(together[0][t])
            apart_draws.append(together[1][:, t])
            continue
        zero = np.zeros(at.sum(), dtype=int)
        apart.append(fit(x[at], y[at], zero))
        apart_draws.append(np.array([_refine(apart[-1], x[at], d, zero)[0] for d in draws[:, at]]))
    separate = np.array(apart), np.stack(apart_draws, axis=1)
    return _laws(tasks, *together), _laws(tasks, *separate), notes + _comparison(name, x, y, member)


def value(theta: Floats, x: Floats, member: NDArray[np.int_]) -> Floats:
    """ln of the law at ln σ x [n]: theta = (exponent, ln offset [T], ln intercept [T])."""
    offset, intercept = np.split(theta[1:], 2)
    return np.asarray(np.logaddexp(offset[member], intercept[member] + theta[0] * x))


def fit(x: Floats, y: Floats, member: NDArray[np.int_]) -> Floats:
    """The best (exponent, ln offset [T], ln intercept [T]): a coarse grid of starts, then L-BFGS-B (as the paper)."""
    low = np.array([y[member == t].min() for t in range(int(member.max()) + 1)])
    ends = []
    for exponent in (-3.0, -1.0, -0.5, -0.25, 0.5):
        for share in (0.9, 0.5, 0.02):
            rest = np.log(np.exp(y) - share * np.exp(low)[member])  # what a law without offset must give
            slope, intercept = shared_slope(x, rest, member)
            start = np.concatenate([[exponent], low + np.log(share), intercept + (slope - exponent) * x.mean()])
            ends.append(_refine(start, x, y, member))
    return min(ends, key=lambda end: end[1])[0]


def _refine(start: Floats, x: Floats, y: Floats, member: NDArray[np.int_]) -> tuple[Floats, float]:
    count = int(member.max()) + 1
    group = (member[None] == np.arange(count)[:, None]).astype(float)  # [T, n]

    def loss(theta: Floats) -> tuple[float, Floats]:
        fitted = value(theta, x, member)
        error = fitted - y
        share = np.exp(theta[1 : count + 1][member] - fitted)  # of the value that is offset
        power = error * (1.0 - share)
        return float(error @ error), 2.0 * np.concatenate([[power @ x], group @ (error * share), group @ power])

    low, high = (np.array([edge(y[member == t]) for t in range(count)]) for edge in (np.min, np.max))
    bounds = [(-STEEP, STEEP), *zip(low - NONE, high, strict=True), *[(None, None)] * count]
    start = np.concatenate([start[:1], np.clip(start[1 : count + 1], low - NONE, high), start[count + 1 :]])
    end = minimize(loss, start, jac=True, method="L-BFGS-B", bounds=bounds, options={"ftol": 1e-13, "maxiter": 500})
    return np.asarray(end.x), float(end.fun)


def _laws(tasks: tuple[str, ...], theta: Floats, draws: Floats) -> OffsetLaws:
    """From each task's (exponent, ln offset, ln intercept): theta [T, 3], draws [K, T, 3]."""
    (slope, offset, intercept), (slopes, offsets, intercepts) = np.moveaxis(theta, -1, 0), np.moveaxis(draws, -1, 0)
    return OffsetLaws(tasks, slope, intercept, slopes, intercepts, offset, offsets)


def _of_each(theta: Floats, count: int) -> Floats:
    """[…, 1 + 2T] → […, T, 3]: each task's exponent, ln offset and ln intercept."""
    offset, intercept = np.split(theta[..., 1:], 2, axis=-1)
    return np.stack([np.repeat(theta[..., :1], count, axis=-1), offset, intercept], axis=-1)


def _comparison(name: str, x: Floats, y: Floats, member: NDArray[np.int_]) -> list[str]:
    """How far either law is off at each task's largest σ when it is left out (root mean square)."""
    last = np.array([np.flatnonzero(member == t)[x[member == t].argmax()] for t in range(int(member.max()) + 1)])
    rest = np.setdiff1d(np.arange(len(x)), last)
    if len(np.unique(x[rest])) < FEWEST - 1 or len(np.unique(member[rest])) < len(last):
        return []
    slope, intercept = shared_slope(x[rest], y[rest], member[rest])
    plain = intercept[member[last]] + slope * x[last] - y[last]
    offset = value(fit(x[rest], y[rest], member[rest]), x[last], member[last]) - y[last]
    words = [f"{np.expm1(np.sqrt(np.mean(e**2))):.0%}" for e in (offset, plain)]
    return [
        f"{name} at the largest σ, fitted without it: the offset law is off by {words[0]}, the power law {words[1]}"
    ]


def as_json(laws: PowerLaws, shared: bool) -> dict[str, Any]:
    """`law_json`, and `offset` with `offset_ci95` for each task where the law has one."""
    entry = dict(law_json(laws, shared))
    if isinstance(laws, OffsetLaws):
        entry["offset"] = {t: float(np.exp(laws.log_offset[i])) for i, t in enumerate(laws.tasks)}
        entry["offset_ci95"] = {t: interval(np.exp(laws.log_offset_draws[:, i])) for i, t in enumerate(laws.tasks)}
    return entry

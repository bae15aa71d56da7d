"""Power laws of the best settings, fitted in logs with a shared or a separate slope (4.6, 4.7)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from analysis.best import Best
from analysis.uncertainty import Bootstrap, Floats, excess_scatter, interval
from rlscale.typed import Mistake

FEWEST_LEVELS = 3  # two σ levels fit any slope exactly


@dataclass(frozen=True)
class PowerLaws:
    """value(σ) = intercept[task] · σ^exponent, with K bootstrap draws of both.

    `slope` [T], `log_intercept` [T] (natural log); `slope_draws`, `log_intercept_draws` [K, T]. With a shared slope
    all T slopes are equal, in every draw too.
    """

    tasks: tuple[str, ...]
    slope: Floats
    log_intercept: Floats
    slope_draws: Floats
    log_intercept_draws: Floats

    def value(self, sigma: Floats) -> Floats:
        """[T, n] at `sigma` [n]."""
        return np.asarray(np.exp(self.log_intercept[:, None] + self.slope[:, None] * np.log(sigma)))


def power_laws(best: Best, bootstrap: Bootstrap, name: str) -> tuple[PowerLaws, PowerLaws, list[str]]:
    """The (shared, separate) laws through the best values, and notes on what could not be fitted separately.

    Points of each draw get extra scatter on top of the seeds' (see `excess_scatter`). A task with fewer than three σ
    takes the shared slope in the separate law too. Raises Mistake when the study has fewer than three σ.
    """
    table = best.table
    levels(table["sigma"].to_numpy(float), f"{name} law")
    tasks = tuple(sorted(table["task"].unique()))
    member = table["task"].map({t: i for i, t in enumerate(tasks)}).to_numpy(int)
    x, y = np.log(table["sigma"].to_numpy(float)), np.log(table["value"].to_numpy(float))
    draws = np.log(best.draws).T  # [K, n]
    slope, intercept = shared_slope(x, y, member)
    residuals = y - intercept[member] - slope * x
    excess = excess_scatter(residuals, draws.var(axis=0), len(y) - len(tasks) - 1)
    draws = draws + np.sqrt(excess) * bootstrap.stream(f"scatter/{name}").standard_normal(draws.shape)
    slope_k, intercept_k = shared_slope(x, draws, member, bootstrap.task_weights(tasks))
    one = np.ones(len(tasks))
    shared = PowerLaws(tasks, slope * one, intercept, slope_k[:, None] * one, intercept_k)
    slopes, slopes_k = shared.slope.copy(), shared.slope_draws.copy()
    intercepts, intercepts_k = intercept.copy(), intercept_k.copy()
    notes = []
    for t, task in enumerate(tasks):
        at = member == t
        if len(np.unique(x[at])) < FEWEST_LEVELS:
            notes.append(
                f"{name}: {task} has {at.sum()} σ with a best value, so its separate law takes the shared slope"
            )
            continue
        zero = np.zeros(at.sum(), dtype=int)
        slopes[t], (intercepts[t],) = shared_slope(x[at], y[at], zero)
        slopes_k[:, t], only = shared_slope(x[at], draws[:, at], zero)
        intercepts_k[:, t] = only[:, 0]
    return shared, PowerLaws(tasks, slopes, intercepts, slopes_k, intercepts_k), notes


def shared_slope(x: Floats, y: Floats, member: NDArray[np.int_], weights: Floats | None = None) -> tuple[Any, Floats]:
    """Least squares of y = intercept[member] + slope·x: one slope, an intercept for each group.

    x [n], y [..., n], member [n], weights of the groups [..., T] (None: even) → slope [...], intercept [..., T]. With
    all x equal the slope is 0.
    """
    groups = int(member.max()) + 1
    mean = np.stack([(member == t) / (member == t).sum() for t in range(groups)])  # [T, n]
    x_mean, y_mean = mean @ x, y @ mean.T  # [T], [..., T]
    dx = x - x_mean[member]
    weight = np.ones(len(x)) if weights is None else weights[..., member]  # [..., n]
    spread, shared = (weight * dx**2).sum(-1), (weight * (y - y_mean[..., member]) * dx).sum(-1)
    slope = np.where(spread > 0, shared / np.where(spread > 0, spread, 1.0), 0.0)
    return slope, np.asarray(y_mean - np.asarray(slope)[..., None] * x_mean)


def levels(sigma: Floats, what: str) -> None:
    """Raises Mistake unless there are three σ levels."""
    have = sorted(set(map(float, sigma)))
    if len(have) < FEWEST_LEVELS:
        raise Mistake(
            f"the {what} needs at least {FEWEST_LEVELS} levels of σ and the selected runs leave {len(have)} "
            f"(σ = {', '.join(f'{s:g}' for s in have)}): sweep more values of utd"
        )


def law_json(laws: PowerLaws, shared: bool) -> Mapping[str, Any]:
    """`{exponent, exponent_ci95, intercept{task}, intercept_ci95{task}}`; exponents per task unless shared."""
    slopes = {t: float(laws.slope[i]) for i, t in enumerate(laws.tasks)}
    spans = {t: interval(laws.slope_draws[:, i]) for i, t in enumerate(laws.tasks)}
    first = laws.tasks[0]
    return {
        "exponent": slopes[first] if shared else slopes,
        "exponent_ci95": spans[first] if shared else spans,
        "intercept": {t: float(np.exp(laws.log_intercept[i])) for i, t in enumerate(laws.tasks)},
        "intercept_ci95": {t: interval(np.exp(laws.log_intercept_draws[:, i])) for i, t in enumerate(laws.tasks)},
    }

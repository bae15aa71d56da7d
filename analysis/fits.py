"""Laws fitted in logs: power laws with a shared or separate slope (4.6, 4.7), and the data law D_J(σ) (4.1)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize

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

    def value_draws(self, sigma: Floats) -> Floats:
        """[K, T, n] at `sigma` [n]."""
        return np.asarray(np.exp(self.log_intercept_draws[..., None] + self.slope_draws[..., None] * np.log(sigma)))


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
    slope_k, intercept_k = shared_slope(x, draws, member)
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


def shared_slope(x: Floats, y: Floats, member: NDArray[np.int_]) -> tuple[Any, Floats]:
    """Least squares of y = intercept[member] + slope·x: one slope, an intercept for each group.

    x [n], y [..., n], member [n] → slope [...], intercept [..., T]. With all x equal the slope is 0.
    """
    groups = int(member.max()) + 1
    mean = np.stack([(member == t) / (member == t).sum() for t in range(groups)])  # [T, n]
    x_mean, y_mean = mean @ x, y @ mean.T  # [T], [..., T]
    dx = x - x_mean[member]
    spread = float(dx @ dx)
    slope = ((y - y_mean[..., member]) @ dx) / spread if spread > 0 else np.zeros(y.shape[:-1])
    return slope, np.asarray(y_mean - np.asarray(slope)[..., None] * x_mean)


def levels(sigma: Floats, what: str) -> None:
    """Raises Mistake unless there are three σ levels."""
    have = sorted(set(map(float, sigma)))
    if len(have) < FEWEST_LEVELS:
        raise Mistake(
            f"the {what} needs at least {FEWEST_LEVELS} levels of σ and the selected runs leave {len(have)} "
            f"(σ = {', '.join(f'{s:g}' for s in have)}): sweep more values of utd"
        )


@dataclass(frozen=True)
class DataLaw:
    """D(σ) = d_min · (1 + (beta/σ)^alpha) (4.1) for one threshold.

    `scatter` is the standard deviation of ln D about the law (0 where three σ leave none to measure); `agree` the
    share of starts that ended within 1e-6 of the best loss; `at_bound` names parameters that ended at a bound, which
    means that the data do not identify them.
    """

    d_min: float
    beta: float
    alpha: float
    loss: float
    agree: float
    at_bound: tuple[str, ...]

    def __call__(self, sigma: Any) -> Any:
        return self.d_min * (1.0 + (self.beta / sigma) ** self.alpha)

    def sigma_at(self, data: float) -> float:
        """The σ at which D = data (A.7); inf when data ≤ d_min."""
        if data <= self.d_min:
            return float("inf")
        return float(self.beta * (self.d_min / (data - self.d_min)) ** (1.0 / self.alpha))


ALPHA = (0.05, 5.0)
REACH = 1e3  # beta may lie this factor outside the measured σ


def fit_data_law(sigma: Floats, data: Floats, censored: NDArray[np.bool_]) -> DataLaw:
    """The law with the least squared error of ln D; a censored point counts only where the law falls below it.

    sigma [n], data [n] (for a censored point: the env steps within which the level was not reached), censored [n].
    A 32 × 32 grid over (beta, alpha) with the best d_min for each, then L-BFGS-B from the five best cells.
    """
    x, y = np.log(sigma), np.log(data)
    starts, bounds = _starts(x, y[None], censored[None], 5)
    ends = [_polish(start, x, y, censored, bounds, 1e-14) for start in starts[0]]
    losses = np.array([loss for _, loss in ends])
    a, b, alpha = ends[int(losses.argmin())][0]
    tight = [
        name
        for name, value, (low, high) in zip(("beta", "alpha"), (b, alpha), bounds[1:], strict=True)
        if min(value - low, high - value) < 1e-3
    ]
    agree = float(np.mean(losses <= losses.min() + 1e-6))
    return DataLaw(float(np.exp(a)), float(np.exp(b)), float(alpha), float(losses.min()), agree, tuple(tight))


def fit_data_law_draws(sigma: Floats, data: Floats, censored: NDArray[np.bool_]) -> Floats:
    """The same for K draws at once: data, censored [K, n] → (d_min, beta, alpha) [K, 3].

    Levenberg–Marquardt on all draws together from each one's best grid cell: the same minima, a hundred times faster.
    """
    x, y = np.log(sigma), np.log(data)
    starts, bounds = _starts(x, y, censored, 1)
    low, high = np.array(bounds).T
    theta, damping = starts[:, 0], np.full(len(y), 1e-2)
    residual, jacobian = _residuals(theta, x, y, censored)
    for _ in range(200):
        normal = np.einsum("kni,knj->kij", jacobian, jacobian)
        diagonal = np.einsum("kii->ki", normal)
        ridge = damping[:, None] * (diagonal + 1e-9 * diagonal.max(axis=1, keepdims=True) + 1e-30)
        step = np.linalg.solve(
            normal + ridge[:, :, None] * np.eye(3), -np.einsum("kni,kn->ki", jacobian, residual)[..., None]
        )
        trial = np.clip(theta + step[..., 0], low, high)
        new_residual, new_jacobian = _residuals(trial, x, y, censored)
        gain = (residual**2).sum(1) - (new_residual**2).sum(1)
        better = gain >= 0
        theta = np.where(better[:, None], trial, theta)
        residual = np.where(better[:, None], new_residual, residual)
        jacobian = np.where(better[:, None, None], new_jacobian, jacobian)
        damping = np.clip(np.where(better, damping / 3, damping * 4), 1e-12, 1e12)
        if np.all((damping >= 1e12) | (np.abs(step[..., 0]) < 1e-10).all(axis=1)):
            break
    return np.stack([np.exp(theta[:, 0]), np.exp(theta[:, 1]), theta[:, 2]], axis=1)


def _residuals(theta: Floats, x: Floats, y: Floats, censored: NDArray[np.bool_]) -> tuple[Floats, Floats]:
    """Residuals of ln D [K, n] and their Jacobian [K, n, 3]; both 0 where a censored point lies below the law."""
    gap = theta[:, 1:2] - x
    u = theta[:, 2:3] * gap
    residual = theta[:, 0:1] + np.logaddexp(0.0, u) - y
    weight = 1.0 / (1.0 + np.exp(-u))
    jacobian = np.stack([np.ones_like(u), theta[:, 2:3] * weight, gap * weight], axis=2)
    off = censored & (residual > 0)
    return np.where(off, 0.0, residual), np.where(off[:, :, None], 0.0, jacobian)


def _starts(x: Floats, y: Floats, censored: NDArray[np.bool_], count: int) -> tuple[Floats, list[tuple[float, float]]]:
    """The `count` best grid cells of each draw: y, censored [K, n] → [K, count, 3] as (ln d_min, ln beta, alpha)."""
    bounds = [
        (float(y.min() - np.log(REACH) * ALPHA[1]), float(y.max() + 1.0)),
        (float(x.min() - np.log(REACH)), float(x.max() + np.log(REACH))),
        ALPHA,
    ]
    b = np.repeat(np.linspace(*bounds[1], 32), 32)  # [G]
    alpha = np.tile(np.geomspace(*ALPHA, 32), 32)
    shape = np.logaddexp(0.0, alpha[:, None] * (b[:, None] - x))  # [G, n]: ln(1 + (beta/σ)^alpha)
    starts = np.empty((len(y), count, 3))
    for k in range(len(y)):
        gap = y[k] - shape  # [G, n]: the ln d_min that each point asks for
        active = ~np.broadcast_to(censored[k], gap.shape)
        a: Floats = np.zeros(len(b))
        for _ in range(4 if censored[k].any() else 1):  # a censored point pulls only while the law is below it
            a = (gap * active).sum(1) / np.maximum(active.sum(1), 1)
            active = ~censored[k] | (gap > a[:, None])
        loss = (np.where(active, gap - a[:, None], 0.0) ** 2).sum(1)
        top = np.argsort(loss, kind="stable")[:count]
        starts[k] = np.stack([a[top], b[top], alpha[top]], axis=1)
    return starts, bounds


def _polish(
    start: Floats, x: Floats, y: Floats, censored: NDArray[np.bool_], bounds: list[tuple[float, float]], tol: float
) -> tuple[Floats, float]:
    """L-BFGS-B with the analytic gradient from (ln d_min, ln beta, alpha); returns the end and its loss."""

    def loss(theta: Floats) -> tuple[float, Floats]:
        residual, jacobian = _residuals(theta[None], x, y[None], censored[None])
        return float(residual[0] @ residual[0]), 2.0 * residual[0] @ jacobian[0]

    low, high = np.array(bounds).T
    options = {"ftol": tol, "gtol": tol, "maxiter": 2000, "maxfun": 4000}
    end = minimize(loss, np.clip(start, low, high), jac=True, method="L-BFGS-B", bounds=bounds, options=options)
    return np.asarray(end.x), float(end.fun)


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

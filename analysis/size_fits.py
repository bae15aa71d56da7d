"""The laws with model size fitted in logs, exponents shared over tasks or for one task alone, and how sure they are.

Both laws have two exponents and a few numbers of each task's own. They are fitted by the summed squared error of
ln value, from many starts, with the analytic gradient, in coordinates in which the points are near 1: exponents are
shared in the units of σ and N themselves, so tasks with different grids share the same law.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from itertools import product
from typing import Any, Generic, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import least_squares, nnls
from scipy.special import expit

from analysis.fits import FEWEST_LEVELS
from analysis.forms import ALPHA, REACH
from analysis.size_laws import SizeBatchLaw, SizeDataLaw
from analysis.uncertainty import Floats
from rlscale.typed import Mistake

STARTS = 6
MOST_EVALUATIONS = 500
DRAW_TOLERANCE = 1e-8  # relative: a draw need not be known better
FLOOR = 9.0  # a term of the data law may fall to e^-9 of the least data, which no run could tell from nothing
PRECISION = 1e-6  # no curve is known better than this: keeps the errors of an exact fit above zero

Law = TypeVar("Law", SizeDataLaw, SizeBatchLaw)
L_co = TypeVar("L_co", covariant=True)


@dataclass(frozen=True)
class Points:
    """One task's measurements at σ `sigma` and N `n_params`, all [n]: `value`, a lower bound of it where `censored`.

    For data, a censored value is the env steps within which the level was not reached.
    """

    sigma: Floats
    n_params: Floats
    value: Floats
    censored: NDArray[np.bool_]


@dataclass(frozen=True)
class SizeFit(Generic[Law]):
    """Laws per task, and the report of the fit.

    `loss`: summed squared error of ln value. `scatter`: its standard deviation about the laws (NaN where as many
    numbers were fitted as there are points). `agree`: share of the starts that ended within 1e-6 of the best loss.
    `standard_errors`: of exponents, and of the natural log of every other number; the latter by task where there are
    several, as ``b[task]``. `notes`: sentences on what the points do not tell. `theta`: all numbers as fitted, from
    which draws of the same points start.
    """

    laws: Mapping[str, Law]
    loss: float
    scatter: float
    agree: float
    standard_errors: Mapping[str, float]
    notes: tuple[str, ...]
    theta: Floats


def fit_size_data(tasks: Mapping[str, Points]) -> SizeFit[SizeDataLaw]:
    """D_J(σ, N) with alpha and beta shared over `tasks`; give one task for its own exponents.

    A censored point counts only where the law falls below it. Raises Mistake where σ or N has fewer than three levels
    or a task has fewer than three settings with a value.
    """
    return _fit(_Data, tasks, "data law D(σ, N)")


def fit_size_batch(tasks: Mapping[str, Points]) -> SizeFit[SizeBatchLaw]:
    """B*(σ, N) with alpha and c shared over `tasks`, else as `fit_size_data`."""
    return _fit(_Batch, tasks, "batch size law B*(σ, N)")


def draw_size_data(fit: SizeFit[SizeDataLaw], tasks: Mapping[str, Points], drawn: Mapping[str, Points]) -> Floats:
    """The same law through resampled values, `value` and `censored` [n, K]: [T, K, 5] of c, a, alpha, b, beta."""
    return _draw(_Data, fit, tasks, drawn)


def draw_size_batch(fit: SizeFit[SizeBatchLaw], tasks: Mapping[str, Points], drawn: Mapping[str, Points]) -> Floats:
    """As `draw_size_data`: [T, K, 4] of a, alpha, b, c."""
    return _draw(_Batch, fit, tasks, drawn)


class _Family(Protocol[L_co]):
    """A law in fitting coordinates: `shared` [2] exponents and each task's `own` [R] numbers."""

    shared_names: tuple[str, str]
    own_names: tuple[str, ...]
    shared_grid: tuple[Floats, Floats]
    shared_bounds: tuple[tuple[float, float], tuple[float, float]]
    own_bounds: tuple[tuple[float, float], ...]

    def start(self, shared: Floats, points: Points) -> Floats:
        """The `own` numbers that suit the task about best, given the exponents."""

    def terms(self, shared: Floats, own: Floats, points: Points) -> tuple[Floats, Floats]:
        """ln value [n], and its gradient in (shared, own) [n, 2 + R]."""

    def law(self, shared: Floats, own: Floats) -> L_co:
        """The law in its own units."""


class _Data:
    """ln D = ln(e^c + e^p · (σ0/σ)^alpha + e^r · (N0/N)^beta), with (σ0, N0) in the middle of the points."""

    shared_names = ("alpha", "beta")
    own_names: tuple[str, ...] = ("c", "(a/σ)^alpha", "(b/N)^beta")
    shared_grid = (np.geomspace(0.15, 3.0, 7), np.geomspace(0.15, 3.0, 7))
    shared_bounds = (ALPHA, ALPHA)

    def __init__(self, tasks: Mapping[str, Points]) -> None:
        self.middle_s, self.middle_n = _middle(tasks)
        y = np.log(np.concatenate([p.value for p in tasks.values()]))
        self.own_bounds: tuple[tuple[float, float], ...] = ((float(y.min()) - FLOOR, float(y.max()) + 2.0),) * 3

    def start(self, shared: Floats, points: Points) -> Floats:
        seen = ~points.censored
        design = np.stack([np.zeros(len(seen)), *self._exponents(shared, points)], axis=1)[seen]
        y = points.value[seen]
        found, _ = nnls(np.exp(design) / y[:, None], np.ones(len(y)))
        return np.asarray(np.log(np.maximum(found, 1e-300)))

    def terms(self, shared: Floats, own: Floats, points: Points) -> tuple[Floats, Floats]:
        by_s, by_n = self._exponents(shared, points)
        logs = np.stack([np.full_like(by_s, own[0]), own[1] + by_s, own[2] + by_n], axis=1)
        total = np.logaddexp.reduce(logs, axis=1)
        weight = np.exp(logs - total[:, None])
        slopes = [weight[:, 1] * by_s / shared[0], weight[:, 2] * by_n / shared[1]]
        return total, np.column_stack([*slopes, weight])

    def law(self, shared: Floats, own: Floats) -> SizeDataLaw:
        a, b = np.exp([self.middle_s, self.middle_n] + (own[1:] - own[0]) / shared)
        return SizeDataLaw(float(np.exp(own[0])), float(a), float(shared[0]), float(b), float(shared[1]))

    def _exponents(self, shared: Floats, points: Points) -> tuple[Floats, Floats]:
        return shared[0] * (self.middle_s - np.log(points.sigma)), shared[1] * (self.middle_n - np.log(points.n_params))


class _Batch:
    """ln B = level − alpha · ln(σ/σ0) − ln((1 + (b/N)^c) / (1 + (b/N0)^c)), with (σ0, N0) in the middle."""

    shared_names = ("alpha", "c")
    own_names: tuple[str, ...] = ("level", "b")
    shared_grid = (np.linspace(-0.5, 1.5, 7), np.geomspace(0.15, 3.0, 7))
    shared_bounds = ((-ALPHA[1], ALPHA[1]), ALPHA)  # where B* rises with σ, that is what the points say

    def __init__(self, tasks: Mapping[str, Points]) -> None:
        self.middle_s, self.middle_n = _middle(tasks)
        y = np.log(np.concatenate([p.value for p in tasks.values()]))
        n = np.log(np.concatenate([p.n_params for p in tasks.values()]))
        reach = float(np.log(REACH))
        self.own_bounds: tuple[tuple[float, float], ...] = (
            (float(y.min()) - 2.0, float(y.max()) + 2.0),
            (float(n.min()) - reach, float(n.max()) + reach),
        )

    def start(self, shared: Floats, points: Points) -> Floats:
        best, least = np.zeros(2), np.inf
        for log_b in np.linspace(*self.own_bounds[1], 25):
            gap = np.log(points.value) - self.terms(shared, np.array([0.0, log_b]), points)[0]
            if (loss := float(gap.var())) < least:
                best, least = np.array([gap.mean(), log_b]), loss
        return best

    def terms(self, shared: Floats, own: Floats, points: Points) -> tuple[Floats, Floats]:
        (alpha, c), (level, log_b) = shared, own
        far, gap, middle = self.middle_s - np.log(points.sigma), log_b - np.log(points.n_params), log_b - self.middle_n
        value = level + alpha * far - np.logaddexp(0.0, c * gap) + np.logaddexp(0.0, c * middle)
        here, there = expit(c * gap), expit(c * middle)
        slopes = [far, middle * there - gap * here, np.ones_like(far), c * (there - here)]
        return np.asarray(value), np.column_stack(slopes)

    def law(self, shared: Floats, own: Floats) -> SizeBatchLaw:
        (alpha, c), (level, log_b) = shared, own
        log_a = level + alpha * self.middle_s + np.logaddexp(0.0, c * (log_b - self.middle_n))
        return SizeBatchLaw(float(np.exp(log_a)), float(alpha), float(np.exp(log_b)), float(c))


def _middle(tasks: Mapping[str, Points]) -> tuple[float, float]:
    columns = [np.log(np.concatenate([getattr(p, x) for p in tasks.values()])) for x in ("sigma", "n_params")]
    return float(columns[0].mean()), float(columns[1].mean())


class _Problem(Generic[Law]):
    """A family on the points of some tasks: residuals of all its numbers at once, and the least squares of them."""

    def __init__(self, make: Callable[[Mapping[str, Points]], _Family[Law]], tasks: Mapping[str, Points]):
        self.family: _Family[Law] = make(tasks)
        self.tasks = tasks
        count = len(self.family.own_names)
        self.own = {task: slice(2 + count * i, 2 + count * (i + 1)) for i, task in enumerate(tasks)}
        bounds = (*self.family.shared_bounds, *self.family.own_bounds * len(tasks))
        self.low, self.high = np.array(bounds).T

    def names(self) -> list[str]:
        names = [*self.family.shared_names]
        for task in self.tasks:
            names += [f"{name}[{task}]" if len(self.tasks) > 1 else name for name in self.family.own_names]
        return names

    def evaluate(self, theta: Floats, tasks: Mapping[str, Points]) -> tuple[Floats, Floats]:
        """Residuals of ln value [n], and their gradient [n, P]; both 0 where a censored point lies below the law."""
        residuals, gradients = [], []
        for task, points in tasks.items():
            value, slopes = self.family.terms(theta[:2], theta[self.own[task]], points)
            gap = value - np.log(points.value)
            on = ~(points.censored & (gap > 0))
            gradient = np.zeros((len(gap), len(theta)))
            gradient[:, :2], gradient[:, self.own[task]] = slopes[:, :2], slopes[:, 2:]
            residuals.append(gap * on)
            gradients.append(gradient * on[:, None])
        return np.concatenate(residuals), np.concatenate(gradients)

    def solve(self, start: Floats, tasks: Mapping[str, Points], tolerance: float) -> Any:
        """SciPy's result of one start."""
        return least_squares(
            lambda theta: self.evaluate(theta, tasks)[0],
            np.clip(start, self.low + 1e-9, self.high - 1e-9), jac=lambda theta: self.evaluate(theta, tasks)[1],
            bounds=(self.low, self.high), x_scale="jac",
            ftol=tolerance, xtol=tolerance, gtol=tolerance, max_nfev=MOST_EVALUATIONS,
        )  # fmt: skip

    def laws(self, theta: Floats) -> dict[str, Law]:
        return {task: self.family.law(theta[:2], theta[at]) for task, at in self.own.items()}


def _draw(
    make: Callable[[Mapping[str, Points]], _Family[Law]],
    fit: SizeFit[Law],
    tasks: Mapping[str, Points],
    drawn: Mapping[str, Points],
) -> Floats:
    problem: _Problem[Law] = _Problem(make, tasks)
    count = next(iter(drawn.values())).value.shape[1]
    found = []
    for k in range(count):
        points = {t: replace(p, value=p.value[:, k], censored=p.censored[:, k]) for t, p in drawn.items()}
        laws = problem.laws(problem.solve(fit.theta, points, DRAW_TOLERANCE).x)
        found.append([list(vars(laws[task]).values()) for task in tasks])
    return np.asarray(np.swapaxes(np.array(found), 0, 1))


def _fit(make: Callable[[Mapping[str, Points]], _Family[Law]], tasks: Mapping[str, Points], what: str) -> SizeFit[Law]:
    _check(tasks, what)
    problem: _Problem[Law] = _Problem(make, tasks)
    names, low, high = problem.names(), problem.low, problem.high
    starts = []
    for exponents in product(*problem.family.shared_grid):
        shared: Floats = np.array(exponents)
        start = np.concatenate([shared, *(problem.family.start(shared, points) for points in tasks.values())])
        starts.append(np.clip(start, low + 1e-9, high - 1e-9))
    starts.sort(key=lambda theta: float((problem.evaluate(theta, tasks)[0] ** 2).sum()))
    ends = [problem.solve(start, tasks, 1e-12) for start in starts[:STARTS]]
    losses = 2.0 * np.array([end.cost for end in ends])
    best, loss = ends[int(losses.argmin())], float(losses.min())
    theta, jacobian = best.x, problem.evaluate(best.x, tasks)[1]
    spare = int(jacobian.any(axis=1).sum()) - len(theta)
    scatter = float(np.sqrt(loss / spare)) if spare > 0 else float("nan")
    errors = _standard_errors(jacobian, scatter)
    agree = float(np.mean(losses <= loss + 1e-6))
    notes = []
    if not best.success:
        notes.append(f"the best start had not converged after {MOST_EVALUATIONS} evaluations")
    if agree < 0.5:
        notes.append(f"only {agree:.0%} of {STARTS} starts ended at the best fit: other coefficients fit about as well")
    if spare <= 0:
        notes.append(f"{spare + len(theta)} points for {len(theta)} numbers leave nothing to measure the scatter by")
    for k, name in enumerate(names):
        if min(theta[k] - low[k], high[k] - theta[k]) < 1e-3:
            notes.append(f"{name} ended at a bound: the points do not identify it")
        # an exponent whose 95 % interval holds 0, or a number that may well be e times larger or smaller
        elif errors[k] > (abs(theta[k]) / 2 if k < 2 else 1.0):
            notes.append(f"{name} is hardly identified (standard error {errors[k]:.2g}): trust predictions, not it")
    errors_by_name = dict(zip(names, errors, strict=True))
    return SizeFit(problem.laws(theta), loss, scatter, agree, errors_by_name, tuple(notes), theta)


def _standard_errors(jacobian: Floats, scatter: float) -> list[float]:
    """Gauss–Newton standard errors [P]; huge in directions that the points do not see at all."""
    _, singular, directions = np.linalg.svd(jacobian, full_matrices=False)
    size = scatter if np.isfinite(scatter) else 0.0
    spread = max(size, PRECISION) / np.maximum(singular, 1e-12)
    seen = np.sqrt(((directions * spread[:, None]) ** 2).sum(axis=0))
    # fewer points than numbers: what lies outside all directions is not seen either
    unseen = 1.0 - (directions**2).sum(axis=0) > 1e-6
    return [float(e) for e in np.where(unseen, np.inf, seen)]


def positive(value: Floats, task: str) -> None:
    """Raises Mistake unless every value [n] is a finite number above 0, so that it has a logarithm."""
    if not (np.isfinite(value) & (value > 0)).all():
        wrong = float(value[~(np.isfinite(value) & (value > 0))][0])
        raise Mistake(
            f"{task} has a value of {wrong:g}: a law needs finite numbers above 0, so choose other levels for it"
        )


def _check(tasks: Mapping[str, Points], what: str) -> None:
    for column, symbol, key in (("sigma", "σ", "utd"), ("n_params", "N", "algorithm.width")):
        have = {float(x) for p in tasks.values() for x in getattr(p, column)[~p.censored]}
        if len(have) < FEWEST_LEVELS:
            raise Mistake(
                f"the {what} needs at least {FEWEST_LEVELS} levels of {symbol} and the selected runs leave "
                f"{len(have)} ({symbol} = {', '.join(f'{x:g}' for x in sorted(have))}): sweep more values of {key}"
            )
    for task, points in tasks.items():
        positive(points.value, task)
        if (seen := int((~points.censored).sum())) < FEWEST_LEVELS:
            raise Mistake(
                f"the {what} needs at least {FEWEST_LEVELS} settings of {task} that have a value and there are {seen}: "
                "sweep it more widely, lower its level, or leave it out"
            )

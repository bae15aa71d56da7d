"""The laws with model size fitted in logs, with exponents shared over tasks or for one task alone, and how sure they are.

Both laws have two exponents and a few numbers of each task's own. They are fitted by the summed squared error of
ln value, from many starts, with the analytic gradient, in coordinates in which the points are near 1: exponents are
shared in the units of σ and N themselves, so tasks with different grids share the same law.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import least_squares, nnls
from scipy.special import expit

from analysis.fits import ALPHA, FEWEST_LEVELS, REACH
from analysis.size_laws import SizeBatchLaw, SizeDataLaw
from analysis.uncertainty import Floats
from rlscale.typed import Mistake

STARTS = 6
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
    several, as ``b[task]``. `notes`: sentences on what the points do not tell.
    """

    laws: Mapping[str, Law]
    loss: float
    scatter: float
    agree: float
    standard_errors: Mapping[str, float]
    notes: tuple[str, ...]


def fit_size_data(tasks: Mapping[str, Points]) -> SizeFit[SizeDataLaw]:
    """D_J(σ, N) with alpha and beta shared over `tasks`; give one task for its own exponents.

    A censored point counts only where the law falls below it. Raises Mistake where σ or N has fewer than three levels
    or a task fewer points than numbers of its own.
    """
    return _fit(_Data(tasks), tasks, "data law D(σ, N)")


def fit_size_batch(tasks: Mapping[str, Points]) -> SizeFit[SizeBatchLaw]:
    """B*(σ, N) with alpha and c shared over `tasks`, else as `fit_size_data`."""
    return _fit(_Batch(tasks), tasks, "batch size law B*(σ, N)")


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
    own_names = ("c", "(a/σ)^alpha", "(b/N)^beta")
    shared_grid = (np.geomspace(0.15, 3.0, 7), np.geomspace(0.15, 3.0, 7))
    shared_bounds = (ALPHA, ALPHA)

    def __init__(self, tasks: Mapping[str, Points]) -> None:
        self.middle_s, self.middle_n = _middle(tasks)
        y = np.log(np.concatenate([p.value for p in tasks.values()]))
        self.own_bounds = ((float(y.min()) - FLOOR, float(y.max()) + 2.0),) * 3

    def start(self, shared: Floats, points: Points) -> Floats:
        seen = ~points.censored
        design = np.stack([np.zeros(len(seen)), *self._exponents(shared, points)], axis=1)[seen]
        y = points.value[seen]
        found, _ = nnls(np.exp(design) / y[:, None], np.ones(len(y)))
        return np.log(np.maximum(found, 1e-300))

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
    own_names = ("level", "b")
    shared_grid = (np.linspace(-0.5, 1.5, 7), np.geomspace(0.15, 3.0, 7))
    shared_bounds = ((-ALPHA[1], ALPHA[1]), ALPHA)  # where B* rises with σ, that is what the points say

    def __init__(self, tasks: Mapping[str, Points]) -> None:
        self.middle_s, self.middle_n = _middle(tasks)
        y = np.log(np.concatenate([p.value for p in tasks.values()]))
        n = np.log(np.concatenate([p.n_params for p in tasks.values()]))
        reach = float(np.log(REACH))
        self.own_bounds = (
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


def _fit(family: _Family[Law], tasks: Mapping[str, Points], what: str) -> SizeFit[Law]:
    own = len(family.own_names)
    _check(tasks, own, what)
    names = [*family.shared_names]
    for task in tasks:
        names += [f"{name}[{task}]" if len(tasks) > 1 else name for name in family.own_names]
    low, high = np.array([*family.shared_bounds, *family.own_bounds * len(tasks)]).T

    def residuals(theta: Floats) -> tuple[Floats, Floats]:
        """Of ln value [n], and their gradient [n, P]; both 0 where a censored point lies below the law."""
        parts, gradients = [], []
        for i, points in enumerate(tasks.values()):
            at = slice(2 + own * i, 2 + own * (i + 1))
            value, slopes = family.terms(theta[:2], theta[at], points)
            gap = value - np.log(points.value)
            on = ~(points.censored & (gap > 0))
            gradient = np.zeros((len(gap), len(theta)))
            gradient[:, :2], gradient[:, at] = slopes[:, :2], slopes[:, 2:]
            parts.append(gap * on)
            gradients.append(gradient * on[:, None])
        return np.concatenate(parts), np.concatenate(gradients)

    grid = [np.array([p, q]) for p in family.shared_grid[0] for q in family.shared_grid[1]]
    thetas = [np.concatenate([g, *(family.start(g, p) for p in tasks.values())]) for g in grid]
    thetas = [np.clip(theta, low + 1e-9, high - 1e-9) for theta in thetas]
    thetas.sort(key=lambda theta: float((residuals(theta)[0] ** 2).sum()))
    ends = [
        least_squares(
            lambda theta: residuals(theta)[0], theta, jac=lambda theta: residuals(theta)[1], bounds=(low, high),
            x_scale="jac", ftol=1e-12, xtol=1e-12, gtol=1e-12, max_nfev=500,
        )
        for theta in thetas[:STARTS]
    ]  # fmt: skip
    losses = 2.0 * np.array([end.cost for end in ends])
    best = ends[int(losses.argmin())]
    theta, jacobian = best.x, residuals(best.x)[1]
    counted = int(jacobian.any(axis=1).sum())
    spare = counted - len(theta)
    scatter = float(np.sqrt(losses.min() / spare)) if spare > 0 else float("nan")
    errors = _standard_errors(jacobian, scatter)
    notes = []
    agree = float(np.mean(losses <= losses.min() + 1e-6))
    if not best.success:
        notes.append("the best start had not converged after 500 evaluations")
    if agree < 0.5:
        notes.append(f"only {agree:.0%} of {STARTS} starts ended at the best fit: other coefficients fit about as well")
    if spare <= 0:
        notes.append(f"{counted} points for {len(theta)} numbers leave nothing to measure the scatter by")
    for name, value, error, lower, upper in zip(names, theta, errors, low, high, strict=True):
        # an exponent whose 95 % interval holds 0, another number that may be e times larger or smaller
        loose = error > (abs(value) / 2 if name in family.shared_names else 1.0)
        if min(value - lower, upper - value) < 1e-3:
            notes.append(f"{name} ended at a bound: the points do not identify it")
        elif loose:
            notes.append(f"{name} is hardly identified (standard error {error:.2g}): trust predictions, not it")
    laws = {t: family.law(theta[:2], theta[2 + own * i : 2 + own * (i + 1)]) for i, t in enumerate(tasks)}
    return SizeFit(laws, float(losses.min()), scatter, agree, dict(zip(names, errors, strict=True)), tuple(notes))


def _standard_errors(jacobian: Floats, scatter: float) -> list[float]:
    """Gauss–Newton standard errors [P]; huge in directions that the points do not see at all."""
    _, singular, directions = np.linalg.svd(jacobian, full_matrices=False)
    size = scatter if np.isfinite(scatter) else 0.0
    spread = max(size, PRECISION) / np.maximum(singular, 1e-12)
    seen = np.sqrt(((directions * spread[:, None]) ** 2).sum(axis=0))
    # fewer points than numbers: what lies outside all directions is not seen either
    unseen = 1.0 - (directions**2).sum(axis=0) > 1e-6
    return [float(e) for e in np.where(unseen, np.inf, seen)]


def _check(tasks: Mapping[str, Points], own: int, what: str) -> None:
    for column, symbol, key in (("sigma", "σ", "utd"), ("n_params", "N", "algorithm.width")):
        have = {float(x) for p in tasks.values() for x in getattr(p, column)[~p.censored]}
        if len(have) < FEWEST_LEVELS:
            raise Mistake(
                f"the {what} needs at least {FEWEST_LEVELS} levels of {symbol} and the selected runs leave "
                f"{len(have)} ({symbol} = {', '.join(f'{x:g}' for x in sorted(have))}): sweep more values of {key}"
            )
    for task, points in tasks.items():
        if (seen := int((~points.censored).sum())) < own:
            raise Mistake(
                f"the {what} has {own} numbers of {task}'s own and only {seen} settings of it have a value: "
                "sweep it more widely, lower its level, or leave it out"
            )

"""The data law of every threshold in one joint bootstrap, and its predictions at σ that no fit saw (METHOD A3, A5)."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import NDArray

from analysis.average import Averaged, averaged, common_grid
from analysis.curves import Crossings, Track
from analysis.fits import FEWEST_LEVELS, DataLaw, fit_data_law, fit_data_law_draws, levels
from analysis.uncertainty import Bootstrap, Floats, excess_scatter, interval
from rlscale.typed import Mistake


@dataclass(frozen=True)
class Level:
    """One threshold's law: the averaged points, the fit, its draws [K, 3] and the mean σ-to-σ scatter of ln D."""

    points: Averaged
    law: DataLaw
    draws: Floats


@dataclass(frozen=True)
class Laws:
    """All thresholds' laws.

    `scatter` is the standard deviation of ln D about them beyond the seeds'. `drift` is how fast they go wrong outside
    the fitted σ, per unit of ln σ: the error of ln D at the largest fitted σ when the law is fitted without it (None
    with three σ, where it cannot be left out).
    """

    levels: list[Level]
    scatter: float
    drift: float | None
    fit_utds: list[str]
    dropped: list[tuple[str, str]]
    notes: list[str]


def fit_laws(crossed: Crossings, holdout: tuple[Fraction, ...], bootstrap: Bootstrap, track: Track) -> Laws:
    """D_J(σ) of the average task at each threshold, fitted without the σ in `holdout`."""
    tasks, utds, dropped = common_grid(crossed.cells)
    held = [u for u in utds if Fraction(u) in holdout]
    if missing := [str(h) for h in holdout if str(h) not in held]:
        raise Mistake(
            f"holdout=[{','.join(missing)}]: the selected runs have σ = {', '.join(utds)}; choose among these"
        )
    fit_utds = [u for u in utds if u not in held]
    levels(np.array([float(Fraction(u)) for u in fit_utds]), "data law")
    train = np.array([u in fit_utds for u in utds])
    kept: list[tuple[Averaged, DataLaw]] = []
    for j, threshold in enumerate(crossed.thresholds):
        points, more = averaged(crossed, j, tasks, utds, fit_utds)
        dropped += more
        if points is None or (~points.censored[train]).sum() < FEWEST_LEVELS:
            dropped.append((f"J={threshold:g}", f"reached at fewer than {FEWEST_LEVELS} of the fitted σ: no law"))
            continue
        kept.append((points, fit_data_law(points.sigma[train], points.data[train], points.censored[train])))
    if not kept:
        raise Mistake(
            f"no threshold of {', '.join(f'{t:g}' for t in crossed.thresholds)} is reached at {FEWEST_LEVELS} σ: "
            "train for longer (budget.env_steps), or give lower levels in reference.thresholds"
        )
    residuals, variances, dof = [], [], 0
    for points, law in kept:
        seen = train & ~points.censored
        residuals.append(np.log(points.data[seen]) - np.log(law(points.sigma[seen])))
        variances.append(np.log(points.draws[:, seen]).var(axis=0))
        dof += int(seen.sum()) - 3
    scatter = float(np.sqrt(excess_scatter(np.concatenate(residuals), np.concatenate(variances), dof)))
    notes = []
    if dof < 1:
        notes.append(
            "three σ levels fit the three parameters of D(σ) exactly: scatter about the law cannot be measured"
        )
    # one shift for each (draw, σ), the same at every threshold: the thresholds are cut from the same curves
    shift = scatter * bootstrap.stream("scatter/data").standard_normal((bootstrap.draws, int(train.sum())))
    result = []
    for points, law in track(kept, len(kept), "fitting the draws"):
        draws = points.draws[:, train] * np.exp(shift)
        result.append(
            Level(points, law, fit_data_law_draws(points.sigma[train], draws, points.draws_censored[:, train]))
        )
        if law.at_bound:
            notes.append(
                f"J={points.threshold:g}: {' and '.join(law.at_bound)} ended at a bound; the data do not fix it"
            )
        if law.agree < 0.5:
            notes.append(f"J={points.threshold:g}: only {law.agree:.0%} of the starts agree on the fit")
    drift = _drift([points for points, _ in kept], train)
    if drift is None:
        notes.append(
            "three σ levels: how wrong the law goes beyond them cannot be measured, so predictions there have no 95 %"
        )
    return Laws(result, scatter, drift, fit_utds, dropped, notes)


def _drift(levels_: list[Averaged], train: NDArray[np.bool_]) -> float | None:
    """Root mean square over thresholds of the error of ln D at the largest fitted σ, left out, per unit of ln σ."""
    errors = []
    for points in levels_:
        seen = np.flatnonzero(train & ~points.censored)
        if len(seen) <= FEWEST_LEVELS:
            continue
        rest = np.flatnonzero(train)[np.flatnonzero(train) != seen[-1]]
        law = fit_data_law(points.sigma[rest], points.data[rest], points.censored[rest])
        last = points.sigma[seen[-1]]
        errors.append(np.log(law(last) / points.data[seen[-1]]) / np.log(last / points.sigma[seen[-2]]))
    return float(np.sqrt(np.mean(np.square(errors)))) if errors else None


def predictions(laws: Laws, holdout: tuple[Fraction, ...], bootstrap: Bootstrap) -> list[dict[str, Any]]:
    """Predictions at the σ that no fit has seen, with intervals for what a measurement there should give.

    The interval holds the draws of the law, the scatter about it, the measurement's own seeds and, outside the
    fitted σ, the law's own drift; where that is unknown there is no interval.
    """
    rows = []
    inside = [float(Fraction(u)) for u in laws.fit_utds]
    noise = bootstrap.stream("prediction").standard_normal(bootstrap.draws)
    for level in laws.levels:
        points = level.points
        for i, utd in enumerate(points.utd):
            if Fraction(utd) not in holdout:
                continue
            sigma = points.sigma[i]
            predicted = float(level.law(sigma))
            d_min, beta, alpha = level.draws.T
            outside = max(0.0, np.log(sigma / max(inside)), np.log(min(inside) / sigma))
            drift = np.nan if laws.drift is None and outside else (laws.drift or 0.0) * outside
            width = np.sqrt(laws.scatter**2 + np.log(points.draws[:, i]).var() + drift**2)
            draws = d_min * (1.0 + (beta / sigma) ** alpha) * np.exp(width * noise)
            seen = not points.censored[i]
            rows.append(
                {
                    "threshold": points.threshold, "utd": utd, "observed": points.data[i] if seen else None,
                    "predicted": predicted, "interval95": interval(draws),
                    "signed_error": predicted / points.data[i] - 1.0 if seen else None,
                    "reached": bool(seen), "at_least": None if seen else points.data[i],
                    "extrapolation": bool(outside > 0),
                }
            )  # fmt: skip
    return rows

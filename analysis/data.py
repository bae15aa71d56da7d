"""The data law of every threshold in one joint bootstrap: which form, how far it can be trusted (METHOD A3, C).

The forms differ little inside the measured σ and much beyond it, and five σ do not tell them apart. So `law=auto`
averages the three that can bend (a shifted power, which flattens slowly; a plateau, which flattens at once; a
log-quadratic, which turns up), weighted by how each predicts the largest σ from the others; one such prediction says
little, so the weights are kept near each other. Each draw of the bootstrap follows one of the forms.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np

from analysis.average import Averaged, averaged, common_grid
from analysis.blend import Blend, Draws
from analysis.curves import Crossings, Track
from analysis.fits import FEWEST_LEVELS, levels
from analysis.forms import FORMS
from analysis.joint import Joint, Mask, fit_joint
from analysis.uncertainty import Bootstrap, Floats, t_scale
from rlscale.typed import Mistake, nearest

AUTO = ("shifted_power", "log_quadratic", "plateau")
STARTS = 5
UNSURE = 0.3  # of ln D: how well one step beyond a fit tells how the next will go
# The error of ln D per unit of ln σ beyond the fitted range, on top of the forms' disagreement, that is expected before
# any is seen, and how many measured errors that expectation counts for: about the scatter for each factor e in σ.
DRIFT, DRIFT_COUNTS = 0.03, 4.0
# The same for the standard deviation of ln D about the law from σ to σ, beyond the seeds': a few per cent.
SCATTER, SCATTER_COUNTS = 0.02, 3.0


@dataclass(frozen=True)
class Level:
    """One threshold: the averaged points, its law, and the shifted power law beside it (4.1) with its draws [K, 3]."""

    points: Averaged
    law: Blend
    shifted: tuple[float, ...]
    shifted_draws: Floats
    at_bound: tuple[str, ...]


@dataclass(frozen=True)
class Laws:
    """All thresholds' laws.

    `draws`: of the laws at all thresholds. `scatter`: the standard deviation of ln D about them beyond the seeds'.
    `drift`: their error of ln D per unit of ln σ beyond the fitted range. `errors`: form → root mean square error of
    ln D at the largest fitted σ, predicted without it (None where three σ leave none to predict). `agree`, `loss`: of
    the shifted power law's starts.
    """

    levels: list[Level]
    draws: Draws
    scatter: float
    drift: float
    errors: dict[str, float | None]
    agree: float
    loss: float
    fit_utds: list[str]
    dropped: list[tuple[str, str]]
    notes: list[str]


def fit_laws(
    crossed: Crossings, holdout: tuple[Fraction, ...], bootstrap: Bootstrap, track: Track, law: str, average: str
) -> Laws:
    """D_J(σ) of the average task at each threshold, fitted without the σ in `holdout`; `law` is auto or a form."""
    if law != "auto" and law not in FORMS:
        raise Mistake(f"law={law}: there is no such law; {nearest(law, ['auto', *FORMS])}")
    tasks, utds, dropped = common_grid(crossed.cells)
    held = [u for u in utds if Fraction(u) in holdout]
    if missing := [str(h) for h in holdout if str(h) not in held]:
        raise Mistake(
            f"holdout=[{','.join(missing)}]: the selected runs have σ = {', '.join(utds)}; choose among these"
        )
    fit_utds = [u for u in utds if u not in held]
    levels(np.array([float(Fraction(u)) for u in fit_utds]), "data law")
    train = np.array([u in fit_utds for u in utds])
    kept: list[Averaged] = []
    for j, threshold in enumerate(crossed.thresholds):
        points, more = averaged(crossed, j, tasks, utds, fit_utds, average, bootstrap)
        dropped += more
        if points is None or (~points.censored[train]).sum() < FEWEST_LEVELS:
            dropped.append((f"J={threshold:g}", f"reached at fewer than {FEWEST_LEVELS} of the fitted σ: no law"))
            continue
        kept.append(points)
    if not kept:
        raise Mistake(
            f"no threshold of {', '.join(f'{t:g}' for t in crossed.thresholds)} is reached at {FEWEST_LEVELS} σ: "
            "train for longer (budget.env_steps), or give lower levels in reference.thresholds"
        )
    return _joint_laws(kept, train, law, bootstrap, track, fit_utds, dropped)


def _joint_laws(
    kept: list[Averaged], train: Mask, law: str, bootstrap: Bootstrap, track: Track, fit_utds: list[str],
    dropped: list[tuple[str, str]],
) -> Laws:  # fmt: skip
    x = np.log(kept[0].sigma[train])
    y = np.log(np.stack([p.data[train] for p in kept]))[None]  # [1, J, n]
    censored = np.stack([p.censored[train] for p in kept])[None]
    names = AUTO if law == "auto" else (law,)
    fits = {name: fit_joint(FORMS[name], x, y, censored, STARTS) for name in dict.fromkeys((*names, "shifted_power"))}
    steps = {name: _left_out(name, x, y, censored) for name in names}  # signed errors, [origins, J]
    errors = {name: _size(e[:1]) for name, e in steps.items()}
    weights = np.array([1.0 / ((errors[name] or 0.0) ** 2 + UNSURE**2) for name in names])
    weights = weights / weights.sum()
    thetas = np.stack([fits[name].theta[0] for name in names])  # [F, J, 3]
    blends = [Blend(names, weights, thetas[:, j]) for j in range(len(kept))]

    value = np.stack([np.log(b(np.exp(x))) for b in blends])
    residual = np.where(censored[0], 0.0, y[0] - value)
    drawn = np.log(np.stack([p.draws[:, train] for p in kept], axis=1))  # [K, J, n]
    seeds = float(np.mean(drawn.var(axis=0)[~censored[0]]))
    parameters = max(1, FORMS[names[0]].count + (FORMS[names[0]].shared is not None))
    dof = max(0, len(x) - parameters)
    size = float(np.mean((residual**2).sum(axis=1)))  # of one threshold: all are cut from the same curves
    counts = SCATTER_COUNTS + dof
    scatter = float(np.sqrt((SCATTER_COUNTS * SCATTER**2 + max(0.0, size - dof * seeds)) / counts))
    # the scatter is known from few points: each draw has its own, and one shift for each σ, the same at every threshold
    stream = bootstrap.stream("scatter/data")
    spread = scatter * t_scale(stream, bootstrap.draws, int(counts))
    drawn = drawn + (spread * stream.standard_normal((len(x), bootstrap.draws))).T[:, None, :]
    drawn_censored = np.stack([p.draws_censored[:, train] for p in kept], axis=1)
    many = {
        name: fit_joint(FORMS[name], x, drawn, drawn_censored)
        for name in track(list(fits), len(fits), "fitting the draws")
    }
    member = bootstrap.stream("form").choice(len(names), size=bootstrap.draws, p=weights)
    theta = np.stack([many[name].theta for name in names])[member, np.arange(bootstrap.draws)]
    drift, bend = _drift(steps, weights, x, scatter**2 + seeds, bootstrap)
    ends = float(np.exp(x.min())), float(np.exp(x.max()))
    rows = [
        Level(points, blend, tuple(map(float, np.exp(fits["shifted_power"].theta[0, j]))),
              np.exp(many["shifted_power"].theta[:, j]), fits["shifted_power"].at_bound[j])
        for j, (points, blend) in enumerate(zip(kept, blends, strict=True))
    ]  # fmt: skip
    notes = _notes(fits, rows, names, len(x), dof)
    shifted = fits["shifted_power"]
    return Laws(
        rows, Draws(names, member, theta, bend, *ends), scatter, drift, errors, shifted.agree,
        float(shifted.loss[0]), fit_utds, dropped, notes,
    )  # fmt: skip


def _left_out(name: str, x: Floats, y: Floats, censored: Mask) -> Floats:
    """Errors of ln D at a σ predicted from the smaller ones, per unit of ln σ between: [origins, J], largest σ first.

    NaN where the threshold was not reached there. Empty with three σ.
    """
    rows = []
    for n in range(len(x) - 1, FEWEST_LEVELS - 1, -1):
        fit = fit_joint(FORMS[name], x[:n], y[..., :n], censored[..., :n], STARTS)
        error = FORMS[name].log_data(fit.theta[0], x[n]) - y[0, :, n]
        rows.append(np.where(censored[0, :, n], np.nan, error) / (x[n] - x[n - 1]))
    return np.array(rows).reshape(len(rows), y.shape[1])


def _size(errors: Floats) -> float | None:
    return float(np.sqrt(np.nanmean(errors**2))) if np.isfinite(errors).any() else None


def _drift(
    steps: dict[str, Floats], weights: Floats, x: Floats, noise: float, bootstrap: Bootstrap
) -> tuple[float, Floats]:
    """The expected error of ln D per unit of ln σ beyond the fitted range, and draws of it below and above: [K, 2].

    That is: beyond the disagreement of the forms, which the draws hold already, and beyond the `noise` (a variance of
    ln D) of the point that was left out.
    """
    errors = np.stack(list(steps.values()))  # [F, origins, J]
    mean = np.tensordot(weights, errors, axes=1)
    spread = np.tensordot(weights, (errors - mean) ** 2, axes=1)  # [origins, J]
    gaps = np.diff(x)[::-1][: errors.shape[1]]
    excess = mean**2 - spread - noise / gaps[:, None] ** 2
    origins = [float(np.nanmean(row)) for row in excess if np.isfinite(row).any()]
    counts = DRIFT_COUNTS + len(origins)
    # one origin alone may well have been lucky: the mean is cut off at 0, not each of them
    drift = float(np.sqrt(max(0.0, (DRIFT_COUNTS * DRIFT**2 + sum(origins)) / counts)))
    return drift, np.asarray(drift * bootstrap.stream("drift").standard_normal((bootstrap.draws, 2)))


def _notes(fits: dict[str, Joint], rows: list[Level], names: tuple[str, ...], count: int, dof: int) -> list[str]:
    notes = []
    if dof < 1:
        notes.append(f"{count} σ levels fit the law exactly: scatter about it cannot be measured")
    if count <= FEWEST_LEVELS:
        notes.append(
            "three σ levels: how wrong the law goes beyond them cannot be measured; intervals there rest on what is "
            "usual"
        )
    for level in rows:
        if level.at_bound:
            told = " and ".join({"own": "beta", "shared": "alpha"}[n] for n in level.at_bound)
            notes.append(f"J={level.points.threshold:g}: {told} ended at a bound; the data do not fix it")
    for name in names:
        if fits[name].agree < 0.5:
            notes.append(f"{name}: only {fits[name].agree:.0%} of the starts agree on the fit")
        if fits[name].stalled:
            notes.append(f"{name}: the fit was still improving when its steps ran out")
    return notes


def predictions(laws: Laws, holdout: tuple[Fraction, ...], bootstrap: Bootstrap) -> list[dict[str, Any]]:
    """Predictions at the σ that no fit has seen, with intervals for what a measurement there should give.

    The interval holds the draws of the law (its form, the seeds, the scatter, and beyond the fitted σ its drift), the
    scatter about it and the measurement's own seeds.
    """
    rows = []
    noise = bootstrap.stream("prediction").standard_normal(bootstrap.draws)
    for j, level in enumerate(laws.levels):
        points = level.points
        for i, utd in enumerate(points.utd):
            if Fraction(utd) not in holdout:
                continue
            sigma = points.sigma[i]
            predicted = float(level.law(sigma))
            width = np.sqrt(laws.scatter**2 + np.log(points.draws[:, i]).var())
            drawn = laws.draws.log_data(j, np.log([sigma]))[:, 0] + width * noise
            seen = not points.censored[i]
            low, high = np.exp(np.quantile(drawn, [0.025, 0.975]))
            rows.append(
                {
                    "threshold": points.threshold, "utd": utd, "observed": points.data[i] if seen else None,
                    "predicted": predicted, "interval95": [float(low), float(high)],
                    "signed_error": predicted / points.data[i] - 1.0 if seen else None,
                    "reached": bool(seen), "at_least": None if seen else points.data[i],
                    "extrapolation": not laws.draws.low <= sigma <= laws.draws.high,
                }
            )  # fmt: skip
    return rows

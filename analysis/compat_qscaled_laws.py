"""`compat=qscaled` for D_J(σ), C_J(σ) and σ*(F): what the papers' public code does otherwise; off by default.

It normalises each task by one median over all σ and all thresholds together, averages tasks arithmetically, fits
c + (σ/b)^−a to that by least squares of D itself (not of its logarithm), and looks for the cheapest σ on 100 points
between the smallest and the largest σ. Numbers B3, B7, … are the defects of that code (qscaled at a9a99d0) as
QSCALED.md §1.16 lists them. Not reproduced: the law as it prints it (B1), and what it returns for data that are not
there (B7), which is refused.

The files are the house's: c + (σ/b)^−a is d_min·(1 + (beta/σ)^alpha) with d_min = M·c, beta = b·c^(−1/a), alpha = a.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from analysis.average import common_grid
from analysis.batch import BatchLaws, batch_laws, fitted_laws
from analysis.budget import budget_law, compute
from analysis.compat_qscaled import NOTE
from analysis.compat_qscaled_fit import FORMS, Form, fit, normalised, refine
from analysis.curves import Crossings, Reference, Track
from analysis.fits import levels
from analysis.uncertainty import Floats, interval
from rlscale.hparams import round_batch_size
from rlscale.typed import Mistake


def batch_law(
    crossed: Crossings, fitted: Mapping[str, Any] | None, variant: str, draws: Path | None, count: int
) -> BatchLaws:
    """B(σ) of the hparams.json beside these laws whether or not the runs follow it: that code gives the compute of its
    baseline runs, too, by the fitted law. Without one, the law through the runs' own batch sizes."""
    laws = fitted_laws(fitted, variant)["batch_size"] if fitted else None
    if laws is not None and set(crossed.cells["task"]) <= set(laws.tasks):
        meant = [round_batch_size(laws(Fraction(r.utd), r.task)) for r in crossed.cells.itertuples()]
        crossed = replace(crossed, cells=crossed.cells.assign(batch_size=meant))
    return batch_laws(crossed, fitted, variant, draws, count)


@dataclass(frozen=True)
class Fitted:
    """The average task's data and every threshold's fit to them, in units of M.

    `mean` [n, J] (a lower bound where not `reached` [n, J], which happens at held-out σ only) and `draws` [n, J, K];
    `scale` maps tasks to their median over M; `unit` is M and `units` [K] its draws; `theta` [J, 3] and `thetas`
    [J, K, 3] are (a, b, c) with `loss` [J] and `agree` [J], the share of starts that ended at the same loss.
    """

    form: Form
    thresholds: Floats
    utds: list[str]
    sigma: Floats
    train: NDArray[np.bool_]
    mean: Floats
    reached: NDArray[np.bool_]
    draws: Floats
    scale: dict[str, float]
    unit: float
    units: Floats
    theta: Floats
    thetas: Floats
    loss: Floats
    agree: Floats


def fit_laws(
    name: str, crossed: Crossings, holdout: tuple[Fraction, ...], track: Track
) -> tuple[Fitted, list[tuple[str, str]]]:
    """Every threshold's fit without the σ in `holdout`, and what was left out; `name` is one of FORMS."""
    form = FORMS[name]
    tasks, utds, dropped = common_grid(crossed.cells)
    if missing := [str(h) for h in holdout if str(h) not in utds]:
        raise Mistake(f"holdout=[{','.join(missing)}]: the selected runs have σ = {', '.join(utds)}; choose of these")
    train = np.array([Fraction(u) not in holdout for u in utds])
    sigma = np.array([float(Fraction(u)) for u in utds])
    levels(sigma[train], "data law")
    cells = crossed.cells.set_index(["task", "utd"])
    rows = np.array([[cells.index.get_loc((t, u)) for u in utds] for t in tasks])  # [E, n]
    point, limit = crossed.point[rows], crossed.cells["t_max"].to_numpy(float)[rows, None]  # [E, n, J], [E, n, 1]
    _all_reached(point[:, train], crossed.thresholds, tasks)
    mean, medians, unit = normalised(np.where(np.isinf(point), limit, point), train)
    drawn = np.moveaxis(crossed.draws[rows], 2, 3)  # [E, n, J, K]
    draws, _, units = normalised(np.where(np.isinf(drawn), limit[..., None], drawn), train)
    theta, thetas, losses, agree = [], [], [], []
    for j in track(range(len(crossed.thresholds)), len(crossed.thresholds), "fitting thresholds"):
        best, loss, share = fit(sigma[train], mean[train, j], form)
        theta.append(best)
        losses.append(loss)
        agree.append(share)
        with np.errstate(all="ignore"):
            thetas.append([refine(best, sigma[train], y, form)[0] for y in draws[train, j].T])
    fitted = Fitted(
        form, crossed.thresholds, utds, sigma, train, mean, np.isfinite(point).all(axis=0), draws,
        dict(zip(tasks, medians / unit, strict=True)), float(unit), units, np.array(theta), np.array(thetas),
        np.array(losses), np.array(agree),
    )  # fmt: skip
    return fitted, dropped


def _all_reached(point: Floats, thresholds: Floats, tasks: list[str]) -> None:
    """B7: one setting that never reaches one level leaves that code without any fit, and without a word."""
    reached = np.isfinite(point).all(axis=(0, 1))
    if not reached.all():
        task = tasks[int(np.flatnonzero(np.isinf(point).any(axis=(1, 2)))[0])]
        have = ",".join(f"{t:g}" for t in thresholds[reached]) or "…"
        raise Mistake(
            f"compat=qscaled: {task} does not reach {thresholds[~reached][0]:g} at every σ, which leaves that code "
            f"without any fit; give reference.thresholds=[{have}], or leave compat out"
        )


def data_rows(fitted: Fitted) -> tuple[list[dict[str, Any]], list[Floats], list[tuple[str, str]], list[str]]:
    """laws.json's `data` with each row's draws [K, 3]; the thresholds whose fit has no d_min (B8); notes."""
    values, draws = fitted.form.d_min(fitted.theta), fitted.form.d_min(fitted.thetas)
    data, kept, dropped, notes = [], [], [], []
    for j, threshold in enumerate(fitted.thresholds):
        fine = np.flatnonzero(np.isfinite(draws[j]).all(axis=1))
        if not np.isfinite(values[j]).all() or not len(fine):
            a, b, c = fitted.theta[j]
            reason = f"a={a:.3g}, b={b:.3g}, c={c:.3g} does not fall to a d_min above 0 (B8)"
            dropped.append((f"the law of J={threshold:g}", reason))
            continue
        if len(fine) < len(fitted.units):
            share = 1 - len(fine) / len(fitted.units)
            notes.append(f"J={threshold:g}: {share:.0%} of the draws do not fall to a d_min above 0 and are left out")
        at = np.resize(fine, len(fitted.units))  # a joint chain needs K draws
        kept.append(np.column_stack([draws[j, at, 0] * fitted.units[at], draws[j, at, 1:]]))
        (d_min, beta, alpha), spans = values[j] * [fitted.unit, 1, 1], [interval(column) for column in kept[-1].T]
        data.append(
            {
                "threshold": threshold, "d_min": d_min, "beta": beta, "alpha": alpha,
                "ci95": dict(zip(("d_min", "beta", "alpha"), spans, strict=True)),
                "loss": fitted.loss[j], "starts_agree": fitted.agree[j], "at_bound": [],
                "points": [
                    {"utd": u, "data": fitted.mean[i, j] * fitted.unit,
                     "data_ci95": interval(fitted.draws[i, j] * fitted.units),
                     "reached": bool(fitted.reached[i, j]), "held_out": bool(not fitted.train[i])}
                    for i, u in enumerate(fitted.utds)
                ],
                "scale": fitted.scale,
            }
        )  # fmt: skip
    return data, kept, dropped, notes


def cheapest(
    grid: Floats, data: Floats, data_k: Floats, batch: BatchLaws, n_params: float, delta: float, held: int
) -> dict[str, Any]:
    """σ* with the least C + δ·D on the grid [G] for each threshold, and σ*(F) through all but the `held` highest.

    data [J, G] and data_k [J, K, G] in env steps; compute follows B̄(σ), the mean over tasks of the fitted law. A σ* at
    an end of the grid is kept in the fit (`at_end` says so).
    """
    size = batch.mean(grid)
    sizes = np.exp(batch.log_intercept_draws[..., None] + batch.slope_draws[..., None] * np.log(grid)).mean(axis=1)
    cost, cost_k = (d * (compute(n_params, b, grid, 1.0) + delta) for d, b in ((data, size), (data_k, sizes)))
    at, at_k = cost.argmin(axis=-1), cost_k.argmin(axis=-1)  # [J], [J, K]
    budgets, sigma = cost.min(axis=-1), grid[at]
    budgets_k, sigma_k = cost_k.min(axis=-1).T, grid[at_k].T  # [K, J]
    count, used = len(data), max(2, len(data) - held)
    law: dict[str, Any] = {"coefficient": None, "exponent": None, "coefficient_ci95": None, "exponent_ci95": None}
    predicted, spans = np.full(count, np.nan), [[float("nan")] * 2] * count
    if count >= 2:
        coefficient, exponent = map(float, budget_law(budgets[:used], sigma[:used]))
        c_k, e_k = budget_law(budgets_k[:, :used], sigma_k[:, :used])
        law = {"coefficient": coefficient, "exponent": exponent}
        law |= {"coefficient_ci95": interval(c_k), "exponent_ci95": interval(e_k)}
        predicted, spans = coefficient * budgets**exponent, [interval(c_k * f**e_k) for f in budgets]
    points = []
    for j, i in enumerate(at):
        spent = float(compute(n_params, size[i], grid[i], data[j, i]))
        points.append(
            {
                "budget": budgets[j], "utd": grid[i], "utd_ci95": interval(sigma_k[:, j]), "data": data[j, i],
                "compute": spent, "held_out": j >= used, "at_end": bool(i in (0, len(grid) - 1)),
                "data_share": delta * data[j, i] / budgets[j],
                "predicted_utd": predicted[j], "predicted_utd_ci95": spans[j],
            }
        )  # fmt: skip
    return {"delta": delta, **law, "points": points}


def held_out(fitted: Fitted) -> list[dict[str, Any]]:
    """Predictions at the σ that no fit saw; the interval holds what the seeds do to the fit, and nothing else."""
    rows = []
    used = fitted.sigma[fitted.train]
    for j, threshold in enumerate(fitted.thresholds):
        for i in np.flatnonzero(~fitted.train):
            sigma, observed, seen = fitted.sigma[i], fitted.mean[i, j] * fitted.unit, bool(fitted.reached[i, j])
            predicted = float(fitted.form.value(fitted.theta[j], sigma) * fitted.unit)
            rows.append(
                {
                    "threshold": threshold, "utd": fitted.utds[i], "observed": observed if seen else None,
                    "predicted": predicted,
                    "interval95": interval(fitted.form.value(fitted.thetas[j].T, sigma) * fitted.units),
                    "signed_error": predicted / observed - 1.0 if seen else None, "reached": seen,
                    "at_least": None if seen else observed,
                    "extrapolation": bool(not used.min() <= sigma <= used.max()),
                }
            )  # fmt: skip
    return rows


def parts(
    name: str, crossed: Crossings, holdout: tuple[Fraction, ...], batch: BatchLaws, reference: Reference,
    n_params: float, held: int, track: Track,
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:  # fmt: skip
    """laws.json from `data` to `notes`, and the draws beside it. Raises Mistake where that code has nothing to say."""
    fitted, dropped = fit_laws(name, crossed, holdout, track)
    data, kept, more, notes = data_rows(fitted)
    if not data:
        raise Mistake(
            "compat=qscaled: no threshold's fit falls to a d_min above 0, so there is no law; leave compat out"
        )
    seen = fitted.sigma[fitted.train]
    grid = np.logspace(np.log10(seen.min()), np.log10(seen.max()), 100)
    curve, curves = (fitted.form.value(np.moveaxis(t, -1, 0)[..., None], grid) for t in (fitted.theta, fitted.thetas))
    budget = cheapest(grid, curve * fitted.unit, curves * fitted.units[:, None], batch, n_params, reference.delta, held)
    points = [{"threshold": t} | p for t, p in zip(fitted.thresholds, budget.pop("points"), strict=True)]
    fits = [
        {"threshold": t, **dict(zip("abc", theta, strict=True)), "loss": loss}
        for t, theta, loss in zip(fitted.thresholds, fitted.theta, fitted.loss, strict=True)
    ]
    result = {
        "data": data,
        "compute": {"n_params": n_params, "formula": "10·N·B(σ)·σ·D", "batch_size": batch.as_json()},
        "budget": budget | {"points": points},
        "holdout": held_out(fitted),
        "compat": {"name": name, "form": fitted.form.text, "M": fitted.unit, "fits": fits},
        "fit_utds": [u for u, used in zip(fitted.utds, fitted.train, strict=True) if used],
        "extend": 1.0, "scatter": None, "drift": None, "thresholds": list(fitted.thresholds),
        "dropped": [{"what": what, "reason": why} for what, why in dropped + more],
        "notes": [NOTE, *batch.notes, *notes],
    }  # fmt: skip
    arrays = {
        "data": np.stack(kept),
        "batch_slope": batch.slope_draws,
        "batch_log_intercept": batch.log_intercept_draws,
    }
    return result, arrays

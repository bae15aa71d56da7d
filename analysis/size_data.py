"""D_J(σ, N) level by level from the settings of a study, with draws, and how it predicts settings it has not seen."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from analysis import model_scaling
from analysis.curves import Track
from analysis.fits import FEWEST_LEVELS
from analysis.size_fits import Points, SizeFit, draw_size_data, fit_size_data
from analysis.size_laws import AVERAGE, DATA, SizeDataLaw
from analysis.sized import Least, Settings
from analysis.uncertainty import Bootstrap, Floats, excess_scatter, interval
from rlscale.typed import Mistake


@dataclass(frozen=True)
class LevelLaw:
    """One level's law of a task, or of the average task: `draws` [K, 5] in the order of DATA, NaN without a law.

    `points` are those that it was fitted to.
    """

    law: SizeDataLaw
    draws: Floats
    points: Points
    scatter: float
    notes: tuple[str, ...]

    def row(self) -> dict[str, Any]:
        """Its part of laws.json."""
        ends = {name: interval(self.draws[:, i]) for i, name in enumerate(DATA)}
        return vars(self.law) | {"ci95": ends, "scatter": self.scatter, "notes": list(self.notes)}


@dataclass(frozen=True)
class SizeLaws:
    """Laws by (task or AVERAGE, number of the level); what has none is in `dropped` with the reason."""

    laws: Mapping[tuple[str, int], LevelLaw]
    dropped: list[tuple[str, str]]


def fit_levels(
    found: Settings,
    fitted: NDArray[np.bool_],
    exponents: Literal["shared", "separate"],
    least: Least,
    bootstrap: Bootstrap,
    track: Track,
) -> SizeLaws:
    """A law for every task and level, and one for the average task, through the settings where `fitted` [n] is true."""
    laws: dict[tuple[str, int], LevelLaw] = {}
    dropped: list[tuple[str, str]] = []
    levels = range(len(found.thresholds))
    for j in track(levels, len(levels), "fitting D(σ, N)"):
        tasks, drawn = {}, {}
        for task in sorted(found.cells["task"].unique()):
            rows = np.flatnonzero((found.cells["task"] == task).to_numpy() & fitted)
            seen = int(np.isfinite(found.data[rows, j]).sum())
            if seen < FEWEST_LEVELS:
                dropped.append((f"{task} at J={found.levels[task][j]:g}", f"reached by {seen} settings: no law"))
                continue
            tasks[task], drawn[task] = _points(found, rows, j)
        groups = [list(tasks)] if exponents == "shared" else [[task] for task in tasks]
        for group in (g for g in groups if g):
            laws |= _fit({t: tasks[t] for t in group}, {t: drawn[t] for t in group}, j, bootstrap, dropped)
        if len(tasks) > 1:
            points, drawn_points = average(found, fitted & counts(found, least), j, sorted(tasks))
            if (points.value.size - points.censored.sum()) >= FEWEST_LEVELS:
                laws |= _fit({AVERAGE: points}, {AVERAGE: drawn_points}, j, bootstrap, dropped)
    if not laws:
        raise Mistake(f"no level has a law in σ and N ({': '.join(dropped[0])}); give lower levels, size.levels=…")
    return SizeLaws(laws, dropped)


def counts(found: Settings, least: Least) -> NDArray[np.bool_]:
    """Which settings the average task looks at [n]."""
    return np.asarray(least.counts(found.cells["sigma"].to_numpy(float), found.cells["n_params"].to_numpy(float)))


def _points(found: Settings, rows: NDArray[np.int_], j: int) -> tuple[Points, Points]:
    """The task's points at one level, and their draws [n, K]."""
    sigma, n_params = (found.cells[c].to_numpy(float)[rows] for c in ("sigma", "n_params"))
    data, draws, limit = found.data[rows, j], found.draws[rows, :, j], found.limit[rows]
    missed, missed_in = np.isinf(data), np.isinf(draws)
    drawn = Points(sigma, n_params, np.where(missed_in, limit[:, None], draws), missed_in)
    return Points(sigma, n_params, np.where(missed, limit, data), missed), drawn


def average(found: Settings, rows: NDArray[np.bool_], j: int, tasks: Sequence[str]) -> tuple[Points, Points]:
    """Points of the average task: geometric means over `tasks`, of settings (σ, size) that all of them were run at.

    A size is a width, where the runs have one (the same width has another N in another task), else an N. Where a task
    did not reach the level within its env steps, the mean is a lower bound.
    """
    part = found.cells[rows & found.cells["task"].isin(tasks).to_numpy()]
    size = "width" if part["width"].notna().all() else "n_params"
    heads, data, draws, limit = [], [], [], []
    for (sigma, _), at in part.groupby(["sigma", size], sort=True):
        if set(at["task"]) == set(tasks):
            heads.append((sigma, np.exp(np.log(at["n_params"].to_numpy(float)).mean())))
            data.append(found.data[at.index, j])
            draws.append(found.draws[at.index, :, j])
            limit.append(found.limit[at.index])
    if not heads:
        none = np.empty(0)
        return (Points(none, none, none, none.astype(bool)),) * 2
    (sigma, n_params), point, drawn = np.array(heads).T, np.stack(data), np.stack(draws)  # [m, T], [m, T, K]
    missed, missed_in, ends = np.isinf(point), np.isinf(drawn), np.stack(limit)

    def mean(values: Floats, axis: int) -> Floats:
        return np.asarray(np.exp(np.log(values).mean(axis=axis)))

    return (
        Points(sigma, n_params, mean(np.where(missed, ends, point), 1), np.asarray(missed.any(axis=1))),
        Points(
            sigma, n_params, mean(np.where(missed_in, ends[:, :, None], drawn), 1), np.asarray(missed_in.any(axis=1))
        ),
    )


def _fit(
    tasks: Mapping[str, Points],
    drawn: Mapping[str, Points],
    j: int,
    bootstrap: Bootstrap,
    dropped: list[tuple[str, str]],
) -> dict[tuple[str, int], LevelLaw]:
    try:
        fit: SizeFit[SizeDataLaw] = fit_size_data(tasks)
    except Mistake as mistake:  # too few levels of σ or N reach this one
        dropped.append((f"{', '.join(tasks)} at level {j + 1}", str(mistake)))
        return {}
    noisy = {}
    for task, points in drawn.items():
        seen = ~tasks[task].censored
        gap = np.log(tasks[task].value / fit.laws[task](points.sigma, points.n_params))[seen]
        spread = excess_scatter(gap, np.log(points.value[seen]).var(axis=1), int(seen.sum()) - len(DATA))
        noise = bootstrap.stream(f"size/{task}/{j}").standard_normal(points.value.shape)
        noisy[task] = replace(points, value=points.value * np.exp(np.sqrt(spread) * noise))
    draws = draw_size_data(fit, tasks, noisy)
    return {
        (task, j): LevelLaw(fit.laws[task], draws[i], tasks[task], fit.scatter, fit.notes)
        for i, task in enumerate(tasks)
    }


def as_public_code(found: Settings, exponents: str, least: Least, draws: int, track: Track) -> SizeLaws:
    """compat=model_scaling: the follow-up's own recipe, without intervals; settings that miss a level are left out."""
    laws: dict[tuple[str, int], LevelLaw] = {}
    sigma, n_params = (found.cells[c].to_numpy(float) for c in ("sigma", "n_params"))
    names = sorted(found.cells["task"].unique())
    places = {task: np.flatnonzero((found.cells["task"] == task).to_numpy()) for task in names}
    none = np.full((draws, len(DATA)), np.nan)
    dropped: list[tuple[str, str]] = []
    levels = range(len(found.thresholds))

    def keep(task: str, j: int, law: SizeDataLaw, x: Floats, z: Floats, data: Floats) -> None:
        missed = np.asarray(~np.isfinite(data), dtype=bool)
        gap = np.log(data / law(x, z))[~missed]
        points = Points(x, z, data, missed)
        laws[task, j] = LevelLaw(law, none, points, float(np.sqrt(np.mean(gap**2))), ())

    for j in track(levels, len(levels), "fitting D(σ, N)"):
        columns = {t: (sigma[at], n_params[at], found.data[at, j]) for t, at in places.items()}
        groups = [names] if exponents == "shared" else [[task] for task in names]
        for group in groups:
            try:
                fitted = model_scaling.fit_data_shared({task: columns[task] for task in group})
            except Mistake as mistake:
                dropped.append((f"{', '.join(group)} at level {j + 1}", str(mistake)))
                continue
            for task, law in fitted.items():
                keep(task, j, law, *columns[task])
    if len(names) > 1:
        cells, data = _table(found, least, names)
        mean = model_scaling.average(np.where(np.isfinite(data), data, np.nan))
        for j in levels:
            try:
                law = model_scaling.fit_data(cells[:, 0], cells[:, 1], mean[:, j])
            except Mistake as mistake:
                dropped.append((f"the average task at level {j + 1}", str(mistake)))
                continue
            keep(AVERAGE, j, law, cells[:, 0], cells[:, 1], mean[:, j])
    return SizeLaws(laws, dropped)


def _table(found: Settings, least: Least, tasks: Sequence[str]) -> tuple[Floats, Floats]:
    """Settings (σ, N) [m, 2] and data [T, m, J]; inf where a task was not run."""
    cells = found.cells[counts(found, least)]
    pairs = sorted(set(zip(cells["sigma"], cells["n_params"], strict=True)))
    data = np.full((len(tasks), len(pairs), len(found.thresholds)), np.inf)
    for row in cells.itertuples():
        data[tasks.index(row.task), pairs.index((row.sigma, row.n_params))] = found.data[row.Index]
    return np.array(pairs, dtype=float), data


def splits(found: Settings, fitted: NDArray[np.bool_]) -> list[str]:
    """What each setting is for [n]; one of the fitted sweep that is held out counts as an extrapolation."""
    return [
        "fit" if used else "extrapolate" if name == "fit" else name
        for name, used in zip(found.cells["split"], fitted, strict=True)
    ]


def errors(found: Settings, laws: SizeLaws, fitted: NDArray[np.bool_], bootstrap: Bootstrap) -> list[dict[str, Any]]:
    """Every setting that no fit has seen against what the laws say of it: laws.json's `holdout`."""
    rows = []
    split = splits(found, fitted)
    for i in np.flatnonzero(~fitted):
        cell = found.cells.loc[i]
        for j in range(len(found.thresholds)):
            law = laws.laws.get((cell["task"], j))
            if law is None:
                continue
            predicted = float(law.law(cell["sigma"], cell["n_params"]))
            seen = np.log(found.draws[i, np.isfinite(found.draws[i, :, j]), j])  # few seeds make it uncertain by itself
            spread = np.hypot(law.scatter, seen.std() if seen.size > 1 else 0.0)
            noise = bootstrap.stream(f"size/holdout/{i}/{j}").standard_normal(len(law.draws)) * spread
            with np.errstate(invalid="ignore", over="ignore"):
                drawn = SizeDataLaw(*law.draws.T)(cell["sigma"], cell["n_params"]) * np.exp(noise)
            observed, reached = float(found.data[i, j]), bool(np.isfinite(found.data[i, j]))
            rows.append(
                {
                    "task": cell["task"], "threshold": float(found.thresholds[j]), "utd": cell["utd"],
                    "width": cell["width"], "n_params": cell["n_params"], "split": split[i],
                    "observed": observed, "reached": reached, "at_least": float(found.limit[i]),
                    "predicted": predicted, "interval95": interval(drawn),
                    "signed_error": predicted / observed - 1 if reached else None,
                }
            )  # fmt: skip
    return rows

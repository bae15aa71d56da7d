"""Learning curves → data until a return level: normalise, average seeds, isotonic regression, first crossing (A1)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from scipy.optimize import isotonic_regression

from analysis.records import Study
from analysis.uncertainty import Bootstrap, Floats
from rlscale.typed import Mistake

CELL = ["task", "utd", "sigma", "batch_size", "learning_rate"]  # what the seeds of one configuration share
Track = Callable[[Iterable[Any], int, str], Iterable[Any]]  # (items, how many, label) → the same items, shown passing


@dataclass(frozen=True)
class Reference:
    """What return counts as 0 and as 1000, task by task, and the levels at which data is counted.

    `floor` and `ceiling` map tasks to raw returns; the key ``default`` serves every task that is not listed.
    `n_params` is N of eq 4.2 (null: the critic's parameters in the records). `delta` is what one env step costs, in
    FLOPs (the papers' δ).
    """

    name: str
    floor: Mapping[str, float]
    ceiling: Mapping[str, float]
    thresholds: tuple[float, ...]
    n_params: float | None
    delta: float

    def __post_init__(self) -> None:
        if not self.thresholds or list(self.thresholds) != sorted(set(self.thresholds)):
            raise ValueError(f"thresholds={list(self.thresholds)}: list at least one level, in rising order")
        if self.delta < 0:
            raise ValueError(f"delta={self.delta}: one env step cannot cost less than nothing")

    def span(self, task: str) -> tuple[float, float]:
        """(floor, ceiling) of `task` in raw return. Raises Mistake naming the key to add."""
        found = []
        for key in ("floor", "ceiling"):
            table: Mapping[str, float] = getattr(self, key)
            if task not in table and "default" not in table:
                raise Mistake(
                    f"reference.{key} knows no task {task}: add +reference.{key}.{task}=… (to reference={self.name})"
                )
            found.append(float(table[task] if task in table else table["default"]))
        if not found[0] < found[1]:
            raise Mistake(f"reference.ceiling.{task}={found[1]}: give a return above its floor {found[0]}")
        return found[0], found[1]

    def normalise(self, returns: Floats, task: str) -> Floats:
        """1000 · (R − floor) / (ceiling − floor)."""
        floor, ceiling = self.span(task)
        return np.asarray(1000.0 * (returns - floor) / (ceiling - floor))


@dataclass(frozen=True)
class Curve:
    """One configuration: `steps` [T] at which all its seeds have a value, and normalised `values` [T, S]."""

    steps: Floats
    values: Floats

    @property
    def mean(self) -> Floats:
        return np.asarray(self.values.mean(axis=1))


@dataclass(frozen=True)
class Crossings:
    """Env steps until each threshold, for each configuration; inf = not reached within `t_max`: censored, not missing.

    `cells` [n]: CELL, n_seeds, n_diverged, t_max. `thresholds` [J], `point` [n, J] from the mean over all seeds,
    `draws` [n, K, J] from resampled seeds. `curves`: one per cell.
    """

    cells: pd.DataFrame
    thresholds: Floats
    point: Floats
    draws: Floats
    curves: list[Curve]
    dropped: list[tuple[str, str]]

    def take(self, keep: Any) -> Crossings:
        """The same for the cells where the mask `keep` [n] is true."""
        rows = np.flatnonzero(np.asarray(keep))
        return Crossings(
            self.cells.iloc[rows].reset_index(drop=True), self.thresholds, self.point[rows], self.draws[rows],
            [self.curves[i] for i in rows], self.dropped,
        )  # fmt: skip


def isotonic(steps: Floats, values: Floats) -> Floats:
    """The non-decreasing curve nearest to `values` [T] in least squares, at the same `steps` [T].

    Steps may be in any order; points at equal steps count as one point of that weight.
    """
    unique, where, weight = np.unique(steps, return_inverse=True, return_counts=True)
    if len(unique) == len(steps) and np.array_equal(unique, steps):
        return np.asarray(isotonic_regression(values).x)
    mean = np.bincount(where, weights=values) / weight
    return np.asarray(isotonic_regression(mean, weights=weight.astype(float)).x[where])


def first_crossings(steps: Floats, rising: Floats, thresholds: Floats) -> Floats:
    """The first step at which the non-decreasing `rising` [T] is at least each threshold [J]; inf where it never is."""
    index = np.searchsorted(rising, thresholds, side="left")  # [J]
    return np.asarray(np.append(steps, np.inf)[index])


def join_seeds(seeds: list[tuple[Floats, Floats, bool]]) -> Curve:
    """Seeds [(steps, values, diverged)] → the curve on the steps where every seed has a value.

    Rows without a finite value are skipped for that seed. A seed that diverged is held at its last finite value from
    then on: what it had reached stays counted and nothing is invented after it, so crossings before the divergence
    are as measured, and higher levels are only reached if the other seeds make up for it. (Setting it to the floor
    instead would, through the isotonic pooling, also undo crossings that came before.)
    """
    clean = [(s[np.isfinite(v)], v[np.isfinite(v)], diverged) for s, v, diverged in seeds]
    living = [s for s, _, diverged in clean if not diverged] or [max((s for s, _, _ in clean), key=lambda s: s.size)]
    common = living[0]
    for steps in living[1:]:
        common = np.intersect1d(common, steps)
    columns = []
    for steps, values, diverged in clean:
        if diverged and steps.size:
            at = np.searchsorted(steps, common, side="right") - 1
            columns.append(np.where(at >= 0, values[np.maximum(at, 0)], values[0]))
        elif steps.size:
            columns.append(values[np.searchsorted(steps, common)])
    if not columns or common.size == 0:
        return Curve(np.empty(0), np.empty((0, len(columns))))
    return Curve(common.astype(float), np.stack(columns, axis=1))


def crossings(study: Study, reference: Reference, metric: str, bootstrap: Bootstrap, track: Track) -> Crossings:
    """D_J for every configuration of the study, at every threshold, with its bootstrap draws (METHOD A1)."""
    thresholds = np.asarray(reference.thresholds, dtype=float)
    by_run = {run_id: part for run_id, part in study.curves.groupby("run_id", sort=False)}
    groups = list(study.runs.groupby(CELL, sort=True))
    rows, points, draws, curves, dropped = [], [], [], [], []
    for key, members in track(groups, len(groups), "resampling seeds"):
        seeds = []
        for run in members.sort_values(["seed", "run_id"]).itertuples():
            part = by_run.get(run.run_id, study.curves.iloc[:0])
            value = reference.normalise(part[metric].to_numpy(dtype=float), str(run.task))
            if not np.isfinite(value).any() and run.status == "diverged":
                seeds.append((np.zeros(1), np.zeros(1), True))  # it counts, at the floor: leaving it out would flatter
                continue
            if not np.isfinite(value).any():
                dropped.append((str(run.run_id), f"{metric} is empty in every row of curve.csv"))
                continue
            seeds.append((part["env_step"].to_numpy(dtype=float), value, run.status == "diverged"))
        curve = join_seeds(seeds) if seeds else None
        if curve is None or curve.steps.size < 2:
            if seeds:
                reason = f"its seeds share fewer than two steps with a {metric}"
                dropped += [(str(run_id), reason) for run_id in members["run_id"]]
            continue
        name = cell_name(dict(zip(CELL, key, strict=True)))
        means = bootstrap.resample(curve.values, name)  # [T, K]
        rising = [isotonic(curve.steps, means[:, k]) for k in range(means.shape[1])]
        points.append(first_crossings(curve.steps, isotonic(curve.steps, curve.mean), thresholds))
        draws.append(np.stack([first_crossings(curve.steps, r, thresholds) for r in rising]))
        counts = {"n_seeds": curve.values.shape[1], "n_diverged": sum(d for *_, d in seeds), "t_max": curve.steps[-1]}
        rows.append(dict(zip(CELL, key, strict=True)) | counts)
        curves.append(curve)
    if not rows:
        raise Mistake(f"metric={metric}: no selected run has a value of it; choose metric=train_return or eval_return")
    return Crossings(pd.DataFrame(rows), thresholds, np.stack(points), np.stack(draws), curves, dropped)


def cell_name(cell: Mapping[str, Any]) -> str:
    """The name that keys a configuration's random stream."""
    return (
        f"task={cell['task']}/utd={cell['utd']}/batch_size={int(cell['batch_size'])}"
        f"/learning_rate={float(cell['learning_rate'])!r}"
    )

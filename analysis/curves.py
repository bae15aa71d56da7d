"""Learning curves → data until a return level: normalise, average seeds, isotonic regression, first crossing (A1)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from scipy.optimize import isotonic_regression

from analysis.crossing import first_reached
from analysis.records import Study
from analysis.uncertainty import Bootstrap, Floats
from rlscale.typed import Mistake

CELL = ["task", "utd", "sigma", "batch_size", "learning_rate"]  # what the seeds of one configuration share …
SIZED_CELL = [*CELL, "n_params", "split"]  # … in a study of several model sizes
LEAST_SHARED = 0.9  # of the rarest seed's steps: below that the seeds do not log at the same steps
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

    `cells` [n]: CELL, n_seeds, n_diverged, t_max; in a study of several model sizes also n_params, width and split.
    `thresholds` [J], `point` [n, J] from the mean over all seeds, `draws` [n, K, J] from resampled seeds. `curves`: one
    per cell.
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
    """The first listed step at which `rising` [T] is at least each threshold [J]; inf where it never is.

    For rising steps that is D_J. Records are always sorted; the public code's were not (B23), and it takes the first
    row then as well.
    """
    reached = rising[:, None] >= thresholds  # [T, J]
    return np.asarray(np.where(reached.any(axis=0), steps[reached.argmax(axis=0)], np.inf))


def join_seeds(seeds: list[tuple[Floats, Floats, bool]]) -> Curve:
    """Seeds [(steps, values, diverged)] → the curve on steps where every seed has a value.

    Rows without a finite value are skipped, steps may come in any order, and several rows at one step count as their
    mean. Seeds logged at the same steps are joined on those; where they are not (each logs at the end of its own
    episodes), they are read off by straight lines on the steps of the seed that logged most rarely. The curve ends
    where the shortest seed ends. A seed that diverged is held at its last finite value from then on: what it had
    reached stays counted and nothing is invented after it, so crossings before the divergence are as measured, and
    higher levels are only reached if the other seeds make up for it. (Setting it to the floor instead would, through
    the isotonic pooling, also undo crossings that came before.)
    """
    clean = [(*_one_row_a_step(s, v), diverged) for s, v, diverged in seeds]
    living = [s for s, _, diverged in clean if not diverged and s.size]
    living = living or [max((s for s, _, _ in clean), key=lambda s: s.size)]
    common = living[0]
    for steps in living[1:]:
        common = common if np.array_equal(common, steps) else np.intersect1d(common, steps)
    low, high = max((s[0] for s in living if s.size), default=0.0), min((s[-1] for s in living if s.size), default=-1.0)
    shared = [s[(s >= low) & (s <= high)] for s in living]
    rarest = min(shared, key=lambda s: s.size)
    if common.size < LEAST_SHARED * rarest.size:
        common = rarest
    columns = []
    for steps, values, diverged in clean:
        if steps.size:
            columns.append(_held(steps, values, common) if diverged else np.interp(common, steps, values))
    if not columns or common.size == 0:
        return Curve(np.empty(0), np.empty((0, len(columns))))
    return Curve(common.astype(float), np.stack(columns, axis=1))


def _one_row_a_step(steps: Floats, values: Floats) -> tuple[Floats, Floats]:
    """The finite rows in rising order of step, rows of one step averaged."""
    finite = np.isfinite(values) & np.isfinite(steps)
    steps, values = steps[finite], values[finite]
    if steps.size < 2 or bool((np.diff(steps) > 0).all()):
        return steps, values
    unique, where, count = np.unique(steps, return_inverse=True, return_counts=True)
    return unique, np.bincount(where, weights=values) / count


def _held(steps: Floats, values: Floats, at: Floats) -> Floats:
    """The last value at or before each step of `at`."""
    index = np.searchsorted(steps, at, side="right") - 1
    return np.asarray(np.where(index >= 0, values[np.maximum(index, 0)], values[0]))


def crossings(
    study: Study, reference: Reference, metric: str, bootstrap: Bootstrap, track: Track, interpolate: bool = False
) -> Crossings:
    """D_J for every configuration of the study, at every threshold, with its bootstrap draws (METHOD A1).

    With `interpolate` a crossing may lie between two logging points; without, it is the first logged step at which the
    level is reached (the papers'), half a logging interval late on average.
    """
    thresholds = np.asarray(reference.thresholds, dtype=float)
    cells, dropped = joined(study, reference, metric)
    if not cells:
        raise Mistake(f"metric={metric}: no selected run has a value of it; choose metric=train_return or eval_return")

    def reached(cell: tuple[dict[str, Any], Curve]) -> tuple[Floats, Floats]:
        row, curve = cell
        weights = bootstrap.weights(row["n_seeds"], cell_name(row))
        one = np.ones((1, row["n_seeds"]))
        point = first_reached(curve.steps, curve.values, one, thresholds, interpolate)[0]
        return point, first_reached(curve.steps, curve.values, weights, thresholds, interpolate)

    with ThreadPoolExecutor() as pool:  # numpy lets go of the interpreter's lock where the time is spent
        found = list(track(pool.map(reached, cells), len(cells), "resampling seeds"))
    points, draws = (np.stack(part) for part in zip(*found, strict=True))
    return Crossings(pd.DataFrame([row for row, _ in cells]), thresholds, points, draws, [c for _, c in cells], dropped)


def joined(
    study: Study, reference: Reference, metric: str
) -> tuple[list[tuple[dict[str, Any], Curve]], list[tuple[str, str]]]:
    """Each configuration's row of `Crossings.cells` with its curve, and what was left out. Tables are read once, as
    arrays: a look-up in a table for every run takes longer than the statistics."""
    ids, steps = study.curves["run_id"].to_numpy(), study.curves["env_step"].to_numpy(dtype=float)
    raw = study.curves[metric].to_numpy(dtype=float)
    starts = np.flatnonzero(np.append(True, ids[1:] != ids[:-1])) if len(ids) else np.empty(0, dtype=int)
    rows_of = {ids[a]: slice(a, b) for a, b in zip(starts, np.append(starts[1:], len(ids)), strict=True)}
    keys, told = (SIZED_CELL, ["width"]) if study.sized else (CELL, [])
    runs = study.runs.sort_values([*keys, "seed", "run_id"], ignore_index=True)
    group = runs.groupby(keys, sort=False).ngroup().to_numpy()
    columns = {name: runs[name].tolist() for name in (*keys, *told, "run_id", "status")}
    cells, dropped = [], []
    for first, last in zip(
        *(np.searchsorted(group, np.arange(group[-1] + 1), side=s) for s in ("left", "right")), strict=True
    ):
        row = {name: columns[name][first] for name in (*keys, *told)}
        seeds = []
        for i in range(first, last):
            run_id, diverged = columns["run_id"][i], columns["status"][i] == "diverged"
            part = rows_of.get(run_id, slice(0, 0))
            value = reference.normalise(raw[part], row["task"])
            if np.isfinite(value).any():
                seeds.append((steps[part], value, diverged))
            elif diverged:
                seeds.append((np.zeros(1), np.zeros(1), True))  # it counts, at the floor: leaving it out would flatter
            else:
                dropped.append((str(run_id), f"{metric} is empty in every row of curve.csv"))
        if not seeds:
            continue
        curve = join_seeds(seeds)
        if curve.steps.size < 2:
            reason = f"its seeds share fewer than two steps with a {metric}"
            dropped += [(str(run_id), reason) for run_id in columns["run_id"][first:last]]
            continue
        counts = {"n_seeds": curve.values.shape[1], "n_diverged": sum(d for *_, d in seeds), "t_max": curve.steps[-1]}
        cells.append((row | counts, curve))
    return cells, dropped


def cell_name(cell: Mapping[str, Any]) -> str:
    """The name that keys a configuration's random stream."""
    size = f"/n_params={cell['n_params']:.0f}" if "n_params" in cell else ""
    return (
        f"task={cell['task']}/utd={cell['utd']}/batch_size={int(cell['batch_size'])}"
        f"/learning_rate={float(cell['learning_rate'])!r}{size}"
    )

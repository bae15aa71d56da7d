"""`compat=qscaled`: which rows the papers' public code keeps before it fits D(σ).

Number B3 is a defect of that code as QSCALED.md §1.16 lists it.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from analysis.curves import CELL, Crossings, cell_name, join_seeds
from analysis.records import Study
from analysis.uncertainty import Floats
from rlscale.typed import Mistake


def middle_settings(crossed: Crossings) -> tuple[Crossings, list[tuple[str, str]]]:
    """One configuration for each (task, σ): the middle one of its sorted batch sizes and of its learning rates."""
    cells, keep, dropped = crossed.cells, np.zeros(len(crossed.cells), dtype=bool), []
    for _, at in cells.groupby(["task", "utd"], sort=True):
        values = {q: np.unique(at[q]) for q in ("batch_size", "learning_rate")}
        chosen = np.all([at[q] == grid[len(grid) // 2] for q, grid in values.items()], axis=0)
        keep[at.index[chosen]] = True
        why = "is not the middle one of its task and σ" if chosen.any() else "and no other is the middle of both"
        dropped += [(cell_name(cells.loc[i]), f"compat=qscaled: the setting {why}") for i in at.index[~chosen]]
    if not keep.any():
        raise Mistake("compat=qscaled: no task has a run at its middle batch size and learning rate; leave compat out")
    return crossed.take(keep), dropped


def keep_rows(steps: Floats, mean: Floats, error: Floats, every: int) -> Any:
    """Which rows [T] stay when the dips after resets at `every`, 2·`every`, … env steps are left out.

    After a reset rows stay from the first whose mean + standard error reaches mean − standard error of the last row
    before it; one row is passed over at the start of each stretch, the first too. B3: at HEAD this has no effect, but
    the DMC fits that are published with it were made when it had.
    """
    resets = np.arange(every, steps.max() + 1, every)
    after = np.searchsorted(steps, resets, side="right")
    keep = np.zeros(len(steps), dtype=bool) if len(resets) else np.ones(len(steps), dtype=bool)
    for start, end in zip([0, *after], [*after, len(steps)], strict=True) if len(resets) else ():
        level = mean[start - 1] - error[start - 1] if start else -np.inf
        back = np.flatnonzero((mean + error)[start + 1 : end] >= level)
        if len(back):
            keep[start + 1 + back[0] : end] = True
    return keep


def without_resets(study: Study, metric: str, every: float) -> Study:
    """The study without the rows that `keep_rows` leaves out; `every` gradient steps between resets.

    Mean and standard error are over the seeds of a configuration, at the steps that all of them have.
    """
    by_run = {run_id: part for run_id, part in study.curves.groupby("run_id", sort=False)}
    gone = []
    for key, members in study.runs.groupby(CELL, sort=True):
        sigma = float(key[CELL.index("sigma")])
        parts = [by_run[run_id] for run_id in members["run_id"] if run_id in by_run]
        curve = join_seeds([(p["env_step"].to_numpy(float), p[metric].to_numpy(float), False) for p in parts])
        if curve.steps.size:
            error = curve.values.std(axis=1) / np.sqrt(curve.values.shape[1])
            left = curve.steps[~keep_rows(curve.steps, curve.mean, error, int(every / sigma))]
            gone += [p.index[p["env_step"].isin(left)] for p in parts]
    kept = study.curves.drop(index=np.concatenate(gone)) if gone else study.curves
    return replace(study, curves=kept.reset_index(drop=True))

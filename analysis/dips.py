"""The rows of a study that count for a rising curve: to a task's last step, none in dips after resets (METHOD B)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Literal

import numpy as np

from analysis.curves import SIZED_CELL, join_seeds
from analysis.records import Study
from analysis.rising import inferred_resets, out_of_dips
from analysis.uncertainty import Floats


def counted(
    study: Study, metric: str, resets: float | Literal["logged"] | None, max_steps: Mapping[str, float] | None
) -> Study:
    """The study without the rows after `max_steps` of their task, and without those in dips of a configuration's mean.

    `resets`: ``logged`` (from the runs' column `reset`), gradient steps between resets (for runs that did not log
    them), or None: no dips. `max_steps` maps tasks to env steps; ``default`` serves those that it does not list.
    """
    curves = study.curves
    if max_steps is not None:
        task = dict(zip(study.runs["run_id"], study.runs["task"], strict=True))
        limit = curves["run_id"].map(lambda run: max_steps.get(task[run], max_steps.get("default", np.inf)))
        curves = curves[(curves["env_step"] <= limit).to_numpy()]
    if resets is None:
        return replace(study, curves=curves.reset_index(drop=True))
    by_run = {run_id: part for run_id, part in curves.groupby("run_id", sort=False)}
    gone = []
    for key, members in study.runs.groupby(SIZED_CELL, sort=True):
        sigma = float(key[SIZED_CELL.index("sigma")])
        parts = [by_run[run_id] for run_id in members["run_id"] if run_id in by_run]
        curve = join_seeds([(p["env_step"].to_numpy(float), p[metric].to_numpy(float), False) for p in parts])
        if not curve.steps.size:
            continue
        if resets == "logged":
            at = logged_resets(parts[0]["env_step"].to_numpy(float), parts[0]["reset"].to_numpy(float))
        else:
            at = inferred_resets(int(resets), sigma, float(curve.steps[-1]))
        left = curve.steps[~out_of_dips(curve.steps, curve.mean, at)]
        gone += [p.index[p["env_step"].isin(left)] for p in parts]
    kept = curves.drop(index=np.concatenate(gone)) if gone else curves
    return replace(study, curves=kept.reset_index(drop=True))


def logged_resets(steps: Floats, reset: Floats) -> Floats:
    """Env steps of the resets [R] of a run that logged at `steps` [T] how many came since the row before, `reset` [T].

    Each lies somewhere between two rows; the middle says that the earlier row was before it and the later one after.
    """
    before = np.concatenate([[0.0], steps[:-1]])
    return np.asarray(((before + steps) / 2)[np.nan_to_num(reset) > 0])

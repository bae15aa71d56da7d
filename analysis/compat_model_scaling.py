"""`compat=model_scaling`: which data the follow-up's public code counts, so that its saved fits come out again.

The mean at a step is over the seeds that have a return there (those that stopped early are left out from then on), dips
are taken out of that mean at inferred resets, and a level is reached at the first evaluation that is at least as high.
Its fits, without intervals, are in `analysis.model_scaling`.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from analysis.curves import SIZED_CELL, Reference, first_crossings
from analysis.records import Study
from analysis.rising import Rising, inferred_resets, rising
from analysis.sized import FINALS, UNIT, Options, Settings
from rlscale.typed import Mistake

NOTE = (
    "compat=model_scaling: the follow-up's own recipe, for reproducing its numbers; it has no intervals, and leaves "
    "settings out that did not reach a level"
)


def settings(study: Study, reference: Reference, metric: str, options: Options) -> Settings:
    """As sized.settings, by the public code's rules; draws are the points, once. Raises Mistake."""
    by_run = {run_id: part for run_id, part in study.curves.groupby("run_id", sort=False)}
    heads, curves = [], []
    for key, members in study.runs.groupby(SIZED_CELL, sort=True):
        head = dict(zip(SIZED_CELL, key, strict=True)) | {c: members[c].iloc[0] for c in ("width", "split")}
        seeds = [by_run[run].set_index("env_step")[metric] for run in members["run_id"] if run in by_run]
        curve = _rising(pd.concat(seeds, axis=1), head, options)
        if curve.steps.size:
            heads.append(head | {"t_max": curve.steps[-1]})
            curves.append(curve)
    if not heads:
        raise Mistake(f"metric={metric}: no selected run has a value of it; choose metric=train_return or eval_return")
    cells = pd.DataFrame(heads).assign(final=[curve.final for curve in curves])
    levels = {}
    if (policy := options.policy()) is None:
        for task in sorted(cells["task"].unique()):
            floor, ceiling = reference.span(task)
            levels[task] = floor + np.asarray(reference.thresholds) * (ceiling - floor) / UNIT
    else:
        counted = options.least.counts(cells["sigma"], cells["n_params"])
        levels = policy.levels(cells.loc[counted, FINALS])
        levels = {task: levels[task] for task in sorted(levels)}
    crossed = np.array(
        [first_crossings(c.steps, c.values, levels[t]) for c, t in zip(curves, cells["task"], strict=True)]
    )
    rows, data, batch, limit = [], [], [], []
    columns = np.arange(crossed.shape[1])
    for _, at in cells.groupby(["task", "sigma", "n_params"], sort=True):
        winner = at.index.to_numpy()[crossed[at.index].argmin(axis=0)]  # the smallest batch size of those that tie
        rows.append(at.iloc[0][["task", "utd", "sigma", "n_params", "width", "split"]].to_dict())
        data.append(crossed[winner, columns])
        batch.append(cells["batch_size"].to_numpy(float)[winner])
        limit.append(float(at["t_max"].max()))
    points = np.stack(data)
    thresholds = np.asarray(reference.thresholds, float) if policy is None else np.linspace(0, UNIT, len(columns))
    return Settings(
        pd.DataFrame(rows), thresholds, levels, points, points[:, None, :], np.stack(batch), np.array(limit), []
    )


def _rising(returns: pd.DataFrame, head: dict[str, object], options: Options) -> Rising:
    """One configuration's rising mean curve, of the rows that count."""
    returns = returns.sort_index()
    steps = returns.index.to_numpy(float)
    limits = options.max_steps or {}
    last = float(limits.get(str(head["task"]), limits.get("default", steps[-1])))
    last = min(last, float(steps[-1]))
    resets = np.empty(0)
    if options.resets not in (None, "logged"):
        resets = inferred_resets(int(float(options.resets)), float(str(head["sigma"])), last)
    return rising(steps, returns.to_numpy(float), resets, last)

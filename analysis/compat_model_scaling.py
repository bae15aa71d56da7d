"""`compat=model_scaling`: which data the follow-up's public code counts, so that its saved fits come out again.

The mean at a step is over the seeds that have a return there (those that stopped early are left out from then on), dips
are taken out of that mean at inferred resets, and a level is reached at the first evaluation that is at least as high.
Its fits, without intervals, are in `analysis.model_scaling`.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from analysis.curves import SIZED_CELL, Reference, first_crossings
from analysis.records import Study
from analysis.rising import Rising, inferred_resets, rising
from analysis.sized import FINALS, UNIT, Options, Settings, best_settings, raw_levels
from rlscale.typed import Mistake

NOTE = (
    "compat=model_scaling: the follow-up's own recipe, for reproducing its numbers; it has no intervals, and leaves "
    "settings out that did not reach a level"
)


def settings(study: Study, reference: Reference, metric: str, options: Options) -> Settings:
    """The best settings by the public code's rules; draws are the points, once. Raises Mistake."""
    by_run = {run_id: part for run_id, part in study.curves.groupby("run_id", sort=False)}
    heads, curves = [], []
    for key, members in study.runs.groupby(SIZED_CELL, sort=True):
        head = dict(zip(SIZED_CELL, key, strict=True)) | {"width": members["width"].iloc[0]}
        seeds = [by_run[run].set_index("env_step")[metric] for run in members["run_id"] if run in by_run]
        curve = _rising(pd.concat(seeds, axis=1), head, options)
        if curve.steps.size:
            heads.append(head | {"t_max": curve.steps[-1], "final": curve.final})
            curves.append(curve)
    if not heads:
        raise Mistake(f"metric={metric}: no selected run has a value of it; choose metric=train_return or eval_return")
    cells = pd.DataFrame(heads)
    if (policy := options.policy()) is None:
        levels, thresholds = raw_levels(reference, cells["task"]), np.asarray(reference.thresholds, dtype=float)
    else:
        counted = options.least.counts(cells["sigma"], cells["n_params"])
        levels = policy.levels(cells.loc[counted, FINALS])
        thresholds = np.linspace(0, UNIT, len(next(iter(levels.values()))))
    point = np.array(
        [first_crossings(c.steps, c.values, levels[t]) for c, t in zip(curves, cells["task"], strict=True)]
    )
    return best_settings(cells, point, point[:, None, :], thresholds, levels, [])


def _rising(returns: pd.DataFrame, head: dict[str, Any], options: Options) -> Rising:
    """One configuration's rising mean curve, of the rows that count."""
    returns = returns.sort_index()
    steps = returns.index.to_numpy(float)
    limits = options.max_steps or {}
    last = float(limits.get(head["task"], limits.get("default", steps[-1])))
    last = min(last, float(steps[-1]))
    resets = np.empty(0)
    if options.resets not in (None, "logged"):
        resets = inferred_resets(int(float(options.resets)), head["sigma"], last)
    return rising(steps, returns.to_numpy(float), resets, last)

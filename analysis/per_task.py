"""D_J(σ) of each task by itself: the shifted power law (4.1), exponent shared by the task's thresholds (METHOD A3)."""

from __future__ import annotations

from typing import Any

import numpy as np

from analysis.curves import Crossings
from analysis.fits import FEWEST_LEVELS
from analysis.forms import FORMS
from analysis.joint import fit_joint
from analysis.uncertainty import interval

STARTS = 5


def per_task(crossed: Crossings, fit_utds: list[str]) -> tuple[list[dict[str, Any]], list[tuple[str, str]]]:
    """One row for each task and threshold reached at three of the `fit_utds` at least, and what was left out.

    A row has the law's parameters with intervals (of the seeds: one task's points are too few to tell its scatter) and
    each point's data D, also `relative` to the task's median over the fitted σ.
    """
    rows, dropped = [], []
    cells = crossed.cells
    for task in sorted(cells["task"].unique()):
        at = np.flatnonzero(((cells["task"] == task) & cells["utd"].isin(fit_utds)).to_numpy())
        at = at[np.argsort(cells["sigma"].to_numpy(float)[at], kind="stable")]
        limit = cells["t_max"].to_numpy(float)[at]
        reached = np.isfinite(crossed.point[at])  # [n, J]
        kept = np.flatnonzero(reached.sum(axis=0) >= FEWEST_LEVELS)
        dropped += [
            (f"{task} at J={crossed.thresholds[j]:g}, by itself", f"reached at {reached[:, j].sum()} σ: no law")
            for j in np.setdiff1d(np.arange(len(crossed.thresholds)), kept)
        ]
        if not kept.size:
            continue
        x = np.log(cells["sigma"].to_numpy(float)[at])
        point = np.where(reached, crossed.point[at], limit[:, None])[:, kept].T  # [J, n]
        drawn = crossed.draws[at][:, :, kept].transpose(1, 2, 0)  # [K, J, n]
        missed = np.isinf(drawn)
        form = FORMS["shifted_power"]
        law = np.exp(fit_joint(form, x, np.log(point)[None], ~reached[:, kept].T[None], STARTS).theta[0])
        draws = np.exp(fit_joint(form, x, np.log(np.where(missed, limit, drawn)), missed).theta)
        for i, j in enumerate(kept):
            names = ("d_min", "beta", "alpha")
            median = float(np.median(point[i]))
            rows.append(
                {
                    "task": task, "threshold": float(crossed.thresholds[j]), **dict(zip(names, law[i], strict=True)),
                    "ci95": {name: interval(draws[:, i, k]) for k, name in enumerate(names)},
                    "points": [
                        {"utd": utd, "data": value, "relative": value / median, "reached": bool(seen)}
                        for utd, value, seen in zip(cells["utd"].to_numpy()[at], point[i], reached[:, j], strict=True)
                    ],
                }
            )  # fmt: skip
    return rows, dropped

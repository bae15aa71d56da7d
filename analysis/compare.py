"""Fitted settings against constant ones: the same tasks and σ, once at the laws and once at one measured pair."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from analysis.budget import compute
from analysis.curves import Crossings
from analysis.uncertainty import Floats, interval


@dataclass(frozen=True)
class Saving:
    """At one σ, data with constant settings over data with fitted ones.

    `ratio`: geometric mean over `tasks` (task → its own ratio), those that reached the level both ways; `interval`:
    95 % over resampled seeds. `missed`: tasks that reached it with the fitted settings alone.
    """

    utd: str
    sigma: float
    ratio: float
    interval: list[float]
    tasks: Mapping[str, float]
    missed: tuple[str, ...]


def constant(crossings: Crossings, pairs: Sequence[Mapping[str, Any]]) -> Crossings:
    """The cells that were run at their task's constant pair (batch_size, learning_rate)."""
    pair = {p["task"]: (int(p["batch_size"]), float(p["learning_rate"])) for p in pairs}
    cells = crossings.cells
    return crossings.take(
        [
            pair.get(t) == (b, r)
            for t, b, r in zip(cells["task"], cells["batch_size"], cells["learning_rate"], strict=True)
        ]
    )


def savings(base: Crossings, fitted: Crossings, threshold: float) -> list[Saving]:
    """One Saving for each σ at which a task reached `threshold` both ways; both have one cell for each (task, σ)."""
    j, k = (int(np.abs(c.thresholds - threshold).argmin()) for c in (base, fitted))
    place = {(r.task, r.utd): r.Index for r in fitted.cells.itertuples()}
    rows = []
    for (_, utd), cells in base.cells.groupby(["sigma", "utd"], sort=True):
        ratios: dict[str, float] = {}
        draws: list[Floats] = []
        missed = []
        for i in cells.index:
            task = str(cells.loc[i, "task"])
            other = place.get((task, utd))
            if other is None or not np.isfinite(fitted.point[other, k]):
                continue
            if not np.isfinite(base.point[i, j]):
                missed.append(task)
                continue
            ratios[task] = float(base.point[i, j] / fitted.point[other, k])
            with np.errstate(invalid="ignore"):
                draws.append(np.log(base.draws[i, :, j]) - np.log(fitted.draws[other, :, k]))
        if ratios:
            mean = float(np.exp(np.mean(np.log(list(ratios.values())))))
            with np.errstate(invalid="ignore"):
                drawn = np.mean(draws, axis=0)
            drawn = np.exp(np.where(np.isfinite(drawn), drawn, np.nan))  # without resamples that miss the level
            sigma = float(cells["sigma"].iloc[0])
            rows.append(Saving(str(utd), sigma, mean, interval(drawn), ratios, tuple(missed)))
    return rows


def average_task(base: Crossings, row: Mapping[str, Any], n_params: float) -> tuple[Floats, Floats]:
    """(compute, data) [n] of the average task of one of laws.json's levels at constant settings, σ by σ.

    Only σ at which every task of that level reached it: each task's data over its own scale, geometric mean.
    """
    j = int(np.abs(base.thresholds - row["threshold"]).argmin())
    out = []
    for (sigma, _), cells in base.cells.groupby(["sigma", "utd"], sort=True):
        here = cells[cells["task"].isin(row["scale"])]
        data = base.point[here.index, j]
        if len(here) == len(row["scale"]) and np.isfinite(data).all():
            mean = float(np.exp(np.mean(np.log(data) - np.log([row["scale"][t] for t in here["task"]]))))
            out.append((compute(n_params, float(here["batch_size"].mean()), float(sigma), mean), mean))
    return np.array([c for c, _ in out]), np.array([d for _, d in out])

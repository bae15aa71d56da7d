"""`compat=qscaled` for B*(σ) and η*(σ): what the papers' public code does otherwise, defects and all; off by default.

Everything that is not here is the same in both: normalisation, isotonic curves, first crossings, resamples of the seeds
that are independent from one configuration to the next, least squares in logs, rounding and tabulation of proposals.
Numbers B2, B5, … are the defects of that code (qscaled at a9a99d0) as QSCALED.md §1.16 lists them. Two of its ways
cannot be had back: its bootstrap is unseeded, and ties between settings go to whichever file comes first in its zip.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from math import exp, log

import numpy as np
import pandas as pd

from analysis.best import OTHER, Best, threshold_index
from analysis.curves import Crossings
from analysis.fits import PowerLaws, levels, shared_slope
from analysis.uncertainty import Bootstrap, Floats, interval
from rlscale.typed import Mistake

NOTE = (
    "compat=qscaled: the choices of the public code, for reproducing its numbers; intervals hold the seeds alone, and "
    "its bootstrap was unseeded, so its own numbers differ from these by chance"
)


@dataclass(frozen=True)
class Resamples(Bootstrap):
    """Plain resamples of the seeds with replacement: whatever else is done about few seeds is not done here."""

    def weights(self, seeds: int, name: str) -> Floats:
        """Weights of the seeds in each draw: [K, S], each row sums to 1."""
        return self.stream(name).multinomial(seeds, np.full(seeds, 1.0 / seeds), size=self.draws) / seeds


def best(crossings: Crossings, quantity: str, threshold: str | float) -> Best:
    """B̂(task, σ) or η̂(task, σ) (D.1, D.4): the arithmetic mean over all groups and draws of each one's fastest value.

    B5: a group (one value of the other hyperparameter) in which nothing reaches the level in a draw votes for its
    smallest value, with the weight of any other; `share` is the part of the votes that are not of this kind. Ties also
    go to the smallest value.
    """
    j = level(crossings, threshold)
    rows, draws = [], []
    for (task, sigma, utd), at in crossings.cells.groupby(["task", "sigma", "utd"], sort=True):
        votes, reached = [], []
        for _, group in at.groupby(OTHER[quantity], sort=True):
            group = group.sort_values(quantity, kind="stable")
            data = crossings.draws[group.index, :, j]  # [grid, K]
            votes.append(group[quantity].to_numpy(float)[data.argmin(axis=0)])  # B5: the first of all-inf
            reached.append(np.isfinite(data).any(axis=0))
        drawn = np.mean(votes, axis=0)  # [K]
        low, high = interval(drawn)
        ends = at[quantity].min(), at[quantity].max()
        rows.append(
            {
                "task": task, "utd": utd, "sigma": sigma, "value": float(drawn.mean()), "low": low, "high": high,
                "threshold": float(crossings.thresholds[j]), "reached": bool(np.all(reached)),
                "share": float(np.mean(reached)),
                "at_low": float(np.mean(votes == ends[0])), "at_high": float(np.mean(votes == ends[1])),
            }
        )  # fmt: skip
        draws.append(drawn)
    return Best(pd.DataFrame(rows), np.stack(draws), [])


def level(crossings: Crossings, threshold: str | float) -> int:
    """The one threshold that decides everywhere. Raises Mistake."""
    index = threshold_index(crossings, threshold)
    if index is None:
        raise Mistake(f"threshold={threshold}: compat=qscaled decides at one level for all; give last or a level")
    return index


def power_laws(found: Best, name: str) -> tuple[PowerLaws, PowerLaws, list[str]]:
    """(shared, separate) by least squares in logs, and notes. B2: a separate law leaves its task's largest σ out."""
    table = found.table
    levels(table["sigma"].to_numpy(float), f"{name} law")
    tasks = tuple(sorted(table["task"].unique()))
    member = table["task"].map({t: i for i, t in enumerate(tasks)}).to_numpy(int)
    x, y, draws = np.log(table["sigma"].to_numpy(float)), np.log(table["value"].to_numpy(float)), np.log(found.draws).T
    one = np.ones(len(tasks))
    (slope, intercept), (slopes, intercepts) = shared_slope(x, y, member), shared_slope(x, draws, member)
    shared = PowerLaws(tasks, slope * one, intercept, slopes[:, None] * one, intercepts)
    apart, apart_draws = [], []
    for t in range(len(tasks)):
        at = np.flatnonzero(member == t)
        at = at[np.argsort(x[at])][:-1] if len(at) > 1 else at  # B2
        zero = np.zeros(len(at), dtype=int)
        apart.append(shared_slope(x[at], y[at], zero))
        apart_draws.append(shared_slope(x[at], draws[:, at], zero))
    separate = PowerLaws(
        tasks,
        np.array([s for s, _ in apart]),
        np.array([i[0] for _, i in apart]),
        np.stack([s for s, _ in apart_draws], axis=1),
        np.stack([i[:, 0] for _, i in apart_draws], axis=1),
    )
    notes = [
        f"{name}: for {r.task} at σ={r.utd} {1 - r.share:.0%} of the votes are for the smallest value because nothing "
        f"reached {r.threshold:g} (B5)"
        for r in table.itertuples()
        if r.share < 1
    ]
    return shared, separate, notes


def baseline(crossings: Crossings, utd: str, threshold: str | float) -> pd.DataFrame:
    """The measured pair (task, batch_size, learning_rate) with the fewest env steps at one σ, the first of equals."""
    j = level(crossings, threshold)
    rows = []
    for task, at in crossings.cells[crossings.cells["utd"] == utd].groupby("task", sort=True):
        data = crossings.point[at.index, j]
        if np.isfinite(data).any():  # B22: where nothing reached the level the code fails
            winner = at.iloc[int(data.argmin())]
            rows.append((task, int(winner["batch_size"]), float(winner["learning_rate"])))
    return pd.DataFrame(rows, columns=["task", "batch_size", "learning_rate"])


def middle(grid: Sequence[Fraction], utds: Sequence[Fraction]) -> Fraction:
    """The σ of the grid that is nearest in log to the geometric mean of the σ to predict."""
    target = exp(sum(log(u) for u in utds) / len(utds))
    return min(sorted(grid), key=lambda s: round(abs(log(float(s) / target)), 12))

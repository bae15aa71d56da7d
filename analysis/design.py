"""Which runs next: greedy by the expected fall of the asked quantity's variance per unit of cost (METHOD C).

A V-optimal design on the joint draws of the bootstrap. Between the asked quantity q (the logarithm of D, C or F at the
answer) and what a run would measure, y = ln D at a σ, the draws give a covariance; it holds whatever makes the answer
uncertain (seeds, scatter, form of the law, its drift beyond the data) and needs no derivative of any law. Measuring y
with variance v takes cov(q, y)² / (var(y) + v) off the variance of q, and updates all covariances for the next choice,
as if all were normal.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from analysis.uncertainty import Floats

TRIM = 0.02  # of the draws at either end are drawn in: one wild draw in a hundred must not place the runs


@dataclass(frozen=True)
class Candidate:
    """A block of `runs` runs (one seed for each task) that measures column `column` of the draws at `cost` FLOPs.

    n blocks measure it with variance scatter² + noise²/n; `have` blocks are recorded already. `limit`: blocks at most.
    """

    column: int
    runs: int
    cost: float
    scatter: float
    noise: float
    have: int
    limit: int

    def precision(self, blocks: int) -> float:
        """1 / variance of the mean of so many blocks."""
        return blocks / (blocks * self.scatter**2 + self.noise**2) if blocks else 0.0


@dataclass(frozen=True)
class Pick:
    """One more block of candidate number `candidate`; variance of q before it and after it."""

    candidate: int
    before: float
    after: float


def covariance(asked: Floats, measured: Floats) -> Floats:
    """Of (q, y_1 … y_m) over draws: asked [K], measured [K, m] → [m + 1, m + 1]."""
    table = np.column_stack([asked, measured])
    low, high = np.quantile(table, [TRIM, 1 - TRIM], axis=0)
    return np.atleast_2d(np.cov(np.clip(table, low, high), rowvar=False))


def gain(joint: Floats, column: int, precision: float) -> float:
    """How much variance of q an independent measurement of y_column with this precision takes away."""
    return float(joint[0, column + 1] ** 2 * precision / (1.0 + joint[column + 1, column + 1] * precision))


def measured(joint: Floats, column: int, precision: float) -> Floats:
    """The covariance after that measurement."""
    with_it = joint[:, column + 1]
    return np.asarray(joint - np.outer(with_it, with_it) * precision / (1.0 + with_it[column + 1] * precision))


def design(joint: Floats, candidates: Sequence[Candidate], runs: int, first: Sequence[int]) -> list[Pick]:
    """Blocks of together at most `runs` runs, best first; the first is the best of the candidates numbered in `first`.

    More seeds where there are some add what the mean of all of them says over what it said.
    """
    have = [c.have for c in candidates]
    picks: list[Pick] = []
    left = runs
    while True:
        open_ = [
            i for i, c in enumerate(candidates)
            if c.runs <= left and have[i] - c.have < c.limit and (picks or not first or i in first)
        ]  # fmt: skip
        if not open_:
            return picks
        more = {i: candidates[i].precision(have[i] + 1) - candidates[i].precision(have[i]) for i in open_}
        best = max(
            open_, key=lambda i: (gain(joint, candidates[i].column, more[i]) / candidates[i].cost, -candidates[i].cost)
        )
        after = measured(joint, candidates[best].column, more[best])
        picks.append(Pick(best, float(joint[0, 0]), float(after[0, 0])))
        joint, left = after, left - candidates[best].runs
        have[best] += 1

"""The three questions of one task with model size: the best (σ, N) within a box, and what no setting in it can keep."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np

from analysis.allocate import Box, Setting
from analysis.question import Question, up
from analysis.size_fitted import Subject
from analysis.size_frontier import SizeFrontier
from analysis.uncertainty import Floats
from rlscale.typed import Mistake

MISSING = Setting(np.nan, np.nan, np.nan, np.nan)  # a draw without an answer


def solve(question: Question, frontier: SizeFrontier) -> Setting | None:
    """The best setting on one level's frontier; None if none keeps the bound (a budget binds across levels)."""
    if question.bound == "compute":
        return frontier.within_compute(question.limit)
    if question.bound == "data":
        return frontier.within_data(question.limit)
    return frontier.cheapest(question.delta)


def cost(question: Question, setting: Setting) -> float:
    """F = C + δ·D."""
    return setting.compute + question.delta * setting.data


def best(question: Question, subject: Subject, threshold: float | None, box: Box) -> tuple[float, Setting]:
    """(threshold, setting): the level asked for, or with a budget the highest that it buys.

    Raises Mistake naming the nearest bound that can be kept.
    """
    if threshold is not None:
        if threshold not in subject.laws:
            have = ", ".join(f"{t:g}" for t in sorted(subject.laws))
            raise Mistake(f"target={threshold:g}: {subject.called} has no law for this level; it has {have}")
        found = solve(question, subject.frontier(threshold, box))
        if found is None:
            raise Mistake(_infeasible(question, subject.frontier(threshold, box)))
        return threshold, found
    costs = {}
    for level in sorted(subject.laws, reverse=True):
        found = subject.frontier(level, box).cheapest(question.delta)
        costs[level] = cost(question, found)
        if costs[level] <= question.limit:
            return level, found
    least = min(costs, key=lambda t: costs[t])
    raise Mistake(
        f"budget={question.limit:g}: the cheapest level of {subject.called}, {least:g}, alone costs "
        f"{up(costs[least])}; give at least that"
    )


def _infeasible(question: Question, frontier: SizeFrontier) -> str:
    if question.bound == "compute":
        least = frontier.cheapest(0.0)
        return (
            f"compute={question.limit:g}: reaching {question.target:g} takes at least {up(least.compute)} FLOPs "
            f"(at σ = {least.sigma:.3g}, N = {least.n_params:.3g}, {least.data:.3g} env steps); give that, or a lower "
            "target"
        )
    far = frontier.least_data()
    return (
        f"data={question.limit:g}: reaching {question.target:g} takes at least {up(far.data)} env steps "
        f"(at σ = {far.sigma:.3g}, N = {far.n_params:.3g}); give that, a lower target, or a larger extend"
    )


def drawn(question: Question, frontiers: Iterable[SizeFrontier | None]) -> Mapping[str, Floats]:
    """`utd`, `n_params`, `data`, `compute`, `budget`, `batch_size` of the answer in each draw [K]; NaN without one."""
    rows = []
    for frontier in frontiers:
        found = None if frontier is None else solve(question, frontier)
        p = MISSING if found is None else found
        batch = np.nan if frontier is None or found is None else float(frontier.batch_size(p.sigma, p.n_params))
        rows.append((p.sigma, p.n_params, p.data, p.compute, cost(question, p), batch))
    table = np.array(rows, dtype=float).reshape(-1, 6)
    return dict(zip(("utd", "n_params", "data", "compute", "budget", "batch_size"), table.T, strict=True))

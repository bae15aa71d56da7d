"""The next runs for a question: what could be run, which of it to run (analysis.design), and the sweep that runs it.

A block is one seed of every task at one σ: a law of the average task can use a σ only where all tasks were run. Blocks
can be more seeds at a fitted σ, the first at a σ between two, at the answer or beyond the ends, and, where the law of B
has draws, both neighbours ×√2 and ×√½ of B at a fitted σ. One block always lies beyond every σ that was run: the check.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise
from math import log, sqrt
from typing import Any

import numpy as np
import pandas as pd

from analysis.blend import Blend
from analysis.design import Candidate, Pick, covariance, design
from analysis.fitted import Fitted, read_fit
from analysis.question import plain_fraction
from analysis.recorded import env_steps, settings, used_rates
from analysis.uncertainty import Floats
from rlscale.typed import Mistake

LEAST_NOISE = 0.01  # of ln D: no measurement is better than the step at which curves are logged
STEP = log(sqrt(2.0))  # between a batch size and its neighbour
BEYOND = 2  # levels past each end that may be proposed
CLEARLY = 1.2  # a factor in σ beyond what was run that makes a check point


@dataclass(frozen=True)
class Kind:
    """What a candidate is, in words and numbers: `factors` of B are one run each of every task.

    `beyond`: the factor in σ by which it lies outside everything that was run; 1 inside.
    """

    utd: Fraction
    place: str
    beyond: float
    factors: tuple[float, ...]


@dataclass(frozen=True)
class Row:
    """Runs to do: one job. `cost` is C + δ·D of all its runs in FLOPs; `share` the part of the asked quantity's
    present variance that its block takes away, the same for all tasks of a block; `neighbour`: not the law's own B."""

    utd: Fraction
    task: str
    batch_size: int
    learning_rate: float
    seeds: tuple[int, ...]
    env_steps: int
    cost: float
    share: float
    reason: str
    neighbour: bool


@dataclass(frozen=True)
class Proposal:
    """`rows` to run; standard deviation of the ln of the asked quantity before and after; candidates left out."""

    rows: list[Row]
    before: float
    after: float
    dropped: list[tuple[str, str]]


def propose(
    fit: Fitted, runs: pd.DataFrame, j: int, asked: Floats, sigma: Fraction, delta: float, count: int
) -> Proposal:
    """The `count` runs that tell most about ln of the asked quantity [K] (NaN: no answer in that draw) for their cost.

    `runs` are the fit's records (records.RUN_COLUMNS); `sigma` is the answer. Raises Mistake.
    """
    tasks = fit.tasks
    if count < len(tasks):
        raise Mistake(
            f"next={count}: a σ counts only where all {len(tasks)} tasks were run; give {len(tasks)} or a multiple"
        )
    known = np.isfinite(asked)
    if known.sum() < max(20, known.size / 2):
        raise Mistake(
            f"next={count}: only {known.sum()} of {known.size} draws have an answer, too few to plan by; "
            "ask with a looser bound"
        )
    kinds, dropped = _kinds(fit, runs, j, sigma)
    checks = _checks(kinds)
    if not checks:
        raise Mistake(
            f"next={count}: no σ beyond those that were run would reach the level within their env steps "
            f"({dropped[-1][1]}); choose a lower target"
        )
    columns = np.column_stack([_column(fit, kind, j) for kind in kinds])
    scatter, noise = seed_noise(fit, runs, j)
    candidates = [_candidate(fit, runs, j, kind, i, delta, scatter, noise) for i, kind in enumerate(kinds)]
    joint = covariance(np.log(asked[known]), columns[known])
    if joint[0, 0] <= 0.0:
        raise Mistake(f"next={count}: all draws give the same answer, so there is nothing to narrow")
    picks = design(joint, candidates, count, checks)
    rows = _rows(fit, runs, j, kinds, picks, joint, delta)
    return Proposal(rows, sqrt(joint[0, 0]), sqrt(max(0.0, picks[-1].after)), dropped)


def seed_noise(fit: Fitted, runs: pd.DataFrame, j: int) -> tuple[float, float]:
    """(scatter of ln D about the law, standard deviation of ln D of a single block) at threshold j.

    A block's is pooled from the intervals of the measured points, whose variance is a block's over their seeds.
    """
    scatter = float(fit.laws["scatter"] or 0.0)
    variances = []
    for point in fit.laws["data"][j]["points"]:
        low, high = point["data_ci95"]
        seeds = _have(runs, point["utd"], fit.tasks)
        if point["reached"] and seeds > 1 and low is not None and high > low > 0:
            variances.append(seeds * (log(high / low) / (2 * 1.96)) ** 2)
    return scatter, max(LEAST_NOISE, sqrt(np.mean(variances)) if variances else scatter)


def _have(runs: pd.DataFrame, utd: Any, tasks: Sequence[str]) -> int:
    """The least number of seeds over tasks at σ."""
    at = runs[runs["utd"] == str(utd)]
    return min(int((at["task"] == task).sum()) for task in tasks)


def _kinds(fit: Fitted, runs: pd.DataFrame, j: int, answer: Fraction) -> tuple[list[Kind], list[tuple[str, str]]]:
    """What could be run, and what could not with the reason."""
    fitted = sorted(map(Fraction, fit.laws["fit_utds"]))
    ran = sorted(set(map(Fraction, runs["utd"])))
    ratio = float(np.median([float(b / a) for a, b in pairwise(fitted)]))
    middle = [_between(float(a), float(b)) for a, b in pairwise(fitted)]
    outside = [_round(float(ran[-1]) * ratio**n) for n in range(1, BEYOND + 1)]
    outside += [_round(float(ran[0]) / ratio**n) for n in range(1, BEYOND + 1)]
    points = {Fraction(p["utd"]): p for p in fit.laws["data"][j]["points"]}
    law = Blend.from_json(fit.laws["data"][j])
    kinds, dropped = [], []
    for utd in sorted({*fitted, *middle, *outside, answer}):
        if utd in ran and utd not in fitted:
            dropped.append((f"σ={utd}", "it was run already but held out of this fit: fit again with it"))
            continue
        if utd in fitted and not points[utd]["reached"]:
            dropped.append((f"σ={utd}", "not every task reached the level there: more seeds measure it no better"))
            continue
        short = [
            f"{task} would need about {law(float(utd)) * scale:.3g} env steps and runs have {length:,}"
            for task, scale in fit.scale(j).items()
            if law(float(utd)) * scale > (length := env_steps(fit, runs, j, task, utd))
        ]
        if short:
            dropped.append((f"σ={utd}", short[0]))
            continue
        beyond = max(1.0, float(utd / ran[-1]), float(ran[0] / utd))
        kinds.append(Kind(utd, _place(utd, fitted, ran, answer), beyond, (1.0,)))
    if fit.settings.variant not in (None, "baseline") and _batch_spread(fit) > 0:
        ends = dict.fromkeys((fitted[0], fitted[len(fitted) // 2], fitted[-1]))
        kinds += [Kind(utd, f"neighbours of B at σ = {utd}", 1.0, (sqrt(2.0), sqrt(0.5))) for utd in ends]
    return kinds, dropped


def _checks(kinds: Sequence[Kind]) -> list[int]:
    """Numbers of the candidates that can be the check point: the nearest ones that lie clearly outside what was run."""
    far = [(kind.beyond, i) for i, kind in enumerate(kinds) if kind.beyond > CLEARLY]
    return [i for beyond, i in far if beyond < 1.5 * min(far)[0]]


def _between(low: float, high: float) -> Fraction:
    middle = sqrt(low * high)
    return plain_fraction(middle, (low + 2 * middle) / 3, (high + 2 * middle) / 3)


def _round(sigma: float) -> Fraction:
    return plain_fraction(sigma, sigma / 1.1, sigma * 1.1)


def _place(utd: Fraction, fitted: Sequence[Fraction], ran: Sequence[Fraction], answer: Fraction) -> str:
    if utd > ran[-1]:
        return f"check: a factor {float(utd / ran[-1]):.2g} above every σ that was run"
    if utd < ran[0]:
        return f"check: a factor {float(ran[0] / utd):.2g} below every σ that was run"
    if utd in fitted:
        return "more seeds at a fitted σ" + (", the answer's" if utd == answer else "")
    if utd == answer:
        return "the answer's own σ"
    above = next(s for s in fitted if s > utd) if utd < fitted[-1] else fitted[-1]
    below = max((s for s in fitted if s < utd), default=fitted[0])
    return f"between σ = {below} and {above}"


def _batch_spread(fit: Fitted) -> float:
    return float(fit.batch_draws[0].std(axis=0).max())


def _column(fit: Fitted, kind: Kind, j: int) -> Floats:
    """What the candidate measures, in each draw: ln D at its σ, or the mean over tasks of ln B*."""
    x = np.array([log(kind.utd)])
    if kind.factors == (1.0,):
        return fit.draws.log_data(j, x)[:, 0]
    intercept, slope = fit.batch_draws
    return np.asarray((intercept + slope * x).mean(axis=1))


def _candidate(
    fit: Fitted, runs: pd.DataFrame, j: int, kind: Kind, column: int, delta: float, scatter: float, noise: float
) -> Candidate:
    tasks = fit.tasks
    cost = sum(
        fit.cost(kind.utd, t, env_steps(fit, runs, j, t, kind.utd), delta, f) for t in tasks for f in kind.factors
    )
    size = len(tasks) * len(kind.factors)
    if kind.factors == (1.0,):
        return Candidate(column, size, cost, scatter, noise, _have(runs, kind.utd, tasks), 10**6)
    # Best values scatter about the law of B for reasons that seeds do not mend; with one seed each the best of three
    # neighbours is hardly better than picked at random.
    best = [b for b in read_fit(fit.root, fit.name, "hparams")["best"] if b["batch_size"] is not None]
    off = [log(b["batch_size"] / fit.settings.batch(Fraction(b["utd"]), b["task"])) for b in best if b["task"] in tasks]
    about, random = float(np.std(off)) / sqrt(len(tasks)), sqrt(2 / 3 / len(tasks)) * STEP
    return Candidate(column, size, cost, about, random, 0, 10**6)


def _rows(
    fit: Fitted, runs: pd.DataFrame, j: int, kinds: Sequence[Kind], picks: Sequence[Pick], joint: Floats, delta: float
) -> list[Row]:
    rates = fit.settings.rate or used_rates(runs)
    rows = []
    for i in dict.fromkeys(pick.candidate for pick in picks):
        kind, mine = kinds[i], [pick for pick in picks if pick.candidate == i]
        share = sum(pick.before - pick.after for pick in mine) / float(joint[0, 0])
        for task in fit.tasks:
            length = env_steps(fit, runs, j, task, kind.utd)
            for factor in kind.factors:
                batch, rate = settings(fit, rates, runs, task, kind.utd, factor)
                assert rate is not None
                at = (runs["task"] == task) & (runs["utd"] == str(kind.utd)) & (runs["batch_size"] == batch)
                taken = set(runs.loc[at & np.isclose(runs["learning_rate"], rate), "seed"])
                free = [s for s in range(len(taken) + len(mine)) if s not in taken][: len(mine)]
                cost = len(mine) * fit.cost(kind.utd, task, length, delta, factor)
                why = _reason(kind, joint, i)
                rows.append(
                    Row(kind.utd, task, batch, rate, tuple(free), length, cost, share, why, len(kind.factors) > 1)
                )
    return rows


def _reason(kind: Kind, joint: Floats, i: int) -> str:
    spread, shared = sqrt(max(0.0, joint[i + 1, i + 1])), joint[0, i + 1]
    tie = shared / sqrt(joint[0, 0]) / spread if spread > 0 else 0.0
    what = "ln B*" if len(kind.factors) > 1 else "ln D"
    return f"{kind.place}; {what} is known to ±{1.96 * spread:.2f}, correlation with the answer {tie:+.2f}"


def as_json(rows: Sequence[Row]) -> list[Mapping[str, Any]]:
    return [vars(row) | {"utd": str(row.utd), "seeds": list(row.seeds)} for row in rows]

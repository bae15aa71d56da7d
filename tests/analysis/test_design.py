"""The choice of the next runs: against exhaustive search, in its limits, and in simulated worlds against chance."""

from __future__ import annotations

from itertools import combinations_with_replacement

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from analysis.design import Candidate, covariance, design, gain, measured
from analysis.forms import FORMS
from analysis.joint import fit_joint
from analysis.question import Question
from analysis.uncertainty import Floats


def world(seed: int, count: int) -> tuple[Floats, list[Candidate]]:
    """A joint covariance of (q, y_1 … y_count) and candidates of different cost and noise."""
    rng = np.random.default_rng(seed)
    root = rng.standard_normal((count + 1, count + 1))
    have = rng.integers(0, 4, count)
    candidates = [
        Candidate(i, 2, rng.uniform(0.5, 2), rng.uniform(0, 0.5), rng.uniform(0.3, 2), int(have[i]), 9)
        for i in range(count)
    ]
    return root @ root.T, candidates


def variance_after(joint: Floats, candidates: list[Candidate], chosen: tuple[int, ...]) -> float:
    """The variance of q by the textbook formula, all measurements at once."""
    used = sorted(set(chosen))
    more = [
        candidates[i].precision(candidates[i].have + chosen.count(i)) - candidates[i].precision(candidates[i].have)
        for i in used
    ]
    at = [candidates[i].column + 1 for i in used]
    inner = joint[np.ix_(at, at)] + np.diag(1.0 / np.array(more))
    return float(joint[0, 0] - joint[0, at] @ np.linalg.solve(inner, joint[at, 0]))


@pytest.mark.parametrize("seed", range(8))
def test_the_first_pick_is_the_best_and_the_variances_are_exact(seed: int) -> None:
    joint, candidates = world(seed, 5)
    picks = design(joint, candidates, 6, [])
    assert len(picks) == 3 and picks[0].before == joint[0, 0]
    falls = [(joint[0, 0] - variance_after(joint, candidates, (i,))) / candidates[i].cost for i in range(5)]
    assert picks[0].candidate == int(np.argmax(falls))
    chosen = tuple(p.candidate for p in picks)
    for n in (1, 2, 3):
        assert picks[n - 1].after == pytest.approx(variance_after(joint, candidates, chosen[:n]), rel=1e-9)


def test_greedy_is_nearly_as_good_as_exhaustive() -> None:
    """At equal cost and three blocks, the greedy design takes at least nine tenths of what the best one takes."""
    shares = []
    for seed in range(30):
        joint, some = world(seed, 5)
        candidates = [Candidate(c.column, 1, 1.0, c.scatter, c.noise, c.have, 9) for c in some]
        picks = design(joint, candidates, 3, [])
        best = min(variance_after(joint, candidates, c) for c in combinations_with_replacement(range(5), 3))
        shares.append((joint[0, 0] - picks[-1].after) / (joint[0, 0] - best))
    assert min(shares) > 0.8 and np.mean(shares) > 0.95 and max(shares) <= 1 + 1e-9


def test_the_first_block_is_one_of_those_that_must_be_there_and_the_runs_are_kept_to() -> None:
    joint, candidates = world(1, 6)
    for first in ([2], [0, 5]):
        picks = design(joint, candidates, 9, first)
        assert picks[0].candidate in first and len(picks) == 4  # four blocks of two runs; the ninth run buys none
    limited = [Candidate(c.column, 2, c.cost, c.scatter, c.noise, c.have, 1) for c in candidates]
    assert sorted(p.candidate for p in design(joint, limited, 100, [])) == list(range(6))


@given(st.integers(0, 10**6))
def test_no_measurement_makes_the_answer_worse_and_a_dearer_one_is_not_preferred(seed: int) -> None:
    joint, candidates = world(seed, 4)
    picks = design(joint, candidates, 20, [])
    assert all(p.after <= p.before + 1e-12 for p in picks) and picks[-1].after > 0
    twin = Candidate(0, 2, candidates[0].cost * 1.01, candidates[0].scatter, candidates[0].noise, candidates[0].have, 9)
    assert design(joint, [*candidates, twin], 2, [])[0].candidate != 4
    assert np.linalg.eigvalsh(measured(joint, 1, 2.0)).min() > -1e-9
    assert gain(joint, 1, 1e12) == pytest.approx(joint[0, 2] ** 2 / joint[2, 2], rel=1e-6)


def test_more_seeds_cannot_mend_scatter() -> None:
    c = Candidate(0, 1, 1.0, 0.1, 0.3, 0, 9)
    assert c.precision(0) == 0 and c.precision(1) == pytest.approx(1 / (0.1**2 + 0.3**2))
    assert c.precision(10**9) == pytest.approx(1 / 0.1**2) and c.precision(4) == pytest.approx(1 / (0.01 + 0.09 / 4))


def test_one_wild_draw_does_not_make_a_covariance() -> None:
    rng = np.random.default_rng(0)
    asked, y = rng.standard_normal(200), rng.standard_normal((200, 2))
    before = covariance(asked, y)
    asked[0], y[0, 1] = 1e6, 1e6
    assert np.abs(covariance(asked, y) - before).max() < 0.1


# Simulated worlds in which the truth is known

PRESENT, NEW = np.array([0.25, 0.5, 1, 2, 4, 8]), np.array([0.35, 0.7, 1.4, 2.8, 5.6, 16, 32])
SIGMA, GRID, FORM = np.concatenate([PRESENT, NEW]), np.geomspace(1 / 16, 32, 513), FORMS["shifted_power"]
SEEDS, NOISE, SCATTER, RUNS, DRAWS, TRIES = 3, 0.12, 0.03, 8, 200, 4
PER_STEP = 10 * 1.5e5 * 256.0  # FLOPs of an update


def best(theta: Floats, question: Question) -> Floats:
    """ln of the asked quantity by each law [K, 3]; NaN where the bound cannot be kept."""
    data = np.exp(FORM.log_data(theta[:, None, :], np.log(GRID)))
    _, steps, flops = question.solve_draws(GRID, data, PER_STEP * GRID * data)
    return np.asarray(np.log(question.value(steps, flops)))


def fitted(points: dict[float, list[float]], draws: Floats | None) -> Floats:
    """The law through the means [1, 3], or through means to which `draws` [K, n] were added [K, 3]."""
    x = np.log(sorted(points))
    y = np.array([np.mean(points[s]) for s in sorted(points)])[None, None] + (0 if draws is None else draws[:, None])
    return np.asarray(fit_joint(FORM, x, y, np.zeros(y.shape, dtype=bool)).theta[:, 0])


def study(seed: int, bound: str) -> tuple[float, float, float] | None:
    """Squared error of the answer over its stated variance: before, after the design, after as dear runs by chance."""
    rng = np.random.default_rng(seed)
    truth = np.array([[np.log(1e5 * rng.uniform(0.5, 2)), np.log(rng.uniform(0.3, 2)), np.log(rng.uniform(0.6, 1.3))]])
    level = FORM.log_data(truth[0], np.log(SIGMA)) + SCATTER * rng.standard_normal(len(SIGMA))
    at = rng.uniform(0.6, 6)
    data = float(np.exp(FORM.log_data(truth[0], np.log(at))))
    limit = {"data": data, "compute": PER_STEP * at * data, "budget": 1.0}[bound]
    question = Question(bound, limit, 700.0, 5e9)  # type: ignore[arg-type]

    def seeds(i: int, count: int, source: np.random.Generator) -> list[float]:
        return list(level[i] + NOISE * source.standard_normal(count))

    points = {float(s): seeds(i, SEEDS, rng) for i, s in enumerate(PRESENT)}
    spread = np.sqrt(NOISE**2 / SEEDS + SCATTER**2)
    drawn = fitted(points, spread * rng.standard_normal((DRAWS, len(points))))
    asked, right = best(drawn, question), float(best(truth, question)[0])
    known = np.isfinite(asked)
    if known.mean() < 0.8 or not np.isfinite(right):
        return None
    candidates = [
        Candidate(i, 1, PER_STEP * s + 5e9, SCATTER, NOISE, SEEDS if s in PRESENT else 0, 9)
        for i, s in enumerate(SIGMA)
    ]
    joint = covariance(asked[known], FORM.log_data(drawn[:, None, :], np.log(SIGMA))[known])
    chosen = [p.candidate for p in design(joint, candidates, RUNS, [list(SIGMA).index(16)])]
    source = np.random.default_rng([seed, 1])

    def error(runs: list[int]) -> float:
        more = {s: list(values) for s, values in points.items()}
        for i in runs:
            more.setdefault(float(SIGMA[i]), []).extend(seeds(i, 1, source))
        return float((best(fitted(more, None), question)[0] - right) ** 2 / joint[0, 0])

    def by_chance() -> list[int]:
        runs: list[int] = []
        while sum(candidates[i].cost for i in runs) < sum(candidates[i].cost for i in chosen):
            runs.append(int(source.integers(len(SIGMA))))
        return runs

    after = [error(chosen) for _ in range(TRIES)]
    chance = [error(by_chance()) for _ in range(TRIES)]
    return error([]), float(np.nanmean(after)), float(np.nanmean(chance))


@pytest.mark.slow
@pytest.mark.parametrize("bound", ["data", "compute", "budget"])
def test_the_design_narrows_the_answer_more_than_as_dear_runs_by_chance(bound: str) -> None:
    """True errors after fitting again, over the variance that was stated before, as a mean over studies.

    Chance picks among the same σ until it has spent at least as much; it need not pay for a check point.
    """
    found = np.array([s for seed in range(100) if (s := study(seed, bound)) is not None])
    before, after, chance = found.mean(axis=0)
    print(f"\n{bound}: {len(found)} studies, before {before:.2f}, designed {after:.2f}, by chance {chance:.2f}")
    assert len(found) > 80 and after < chance < before * 1.1
    assert before - after > 1.3 * (before - chance)

"""The three questions against closed forms and brute force, for every form of the data law; and δ from the clock."""

from __future__ import annotations

import json
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from analysis.blend import Blend
from analysis.budget import Frontier
from analysis.forms import FORMS
from analysis.question import Question, plain_fraction
from analysis.uncertainty import Floats
from analysis.wallclock import clock
from rlscale.typed import Mistake

N, LOW, HIGH = 1e5, 1 / 16, 32.0
LEVELS = (300.0, 500.0, 700.0)
THETA = {
    "constant": (11.0, 0.0, 0.0), "power": (11.0, 0.4, 0.0), "inverse": (11.0, 0.1, 0.0),
    "shifted_power": (11.0, 0.1, -0.3), "shifted_prior": (11.0, 0.1, -0.3),
    "log_quadratic": (11.0, 0.5, 0.1), "plateau": (11.0, 0.6, 1.0),
}  # fmt: skip
SIGMA = np.geomspace(LOW, HIGH, 4001)


def frontier(form: str, rise: float = 0.0) -> Frontier:
    level, own, shared = THETA[form]
    theta = np.array([[level + rise, own, shared]])

    def batch(sigma: Floats) -> Floats:
        return np.asarray(256.0 * np.asarray(sigma) ** -0.4)

    return Frontier(Blend((form,), np.ones(1), theta), batch, N, LOW, HIGH)


def ask(bound: str, limit: float, delta: float = 5e9) -> Question:
    return Question(bound, limit, None if bound == "budget" else 700.0, delta)  # type: ignore[arg-type]


def brute(question: Question, f: Frontier) -> tuple[float, float] | None:
    """(σ, asked quantity) on a fine grid."""
    data, compute = np.asarray(f.law(SIGMA)), np.asarray(f.compute(SIGMA))
    bounded = {"compute": compute, "data": data, "budget": np.zeros_like(data)}[question.bound]
    value = np.where(bounded <= question.limit, question.value(data, compute), np.inf)
    i = int(value.argmin())
    return (float(SIGMA[i]), float(value[i])) if np.isfinite(value[i]) else None


def test_every_law_of_the_registry_is_asked() -> None:
    assert set(THETA) == set(FORMS)


@pytest.mark.parametrize("form", THETA)
@pytest.mark.parametrize("bound", ["compute", "data", "budget"])
def test_no_setting_on_a_fine_grid_beats_the_answer(form: str, bound: str) -> None:
    f = frontier(form)
    data, compute = np.asarray(f.law(SIGMA)), np.asarray(f.compute(SIGMA))
    scale = {"compute": compute, "data": data, "budget": compute + 5e9 * data}[bound]
    solved = 0
    for share in (0.5, 1.001, 1.3, 3.0, 100.0):
        question = ask(bound, float(scale.min() * share))
        point, best = question.solve(f), brute(question, f)
        if best is None:
            assert point is None
            continue
        assert point is not None
        solved += 1
        value = float(question.value(np.array(point.data), np.array(point.compute)))
        assert value <= best[1] * (1 + 1e-9) and value >= best[1] * 0.99
        kept = {"compute": point.compute, "data": point.data, "budget": 0.0}[bound]
        assert kept <= question.limit * (1 + 1e-9)
        utd, steps, flops = question.solve_draws(SIGMA, data[None], compute[None])  # the draws' way to the same answer
        assert float(question.value(steps, flops)[0]) == pytest.approx(value, rel=0.01)
        assert float(utd[0]) == pytest.approx(point.sigma, rel=0.02) or form in ("constant", "plateau")
    assert solved >= 4


def test_a_data_bound_is_answered_in_closed_form() -> None:
    """σ = β·(D_min/(D0 − D_min))^(1/α) and C = 10·N·B(σ)·σ·D0 (4.4, A.7, A.8) where compute rises with σ."""
    f = frontier("shifted_power")
    d_min, beta, alpha = np.exp(THETA["shifted_power"])
    for bound in (1.3 * d_min, 2.0 * d_min, 3.0 * d_min):
        point = ask("data", bound).solve(f)
        assert point is not None
        sigma = beta * (d_min / (bound - d_min)) ** (1 / alpha)
        assert point.sigma == pytest.approx(sigma, rel=1e-9) and point.data == pytest.approx(bound, rel=1e-9)
        assert point.compute == pytest.approx(10 * N * 256 * sigma**0.6 * bound, rel=1e-9)


def test_a_compute_bound_is_met_exactly() -> None:
    """The largest σ with C_J(σ) ≤ C0 (4.3): C_J there is C0."""
    f = frontier("shifted_power")
    for factor in (1.1, 2.0, 3.0):
        bound = float(f.compute(1.0)) * factor
        point = ask("compute", bound).solve(f)
        assert point is not None and point.compute == pytest.approx(bound, rel=1e-9) and point.sigma > 1.0


def test_a_budget_optimum_is_stationary() -> None:
    """At the least C + δ·D its derivative by ln σ is 0."""
    f, delta = frontier("shifted_power"), 5e9
    point = ask("budget", 1.0, delta).solve(f)
    assert point is not None and not point.at_end
    around = point.sigma * np.exp(np.array([-1e-3, 1e-3]))
    cost = np.asarray(f.compute(around)) + delta * np.asarray(f.law(around))
    assert abs(np.log(cost[1] / cost[0])) < 1e-8


@settings(max_examples=40, deadline=None)
@given(st.sampled_from(sorted(THETA)), st.floats(0.1, 50.0), st.floats(1.0, 10.0), st.sampled_from(["compute", "data"]))
def test_a_looser_bound_never_asks_for_more(form: str, share: float, looser: float, bound: str) -> None:
    f = frontier(form)
    limit = share * float(f.compute(1.0) if bound == "compute" else f.law(1.0))
    tight, loose = ask(bound, limit).solve(f), ask(bound, limit * looser).solve(f)
    if tight is not None:
        assert loose is not None
        if bound == "compute":
            assert loose.data <= tight.data * (1 + 1e-9)
        else:
            assert loose.compute <= tight.compute * (1 + 1e-9)


def test_more_budget_buys_no_lower_level_and_dearer_steps_no_fewer_updates() -> None:
    levels = [frontier("shifted_power", rise) for rise in (-1.0, -0.5, 0.0)]
    costs = [float(f.cheapest(5e9).compute + 5e9 * f.cheapest(5e9).data) for f in levels]
    got = [ask("budget", costs[0] * k).answer(levels, LEVELS, None)[0] for k in (1.0, 1.2, 2.0, 3.0, 10.0)]
    assert got == sorted(got) and got[0] == 0 and got[-1] == 2
    assert ask("budget", costs[1] * 1.0001).answer(levels, LEVELS, None)[0] == 1
    sigma = [levels[2].cheapest(delta).sigma for delta in (1e8, 1e9, 1e10)]
    assert sigma == sorted(sigma)


def test_best_return_is_the_highest_level_within_the_budget() -> None:
    levels = [frontier("shifted_power", rise) for rise in (-1.0, -0.5, 0.0)]
    cost = [p.compute + 5e9 * p.data for p in (f.cheapest(5e9) for f in levels)]
    level, point = ask("budget", cost[1] * 1.01).answer(levels, LEVELS, None)
    assert level == 1 and point.sigma == pytest.approx(levels[1].cheapest(5e9).sigma)
    with pytest.raises(Mistake):
        ask("budget", cost[0] * 0.99).answer(levels, LEVELS, None)


@pytest.mark.parametrize("bound", ["compute", "data", "budget"])
def test_the_bound_that_a_refusal_names_can_be_kept(bound: str) -> None:
    levels = [frontier("log_quadratic", rise) for rise in (-1.0, -0.5, 0.0)]
    level = None if bound == "budget" else 2
    with pytest.raises(Mistake) as refused:
        ask(bound, 1.0).answer(levels, LEVELS, level)
    sentence = str(refused.value)
    assert sentence.startswith(f"{bound}=1: ") and "\n" not in sentence
    least = {"compute": "at least ", "data": "at least ", "budget": "alone costs "}[bound]
    limit = float(sentence.split(least)[1].split()[0].rstrip(";,"))
    j, point = ask(bound, limit).answer(levels, LEVELS, level)
    assert j == (0 if bound == "budget" else 2) and point.sigma > 0
    with pytest.raises(Mistake):
        ask(bound, limit * 0.98).answer(levels, LEVELS, level)


@given(st.floats(1e-5, 1e4), st.floats(1.001, 1.3))
def test_a_plain_fraction_lies_in_its_range_and_none_is_plainer(value: float, wide: float) -> None:
    low, high = value / wide, value * wide
    found = plain_fraction(value, low, high)
    assert Fraction(low) <= found <= Fraction(high)
    for denominator in range(1, min(found.denominator, 40)):
        assert int(Fraction(high) * denominator) < Fraction(low) * denominator


def test_sigma_is_rounded_to_the_side_that_keeps_the_bound() -> None:
    assert ask("data", 1.0).near(1.93) == 2 and ask("compute", 1.0).near(2.07) == 2
    assert ask("data", 1.0).near(2.05) >= Fraction("2.05") and ask("compute", 1.0).near(1.95) <= Fraction("1.95")
    assert ask("budget", 1.0).near(30.4) == 30 and ask("data", 1.0).near(0.2501) == Fraction(1, 4)


def record(root: Path, name: str, **fields: object) -> None:
    sigma, batch, wall = (float(fields.pop(k)) for k in ("sigma", "batch", "wall"))  # type: ignore[arg-type]
    body = {"spec": {"batch_size": batch}, "status": "finished", "transitions": 10000, "updates": 10000 * sigma,
            "flops_per_update": 30.0 * N * batch, "wall_s": wall, "pack_size": 2} | fields  # fmt: skip
    (root / "runs" / name).mkdir(parents=True)
    (root / "runs" / name / "record.json").write_text(json.dumps(body))


def test_delta_is_what_the_clock_says(tmp_path: Path) -> None:
    """An env step takes 1 ms and 1e12 FLOPs a second: the law counts a third of what the learner does."""
    cells = [(s, b) for s in (0.5, 1.0, 4.0) for b in (64.0, 256.0)]
    for i, (sigma, batch) in enumerate(cells):
        seconds = 10000 * (1e-3 + 30 * N * batch * sigma / 1e12)
        record(tmp_path, f"r{i}", sigma=sigma, batch=batch, wall=2 * seconds)  # two members in each pack
    found = clock(tmp_path, [f"r{i}" for i in range(len(cells))], N)
    assert found.s_per_step == pytest.approx(1e-3) and found.s_per_flop == pytest.approx(3e-12)
    assert found.delta == pytest.approx(1e-3 / 3e-12) and found.runs == 6 and found.error < 1e-9


def test_compiling_is_no_cost_of_an_env_step(tmp_path: Path) -> None:
    """The clock runs from the first logging point after an update, where the curve has the times."""
    for i, sigma in enumerate((0.5, 1.0, 4.0)):
        record(tmp_path, f"r{i}", sigma=sigma, batch=64.0, wall=1e6)
        rate = 1e-3 + sigma * 30 * N * 64 / 1e12
        rows = [f"{step},{step * sigma},{2 * (70.0 + step * rate)}" for step in (1000, 4000, 10000)]
        lines = ["env_step,updates,wall_s", "500,0,3.0", *rows]
        (tmp_path / "runs" / f"r{i}" / "curve.csv").write_text("\n".join(lines) + "\n")
    found = clock(tmp_path, ["r0", "r1", "r2"], N)
    assert found.s_per_step == pytest.approx(1e-3) and found.s_per_flop == pytest.approx(3e-12)


@pytest.mark.parametrize(
    ("rows", "part"),
    [
        ([{"sigma": 1, "batch": 64, "wall": 0.0}], "holds wall_s and flops_per_update"),
        ([{"sigma": 1, "batch": 64, "wall": 9, "pack_size": None}], "holds wall_s and flops_per_update"),
        ([{"sigma": 1, "batch": 64, "wall": 9, "status": "diverged"}], "holds wall_s and flops_per_update"),
        ([{"sigma": 1, "batch": 64, "wall": 9}, {"sigma": 0.5, "batch": 128, "wall": 9}], "cannot be told apart"),
        ([{"sigma": 1, "batch": 64, "wall": 9}, {"sigma": 4, "batch": 64, "wall": 9}],
         "does not rise with their FLOPs"),
        ([{"sigma": 1, "batch": 64, "wall": 1}, {"sigma": 4, "batch": 64, "wall": 9}],
         "does not rise with their env steps"),
    ],
)  # fmt: skip
def test_a_clock_that_cannot_be_read_is_one_sentence(tmp_path: Path, rows: list[dict[str, object]], part: str) -> None:
    for i, row in enumerate(rows):
        record(tmp_path, f"r{i}", **row)
    with pytest.raises(Mistake, match=part) as refused:
        clock(tmp_path, [f"r{i}" for i in range(len(rows))], N)
    assert str(refused.value).startswith("delta=measured: ") and "\n" not in str(refused.value)

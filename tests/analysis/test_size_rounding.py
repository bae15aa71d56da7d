"""Settings that can be typed: multiples, bounds, boxes, and the cost of rounding."""

from __future__ import annotations

from fractions import Fraction
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from analysis.allocate import Box
from analysis.model_size import BroNet, quadratic
from analysis.question import Question
from analysis.size_frontier import Price, SizeFrontier
from analysis.size_laws import SizeBatchLaw, SizeDataLaw
from analysis.size_question import solve
from analysis.size_rounding import round_batch, rounded

NET = BroNet(70, depth=2, quantiles=100)
SIZE = quadratic({w: NET.parameters(w) for w in (128, 512, 2048)}, "task")
BOX = Box((1.0, 8.0), (float(NET.parameters(128)), float(NET.parameters(2048))))

laws = st.builds(
    SizeDataLaw, st.floats(1e4, 1e6), st.floats(0.1, 8), st.floats(0.3, 2), st.floats(1e5, 1e7), st.floats(0.3, 2)
)
prices = st.one_of(
    st.just(256.0),
    st.builds(SizeBatchLaw, st.floats(500, 5e4), st.floats(0, 0.6), st.floats(1e6, 1e9), st.floats(0.3, 2)),
)


def ask(frontier: SizeFrontier, bound: str, share: float) -> Question:
    cheap, far = frontier.cheapest(0.0), frontier.least_data()
    ends = {"compute": (cheap.compute, far.compute), "data": (far.data, cheap.data), "budget": (1e14, 1e18)}[bound]
    limit = ends[0] * (ends[1] / ends[0]) ** share
    return Question(bound, limit, None if bound == "budget" else 500.0, 1e11)  # type: ignore[arg-type]


@settings(max_examples=50, deadline=None)
@given(laws, prices, st.sampled_from(["compute", "data", "budget"]), st.floats(0.05, 0.95))
def test_what_is_rounded(law: SizeDataLaw, price: Price, bound: str, share: float) -> None:
    frontier = SizeFrontier(law, price, BOX)
    question = ask(frontier, bound, share)
    best = solve(question, frontier)
    assert best is not None
    found = rounded(frontier, question, best, SIZE)
    sigma = float(found.utd)
    assert found.width % 16 == 0 and found.batch_size % 16 == 0 and found.utd.denominator <= 16
    assert best.sigma / 1.081 <= sigma <= best.sigma * 1.081
    assert abs(found.width - SIZE.width(best.n_params)) <= 16
    assert BOX.holds(sigma, found.n_params) and found.n_params == NET.parameters(found.width)
    assert abs(found.batch_size - float(frontier.batch_size(sigma, found.n_params))) <= 8 or found.batch_size == 16
    assert found.data == pytest.approx(float(law(sigma, found.n_params)))
    assert found.compute == pytest.approx(10 * found.n_params * found.batch_size * sigma * found.data)
    assert found.data_ratio == pytest.approx(found.data / best.data)
    assert found.compute_ratio == pytest.approx(found.compute / best.compute)
    assert found.budget_ratio == pytest.approx((found.compute + 1e11 * found.data) / (best.compute + 1e11 * best.data))
    value = {"compute": found.compute, "data": found.data, "budget": found.budget}[bound]
    assert found.keeps == (value <= question.limit * (1 + 1e-9))
    # no other setting that one would round to keeps the bound and is better at B*
    mine = worth(frontier, question, sigma, found.n_params)
    for utd, width in product({found.utd, *whole(best.sigma)}, around(best.n_params)):
        n_params = NET.parameters(width)
        if BOX.holds(float(utd), n_params) and keeps(frontier, question, float(utd), n_params):
            assert found.keeps
            assert mine <= worth(frontier, question, float(utd), n_params) * (1 + 1e-9)


def worth(frontier: SizeFrontier, question: Question, sigma: float, n_params: float) -> float:
    at = frontier.at(sigma, n_params)
    return float(question.value(np.array(at.data), np.array(at.compute)))


def keeps(frontier: SizeFrontier, question: Question, sigma: float, n_params: float) -> bool:
    """With the batch size rounded, as it will be run."""
    data = float(frontier.law(sigma, n_params))
    compute = 10 * n_params * round_batch(float(frontier.batch_size(sigma, n_params))) * sigma * data
    return {"compute": compute, "data": data, "budget": compute + question.delta * data}[
        question.bound
    ] <= question.limit


def whole(sigma: float) -> set[Fraction]:
    """The whole number next to σ, where there is only one within reach."""
    near = {Fraction(n) for n in (int(sigma), int(sigma) + 1) if n and sigma / 1.08 <= n <= sigma * 1.08}
    return near if len(near) == 1 else set()


def around(n_params: float) -> set[int]:
    exact = SIZE.width(n_params)
    return {16 * max(1, int(np.floor(exact / 16))), 16 * int(np.ceil(exact / 16 - 1e-9))}


def test_a_setting_that_can_be_typed_stays_what_it_is() -> None:
    frontier = SizeFrontier(SizeDataLaw(1e5, 1.0, 0.8, 1e6, 0.9), 256.0, BOX)
    exact = frontier.at(4.0, float(NET.parameters(512)))
    found = rounded(frontier, Question("data", exact.data, 500.0, 1e11), exact, SIZE)
    assert (found.utd, found.width, found.batch_size, found.keeps) == (4, 512, 256, True)
    assert (found.data_ratio, found.compute_ratio, found.budget_ratio) == pytest.approx((1, 1, 1), rel=1e-12)


def test_the_range_is_not_left_by_rounding() -> None:
    """The best is the far corner of a box whose ends are no plain numbers: rounding goes inwards."""
    box = Box((1.03, 7.7), (float(NET.parameters(129)), float(NET.parameters(520))))
    frontier = SizeFrontier(SizeDataLaw(1e5, 1.0, 0.8, 1e6, 0.9), 256.0, box)
    far = frontier.least_data()
    found = rounded(frontier, Question("compute", far.compute * 2, 500.0, 1e11), far, SIZE)
    assert (found.utd, found.width, found.keeps) == (Fraction(23, 3), 512, True) or found.utd == Fraction(15, 2)
    assert found.width == 512


def test_halves_go_to_the_even_multiple_and_none_below_sixteen() -> None:
    assert [round_batch(b) for b in (1.0, 23.9, 24.0, 40.0, 480.0, 1656.9)] == [16, 16, 32, 32, 480, 1664]

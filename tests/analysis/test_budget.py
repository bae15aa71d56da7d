"""The three questions against brute force, the budget law, the Pareto frontier."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from analysis.blend import Blend, Draws
from analysis.budget import Frontier, budget_law, compute, optima_draws, pareto
from analysis.propose import middle

GRID = np.geomspace(0.1, 50, 40001)


def shifted(d_min: float, beta: float, alpha: float) -> Blend:
    return Blend.from_json({"d_min": d_min, "beta": beta, "alpha": alpha})


def frontier(alpha: float = 0.8, slope: float = 0.4, d_min: float = 2e4, high: float = 50.0) -> Frontier:
    return Frontier(shifted(d_min, 1.1, alpha), lambda s: 300.0 * s**-slope, 1e5, 0.1, high)


laws = st.builds(frontier, st.floats(0.3, 1.5), st.floats(0.0, 0.8))
few = settings(max_examples=30, deadline=None)


@few
@given(laws, st.floats(6, 14))
def test_the_cheapest_sigma_is_the_minimum_of_the_sum(f: Frontier, log_delta: float) -> None:
    delta = 10**log_delta
    found = f.cheapest(delta)
    costs = f.compute(GRID) + delta * f.law(GRID)
    assert found.compute + delta * found.data <= costs.min() * (1 + 1e-12)
    assert found.sigma == pytest.approx(GRID[costs.argmin()], rel=1e-2) or costs.min() == pytest.approx(
        found.compute + delta * found.data, rel=1e-9
    )
    assert found.at_end == (not 0.1 * 1.0001 < found.sigma < 50 * 0.9999)


@few
@given(laws, st.floats(-1, 1.5))
def test_least_data_within_a_compute_bound(f: Frontier, log_sigma: float) -> None:
    bound = float(f.compute(10**log_sigma)) * 1.01
    inside = f.compute(GRID) <= bound
    found = f.least_data(bound)
    assert found is not None and found.compute <= bound * (1 + 1e-9)
    assert found.data == pytest.approx(f.law(GRID[inside]).min(), rel=1e-3)
    assert f.least_data(float(f.compute(GRID).min()) * 0.99) is None


@few
@given(laws, st.floats(-0.9, 1.6))
def test_least_compute_within_a_data_bound(f: Frontier, log_sigma: float) -> None:
    bound = float(f.law(10**log_sigma))
    found = f.least_compute(bound)
    inside = f.law(GRID) <= bound * (1 + 1e-9)
    assert found is not None and found.data <= bound * (1 + 1e-9)
    assert found.compute == pytest.approx(f.compute(GRID[inside]).min(), rel=1e-3)
    assert f.least_compute(float(f.law(50.0)) * 0.999) is None


def test_least_compute_is_the_closed_form_where_compute_rises() -> None:
    f, bound = frontier(), 3.0e4
    found = f.least_compute(bound)
    sigma = 1.1 * (2e4 / (bound - 2e4)) ** (1 / 0.8)  # (A.7)
    assert found is not None and found.sigma == pytest.approx(sigma)
    assert found.compute == pytest.approx(compute(1e5, 300 * sigma**-0.4, sigma, bound))  # (A.8)


def test_draws_of_the_optimum_agree_with_the_single_one() -> None:
    params = np.array([[2e4, 1.1, 0.8], [3e4, 0.7, 1.1]])
    log_b, slope = np.log([[300.0, 200.0], [250.0, 150.0]]), np.array([[-0.4, -0.3], [-0.5, -0.2]])
    member, bend = np.zeros(2, dtype=int), np.array([[0.0, 0.0], [0.0, 0.3]])
    drawn = Draws(("shifted_power",), member, np.log(params)[:, None], bend, 0.5, 1.0)
    found = optima_draws(lambda x: drawn.log_data(0, x), log_b, slope, 1e5, 5e9, (0.1, 50.0))
    for k in range(2):

        def batch(s: np.ndarray, k: int = k) -> np.ndarray:
            return np.asarray(np.exp(log_b[k][:, None] + slope[k][:, None] * np.log(s)).mean(axis=0))

        one = Frontier(drawn.one(k, 0), batch, 1e5, 0.1, 50.0).cheapest(5e9)
        np.testing.assert_allclose(found[k], [one.sigma, one.compute + 5e9 * one.data], rtol=1e-7)


def test_the_budget_law_is_a_line_in_logs() -> None:
    budgets = np.array([1e10, 3e10, 2e11])
    coefficient, exponent = budget_law(budgets, 2e-3 * budgets**0.3)
    assert (coefficient, exponent) == (pytest.approx(2e-3), pytest.approx(0.3))
    many, slopes = budget_law(np.tile(budgets, (4, 1)), 2e-3 * np.tile(budgets, (4, 1)) ** 0.3)
    np.testing.assert_allclose(slopes, 0.3)
    np.testing.assert_allclose(many, 2e-3)
    assert np.isnan(budget_law(np.array([1e10, 1e10]), np.array([1.0, 2.0]))[1])


def test_nothing_on_the_frontier_is_beaten() -> None:
    _, data, cost = pareto(frontier(), 50)
    assert (np.diff(data) < 0).all() and (np.diff(cost) > 0).all()


def test_the_middle_of_a_grid() -> None:
    from fractions import Fraction as F

    assert middle([F(1), F(2), F(4), F(8)]) == 2 and middle([F(1, 4), F(1), F(4)]) == 1

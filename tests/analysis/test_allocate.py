"""The best (σ, N) in closed form against brute force on random laws, and where there is none."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from analysis.allocate import Allocator, Box, Setting, rightmost_root
from analysis.size_laws import SizeDataLaw

AROUND = np.concatenate([np.geomspace(1e-3, 1e3, 61), 1 + np.linspace(-1e-3, 1e-3, 5)])


def allocator(c: float, a: float, alpha: float, b: float, beta: float) -> Allocator:
    return Allocator(SizeDataLaw(10**c, 10**a, alpha, 10**b, beta), 256)


exponents = st.floats(0.1, 5)
allocators = st.builds(allocator, st.floats(3, 7), st.floats(-2, 1.5), exponents, st.floats(4, 8), exponents)
deltas = st.floats(4, 15).map(lambda x: 10**x)


def grid(best: Setting, of: Allocator) -> tuple[np.ndarray, np.ndarray]:
    """(data, compute) of settings near and far around `best`, itself not among them."""
    sigma, n_params = np.meshgrid(best.sigma * AROUND, best.n_params * AROUND)
    data = of.law(sigma, n_params)
    return data, 10 * of.batch * n_params * sigma * data


def check(best: Setting, of: Allocator) -> None:
    """It lies on the line and costs what the law says."""
    again = of.at(best.sigma, best.n_params)
    assert (best.data, best.compute) == pytest.approx((again.data, again.compute), rel=1e-9)
    assert best.sigma == pytest.approx(of.line().sigma(best.n_params), rel=1e-8)


@settings(max_examples=1000)
@given(allocators, deltas)
def test_no_setting_is_cheaper_for_a_budget(of: Allocator, delta: float) -> None:
    best = of.cheapest(delta)
    assert best is not None
    check(best, of)
    data, compute = grid(best, of)
    assert best.compute + delta * best.data <= (compute + delta * data).min() * (1 + 1e-12)
    x = of.law.alpha * (of.law.a / best.sigma) ** of.law.alpha  # the condition as METHOD B has it
    q = 1 / of.law.alpha + 1 / of.law.beta - 1
    assert 2560 * best.sigma * best.n_params * (1 / x + q) == pytest.approx(delta, rel=1e-6)


@settings(max_examples=300)
@given(allocators, st.floats(-4, 2))
def test_no_setting_is_cheaper_at_a_data_level(of: Allocator, log_excess: float) -> None:
    bound = of.law.c * (1 + 10**log_excess)
    best = of.least_compute(bound)
    assert best is not None and best.data <= bound * (1 + 1e-9)
    check(best, of)
    data, compute = grid(best, of)
    assert best.compute <= compute[data <= bound].min(initial=np.inf) * (1 + 1e-9)
    floor = of.cheapest(0.0)
    if floor is not None and floor.data <= bound:  # less data cost less compute still
        assert best == floor
        return
    assert best.data == pytest.approx(bound, rel=1e-9)
    sigma = best.sigma * AROUND
    rest = bound / of.law.c - 1 - (of.law.a / sigma) ** of.law.alpha
    n_params = of.law.b / rest[rest > 0] ** (1 / of.law.beta)  # what N each σ needs for the same data
    assert best.compute <= (2560 * sigma[rest > 0] * n_params * bound).min() * (1 + 1e-9)
    assert of.least_compute(of.law.c) is None


@settings(max_examples=300)
@given(allocators, st.floats(-3, 3))
def test_no_setting_within_a_compute_bound_needs_less_data(of: Allocator, log_size: float) -> None:
    bound = of.at(of.law.a, of.law.b).compute * 10**log_size
    best = of.least_data(bound)
    if best is None:
        floor, law = of.cheapest(0.0), of.law
        if floor is None:  # on the border 1/alpha + 1/beta = 1 compute falls towards a least value without reaching it
            assert 1 / law.alpha + 1 / law.beta == pytest.approx(1.0)
            least = 2560 * law.a * law.b * law.alpha ** (1 / law.alpha) * law.beta ** (1 / law.beta) * law.c
            assert bound <= least * (1 + 1e-9)
        else:
            assert floor.compute > bound * (1 - 1e-9)
        return
    assert best.compute == pytest.approx(bound, rel=1e-9)
    check(best, of)
    data, compute = grid(best, of)
    assert best.data <= data[compute <= bound].min(initial=np.inf) * (1 + 1e-9)


@given(allocators)
def test_without_a_price_of_data_only_steep_laws_have_an_optimum(of: Allocator) -> None:
    best = of.cheapest(0.0)
    if 1 / of.law.alpha + 1 / of.law.beta >= 1:
        assert best is None
        return
    assert best is not None
    check(best, of)
    assert best.compute <= grid(best, of)[1].min() * (1 + 1e-12)
    nearly = of.cheapest(1e-9)
    assert nearly is not None and nearly.compute == pytest.approx(best.compute, rel=1e-6)


def test_steps_of_a_law_whose_exponents_add_up_to_the_border() -> None:
    of = allocator(5, 0, 2.0, 6, 2.0)  # 1/alpha + 1/beta = 1
    best = of.cheapest(1e10)
    assert best is not None
    check(best, of)
    data, compute = grid(best, of)
    assert best.compute + 1e10 * best.data <= (compute + 1e10 * data).min() * (1 + 1e-12)
    least = 2560 * of.law.a * of.law.b * 2 * of.law.c  # what compute falls to along the line
    assert of.least_data(least * 0.99) is None
    near = of.least_data(least * 1.01)
    assert near is not None and near.compute == pytest.approx(least * 1.01)


def test_a_dearer_step_moves_along_the_line_to_more_compute_and_less_data() -> None:
    of = allocator(5.5, 0, 0.8, 6, 1.2)
    found = [of.cheapest(10.0**e) for e in range(6, 14)]
    for cheap, dear in pairwise(found):
        assert cheap is not None and dear is not None
        assert dear.sigma > cheap.sigma and dear.n_params > cheap.n_params and dear.data < cheap.data


@settings(max_examples=100)
@given(allocators, st.one_of(st.just(0.0), deltas), st.floats(-1, 1), st.floats(5, 7))
def test_the_best_in_a_box(of: Allocator, delta: float, log_sigma: float, log_n: float) -> None:
    box = Box((10**log_sigma, 8 * 10**log_sigma), (10**log_n, 30 * 10**log_n))
    best = of.cheapest_in(box, delta)
    assert box.holds(best.sigma, best.n_params)
    sigma, n_params = np.meshgrid(np.geomspace(*box.sigma, 81), np.geomspace(*box.n_params, 81))
    data = of.law(sigma, n_params)
    assert best.compute + delta * best.data <= (2560 * n_params * sigma * data + delta * data).min() * (1 + 1e-9)


@given(st.just(0.0) | st.floats(1e-6, 50), st.floats(0.1, 5), st.floats(-50, 50), st.floats(-500, 500))
def test_the_root(slope: float, weight: float, log_h: float, level: float) -> None:
    root = rightmost_root(slope, weight, log_h, level)
    if root is None:
        assert slope == 0 and level <= weight * log_h + 1e-9  # where the left side only falls towards weight·log_h
    else:
        assert slope * root + weight * np.logaddexp(root, log_h) == pytest.approx(level, abs=1e-9, rel=1e-9)

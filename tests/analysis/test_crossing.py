"""Crossings by prefix sums, against the isotonic regression itself."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import isotonic_regression

from analysis.crossing import first_reached
from analysis.curves import join_seeds

LEVELS = np.arange(-4.0, 5.0)
rows = st.integers(1, 14)


@given(st.data(), rows, st.integers(1, 4))
def test_the_first_minimum_is_the_first_level_at_or_above(data: st.DataObject, length: int, seeds: int) -> None:
    """Whole numbers, so that ties are ties: unequal weights of seeds and of rows."""
    whole = st.integers(-4, 4)
    values = np.array(data.draw(st.lists(whole, min_size=length * seeds, max_size=length * seeds)), dtype=float)
    values = values.reshape(length, seeds)
    counts = np.array(data.draw(st.lists(st.integers(1, 5), min_size=length, max_size=length)), dtype=float)
    picks = data.draw(st.lists(st.integers(0, seeds - 1), min_size=4, max_size=4))
    weights = np.stack([np.bincount(picks, minlength=seeds), np.bincount(picks[:2] * 2, minlength=seeds)]).astype(float)
    steps = 10.0 * np.arange(1, length + 1)
    found = first_reached(steps, values, weights, LEVELS, False, counts)
    between = first_reached(steps, values, weights, LEVELS, True, counts)
    for k in range(2):
        rising = isotonic_regression(values @ weights[k] / 4, weights=counts).x
        expected = [
            next((s for s, v in zip(steps, rising, strict=True) if v >= level - 1e-9), np.inf) for level in LEVELS
        ]
        np.testing.assert_array_equal(found[k], expected)
        for j, level in enumerate(LEVELS):
            i = int(np.searchsorted(steps, found[k, j]))
            if 0 < i < length:
                share = (level - rising[i - 1]) / (rising[i] - rising[i - 1])
                np.testing.assert_allclose(between[k, j], steps[i - 1] + 10 * share, atol=1e-6)
            else:
                assert between[k, j] == found[k, j]


def test_blocks_do_not_show() -> None:
    rng = np.random.default_rng(0)
    values = rng.standard_normal((3000, 5)).cumsum(axis=0)
    weights = rng.multinomial(5, np.full(5, 0.2), size=40) / 5
    steps = np.arange(3000.0)
    together = first_reached(steps, values, weights, LEVELS, False)
    each = [first_reached(steps, values, weights[k : k + 1], LEVELS, False)[0] for k in range(40)]
    np.testing.assert_array_equal(together, each)


def test_seeds_that_log_at_their_own_steps_are_joined_on_the_rarest() -> None:
    first, second = np.arange(0.0, 101, 10), np.arange(3.0, 90, 7)
    curve = join_seeds([(first, first * 2, False), (second, second * 2, False)])
    np.testing.assert_array_equal(curve.steps, np.arange(10.0, 81, 10))
    np.testing.assert_allclose(curve.values, 2 * curve.steps[:, None] * [1, 1])


def test_rows_in_any_order_and_twice_at_one_step_count_once() -> None:
    steps = np.array([3.0, 1, 2, 2, 4])
    curve = join_seeds([(steps, np.array([3.0, 1, 1, 3, np.nan]), False)])
    np.testing.assert_array_equal(curve.steps, [1, 2, 3])
    np.testing.assert_array_equal(curve.values[:, 0], [1, 2, 3])

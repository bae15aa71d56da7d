"""Dips after resets are taken out, and nothing else."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from analysis.rising import inferred_resets, out_of_dips, rising

NONE = np.empty(0)
STEPS = 10.0 * np.arange(1, 11)


def test_inferred_resets_come_every_whole_number_of_steps() -> None:
    assert inferred_resets(2_500_000, 15.0, 500_000.0).tolist() == [166_666, 333_332, 499_998]
    assert inferred_resets(100, 2.0, 150.0).tolist() == [50, 100, 150]
    assert inferred_resets(100, 2.0, 49.0).size == 0


def test_a_dip_ends_where_the_return_is_back() -> None:
    mean = np.array([1.0, 2, 3, 0, 1, 3, 4, 5, 6, 7])
    assert np.flatnonzero(~out_of_dips(STEPS, mean, np.array([35.0]))).tolist() == [3, 4]


@pytest.mark.parametrize(("mean", "gone"), [([1, 2, 3, 0, 4], [3]), ([1, 2, 0, 3, 4], [2])])
def test_the_evaluation_at_a_reset_belongs_where_the_fall_is_larger(mean: list[float], gone: list[int]) -> None:
    keep = out_of_dips(STEPS[:5], np.array(mean, dtype=float), np.array([30.0]))
    assert np.flatnonzero(~keep).tolist() == gone


def test_one_reading_for_all_resets_of_a_run() -> None:
    mean = np.array([5.0, 6, 1, 6, 6, 5.5, 6, 2, 7, 8])  # at 30 the larger fall is before, at 60 hardly any
    keep = out_of_dips(STEPS, mean, np.array([30.0, 80.0]))
    assert np.flatnonzero(~keep).tolist() == [2, 7]


def test_a_stretch_that_never_recovers_goes_as_a_whole() -> None:
    mean = np.array([1.0, 5, 2, 3, 4, 1, 3, 6, 7, 8])
    # back above 5 never before the second reset, whose own bar is the 4 just before it
    assert np.flatnonzero(~out_of_dips(STEPS, mean, np.array([25.0, 55.0]))).tolist() == [2, 3, 4, 5, 6]


def test_resets_before_the_first_and_after_the_last_evaluation_do_nothing() -> None:
    assert out_of_dips(STEPS, -STEPS, np.array([5.0, 100.5, 200.0])).all()


@given(st.lists(st.floats(0, 1000), min_size=2, max_size=30), st.integers(1, 9))
def test_what_is_kept_of_a_rising_curve_is_all_of_it(values: list[float], every: int) -> None:
    mean = np.sort(np.array(values))
    steps = np.arange(1.0, len(mean) + 1)
    assert out_of_dips(steps, mean, np.arange(every, len(mean), every, dtype=float)).all()


def test_seeds_that_stopped_are_left_out_of_the_mean_and_the_curve_is_cut() -> None:
    returns = np.array([[1.0, 3.0], [np.nan, 4.0], [np.nan, np.nan], [6.0, 2.0], [9.0, 9.0]])
    curve = rising(STEPS[:5], returns, NONE, 40.0)
    assert curve.steps.tolist() == [10, 20, 40] and curve.values.tolist() == [2, 4, 4] and curve.final == 4
    assert curve.in_dips == 0
    assert np.isnan(rising(STEPS[:5], returns, NONE, 5.0).final)


def test_without_the_filter_a_dip_drags_down_what_was_reached() -> None:
    mean = np.array([1.0, 5, 0, 2, 5, 5])[:, None]
    assert rising(STEPS[:6], mean, NONE, np.inf).values[1] < 3
    cleaned = rising(STEPS[:6], mean, np.array([25.0]), np.inf)
    assert cleaned.values.tolist() == [1, 5, 5, 5] and cleaned.in_dips == 2

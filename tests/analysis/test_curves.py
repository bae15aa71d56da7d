"""Isotonic regression, crossings and joining seeds, against brute force and published cases."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from analysis.crossing import first_reached
from analysis.curves import Reference, first_crossings, isotonic, join_seeds
from rlscale.typed import Mistake

returns = st.lists(st.floats(-1e3, 1e3, allow_nan=False), min_size=1, max_size=12)


def brute_isotonic(values: np.ndarray) -> np.ndarray:
    """The max-min formula: g_i = max over s ≤ i of min over t ≥ i of mean(values[s..t])."""
    n = len(values)
    return np.array([max(min(values[s : t + 1].mean() for t in range(i, n)) for s in range(i + 1)) for i in range(n)])


@given(returns)
def test_isotonic_is_the_max_min_formula(values: list[float]) -> None:
    y = np.array(values)
    np.testing.assert_allclose(isotonic(np.arange(len(y), dtype=float), y), brute_isotonic(y), atol=1e-7)


@given(returns, st.lists(st.floats(-1e3, 1e3), min_size=1, max_size=5).map(sorted))
def test_crossing_is_the_first_step_at_or_above(values: list[float], thresholds: list[float]) -> None:
    steps = 10.0 * np.arange(1, len(values) + 1)
    rising = isotonic(steps, np.array(values))
    expected = [next((s for s, v in zip(steps, rising, strict=True) if v >= t), np.inf) for t in thresholds]
    np.testing.assert_array_equal(first_crossings(steps, rising, np.array(thresholds)), expected)


def test_published_isotonic_cases(golden: Callable[[str], Any]) -> None:
    for case in golden("qs_11_isotonic_units.json")["cases"]:
        x, y = np.array(case["x"], dtype=float), np.array(case["y"], dtype=float)
        rising = isotonic(x, y)
        np.testing.assert_allclose(rising, case["iso"], atol=1e-9)
        expected = [np.inf if c is None else c for c in case["crossings"]]
        thresholds = np.array(case["thresholds"], dtype=float)
        np.testing.assert_array_equal(first_crossings(x, rising, thresholds), expected)
        if (np.diff(x) > 0).all():  # as studies are read: sorted, one row for each step
            found = first_reached(x, y[:, None], np.ones((1, 1)), thresholds, interpolate=False)
            np.testing.assert_array_equal(found[0], expected)


def test_seeds_join_where_all_have_a_value() -> None:
    steps = np.array([1.0, 2, 3, 4])
    curve = join_seeds([(steps, np.array([1.0, np.nan, 3, 4]), False), (steps[:3], np.array([5.0, 6, 7]), False)])
    np.testing.assert_array_equal(curve.steps, [1, 3])
    np.testing.assert_array_equal(curve.values, [[1, 5], [3, 7]])


def test_a_diverged_seed_is_held_at_its_last_value_and_does_not_shorten_the_others() -> None:
    steps = np.array([1.0, 2, 3, 4])
    curve = join_seeds([(steps, np.array([1.0, 2, 3, 4]), False), (steps, np.array([1.0, 2, np.nan, np.inf]), True)])
    np.testing.assert_array_equal(curve.steps, steps)
    np.testing.assert_array_equal(curve.values[:, 1], [1, 2, 2, 2])


def test_reference_normalises_between_floor_and_ceiling() -> None:
    reference = Reference("r", {"a": -1250.0, "default": 0.0}, {"a": -150.0, "default": 1000.0}, (100.0,), None, 0.0)
    np.testing.assert_allclose(reference.normalise(np.array([-1250.0, -700, -150]), "a"), [0, 500, 1000])
    np.testing.assert_allclose(reference.normalise(np.array([250.0]), "other"), [250])


def test_an_unknown_task_names_the_key_to_add() -> None:
    reference = Reference("gym", {"default": 0.0}, {"Ant-v4": 6625.0}, (100.0,), None, 0.0)
    with pytest.raises(Mistake, match=r"\+reference\.ceiling\.Hopper-v4="):
        reference.span("Hopper-v4")

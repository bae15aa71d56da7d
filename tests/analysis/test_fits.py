"""Power laws of the best settings: published numbers, known truths."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from analysis.best import Best
from analysis.fits import power_laws, shared_slope
from analysis.uncertainty import Bootstrap, excess_scatter, interval
from rlscale.typed import Mistake


def exact(sigma: list[float], values: dict[str, list[float]], draws: int = 40) -> Best:
    """Best values without any spread among the draws."""
    rows = [(t, str(s), s, v) for t, column in values.items() for s, v in zip(sigma, column, strict=True)]
    table = pd.DataFrame(rows, columns=["task", "utd", "sigma", "value"])
    return Best(table, np.repeat(table["value"].to_numpy()[:, None], draws, axis=1), [])


@pytest.mark.parametrize("quantity", ["bs", "lr"])
def test_published_slopes_of_the_gym_grid(golden: Callable[[str], Any], quantity: str) -> None:
    case = golden("qs_01_linear_fit_gym.json")
    shared, separate, notes = power_laws(
        exact(case["utds"], case["inputs"][quantity]), Bootstrap(40, 0, False), quantity
    )
    want = case["expected"][quantity]
    assert shared.slope[0] == pytest.approx(want["shared_slope"], rel=1e-9) and not notes
    for t, task in enumerate(shared.tasks):
        assert shared.log_intercept[t] / np.log(10) == pytest.approx(want["shared_log10_intercept"][task], rel=1e-9)
        assert separate.slope[t] == pytest.approx(
            want["separate_all_utds"][task]["slope"], rel=1e-9
        )  # all σ, not all but one
    low, high = interval(shared.slope_draws[:, 0])
    assert low < shared.slope[0] < high  # the draws agree, so this is the scatter about the law


def test_fewer_than_three_levels_is_a_mistake() -> None:
    with pytest.raises(Mistake, match=r"at least 3 levels of σ.*leave 2"):
        power_laws(exact([1, 2], {"a": [256, 128], "b": [200, 150]}), Bootstrap(40, 0, False), "batch_size")


def test_a_task_with_too_few_levels_takes_the_shared_slope() -> None:
    best = exact([1, 2, 4], {"a": [256, 128, 64], "b": [200, 150, 100]})
    keep = ~((best.table["task"] == "b") & (best.table["sigma"] == 4)).to_numpy()
    best = Best(best.table[keep].reset_index(drop=True), best.draws[keep], [])
    shared, separate, notes = power_laws(best, Bootstrap(40, 0, False), "batch_size")
    assert separate.slope[0] == pytest.approx(-1) and separate.slope[1] == shared.slope[1]
    assert "b has 2 σ" in notes[0]


def test_tasks_that_disagree_widen_the_slope_only_where_they_are_resampled() -> None:
    sigma = [1.0, 2.0, 4.0, 8.0]
    slopes = (-0.1, -0.3, -0.5, -0.7, -0.9)
    mixed = exact(sigma, {f"t{i}": [100 * s**a for s in sigma] for i, a in enumerate(slopes)}, 400)
    alike = exact(sigma, {f"t{i}": [100 * s**-0.5 for s in sigma] for i in range(5)}, 400)
    width = {}
    for tasks in (False, True):
        shared = power_laws(mixed, Bootstrap(400, 0, tasks), "batch_size")[0]
        assert shared.slope[0] == pytest.approx(-0.5)  # the fit itself is of all tasks
        width[tasks] = np.ptp(interval(shared.slope_draws[:, 0]))
        agreeing = power_laws(alike, Bootstrap(400, 0, tasks), "batch_size")[0]
        np.testing.assert_allclose(agreeing.slope_draws, -0.5)
    # the spread of a mean of five slopes 0.2 apart: 2·1.96·0.283/√5, beside the scatter that is there without it
    assert width[True] == pytest.approx(np.hypot(width[False], 0.50), rel=0.15)


@given(st.lists(st.tuples(st.integers(0, 2), st.floats(-3, 3), st.floats(-3, 3)), min_size=6, max_size=20))
def test_shared_slope_is_least_squares_with_dummies(points: list[tuple[int, float, float]]) -> None:
    member = np.unique(np.array([p[0] for p in points]), return_inverse=True)[1]
    x, y = np.array([p[1] for p in points]), np.array([p[2] for p in points])
    if sum((np.ptp(x[member == t]) for t in range(member.max() + 1)), 0.0) < 0.1:
        return
    slope, intercept = shared_slope(x, y, member)
    design = np.column_stack([x, *[(member == t).astype(float) for t in range(member.max() + 1)]])
    np.testing.assert_allclose([slope, *intercept], np.linalg.lstsq(design, y, rcond=None)[0], atol=1e-6)


def test_excess_scatter() -> None:
    residuals = np.array([0.3, -0.3, 0.3, -0.3])
    assert excess_scatter(residuals, np.zeros(4), 2) == pytest.approx(0.18)
    assert excess_scatter(residuals, np.full(4, 0.5), 2) == 0.0
    assert excess_scatter(residuals, np.zeros(4), 0) == 0.0

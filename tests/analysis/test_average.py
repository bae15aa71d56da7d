"""Several tasks as one: units that cancel, tasks resampled together, levels that some task misses."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from analysis.average import Averaged, averaged
from analysis.curves import CELL, Crossings, Curve
from analysis.uncertainty import Bootstrap, Floats

UTDS = ("1", "2", "4")
DRAWS = 200


def crossed(data: dict[str, list[float]]) -> Crossings:
    """Two levels with the same D_J [T][σ], the same in every draw; budgets of 1e6 env steps."""
    rows = [(t, u, float(u), 256, 3e-4, 5, 0, 1e6) for t in data for u in UTDS]
    point = np.repeat(np.concatenate([data[t] for t in data])[:, None], 2, axis=1)
    curves = [Curve(np.arange(2.0), np.zeros((2, 1)))] * len(rows)
    cells = pd.DataFrame(rows, columns=[*CELL, "n_seeds", "n_diverged", "t_max"])
    return Crossings(cells, np.array([300.0, 500.0]), point, np.repeat(point[:, None], DRAWS, axis=1), curves, [])


def average(data: dict[str, list[float]], how: str = "geometric", tasks: bool = False, level: int = 0) -> Averaged:
    bootstrap = Bootstrap(DRAWS, 0, tasks)
    found, dropped = averaged(crossed(data), level, sorted(data), list(UTDS), list(UTDS), how, bootstrap)
    assert found is not None and not dropped
    return found


def shape(found: Averaged) -> Floats:
    return found.data / found.data[1]


@pytest.mark.parametrize(("how", "expected"), [("geometric", [2.0, 1.0, 0.5]), ("arithmetic", [2.5, 1.0, 0.625])])
def test_tasks_count_alike_whatever_their_units(how: str, expected: list[float]) -> None:
    """Over their medians the tasks are (4, 1, 1/4) and (1, 1, 1)."""
    for unit in (1.0, 30.0):
        found = average({"a": [400.0, 100.0, 25.0], "b": [unit, unit, unit]}, how)
        np.testing.assert_allclose(shape(found), expected)
        np.testing.assert_allclose(found.draws, np.tile(found.data, (DRAWS, 1)))
        assert found.scale["a"] / found.scale["b"] == pytest.approx(100 / unit)


def test_resampled_tasks_come_whole_and_together_at_all_levels() -> None:
    data = {"a": [4e4, 1e4, 2.5e3], "b": [1e4, 1e4, 1e4]}
    found, other = average(data, tasks=True), average(data, tasks=True, level=1)
    np.testing.assert_array_equal(found.draws, other.draws)
    ends = (found.draws / found.draws[:, 1:2])[:, 0]
    share = {4.0: 0.25, 2.0: 0.5, 1.0: 0.25}  # both times a, one of each, both times b
    for value, expected in share.items():
        assert np.isclose(ends, value).mean() == pytest.approx(expected, abs=0.1)
    np.testing.assert_allclose(shape(found), [2.0, 1.0, 0.5])  # the estimate is of all tasks


def test_a_draw_without_the_task_that_missed_the_level_is_not_censored() -> None:
    data = {"a": [np.inf, 1e4, 5e3], "b": [1e4, 1e4, 1e4]}
    assert average(data).draws_censored[:, 0].all()
    censored = average(data, tasks=True).draws_censored
    assert 0.6 < censored[:, 0].mean() < 0.9 and not censored[:, 1:].any()

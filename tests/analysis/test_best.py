"""The best grid value: votes, ties, and what never reached the level."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from analysis.best import baseline, best
from analysis.curves import Crossings, Curve
from analysis.uncertainty import Bootstrap
from rlscale.typed import Mistake

BOOT = Bootstrap(20, 0, False)
INF = np.inf


def made(cells: list[tuple[str, str, int, float, list[float]]]) -> Crossings:
    """Crossings at thresholds (500, 700) without any noise: (task, utd, B, η, D at each threshold)."""
    frame = pd.DataFrame(
        [(t, u, float(u), b, lr, 4, 0, 1e4) for t, u, b, lr, _ in cells],
        columns=["task", "utd", "sigma", "batch_size", "learning_rate", "n_seeds", "n_diverged", "t_max"],
    )
    point = np.array([d for *_, d in cells], dtype=float)
    curves = [Curve(np.arange(2.0), np.zeros((2, 1))) for _ in cells]
    return Crossings(frame, np.array([500.0, 700.0]), point, np.repeat(point[:, None], 20, axis=1), curves, [])


def test_the_fewest_env_steps_win_and_groups_average_geometrically() -> None:
    crossed = made(
        [
            ("a", "1", 64, 1e-3, [1, 9]),
            ("a", "1", 256, 1e-3, [2, 5]),
            ("a", "1", 64, 1e-4, [1, 3]),
            ("a", "1", 256, 1e-4, [2, 5]),
        ]
    )
    assert best(crossed, "batch_size", "last", "geometric", BOOT).table["value"].item() == pytest.approx(128)
    assert best(crossed, "batch_size", "last", "arithmetic", BOOT).table["value"].item() == pytest.approx(160)
    assert best(crossed, "batch_size", 500.0, "geometric", BOOT).table["value"].item() == pytest.approx(64)


def test_a_group_that_never_reaches_the_level_has_no_vote() -> None:
    """The public code would let it vote for the smallest value (here: the mean of 64 and 256)."""
    crossed = made(
        [
            ("a", "1", 64, 1e-3, [1, INF]),
            ("a", "1", 256, 1e-3, [2, INF]),
            ("a", "1", 64, 1e-4, [1, 8]),
            ("a", "1", 256, 1e-4, [2, 5]),
        ]
    )
    row = best(crossed, "batch_size", "last", "geometric", BOOT).table.iloc[0]
    assert row["value"] == pytest.approx(256) and row["reached"] and row["share"] == 0.5


def test_a_task_and_sigma_where_nothing_reaches_is_listed_not_guessed() -> None:
    cells = [("a", "1", b, 1e-3, [1, d]) for b, d in ((64, 5), (256, 4))]
    cells += [("a", "2", b, 1e-3, [1, INF]) for b in (64, 256)]
    found = best(made(cells), "batch_size", "last", "geometric", BOOT)
    assert list(found.table["utd"]) == ["1"]
    ((what, why),) = found.dropped
    assert "σ=2" in what and "700" in why
    lower = best(made(cells), "batch_size", "reachable", "geometric", BOOT).table
    assert list(lower["threshold"]) == [700.0, 500.0]


def test_draws_that_do_not_reach_are_left_out_and_said() -> None:
    crossed = made([("a", "1", 64, 1e-3, [1, 8]), ("a", "1", 256, 1e-3, [2, 5])])
    crossed.draws[:, :5] = INF
    row = best(crossed, "batch_size", "last", "geometric", BOOT).table.iloc[0]
    assert row["value"] == pytest.approx(256) and not row["reached"] and row["share"] == 0.75


def test_ties_share_the_vote() -> None:
    crossed = made([("a", "1", 64, 1e-3, [1, 5]), ("a", "1", 256, 1e-3, [2, 5])])
    assert best(crossed, "batch_size", "last", "geometric", BOOT).table["value"].item() == pytest.approx(128)


def test_a_single_setting_is_no_comparison() -> None:
    cells = [("a", "1", b, 1e-3, [1, d]) for b, d in ((64, 5), (256, 4))] + [("a", "2", 128, 1e-3, [1, 3])]
    found = best(made(cells), "batch_size", "last", "geometric", BOOT)
    assert list(found.table["utd"]) == ["1"] and "nothing to compare" in found.dropped[0][1]


def test_intervals_are_no_narrower_than_the_grid() -> None:
    crossed = made([("a", "1", b, 1e-3, [1, d]) for b, d in ((64, 8), (128, 5), (256, 7))])
    row = best(crossed, "batch_size", "last", "geometric", Bootstrap(400, 0, False)).table.iloc[0]
    assert np.log(row["high"] / row["low"]) == pytest.approx(3.92 * np.log(2) / np.sqrt(12), rel=0.2)


def test_nothing_reached_anywhere_is_a_mistake() -> None:
    with pytest.raises(Mistake, match=r"threshold=last.*reachable"):
        best(made([("a", "1", 64, 1e-3, [1, INF])]), "batch_size", "last", "geometric", BOOT)
    with pytest.raises(Mistake, match=r"threshold=600.*500, 700"):
        best(made([("a", "1", 64, 1e-3, [1, 2])]), "batch_size", 600.0, "geometric", BOOT)


def test_the_baseline_is_the_best_measured_pair_of_its_sigma() -> None:
    cells = [("a", "1", 64, 1e-3, [1, 9]), ("a", "1", 256, 1e-4, [2, 5]), ("a", "2", 64, 1e-3, [1, 2])]
    cells += [("b", "1", 64, 1e-3, [1, INF])]
    pairs = baseline(made(cells), "1", "last")
    assert pairs.to_dict("records") == [{"task": "a", "batch_size": 256, "learning_rate": 1e-4}]

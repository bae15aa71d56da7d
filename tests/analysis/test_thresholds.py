"""Levels by rule and by hand."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from analysis.thresholds import Even, Manual, QuantileRule, ShareOfGroups
from rlscale.typed import Mistake

# five (σ, N) groups of one task, two batch sizes each
GROUPS = {
    (1.0, 1e6): (100, 310),
    (2.0, 1e6): (420, 90),
    (4.0, 1e6): (515, 80),
    (1.0, 4e6): (70, 640),
    (2.0, 4e6): (735, 60),
}
FINALS = pd.DataFrame(
    [("walk", *group, final) for group, finals in GROUPS.items() for final in finals],
    columns=["task", "sigma", "n_params", "final"],
)


def test_the_share_of_groups_counts_each_group_by_its_best_run() -> None:
    levels = ShareOfGroups({"walk": 20}, 5, 0.8).levels(FINALS)
    np.testing.assert_allclose(levels["walk"], np.linspace(20, 420, 5))  # four of five groups reach 420
    assert ShareOfGroups({"walk": 20}, 5, 1.0).levels(FINALS)["walk"][-1] == 310
    assert ShareOfGroups({"walk": 20}, 5, 0.21).levels(FINALS)["walk"][-1] == 640


def test_the_quantile_rule_counts_runs_and_rounds_down() -> None:
    top = QuantileRule({"walk": 20}, 3, 0.8, 0.95, 10.0).levels(FINALS)["walk"]
    assert top.tolist() == [20, 265, 510]  # the quantile is 540, 0.95 of it 513


def test_by_hand() -> None:
    assert Manual({"walk": (1, 2.5), "run": (3,)}).levels(FINALS)["walk"].tolist() == [1, 2.5]
    with pytest.raises(ValueError, match="rising order"):
        Manual({"walk": (2, 1)})
    with pytest.raises(Mistake, match=r"add by_task\.walk="):
        Manual({"run": (3,)}).levels(FINALS)


def test_a_lowest_level_that_is_missing_or_too_high_is_a_mistake() -> None:
    with pytest.raises(Mistake, match=r"add lowest\.walk="):
        ShareOfGroups({}, 5, 0.8).levels(FINALS)
    with pytest.raises(Mistake, match=r"lowest\.walk=420: .* up to 420"):
        ShareOfGroups({"walk": 420}, 5, 0.8).levels(FINALS)


@pytest.mark.parametrize(
    ("rule", "wrong", "said"),
    [
        (ShareOfGroups, ({}, 1, 0.8), "count=1"), (ShareOfGroups, ({}, 5, 0.0), "share=0"),
        (QuantileRule, ({}, 5, 1.5, 1.0, 10.0), "quantile=1.5"), (QuantileRule, ({}, 5, 0.2, 1.0, 0.0), "multiple=0"),
    ],
)  # fmt: skip
def test_a_rule_that_cannot_be_is_refused(rule: type, wrong: tuple[object, ...], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        rule(*wrong)


def test_even_levels_between_two() -> None:
    finals = pd.DataFrame([("a", 1.0, 1.0, 5.0)], columns=["task", "sigma", "n_params", "final"])
    found = Even({"a": (10, 20), "b": (0, 1)}, 3).levels(finals)
    assert {t: list(x) for t, x in found.items()} == {"a": [10.0, 15.0, 20.0]}
    with pytest.raises(Mistake, match="by_task knows no task a"):
        Even({"b": (0, 1)}, 3).levels(finals)

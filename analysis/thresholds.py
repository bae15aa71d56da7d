"""Which return levels data are counted at, task by task: rules that look at the runs, or levels by hand (METHOD B).

Levels that few settings reach leave nothing to fit, so a rule sets the highest level from what the runs reached; the
lowest is a person's choice, above noise. A rule is plain data and is stored beside the levels that it gave.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import ceil
from typing import Protocol, TypeVar

import numpy as np
import pandas as pd

from analysis.uncertainty import Floats
from rlscale.typed import Mistake

T = TypeVar("T")


class Policy(Protocol):
    """A way to choose levels."""

    def levels(self, finals: pd.DataFrame) -> dict[str, Floats]:
        """Rising levels per task, from one row per configuration: `task`, `sigma`, `n_params`, `final`.

        `final` is the highest return that the configuration's rising mean curve reached. Raises Mistake.
        """


@dataclass(frozen=True)
class Manual:
    """The levels of every task as a person gave them."""

    by_task: Mapping[str, tuple[float, ...]]

    def __post_init__(self) -> None:
        for task, levels in self.by_task.items():
            if not levels or list(levels) != sorted(set(levels)):
                raise ValueError(f"by_task.{task}={list(levels)}: list at least one level, in rising order")

    def levels(self, finals: pd.DataFrame) -> dict[str, Floats]:
        """The given levels of the tasks in `finals`."""
        return {t: np.array(_of(self.by_task, t, "by_task"), dtype=float) for t in sorted(set(finals["task"]))}


@dataclass(frozen=True)
class Even:
    """`count` even levels between two that a person gave, the lowest and the highest of each task."""

    by_task: Mapping[str, tuple[float, float]]
    count: int

    def __post_init__(self) -> None:
        _check_count(self.count)

    def levels(self, finals: pd.DataFrame) -> dict[str, Floats]:
        """Those of the tasks in `finals`."""
        ends = {str(t): _of(self.by_task, t, "by_task") for t in sorted(set(finals["task"]))}
        return _even({t: low for t, (low, _) in ends.items()}, {t: high for t, (_, high) in ends.items()}, self.count)


@dataclass(frozen=True)
class QuantileRule:
    """`count` even levels from `lowest` to `factor` of the `quantile` over all runs, rounded down to a `multiple`.

    What the follow-up's code does for DMC, with quantile 0.2, factor 0.95, multiple 10, count 20. A task's runs are
    counted one by one, so a batch size that was tried more often weighs more.
    """

    lowest: Mapping[str, float]
    count: int
    quantile: float
    factor: float
    multiple: float

    def __post_init__(self) -> None:
        _check_count(self.count)
        if not 0 <= self.quantile <= 1:
            raise ValueError(f"quantile={self.quantile}: give a share between 0 and 1")
        if self.multiple <= 0:
            raise ValueError(f"multiple={self.multiple}: give a number above 0")

    def levels(self, finals: pd.DataFrame) -> dict[str, Floats]:
        """See Policy."""
        tops = {}
        for task, rows in finals.groupby("task"):
            at = float(np.quantile(rows["final"], self.quantile))
            tops[str(task)] = self.factor * at // self.multiple * self.multiple
        return _even(self.lowest, tops, self.count)


@dataclass(frozen=True)
class ShareOfGroups:
    """`count` even levels from `lowest` to the highest level that a `share` of the (σ, N) groups reach.

    A group reaches what its best run, over batch sizes, reaches: the rule in the follow-up's text, with share 0.8 and
    count 20. No interpolation between groups: the highest level is one group's own.
    """

    lowest: Mapping[str, float]
    count: int
    share: float

    def __post_init__(self) -> None:
        _check_count(self.count)
        if not 0 < self.share <= 1:
            raise ValueError(f"share={self.share}: give a share above 0 and up to 1")

    def levels(self, finals: pd.DataFrame) -> dict[str, Floats]:
        """See Policy."""
        best = finals.groupby(["task", "sigma", "n_params"])["final"].max()
        tops = {}
        for task, reached in best.groupby("task"):
            order = np.sort(reached.to_numpy(float))[::-1]
            # a hair less, so that 0.8 of 5 groups is 4 and not 5
            tops[str(task)] = float(order[ceil(self.share * len(order) - 1e-9) - 1])
        return _even(self.lowest, tops, self.count)


def _check_count(count: int) -> None:
    if count < 2:
        raise ValueError(f"count={count}: give 2 or more levels")


def _even(lowest: Mapping[str, float], tops: Mapping[str, float], count: int) -> dict[str, Floats]:
    found = {}
    for task, top in tops.items():
        low = float(_of(lowest, task, "lowest"))
        if not low < top:
            raise Mistake(f"lowest.{task}={low:g}: the runs support levels up to {top:g} only; give a lower one")
        found[task] = np.linspace(low, top, count)
    return found


def _of(table: Mapping[str, T], task: str, key: str) -> T:
    if task not in table:
        raise Mistake(f"{key} knows no task {task}: add {key}.{task}=…")
    return table[task]

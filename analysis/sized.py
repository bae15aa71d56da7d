"""Studies whose runs differ in model size: the return levels that count, and the data that each (task, σ, N) took."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import pandas as pd

from analysis.curves import Crossings, Reference, Track, crossings, isotonic, joined
from analysis.dips import counted
from analysis.records import Study
from analysis.thresholds import Even, Manual, Policy, QuantileRule, ShareOfGroups
from analysis.uncertainty import Bootstrap, Floats
from rlscale.typed import Mistake, convert, nearest, typed

RULES: Mapping[str, type[Policy]] = {"even": Even, "manual": Manual, "quantile": QuantileRule, "share": ShareOfGroups}
FINALS = ["task", "sigma", "n_params", "final"]  # what a Policy looks at
RESET = "reset"  # column of a curve: resets of the networks since the row before
UNIT = 1000.0  # normalised returns: the lowest level is 0 and the highest 1000 where a rule set them


@dataclass(frozen=True)
class Least:
    """The smallest σ and N of the settings that a level rule, and the average task, look at; None: all."""

    utd: float | None
    n_params: float | None

    def counts(self, sigma: Any, n_params: Any) -> Any:
        """Whether a setting does, elementwise."""
        return (sigma >= (self.utd or 0.0)) & (n_params >= (self.n_params or 0.0))


@dataclass(frozen=True)
class Options:
    """conf/size/*.yaml."""

    levels: Mapping[str, Any] | None
    least: Least
    resets: Any
    max_steps: Mapping[str, float] | None
    fit_up_to: float | None
    exponents: Literal["shared", "separate"]

    def __post_init__(self) -> None:
        if self.resets not in (None, "logged") and not convert(self.resets, float, "size.resets") > 0:
            raise ValueError(f"resets={self.resets}: give gradient steps above 0, logged, or null")

    def policy(self) -> Policy | None:
        """The rule for return levels; None: the reference's thresholds. Raises Mistake."""
        if self.levels is None:
            return None
        rule = str(self.levels.get("rule"))
        if rule not in RULES:
            raise Mistake(f"size.levels.rule={rule}: there is no such rule; {nearest(rule, RULES)}")
        return typed(RULES[rule], {k: v for k, v in self.levels.items() if k != "rule"}, "size.levels")


@dataclass(frozen=True)
class Settings:
    """Data at the best batch size and learning rate of each (task, σ, N) in `cells` [n]: SIZED_CELL, width and split.

    `data` [n, J] and `draws` [n, K, J]: env steps until each level, inf = not within `limit` [n]. `batch` [n, J]: the
    batch size that needed fewest env steps, which the draws hold fixed. `levels`: raw returns [J] by task.
    """

    cells: pd.DataFrame
    thresholds: Floats
    levels: Mapping[str, Floats]
    data: Floats
    draws: Floats
    batch: Floats
    limit: Floats
    dropped: list[tuple[str, str]]


def levelled(study: Study, reference: Reference, metric: str, options: Options) -> Reference:
    """The reference with the levels that the rule finds: each task's lowest is 0 and its highest 1000.

    Raises Mistake.
    """
    policy = options.policy()
    if policy is None:
        return reference
    rows = []
    for cell, curve in joined(study, reference, metric)[0]:
        floor, ceiling = reference.span(cell["task"])
        final = floor + isotonic(curve.steps, curve.mean)[-1] * (ceiling - floor) / UNIT
        rows.append((cell["task"], cell["sigma"], cell["n_params"], final))
    return with_levels(reference, policy, pd.DataFrame(rows, columns=FINALS), options.least)


def with_levels(reference: Reference, policy: Policy, finals: pd.DataFrame, least: Least) -> Reference:
    """The reference with a policy's levels of these `finals`. Raises Mistake if tasks' levels are spaced otherwise."""
    levels = policy.levels(finals[least.counts(finals["sigma"], finals["n_params"])])
    spaced = {task: UNIT * (x - x[0]) / (x[-1] - x[0]) for task, x in levels.items()}
    first = next(iter(spaced.values()))
    for task, places in spaced.items():
        if places.shape != first.shape or not np.allclose(places, first, atol=1e-6):
            raise Mistake(f"size.levels.by_task.{task}: space its levels as those of {next(iter(spaced))} are spaced")
    ends = [{task: float(x[i]) for task, x in levels.items()} for i in (0, -1)]
    return replace(reference, floor=ends[0], ceiling=ends[1], thresholds=tuple(float(x) for x in first))


def sized_crossings(
    study: Study,
    reference: Reference,
    metric: str,
    options: Options,
    bootstrap: Bootstrap,
    track: Track,
    interpolate: bool,
) -> tuple[Crossings, Reference]:
    """Crossings of the rows that count, and the reference with the levels used."""
    study = counted(study, metric, options.resets, options.max_steps)
    reference = levelled(study, reference, metric, options)
    return crossings(study, reference, metric, bootstrap, track, interpolate), reference


def raw_levels(reference: Reference, tasks: Iterable[str]) -> dict[str, Floats]:
    """The reference's thresholds as raw returns, by task."""
    found = {}
    for task in sorted(set(tasks)):
        floor, ceiling = reference.span(task)
        found[task] = floor + np.asarray(reference.thresholds, dtype=float) * (ceiling - floor) / UNIT
    return found


def best_settings(
    cells: pd.DataFrame, point: Floats, draws: Floats, thresholds: Floats, levels: Mapping[str, Floats],
    dropped: list[tuple[str, str]],
) -> Settings:  # fmt: skip
    """Of each (task, σ, N) and split the batch size and learning rate with the fewest env steps, level by level.

    `cells` [n]: SIZED_CELL, width and t_max; `point` [n, J] and `draws` [n, K, J]: their crossings. Of settings that
    tie, the smallest batch size counts.
    """
    heads, data, drawn, batch, limit = [], [], [], [], []
    columns = np.arange(len(thresholds))
    for _, at in cells.groupby(["task", "sigma", "n_params", "split"], sort=True):
        winner = at.index.to_numpy()[point[at.index].argmin(axis=0)]  # [J]
        heads.append(at.iloc[0][["task", "utd", "sigma", "n_params", "split", "width"]].to_dict())
        data.append(point[winner, columns])
        drawn.append(draws[winner, :, columns].T)
        batch.append(cells["batch_size"].to_numpy(float)[winner])
        limit.append(float(at["t_max"].max()))
    return Settings(
        pd.DataFrame(heads), thresholds, levels, np.stack(data), np.stack(drawn), np.stack(batch), np.array(limit),
        dropped,
    )  # fmt: skip

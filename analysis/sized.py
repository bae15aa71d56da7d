"""Studies whose runs differ in model size: the return levels that count, and the data that each (task, σ, N) took."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import pandas as pd

from analysis.curves import Crossings, Reference, Track, crossings, isotonic
from analysis.dips import counted
from analysis.records import Study
from analysis.thresholds import Even, Manual, Policy, QuantileRule, ShareOfGroups
from analysis.uncertainty import Bootstrap, Floats
from rlscale.typed import Mistake, convert, nearest, typed

RULES: Mapping[str, type[Policy]] = {"even": Even, "manual": Manual, "quantile": QuantileRule, "share": ShareOfGroups}
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
    bootstrap = Bootstrap(20, 0, tasks=False)  # only the curves are used
    found = crossings(study, reference, metric, bootstrap, lambda items, *_: items)
    rows = []
    for cell, curve in zip(found.cells.itertuples(), found.curves, strict=True):
        floor, ceiling = reference.span(cell.task)
        final = floor + isotonic(curve.steps, curve.mean)[-1] * (ceiling - floor) / UNIT
        rows.append((cell.task, cell.sigma, cell.n_params, final))
    return with_levels(reference, policy, pd.DataFrame(rows, columns=FINALS), options.least)


FINALS = ["task", "sigma", "n_params", "final"]  # what a Policy looks at


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


def settings(
    study: Study,
    reference: Reference,
    metric: str,
    options: Options,
    bootstrap: Bootstrap,
    track: Track,
    interpolate: bool,
) -> tuple[Settings, Crossings, Reference]:
    """Crossings of the rows that count, and of these the best setting of each (task, σ, N); with the levels used."""
    study = counted(study, metric, options.resets, options.max_steps)
    reference = levelled(study, reference, metric, options)
    crossed = crossings(study, reference, metric, bootstrap, track, interpolate)
    return best_settings(crossed, reference), crossed, reference


def best_settings(crossed: Crossings, reference: Reference) -> Settings:
    """Of each (task, σ, N) the batch size and learning rate with the fewest env steps, level by level."""
    heads, data, draws, batch, limit = [], [], [], [], []
    levels = np.arange(len(crossed.thresholds))
    for _, at in crossed.cells.groupby(["task", "sigma", "n_params"], sort=True):
        index = at.index.to_numpy()
        # one that nothing reached is the one that was run longest
        order = np.lexsort((-at["t_max"].to_numpy(float),))
        winner = index[order][crossed.point[index[order]].argmin(axis=0)]  # [J]
        heads.append(at.iloc[0].to_dict())
        data.append(crossed.point[winner, levels])
        draws.append(crossed.draws[winner, :, levels].T)
        batch.append(crossed.cells["batch_size"].to_numpy(float)[winner])
        limit.append(float(at["t_max"].max()))
    cells = pd.DataFrame(heads).drop(columns=["batch_size", "learning_rate", "t_max", "n_seeds", "n_diverged"])
    raw = {}
    for task in sorted(cells["task"].unique()):
        floor, ceiling = reference.span(task)
        raw[task] = floor + crossed.thresholds * (ceiling - floor) / UNIT
    return Settings(
        cells, crossed.thresholds, raw, np.stack(data), np.stack(draws), np.stack(batch), np.array(limit),
        list(crossed.dropped),
    )  # fmt: skip

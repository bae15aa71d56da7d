"""The best batch size and learning rate at each (task, σ), with what the grid cannot tell kept apart (METHOD A2)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from analysis.curves import Crossings
from analysis.uncertainty import Bootstrap, Floats, interval
from rlscale.typed import Mistake

QUANTITIES = ("learning_rate", "batch_size")  # what a best setting is of
OTHER = dict(zip(QUANTITIES, reversed(QUANTITIES), strict=True))


@dataclass(frozen=True)
class Best:
    """B̂(task, σ) or η̂(task, σ) (eqs D.1, D.4).

    `table` [n]: task, utd, sigma, in a study of several model sizes n_params and width, value, low, high (95 %),
    reached (something reached the level in every draw), share (votes cast of the votes possible), at_low and at_high
    (share of votes for the grid's smallest and largest value).
    `draws` [n, K]: the value in each bootstrap draw. `dropped`: ((task, utd), reason).
    """

    table: pd.DataFrame
    draws: Floats
    dropped: list[tuple[str, str]]


def best(crossings: Crossings, quantity: str, threshold: str | float, average: str, bootstrap: Bootstrap) -> Best:
    """The grid value of `quantity` with the fewest env steps until the threshold, averaged over draws.

    In each group (task, σ, other hyperparameter) and each draw the grid value with the smallest D_J has the vote;
    values that tie share it. A group in which nothing reaches the level in that draw casts no vote: not reaching is
    not a win for the smallest value; nor does a group with a single grid value (unless the whole study has only one,
    which then is taken as given). `average` over draws and groups is "geometric" (the grids are geometric and the
    law is fitted in logs; an arithmetic mean is biased high) or "arithmetic" (the papers').

    A grid value is known no better than the grid's step: where the draws of a cell vary less than uniform errors of
    that width would (step/√12 in logs, somewhat less averaged over groups), they get the variance that is missing.
    """
    level = threshold_index(crossings, threshold)
    to, back = (np.log, np.exp) if average == "geometric" else (_same, _same)
    given = crossings.cells[quantity].nunique() == 1
    rows, draws, dropped = [], [], []
    sized = "n_params" in crossings.cells
    keys = ["task", "sigma", "utd", *(["n_params"] if sized else [])]
    for (task, sigma, utd, *size), at in crossings.cells.groupby(keys, sort=True):
        where = f"{task} at σ={utd}" + "".join(f", N={n:.0f}" for n in size)
        j = level if level is not None else _reachable(crossings.point[at.index])
        groups = [g for _, g in at.groupby(OTHER[quantity], sort=True) if given or g[quantity].nunique() > 1]
        if not groups:
            dropped.append((f"{quantity} of {where}", "only one value of it was run: there is nothing to compare"))
            continue
        grid = np.unique(np.concatenate([g[quantity] for g in groups]))
        votes = np.stack(
            [_votes(to(g[quantity].to_numpy(float)), crossings.draws[g.index, :, j]) for g in groups]
        )  # [groups, K], NaN = no vote
        cast = np.isfinite(votes)
        if not cast.any():
            reason = f"no configuration reached {crossings.thresholds[j]:g} of 1000 within its env steps"
            dropped.append((f"{quantity} of {where}", reason))
            continue
        per_draw = np.full(votes.shape[1], np.nan)
        alive = cast.any(axis=0)
        per_draw[alive] = np.nansum(votes[:, alive], axis=0) / cast[:, alive].sum(axis=0)
        per_draw[~alive] = np.resize(per_draw[alive], (~alive).sum())  # a joint chain needs K values in every cell
        drawn = np.log(back(per_draw))
        coarse = (np.log(grid[-1] / grid[0]) / max(1, len(grid) - 1)) ** 2 / 12
        coarse *= (1 + 1 / len(groups)) / 2  # they look for one optimum on one grid: half of their error is common
        missing = np.sqrt(max(0.0, coarse - drawn.var()))
        stream = "/".join([f"grid/{quantity}/{task}/{utd}", *(f"{n:.0f}" for n in size)])
        drawn = drawn + missing * bootstrap.stream(stream).standard_normal(len(drawn))
        low, high = interval(np.exp(drawn[alive]))
        rows.append(
            {
                "task": task, "utd": utd, "sigma": sigma,
                **({"n_params": size[0], "width": at["width"].iloc[0]} if sized else {}),
                "value": float(back(votes[cast].mean(keepdims=True))[0]), "low": low, "high": high,
                "threshold": float(crossings.thresholds[j]), "reached": bool(alive.all()), "share": float(cast.mean()),
                "at_low": float(np.mean(votes[cast] == to(grid[:1]))),
                "at_high": float(np.mean(votes[cast] == to(grid[-1:]))),
            }
        )  # fmt: skip
        draws.append(np.exp(drawn))
    if not rows:
        raise Mistake(
            f"threshold={threshold}: no configuration of any task reached it; "
            "choose a lower one, or threshold=reachable"
        )
    return Best(pd.DataFrame(rows), np.stack(draws), dropped)


def threshold_index(crossings: Crossings, threshold: str | float) -> int | None:
    """Which threshold decides: "last" is the highest, a number is that one, None means "reachable"."""
    if threshold == "last":
        return len(crossings.thresholds) - 1
    if threshold == "reachable":
        return None
    try:
        return int(np.flatnonzero(np.isclose(crossings.thresholds, float(threshold)))[0])
    except (ValueError, IndexError):
        known = ", ".join(f"{t:g}" for t in crossings.thresholds)
        raise Mistake(
            f"threshold={threshold}: choose last, reachable, or one of reference.thresholds ({known})"
        ) from None


def baseline(crossings: Crossings, utd: str, threshold: str | float) -> pd.DataFrame:
    """The measured pair (batch_size, learning_rate) with the fewest env steps at one σ, per task.

    Columns task, batch_size, learning_rate. A task without that σ, or where nothing reached the level, has no row.
    """
    level = threshold_index(crossings, threshold)
    rows = []
    for task, at in crossings.cells[crossings.cells["utd"] == utd].groupby("task", sort=True):
        j = level if level is not None else _reachable(crossings.point[at.index])
        data = crossings.point[at.index, j]
        if np.isfinite(data).any():
            # equal D_J at the logging resolution: the pair that is best more often among the draws
            mean = np.where(np.isfinite(crossings.draws[at.index, :, j]), crossings.draws[at.index, :, j], 1e300).mean(
                1
            )
            winner = at.iloc[np.lexsort((mean, data))[0]]
            rows.append((task, int(winner["batch_size"]), float(winner["learning_rate"])))
    return pd.DataFrame(rows, columns=["task", "batch_size", "learning_rate"])


def best_rows(found: Mapping[str, Best], keys: tuple[str, ...] = ("task", "utd")) -> list[dict[str, Any]]:
    """hparams.json's `best`: the settings, told apart by `keys`, that have a best value of both quantities."""
    rate, batch = (found[q].table.set_index(list(keys)) for q in QUANTITIES)
    rows = []
    for key in rate.index.intersection(batch.index, sort=False):
        r, b = rate.loc[key], batch.loc[key]
        rows.append(
            {
                **dict(zip(keys, key, strict=True)),
                "learning_rate": r["value"], "learning_rate_ci95": [r["low"], r["high"]],
                "batch_size": b["value"], "batch_size_ci95": [b["low"], b["high"]],
                "reached": bool(r["reached"] and b["reached"]), "threshold": r["threshold"],
                "share": {q: float(v["share"]) for q, v in zip(QUANTITIES, (r, b), strict=True)},
                "at_grid_end": {
                    q: [float(v["at_low"]), float(v["at_high"])] for q, v in zip(QUANTITIES, (r, b), strict=True)
                },
            }
        )  # fmt: skip
    return rows


def _votes(values: Floats, data: Floats) -> Floats:
    """The mean of the `values` [n] whose `data` [n, K] is smallest in each draw; NaN where all data are inf."""
    smallest = data.min(axis=0)
    winners = (data == smallest) & np.isfinite(smallest)
    count = winners.sum(axis=0)
    with np.errstate(invalid="ignore"):
        return np.asarray(np.where(count > 0, values @ winners / np.maximum(count, 1), np.nan))


def _reachable(point: Floats) -> int:
    """The highest threshold that at least one configuration [n, J] reaches (the lowest if none)."""
    reached = np.isfinite(point).any(axis=0)
    return int(np.flatnonzero(reached)[-1]) if reached.any() else 0


def _same(values: Floats) -> Floats:
    return values

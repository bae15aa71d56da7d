"""Data against σ for several tasks as one: each task over its own median, averaged, and scaled back (METHOD A3).

The paper averages arithmetically. The geometric mean is what the laws, which are fitted in logs, are true of, and one
task that turns up alone does not carry it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from analysis.curves import Crossings
from analysis.uncertainty import Bootstrap, Floats


@dataclass(frozen=True)
class Averaged:
    """D_J(σ) of the average task at one threshold, in env steps.

    `sigma`, `data`, `censored` [n]: a censored point is a lower bound (some task did not reach the level within its
    env steps). `draws`, `draws_censored` [K, n]. `scale` maps each task to its own data over the average task's.
    """

    threshold: float
    utd: tuple[str, ...]
    sigma: Floats
    data: Floats
    censored: NDArray[np.bool_]
    draws: Floats
    draws_censored: NDArray[np.bool_]
    scale: Mapping[str, float]


def common_grid(cells: pd.DataFrame) -> tuple[list[str], list[str], list[tuple[str, str]]]:
    """(tasks, utds that every task has, in rising order, dropped (what, reason)) of one configuration per (task, σ)."""
    tasks = sorted(cells["task"].unique())
    exact = cells.sort_values("sigma")[["utd", "task"]].groupby("utd", sort=False)["task"].agg(set)
    utds = [u for u, have in exact.items() if len(have) == len(tasks)]
    dropped = [
        (f"σ={u}", f"measured for {', '.join(sorted(have))} only: an average over other tasks would not compare")
        for u, have in exact.items()
        if len(have) < len(tasks)
    ]
    return tasks, utds, dropped


def averaged(
    crossings: Crossings, j: int, tasks: list[str], utds: list[str], fit: list[str], average: str, bootstrap: Bootstrap
) -> tuple[Averaged | None, list[tuple[str, str]]]:
    """The average ("geometric" or "arithmetic") task at threshold number `j` over `utds`; medians from `fit` alone.

    A task that misses the level at half of the fitted σ or more has no median there: it is left out at this threshold
    and listed. None when no task is left.
    """
    threshold = float(crossings.thresholds[j])
    cells = crossings.cells.set_index(["task", "utd"])
    place = {key: i for i, key in enumerate(cells.index)}
    train = np.array([u in fit for u in utds])
    kept: dict[str, tuple[Floats, NDArray[np.bool_], Floats, NDArray[np.bool_]]] = {}
    dropped = []
    for task in tasks:
        rows = [place[task, u] for u in utds]
        limit = crossings.cells["t_max"].to_numpy(float)[rows]  # [n]
        point, draws = crossings.point[rows, j], crossings.draws[rows, :, j].T  # [n], [K, n]
        missed = np.isinf(point)
        if 2 * missed[train].sum() >= train.sum():
            reason = f"{task} did not reach it at {missed[train].sum()} of {train.sum()} σ"
            dropped.append((f"{task} at J={threshold:g}", reason))
            continue
        kept[task] = np.where(missed, limit, point), missed, np.where(np.isinf(draws), limit, draws), np.isinf(draws)
    if not kept:
        return None, dropped

    def mean(values: list[Floats], weights: Floats) -> Floats:
        """Over T tasks: values T × [K, n], weights [K, T] → [K, n]."""
        stack = np.stack(values, axis=1)  # [K, T, n]
        if average == "geometric":
            return np.asarray(np.exp(np.einsum("kt,ktn->kn", weights, np.log(stack))))
        return np.asarray(np.einsum("kt,ktn->kn", weights, stack))

    medians = {t: float(np.median(k[0][train])) for t, k in kept.items()}
    centre = float(np.median(list(medians.values())))
    even = np.full((1, len(kept)), 1.0 / len(kept))
    data = mean([kept[t][0][None] / medians[t] for t in kept], even)[0] * centre
    weights = bootstrap.task_weights(tasks)[:, [tasks.index(t) for t in kept]]  # the same draw at every threshold
    total = weights.sum(axis=1, keepdims=True)
    weights = np.where(total > 0, weights / np.where(total > 0, total, 1.0), even)  # none of those drawn is left here
    # medians and centre are units, not estimates: drawn anew they would shift all σ together and cancel nowhere
    draws = mean([kept[t][2] / medians[t] for t in kept], weights) * centre
    return (
        Averaged(
            threshold,
            tuple(utds),
            np.array([float(cells.loc[(tasks[0], u), "sigma"]) for u in utds]),
            data,
            np.any([k[1] for k in kept.values()], axis=0),
            draws,
            np.any([k[3] & (weights[:, i, None] > 0) for i, k in enumerate(kept.values())], axis=0),
            {t: m / centre for t, m in medians.items()},
        ),
        dropped,
    )

"""What losses of critics say (MODEL_SIZE.md §1.7, §1.8): the largest batch a width admits, and what a passive critic's
loss depends on.

A configuration's loss is the mean over its last rows of the mean over seeds; its draws resample the seeds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from analysis.uncertainty import Bootstrap, Floats, interval

GROUP = ["task", "utd", "learning_rate"]  # what is fitted together has these in common


@dataclass(frozen=True)
class Loss:
    """A configuration's late loss: its value, its value in each draw [K], and of how many seeds."""

    value: float
    draws: Floats
    seeds: int


def late(parts: Sequence[tuple[Floats, Floats]], share: float, until: float | None) -> tuple[float, Floats]:
    """(mean over rows of the mean over seeds, mean of each seed [S]) of seeds [(env steps, values)].

    Over the last `share` of the rows that some seed logged up to `until` env steps; a seed that stopped before is not
    in it, and the value is NaN where none is.
    """
    parts = [(at[keep], y[keep]) for at, y in parts for keep in [np.isfinite(y) & (at <= (until or np.inf))]]
    logged = np.unique(np.concatenate([np.array([]), *(at for at, _ in parts)]))
    first = logged[int((1 - share) * len(logged) + 1e-9)] if len(logged) else np.inf
    tails = [(at[keep], y[keep]) for at, y in parts for keep in [at >= first]]
    tails = [(at, y) for at, y in tails if at.size]
    if not tails:
        return float("nan"), np.array([])
    rows = pd.Series(np.concatenate([y for _, y in tails])).groupby(np.concatenate([at for at, _ in tails])).mean()
    return float(rows.mean()), np.array([y.mean() for _, y in tails])


def drawn(
    parts: Sequence[tuple[Floats, Floats]], share: float, until: float | None, bootstrap: Bootstrap, name: str
) -> Loss | None:
    """The late loss of a configuration `name`; None where nothing above 0 was logged."""
    value, seeds = late(parts, share, until)
    if not value > 0:
        return None
    draws = bootstrap.weights(len(seeds), name) @ seeds
    return Loss(value, np.where(draws > 0, draws, np.nan), len(seeds))


def quadratic(batches: Floats, losses: Floats) -> Floats:
    """(q0, q1, q2) [..., 3] of ln L = q0 + q1·ln B + q2·(ln B)² by least squares, from B [n] and L [..., n], n ≥ 3."""
    x = np.log(batches)
    design = np.stack([np.ones_like(x), x, x**2], axis=1)
    return np.asarray(np.log(losses) @ np.linalg.pinv(design).T)


def vertex(q: Floats, batches: Floats) -> Floats:
    """The B [...] of least loss; NaN unless the parabola opens upwards and B is among `batches`."""
    with np.errstate(all="ignore"):
        at = np.exp(-q[..., 1] / (2 * q[..., 2]))
    inside = (q[..., 2] > 0) & (at >= batches.min()) & (at <= batches.max())
    return np.where(inside, at, np.nan)


def overfitting(table: pd.DataFrame) -> list[dict[str, Any]]:
    """For each GROUP and width: the losses over B, and the quadratics through them where there are three B or more.

    `table` has a row a configuration: GROUP, width, batch_size, and a Loss or None as `training` and `validation`.
    """
    found = []
    for key, part in table.groupby([*GROUP, "width"], sort=True):
        part = part.sort_values("batch_size")
        row: dict[str, Any] = dict(zip([*GROUP, "width"], key, strict=True))
        for kind in ("training", "validation"):
            known = part[part[kind].notna()]
            batches, losses = known["batch_size"].to_numpy(float), list(known[kind])
            row[kind] = {"batch_size": batches.tolist(), "loss": [x.value for x in losses]}
            row[kind] |= {"seeds": [x.seeds for x in losses], "q": None, "vertex": None, "vertex_ci95": None}
            if len(batches) >= 3 and len(set(batches)) == len(batches):
                q = quadratic(batches, np.array([x.value for x in losses]))
                at = vertex(quadratic(batches, np.stack([x.draws for x in losses], axis=1)), batches)
                inside = np.isfinite(at)
                row[kind] |= {"q": q.tolist(), "vertex": float(vertex(q, batches))}
                row[kind] |= {"vertex_share": float(inside.mean())}  # of the draws that have one
                row[kind] |= {"vertex_ci95": interval(at[inside]) if inside.mean() > 0.5 else None}
        found.append(row)
    return found


def admissible(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """For each GROUP the line ln B_max = intercept + exponent·ln width through the vertices of the validation loss."""
    found = []
    for key, part in pd.DataFrame(list(rows)).groupby(GROUP, sort=True) if rows else ():
        points = [(w, v["vertex"]) for w, v in zip(part["width"], part["validation"], strict=True)]
        known = np.array([(w, b) for w, b in points if b is not None and np.isfinite(b)], dtype=float)
        x, y = np.log(known).T if len(known) else (np.array([]), np.array([]))
        line = np.polyfit(x, y, 1).tolist() if len(known) >= 2 else [None, None]
        found.append(dict(zip(GROUP, key, strict=True)) | {"exponent": line[0], "intercept": line[1]})
    return found


def slope(x: Floats, y: Floats) -> Floats:
    """Of y [..., n] by x [n], least squares."""
    centred = x - x.mean()
    return np.asarray(y @ centred / (centred @ centred))


def passive_slopes(table: pd.DataFrame) -> list[dict[str, Any]]:
    """For each task and σ, how ln(passive critics' validation loss) goes with the logarithm of either width.

    `table` has a row a configuration: task, utd, width, passive_width, and a Loss as `loss`; configurations of equal
    widths are averaged. One line for each value of the other width that has two points or more; then their mean.
    """
    found = []
    for (task, utd), part in table.groupby(["task", "utd"], sort=True):
        cells = part.groupby(["width", "passive_width"], sort=True)["loss"].agg(list)
        value = {at: np.mean([x.value for x in losses]) for at, losses in cells.items()}
        draws = {at: np.mean([x.draws for x in losses], axis=0) for at, losses in cells.items()}
        row: dict[str, Any] = {"task": task, "utd": utd, "cells": [
            {"width": w, "passive_width": p, "loss": float(value[w, p]), "seeds": sum(x.seeds for x in cells[w, p])}
            for w, p in value
        ]}  # fmt: skip
        for name, moves in (("main", 0), ("passive", 1)):
            lines, drawn_lines = {}, []
            for fixed in sorted({at[1 - moves] for at in value}):
                at = sorted(a for a in value if a[1 - moves] == fixed)
                if len(at) < 2:
                    continue
                x = np.log([a[moves] for a in at])
                lines[str(fixed)] = float(slope(x, np.log([value[a] for a in at])))
                drawn_lines.append(slope(x, np.log(np.stack([draws[a] for a in at], axis=1))))
            row[name] = {"slopes": lines, "average": float(np.mean(list(lines.values()))) if lines else None}
            mean = np.mean(drawn_lines, axis=0) if lines else np.array([])
            row[name]["average_ci95"] = interval(mean[np.isfinite(mean)]) if np.isfinite(mean).any() else None
        if row["main"]["slopes"] or row["passive"]["slopes"]:
            found.append(row)
    return found

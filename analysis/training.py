"""What runs logged of their training beside returns: overfitting, critic norm, critical batch size (METHOD A7)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from analysis.logged import critical_batch_size, overfitting
from analysis.records import Study
from analysis.uncertainty import Floats
from rlscale.typed import Mistake

CELL = ["task", "utd", "sigma", "batch_size", "learning_rate"]
WINDOW = 10  # logging points of a rolling mean: what one batch tells is too noisy for ratios
LATE = 0.5  # of a run: its later part, where replay is full and the critic has settled


@dataclass(frozen=True)
class Columns:
    """Names of the columns of curve.csv that hold a quantity; the two gradient norms are of `batches` transitions.

    Of several names for a loss the first that a run logged counts.
    """

    training_loss: tuple[str, ...]
    fresh_loss: tuple[str, ...]
    critic_norm: str
    grad_norm_small: str
    grad_norm_big: str
    batches: tuple[int, int]

    def __post_init__(self) -> None:
        for name in ("training_loss", "fresh_loss"):
            if not getattr(self, name):
                raise Mistake(f"columns.{name}=[]: give at least one column's name")
        if len(self.batches) != 2 or not 0 < self.batches[0] < self.batches[1]:
            raise Mistake(f"columns.batches={list(self.batches)}: give a smaller and a larger batch size")

    @property
    def names(self) -> tuple[str, ...]:
        return *self.training_loss, *self.fresh_loss, self.critic_norm, self.grad_norm_small, self.grad_norm_big


def summaries(study: Study, columns: Columns) -> pd.DataFrame:
    """One row per configuration: CELL, and medians over seeds of `overfitting`, `critic_norm`, `critical_batch`.

    Overfitting (B.1) and the critic's norm are means over the later part of a run, the critical batch size over all of
    it. NaN where not logged.
    """
    parts = {run: part for run, part in study.curves.groupby("run_id", sort=False)}
    rows = []
    for run in study.runs.itertuples():
        part = parts.get(run.run_id)
        if part is not None:
            rows.append({c: getattr(run, c) for c in CELL} | one_run(part, columns))
    return pd.DataFrame(rows).groupby(CELL, sort=True, as_index=False).median()


def one_run(part: pd.DataFrame, columns: Columns) -> dict[str, float]:
    """The three numbers of one curve; NaN where its columns are absent or empty."""
    values = {
        name: part[name].to_numpy(float) if name in part else np.full(len(part), np.nan) for name in columns.names
    }
    late = slice(int(LATE * len(part)), None)
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = overfitting(first(values, columns.training_loss), first(values, columns.fresh_loss), WINDOW)
    small, big = values[columns.grad_norm_small], values[columns.grad_norm_big]
    return {
        "overfitting": mean(ratio[late]),
        "critic_norm": mean(values[columns.critic_norm][late]),
        "critical_batch": mean(critical_batch_size(small, big, *columns.batches, WINDOW)),
    }


def first(values: Mapping[str, Floats], names: Sequence[str]) -> Floats:
    """The first of the columns that holds a number; the last if none does."""
    return next((values[name] for name in names if np.isfinite(values[name]).any()), values[names[-1]])


def mean(values: Floats) -> float:
    """The mean of the finite values; NaN if there is none."""
    finite = values[np.isfinite(values)]
    return float(finite.mean()) if finite.size else float("nan")

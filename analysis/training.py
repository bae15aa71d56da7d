"""What runs logged of their training beside returns: overfitting, critic norm, critical batch size (METHOD A7)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd

from analysis.records import Study
from analysis.uncertainty import Floats
from rlscale.typed import Mistake

CELL = ["task", "utd", "sigma", "batch_size", "learning_rate"]
WINDOW = 10  # logging points of a rolling mean: one batch's gradient norms are too noisy for a ratio of differences
LATE = 0.5  # of a run: its later part, where replay is full and the critic has settled


@dataclass(frozen=True)
class Columns:
    """Names of the columns of curve.csv that hold a quantity; the two gradient norms are of `batches` transitions."""

    training_loss: str
    fresh_loss: str
    critic_norm: str
    grad_norm_small: str
    grad_norm_big: str
    batches: tuple[int, int]

    def __post_init__(self) -> None:
        if len(self.batches) != 2 or not 0 < self.batches[0] < self.batches[1]:
            raise Mistake(f"columns.batches={list(self.batches)}: give a smaller and a larger batch size")

    @property
    def names(self) -> tuple[str, ...]:
        return self.training_loss, self.fresh_loss, self.critic_norm, self.grad_norm_small, self.grad_norm_big


def critical_batch(small: Floats, big: Floats, batches: tuple[int, int]) -> Floats:
    """B_crit = S/|G|² along a run from gradient norms [T] at two batch sizes (appendix E); NaN where |G|² is not above 0.

    |G|² = (B_big·|G_big|² − B_small·|G_small|²)/(B_big − B_small), S = (|G_small|² − |G_big|²)/(1/B_small − 1/B_big),
    each from rolling means of the squared norms.
    """
    least, most = batches
    a, b = (pd.Series(np.square(v)).rolling(WINDOW, min_periods=1).mean().to_numpy() for v in (small, big))
    signal = (most * b - least * a) / (most - least)
    noise = (a - b) / (1.0 / least - 1.0 / most)
    return np.where(signal > 0, np.maximum(noise, 0.0) / np.where(signal > 0, signal, 1.0), np.nan)


def summaries(study: Study, columns: Columns) -> pd.DataFrame:
    """One row per configuration: CELL, and medians over seeds of `overfitting`, `critic_norm`, `critical_batch`.

    Overfitting (B.1) is the TD loss on the newest transitions over that on replay, as a ratio of means over the later
    part of a run, so that tasks of different scale compare; critic_norm is the mean there. NaN where not logged.
    """
    parts = {run: part for run, part in study.curves.groupby("run_id", sort=False)}
    rows = []
    for run in study.runs.itertuples():
        part = parts.get(run.run_id)
        if part is not None:
            rows.append({c: getattr(run, c) for c in CELL} | one_run(part, columns))
    return pd.DataFrame(rows).groupby(CELL, sort=True, as_index=False).median()


def one_run(part: pd.DataFrame, columns: Columns) -> Mapping[str, float]:
    """The three numbers of one curve; NaN where its columns are absent or empty."""
    values = {
        name: part[name].to_numpy(float) if name in part else np.full(len(part), np.nan) for name in columns.names
    }
    late = {name: mean(v[int(LATE * len(v)) :]) for name, v in values.items()}
    with np.errstate(divide="ignore", invalid="ignore"):
        fit = float(np.divide(late[columns.fresh_loss], late[columns.training_loss]))
    crit = critical_batch(values[columns.grad_norm_small], values[columns.grad_norm_big], columns.batches)
    return {
        "overfitting": fit if np.isfinite(fit) else float("nan"), "critic_norm": late[columns.critic_norm],
        "critical_batch": mean(crit),
    }  # fmt: skip


def mean(values: Floats) -> float:
    """The mean of the finite values; NaN if there is none."""
    finite = values[np.isfinite(values)]
    return float(finite.mean()) if finite.size else float("nan")

"""What the runs behind a fit were: which they are, how long, and with which settings."""

from __future__ import annotations

from fractions import Fraction
from math import ceil

import numpy as np
import pandas as pd

from analysis.blend import Blend
from analysis.fits import shared_slope
from analysis.fitted import Fitted
from analysis.records import Select, load
from rlscale.hparams import PowerLaw, round_batch_size, round_learning_rate
from rlscale.typed import typed

MARGIN = 1.5  # of env steps beyond the expected: a run that stops short of the level says little
ROUND = 1000  # env steps, to which such a length is rounded up


def runs_of(fit: Fitted) -> pd.DataFrame:
    """The records that the fit is of, without other settings of a (task, σ) than the one that stands for it.

    Raises Mistake when they are no longer in the study.
    """
    runs = load(fit.root, typed(Select, fit.laws["provenance"]["select"], "select")).runs
    keep = np.ones(len(runs), dtype=bool)
    place = runs.reset_index(drop=True)
    for (task, utd), at in place.groupby(["task", "utd"], sort=True):
        if len(at[["batch_size", "learning_rate"]].drop_duplicates()) == 1 or fit.settings.rate is None:
            continue
        off = np.log(at["batch_size"] / fit.settings.batch(Fraction(utd), task)).abs()
        off = off + np.log(at["learning_rate"] / fit.settings.rate(Fraction(utd), task)).abs()
        keep[at.index[off.to_numpy() > off.min() + 1e-9]] = False
    return place[keep].reset_index(drop=True)


def env_steps(fit: Fitted, runs: pd.DataFrame, j: int, task: str, utd: Fraction) -> int:
    """The length of a new run: the fit's own, since runs of several lengths are not fitted together.

    Runs from outside have no common budget, and new ones make a fit of their own: what threshold j should take and
    MARGIN more, or where the task has no law there, the longest of its runs.
    """
    given = fit.laws["provenance"]["spec"]["budget"].get("env_steps")
    if given is not None:
        return int(given)
    if task in fit.scale(j):
        expected = float(Blend.from_json(fit.laws["data"][j])(float(utd))) * fit.scale(j)[task]
        return ceil(MARGIN * expected / ROUND) * ROUND
    return int(runs.loc[runs["task"] == task, "transitions"].max())


def settings(fit: Fitted, rates: PowerLaw | None, runs: pd.DataFrame | None, task: str, utd: Fraction, factor: float
             ) -> tuple[int, float | None]:  # fmt: skip
    """(B, η) of a run: what the runs at this (task, σ) have if they agree, else the law's; B times `factor`."""
    here = runs[(runs["task"] == task) & (runs["utd"] == str(utd))] if runs is not None else pd.DataFrame()
    rate = None if rates is None else round_learning_rate(rates(utd, task))
    batch = round_batch_size(fit.settings.batch(utd, task) * factor)
    if len(here) and here["batch_size"].nunique() == 1 and here["learning_rate"].nunique() == 1:
        rate = float(here["learning_rate"].iloc[0])
        batch = int(here["batch_size"].iloc[0]) if factor == 1.0 else batch
    return batch, rate


def used_rates(runs: pd.DataFrame) -> PowerLaw:
    """η(σ) per task through what the runs used, with one slope: for fits that have no law of it."""
    tasks = sorted(runs["task"].unique())
    member = runs["task"].map({t: i for i, t in enumerate(tasks)}).to_numpy(int)
    x, y = (np.log(runs[k].to_numpy(float)) for k in ("sigma", "learning_rate"))
    slope, intercept = shared_slope(x, y, member)
    return PowerLaw(float(slope), dict(zip(tasks, map(float, np.exp(intercept)), strict=True)))

"""Which configuration stands for each (task, σ), and the batch-size law that its compute follows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from analysis.curves import Crossings, cell_name
from analysis.fits import shared_slope
from analysis.uncertainty import Floats
from rlscale.hparams import PowerLaw, read_law, round_batch_size, round_learning_rate
from rlscale.typed import Mistake


@dataclass(frozen=True)
class BatchLaws:
    """B(σ) per task with K draws: `slope`, `log_intercept` [T]; `slope_draws`, `log_intercept_draws` [K, T]."""

    tasks: tuple[str, ...]
    slope: Floats
    log_intercept: Floats
    slope_draws: Floats
    log_intercept_draws: Floats
    source: str
    notes: list[str]

    def mean(self, sigma: Floats) -> Floats:
        """B̄(σ): the arithmetic mean over tasks, [n] at sigma [n]."""
        return np.asarray(np.exp(self.log_intercept[:, None] + self.slope[:, None] * np.log(sigma)).mean(axis=0))

    def as_json(self) -> dict[str, Any]:
        return {
            "exponent": dict(zip(self.tasks, self.slope, strict=True)),
            "intercept": dict(zip(self.tasks, np.exp(self.log_intercept), strict=True)),
            "source": self.source,
        }


def fitted_laws(fitted: Mapping[str, Any], variant: str) -> dict[str, PowerLaw]:
    """{batch_size, learning_rate} of one variant of an hparams.json."""
    if variant == "baseline":
        pairs = fitted["baseline"]["pairs"]
        return {q: PowerLaw(0.0, {p["task"]: float(p[q]) for p in pairs}) for q in ("batch_size", "learning_rate")}
    return {q: read_law(law) for q, law in fitted["laws"][variant].items()}


def one_per_cell(
    crossings: Crossings, fitted: Mapping[str, Any] | None, variant: str, name: str
) -> tuple[Crossings, list[tuple[str, str]]]:
    """One configuration for each (task, σ): the only one, or else the one nearest to the law of the sweep."""
    cells, keep, dropped = crossings.cells, np.zeros(len(crossings.cells), dtype=bool), []
    for (task, utd), at in cells.groupby(["task", "utd"], sort=True):
        if len(at) == 1:
            keep[at.index] = True
            continue
        laws = fitted_laws(fitted, variant) if fitted else None
        if laws is None or task not in laws["batch_size"].tasks:
            raise Mistake(
                f"{task} at σ={utd} was run with {len(at)} settings and a law needs one: narrow it with "
                f"select.hparams or select.sweep, or fit the settings first with python -m analysis.hparams name={name}"
            )
        sigma = Fraction(utd)
        meant = (
            round_batch_size(laws["batch_size"](sigma, task)),
            round_learning_rate(laws["learning_rate"](sigma, task)),
        )
        off = np.log(at["batch_size"] / meant[0]).abs() + np.log(at["learning_rate"] / meant[1]).abs()
        nearest = off.idxmin()
        keep[nearest] = True
        dropped += [
            (cell_name(cells.loc[i]), f"another setting of this task and σ is nearer the {variant} law of {name}")
            for i in at.index
            if i != nearest
        ]
    return crossings.take(keep), dropped


def batch_laws(
    crossings: Crossings, fitted: Mapping[str, Any] | None, variant: str, draws: Path | None, count: int
) -> BatchLaws:
    """The law that the runs' batch sizes follow: the fitted one (with its draws) if they do, else one through them."""
    cells = crossings.cells
    tasks = tuple(sorted(cells["task"].unique()))
    law = fitted_laws(fitted, variant)["batch_size"] if fitted else None
    if law is not None and set(tasks) <= set(law.tasks):
        meant = [round_batch_size(law(Fraction(r.utd), r.task)) for r in cells.itertuples()]
        if meant == list(cells["batch_size"]) and type(law) is PowerLaw:
            slope = np.array([np.log(law(np.e, t) / law(1.0, t)) for t in tasks])
            intercept = np.array([np.log(law(1.0, t)) for t in tasks])
            drawn = _read(draws, variant, tasks) if draws is not None else None
            notes = []
            if drawn is None or len(drawn[0]) != count:
                if variant != "baseline":
                    notes.append(
                        f"hparams.json has no {count} draws of B*(σ): budget intervals leave its uncertainty out"
                    )
                drawn = np.tile(slope, (count, 1)), np.tile(intercept, (count, 1))
            return BatchLaws(tasks, slope, intercept, *drawn, f"hparams.json, {variant}", notes)
    member = cells["task"].map({t: i for i, t in enumerate(tasks)}).to_numpy(int)
    slope_all, intercept = shared_slope(
        np.log(cells["sigma"].to_numpy(float)), np.log(cells["batch_size"].to_numpy(float)), member
    )
    slope = float(slope_all) * np.ones(len(tasks))
    notes = (
        []
        if fitted is None
        else [f"compute follows a power law through the runs' own B: the {variant} one of hparams.json is not theirs"]
    )
    drawn = np.tile(slope, (count, 1)), np.tile(intercept, (count, 1))
    return BatchLaws(tasks, slope, intercept, *drawn, "the batch sizes of the runs", notes)


def _read(path: Path, variant: str, tasks: tuple[str, ...]) -> tuple[Floats, Floats] | None:
    with np.load(path) as arrays:
        if f"{variant}/batch_size/slope" not in arrays:
            return None
        columns = [list(arrays["batch_size/tasks"]).index(t) for t in tasks]
        return (
            arrays[f"{variant}/batch_size/slope"][:, columns],
            arrays[f"{variant}/batch_size/log_intercept"][:, columns],
        )

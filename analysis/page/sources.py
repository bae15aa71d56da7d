"""What the page draws from records rather than from the fit's files: curves, crossings, origins, what runs logged."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from analysis.batch import one_per_cell
from analysis.compare import constant
from analysis.curves import Crossings, Reference, Track, crossings
from analysis.fit_files import Fit
from analysis.origin import Origin, origin
from analysis.records import Select, Study, load
from analysis.training import CELL, Columns, summaries
from analysis.uncertainty import Bootstrap
from rlscale.typed import Mistake, typed

FEW, ENOUGH = 20, 200  # draws where only points are drawn, and where intervals are


@dataclass(frozen=True)
class Sources:
    """`studies` and `origins` by part. `grid`: every cell behind hparams; `fitted`: one cell for each (task, σ) behind
    the laws (without laws, the best of the grid); `base`: cells at the constant pair of hparams, None without one;
    `inside`: training.summaries of the fitted cells, None where nothing of the kind was logged.
    """

    studies: Mapping[str, Study]
    origins: Mapping[str, Origin]
    grid: Crossings | None
    fitted: Crossings
    base: Crossings | None
    inside: pd.DataFrame | None


def sources(root: Path, fit: Fit, columns: Columns, track: Track) -> Sources:
    """Read the runs again that the fit was made from. Raises Mistake where they are no longer there."""
    studies: dict[str, Study] = {}
    origins: dict[str, Origin] = {}
    crossed: dict[str, Crossings] = {}
    known: dict[str, str] = {}  # parts of one selection are read once
    for part, one in fit.parts.items():
        p = one["provenance"]
        same = repr((p["select"], {k: v for k, v in p["reference"].items() if k != "n_params"}, p["metric"]))
        if same in known:
            twin = known[same]
            studies[part], origins[part], crossed[part] = studies[twin], origins[twin], crossed[twin]
            continue
        known[same] = part
        studies[part] = load(root, typed(Select, p["select"], "select"))
        origins[part] = origin(root, list(studies[part].runs["run_id"]))
        crossed[part] = again(studies[part], p, FEW, track)
    part = "laws" if fit.laws is not None else "hparams"
    p, study = fit.parts[part]["provenance"], studies[part]
    if fit.laws is not None:
        fitted, _ = one_per_cell(crossed[part], fit.hparams, p.get("variant", "shared"), str(fit.laws["name"]))
    else:
        fitted = best_cells(crossed[part])
    grid = crossed.get("hparams")
    base = None
    if fit.hparams is not None and grid is not None:
        cells = constant(grid, fit.hparams.get("baseline", {}).get("pairs", []))
        if len(cells.cells) and cells.cells["utd"].nunique() > 1:
            base = again(only(studies["hparams"], cells.cells), fit.hparams["provenance"], ENOUGH, track)
    fitted = again(only(study, fitted.cells), p, ENOUGH, track)
    logged = [c for c in dict.fromkeys(columns.names) if c in origins[part].columns]
    inside = None
    if logged:
        inside = summaries(only(with_metrics(root, p, logged), fitted.cells), columns)
    return Sources(studies, origins, grid, fitted, base, inside)


def again(study: Study, p: Mapping[str, Any], draws: int, track: Track) -> Crossings:
    """The crossings of a fit with that provenance, from `draws` resamples."""
    reference = typed(Reference, p["reference"], "reference")
    bootstrap = Bootstrap(draws, int(p["bootstrap"]["seed"]), tasks=False)  # of single configurations
    return crossings(study, reference, p["metric"], bootstrap, track, bool(p.get("interpolate", False)))


def only(study: Study, cells: pd.DataFrame) -> Study:
    """The study's runs of these configurations."""
    wanted = set(cells[CELL].itertuples(index=False, name=None))
    keep = [row in wanted for row in study.runs[CELL].itertuples(index=False, name=None)]
    runs = study.runs[keep]
    return replace(study, runs=runs, curves=study.curves[study.curves["run_id"].isin(set(runs["run_id"]))])


def with_metrics(root: Path, p: Mapping[str, Any], names: list[str]) -> Study:
    """The study with those columns that hold at least one number."""
    usable = list(names)
    while usable:
        try:
            return load(root, typed(Select, p["select"], "select"), usable)
        except Mistake:  # a column that is in a header but empty in every run
            usable.pop()
    return load(root, typed(Select, p["select"], "select"))


def best_cells(crossed: Crossings) -> Crossings:
    """The cell of each (task, σ) that reaches the highest level with the fewest env steps."""
    keep = np.zeros(len(crossed.cells), dtype=bool)
    for _, at in crossed.cells.groupby(["task", "utd"]):
        order = [tuple(crossed.point[i][::-1]) for i in at.index]
        keep[at.index[min(range(len(order)), key=lambda k: order[k])]] = True
    return crossed.take(keep)

"""Door: what diagnostics logged → the largest batch each width admits, passive-critic slopes, noise scale.

python -m analysis.diagnostics name=side select.sweep=side_critic
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from omegaconf import DictConfig

from analysis import emit, show
from analysis.critic_losses import admissible, drawn, overfitting, passive_slopes
from analysis.curve_files import read as read_curves
from analysis.fit_door import read
from analysis.logged import rolling_mean
from analysis.origin import origin
from analysis.records import SIZE_FIELDS, Select, Study, common_spec, load
from analysis.uncertainty import Bootstrap, Floats
from rlscale.door import door
from rlscale.store import study_root
from rlscale.typed import Mistake, typed

OURS = re.compile(r"passive_validation_critic_loss_w(\d+)")  # a column for each passive critic beside a learner
Cell = tuple[Any, ...]
Parts = list[tuple[Floats, Floats]]  # of each seed: env steps and values


@dataclass(frozen=True)
class Columns:
    """Names of columns of curve.csv by what they hold; of several that a run logged the first counts."""

    training: tuple[str, ...]
    validation: tuple[str, ...]
    passive_validation: tuple[str, ...]
    noise_scale: tuple[str, ...]

    @property
    def names(self) -> list[str]:
        return [name for part in vars(self).values() for name in part]


@dataclass(frozen=True)
class Config:
    """conf/analysis/diagnostics.yaml."""

    name: str
    select: Mapping[str, Any]
    columns: Mapping[str, Any]
    share: float
    until: float | None
    window: int
    bootstrap: Mapping[str, Any]
    replace: bool

    def __post_init__(self) -> None:
        if not 0 < self.share <= 1:
            raise ValueError(f"share={self.share}: give the share of a run that counts, above 0 and at most 1")
        if self.window < 1:
            raise ValueError(f"window={self.window}: give a number of logging points, 1 or more")
        if self.until is not None and self.until <= 0:
            raise ValueError(f"until={self.until}: give a number of env steps above 0, or null")


def main(cfg: DictConfig) -> None:
    config = read(Config, cfg)
    emit.check_name(config.name)
    select, columns = typed(Select, config.select, "select"), typed(Columns, config.columns, "columns")
    bootstrap = typed(Bootstrap, config.bootstrap, "bootstrap")
    root = study_root()
    study = load(root, select)
    common_spec(study, free=(*SIZE_FIELDS, "passive_width"))
    came = origin(root, list(study.runs["run_id"]))
    known = set(came.columns)
    logged = [name for name in columns.names if name in known] + sorted(c for c in known if OURS.fullmatch(c))
    if not logged:
        raise Mistake(
            f"none of the {len(study.runs)} selected runs logged {', '.join(columns.names)}; train with "
            "'diagnostics=[validation,passive_critic]', or name their columns with columns.validation=[…]"
        )
    curves = Curves(root, study, logged)
    overfitted = overfitting(losses(curves, columns, config.share, bootstrap))
    found = {
        "schema": 1,
        "name": config.name,
        "provenance": {
            "select": config.select, "columns": config.columns, "share": config.share, "until": config.until,
            "window": config.window, "bootstrap": config.bootstrap, "runs": came.runs, "runs_sha256": came.runs_sha256,
            "dropped": study.dropped.to_numpy().tolist(),
        },
        "overfitting": overfitted,
        "largest_batch": admissible(overfitted),
        "passive": passive_slopes(passive(curves, columns, config.share, config.until, bootstrap)),
        "noise": noise(curves, columns, config.window),
    }  # fmt: skip
    path = root / "fits" / config.name / "diagnostics.json"
    emit.write({path: emit.to_json(found)}, config.replace)
    tell(found)
    show.say(f"written: {path}; the figures: python -m analysis.report name={config.name}")


class Curves:
    """The columns that diagnostics logged, of each run of a study."""

    def __init__(self, root: Path, study: Study, logged: Sequence[str]):
        runs = study.runs.assign(
            passive_width=[study.specs[r]["algorithm"].get("passive_width") for r in study.runs["run_id"]]
        )
        files = [root / "runs" / run / "curve.csv" for run in runs["run_id"]]
        table = read_curves(files, ["env_step"], logged, root / "cache" / "curves")
        ends = np.cumsum(table.lengths)
        self.runs = runs[runs["width"].notna()]
        self.columns = list(logged)
        self.of = {
            run: {name: values[end - length : end] for name, values in table.columns.items()}
            for run, end, length in zip(runs["run_id"], ends, table.lengths, strict=True)
        }

    def cells(self, by: Sequence[str]) -> Iterator[tuple[Cell, list[str]]]:
        """(values of `by`, run ids in the order of seeds) of each configuration."""
        for key, part in self.runs.sort_values(["seed", "run_id"]).groupby(list(by), sort=True):
            yield key, list(part["run_id"])

    def parts(self, runs: Sequence[str], names: Sequence[str]) -> Parts:
        """Of each run its first column of `names` that holds a number."""
        found = []
        for run in runs:
            for name in names:
                if name in self.columns and np.isfinite(self.of[run][name]).any():
                    found.append((self.of[run]["env_step"], self.of[run][name]))
                    break
        return found


def losses(curves: Curves, columns: Columns, share: float, bootstrap: Bootstrap) -> pd.DataFrame:
    """A row a configuration: task, utd, learning_rate, width, batch_size; and its `training` and `validation` Loss."""
    by = ["task", "utd", "learning_rate", "width", "batch_size"]
    rows = []
    for key, runs in curves.cells(by):
        both = {
            kind: drawn(curves.parts(runs, names), share, None, bootstrap, f"{kind}/{key}")
            for kind, names in (("training", columns.training), ("validation", columns.validation))
        }
        if any(loss is not None for loss in both.values()):
            rows.append(dict(zip(by, key, strict=True)) | both)
    return pd.DataFrame(rows, columns=[*by, "training", "validation"])


def passive(curves: Curves, columns: Columns, share: float, until: float | None, bootstrap: Bootstrap) -> pd.DataFrame:
    """A row for each configuration and width of a passive critic: task, utd, width, passive_width, and its Loss."""
    rows = []
    by = ["task", "utd", "learning_rate", "width", "batch_size"]
    ours = [(name, int(match[1])) for name in curves.columns if (match := OURS.fullmatch(name))]
    wanted = [(key, runs, [name], width) for key, runs in curves.cells(by) for name, width in ours]
    wanted += [
        (key[:-1], runs, list(columns.passive_validation), int(key[-1]))
        for key, runs in curves.cells([*by, "passive_width"])
    ]
    for key, runs, names, width in wanted:
        loss = drawn(curves.parts(runs, names), share, until, bootstrap, f"passive/{key}/{width}")
        if loss is not None:
            rows.append((key[0], key[1], int(key[3]), width, loss))
    return pd.DataFrame(rows, columns=["task", "utd", "width", "passive_width", "loss"])


def noise(curves: Curves, columns: Columns, window: int) -> list[dict[str, Any]]:
    """For each configuration the noise scale over env steps: rolling means of `window` rows, medians over seeds."""
    by = ["task", "utd", "learning_rate", "width", "batch_size"]
    rows = []
    for key, runs in curves.cells(by):
        parts = curves.parts(runs, columns.noise_scale)
        if parts:
            smooth = [pd.Series(rolling_mean(values, window), index=at) for at, values in parts]
            median = pd.concat(smooth, axis=1).median(axis=1).dropna()
            values = {"env_step": median.index.tolist(), "noise_scale": median.tolist()}
            rows.append(dict(zip(by, key, strict=True)) | values)
    return rows


def tell(found: Mapping[str, Any]) -> None:
    """What was found, at the terminal."""
    passive = found["passive"]
    if passive:
        rows = [
            [
                p["task"],
                p["utd"],
                *(x for name in ("main", "passive") for x in (p[name]["average"], show.span(p[name]["average_ci95"]))),
            ]
            for p in passive
        ]
        show.table(
            "slopes of ln(passive critics' validation loss)",
            ["task", "σ", "by main width", "95 %", "by passive width", "95 %"],
            rows,
        )
    fits = [(r, kind) for r in found["overfitting"] for kind in ("training", "validation") if r[kind]["q"]]
    if fits:
        show.table(
            "losses against B: the parabola of logarithms",
            ["task", "σ", "width", "loss", "B", "q2", "vertex: largest admissible B", "95 %"],
            [[r["task"], r["utd"], r["width"], kind, f"{min(r[kind]['batch_size']):g} … {max(r[kind]['batch_size']):g}",
              r[kind]["q"][2], r[kind]["vertex"], show.span(r[kind]["vertex_ci95"])] for r, kind in fits],
        )  # fmt: skip
    elif found["overfitting"]:
        show.say("losses against B: no task, σ and width has three batch sizes or more, so none has a parabola")
    late = [[n["task"], n["utd"], n["width"], n["batch_size"], n["noise_scale"][-1]] for n in found["noise"]]
    if late:
        show.table("noise scale at the end", ["task", "σ", "width", "B", "S/|G|²"], late)


if __name__ == "__main__":
    door(main, "analysis/diagnostics")

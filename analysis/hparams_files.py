"""What `analysis.hparams` leaves behind: hparams.json, its draws, the proposals, and the options of the next sweep."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fractions import Fraction
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas as pd

from analysis import emit

if TYPE_CHECKING:
    from analysis.hparams import Config


class Grid(NamedTuple):
    """What the emitted sweep goes over, a job for each combination with all the seeds in it."""

    tasks: Sequence[str]
    utds: Sequence[Fraction]
    seeds: Sequence[int]
    widths: Sequence[int] = ()  # none: the one that was fitted

    @property
    def size(self) -> str:
        jobs = prod(len(axis) for axis in (self.tasks, self.utds, self.widths) if axis)
        return f"{jobs} jobs, {jobs * len(self.seeds)} runs"

    @property
    def axes(self) -> str:
        widths = f" × {len(self.widths)} widths" if self.widths else ""
        return f"{len(self.tasks)} tasks × {len(self.utds)} σ{widths}, {len(self.seeds)} seeds in each job"


def write(
    config: Config,
    root: Path,
    about: Sequence[str],
    result: Mapping[str, Any],
    draws: Mapping[str, np.ndarray],
    proposals: Mapping[str, pd.DataFrame],
    variants: Mapping[str, Mapping[str, Any]],
    grid: Grid,
) -> str:
    """Write all of a fit's files, or none (Mistake), and return where they are and what comes next.

    `about` are comment lines of the emitted option on its laws `variants`; `proposals` are the tables by variant.
    """
    command, spec = (result["provenance"][key] for key in ("command", "spec"))
    head = [f"Fitted by: {command}", *about]
    next_command = f"python -m rlscale.train -m sweep=fitted/{config.name}"
    sweep_head = [next_command, f"{grid.size}: {grid.axes}", f"Emitted by: {command}"]
    folder = root / "fits" / config.name
    option, sweep = (root / "conf" / group / "fitted" / f"{config.name}.yaml" for group in ("hparams", "sweep"))
    files: dict[Path, str | bytes] = {
        folder / "hparams.json": emit.to_json(result),
        folder / "hparams_draws.npz": emit.to_npz(draws),
        **{
            folder / f"proposals_{variant}.csv": table.to_csv(index=False, lineterminator="\n")
            for variant, table in proposals.items()
        },
        option: emit.hparams_option(head, config.variant, variants),
        sweep: emit.sweep_option(sweep_head, config.name, spec, grid.seeds, grid.tasks, grid.utds, grid.widths),
    }
    emit.write(files, config.replace)
    return (
        f"\nwritten: {folder / 'hparams.json'} and proposals_*.csv beside it\n         {option}\n         {sweep}\n"
        f"next:    {next_command}   ({grid.size})"
    )

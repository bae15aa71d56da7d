"""δ from the runs' own clock: how many FLOPs of updates take as long as one env step (METHOD A4's F = C + δ·D)."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy.optimize import nnls

from rlscale.typed import Mistake

APART = 1.5  # the FLOPs per env step of two runs must differ by this factor, or the two rates cannot be told apart


@dataclass(frozen=True)
class Clock:
    """Seconds of an env step without updates, and of one FLOP of updates as the law counts them (10·N·B an update).

    `runs` went into it; `error` is the median relative error of their wall-clock.
    """

    s_per_step: float
    s_per_flop: float
    runs: int
    error: float

    @property
    def delta(self) -> float:
        """FLOPs that one env step costs."""
        return self.s_per_step / self.s_per_flop


def clock(root: Path, run_ids: Sequence[str], n_params: float) -> Clock:
    """Seconds = s_per_step · transitions + s_per_flop · FLOPs by least squares of relative errors, neither below 0.

    A member's seconds are its pack's over the pack's size, from the first logging point after an update on, since
    compiling is no cost of steps (of the whole run where its curve holds no times). Time follows the FLOPs that the
    learner counts (flops_per_update); δ is wanted in the law's (10·N·B an update, 4.2), so the ratio scales it.
    Raises Mistake when the records do not hold the times, or cannot tell the two rates apart.
    """
    rows = [row for run_id in run_ids if (row := _row(root / "runs" / run_id, n_params)) is not None]
    if not rows:
        raise Mistake(
            f"delta=measured: none of the {len(run_ids)} runs of this fit holds wall_s and flops_per_update, as runs "
            "from outside do not; give FLOPs per env step, such as delta=5e9"
        )
    seconds, steps, flops, ratio = np.array(rows).T
    per_step = flops / steps
    if per_step.max() < APART * per_step.min():
        raise Mistake(
            f"delta=measured: the {len(rows)} timed runs all do about {np.median(per_step):.3g} FLOPs of updates per "
            "env step, so steps and updates cannot be told apart; add runs at other utd, or give a number"
        )
    (step, flop), _ = nnls(np.stack([steps, flops], axis=1) / seconds[:, None], np.ones(len(rows)))
    if min(step, flop) <= 0:
        what = "env steps" if step <= 0 else "FLOPs"
        raise Mistake(
            f"delta=measured: the wall-clock of the {len(rows)} timed runs does not rise with their {what}; "
            "give a number, such as delta=5e9"
        )
    error = float(np.median(np.abs((step * steps + flop * flops) / seconds - 1)))
    return Clock(float(step), float(flop * np.median(ratio)), len(rows), error)


def _row(folder: Path, n_params: float) -> tuple[float, float, float, float] | None:
    """(seconds, env steps, FLOPs, the learner's FLOPs over the law's) of a finished run; None where not recorded."""
    record: dict[str, Any] = json.loads((folder / "record.json").read_bytes())
    whole = [record.get(k) for k in ("wall_s", "transitions", "updates")]
    known = [*whole, record.get("flops_per_update"), record.get("pack_size")]
    if record["status"] != "finished" or any(v is None or not math.isfinite(v) or v <= 0 for v in known):
        return None
    wall, steps, updates = _trained(folder / "curve.csv") or tuple(float(v or 0.0) for v in whole)
    per_update = float(record["flops_per_update"])
    ratio = per_update / (10.0 * n_params * record["spec"]["batch_size"])
    return wall / float(record["pack_size"]), steps, updates * per_update, ratio


def _trained(curve: Path) -> tuple[float, float, float] | None:
    """(seconds, env steps, updates) from the first logging point after an update, when all is compiled, to the last."""
    if not curve.exists():
        return None
    with curve.open(newline="") as file:
        rows = [[row.get(k) for k in ("wall_s", "env_step", "updates")] for row in csv.DictReader(file)]
    timed = [[float(v) for v in row if v] for row in rows if all(row)]
    timed = [row for row in timed if row[2] > 0]
    if len(timed) < 2:
        return None
    wall, steps, updates = (last - first for first, last in zip(timed[0], timed[-1], strict=True))
    return (wall, steps, updates) if min(wall, steps, updates) > 0 else None

"""The whole grid at a glance: what every setting cost beside the best of its task and σ (figure 7, right)."""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from analysis.curves import Crossings
from analysis.figures.canvas import Key, Plate, panel, short, styled
from analysis.figures.palette import ACCENT, ALARM, FAINT, INK, PAPER
from rlscale.hparams import read_law

WORST = 3.0  # times the least data: more is drawn no fainter
COLUMNS = 3


@styled
def grid(crossings: Crossings, hparams: Mapping[str, Any]) -> Plate | None:
    """A panel a task, in it a field for each σ: B to the right, η upwards, the darker the fewer env steps."""
    level = {(r["task"], r["utd"]): r.get("threshold") for r in hparams["best"]}
    best = {(r["task"], r["utd"]): r for r in hparams["best"]}
    panels = []
    for task, cells in crossings.cells.groupby("task", sort=True):
        utds = list(dict.fromkeys(cells.sort_values("sigma")["utd"]))
        batches, rates = sorted(cells["batch_size"].unique()), sorted(cells["learning_rate"].unique())
        if len(batches) * len(rates) < 2:
            return None
        lines = -(-len(utds) // COLUMNS)
        size = 300.0, 26.0 + 100.0 * lines
        fig = Figure(figsize=(size[0] / 72, size[1] / 72))
        for n, utd in enumerate(utds):
            row, column = divmod(n, COLUMNS)
            box = (36 + 88 * column) / size[0], (28 + 100 * (lines - 1 - row)) / size[1], 80 / size[0], 72 / size[1]
            ax = fig.add_axes(box)
            wanted = level.get((task, utd)) or crossings.thresholds[-1]
            j = int(np.abs(crossings.thresholds - wanted).argmin())
            here = cells[cells["utd"] == utd]
            least = np.min(crossings.point[here.index, j])
            for i in here.index:
                b, r = batches.index(here.loc[i, "batch_size"]), rates.index(here.loc[i, "learning_rate"])
                data = crossings.point[i, j]
                if np.isfinite(data):
                    good = 1 - np.log(data / least) / np.log(WORST)
                    ax.add_patch(
                        Rectangle((b - 0.47, r - 0.47), 0.94, 0.94, lw=0, fc=ACCENT, alpha=0.06 + 0.84 * max(good, 0))
                    )
                    if data == least:
                        ax.plot(b, r, "o", color=PAPER, ms=3)
                else:
                    ax.add_patch(Rectangle((b - 0.47, r - 0.47), 0.94, 0.94, lw=0.7, ec=FAINT, fc="none", alpha=0.6))
                    ax.plot(b, r, "x", color=FAINT, ms=3.5, mew=0.8)
            if (task, utd) in best:
                found = best[task, utd]
                ring(ax, _place(batches, found["batch_size"]), _place(rates, found["learning_rate"]), "o", 8, INK)
            meant = [_law(hparams, q, str(task), utd) for q in ("batch_size", "learning_rate")]
            if all(meant):
                x, y = _place(batches, meant[0]), _place(rates, meant[1])
                ring(ax, np.clip(x, -0.5, len(batches) - 0.5), np.clip(y, -0.5, len(rates) - 0.5), "D", 5.5, ALARM)
            ax.set(xlim=(-0.5, len(batches) - 0.5), ylim=(-0.5, len(rates) - 0.5))
            ax.grid(False)
            for spine in ax.spines.values():
                spine.set_visible(False)
            ax.tick_params(length=0, labelsize=7.5, pad=2)
            ends = [0, len(batches) - 1] if len(batches) > 1 else [0]
            ax.set_xticks(ends, [short(float(batches[e])) for e in ends])
            ends = [0, len(rates) - 1] if len(rates) > 1 else [0]
            ax.set_yticks(
                ends,
                [
                    f"{rates[e]:.0e}".replace("e-0", "e-")
                    if rates[e] * 1e4 % 1 == 0
                    else f"{rates[e]:.1e}".replace("e-0", "e-")
                    for e in ends
                ]
                if column == 0
                else [],
            )
            ax.set_title(f"σ = {utd}", fontsize=8.5, pad=3)
        panels.append(panel(fig, str(task), _alt(str(task), best)))
    keys = [
        Key("fewest env steps", ACCENT, "block"), Key("did not reach the level", FAINT, "cross"),
        Key("best on average over resamples", INK, "ring"), Key("shared laws", ALARM, "diamond"),
    ]  # fmt: skip
    caption = (
        "B to the right, η upwards. The fuller the colour, the fewer env steps to the level; three times the "
        "fewest, or "
        "more, is palest. A small dot is the best cell by the mean over all seeds."
    )
    return Plate(panels, keys, caption, False)


def ring(ax: Axes, x: Any, y: Any, shape: str, size: float, colour: str) -> None:
    """A hollow mark with a rim of paper, so that it shows on any field."""
    for width, edge in ((3.2, PAPER), (1.4, colour)):
        ax.plot(x, y, shape, ms=size, mfc="none", mec=edge, mew=width, clip_on=False, zorder=5)


def _place(values: list[Any], value: float) -> float:
    """Where `value` lies among the grid's rising `values`, as a fractional index, carried on beyond the ends."""
    if len(values) < 2:
        return 0.0
    logs, x = np.log(np.array(values, dtype=float)), np.log(value)
    i = int(np.clip(np.searchsorted(logs, x) - 1, 0, len(values) - 2))
    return float(i + (x - logs[i]) / (logs[i + 1] - logs[i]))


def _law(hparams: Mapping[str, Any], quantity: str, task: str, utd: str) -> float:
    law = hparams["laws"].get("shared", {}).get(quantity)
    if not law or task not in law["intercept"]:
        return 0.0
    return float(read_law(law)(Fraction(utd), task))


def _alt(task: str, best: Mapping[tuple[str, str], Mapping[str, Any]]) -> str:
    said = "; ".join(
        f"σ={utd}: B {short(r['batch_size'])}, η {short(r['learning_rate'])}"
        for (t, utd), r in best.items()
        if t == task
    )
    return f"The grid of {task}. Best on average at {said}."

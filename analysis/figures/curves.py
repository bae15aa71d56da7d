"""Learning curves with what is read off them (figure 7, left)."""

from __future__ import annotations

import numpy as np

from analysis.curves import Crossings, isotonic
from analysis.figures.canvas import SMALL, Key, Plate, canvas, log_axis, panel, styled
from analysis.figures.palette import FAINT, PAPER, ordered
from analysis.uncertainty import Floats

ROWS = 160  # of a mean curve are drawn: more cannot be seen at this size


@styled
def learning_curves(crossings: Crossings) -> Plate:
    """Seed means, their isotonic fits and the first crossings of the levels: a panel a task, a colour a σ.

    `crossings` has one cell for each (task, σ).
    """
    utds = list(dict.fromkeys(crossings.cells.sort_values("sigma")["utd"]))
    colours = dict(zip(utds, ordered(len(utds), "sigma"), strict=True))
    panels = []
    for task, cells in crossings.cells.groupby("task", sort=True):
        fig, ax = canvas(SMALL)
        for level in crossings.thresholds:
            ax.axhline(level, color=FAINT, linewidth=0.6, linestyle=(0, (1, 3)), zorder=0)
        hits, last = [], 0.0
        for i in cells.sort_values("sigma").index:
            curve, colour = crossings.curves[i], colours[crossings.cells.loc[i, "utd"]]
            last = max(last, float(curve.steps[-1]))
            thin = np.unique(np.linspace(0, len(curve.steps) - 1, ROWS).astype(int))
            ax.plot(curve.steps[thin], curve.mean[thin], color=colour, alpha=0.4, linewidth=0.8)
            rising = corners(curve.steps, isotonic(curve.steps, curve.mean))
            ax.plot(*rising, color=colour, linewidth=1.4, drawstyle="steps-post")
            hit = np.isfinite(crossings.point[i])
            hits += list(crossings.point[i][hit])
            ax.plot(
                crossings.point[i][hit],
                crossings.thresholds[hit],
                "o",
                ms=3.6,
                color=colour,
                mec=PAPER,
                mew=0.6,
                zorder=5,
            )
        ax.set(ylim=(-40, 1060), xlabel="env steps", ylabel="normalised return")
        if hits:
            ax.set_xlim(max(min(hits), 1.0) / 1.6, last * 1.04)
        log_axis(ax, "x")
        ax.set_yticks([0, 250, 500, 750, 1000])
        reached = int(np.isfinite(crossings.point[cells.index, -1]).sum())
        alt = (
            f"Learning curves of {task} at σ = {', '.join(cells.sort_values('sigma')['utd'])}; "
            f"{reached} of {len(cells)} reach {crossings.thresholds[-1]:g}."
        )
        panels.append(panel(fig, str(task), alt))
    keys = [Key(f"σ = {u}", colours[u], "line") for u in utds]
    caption = (
        "Mean over seeds (faint), its isotonic fit (bold) and the first crossing of each return level (dots): the "
        "step of a dot is the D that everything else on this page rests on."
    )
    return Plate(panels, keys, caption, False)


def corners(steps: Floats, rising: Floats) -> tuple[Floats, Floats]:
    """The first point of every level of the staircase, and its last."""
    edge = np.append(True, np.diff(rising) != 0)
    edge[-1] = True
    return steps[edge], rising[edge]

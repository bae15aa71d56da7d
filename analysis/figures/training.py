"""What training looked like inside: overfitting, critic norm and critical batch size (figures 4, 8 and 9)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from analysis.figures.canvas import LARGE, Key, Panel, Plate, canvas, log_axis, mark, panel, sigma_axis, styled
from analysis.figures.palette import FAINT, INK, TASKS
from analysis.figures.palette import tasks as task_colours

TITLES = {
    "overfitting": ("Overfitting", "TD loss, newest over replay"),
    "critic_norm": ("Critic parameter norm", "parameter norm"),
    "critical_batch": ("Critical batch size", "critical batch size"),
}


@styled
def training(table: pd.DataFrame, best: Mapping[tuple[str, str], float]) -> Plate | None:
    """Each measure against σ, a line a task, as far as it was logged; critical against best batch size.

    `table` as `training.summaries` makes it, one row per (task, σ); `best` is (task, σ) → best batch size.
    """
    names = sorted(table["task"].unique())
    colours = task_colours(names)
    panels: list[Panel] = []
    for measure, (title, label) in TITLES.items():
        known = table[np.isfinite(table[measure]) & (table[measure] > 0)]
        if known.empty:
            continue
        fig, ax = canvas(LARGE)
        for t, task in enumerate(names):
            mine = known[known["task"] == task].sort_values("sigma")
            ax.plot(mine["sigma"], mine[measure], "-", marker=mark(t)[1], color=colours[task], ms=4.5, linewidth=1.3)
        sigma_axis(ax, list(known["utd"]))
        ax.set_ylabel(label)
        log_axis(ax, "y")
        panels.append(panel(fig, title, f"{title} against σ for {', '.join(names)}."))
    pairs = [(best[r.task, r.utd], r.critical_batch, r.task) for r in table.itertuples() if (r.task, r.utd) in best]
    pairs = [p for p in pairs if np.isfinite(p[1]) and p[1] > 0]
    if len(pairs) > 2:
        panels.append(against_best(pairs, names, colours))
    if not panels:
        return None
    keys = (
        [Key(name, colours[name], mark(t)[0]) for t, name in enumerate(names)]
        if len(names) <= len(TASKS)
        else [Key("a task each", FAINT, "dot")]
    )
    return Plate(panels, keys, "Medians over seeds, of means over the second half of each run.", True)


def against_best(pairs: list[tuple[Any, ...]], names: list[str], colours: Mapping[str, str]) -> Panel:
    """Critical over best batch size, of (best, critical, task)."""
    fig, ax = canvas(LARGE)
    for x, y, task in pairs:
        ax.plot(x, y, mark(names.index(task))[1], color=colours[task], ms=5)
    low, high = (f([v for x, y, _ in pairs for v in (x, y)]) for f in (min, max))
    ax.plot([low, high], [low, high], color=INK, linewidth=0.9)
    ax.set(xlabel="best batch size B*", ylabel="critical batch size")
    log_axis(ax, "x")
    log_axis(ax, "y")
    r = np.corrcoef(np.log([[p[0] for p in pairs], [p[1] for p in pairs]]))[0, 1]
    return panel(
        fig, f"Critical against best batch size: r = {r:+.2f}".replace("-", "−"), f"They correlate with r = {r:.2f}."
    )

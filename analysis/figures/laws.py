"""Data and compute against σ, for the average task and for each one (figures 1, left, and 2)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import Any

import numpy as np

from analysis.blend import Blend, Draws
from analysis.budget import Frontier
from analysis.curves import Crossings
from analysis.figures.canvas import (
    LARGE,
    SMALL,
    Key,
    Plate,
    canvas,
    log_axis,
    panel,
    short,
    sigma_axis,
    styled,
    whisker,
)
from analysis.figures.palette import ALARM, FAINT, PAPER, ordered
from analysis.uncertainty import Floats

DRAWN = 500  # draws of a band: more do not move its edges visibly


@styled
def data_and_compute(laws: Mapping[str, Any], frontiers: Sequence[Frontier]) -> Plate:
    """D_J(σ) and C_J(σ), all levels in one panel each."""
    colours = ordered(len(laws["data"]), "level")
    low, high = fitted_span(laws)
    panels = []
    for what in ("data", "compute"):
        fig, ax = canvas(LARGE)
        for row, frontier, colour in zip(laws["data"], frontiers, colours, strict=True):
            law = frontier.law if what == "data" else frontier.compute
            line = sigma_line(row)
            inside = (line >= low * 0.999) & (line <= high * 1.001)
            ax.plot(line, law(line), color=colour, linewidth=1.2, linestyle=(0, (1, 1.6)))
            ax.plot(line[inside], np.asarray(law(line))[inside], color=colour, linewidth=1.7)
            for p in row["points"]:
                x = float(Fraction(p["utd"]))
                factor = 1.0 if what == "data" else float(frontier.compute(x) / frontier.law(x))
                measured(ax, x, p, colour, factor)
        utds = [p["utd"] for p in laws["data"][0]["points"]]
        sigma_axis(ax, utds)
        ax.set_ylabel("data D, env steps" if what == "data" else "compute C, FLOPs")
        log_axis(ax, "y")
        title = "Data until each level" if what == "data" else "Compute until each level"
        panels.append(panel(fig, title, f"{title} against σ = {', '.join(utds)}, with the fitted laws."))
    keys = [Key(f"J = {row['threshold']:g}", c, "line") for row, c in zip(laws["data"], colours, strict=True)]
    keys += point_keys(laws)
    return Plate(panels, keys, "", True)


@styled
def levels(laws: Mapping[str, Any], draws: Draws | None) -> Plate:
    """A panel a level: the points with their intervals, the law with its 95 % band, and the predictions beforehand."""
    colours = ordered(len(laws["data"]), "level")
    low, high = fitted_span(laws)
    panels = []
    for j, (row, colour) in enumerate(zip(laws["data"], colours, strict=True)):
        fig, ax = canvas(SMALL)
        law, line = Blend.from_json(row), sigma_line(row)
        if draws is not None:
            few = Draws(
                draws.names, draws.member[:DRAWN], draws.theta[:DRAWN], draws.bend[:DRAWN], draws.low, draws.high
            )
            with np.errstate(over="ignore"):
                ends = np.exp(np.nanquantile(few.log_data(j, np.log(line)), [0.025, 0.975], axis=0))
            ax.fill_between(line, *ends, color=colour, alpha=0.18, linewidth=0)
        inside = (line >= low * 0.999) & (line <= high * 1.001)
        ax.plot(line, law(line), color=colour, linewidth=1.2, linestyle=(0, (1, 1.6)))
        ax.plot(line[inside], np.asarray(law(line))[inside], color=colour, linewidth=1.7)
        for h in laws.get("holdout", []):
            if h["threshold"] == row["threshold"] and h["interval95"][0] is not None:
                x = float(Fraction(h["utd"])) * 1.04
                ax.plot([x, x], h["interval95"], color=ALARM, linewidth=3, alpha=0.55, solid_capstyle="butt")
                ax.plot(x, h["predicted"], "D", color=ALARM, ms=3.6)
        for p in row["points"]:
            measured(ax, float(Fraction(p["utd"])), p, colour, 1.0)
        spread = [p["data"] for p in row["points"]] + list(np.asarray(law(line)))
        spread += [
            e for h in laws.get("holdout", []) if h["threshold"] == row["threshold"] for e in h["interval95"] if e
        ]
        ax.set_ylim(min(spread) / 1.25, max(spread) * 1.25)
        sigma_axis(ax, [p["utd"] for p in row["points"]])
        ax.set_ylabel("data D, env steps")
        log_axis(ax, "y")
        said = ", ".join(
            f"{'' if p['reached'] else 'more than '}{short(p['data'])} at σ={p['utd']}" for p in row["points"]
        )
        panels.append(panel(fig, f"J = {row['threshold']:g}", f"Env steps until J = {row['threshold']:g}: {said}."))
    middle = colours[len(colours) // 2]
    keys = [Key("law, 95 % band", middle, "band"), *point_keys(laws)]
    keys += [Key("predicted beforehand, 95 %", ALARM, "diamond")] if laws.get("holdout") else []
    return Plate(panels, keys, "Dotted: outside the σ that were fitted.", False)


@styled
def tasks(laws: Mapping[str, Any], crossings: Crossings) -> Plate:
    """A panel a task: its own crossings, and the law of the average task at the task's own scale."""
    colours = ordered(len(laws["data"]), "level")
    low, high = fitted_span(laws)
    panels = []
    for task, cells in crossings.cells.groupby("task", sort=True):
        fig, ax = canvas(SMALL)
        missing = 0
        for row, colour in zip(laws["data"], colours, strict=True):
            j = int(np.abs(crossings.thresholds - row["threshold"]).argmin())
            line = sigma_line(row)
            if task in row.get("scale", {}):
                inside = (line >= low * 0.999) & (line <= high * 1.001)
                ax.plot(
                    line[inside], (Blend.from_json(row)(line) * row["scale"][task])[inside], color=colour, linewidth=1.1
                )
            for i in cells.index:
                data = crossings.point[i, j]
                if np.isfinite(data):
                    ax.plot(cells.loc[i, "sigma"], data, "o", color=colour, ms=4, mec=PAPER, mew=0.5, zorder=4)
                else:
                    missing += 1
        sigma_axis(ax, [p["utd"] for p in laws["data"][0]["points"]])
        ax.set_ylabel("env steps")
        log_axis(ax, "y")
        total = len(cells) * len(laws["data"])
        note = f"; {missing} of {total} not reached" if missing else ""
        panels.append(panel(fig, str(task), f"Env steps of {task} until each level against σ{note}."))
    keys = [Key(f"J = {row['threshold']:g}", c, "dot") for row, c in zip(laws["data"], colours, strict=True)]
    caption = (
        "Dots: the task's own crossings. Lines: the law of the average task, times the task's own scale; a task has no "
        "line at a level that it missed at half of the fitted σ or more. What was never reached has no dot."
    )
    return Plate(panels, keys, caption, False)


def measured(ax: Any, x: float, p: Mapping[str, Any], colour: str, factor: float) -> None:
    """One point of laws.json's `data`, times `factor`; an arrow where the level was not reached."""
    if p["reached"]:
        whisker(
            ax,
            x,
            p["data"] * factor,
            [None if e is None else e * factor for e in p["data_ci95"]],
            colour,
            not p["held_out"],
        )
    else:
        ax.plot(x, p["data"] * factor, "^", color=colour, mfc=PAPER if p["held_out"] else colour, ms=6, zorder=4)


def point_keys(laws: Mapping[str, Any]) -> list[Key]:
    """Legend of the marks that occur."""
    points = [p for row in laws["data"] for p in row["points"]]
    keys = [Key("measured, 95 %", FAINT, "dot")]
    if any(p["held_out"] for p in points):
        keys.append(Key("measured, held out of the fit", FAINT, "ring"))
    if not all(p["reached"] for p in points):
        keys.append(Key("not reached by some task: at least this much", FAINT, "up"))
    return keys


def sigma_line(row: Mapping[str, Any]) -> Floats:
    """σ from a little below the least to a little above the largest point, [70]."""
    sigma = [float(Fraction(p["utd"])) for p in row["points"]]
    return np.geomspace(min(sigma) / 1.15, max(sigma) * 1.15, 70)


def fitted_span(laws: Mapping[str, Any]) -> tuple[float, float]:
    """The least and the largest σ that were fitted."""
    sigma = [float(Fraction(u)) for u in laws["fit_utds"]]
    return min(sigma), max(sigma)

"""What compute buys in data, and the best σ for a budget (figures 1 and 3)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import Any

import numpy as np

from analysis.budget import Frontier
from analysis.figures.canvas import LARGE, Key, Panel, Plate, canvas, log_axis, panel, raised, short, styled, whisker
from analysis.figures.laws import fitted_span, point_keys
from analysis.figures.palette import ACCENT, ALARM, FAINT, INK, PAPER, ordered
from analysis.uncertainty import Floats

Line = tuple[float, Floats, Floats]  # a level's compute and data at constant settings, [n] each


@styled
def frontier(laws: Mapping[str, Any], frontiers: Sequence[Frontier], constant: Sequence[Line]) -> Plate:
    """Every level's curve through (C, D) as σ rises; the least C + δ·D; constant settings beside the fitted ones."""
    rows = laws["data"]
    colours = ordered(len(rows), "level")
    low, high = fitted_span(laws)
    fig, ax = canvas(LARGE)
    for row, one, colour in zip(rows, frontiers, colours, strict=True):
        sigma = [float(Fraction(p["utd"])) for p in row["points"]]
        line = np.geomspace(min(sigma), max(sigma), 80)
        inside = (line >= low * 0.999) & (line <= high * 1.001)
        ax.plot(one.compute(line), one.law(line), color=colour, linewidth=1.2, linestyle=(0, (1, 1.6)))
        ax.plot(one.compute(line)[inside], one.law(line)[inside], color=colour)
        for p, s in zip(row["points"], sigma, strict=True):
            if p["reached"]:
                cost = float(one.compute(s) / one.law(s)) * p["data"]
                ax.plot(cost, p["data"], "o", color=colour, mfc=PAPER if p["held_out"] else colour, ms=4.2, mew=1.1)
    budget = laws.get("budget", {})
    stars = budget.get("points", [])
    ax.plot(
        [p["compute"] for p in stars], [p["data"] for p in stars], "*", ms=11, color=ALARM, mec=PAPER, mew=0.7, zorder=6
    )
    ax.set(xlabel="compute C, FLOPs", ylabel="data D, env steps")
    log_axis(ax, "x")
    log_axis(ax, "y")
    alt = f"Data against compute at {len(rows)} return levels; σ rises along each curve from left to right."
    panels = [panel(fig, "Iso-performance curves", alt)]
    keys = [Key(f"J = {row['threshold']:g}", c, "line") for row, c in zip(rows, colours, strict=True)]
    keys += [Key("least C + δ·D", ALARM, "star")] if stars else []
    if constant:
        panels.append(_beside_constant(rows, frontiers, constant))
        keys.append(Key("settings held constant over σ", FAINT, "dash"))
    keys += [k for k in point_keys(laws) if k.shape != "up"]
    caption = (
        "Along each curve σ rises from left to right: more updates for each env step. Dotted: outside the fitted σ."
    )
    return Plate(panels, keys, caption, True)


def _beside_constant(
    rows: Sequence[Mapping[str, Any]], frontiers: Sequence[Frontier], constant: Sequence[Line]
) -> Panel:
    colours = dict(zip([r["threshold"] for r in rows], ordered(len(rows), "level"), strict=True))
    fig, ax = canvas(LARGE)
    for threshold, compute, data in constant:
        row = next(i for i, r in enumerate(rows) if r["threshold"] == threshold)
        points = [p for p in rows[row]["points"] if p["reached"]]
        sigma = np.array([float(Fraction(p["utd"])) for p in points])
        y = np.array([p["data"] for p in points])
        x = np.asarray(frontiers[row].compute(sigma) / frontiers[row].law(sigma)) * y
        ax.plot(x, y, "-o", color=colours[threshold], ms=4)
        ax.plot(
            compute, data, color=colours[threshold], marker="o", mfc=PAPER, ms=4, linestyle=(0, (4, 3)), linewidth=1.2
        )
    ax.set(xlabel="compute C, FLOPs", ylabel="data D, env steps")
    log_axis(ax, "x")
    log_axis(ax, "y")
    return panel(
        fig, "Beside constant settings, as measured", "Measured data and compute, fitted against constant settings."
    )


@styled
def budget(laws: Mapping[str, Any]) -> Plate | None:
    """σ*(F): the cheapest σ of each level against its budget, the power law through them, and what it did not see."""
    part = laws.get("budget") or {}
    points = part.get("points", [])
    if not points:
        return None
    fig, ax = canvas(LARGE)
    x = np.array([p["budget"] for p in points])
    title = "The cheapest σ of each level"
    if part.get("exponent") is not None:
        line = np.geomspace(x.min() / 1.15, x.max() * 1.15, 50)
        spans = np.array([p["predicted_utd_ci95"] for p in points], dtype=float)
        order = np.argsort(x)
        if np.isfinite(spans).all():
            ax.fill_between(x[order], spans[order, 0], spans[order, 1], color=ACCENT, alpha=0.16, linewidth=0)
        ax.plot(line, part["coefficient"] * line ** part["exponent"], color=ACCENT)
        low, high = part["exponent_ci95"]
        title = f"σ* ∝ F{raised(part['exponent'])}, 95 % [{low:.2f}, {high:.2f}]".replace("-", "−")
    for i, p in enumerate(points):
        whisker(ax, p["budget"], p["utd"], p.get("utd_ci95"), INK, not p["held_out"], "s" if p.get("at_end") else "o")
        ax.annotate(
            f"{p['threshold']:g}",
            (p["budget"], p["utd"]),
            (6, 5 if i % 2 else -12),
            textcoords="offset points",
            fontsize=8.5,
            color=FAINT,
        )
    ax.set(xlabel=f"budget F = C + {short(part['delta'])}·D, FLOPs", ylabel="cheapest σ")
    log_axis(ax, "x")
    log_axis(ax, "y")
    said = "; ".join(f"J={p['threshold']:g}: σ*={p['utd']:.2g} at F={short(p['budget'])}" for p in points)
    keys = [Key("cheapest σ, 95 %", INK, "dot")]
    keys += [Key("held out of the law", INK, "ring")] if any(p["held_out"] for p in points) else []
    keys += [Key("law, 95 %", ACCENT, "band")] if part.get("exponent") is not None else []
    share = [p["data_share"] for p in points if p.get("data_share") is not None]
    caption = "The small numbers are return levels J. "
    if share:
        least, most = f"{min(share):.0%}", f"{max(share):.0%}"
        caption += f"δ·D makes up {least if least == most else f'{least} to {most}'} of F at the optima."
    if any(p.get("at_end") for p in points):
        caption += " Squares are ends of the range that was searched, not optima."
    return Plate([panel(fig, title, f"The best σ against the budget. {said}.")], keys, caption, True)

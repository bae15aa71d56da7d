"""Predictions against what was measured afterwards, and fitted settings against constant ones (figure 6)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import Any

import numpy as np

from analysis.blend import Blend
from analysis.compare import Saving
from analysis.figures.canvas import LARGE, Key, Plate, canvas, log_axis, panel, sigma_axis, styled, whisker
from analysis.figures.palette import ACCENT, FAINT, INK, ordered


@styled
def predicted(laws: Mapping[str, Any]) -> Plate:
    """Predicted against measured data, and the signed error of each point: held-out σ with prediction intervals."""
    held = laws.get("holdout", [])
    utds = sorted({h["utd"] for h in held}, key=Fraction)
    colours = dict(zip(utds, ordered(len(utds), "sigma"), strict=True))
    fig, ax = canvas(LARGE)
    every: list[float] = []
    reach: list[float] = []
    errors: list[tuple[float, float]] = []
    for row in laws["data"]:
        law = Blend.from_json(row)
        for p in row["points"]:
            if p["reached"] and not p["held_out"]:
                told = float(law(float(Fraction(p["utd"]))))
                every += [p["data"], told]
                errors.append((float(Fraction(p["utd"])), told / p["data"] - 1))
                ax.plot(p["data"], told, "o", color=FAINT, ms=3.6, alpha=0.7)
    for h in held:
        at = h["observed"] if h["reached"] else h["at_least"]
        every += [at, h["predicted"]]
        reach += [e for e in h["interval95"] if e is not None]
        whisker(ax, at, h["predicted"], h["interval95"], colours[h["utd"]], h["reached"], "o" if h["reached"] else ">")
    ends = np.array([min(every) / 1.2, max(every) * 1.2])
    ax.plot(ends, ends, color=INK, linewidth=0.9)
    ax.fill_between(ends, ends / 1.1, ends * 1.1, color=FAINT, alpha=0.16, linewidth=0)
    heights = min([ends[0], *(e / 1.05 for e in reach)]), max([ends[1], *(e * 1.05 for e in reach)])
    ax.set(xlim=ends, ylim=heights, xlabel="measured D, env steps", ylabel="predicted D, env steps")
    log_axis(ax, "x")
    log_axis(ax, "y")
    panels = [
        panel(fig, "Predicted against measured", f"Predicted against measured data, {len(held)} held-out points.")
    ]
    fig, ax = canvas(LARGE)
    ax.axhline(0, color=INK, linewidth=0.9)
    ax.axhspan(-10, 10, color=FAINT, alpha=0.16, linewidth=0)
    ax.plot([s for s, _ in errors], [100 * e for _, e in errors], "o", color=FAINT, ms=3.6, alpha=0.7)
    for h in held:
        if h["reached"]:
            n = [g["threshold"] for g in held if g["utd"] == h["utd"]]
            x = float(Fraction(h["utd"])) * 1.018 ** (n.index(h["threshold"]) - (len(n) - 1) / 2)
            whisker(ax, x, 100 * h["signed_error"], None, colours[h["utd"]], True)
    sigma_axis(ax, [p["utd"] for p in laws["data"][0]["points"]])
    ax.set_ylabel("error of the prediction, %")
    panels.append(panel(fig, "Signed error, level by level", "Signed error of each prediction in per cent, by σ."))
    keys = [Key(f"σ = {u}, predicted beforehand, 95 %", colours[u], "dot") for u in utds]
    keys += [Key("fitted σ, in sample", FAINT, "dot")]
    if any(not h["reached"] for h in held):
        keys.append(Key("not reached: at least so much", FAINT, "ring"))
    caption = "Grey band: ±10 %. A positive error means that the law asked for more data than it took."
    return Plate(panels, keys, caption, True)


@styled
def saving(rows: Sequence[Saving], threshold: float, what: str) -> Plate:
    """How many times the data constant settings took, σ by σ: the mean over tasks with 95 %, and each task."""
    fig, ax = canvas(LARGE)
    ax.axhline(1, color=INK, linewidth=0.9)
    for r in rows:
        ax.plot([r.sigma] * len(r.tasks), list(r.tasks.values()), "_", color=FAINT, ms=9, mew=1.1)
        whisker(ax, r.sigma, r.ratio, r.interval, ACCENT, True)
    ax.plot([r.sigma for r in rows], [r.ratio for r in rows], color=ACCENT, linewidth=1.1)
    sigma_axis(ax, [r.utd for r in rows])
    ax.set_ylabel("D constant / D fitted")
    log_axis(ax, "y")
    said = ", ".join(f"{r.ratio:.2f} at σ={r.utd}" for r in rows)
    keys = [Key("geometric mean over tasks, 95 %", ACCENT, "dot"), Key("each task", FAINT, "thin")]
    alt = f"Data with constant settings over data with fitted settings: {said}."
    return Plate([panel(fig, f"Constant settings against fitted ones, J = {threshold:g}", alt)], keys, what, True)

"""Laws with model size: data against σ for each N, the map of best settings, their budget laws, and the batch size."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle

from analysis.allocate import Allocator
from analysis.figures.canvas import (
    LARGE,
    SMALL,
    Key,
    Panel,
    Plate,
    canvas,
    log_axis,
    panel,
    raised,
    short,
    sigma_axis,
    styled,
    whisker,
)
from analysis.figures.palette import ACCENT, ALARM, FAINT, INK, PAPER, ordered
from analysis.size_fitted import Subject
from analysis.size_frontier import batch_size
from analysis.size_laws import SizeBatchLaw
from analysis.uncertainty import Floats

MOST = 6  # panels of levels: the lowest, the highest, and evenly between
ROOM = 1.6  # a map reaches this factor beyond what it has to show
AXES = {
    "utd": ("cheapest σ", "σ*"), "n_params": ("cheapest N", "N*"),
    "data": ("data D at the cheapest, env steps", "D*"), "compute": ("compute C at the cheapest, FLOPs", "C*"),
}  # fmt: skip


@styled
def data(subject: Subject, rows: Sequence[Mapping[str, Any]]) -> Plate:
    """A panel a level: env steps against σ, a colour for each N, with the fitted D(σ, N)."""
    levels = sorted(subject.laws)
    shown = [levels[i] for i in np.unique(np.linspace(0, len(levels) - 1, min(MOST, len(levels))).round().astype(int))]
    sizes = sorted({p["n_params"] for row in rows for p in row["points"]})
    colours = dict(zip(sizes, ordered(len(sizes), "size"), strict=True))
    panels, missed, held = [], False, False
    for level in shown:
        points = next(row["points"] for row in rows if float(row["threshold"]) == level)
        fig, ax = canvas(SMALL)
        sigmas = [float(Fraction(p["utd"])) for p in points]
        line = np.geomspace(min(sigmas), max(sigmas), 60)
        for n_params in sizes:
            ax.plot(line, subject.laws[level](line, n_params), color=colours[n_params], linewidth=1.3)
        for p, sigma in zip(points, sigmas, strict=True):
            if p["data"] is None:
                continue
            if not p["reached"]:
                missed = True
                ax.plot(sigma, p["data"], "^", color=colours[p["n_params"]], ms=5)
                continue
            held |= p["held_out"]
            whisker(ax, sigma, p["data"], None, colours[p["n_params"]], not p["held_out"])
        sigma_axis(ax, [p["utd"] for p in points])
        ax.set_ylabel("data D, env steps")
        log_axis(ax, "y")
        law = subject.laws[level]
        alt = f"Env steps until J = {level:g} against σ at {len(sizes)} model sizes; D falls to {short(law.c)} at best."
        panels.append(panel(fig, f"J = {level:g}", alt))
    keys = [Key(f"N = {short(n)}", colours[n], "line") for n in sizes]
    keys += [Key("held out of the law", FAINT, "ring")] if held else []
    keys += [Key("not reached within", FAINT, "up")] if missed else []
    left = f" {len(shown)} of {len(levels)} levels are shown." if len(shown) < len(levels) else ""
    return Plate(panels, keys, "Lines are one law D(σ, N) per level." + left, False)


@styled
def best_settings(subject: Subject, budget: Mapping[str, Any] | None) -> Plate:
    """The highest level's D over (σ, N) as contours, the trained box, and where the cheapest settings lie."""
    level = max(subject.laws)
    law, box = subject.laws[level], subject.trained
    points = [] if budget is None else budget["points"]
    ends = {}
    for name, (low, high) in (("utd", box.sigma), ("n_params", box.n_params)):
        values = [low, high, *(p[name] for p in points)]
        ends[name] = (min(values) / ROOM, max(values) * ROOM)
    sigma, n_params = (np.geomspace(*ends[name], 120) for name in ("utd", "n_params"))
    steps = law(sigma[:, None], n_params[None, :])
    fig, ax = canvas(LARGE)
    levels = np.geomspace(steps.min() * 1.05, steps.max() / 1.05, 8)
    drawn = ax.contour(n_params, sigma, np.log(steps), np.log(levels), colors=FAINT, linewidths=0.9, linestyles="solid")
    ax.clabel(drawn, fmt=lambda v: short(float(np.exp(v))), fontsize=8, colors=FAINT)
    (left, right), (bottom, top) = box.n_params, box.sigma
    style: Any = {"fill": False, "edgecolor": INK, "linewidth": 1.2, "linestyle": "--"}
    ax.add_patch(Rectangle((left, bottom), right - left, top - bottom, **style))
    keys = [Key("equal data", FAINT, "thin"), Key("trained range", INK, "dash")]
    if isinstance(subject.batch, SizeBatchLaw):
        caption = "With a law of the batch size the best settings lie on no line of their own: the stars are searched."
    else:
        line = Allocator(law, subject.batch).line()
        ax.plot(n_params, [line.sigma(float(n)) for n in n_params], color=ACCENT)
        keys.append(Key(f"best settings at J = {level:g}, whatever the bound", ACCENT, "line"))
        caption = f"ln σ = {line.slope:.3g}·ln N {line.intercept:+.3g} on the line.".replace("-", "−")
    for p in points:
        ax.plot(p["n_params"], p["utd"], "*", ms=10, color=ALARM, mec=PAPER, mew=0.7, zorder=6)
    keys += [Key("least C + δ·D, a star a level", ALARM, "star")] if points else []
    ax.set(xlim=ends["n_params"], ylim=ends["utd"], xlabel="model size N, parameters", ylabel="σ")
    log_axis(ax, "x")
    log_axis(ax, "y")
    ax.grid(visible=False)
    outside = sum(not p["inside"] for p in points)
    caption += f" {outside} of {len(points)} stars lie outside what was trained." if outside else ""
    alt = f"Data until J = {level:g} over model size and σ, with the trained range and the cheapest settings."
    return Plate([panel(fig, f"Data until J = {level:g} over (N, σ)", alt)], keys, caption, True)


@styled
def budget_laws(budget: Mapping[str, Any]) -> Plate | None:
    """σ*, N*, D* and C* against F: fitted and held-out levels, the power law, and how much of F is δ·D."""
    points, laws = budget["points"], budget["laws"]
    if not points:
        return None
    panels = [_budget_law(budget, name) for name in AXES]
    share = [p["data_share"] for p in points]
    least, most = f"{min(share):.0%}", f"{max(share):.0%}"
    caption = f"δ·D makes up {least if least == most else f'{least} to {most}'} of F at the optima"
    caption += ": D*(F) is nearly F/δ, whatever the runs. " if min(share) > 0.5 else ". "
    if laws and laws["utd"]["error_held_out"] is not None:
        caption += "Errors of ln on held-out levels, law against a constant: " + ", ".join(
            f"{AXES[name][1]} {laws[name]['error_held_out']:.2g} against {laws[name]['error_constant']:.2g}"
            for name in AXES
        )
        caption += f"; D* by a constant share of F {laws['data']['error_share']:.2g}."
    keys = [Key("cheapest, 95 %", INK, "dot")]
    keys += [Key("held out of the law", INK, "ring")] if any(p["held_out"] for p in points) else []
    keys += [Key("end of the range searched", INK, "square")] if any(p["at_end"] for p in points) else []
    keys += [Key("power law, 95 %", ACCENT, "band")] if laws else []
    return Plate(panels, keys, caption, True)


def _budget_law(budget: Mapping[str, Any], name: str) -> Panel:
    points, law = budget["points"], budget["laws"].get(name)
    label, symbol = AXES[name]
    fig, ax = canvas(LARGE)
    title = label
    x = np.array([p["budget"] for p in points])
    if law is not None and law["exponent"] is not None:
        _band(ax, x, law)
        r2 = {"fitted": law["r2"], "held out": law["r2_held_out"]}
        told = ", ".join(f"R² {v:.2f} {where}" for where, v in r2.items() if v is not None)
        title = f"{symbol} ∝ F{raised(law['exponent'])}{': ' + told if told else ''}".replace("-", "−")
    for p in points:
        mark = "s" if name in p["at_end"] else "o"
        whisker(ax, p["budget"], p[name], p[f"{name}_ci95"], INK, not p["held_out"], mark)
    ax.set(xlabel=f"budget F = C + {short(budget['delta'])}·D, FLOPs", ylabel=label.replace(" at the cheapest", ""))
    ax.set_xlim(_at_least(x, 3.0))
    ax.set_yscale("log")
    ax.set_ylim(_at_least(np.array(ax.get_ylim()), 2.0))
    log_axis(ax, "x")
    log_axis(ax, "y")
    ends = points if len(points) == 1 else (points[0], points[-1])
    said = "; ".join(f"J={p['threshold']:g}: {short(p[name])} at F={short(p['budget'])}" for p in ends)
    return panel(fig, title, f"{label} against the budget. {said}.")


def _at_least(values: Floats, factor: float) -> tuple[float, float]:
    """Ends that hold `values` with room, at least `factor` apart, so that ticks are few and round."""
    low, high = values.min() / 1.1, values.max() * 1.1
    more = max(1.0, factor / (high / low)) ** 0.5
    return float(low / more), float(high * more)


def _band(ax: Axes, x: Floats, law: Mapping[str, Any]) -> None:
    order = np.argsort(x)
    spans = np.array(law["predicted_ci95"], dtype=float)
    if np.isfinite(spans).all():
        ax.fill_between(x[order], spans[order, 0], spans[order, 1], color=ACCENT, alpha=0.16, linewidth=0)
    line = np.geomspace(x.min() / 1.1, x.max() * 1.1, 40)
    ax.plot(line, law["coefficient"] * line ** law["exponent"], color=ACCENT)


@styled
def batch_sizes(subject: Subject, rows: Sequence[Mapping[str, Any]]) -> Plate | None:
    """B*(σ, N) against N, a colour for each σ; nothing where the batch size is constant."""
    if not isinstance(subject.batch, SizeBatchLaw):
        return None
    points = rows[-1]["points"]
    utds = sorted({Fraction(p["utd"]) for p in points})
    colours = dict(zip(utds, ordered(len(utds), "sigma"), strict=True))
    fig, ax = canvas(LARGE)
    line = np.geomspace(min(p["n_params"] for p in points), max(p["n_params"] for p in points), 60)
    for utd in utds:
        ax.plot(line, batch_size(subject.batch, float(utd), line), color=colours[utd])
    for p in points:
        if p["batch_size"] is not None:
            whisker(ax, p["n_params"], p["batch_size"], None, colours[Fraction(p["utd"])], not p["held_out"])
    ax.set(xlabel="model size N, parameters", ylabel="batch size B")
    log_axis(ax, "x")
    log_axis(ax, "y")
    law = subject.batch
    caption = (
        f"B*(σ, N) = {law.a:.3g} / (σ^{law.alpha:.2g}·(1 + ({short(law.b)}/N)^{law.c:.2g})): trust its predictions, "
        "not its numbers. Points are what the runs of the laws used."
    )
    alt = f"Batch size against model size at σ = {', '.join(map(str, utds))}."
    keys = [Key(f"σ = {u}", colours[u], "line") for u in utds]
    return Plate([panel(fig, "Batch size against model size", alt)], keys, caption, True)

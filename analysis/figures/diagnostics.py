"""What diagnostics logged: losses against the batch size, slopes of passive critics, noise scale over training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator

from analysis.figures.canvas import SMALL, Key, Panel, Plate, canvas, log_axis, panel, short, styled
from analysis.figures.palette import INK, PAPER, ordered
from analysis.figures.palette import tasks as task_colours
from analysis.figures.training import against_best
from analysis.uncertainty import Floats

Rows = Sequence[Mapping[str, Any]]
LOSSES = {"training": "TD loss on trained data", "validation": "TD loss on validation data"}


@styled
def overfitting(rows: Rows) -> Plate | None:
    """A panel for each loss of each (task, σ): points and parabola of each width; then the vertices over width."""
    fitted = {(r["task"], r["utd"]) for r in rows if r["training"]["q"] or r["validation"]["q"]}
    groups: dict[Any, list[Mapping[str, Any]]] = {}
    for r in rows:
        if (r["task"], r["utd"]) in fitted or not fitted:
            groups.setdefault((r["task"], r["utd"], r["learning_rate"]), []).append(r)
    if not fitted:  # points alone, at each task's lowest σ
        least = {t: min(Fraction(u) for task, u, _ in groups if task == t) for t, *_ in groups}
        groups = {key: part for key, part in groups.items() if Fraction(key[1]) == least[key[0]]}
        batches = {key: {b for r in part for b in r["validation"]["batch_size"]} for key, part in groups.items()}
        groups = {key: part for key, part in groups.items() if len(batches[key]) >= 3}
    if not groups:
        return None
    colours = by_width(r["width"] for part in groups.values() for r in part)
    panels: list[Panel] = []
    for (task, utd, _), part in groups.items():
        for kind, label in LOSSES.items():
            if any(r[kind]["loss"] for r in part):
                panels.append(_losses(f"{task}, σ = {utd}", kind, label, part, colours))
        points = [(r["width"], r["validation"]["vertex"], r["validation"]["vertex_ci95"]) for r in part]
        if sum(at is not None for _, at, _ in points) > 1:
            panels.append(_vertices(f"{task}, σ = {utd}: largest batch", points, colours))
    keys = [Key(f"width {width}", colour, "dot") for width, colour in colours.items()]
    caption = (
        "Means over the last part of each run, and parabolas of logarithms. Where one opens upwards its vertex "
        "(diamond) is the largest batch before the loss rises; bars are 95 % intervals, of resampled seeds."
        if fitted
        else "Means over the last part of each run, at each task's lowest σ: no width was run with the three batch "
        "sizes that a parabola needs, so none has a largest admissible batch."
    )
    return Plate(panels, keys, caption, False) if panels else None


def _losses(title: str, kind: str, label: str, part: Rows, colours: Mapping[int, str]) -> Panel:
    fig, ax = canvas(SMALL)
    for r in part:
        loss, colour = r[kind], colours[int(r["width"])]
        ax.plot(loss["batch_size"], loss["loss"], "o", color=colour, ms=4.5)
        if loss["q"]:
            line = np.geomspace(min(loss["batch_size"]), max(loss["batch_size"]), 60)
            ax.plot(line, parabola(loss["q"], line), color=colour, linewidth=1.3)
            if loss["vertex"] is not None:
                at = np.array([loss["vertex"]])
                ax.plot(at, parabola(loss["q"], at), "D", color=colour, mec=PAPER, mew=0.8, ms=6.5, zorder=5)
    ax.set(xlabel="batch size", ylabel=label)
    log_axis(ax, "x")
    log_axis(ax, "y")
    said = "; ".join(f"width {r['width']:g}: {short(r[kind]['vertex'])}" for r in part if r[kind]["vertex"] is not None)
    return panel(fig, f"{title}: {kind} loss", f"{label} against batch size. Vertices: {said or 'none'}.")


def _vertices(title: str, points: Sequence[tuple[Any, ...]], colours: Mapping[int, str]) -> Panel:
    fig, ax = canvas(SMALL)
    known = [(w, at) for w, at, _ in points if at is not None]
    for width, at, ends in points:
        if at is not None:
            if ends is not None:
                ax.plot([width, width], ends, color=colours[int(width)], linewidth=1.1)
            ax.plot(width, at, "D", color=colours[int(width)], ms=6)
    if len(known) > 1:
        _line(ax, np.array([w for w, _ in known], float), np.array([b for _, b in known]), INK)
    ax.set(xlabel="width of the critic", ylabel="largest admissible batch")
    width_axis(ax, [int(w) for w, _ in known])
    log_axis(ax, "y")
    return panel(fig, title, "; ".join(f"width {w:g}: {short(b)}" for w, b in known))


@styled
def slopes(rows: Rows) -> Plate | None:
    """Two panels for each (task, σ): passive critics' loss over the main width, and over their own."""
    if not rows:
        return None
    names = {"main": ("width", "passive_width"), "passive": ("passive_width", "width")}
    colours = by_width(c[name] for r in rows for c in r["cells"] for name in names["main"])
    panels = []
    for r in rows:
        for which, (moves, fixed) in names.items():
            if r[which]["average"] is None:
                continue
            fig, ax = canvas(SMALL)
            for width in sorted({c[fixed] for c in r["cells"]}):
                mine = sorted((c[moves], c["loss"]) for c in r["cells"] if c[fixed] == width)
                x, y = np.array(mine, dtype=float).T
                ax.plot(x, y, "o", color=colours[width], ms=4.5)
                if len(x) > 1:
                    _line(ax, x, y, colours[width])
            ax.set(xlabel=f"{which} width", ylabel="passive validation loss")
            width_axis(ax, [c[moves] for c in r["cells"]])
            log_axis(ax, "y")
            ends = r[which]["average_ci95"]
            between = f", 95 % [{ends[0]:.2f}, {ends[1]:.2f}]" if ends else ""
            words = f"slope {r[which]['average']:.2f}{between}".replace("-", "−")
            title = f"{r['task']}, σ = {r['utd']}, {which} width: {words}"
            panels.append(panel(fig, title, f"Passive critics' validation loss against {which} width: {words}."))
    keys = [Key(f"the other width {width}", colour, "dot") for width, colour in colours.items()]
    caption = (
        "Lines are fitted to logarithms, one for each value of the other width; the slope is their mean. Where the "
        "main width matters more, it is the quality of the targets that limits the loss, not the critic's capacity."
    )
    return Plate(panels, keys, caption, False) if panels else None


@styled
def noise(rows: Rows, best: Mapping[tuple[str, str], float]) -> Plate | None:
    """The noise scale over training, a panel a task; and at the end against the best batch size, where known."""
    rows = [r for r in rows if any(x > 0 for x in r["noise_scale"])]
    if not rows:
        return None
    # by what varies: σ, or widths where there is one σ
    sign, what, ramp = ("σ =", "utd", "sigma") if len({r["utd"] for r in rows}) > 1 else ("width", "width", "level")
    told = sorted({r[what] for r in rows}, key=Fraction)
    tones = dict(zip(told, ordered(len(told), ramp), strict=True))
    tasks = sorted({r["task"] for r in rows})
    panels = []
    for task in tasks:
        fig, ax = canvas(SMALL)
        for r in (r for r in rows if r["task"] == task):
            at, scale = np.array(r["env_step"], float), np.array(r["noise_scale"], float)
            ax.plot(at[scale > 0], scale[scale > 0], color=tones[r[what]], linewidth=1.2)
        ax.set(xlabel="env steps", ylabel="noise scale S/|G|²")
        ax.xaxis.set_major_locator(MaxNLocator(4))
        ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: short(value) if value else "0"))
        log_axis(ax, "y")
        panels.append(panel(fig, task, f"Noise scale of the critic's gradient over training, {task}."))
    ends = [(best[r["task"], r["utd"]], r["noise_scale"][-1], r["task"]) for r in rows if (r["task"], r["utd"]) in best]
    ends = [e for e in ends if e[1] > 0]
    if len(ends) > 2:
        panels.append(against_best(ends, tasks, task_colours(tasks)))
    keys = [Key(f"{sign} {value}", tone, "line") for value, tone in tones.items()]
    caption = "Rolling means of each run, medians over seeds; a line for each batch size, width and learning rate."
    return Plate(panels, keys, caption, False)


def parabola(q: Sequence[float], batches: Floats) -> Floats:
    x = np.log(batches)
    return np.asarray(np.exp(q[0] + q[1] * x + q[2] * x**2))


def by_width(widths: Any) -> dict[int, str]:
    """A colour for each width, ordered."""
    known = sorted({int(w) for w in widths})
    return dict(zip(known, ordered(len(known), "level"), strict=True))


def width_axis(ax: Axes, widths: Sequence[int]) -> None:
    """A log axis with ticks at the widths that were run."""
    ax.set_xscale("log")
    ax.xaxis.set_major_locator(FixedLocator(sorted(set(widths))))
    ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.0f}"))
    ax.xaxis.set_minor_locator(NullLocator())


def _line(ax: Axes, x: Floats, y: Floats, colour: str) -> None:
    """The straight line of logarithms through the points."""
    exponent, intercept = np.polyfit(np.log(x), np.log(y), 1)
    ends = np.array([x.min(), x.max()])
    ax.plot(ends, np.exp(intercept) * ends**exponent, color=colour, linewidth=1.3)

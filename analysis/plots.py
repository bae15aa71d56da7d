"""Figures of a fit: pure functions from tables to matplotlib Figures; nothing here reads or writes a file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import Any

import matplotlib
import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from analysis.blend import Blend, Draws
from analysis.budget import Frontier, pareto
from analysis.curves import Crossings, isotonic
from analysis.uncertainty import Floats

STYLE: Any = {
    "font.size": 9.5, "axes.titlesize": 10.5, "axes.titleweight": "bold", "axes.spines.top": False,
    "axes.spines.right": False, "axes.grid": True, "axes.axisbelow": True, "grid.color": "#e6e8eb",
    "grid.linewidth": 0.7,
    "axes.edgecolor": "#8a9099", "legend.frameon": False, "legend.fontsize": 8.5, "svg.fonttype": "path",
    "svg.hashsalt": "rlscale", "lines.linewidth": 1.7, "figure.dpi": 110, "axes.titlelocation": "left",
}  # fmt: skip
TASK_COLOURS = ["#2f6db5", "#d1662b", "#3a8f5c", "#8d5ba6", "#b8912f", "#4aa3b5", "#c2497a", "#6b6f76"]
MARKS = "osD^vP*X"


def figure(columns: int, rows: int = 1, width: float = 4.9, height: float = 3.7) -> tuple[Figure, list[Axes]]:
    fig = Figure(figsize=(width * columns, height * rows), layout="constrained")
    axes = fig.subplots(rows, columns, squeeze=False)
    return fig, list(axes.ravel())


def shades(count: int) -> list[Any]:
    """`count` colours from dark to light for an ordered quantity."""
    return [colormaps["viridis"](x) for x in np.linspace(0.08, 0.88, max(count, 1))]


def learning_curves(crossings: Crossings) -> Figure:
    """Seed means, their isotonic fits, and the first crossing of each threshold; one panel a task, one colour a σ."""
    tasks = sorted(crossings.cells["task"].unique())
    utds = list(dict.fromkeys(crossings.cells.sort_values("sigma")["utd"]))
    with matplotlib.rc_context(STYLE):
        columns = min(3, len(tasks))
        fig, axes = figure(columns, -(-len(tasks) // columns), 5.2, 3.9)
        for ax in axes[len(tasks) :]:
            ax.set_axis_off()
        for ax, task in zip(axes, tasks, strict=False):
            for i in crossings.cells.index[crossings.cells["task"] == task]:
                colour = shades(len(utds))[utds.index(crossings.cells.loc[i, "utd"])]
                curve = crossings.curves[i]
                rising = isotonic(curve.steps, curve.mean)
                thin = slice(None, None, max(1, len(curve.steps) // 250))
                ax.plot(curve.steps[thin], curve.mean[thin], color=colour, alpha=0.3, linewidth=0.9)
                ax.plot(curve.steps[thin], rising[thin], color=colour)
                hit = np.isfinite(crossings.point[i])
                ax.plot(
                    crossings.point[i][hit], crossings.thresholds[hit], "o", ms=3.6, color=colour, mec="white", mew=0.6
                )
            for threshold in crossings.thresholds:
                ax.axhline(threshold, color="#c9ced6", linewidth=0.6, linestyle=(0, (2, 3)), zorder=0)
            ax.set(title=task, xlabel="env steps", ylabel="normalised return", ylim=(-60, 1060), xscale="log")
            _plain_ticks(ax, "x")
        lines = [Line2D([], [], color=c, label=f"σ = {u}") for u, c in zip(utds, shades(len(utds)), strict=True)]
        axes[0].legend(handles=lines, loc="upper left", fontsize=8)
    return fig


def best_values(hparams: Mapping[str, Any]) -> Figure:
    """B*(σ) and η*(σ): best measured values with 95 % intervals, the shared law and (dashed) the separate ones."""
    rows = hparams["best"]
    tasks = list(dict.fromkeys(r["task"] for r in rows))
    with matplotlib.rc_context(STYLE):
        fig, axes = figure(2)
        for ax, quantity, label in zip(
            axes, ("batch_size", "learning_rate"), ("best batch size B*", "best learning rate η*"), strict=True
        ):
            for t, task in enumerate(tasks):
                colour, mine = TASK_COLOURS[t % len(TASK_COLOURS)], [r for r in rows if r["task"] == task]
                sigma = np.array([float(Fraction(r["utd"])) for r in mine])
                value = np.array([r[quantity] for r in mine])
                ends = np.array([r[f"{quantity}_ci95"] for r in mine], dtype=float)
                shifted = sigma * 1.035 ** (t - (len(tasks) - 1) / 2)
                errors = np.abs(ends.T - value)
                ax.errorbar(
                    shifted, value, errors, fmt=MARKS[t % len(MARKS)], color=colour, ms=5, elinewidth=1, capsize=2.2
                )
                for r, x in zip(mine, shifted, strict=True):
                    if not r["reached"]:
                        ax.plot(x, r[quantity], MARKS[t % len(MARKS)], color="white", mec=colour, ms=5, zorder=5)
                line = np.geomspace(sigma.min() / 1.25, sigma.max() * 1.25, 50)
                shared, separate = (hparams["laws"][v][quantity] for v in ("shared", "separate"))
                if task in shared["intercept"]:
                    ax.plot(line, shared["intercept"][task] * line ** shared["exponent"], color=colour, label=task)
                    apart = separate["intercept"][task] * line ** separate["exponent"][task]
                    ax.plot(line, apart, color=colour, linewidth=1, linestyle=(0, (4, 3)), alpha=0.8)
            law = hparams["laws"]["shared"][quantity]
            low, high = law["exponent_ci95"]
            ax.set(xscale="log", yscale="log", xlabel="σ, updates per env step", ylabel=label)
            ax.set_title(f"{label.split()[-1]} ∝ σ{_raised(law['exponent'])}   95 % [{low:.2f}, {high:.2f}]")
            _sigma_ticks(ax, [r["utd"] for r in rows])
            _plain_ticks(ax, "y")
        handles, names = axes[0].get_legend_handles_labels()
        handles += [Line2D([], [], color="#444"), Line2D([], [], color="#444", linewidth=1, linestyle=(0, (4, 3)))]
        axes[1].legend(handles, [*names, "shared slope", "separate slope"], loc="best")
    return fig


def data_laws(laws: Mapping[str, Any], draws: Draws) -> Figure:
    """D_J(σ) for each threshold: points with 95 % intervals, censored points as arrows, the law with its band."""
    with matplotlib.rc_context(STYLE):
        fig, (ax,) = figure(1, width=7.6, height=4.9)
        colours = shades(len(laws["data"]))
        for j, (row, colour) in enumerate(zip(laws["data"], colours, strict=True)):
            sigma = np.array([float(Fraction(p["utd"])) for p in row["points"]])
            line = np.geomspace(sigma.min() / 1.2, sigma.max() * 1.2, 80)
            law = Blend.from_json(row)
            ax.plot(line, law(line), color=colour, label=f"J = {row['threshold']:g}")
            low, high = np.exp(np.quantile(draws.log_data(j, np.log(line)), [0.025, 0.975], axis=0))
            ax.fill_between(line, low, high, color=colour, alpha=0.13, linewidth=0)
            for p, x in zip(row["points"], sigma, strict=True):
                face = "white" if p["held_out"] else colour
                if not p["reached"]:
                    ax.plot(x, p["data"], "^", color=face, mec=colour, ms=7)
                    continue
                error = [[max(0.0, p["data"] - p["data_ci95"][0])], [max(0.0, p["data_ci95"][1] - p["data"])]]
                ax.errorbar(x, p["data"], error, fmt="o", color=colour, mfc=face, ms=5, elinewidth=1, capsize=2)
        ax.set(
            xscale="log",
            yscale="log",
            xlabel="σ, updates per env step",
            ylabel="data D_J, env steps of the average task",
        )
        ax.set_title("data law: " + ", ".join(m["law"].replace("_", " ") for m in laws["data"][0].get("members", [])))
        _sigma_ticks(ax, [p["utd"] for p in laws["data"][0]["points"]])
        _plain_ticks(ax, "y")
        marks = [
            Line2D([], [], marker="o", color="#444", linestyle="", ms=5, label="measured"),
            Line2D(
                [], [], marker="o", color="#444", mfc="white", linestyle="", ms=5, label="measured, held out of the fit"
            ),
            Line2D([], [], marker="^", color="#444", linestyle="", ms=6, label="not reached: at least this much"),
        ]
        handles, _ = ax.get_legend_handles_labels()
        first = ax.legend(handles=handles[::-1], loc="upper left", bbox_to_anchor=(1.0, 1.0))
        ax.add_artist(first)
        ax.legend(handles=marks, loc="lower left", bbox_to_anchor=(1.0, 0.0))
    return fig


def compute_data(laws: Mapping[str, Any], frontiers: Sequence[Frontier]) -> Figure:
    """Compute against data at each return level: the Pareto frontier, the measured σ, the least C + δ·D."""
    with matplotlib.rc_context(STYLE):
        fig, (ax,) = figure(1, width=7.6, height=4.9)
        for row, frontier, colour in zip(laws["data"], frontiers, shades(len(frontiers)), strict=True):
            sigma, data, compute = pareto(frontier, 120)
            inside = sigma <= max(float(Fraction(p["utd"])) for p in row["points"]) * 1.0001
            ax.plot(compute[inside], data[inside], color=colour, label=f"J = {row['threshold']:g}")
            ax.plot(compute[~inside], data[~inside], color=colour, linestyle=(0, (1, 2)))
            for p in row["points"]:
                if p["reached"]:
                    s = float(Fraction(p["utd"]))
                    cost = float(frontier.compute(s)) * p["data"] / float(frontier.law(s))
                    ax.plot(cost, p["data"], "o", color=colour, mfc="white" if p["held_out"] else colour, ms=4.2)
        points = laws["budget"]["points"]
        ax.plot(
            [p["compute"] for p in points],
            [p["data"] for p in points],
            "*",
            ms=11,
            color="#c2342b",
            mec="white",
            mew=0.7,
            zorder=6,
        )
        ax.set(
            xscale="log", yscale="log", xlabel="compute C_J, FLOPs", ylabel="data D_J, env steps of the average task"
        )
        ax.set_title("what compute buys in data: σ rises to the right along each curve")
        _plain_ticks(ax, "x")
        _plain_ticks(ax, "y")
        marks = [
            Line2D([], [], marker="o", color="#444", linestyle="", ms=4.2, label="measured σ"),
            Line2D([], [], marker="*", color="#c2342b", linestyle="", ms=10, label="least C + δ·D"),
            Line2D([], [], color="#444", linestyle=(0, (1, 2)), label="beyond the measured σ"),
        ]
        handles, _ = ax.get_legend_handles_labels()
        ax.add_artist(ax.legend(handles=handles[::-1], loc="upper left", bbox_to_anchor=(1.0, 1.0)))
        ax.legend(handles=marks, loc="lower left", bbox_to_anchor=(1.0, 0.0))
    return fig


def budget(laws: Mapping[str, Any]) -> Figure:
    """σ*(F): the cheapest σ of each return level against its budget, the power law, and what was held out."""
    part = laws["budget"]
    with matplotlib.rc_context(STYLE):
        fig, (ax,) = figure(1, width=6.4, height=4.3)
        points = part["points"]
        x = np.array([p["budget"] for p in points])
        for p in points:
            errors = [[max(0.0, p["utd"] - p["utd_ci95"][0])], [max(0.0, p["utd_ci95"][1] - p["utd"])]]
            face = "white" if p["held_out"] else "#2f6db5"
            ax.errorbar(
                p["budget"], p["utd"], errors, fmt="o", color="#2f6db5", mfc=face, ms=6, elinewidth=1, capsize=2.5
            )
            ax.annotate(
                f"{p['threshold']:g}",
                (p["budget"], p["utd"]),
                (5, 6),
                textcoords="offset points",
                fontsize=8,
                color="#555",
            )
        if part["exponent"] is not None:
            line = np.geomspace(x.min() / 1.3, x.max() * 1.3, 50)
            ax.plot(
                line,
                part["coefficient"] * line ** part["exponent"],
                color="#444",
                label="law, fitted to the filled points",
            )
            spans = np.array([p["predicted_utd_ci95"] for p in points], dtype=float)
            order = np.argsort(x)
            ax.fill_between(
                x[order], spans[order, 0], spans[order, 1], color="#444", alpha=0.1, linewidth=0, label="95 %"
            )
            low, high = part["exponent_ci95"]
            ax.set_title(f"σ*(F) ∝ F{_raised(part['exponent'])}   95 % [{low:.2f}, {high:.2f}]")
        handles, _ = ax.get_legend_handles_labels()
        handles.append(
            Line2D([], [], marker="o", color="#2f6db5", mfc="white", linestyle="", label="held out of the law")
        )
        ax.legend(handles=handles, loc="best")
        ax.set(xscale="log", yscale="log", xlabel=f"budget F = C + {part['delta']:.3g}·D, FLOPs", ylabel="cheapest σ")
        _plain_ticks(ax, "x")
        _plain_ticks(ax, "y")
    return fig


def predicted_measured(laws: Mapping[str, Any]) -> Figure:
    """Predicted against measured data: fitted σ faint, held-out σ with their prediction intervals."""
    with matplotlib.rc_context(STYLE):
        fig, (ax,) = figure(1, width=5.6, height=4.7)
        every = []
        for row in laws["data"]:
            law = Blend.from_json(row)
            for p in row["points"]:
                if p["reached"] and not p["held_out"]:
                    every += [p["data"], law(float(Fraction(p["utd"])))]
                    ax.plot(p["data"], law(float(Fraction(p["utd"]))), "o", color="#b5bbc4", ms=4)
        utds = list(dict.fromkeys(h["utd"] for h in laws["holdout"]))
        for h in laws["holdout"]:
            colour = TASK_COLOURS[1 + utds.index(h["utd"])] if len(utds) < 7 else TASK_COLOURS[1]
            low, high = h["interval95"] if h["interval95"][0] is not None else (h["predicted"], h["predicted"])
            errors = [[max(0.0, h["predicted"] - low)], [max(0.0, high - h["predicted"])]]
            at = h["observed"] if h["reached"] else h["at_least"]
            every += [at, h["predicted"]]
            ax.errorbar(
                at,
                h["predicted"],
                errors,
                fmt="o" if h["reached"] else ">",
                color=colour,
                ms=5,
                elinewidth=1,
                capsize=2,
            )
        ends = np.array([min(every) / 1.3, max(every) * 1.3])
        ax.plot(ends, ends, color="#444", linewidth=1)
        ax.fill_between(ends, ends / 1.1, ends * 1.1, color="#444", alpha=0.08, linewidth=0)
        ax.set(
            xscale="log",
            yscale="log",
            xlim=ends,
            ylim=ends,
            xlabel="measured D_J, env steps",
            ylabel="predicted D_J, env steps",
        )
        ax.set_title("predicted against measured (band: ±10 %)")
        _plain_ticks(ax, "x")
        _plain_ticks(ax, "y")
        handles = [Line2D([], [], marker="o", color="#b5bbc4", linestyle="", ms=4, label="fitted σ, in sample")]
        handles += [
            Line2D(
                [], [], marker="o", color=TASK_COLOURS[1 + k % 7], linestyle="", ms=5, label=f"σ = {u}, not in any fit"
            )
            for k, u in enumerate(utds)
        ]
        ax.legend(handles=handles, loc="upper left")
    return fig


def _sigma_ticks(ax: Axes, utds: Sequence[str]) -> None:
    """Ticks at the σ that were run, labelled as they were typed."""
    exact = sorted({Fraction(u) for u in utds})
    ax.xaxis.set_major_locator(FixedLocator([float(u) for u in exact]))
    ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: _nearest(value, exact)))
    ax.xaxis.set_minor_locator(NullLocator())


def _nearest(value: float, exact: Sequence[Fraction]) -> str:
    return str(min(exact, key=lambda u: abs(float(u) - value)))


def _plain_ticks(ax: Axes, which: str) -> None:
    """Numbers a person reads at once (250, 30k, 1.2M, 0.0003), as dense as it takes to have four of them."""
    axis = ax.yaxis if which == "y" else ax.xaxis
    low, high = ax.get_ylim() if which == "y" else ax.get_xlim()
    powers = 10.0 ** np.arange(np.floor(np.log10(low)), np.ceil(np.log10(high)) + 1)
    for steps in (
        (1,),
        (1, 3),
        (1, 2, 5),
        (1, 1.5, 2, 3, 5, 7),
        (1, 1.2, 1.4, 1.6, 1.8, 2, 2.5, 3, 3.5, 4, 5, 6, 7, 8, 9),
    ):
        ticks = [p * s for p in powers for s in steps if low <= p * s <= high]
        if len(ticks) >= 4:
            break
    axis.set_major_locator(FixedLocator(ticks))
    axis.set_major_formatter(FuncFormatter(lambda value, _: _short(value)))
    axis.set_minor_locator(NullLocator())


def _raised(exponent: float) -> str:
    return f"$^{{{exponent:.2f}}}$"


def _short(value: float) -> str:
    if value >= 1e10:
        mantissa, power = f"{value:.1e}".split("e")
        return f"{float(mantissa):g}·$10^{{{int(power)}}}$"
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:.3g}{letter}"
    return f"{value:.3g}"

"""Best batch size and learning rate against σ, alone and together (figure 5)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import Any

import numpy as np

from analysis.curves import Crossings
from analysis.figures.canvas import (
    LARGE,
    SMALL,
    Key,
    Panel,
    Plate,
    canvas,
    log_axis,
    mark,
    panel,
    raised,
    short,
    sigma_axis,
    styled,
    whisker,
)  # fmt: skip
from analysis.figures.palette import ACCENT, ALARM, FAINT, INK, PAPER, TASKS, ordered, tasks
from analysis.uncertainty import Floats
from rlscale.hparams import read_law

QUANTITIES = {"batch_size": ("B*", "best batch size B*"), "learning_rate": ("η*", "best learning rate η*")}


@styled
def per_task(hparams: Mapping[str, Any], quantity: str, grid: Crossings | None) -> Plate:
    """Best measured values with 95 % intervals, the laws through them, and the grid they were chosen from."""
    symbol, label = QUANTITIES[quantity]
    shared, separate = (hparams["laws"].get(v, {}).get(quantity) for v in ("shared", "separate"))
    rows = hparams["best"]
    utds = list(dict.fromkeys(r["utd"] for r in rows))
    panels = []
    for task in dict.fromkeys(r["task"] for r in rows):
        mine = [r for r in rows if r["task"] == task]
        fig, ax = canvas(SMALL)
        if grid is not None:
            own = grid.cells[grid.cells["task"] == task]
            points = own[["sigma", quantity]].drop_duplicates().to_numpy(float)
            ax.plot(*points.T, "_", color=FAINT, ms=7, mew=0.9, alpha=0.75, zorder=1)
        sigma = np.array([float(Fraction(r["utd"])) for r in mine])
        line = np.geomspace(sigma.min() / 1.15, sigma.max() * 1.15, 40)
        if separate and task in separate["intercept"]:
            ax.plot(line, law_value(separate, task, line), color=ALARM, linewidth=1.2, linestyle=(0, (4, 3)))
        if shared and task in shared["intercept"]:
            ax.plot(line, law_value(shared, task, line), color=ACCENT)
        for r, x in zip(mine, sigma, strict=True):
            whisker(ax, x, r[quantity], r.get(f"{quantity}_ci95"), INK, bool(r.get("reached", True)))
        sigma_axis(ax, utds)
        ax.set_ylabel(symbol)
        log_axis(ax, "y")
        said = ", ".join(f"{short(r[quantity])} at σ={r['utd']}" for r in mine)
        panels.append(panel(fig, str(task), f"{label} of {task}: {said}."))
    keys = [
        Key("best measured, 95 %", INK, "dot"), Key("level missed in some resamples", INK, "ring"),
        Key("law with the shared slope", ACCENT, "line"), Key("law of the task alone", ALARM, "dash"),
    ]  # fmt: skip
    keys += [Key("values in the grid", FAINT, "thin")] if grid is not None else []
    return Plate(panels, keys, "", False)


@styled
def pooled(hparams: Mapping[str, Any], draws: Mapping[str, Floats] | None) -> Plate:
    """All tasks over their own intercept, with the shared law and its 95 % band; and B against η (figure 5)."""
    rows = hparams["best"]
    names = list(dict.fromkeys(r["task"] for r in rows))
    colours = tasks(names)
    panels = []
    for quantity, (symbol, label) in QUANTITIES.items():
        law = hparams["laws"].get("shared", {}).get(quantity)
        if law is None:
            continue
        fig, ax = canvas(LARGE)
        sigma = np.array([float(Fraction(r["utd"])) for r in rows])
        line = np.geomspace(sigma.min() / 1.15, sigma.max() * 1.15, 40)
        if draws is not None and f"shared/{quantity}/slope" in draws and "offset" not in law:
            ax.fill_between(line, *_band(line, law, draws, quantity), color=ACCENT, alpha=0.16, linewidth=0)
        ax.plot(line, line ** law["exponent"], color=ACCENT)
        for r in rows:
            if r["task"] in law["intercept"]:
                t = names.index(r["task"])
                x = float(Fraction(r["utd"])) * 1.02 ** (t - (len(names) - 1) / 2)
                y = (r[quantity] - law.get("offset", {}).get(r["task"], 0.0)) / law["intercept"][r["task"]]
                face = colours[r["task"]] if r.get("reached", True) else PAPER
                ax.plot(x, y, mark(t)[1], color=colours[r["task"]], mfc=face, ms=5, mew=1.1)
        sigma_axis(ax, [r["utd"] for r in rows])
        ax.set_ylabel(f"{symbol} / its value at σ = 1 by the law")
        log_axis(ax, "y")
        low, high = law["exponent_ci95"]
        title = f"{symbol} ∝ σ{raised(law['exponent'])}, 95 % [{low:.2f}, {high:.2f}]".replace("-", "−")
        panels.append(
            panel(fig, title, f"{label} of all tasks against σ, each over its intercept, and the shared law.")
        )
    keys = [Key(name, colours[name], mark(t)[0]) for t, name in enumerate(names)] if len(names) <= len(TASKS) else []
    keys += [Key("shared law, 95 %", ACCENT, "band")]
    caption = "Every task is shifted by its own intercept, so that the one slope they share can be seen."
    return Plate(panels, keys, caption, True)


def _band(line: Floats, law: Mapping[str, Any], draws: Mapping[str, Floats], quantity: str) -> Floats:
    """The 95 % band [2, n] of the law over its intercepts, from joint draws of slope and intercepts [K, T]."""
    names = [str(t) for t in draws[f"{quantity}/tasks"]]
    at = [i for i, t in enumerate(names) if t in law["intercept"]]
    centre = np.log([law["intercept"][names[i]] for i in at])
    shift = (draws[f"shared/{quantity}/log_intercept"][:, at] - centre).mean(axis=1)
    slope = draws[f"shared/{quantity}/slope"][:, at].mean(axis=1)
    return np.asarray(np.exp(np.quantile(shift[:, None] + slope[:, None] * np.log(line), [0.025, 0.975], axis=0)))


@styled
def together(hparams: Mapping[str, Any]) -> Plate | None:
    """Best B against best η: as measured, and what is left of both once task and σ are taken out (figure 5, right)."""
    rows = [r for r in hparams["best"] if all(r.get(q) for q in QUANTITIES)]
    if len(rows) < 4:
        return None
    utds = sorted({r["utd"] for r in rows}, key=Fraction)
    colours = dict(zip(utds, ordered(len(utds), "sigma"), strict=True))
    raw = np.log([[r[q] for q in QUANTITIES] for r in rows])
    panels: list[Panel] = []
    for key, values, title, labels in (
        ("measured", np.exp(raw), "as measured", ("best batch size B*", "best learning rate η*")),
        ("given_sigma", np.exp(residuals(hparams, rows)), "over the shared laws", ("B* / law", "η* / law")),
    ):
        if not np.isfinite(values).all() or np.allclose(values, values[0]):
            continue
        fig, ax = canvas(LARGE)
        for (x, y), r in zip(values, rows, strict=True):
            ax.plot(x, y, "o", color=colours[r["utd"]], ms=6, alpha=0.85, mec=PAPER, mew=0.6)
        ax.set(xlabel=labels[0], ylabel=labels[1])
        log_axis(ax, "x")
        log_axis(ax, "y")
        told = correlation(np.log(values))
        ends = ((hparams.get("correlation") or {}).get(key) or {}).get("ci95")
        between = f", 95 % [{ends[0]:+.2f}, {ends[1]:+.2f}]" if ends and None not in ends else ""
        words = f"{title}: r = {told:+.2f}{between}".replace("-", "−")
        panels.append(panel(fig, words, f"{labels[1]} against {labels[0]}; {words}."))
    caption = (
        "r is Pearson's correlation of the logarithms. Right: task and σ taken out by the shared laws, so that what is "
        "left tells whether a cell that wants a larger batch also wants another learning rate."
    )
    return Plate(panels, [Key(f"σ = {u}", colours[u], "dot") for u in utds], caption, True)


def law_value(law: Mapping[str, Any], task: str, sigma: Floats) -> Floats:
    """A law of hparams.json for one task at sigma [n]."""
    read = read_law(law)
    return np.array([read(float(s), task) for s in sigma])


def residuals(hparams: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> Floats:
    """ln(best / shared law) of B and η [n, 2]; NaN where a task has no law."""
    laws = hparams["laws"].get("shared", {})
    out = np.full((len(rows), 2), np.nan)
    for i, r in enumerate(rows):
        for k, quantity in enumerate(QUANTITIES):
            law = laws.get(quantity)
            if law and r["task"] in law["intercept"]:
                out[i, k] = np.log(r[quantity] / read_law(law)(Fraction(r["utd"]), r["task"]))
    return out


def correlation(pairs: Floats) -> float:
    """Pearson's r of the two columns [n, 2]; NaN where one of them does not vary."""
    if np.ptp(pairs, axis=0).min() < 1e-12:
        return float("nan")
    return float(np.asarray(np.corrcoef(pairs.T))[0, 1])

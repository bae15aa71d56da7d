"""The chapters with figures, and the tables behind them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from analysis import show
from analysis.blend import Draws
from analysis.budget import Frontier
from analysis.compare import average_task, savings
from analysis.curves import Crossings
from analysis.figures import checks, grid, laws, settings, tradeoff
from analysis.page.checklist import NAMES
from analysis.page.headline import predictions
from analysis.page.parts import Figures, fold, para
from analysis.uncertainty import Floats


def best_settings(
    figures: Figures, hparams: Mapping[str, Any], draws: Mapping[str, Floats] | None, crossed: Crossings | None
) -> list[str]:
    rows = [
        [b["task"], b["utd"], b["batch_size"], show.span(b.get("batch_size_ci95")), b["learning_rate"],
         show.span(b.get("learning_rate_ci95")), f"{b['threshold']:g}" if "threshold" in b else "–",
         bool(b.get("reached", True))]
        for b in hparams["best"]
    ]  # fmt: skip
    proposed: dict[tuple[str, str], dict[str, list[str]]] = {}
    for p in hparams.get("proposals", []):
        proposed.setdefault((p["task"], p["utd"]), {})[p["variant"]] = [
            str(p["batch_size"]),
            show.number(p["learning_rate"]),
        ]
    variants = list(dict.fromkeys(p["variant"] for p in hparams.get("proposals", [])))
    settled = [[*key, *(word for v in variants for word in cell.get(v, ["–", "–"]))] for key, cell in proposed.items()]
    return [
        figures.plate(settings.pooled(hparams, draws)),
        figures.plate(settings.per_task(hparams, "batch_size", crossed), "Batch size, task by task"),
        figures.plate(settings.per_task(hparams, "learning_rate", crossed), "Learning rate, task by task"),
        figures.plate(grid.grid(crossed, hparams), "The whole grid") if crossed is not None else "",
        figures.plate(settings.together(hparams), "Do batch size and learning rate move together?"),
        fold("Best measured values", ["task", "σ", "B*", "95 %", "η*", "95 %", "level", "reached always"], rows),
        fold(
            "Exponents and intercepts",
            ["quantity", "variant", "task", "exponent", "95 %", "intercept", "95 %"],
            parameters(hparams),
        ),
        fold("Proposed settings", ["task", "σ", *(f"{v} {q}" for v in variants for q in "Bη")], settled),
    ]


def parameters(hparams: Mapping[str, Any]) -> list[list[Any]]:
    return [
        [quantity.replace("_", " "), variant, task,
         law["exponent"] if variant == "shared" else law["exponent"][task],
         show.span(law["exponent_ci95"] if variant == "shared" else law["exponent_ci95"][task]),
         value, show.span(law.get("intercept_ci95", {}).get(task))]
        for variant, pair in hparams["laws"].items() if variant in ("shared", "separate")
        for quantity, law in pair.items() for task, value in law["intercept"].items()
    ]  # fmt: skip


def data_and_compute(
    figures: Figures,
    fit: Mapping[str, Any],
    draws: Draws | None,
    frontiers: Sequence[Frontier],
    crossed: Crossings | None,
) -> list[str]:
    rows = [
        [f"{d['threshold']:g}", d["d_min"], show.span(d["ci95"]["d_min"]), d["beta"], show.span(d["ci95"]["beta"]),
         d["alpha"], show.span(d["ci95"]["alpha"]), ", ".join(NAMES.get(n, n) for n in d.get("at_bound", [])) or "–"]
        for d in fit["data"]
    ]  # fmt: skip
    points = [
        [f"{d['threshold']:g}", p["utd"], p["data"] if p["reached"] else f"> {show.number(p['data'])}",
         show.span(p["data_ci95"]),
         p.get("law"), show.span(p.get("law_ci95")), "held out" if p["held_out"] else "fitted"]
        for d in fit["data"] for p in d["points"]
    ]  # fmt: skip
    names = ("d_min", "beta", "alpha")
    alone = [
        [t["task"], f"{t['threshold']:g}", *(x for n in names for x in (t[n], show.span(t["ci95"][n])))]
        for t in fit.get("tasks", [])
    ]
    source = fit["compute"].get("batch_size", {}).get("source")
    return [
        figures.plate(laws.data_and_compute(fit, frontiers)),
        para(f"Batch sizes in C: {source}." if source else "", "faint"),
        figures.plate(laws.levels(fit, draws), "Level by level"),
        figures.plate(laws.tasks(fit, crossed), "Task by task") if crossed is not None else "",
        fold(
            "Parameters of D = D_min · (1 + (β/σ)^α)",
            ["J", "D_min", "95 %", "β", "95 %", "α", "95 %", "at a bound"],
            rows,
        ),
        fold("The law of each task by itself", ["task", "J", "D_min", "95 %", "β", "95 %", "α", "95 %"], alone),
        fold("Measured points and the law there", ["J", "σ", "D", "95 %", "law", "95 %", "role"], points),
    ]


def frontier(
    figures: Figures, fit: Mapping[str, Any], frontiers: Sequence[Frontier], base: Crossings | None
) -> list[str]:
    """The iso-performance curves, beside constant settings where the records hold them."""
    lines = []
    for row in _some(fit["data"]) if base is not None else []:
        assert base is not None
        cost, data = average_task(base, row, float(fit["compute"]["n_params"]))
        if len(cost) > 1:
            lines.append((row["threshold"], cost, data))
    return [figures.plate(tradeoff.frontier(fit, frontiers, lines))]


def _some(rows: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """At most three of the levels, spread: twice as many lines in one panel cannot be told apart."""
    at = np.unique(np.linspace(0, len(rows) - 1, 3).round().astype(int))
    return [rows[i] for i in at]


def budget(figures: Figures, fit: Mapping[str, Any]) -> list[str]:
    points = (fit.get("budget") or {}).get("points", [])
    rows = [
        [f"{p['threshold']:g}", p["budget"], p["utd"], show.span(p.get("utd_ci95")), p.get("predicted_utd"),
         show.span(p.get("predicted_utd_ci95")), p["data"], p["compute"],
         f"{p['data_share']:.0%}" if p.get("data_share") is not None else "–",
         ", ".join(w for w, so in (("held out", p["held_out"]), ("end of range", p.get("at_end"))) if so) or "fitted"]
        for p in points
    ]  # fmt: skip
    columns = ["J", "F", "σ*", "95 %", "σ*(F)", "95 %", "D", "C", "δ·D / F", "role"]
    return [figures.plate(tradeoff.budget(fit)), fold("The optimum of each level", columns, rows)]


def extrapolation(figures: Figures, fit: Mapping[str, Any]) -> list[str]:
    return [predictions(fit), figures.plate(checks.predicted(fit)) if fit.get("holdout") else ""]


def against_constant(figures: Figures, base: Crossings | None, fitted: Crossings | None, pair: str) -> list[str]:
    """Data with constant settings over data with fitted ones, at the highest level that gives at least three σ."""
    if base is None or fitted is None or not len(base.cells):
        return [
            para(
                "Nothing to compare: that takes a grid (analysis.hparams) in which the best pair of one σ was "
                "run at others too."
            )
        ]
    for threshold in base.thresholds[::-1]:
        found = savings(base, fitted, float(threshold))
        if len(found) >= min(3, base.cells["utd"].nunique()):
            break
    else:
        return [para("No level is reached both ways at enough σ to compare.")]
    rows = [[s.utd, s.ratio, show.span(s.interval), len(s.tasks), ", ".join(s.missed) or "–"] for s in found]
    what = f"Above 1 the fitted settings need less data. Constant settings: {pair}. One logging point is noise."
    columns = ["σ", "D constant / D fitted", "95 %", "tasks", "reached with fitted settings only"]
    return [figures.plate(checks.saving(found, float(threshold), what)), fold("The same as a table", columns, rows)]

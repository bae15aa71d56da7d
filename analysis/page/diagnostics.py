"""The chapter of diagnostics.json: what diagnostics logged, drawn and in numbers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from analysis import show
from analysis.figures.diagnostics import noise, overfitting, slopes
from analysis.page.parts import Figures, esc, fold, para


def diagnostics(figures: Figures, looks: Mapping[str, Any], best: Mapping[tuple[str, str], float]) -> list[str]:
    """Plates and tables; `best` is (task, σ) → best batch size, where a fit knows it."""
    vertices = [
        [r["task"], r["utd"], r["width"], kind, r[kind]["q"][2], r[kind]["vertex"], show.span(r[kind]["vertex_ci95"])]
        for r in looks["overfitting"] for kind in ("training", "validation") if r[kind]["q"]
    ]  # fmt: skip
    lines = [
        [p["task"], p["utd"], which, fixed, value]
        for p in looks["passive"] for which in ("main", "passive") for fixed, value in p[which]["slopes"].items()
    ]  # fmt: skip
    averages = [
        [p["task"], p["utd"], which, p[which]["average"], show.span(p[which]["average_ci95"])]
        for p in looks["passive"] for which in ("main", "passive") if p[which]["average"] is not None
    ]  # fmt: skip
    exponents = [[r["task"], r["utd"], r["exponent"]] for r in looks["largest_batch"] if r["exponent"] is not None]
    provenance = looks["provenance"]
    asked = [f"select.{key}={value}" for key, value in provenance["select"].items() if value is not None]
    command = " ".join(["python -m analysis.diagnostics", f"name={looks['name']}", *asked])
    return [
        figures.plate(overfitting(looks["overfitting"]), "Losses against batch size"),
        fold("Parabolas of losses", ["task", "σ", "width", "loss", "q2", "vertex", "95 %"], vertices),
        fold("Largest batch as a power of width", ["task", "σ", "exponent"], exponents),
        figures.plate(slopes(looks["passive"]), "Passive critics"),
        fold("Average slopes", ["task", "σ", "by the width of", "slope", "95 %"], averages),
        fold("Slope of each line", ["task", "σ", "by the width of", "the other width", "slope"], lines),
        figures.plate(noise(looks["noise"], best), "Gradient noise"),
        para(f"From {provenance['runs']} runs: <code>{esc(command)}</code>", "faint"),
    ]

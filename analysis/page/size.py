"""The page of a fit with model size: what was found, its figures for each task, and how far to trust it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from analysis import show
from analysis.figures import size
from analysis.fit_files import Fit
from analysis.page.book import FRAME, reproduce
from analysis.page.diagnostics import diagnostics
from analysis.page.parts import Figures, anchor, esc, para, section, table
from analysis.page.runs import left_out, remarks
from analysis.page.style import css
from analysis.size_fitted import SizeFitted, Subject
from analysis.size_laws import AVERAGE, DATA


def size_book(fit: SizeFitted, looks: Mapping[str, Any] | None) -> str:
    """The page: chapters for the average task and each task, then what diagnostics logged (`looks`: diagnostics.json,
    if there is one), what was left out, notes, and the commands.
    """
    figures = Figures()
    parts = Fit(None, fit.laws, None, None)
    chapters = {
        "Laws": [laws_table(fit), *(para(esc(why), "warn") for why in fit.without)],
        "Predicted and obtained": held_out(figures, fit.laws),
    }
    for task, subject in fit.subjects.items():
        chapters["The average task" if task == AVERAGE else task] = chapter(figures, fit, subject)
    chapters |= {
        "Diagnostics": diagnostics(figures, looks, {}) if looks else [],
        "What was left out": left_out(parts.parts), "Notes of the fit": remarks(parts.parts),
        "How to reproduce": reproduce(fit.name, parts),
    }  # fmt: skip
    chapters = {title: body for title, body in chapters.items() if any(body)}
    nav = "".join(f'<li><a href="#{anchor(title)}">{esc(title)}</a></li>' for title in chapters)
    body = "\n".join(section(title, lines) for title, lines in chapters.items())
    name = esc(fit.name)
    return FRAME.format(title=f"{name} · rlscale", style=css(body), name=name, lead=lead(fit), nav=nav, body=body)


def lead(fit: SizeFitted) -> str:
    spec = fit.laws["provenance"]["spec"]
    return para(
        f"Asked: for {esc(spec['algorithm']['name'])} on {esc(spec['benchmark']['name'])} "
        f"({len(fit.laws['tasks'])} tasks), how many env steps it takes to reach a return level at each σ (updates per "
        "env step) and model size N (parameters of the critics), and which of both is cheapest."
    ) + para("In brackets: 95 % intervals.", "faint")


def laws_table(fit: SizeFitted) -> str:
    """Every subject's law at its highest level."""
    rows = []
    for task, subject in fit.subjects.items():
        level = max(subject.laws)
        row = rows_of(fit.laws, task)[level]
        ends = row.get("ci95") or {}
        rows.append([task, f"{level:g}", *(f"{show.number(row[k])} {show.span(ends.get(k))}" for k in DATA)])
    formula = "D(σ, N) = c · (1 + (a/σ)^alpha + (b/N)^beta), env steps, at the highest level"
    return table(formula, ["task", "J", *DATA], rows)


def rows_of(laws: Mapping[str, Any], task: str) -> dict[float, Mapping[str, Any]]:
    """laws.json's rows of one subject by threshold."""
    return {float(row["threshold"]): row for row in laws["data"] if row["task"] == task}


def chapter(figures: Figures, fit: SizeFitted, subject: Subject) -> list[str]:
    """One subject's figures."""
    rows = rows_of(fit.laws, subject.task)
    known = [rows[level] for level in sorted(subject.laws)]
    budget = (fit.laws["budget"] or {}).get(subject.task)
    body = [
        figures.plate(size.data(subject, known), "Data against σ at each model size"),
        figures.plate(size.best_settings(subject, budget), "Where the best settings lie"),
        figures.plate(size.budget_laws(budget), "The cheapest setting for a budget") if budget else "",
        figures.plate(size.batch_sizes(subject, known), "Batch size"),
    ]
    notes = [] if budget is None else budget["notes"]
    return [part for part in body if part] + [para(esc(note), "faint") for note in notes]


def held_out(figures: Figures, laws: Mapping[str, Any]) -> list[str]:
    """How the laws predicted settings that they had not seen: errors by split, a figure, the highest level's rows."""
    rows = laws["holdout"]
    if not rows:
        return [para("No setting was held out of this fit, so nothing here tests these laws.")]
    reached = [h for h in rows if h["reached"] and h["interval95"][0] is not None]
    inside = sum(h["interval95"][0] <= h["observed"] <= h["interval95"][1] for h in reached)
    errors = [
        [split, *(_share(e["tasks"].get(t)) for t in laws["tasks"]), _share(e["mean"]), _share(e["published"])]
        for split, e in laws["errors"].items()
    ]
    heads = ["runs for", *laws["tasks"], "mean", "the follow-up's text"]
    body = [table("Mean relative error of D over settings and levels", heads, errors)]
    if reached:
        body.append(para(f"{inside} of {len(reached)} measured values lie inside their 95 % intervals."))
    body.append(figures.plate(size.predicted(rows, laws["tasks"]), "Predicted against measured"))
    last = {task: max(h["threshold"] for h in rows if h["task"] == task) for task in {h["task"] for h in rows}}
    shown = [
        [h["task"], h["utd"], h["width"], h["n_params"], h["split"], h["predicted"], show.span(h["interval95"]),
         h["observed"] if h["reached"] else f"> {show.number(h['at_least'])}", _share(h["signed_error"])]
        for h in rows if h["threshold"] == last[h["task"]]
    ]  # fmt: skip
    heads = ["task", "σ", "width", "N", "runs for", "predicted", "95 %", "measured", "error"]
    return [*body, table("Settings that no fit saw, at the highest level", heads, shown)]


def _share(value: float | None) -> str:
    return "–" if value is None else f"{value:.1%}"

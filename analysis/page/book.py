"""The page as a whole: chapters in order, and the frame around them."""

from __future__ import annotations

import importlib.metadata
import platform
from collections.abc import Mapping
from typing import Any

import rlscale
from analysis.figures.curves import learning_curves
from analysis.figures.training import training
from analysis.fit_files import Fit
from analysis.fitted import frontiers
from analysis.page import evidence, runs
from analysis.page.checklist import checklist
from analysis.page.diagnostics import diagnostics
from analysis.page.headline import headline
from analysis.page.parts import Figures, anchor, esc, para, section, table
from analysis.page.sources import Sources
from analysis.page.style import css

FRAME = """<!doctype html>
<html lang="en">
<head><meta charset="utf-8"><title>{title}</title>
<meta name="viewport" content="width=device-width, initial-scale=1"><meta name="color-scheme" content="light dark">
<style>{style}</style></head>
<body>
<header><h1>{name}</h1>{lead}<nav aria-label="Contents"><ul>{nav}</ul></nav></header>
<main>
{body}
</main>
</body></html>
"""
PACKAGES = ("numpy", "scipy", "pandas", "matplotlib")


def book(name: str, fit: Fit, found: Sources | None, absent: str, looks: Mapping[str, Any] | None) -> str:
    """The page. `found` is None where the runs could not be read; `absent` then says why. `looks`: diagnostics.json."""
    figures = Figures()
    if not fit.parts:
        return framed(name, "", {"Diagnostics": diagnostics(figures, looks or {}, {})})
    chapters = {
        "Predicted and obtained": evidence.extrapolation(figures, fit.laws) if fit.laws else [],
        "What was run": ran(fit, found, absent),
        "Best batch size and learning rate": settings(figures, fit, found),
        "Data and compute": data(figures, fit, found),
        "What compute buys": tradeoff(figures, fit, found),
        "Best σ for a budget": evidence.budget(figures, fit.laws) if fit.laws else [],
        "Against constant settings": constant(figures, fit, found),
        "Learning curves": [figures.plate(learning_curves(found.fitted))] if found else [],
        "Inside training": inside(figures, fit, found),
        "Diagnostics": diagnostics(figures, looks, best_batches(fit)) if looks else [],
        "What was left out": runs.left_out(fit.parts),
        "Notes of the fit": runs.remarks(fit.parts),
        "Checklist": checklist(fit.hparams, fit.laws, found.origins if found else {}),
        "How to reproduce": reproduce(name, fit),
    }
    return framed(name, "\n".join(headline(fit.hparams, fit.laws)), chapters)


def framed(name: str, lead: str, chapters: Mapping[str, list[str]]) -> str:
    """The frame around those chapters that are not empty."""
    chapters = {title: body for title, body in chapters.items() if any(body)}
    nav = "".join(f'<li><a href="#{anchor(title)}">{esc(title)}</a></li>' for title in chapters)
    body = "\n".join(section(title, parts) for title, parts in chapters.items())
    return FRAME.format(title=f"{esc(name)} · rlscale", style=css(body), name=esc(name), lead=lead, nav=nav, body=body)


def ran(fit: Fit, found: Sources | None, absent: str) -> list[str]:
    if found is None:
        return [
            para(f"The runs could not be read here, so no curve is drawn and no digest taken: {esc(absent)}.", "warn")
        ]
    body: list[str] = []
    shown: list[Any] = []
    for part, study in found.studies.items():
        if any(study is other for other in shown):
            continue
        shown.append(study)
        parts = " and ".join(f"analysis.{p}" for p, s in found.studies.items() if s is study)
        body += runs.what_was_run(f"Runs behind {parts}", study.runs, study.curves)
        body += runs.came_from(found.origins[part], fit.parts[part]["provenance"].get("runs_sha256"))
    return body


def settings(figures: Figures, fit: Fit, found: Sources | None) -> list[str]:
    if fit.hparams is None:
        return []
    return evidence.best_settings(figures, fit.hparams, fit.hparams_draws, found.grid if found else None)


def data(figures: Figures, fit: Fit, found: Sources | None) -> list[str]:
    if fit.laws is None:
        return []
    lines = frontiers(fit.laws, fit.laws.get("extend", 1.0))
    return evidence.data_and_compute(figures, fit.laws, fit.laws_draws, lines, found.fitted if found else None)


def tradeoff(figures: Figures, fit: Fit, found: Sources | None) -> list[str]:
    if fit.laws is None:
        return []
    lines = frontiers(fit.laws, fit.laws.get("extend", 1.0))
    return evidence.frontier(figures, fit.laws, lines, found.base if found else None)


def constant(figures: Figures, fit: Fit, found: Sources | None) -> list[str]:
    if found is None:
        return []
    base = (fit.hparams or {}).get("baseline") or {}
    return evidence.against_constant(
        figures, found.base, found.fitted, f"each task's best measured pair at σ = {base.get('utd', '–')}"
    )


def inside(figures: Figures, fit: Fit, found: Sources | None) -> list[str]:
    if found is None:
        return []
    plate = figures.plate(training(found.inside, best_batches(fit))) if found.inside is not None else ""
    if plate:
        return [plate]
    return [
        para(
            "Overfitting, critic norm and critical batch size (figures 4, 8 and 9) are left out: the runs did "
            "not log them."
        )
    ]


def best_batches(fit: Fit) -> dict[tuple[str, str], float]:
    """(task, σ) → best measured batch size."""
    return {(b["task"], b["utd"]): float(b["batch_size"]) for b in (fit.hparams or {}).get("best", [])}


def reproduce(name: str, fit: Fit) -> list[str]:
    commands = "\n".join(
        [*(one["provenance"]["command"] for one in fit.parts.values()), f"python -m analysis.report name={name}"]
    )
    versions: list[list[Any]] = [["rlscale", rlscale.__version__], ["python", platform.python_version()]]
    versions += [[package, importlib.metadata.version(package)] for package in PACKAGES]
    stored: Mapping[str, Any] = next(iter(fit.parts.values()))["provenance"].get("versions", {})
    columns = ["package", "of this page", *(["of the fit"] if stored else [])]
    rows = [[*row, str(stored.get(row[0], "–"))] if stored else row for row in versions]
    return [
        para("In a study that holds the runs (RLSCALE_STUDY):"),
        f"<pre><code>{esc(commands)}</code></pre>",
        table("Versions", columns, [[str(c) for c in row] for row in rows]),
    ]

"""What was run, where it came from, and what was left out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import Any

import pandas as pd

from analysis.figures.canvas import short
from analysis.origin import Origin
from analysis.page.parts import esc, facts, fold, notes, para, table

FEW = 8


def what_was_run(title: str, runs: pd.DataFrame, curves: pd.DataFrame) -> list[str]:
    """One row a task: σ, B, η, seeds, env steps and status."""
    last = curves.groupby("run_id")["env_step"].max()
    rows = []
    for task, mine in runs.groupby("task", sort=True):
        seeds = mine.groupby(["utd", "batch_size", "learning_rate"]).size()
        status = Counter(mine["status"])
        steps = last.reindex(mine["run_id"]).dropna()
        rows.append(
            [str(task), listed([str(u) for u in sorted(map(Fraction, mine["utd"].unique()))]),
             listed([str(b) for b in sorted(mine["batch_size"].unique())]),
             listed([short(r) for r in sorted(mine["learning_rate"].unique())]), len(seeds), ends(seeds),
             ends(steps), ", ".join(f"{n} {word}" for word, n in sorted(status.items())), len(mine)]
        )  # fmt: skip
    columns = ["task", "σ", "B", "η", "settings", "seeds each", "env steps", "status", "runs"]
    return [table(title, columns, rows)]


def listed(words: Sequence[str]) -> str:
    return ", ".join(words) if len(words) <= FEW else f"{words[0]} … {words[-1]} ({len(words)} values)"


def ends(values: Any) -> str:
    low, high = (int(v) for v in (min(values), max(values)))
    return f"{low:,}" if low == high else f"{low:,}–{high:,}"


def came_from(origin: Origin, asked: str | None) -> list[str]:
    """Sources, digests and versions of the records; a warning where they are not those that were fitted."""
    body = []
    if asked is not None and asked != origin.runs_sha256:
        body.append(
            para(
                "The records in the study are not those that this fit was made from: what is drawn from curves "
                "may differ.",
                "warn",
            )
        )
    found = [[name, kind, file, count, sha] for (name, kind, file, sha), count in origin.sources.items()]
    body.append(table("Where the runs come from", ["collection", "kind", "file", "runs", "SHA-256 of the file"], found))
    rows = [
        ["runs", str(origin.runs)],
        ["SHA-256 over run ids", origin.runs_sha256],
        ["SHA-256 over curve.csv of all runs", origin.curves_sha256],
        ["columns logged", ", ".join(origin.columns)],
        ["written by", listed(origin.versions) if origin.versions else "not recorded"],
        ["devices", listed(origin.devices) if origin.devices else "not recorded"],
    ]
    body.append(facts(rows))
    return body


def left_out(parts: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Every row that a fit left out, after a count by reason."""
    body = []
    for part, fit in parts.items():
        dropped = fit.get("dropped", [])
        if not dropped:
            body.append(para(f"analysis.{part} left nothing out."))
            continue
        counts = Counter(d["reason"] for d in dropped)
        body.append(
            table(
                f"Left out by analysis.{part}, by reason", ["reason", "rows"], [list(c) for c in counts.most_common(12)]
            )
        )
        body.append(
            fold(
                f"every row left out by analysis.{part}",
                ["what", "reason"],
                [[d["what"], d["reason"]] for d in dropped],
            )
        )
    return body


def remarks(parts: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """The notes that the fits made about themselves."""
    body = []
    for part, fit in parts.items():
        if fit.get("notes"):
            body.append(f"<h3>analysis.{esc(part)}</h3>{notes(fit['notes'])}")
    return body

"""What was asked, what was found in one line each, and how the predictions held."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import Any

import numpy as np

from analysis import show
from analysis.figures.canvas import short
from analysis.page.parts import esc, exponent, para, span, table

SYMBOLS = {"batch_size": "B*", "learning_rate": "η*"}


def headline(hparams: Mapping[str, Any] | None, laws: Mapping[str, Any] | None) -> list[str]:
    """The question, the laws with their intervals, and the verdict."""
    first = laws or hparams
    assert first is not None
    lines = [*settings_lines(hparams), *laws_lines(laws)]
    listed = "".join(f"<dt>{what}</dt><dd>{said}</dd>" for what, said in lines)
    return [para(question(first, hparams, laws)), f'<dl class="laws">{listed}</dl>',
            para("In brackets: 95 % intervals.", "faint")]  # fmt: skip


def question(first: Mapping[str, Any], hparams: Mapping[str, Any] | None, laws: Mapping[str, Any] | None) -> str:
    spec, p = first["provenance"]["spec"], first["provenance"]
    asked = []
    if hparams:
        asked.append("which batch size and learning rate are best at each σ (updates per env step)")
    if laws:
        asked.append(
            "how many env steps and how much compute it takes to reach a return level, and which σ is cheapest"
        )
    tasks = (
        sorted({b["task"] for b in hparams["best"]})
        if hparams
        else sorted({t for d in first["data"] for t in d["scale"]})
    )
    return (
        f"Asked: for {esc(spec['algorithm']['name'])} on {esc(spec['benchmark']['name'])} "
        f"({len(tasks)} task{'s' if len(tasks) != 1 else ''}), {'; and '.join(asked)}. "
        f"Return is {esc(p['metric'].replace('_', ' '))}, where 0 and 1000 are floor and ceiling of the reference "
        f"“{esc(p['reference']['name'])}”."
    )


def settings_lines(hparams: Mapping[str, Any] | None) -> list[tuple[str, str]]:
    if hparams is None:
        return []
    lines = []
    for quantity in ("batch_size", "learning_rate"):
        law = hparams["laws"].get("shared", {}).get(quantity)
        if law:
            values = list(law["intercept"].values())
            ends = f"{short(min(values))} to {short(max(values))}" if len(values) > 1 else short(values[0])
            symbol = SYMBOLS[quantity]
            plus = "c + " if "offset" in law else ""
            said = f'<span class="law">{symbol} = {plus}b · σ{exponent(law["exponent"])}</span> '
            said += span(law["exponent_ci95"], ".2")
            what = "best batch size" if quantity == "batch_size" else "best learning rate"
            lines.append((what, f"{said}<br><span class='faint'>b by task, {ends}</span>"))
    return lines


def laws_lines(laws: Mapping[str, Any] | None) -> list[tuple[str, str]]:
    if laws is None:
        return []
    top = laws["data"][-1]
    ci = top.get("ci95", {})
    members = top.get("members", [])
    said = (
        f'<span class="law">D = {show.number(top["d_min"])} · (1 + ({top["beta"]:.3g}/σ)'
        f"<sup>{top['alpha']:.2f}</sup>) env steps</span> until J = {top['threshold']:g}<br>"
        f"D<sub>min</sub> {span(ci.get('d_min'))}, β {span(ci.get('beta'))}, α {span(ci.get('alpha'))}"
    )
    if [m["law"] for m in members] not in ([], ["shifted_power"]):
        mixed = " + ".join(f"{m['weight']:.0%} {m['law'].replace('_', ' ')}" for m in members)
        said += f"<br><span class='faint'>predictions come from {esc(mixed)}; above is the paper's form alone</span>"
    compute, budget = laws["compute"], laws.get("budget") or {}
    lines = [("data", said)]
    size = show.number(float(compute["n_params"]))
    formula = f'<span class="law">C = {esc(compute["formula"])} FLOPs</span> with N = {size}'
    lines.append(("compute", formula))
    if budget.get("exponent") is not None:
        stuck = sum(bool(p.get("at_end")) for p in budget["points"])
        star = (
            f'<span class="law">σ* ∝ F{exponent(budget["exponent"])}</span> {span(budget.get("exponent_ci95"), ".2f")}'
        )
        star += f" for F = C + {short(budget['delta'])} · D"
        if stuck:
            star += (
                f"<br><span class='no'>{stuck} of {len(budget['points'])} optima are ends of the searched range</span>"
            )
        lines.append(("best σ for a budget", star))
    lines.append(("prediction", verdict(laws.get("holdout", []))))
    return lines


def verdict(held: Sequence[Mapping[str, Any]]) -> str:
    """How the predictions of σ that no fit saw held."""
    known = [h for h in held if h["reached"]]
    if not held:
        return "none was made: no σ was held out (holdout=[…] of analysis.laws), so nothing below tests these laws"
    if not known:
        return "made, but no held-out point reached its level"
    inside = sum(holds(h) == "yes" for h in held)
    errors = np.array([h["signed_error"] for h in known])
    utds = sorted({h["utd"] for h in held}, key=Fraction)
    far = [h["signed_error"] for h in known if h["utd"] == utds[-1]]
    said = (
        f"at σ = {', '.join(utds)}, which no fit saw: {inside} of {len(held)} measurements lie inside their 95 "
        "% intervals; "
        f"median absolute error {np.median(np.abs(errors)):.0%}"
    )
    if far:
        said += f", and {np.median(np.abs(far)):.0%} at σ = {utds[-1]} (signed {np.median(far):+.0%})".replace("-", "−")
    return said


def holds(row: Mapping[str, Any]) -> str:
    """Whether a prediction's interval held what was measured: yes, no, or – where it cannot be told."""
    low, high = row["interval95"]
    if low is None or high is None:
        return "–"
    if row["reached"]:
        return "yes" if low <= row["observed"] <= high else "no"
    return "yes" if high >= row["at_least"] else "no"


def predictions(laws: Mapping[str, Any]) -> str:
    """The table predicted / obtained / interval / signed error."""
    rows = [
        [f"{h['threshold']:g}", h["utd"], h["predicted"], show.span(h["interval95"]),
         h["observed"] if h["reached"] else f"> {show.number(h['at_least'])}",
         f"{h['signed_error']:+.1%}".replace("-", "−") if h["reached"] else "–", holds(h),
         "extrapolation" if h["extrapolation"] else "interpolation"]
        for h in laws.get("holdout", [])
    ]  # fmt: skip
    if not rows:
        return para(
            "No σ was held out of this fit, so there is nothing to compare; holdout=[8,16] of analysis.laws does it."
        )
    columns = ["J", "σ", "predicted D", "95 %", "obtained D", "signed error", "inside", "kind"]
    return table("Env steps predicted for σ that no fit saw, and what was then measured", columns, rows)

"""`analysis.plan` where the laws have model size: the best (σ, N) of every task and of the average one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from analysis import show
from analysis.question import Question
from analysis.size_answer import answer, used_rates
from analysis.size_budget import widened
from analysis.size_fitted import SizeFitted
from analysis.size_question import best
from rlscale.typed import Mistake

Bound = Literal["compute", "data", "budget"]


def planned(
    fit: SizeFitted, bound: Bound, limit: float, target: float | None, delta: float | None, extend: float
) -> dict[str, Any]:
    """The answers of all tasks, ready for JSON. `delta` None: what the fit took for each.

    A task that cannot keep the bound is in `unanswered` with the sentence that says so. Raises Mistake where none can.
    """
    threshold = None if target is None else fit.threshold(target)
    rates = used_rates(fit)
    found: dict[str, Any] = {}
    unanswered: dict[str, str] = {}
    deltas = {task: fit.delta(task) if delta is None else delta for task in fit.subjects}
    for task, subject in fit.subjects.items():
        price = deltas[task]
        if price is None and bound == "budget":
            raise Mistake("delta is not set and the fit has none: give what an env step costs, such as delta=1e11")
        question = Question(bound, limit, target, price or 0.0)
        box = widened(subject.trained, extend)
        try:
            level, setting = best(question, subject, threshold, box)
        except Mistake as mistake:
            unanswered[task] = str(mistake)
            continue
        draws = subject.drawn(level, box)
        frontiers = show.tracked(draws, len(draws), f"draws of {task}")
        found[task] = {"delta": price} | answer(
            fit, subject, question, level, setting, box, frontiers, rates
        )  # fmt: skip
        if price is None:  # without a price of env steps there is no F
            found[task] |= {"budget": None, "budget_ci95": None, "data_share": None}
    if not found:
        raise Mistake(next(iter(unanswered.values())))
    prices = {price for price in deltas.values() if price is not None}
    words = f"the highest return for F = C + δ·D ≤ {limit:g}"
    if bound != "budget" or len(prices) == 1:
        words = Question(bound, limit, target, next(iter(prices), 0.0)).words()
    return {
        "question": words,
        "name": fit.name, "size": True, "bound": bound, "limit": limit, "target": target, "extend": extend,
        "answers": found, "unanswered": unanswered, "without": list(fit.without),
    }  # fmt: skip


def print_answers(found: Mapping[str, Any], fit: SizeFitted) -> None:
    """The answers as tables."""
    answers = found["answers"]
    show.say(f"question: {found['question']}")
    show.say(f"laws:     {fit.name}, D(σ, N) fitted on σ = {', '.join(fit.laws['fit_utds'])}")
    rows = []
    for task, a in answers.items():
        rows.append([task, f"{a['level']:g}", a["utd"], show.span(a["utd_ci95"]), a["n_params"],
                     show.span(a["n_params_ci95"]), a["batch_size"]])  # fmt: skip
    show.say()
    show.table("answer: the best setting", ["task", "J", "σ*", "95 %", "N*", "95 %", "B*"], rows)
    rows = [
        [task, a["data"], show.span(a["data_ci95"]), a["compute"], show.span(a["compute_ci95"]),
         a["budget"], "–" if a["data_share"] is None else f"{a['data_share']:.0%}"]
        for task, a in answers.items()
    ]  # fmt: skip
    show.say()
    show.table("what it takes", ["task", "D, env steps", "95 %", "C, FLOPs", "95 %", "F", "δ·D/F"], rows)
    show.say("\nhow sure")
    for task, a in answers.items():
        for line in _how_sure(found, a):
            show.say(f"  {task}: {line}")
    for task, why in found["unanswered"].items():
        show.say(f"  {task}: no answer ({why})")
    for why in found["without"]:
        show.say(f"  {why}")
    _print_runs(answers)


def _how_sure(found: Mapping[str, Any], a: Mapping[str, Any]) -> list[str]:
    lines = []
    for name, what in (("utd", "σ"), ("n_params", "N")):
        out = a["extrapolation"][name]
        if out["side"] is not None:
            lines.append(f"extrapolated: {what} is a factor {out['factor']:.2g} {out['side']} what was fitted")
        if name in a["at_end"]:
            lines.append(f"{what} is an end of the range that was searched, not an optimum: give a larger extend")
    if not lines:
        lines.append("interpolated: σ and N lie within what was fitted")
    if a["answered"] < a["draws"]:
        none = a["draws"] - a["answered"]
        lines.append(f"{none} of {a['draws']} draws have no setting within the bound; the intervals leave them out")
    if found["bound"] == "budget" and a["level_share"] is not None:
        lines.append(f"{a['level_share']:.0%} of the draws reach {a['level']:g} within the budget")
        if a["next_level"] is not None:
            more = a["next_level"]
            lines.append(f"the next level, {more['level']:g}, would take F = {show.number(more['budget'])}")
    saved = {"compute": "data", "data": "compute"}.get(found["bound"])
    if saved is not None and a[found["bound"]] < 0.99 * found["limit"]:
        lines.append(f"the bound is not used up: by the law more {found['bound']} would save no {saved}")
    return lines


def _print_runs(answers: Mapping[str, Any]) -> None:
    rows, commands = [], []
    for task, a in answers.items():
        run = a["run"]
        if run is None:
            commands.append(f"{task}: no width to type: {a['no_run']}")
            continue
        change = ", ".join(f"{k} {run[f'{key}_ratio'] - 1:+.1%}" for k, key in (("D", "data"), ("C", "compute")))
        rows.append([task, run["utd"], run["width"], run["n_params"], run["batch_size"], change,
                     "" if run["keeps"] else "breaks the bound"])  # fmt: skip
        for t in run["tasks"]:
            commands.append(t["command"] or f"{t['task']}: the fit's runs are not in the study, so η is not known")
    if rows:
        show.say()
        show.table(
            "rounded to what can be typed: σ plain, width and batch size multiples of 16",
            ["task", "utd", "width", "N", "batch_size", "what rounding changes", ""], rows,
        )  # fmt: skip
    show.say("\nto run it (add seeds and a margin of env steps as you like)")
    for line in dict.fromkeys(commands):
        show.say(f"  {line}")

"""One task's answer with model size as plain data: setting, intervals, how far it extrapolates, and what runs it."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from typing import Any

import numpy as np
import pandas as pd

from analysis.allocate import Box, Setting
from analysis.answer import constant_words, whole_steps
from analysis.model_size import quadratic
from analysis.question import Question
from analysis.records import Select, load
from analysis.size_budget import beyond
from analysis.size_fitted import AVERAGE, SizeFitted, Subject
from analysis.size_frontier import SizeFrontier, batch_size
from analysis.size_question import cost, drawn
from analysis.size_rounding import Rounded, round_batch, rounded
from analysis.uncertainty import Floats, interval
from rlscale.hparams import round_learning_rate
from rlscale.typed import Mistake, typed

INTERVALS = ("utd", "n_params", "data", "compute", "budget", "batch_size")


def answer(
    fit: SizeFitted, subject: Subject, question: Question, threshold: float, setting: Setting, box: Box,
    frontiers: Iterable[SizeFrontier | None], rates: Mapping[str, float],
) -> dict[str, Any]:  # fmt: skip
    """All of one subject's answer, ready for JSON. `frontiers`: the level's in each draw; `rates`: η of each task.

    The question's δ may be 0 where none is known; the budget is then the compute.
    """
    frontier = subject.frontier(threshold, box)
    draws = drawn(question, frontiers)
    width = why = None
    try:
        size = quadratic(subject.sizes, subject.task)
        width = size.width(setting.n_params)
        run = _run(fit, subject, threshold, rounded(frontier, question, setting, size), rates)
    except Mistake as mistake:
        run, why = None, str(mistake)
    return {
        "level": threshold, "return": subject.levels[threshold],
        "utd": setting.sigma, "n_params": setting.n_params, "width": width,
        "batch_size": float(frontier.batch_size(setting.sigma, setting.n_params)),
        "data": setting.data, "compute": setting.compute, "budget": cost(question, setting),
        "data_share": question.delta * setting.data / cost(question, setting),
        **{f"{name}_ci95": interval(draws[name]) for name in INTERVALS},
        "draws": len(draws["utd"]), "answered": int(np.isfinite(draws["utd"]).sum()),
        "extrapolation": beyond(subject.trained, setting), "at_end": frontier.ends(setting),
        **(bought(subject, question, threshold, box, draws["budget"]) if question.bound == "budget" else {}),
        "run": run, "no_run": why,
    }  # fmt: skip


def bought(subject: Subject, question: Question, threshold: float, box: Box, budgets: Floats) -> dict[str, Any]:
    """How sure the level of a budget is, from F at it in each draw [K], and what the next one would cost."""
    above = min((t for t in subject.laws if t > threshold), default=None)
    known = budgets[np.isfinite(budgets)]
    more = None if above is None else cost(question, subject.frontier(above, box).cheapest(question.delta))
    return {
        "level_share": float((known <= question.limit).mean()) if len(known) else None,
        "next_level": None if above is None else {"level": above, "budget": more},
    }


def _run(
    fit: SizeFitted, subject: Subject, threshold: float, at: Rounded, rates: Mapping[str, float]
) -> dict[str, Any]:
    """The setting as it can be typed; the average task is run as every task it is of, each with its own batch size."""
    names = fit.laws["tasks"] if subject.task == AVERAGE else [subject.task]
    rows = []
    for task in names:
        own = fit.subjects.get(task, subject)
        law = own.laws.get(threshold, subject.laws[threshold])
        n_params = quadratic(own.sizes, own.task).parameters(at.width)
        batch = round_batch(float(batch_size(own.batch, float(at.utd), n_params)))
        steps, rate = whole_steps(fit.laws, float(law(float(at.utd), n_params))), rates.get(task)
        rows.append({
            "task": task, "n_params": n_params, "batch_size": batch, "learning_rate": rate, "env_steps": steps,
            "command": None if rate is None else command(fit.laws, task, at, batch, rate, steps),
        })  # fmt: skip
    return {**asdict(at), "utd": str(at.utd), "tasks": rows}


def command(laws: Mapping[str, Any], task: str, at: Rounded, batch: int, rate: float, steps: int) -> str:
    """The command line that trains `task` at this setting with the learner of the fit's runs."""
    words = [f"benchmark.task={task}", f"algorithm.width={at.width}", f"utd={at.utd}", f"budget.env_steps={steps}"]
    words = constant_words(laws, words, batch, rate, ("width",))
    return " ".join(["python -m rlscale.train", *map(shlex.quote, words)])


def used_rates(fit: SizeFitted) -> dict[str, float]:
    """η that the fit's runs of each task had, their geometric mean; empty where the study has them no longer."""
    try:
        runs = load(fit.root, typed(Select, fit.laws["provenance"]["select"], "select")).runs
    except Mistake:
        return {}
    return {str(task): _mean(part["learning_rate"]) for task, part in runs.groupby("task")}


def _mean(rates: pd.Series[float]) -> float:
    values = rates.to_numpy(float)
    same = bool((values == values[0]).all())
    return float(values[0]) if same else round_learning_rate(float(np.exp(np.log(values).mean())))

"""The answer to a question as plain data: the setting, its intervals, how far it extrapolates, and what runs it."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from fractions import Fraction
from math import ceil
from typing import Any

import numpy as np
import pandas as pd

from analysis.budget import Point
from analysis.fitted import Fitted, frontiers, span
from analysis.question import Question
from analysis.recorded import settings, used_rates
from analysis.uncertainty import Floats, interval
from rlscale.hparams import PowerLaw

GRID = 2049  # σ at which each draw is searched: a step of 0.5 % over four decades


def draws(fit: Fitted, question: Question, j: int, extend: float) -> dict[str, Floats]:
    """`utd`, `data`, `compute`, `budget`, `asked` of the answer in each draw [K]; NaN where a draw has none."""
    low, high = span(fit.laws)
    sigma = np.geomspace(low / extend, high * extend, GRID)
    utd, data, compute = question.solve_draws(sigma, *fit.curves(j, sigma))
    budget = compute + question.delta * data
    return {"utd": utd, "data": data, "compute": compute, "budget": budget, "asked": question.value(data, compute)}


def answer(
    fit: Fitted, question: Question, j: int, point: Point, drawn: Mapping[str, Floats], extend: float,
    runs: pd.DataFrame | None,
) -> dict[str, Any]:  # fmt: skip
    """All of it, ready for JSON. `runs` are the fit's records where the study still has them."""
    rates = fit.settings.rate or (used_rates(runs) if runs is not None else None)
    low, high = span(fit.laws)
    factor = max(point.sigma / high, low / point.sigma, 1.0)
    x = np.log(drawn["utd"])[:, None]
    values = {
        "utd": point.sigma, "data": point.data, "compute": point.compute,
        "budget": point.compute + question.delta * point.data,
        "batch_size": float(np.mean([fit.settings.batch(point.sigma, t) for t in fit.tasks])),
        "learning_rate": None if rates is None else float(np.mean([rates(point.sigma, t) for t in fit.tasks])),
    }  # fmt: skip
    spread = {k: interval(drawn[k]) for k in ("utd", "data", "compute", "budget")}
    spread["batch_size"] = interval(fit.mean_batch(x)[:, 0])
    if fit.settings.rate_draws is not None:
        intercept, slope = fit.settings.rate_draws
        spread["learning_rate"] = interval(np.exp(intercept + slope * x).mean(axis=1))
    return {
        "question": question.words(), "name": fit.name, "bound": question.bound, "limit": question.limit,
        "delta": question.delta, "level": fit.thresholds[j],
        **values, **{f"{k}_ci95": v for k, v in spread.items()},
        "draws": len(drawn["utd"]), "answered": int(np.isfinite(drawn["utd"]).sum()),
        "extrapolation": {
            "factor": factor,
            "side": "above" if point.sigma > high else "below" if point.sigma < low else None,
            "error": known(fit, j, point.sigma),
            "error_at_end": known(fit, j, min(max(point.sigma, low), high)),
        },
        "at_end": point.at_end,
        **(_levels(fit, question, j, extend) if question.bound == "budget" else {}),
        "run": _run(fit, question, j, point, extend, rates, runs),
    }  # fmt: skip


def known(fit: Fitted, j: int, sigma: float) -> float:
    """By what share D at σ may be off: half of the central 95 % of ln D in the draws."""
    low, high = interval(fit.draws.log_data(j, np.log([sigma]))[:, 0])
    return float(np.expm1((high - low) / 2))


def _levels(fit: Fitted, question: Question, j: int, extend: float) -> dict[str, Any]:
    """How sure the level is: the highest that the budget buys in each draw, and what the next one would cost."""
    order = sorted(range(len(fit.thresholds)), key=lambda i: fit.thresholds[i])
    costs = np.stack([draws(fit, question, i, extend)["budget"] for i in order])  # [J, K]
    bought = (costs <= question.limit).sum(axis=0)  # how many levels each draw can pay for, if cost rises with them
    levels = np.array([np.nan, *(fit.thresholds[i] for i in order)])[bought]
    above = order[order.index(j) + 1 :]
    most = frontiers(fit.laws, extend)[above[0]].cheapest(question.delta) if above else None
    return {
        "level_ci95": interval(levels),
        "level_share": float(np.mean(costs[order.index(j)] <= question.limit)),
        "next_level": None if most is None else
        {"level": fit.thresholds[above[0]], "budget": most.compute + question.delta * most.data},
    }  # fmt: skip


def _run(
    fit: Fitted, question: Question, j: int, point: Point, extend: float, rates: PowerLaw | None,
    runs: pd.DataFrame | None,
) -> dict[str, Any]:  # fmt: skip
    """The setting at a σ that a person would type, per task, with the command that trains it."""
    utd = question.near(point.sigma)
    at = frontiers(fit.laws, extend)[j].at(float(utd))
    runs = None if fit.settings.variant else runs  # a command by the law's name runs the law, whatever was run so far
    rows = []
    for task, scale in fit.scale(j).items():
        batch, rate = settings(fit, rates, runs, task, utd, 1.0)
        steps = whole_steps(fit.laws, at.data * scale)
        rows.append({"task": task, "batch_size": batch, "learning_rate": rate, "env_steps": steps,
                     "command": None if rate is None else command(fit, task, utd, batch, rate, steps)})  # fmt: skip
    return {"utd": str(utd), "data": at.data, "compute": at.compute, "tasks": rows}


def whole_steps(laws: Mapping[str, Any], data: float) -> int:
    """Env steps of a run that takes `data`: up to the next logging point, and past the warm-up."""
    budget = laws["provenance"]["spec"]["budget"]
    every = int(budget.get("log_every") or 1)
    return max(ceil(data / every), int(budget.get("warmup_steps") or 0) // every + 1) * every


def command(fit: Fitted, task: str, utd: Fraction, batch: int, rate: float, steps: int) -> str:
    """The command line that trains `task` at this setting with the learner of the fit's runs."""
    words = [f"benchmark.task={task}", f"utd={utd}", f"budget.env_steps={steps}"]
    option = fit.root / "conf" / "sweep" / "fitted" / f"{fit.name}.yaml"
    if fit.settings.variant is not None and option.exists():
        words = [f"sweep=fitted/{fit.name}", *words, f"hparams.variant={fit.settings.variant}"]
    else:
        words = constant_words(fit.laws, words, batch, rate, ())
    return " ".join(["python -m rlscale.train", *map(shlex.quote, words)])


def constant_words(
    laws: Mapping[str, Any], words: Sequence[str], batch: int, rate: float, given: Sequence[str]
) -> list[str]:
    """`words` with the learner of the fit's runs, but for the fields of its spec that `words` have `given` already."""
    spec, chosen, fields = laws["provenance"]["spec"], [], []
    for part in ("algorithm", "benchmark", "budget"):
        chosen += [f"{part}={spec[part]['name']}"] if "name" in spec[part] else []
        skipped = ("name", "task", "env_steps", *given)
        fields += [f"{part}.{k}={_typed(v)}" for k, v in spec[part].items() if k not in skipped]
    held = [f"hparams.batch_size={batch}", f"hparams.learning_rate={rate!r}"]
    return [*chosen, "hparams=constant", *words, *fields, *held]


def _typed(value: Any) -> str:
    """A value as it is typed in a Hydra override."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, Mapping):
        return "{" + ",".join(f"{k}:{_typed(v)}" for k, v in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ",".join(map(_typed, value)) + "]"
    return str(value)

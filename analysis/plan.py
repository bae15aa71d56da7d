"""Door: "what should I run for this budget?", from the laws of a fit, with intervals and the command (METHOD A4, C).

python -m analysis.plan name=gym-r1 target=700 compute=1e15      # or data=…, or budget=… delta=…
python -m analysis.plan name=gym-r1 target=700 compute=1e15 next=16      # and the 16 runs that narrow the answer most

Laws with model size (laws.json has "size": true) answer the same questions with (σ, N) for each task: see size_plan.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal

import pandas as pd
from omegaconf import DictConfig

from analysis import emit, next_sweep, show
from analysis.answer import answer, draws
from analysis.fit_door import read, typed_command
from analysis.fitted import Fitted, fitted, frontiers, read_fit
from analysis.next_runs import Proposal, as_json, propose
from analysis.question import Question
from analysis.recorded import runs_of
from analysis.size_fitted import size_fitted
from analysis.size_plan import planned, print_answers
from analysis.wallclock import Clock, clock
from rlscale.door import CONF, door
from rlscale.store import study_root
from rlscale.typed import Mistake, convert


@dataclass(frozen=True)
class Config:
    """conf/analysis/plan.yaml."""

    name: str
    target: float | None
    compute: float | None
    data: float | None
    budget: float | None
    delta: Any
    extend: float
    next: int | None
    json: bool
    replace: bool

    def __post_init__(self) -> None:
        asked = {k: v for k in ("compute", "data", "budget") if (v := getattr(self, k)) is not None}
        if len(asked) != 1:
            given = " ".join(f"{k}={v:g}" for k, v in asked.items()) or "none of them"
            raise Mistake(f"give exactly one bound: compute=…, data=… or budget=… ({given} is given)")
        (key, value), *_ = asked.items()
        if value <= 0:
            raise Mistake(f"{key}={value:g}: a bound is above 0")
        if key != "budget" and self.target is None:
            raise Mistake(f"target is not set: with {key}= give the return level to reach, such as target=700")
        if key == "budget" and self.target is not None:
            raise Mistake(f"target={self.target:g}: with budget= the return level is the answer; drop one of the two")
        if self.delta not in (None, "measured") and convert(self.delta, float, "delta") < 0:
            raise Mistake(f"delta={self.delta}: an env step costs no less than 0 FLOPs; give 0 or more, or measured")
        if self.extend < 1:
            raise Mistake(f"extend={self.extend:g}: give a factor of 1 or more")
        if self.next is not None and self.next < 1:
            raise Mistake(f"next={self.next}: give how many runs to propose, 1 or more")

    @property
    def bound(self) -> Literal["compute", "data", "budget"]:
        return "compute" if self.compute is not None else "data" if self.data is not None else "budget"


def main(cfg: DictConfig) -> None:
    config = read(Config, cfg)
    if read_fit(study_root(), config.name, "laws").get("size"):
        return with_size(config)
    fit = fitted(study_root(), config.name)
    level = None if config.target is None else fit.level(config.target)
    runs = _runs(fit, needed=config.next is not None or config.delta == "measured")
    timed = None
    if config.delta == "measured":
        assert runs is not None
        timed = clock(fit.root, list(runs["run_id"]), float(fit.laws["compute"]["n_params"]))
    delta = timed.delta if timed else fit.delta if config.delta is None else float(config.delta)
    question = Question(config.bound, float(getattr(config, config.bound)), config.target, delta)
    j, point = question.answer(frontiers(fit.laws, config.extend), fit.thresholds, level)
    drawn = draws(fit, question, j, config.extend)
    found = answer(fit, question, j, point, drawn, config.extend, runs)
    if timed is not None:
        found["measured_delta"] = vars(timed)
    proposal, option = None, fit.root
    if config.next is not None:
        assert runs is not None
        proposal = propose(fit, runs, j, drawn["asked"], Fraction(found["run"]["utd"]), delta, config.next)
        found["next"] = as_json(proposal.rows)
        option = next_sweep.write(fit, proposal.rows, _header(config, found, proposal), config.replace)
        found["sweep"] = f"fitted/{option.stem}"
    if config.json:
        show.say(emit.to_json(found).rstrip())
        return
    _print(found, fit, timed)
    if proposal is not None:
        _print_next(proposal, question, fit, option)


def with_size(config: Config) -> None:
    """The same questions where the laws are D(σ, N). Raises Mistake for what those cannot be asked."""
    if config.next is not None:
        raise Mistake(
            f"next={config.next}: laws with model size do not propose runs yet; drop it, and run the rounded settings"
        )
    if config.delta == "measured":
        raise Mistake("delta=measured: runs of several model sizes have no one δ; give a number, such as delta=1e11")
    fit = size_fitted(study_root(), config.name)
    delta = None if config.delta is None else float(config.delta)
    limit = float(getattr(config, config.bound))
    found = planned(fit, config.bound, limit, config.target, delta, config.extend)
    if config.json:
        show.say(emit.to_json(found).rstrip())
    else:
        print_answers(found, fit)


def _runs(fit: Fitted, needed: bool) -> pd.DataFrame | None:
    """The fit's records; None where the study has them no longer and nothing asked needs them. Raises Mistake."""
    try:
        return runs_of(fit)
    except Mistake:
        if needed:
            raise
        return None


def _print(found: Mapping[str, Any], fit: Fitted, timed: Clock | None) -> None:
    show.say(f"question: {found['question']}")
    show.say(f"laws:     {fit.name}, fitted on σ = {', '.join(fit.laws['fit_utds'])}")
    if timed is not None:
        show.say(
            f"delta:    {timed.delta:.3g} FLOPs, measured on {timed.runs} runs: an env step takes "
            f"{timed.s_per_step:.3g} s, 1e9 FLOPs {1e9 * timed.s_per_flop:.3g} s (median error {timed.error:.0%})"
        )
    names = {
        "utd": "σ* (utd)", "batch_size": "B*, mean over tasks", "learning_rate": "η*, mean over tasks",
        "data": "data D, env steps", "compute": "compute C, FLOPs", "budget": f"F = C + {found['delta']:.3g}·D",
    }  # fmt: skip
    rows: list[list[Any]] = [["return level", f"{found['level']:g}", show.span(found.get("level_ci95"))]]
    rows += [[text, found[k], show.span(found.get(f"{k}_ci95"))] for k, text in names.items()]
    show.say()
    show.table("answer, for the average task", ["", "", "95 %"], rows)
    show.say("\nhow sure")
    for line in _how_sure(found):
        show.say(f"  {line}")
    run = found["run"]
    told = f"variant {fit.settings.variant}" if fit.settings.variant else "as the fit's runs had them"
    rows = [[t["task"], run["utd"], t["batch_size"], t["learning_rate"], t["env_steps"]] for t in run["tasks"]]
    show.say()
    show.table(
        f"what to run ({told}): at σ = {run['utd']} the average task takes D = {show.number(run['data'])}, "
        f"C = {show.number(run['compute'])}",
        ["task", "utd", "batch_size", "learning_rate", "env steps to the level"], rows,
    )  # fmt: skip
    show.say("\nto run it (add seeds and a margin of env steps as you like)")
    for task in run["tasks"]:
        show.say(
            f"  {task['command'] or task['task'] + ': the fit knows no learning rate and the study has not its runs'}"
        )


def _how_sure(found: Mapping[str, Any]) -> list[str]:
    lines = []
    beyond = found["extrapolation"]
    if beyond["side"] is None:
        lines.append("interpolated: σ lies within what was fitted")
    else:
        lines.append(
            f"extrapolated: σ is a factor {beyond['factor']:.2g} {beyond['side']} what was fitted; D may be off by "
            f"{beyond['error']:.0%} there (the intervals hold that), by {beyond['error_at_end']:.0%} where the fit ends"
        )
    if found["at_end"]:
        lines.append("σ is an end of the range that was searched, not an optimum: a larger extend= searches further")
    saved = {"compute": "data", "data": "compute"}.get(found["bound"])
    if saved is not None and found[found["bound"]] < 0.99 * found["limit"]:
        lines.append(f"the bound is not used up: by the law more {found['bound']} would save no {saved}")
    if found["answered"] < found["draws"]:
        none = found["draws"] - found["answered"]
        lines.append(f"{none} of {found['draws']} draws have no setting within the bound; the intervals leave them out")
    if found["bound"] == "budget":
        lines.append(f"{found['level_share']:.0%} of the draws reach {found['level']:g} within the budget")
        if found["next_level"] is not None:
            more = found["next_level"]
            lines.append(f"the next level, {more['level']:g}, would take F = {show.number(more['budget'])}")
    return lines


def _header(config: Config, found: Mapping[str, Any], proposal: Proposal) -> list[str]:
    return [
        f"Emitted by: {typed_command('plan', config.name, [])}",
        f"to narrow: {found['question']}",
        f"expected: the standard deviation of the answer falls from {proposal.before:.1%} to {proposal.after:.1%}",
    ]


def _print_next(proposal: Proposal, question: Question, fit: Fitted, option: Path) -> None:
    rows = [
        [str(r.utd), r.task, r.batch_size, r.learning_rate, ",".join(map(str, r.seeds)), r.env_steps, r.cost,
         f"{r.share:.0%}"]
        for r in proposal.rows
    ]  # fmt: skip
    total, runs = sum(r.cost for r in proposal.rows), sum(len(r.seeds) for r in proposal.rows)
    show.say()
    show.table(
        f"the next {runs} runs: those that tell most about {question.asked} for their cost C + δ·D",
        ["σ", "task", "B", "η", "seeds", "env steps", "cost", "of the variance*"], rows,
    )  # fmt: skip
    show.say("  * what its block, all tasks of the σ together, takes away of the variance of the answer")
    show.say("\nwhy")
    for utd, reason in dict.fromkeys((r.utd, r.reason) for r in proposal.rows):
        show.say(f"  σ = {utd}: {reason}")
    show.say(
        f"\nexpected: the answer's standard deviation falls from {proposal.before:.1%} to {proposal.after:.1%} for "
        f"{show.number(total)} FLOPs"
    )
    if proposal.dropped:
        show.say()
        show.table(f"not proposed ({len(proposal.dropped)})", ["what", "reason"], proposal.dropped)
    show.say(f"\nwritten: {option}\nnext:    python -m rlscale.train -m sweep=fitted/{option.stem}")
    for line in next_sweep.after(fit, proposal.rows):
        show.say(line)


if __name__ == "__main__":
    # From conf/ itself Hydra would take compute=1e15 for a choice among the options of the group `compute`.
    door(main, "plan", CONF / "analysis")

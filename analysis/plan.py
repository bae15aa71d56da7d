"""Door: "what should I run for this budget?", from the laws of a fit, with intervals and the command (METHOD A4).

python -m analysis.plan name=gym-r1 target=700 compute=1e15      # or data=…, or budget=… delta=…
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from math import ceil
from pathlib import Path
from typing import Any

import numpy as np
from omegaconf import DictConfig

from analysis import show
from analysis.batch import fitted_laws
from analysis.blend import Blend, Draws
from analysis.budget import Frontier, Law, Point, best_return
from analysis.hparams import read
from analysis.uncertainty import Floats, interval
from rlscale.door import CONF, door
from rlscale.hparams import round_batch_size, round_learning_rate
from rlscale.store import study_root
from rlscale.typed import Mistake


@dataclass(frozen=True)
class Config:
    """conf/analysis/plan.yaml."""

    name: str
    target: float | None
    compute: float | None
    data: float | None
    budget: float | None
    delta: float | None
    extend: float

    def __post_init__(self) -> None:
        asked = {
            k: v for k, v in (("compute", self.compute), ("data", self.data), ("budget", self.budget)) if v is not None
        }
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
        if self.extend < 1:
            raise Mistake(f"extend={self.extend:g}: give a factor of 1 or more")


def frontiers(laws: Mapping[str, Any], extend: float) -> list[Frontier]:
    """One Frontier for each threshold of a laws.json, in its order."""
    low, high = span(laws)
    batch = laws["compute"]["batch_size"]
    slope, intercept = (np.array(list(batch[k].values())) for k in ("exponent", "intercept"))
    return [
        _frontier(Blend.from_json(d), np.log(intercept), slope, laws, low / extend, high * extend) for d in laws["data"]
    ]


def frontier_draws(
    laws: Mapping[str, Any], extend: float, draws: Draws, batch: tuple[Floats, Floats], j: int
) -> list[Frontier]:
    """Threshold j's Frontier in each bootstrap draw."""
    low, high = span(laws)
    intercept, slope = batch  # [K, T] each
    return [
        _frontier(draws.one(k, j), intercept[k], slope[k], laws, low / extend, high * extend)
        for k in range(len(draws.member))
    ]


def _frontier(law: Law, intercept: Floats, slope: Floats, laws: Mapping[str, Any], low: float, high: float) -> Frontier:
    def batch(sigma: Floats) -> Floats:
        return np.asarray(np.exp(intercept[:, None] + slope[:, None] * np.log(sigma)).mean(axis=0))

    return Frontier(law, batch, float(laws["compute"]["n_params"]), low, high)


def span(laws: Mapping[str, Any]) -> tuple[float, float]:
    """The least and the largest σ that the laws were fitted on."""
    sigmas = [float(Fraction(u)) for u in laws["fit_utds"]]
    return min(sigmas), max(sigmas)


def level(laws: Mapping[str, Any], target: float) -> int:
    """Which of the fit's thresholds is `target`. Raises Mistake."""
    known = [d["threshold"] for d in laws["data"]]
    for j, threshold in enumerate(known):
        if abs(threshold - target) < 1e-6 * max(1.0, abs(threshold)):
            return j
    raise Mistake(
        f"target={target:g}: there is no law for this level; choose one of {', '.join(f'{t:g}' for t in known)}"
    )


def simple_fraction(sigma: float) -> Fraction:
    """The fraction with the least denominator within 4 % of σ: what a person would type."""
    for denominator in range(1, 65):
        near = Fraction(round(sigma * denominator), denominator)
        if near > 0 and abs(float(near) / sigma - 1) < 0.04:
            return near
    return 1 / simple_fraction(1 / sigma) if sigma < 1 else Fraction(sigma).limit_denominator(64)


def main(cfg: DictConfig) -> None:
    config = read(Config, cfg)
    root = study_root()
    laws = read_fit(root, config.name, "laws")
    with np.load(root / "fits" / config.name / "laws_draws.npz") as arrays:
        draws, batch = Draws.from_arrays(arrays), (arrays["batch_log_intercept"], arrays["batch_slope"])
    every = frontiers(laws, config.extend)
    thresholds = [float(d["threshold"]) for d in laws["data"]]
    solve: Callable[[Frontier], Point | None]
    if config.budget is not None:
        delta = config.delta if config.delta is not None else float(laws["budget"]["delta"])
        found = best_return(every, thresholds, config.budget, delta)
        if found is None:
            cheapest = every[0].cheapest(delta)
            raise Mistake(
                f"budget={config.budget:g}: the lowest level {thresholds[0]:g} alone costs "
                f"{cheapest.compute + delta * cheapest.data:.3g}; give more"
            )
        target, answer = found
        question = f"the highest return for F = C + {delta:g}·D ≤ {config.budget:g}"

        def solve(frontier: Frontier) -> Point | None:
            return frontier.cheapest(delta)
    else:
        target = float(config.target or 0.0)
        bound, key = (config.compute, "compute") if config.compute is not None else (config.data, "data")
        assert bound is not None

        def solve(frontier: Frontier) -> Point | None:
            return frontier.least_data(bound) if key == "compute" else frontier.least_compute(bound)

        one = solve(every[level(laws, target)])
        if one is None:
            raise Mistake(_infeasible(every[level(laws, target)], key, bound, target))
        answer = one
        aim, unit = ("data", "FLOPs") if key == "compute" else ("compute", "env steps")
        question = f"the least {aim} that reaches {target:g} with at most {bound:g} {unit}"
    j = level(laws, target)
    solved = [p for f in frontier_draws(laws, config.extend, draws, batch, j) if (p := solve(f)) is not None]
    _print(config, laws, root, question, target, answer, solved, len(draws.member), j)


def read_fit(root: Path, name: str, part: str) -> dict[str, Any]:
    """study/fits/<name>/<part>.json. Raises Mistake naming the command that makes it."""
    path = root / "fits" / name / f"{part}.json"
    if not path.exists():
        known = sorted(p.parent.name for p in (root / "fits").glob(f"*/{part}.json"))
        have = f"there is {', '.join(known)}" if known else f"no fit in {root} has one yet"
        raise Mistake(f"name={name}: there is no {path}; {have}; python -m analysis.{part} name={name} … makes it")
    loaded: dict[str, Any] = json.loads(path.read_text())
    return loaded


def _infeasible(frontier: Frontier, key: str, bound: float, target: float) -> str:
    if key == "compute":
        least = frontier.cheapest(0.0)
        return (
            f"compute={bound:g}: reaching {target:g} takes at least {least.compute:.3g} FLOPs "
            f"(at σ = {least.sigma:.3g}, {least.data:.3g} env steps); give more, or a lower target"
        )
    sigmas = np.geomspace(frontier.low, frontier.high, 257)
    best = frontier.at(float(sigmas[np.argmin(frontier.law(sigmas))]))
    return (
        f"data={bound:g}: reaching {target:g} takes {best.data:.3g} env steps even at σ = {best.sigma:.3g}"
        "; give more, a lower target, or a larger extend"
    )


def _print(
    config: Config, laws: Mapping[str, Any], root: Path, question: str, target: float, answer: Point,
    solved: list[Point], count: int, j: int,
) -> None:  # fmt: skip
    show.say(f"question: {question}")
    show.say(f"laws:     {config.name}, fitted on σ = {', '.join(laws['fit_utds'])}\n")
    ends = {k: interval(np.array([getattr(p, k) for p in solved])) for k in ("sigma", "data", "compute")}
    rows: list[list[Any]] = [
        ["return level", f"{target:g}", ""],
        ["σ (utd)", answer.sigma, show.span(ends["sigma"])],
        ["data D, env steps", answer.data, show.span(ends["data"])],
        ["compute C, FLOPs", answer.compute, show.span(ends["compute"])],
    ]
    if config.budget is not None and laws["budget"]["exponent"] is not None:
        law = laws["budget"]
        rows.append(["σ*(F) by the budget law", law["coefficient"] * config.budget ** law["exponent"], ""])
    show.table("answer, for the average task", ["", "", "95 %"], rows)
    low, high = span(laws)
    if answer.sigma > high or answer.sigma < low:
        factor = answer.sigma / high if answer.sigma > high else low / answer.sigma
        side = "above" if answer.sigma > high else "below"
        error = np.expm1(1.96 * laws["drift"] * np.log(factor))
        show.say(
            f"extrapolated: σ is a factor {factor:.2g} {side} what was fitted; D may be off by {error:.0%} there for "
            "that alone, which the intervals hold"
        )
    else:
        show.say("interpolated: σ lies within what was fitted")
    if answer.at_end:
        show.say(f"the answer is an end of the range that was searched: extend={config.extend * 2:g} searches further")
    if len(solved) < count:
        show.say(f"{count - len(solved)} of {count} bootstrap draws have no such setting; the intervals leave them out")
    utd = simple_fraction(answer.sigma)
    data = float(frontiers(laws, config.extend)[j].law(float(utd)))
    settings, source = _settings(root, config.name, laws, utd)
    rows = [[t, str(utd), b, lr, ceil(data * laws["data"][j]["scale"][t])] for t, (b, lr) in settings.items()
            if t in laws["data"][j]["scale"]]  # fmt: skip
    show.say()
    show.table(
        f"settings per task ({source})", ["task", "utd", "batch_size", "learning_rate", "env steps to the level"], rows
    )
    show.say("\nto run it (add seeds and a margin of env steps as you like)")
    option = root / "conf" / "sweep" / "fitted" / f"{config.name}.yaml"
    chosen = laws["provenance"]["spec"]
    for task, text, batch, rate, steps in rows:
        run = f"benchmark.task={task} utd={text} budget.env_steps={steps}"
        if option.exists():
            show.say(f"  python -m rlscale.train sweep=fitted/{config.name} {run}")
        else:
            show.say(
                f"  python -m rlscale.train algorithm={chosen['algorithm']['name']} "
                f"benchmark={chosen['benchmark']['name']} {run} "
                f"hparams.batch_size={batch} hparams.learning_rate={rate}"
            )


def _settings(root: Path, name: str, laws: Mapping[str, Any], utd: Fraction) -> tuple[dict[str, tuple[int, Any]], str]:
    """task → (batch_size, learning_rate) at σ, from hparams.json, or B alone from the laws where there is none."""
    if (root / "fits" / name / "hparams.json").exists():
        variant = laws["provenance"]["variant"]
        both = fitted_laws(read_fit(root, name, "hparams"), variant)
        tasks = both["batch_size"].tasks
        pairs = {t: (both["batch_size"](utd, t), both["learning_rate"](utd, t)) for t in tasks}
        return {t: (round_batch_size(b), round_learning_rate(r)) for t, (b, r) in pairs.items()}, f"variant {variant}"
    batch = laws["compute"]["batch_size"]
    sizes = {t: batch["intercept"][t] * float(utd) ** batch["exponent"][t] for t in batch["intercept"]}
    return {
        t: (round_batch_size(b), "???") for t, b in sizes.items()
    }, "no hparams.json: the learning rate is yours to set"


if __name__ == "__main__":
    # From conf/ itself Hydra would take compute=1e15 for a choice among the options of the group `compute`.
    door(main, "plan", CONF / "analysis")

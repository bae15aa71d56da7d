"""Door: a fitted sweep's records → D_J(σ), C_J(σ), the Pareto frontier and σ*(F), each with intervals (METHOD A3, A4).

python -m analysis.laws name=gym-r1 select.hparams=fitted/gym-r1
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal

import numpy as np
from omegaconf import DictConfig

from analysis import compat_qscaled, compat_qscaled_laws, compat_qscaled_rows, emit, laws_sized, show, sized
from analysis.batch import batch_laws, one_per_cell
from analysis.budget import Frontier
from analysis.cheapest import budget_part
from analysis.curves import Reference, crossings
from analysis.data import Laws, fit_laws, predictions
from analysis.fit_door import provenance, read, reference_of, typed_command
from analysis.holdout import held_out
from analysis.per_task import per_task
from analysis.records import Select, Study, common_spec, load
from analysis.uncertainty import Bootstrap, interval
from rlscale.door import door
from rlscale.store import study_root
from rlscale.typed import Mistake, typed


@dataclass(frozen=True)
class Config:
    """conf/analysis/laws.yaml."""

    name: str
    select: Mapping[str, Any]
    reference: Mapping[str, Any]
    variant: Literal["shared", "separate", "baseline"]
    metric: Literal["train_return", "eval_return"]
    law: str
    average: Literal["geometric", "arithmetic"]
    interpolate: bool
    bootstrap: Mapping[str, Any]
    holdout: Any
    holdout_budgets: int
    extend: float
    compat: Literal["qscaled", "qscaled-5afa89e", "model_scaling"] | None
    size: Mapping[str, Any]
    resets: float | None
    replace: bool

    def __post_init__(self) -> None:
        if self.holdout_budgets < 0:
            raise ValueError(f"holdout_budgets={self.holdout_budgets}: give a whole number from 0 up")
        if self.extend < 1:
            raise ValueError(f"extend={self.extend}: give a factor of 1 or more")
        if self.resets is not None and (self.compat in (None, "model_scaling") or self.resets <= 0):
            raise ValueError(f"resets={self.resets:g}: give gradient steps above 0, and with compat=qscaled only")


def main(cfg: DictConfig) -> None:
    config = read(Config, cfg)
    emit.check_name(config.name)
    select = typed(Select, config.select, "select")
    bootstrap = typed(Bootstrap, config.bootstrap, "bootstrap")
    root = study_root()
    folder = root / "fits" / config.name
    study = load(root, select)
    spec = common_spec(study)
    reference = reference_of(config.reference, spec["benchmark"]["name"])
    options = typed(sized.Options, config.size, "size")
    if config.compat == "model_scaling" and not study.sized:
        raise Mistake("compat=model_scaling: the selected runs have one model size, so there is no law in N; drop it")
    if study.sized:
        if config.compat not in (None, "model_scaling"):
            raise Mistake(
                f"compat={config.compat}: the selected runs differ in model size, which that code cannot fit; drop it, "
                "or select runs of one size"
            )
        study = load(root, select, optional=(sized.RESET,))
        made = provenance(typed_command("laws", config.name, select.as_overrides()), study, config.select, reference)
        made |= {"metric": config.metric, "bootstrap": dict(config.bootstrap), "spec": spec}
        return laws_sized.write(config, *laws_sized.laws(config, study, reference, options, bootstrap, made), folder)
    if config.compat is not None:
        return as_public_code(config, study, reference, bootstrap, folder)
    fitted = json.loads((folder / "hparams.json").read_text()) if (folder / "hparams.json").exists() else None
    crossed = crossings(study, reference, config.metric, bootstrap, show.tracked, config.interpolate)
    crossed, dropped = one_per_cell(crossed, fitted, config.variant, config.name)
    holdout = held_out(config.holdout, crossed)
    laws = fit_laws(crossed, holdout, bootstrap, show.tracked, config.law, config.average)
    tasks, alone = per_task(crossed, laws.fit_utds)
    drawn = folder / "hparams_draws.npz"
    batch = batch_laws(crossed, fitted, config.variant, drawn if drawn.exists() else None, bootstrap.draws)
    n_params = critic_size(reference, study)
    sigmas = [float(Fraction(u)) for u in laws.fit_utds]
    ends = min(sigmas) / config.extend, max(sigmas) * config.extend

    dropped = (
        [(str(r), str(why)) for r, why in study.dropped.itertuples(index=False)] + crossed.dropped + dropped + alone
    )
    frontiers = [Frontier(level.law, batch.mean, n_params, *ends) for level in laws.levels]
    budget, notes = budget_part(laws, frontiers, batch, reference, config.holdout_budgets, bootstrap)
    result = {
        "schema": 1,
        "name": config.name,
        "provenance": provenance(
            typed_command("laws", config.name, select.as_overrides()), study, config.select, reference
        )
        | {"metric": config.metric, "variant": config.variant, "bootstrap": dict(config.bootstrap), "spec": spec}
        | {"law": config.law, "average": config.average, "interpolate": config.interpolate},
        "data": [_data_row(laws, j, holdout) for j in range(len(laws.levels))],
        "compute": {"n_params": n_params, "formula": "10·N·B(σ)·σ·D", "batch_size": batch.as_json()},
        "budget": budget,
        "holdout": predictions(laws, holdout, bootstrap),
        "tasks": tasks,
        "fit_utds": laws.fit_utds,
        "extend": config.extend,
        "scatter": laws.scatter,
        "drift": laws.drift,
        "left_out_error": laws.errors,
        "thresholds": list(reference.thresholds),
        "dropped": [{"what": what, "reason": why} for what, why in dropped + laws.dropped],
        "notes": batch.notes + laws.notes + notes,
    }
    arrays = {
        **laws.draws.arrays(),
        "data": np.stack([level.shifted_draws for level in laws.levels]),
        "batch_slope": batch.slope_draws,
        "batch_log_intercept": batch.log_intercept_draws,
    }
    files: dict[Path, str | bytes] = {
        folder / "laws.json": emit.to_json(result),
        folder / "laws_draws.npz": emit.to_npz(arrays),
    }
    emit.write(files, config.replace)
    print_laws(json.loads(emit.to_json(result)))
    show.say(f"\nwritten: {folder / 'laws.json'}")


def critic_size(reference: Reference, study: Study) -> float:
    """N of eq 4.2: as the reference says, else the mean over tasks of what the records measured. Raises Mistake."""
    measured = float(study.runs.groupby("task")["n_params"].mean().mean())
    if reference.n_params is None and not np.isfinite(measured):
        raise Mistake(
            "reference.n_params is not set and the records of these runs do not tell the critic's size: "
            "give reference.n_params=… (the paper has 4.92e6 for DMC and 1.5e5 for Gym)"
        )
    return reference.n_params or measured


def as_public_code(config: Config, study: Study, reference: Reference, bootstrap: Bootstrap, folder: Path) -> None:
    """compat=qscaled: the public code's choices from the rows on, written into the same files."""
    assert config.compat is not None
    bootstrap = compat_qscaled.Resamples(bootstrap.draws, bootstrap.seed, tasks=False)  # it has no such thing
    fitted = json.loads((folder / "hparams.json").read_text()) if (folder / "hparams.json").exists() else None
    if config.resets is not None:
        study = compat_qscaled_rows.without_resets(study, config.metric, config.resets)
    crossed = crossings(study, reference, config.metric, bootstrap, show.tracked)
    crossed, dropped = compat_qscaled_rows.middle_settings(crossed)
    drawn = folder / "hparams_draws.npz"
    batch = compat_qscaled_laws.batch_law(
        crossed, fitted, config.variant, drawn if drawn.exists() else None, bootstrap.draws
    )
    n_params = critic_size(reference, study)
    parts, arrays = compat_qscaled_laws.parts(
        config.compat,
        crossed,
        held_out(config.holdout, crossed),
        batch,
        reference,
        n_params,
        config.holdout_budgets,
        show.tracked,
    )
    dropped = [(str(r), str(why)) for r, why in study.dropped.itertuples(index=False)] + crossed.dropped + dropped
    select = typed(Select, config.select, "select")
    command = typed_command("laws", config.name, select.as_overrides())
    parts["dropped"] = [{"what": what, "reason": why} for what, why in dropped] + parts["dropped"]
    result = {
        "schema": 1,
        "name": config.name,
        "provenance": provenance(command, study, config.select, reference)
        | {"metric": config.metric, "variant": config.variant, "bootstrap": dict(config.bootstrap)}
        | {"spec": common_spec(study), "resets": config.resets},
        **parts,
    }
    files: dict[Path, str | bytes] = {folder / "laws.json": emit.to_json(result)}
    files[folder / "laws_draws.npz"] = emit.to_npz(arrays)
    emit.write(files, config.replace)
    print_laws(json.loads(emit.to_json(result)))
    show.say(f"\nwritten: {folder / 'laws.json'}")


def _data_row(laws: Laws, j: int, holdout: tuple[Fraction, ...]) -> dict[str, Any]:
    level = laws.levels[j]
    points = level.points
    names = ("d_min", "beta", "alpha")
    drawn = np.exp(laws.draws.log_data(j, np.log(points.sigma)))  # [K, n]
    return {
        "threshold": points.threshold,
        **dict(zip(names, level.shifted, strict=True)),
        "ci95": {name: interval(level.shifted_draws[:, i]) for i, name in enumerate(names)},
        "loss": laws.loss, "starts_agree": laws.agree, "at_bound": list(level.at_bound),
        "members": level.law.as_json(),
        "points": [
            {
                "utd": utd, "data": points.data[i], "data_ci95": interval(points.draws[:, i]),
                "reached": not points.censored[i], "held_out": Fraction(utd) in holdout,
                "law": float(level.law(points.sigma[i])), "law_ci95": interval(drawn[:, i]),
            }
            for i, utd in enumerate(points.utd)
        ],
        "scale": dict(points.scale),
    }  # fmt: skip


def print_laws(result: Mapping[str, Any]) -> None:
    """The laws as tables, the way the terminal and `make quickstart` show them."""
    rows = [
        [f"{d['threshold']:g}", d["d_min"], show.span(d["ci95"]["d_min"]), d["beta"], show.span(d["ci95"]["beta"]),
         d["alpha"], show.span(d["ci95"]["alpha"]), f"{sum(p['reached'] for p in d['points'])}/{len(d['points'])}"]
        for d in result["data"]
    ]  # fmt: skip
    columns = ["J", "d_min", "95 %", "beta", "95 %", "alpha", "95 %", "σ that reached it"]
    show.table(
        "the paper's data law: D(σ) = d_min · (1 + (beta/σ)^alpha), env steps of the average task", columns, rows
    )
    members = result["data"][0].get("members", [])  # compat has the paper's law alone
    if members:
        show.say("\nused for predictions and budgets: ln D(σ) as the weighted mean of")
    for member in members:
        error = result["left_out_error"][member["law"]]
        told = f"; wrong by {error:.2f} in ln D per unit of ln σ at the largest fitted σ, left out" if error else ""
        show.say(f"  {member['weight']:.2f} {member['law']}, D = {member['formula']}{told}")
    compute, budget = result["compute"], result["budget"]
    show.say(f"\ncompute law: C = {compute['formula']} FLOPs with N = {show.number(float(compute['n_params']))}")
    rows = [
        [f"{p['threshold']:g}", p["budget"], p["utd"], show.span(p["utd_ci95"]), p["predicted_utd"],
         p["data"], p["compute"],
         "held out" if p["held_out"] else "", "end of range" if p["at_end"] else ""]
        for p in budget["points"]
    ]  # fmt: skip
    show.say()
    show.table(
        f"budget law: σ*(F) = {show.number(budget['coefficient'])} · F^{show.number(budget['exponent'])}, "
        f"exponent 95 % {show.span(budget['exponent_ci95'])}, F = C + {show.number(float(budget['delta']))}·D",
        ["J", "F", "σ*", "95 %", "σ*(F)", "D", "C", "", ""], rows,
    )  # fmt: skip
    if result["holdout"]:
        rows = [
            [f"{h['threshold']:g}", h["utd"], h["predicted"], show.span(h["interval95"]),
             h["observed"] if h["reached"] else f"> {show.number(h['at_least'])}",
             f"{h['signed_error']:+.0%}" if h["reached"] else "–", _verdict(h),
             "extrapolation" if h["extrapolation"] else "interpolation"]
            for h in result["holdout"]
        ]  # fmt: skip
        show.say()
        show.table("predicted for σ that no fit has seen, then measured (env steps)",
                   ["J", "σ", "predicted", "95 %", "measured", "error", "inside", ""], rows)  # fmt: skip
    if result["notes"]:
        show.say("\nnotes\n" + "\n".join(f"  {note}" for note in result["notes"]))
    if result["dropped"]:
        show.say()
        show.table(
            f"left out ({len(result['dropped'])})",
            ["what", "reason"],
            [[d["what"], d["reason"]] for d in result["dropped"]],
        )


def _verdict(row: Mapping[str, Any]) -> str:
    low, high = row["interval95"]
    if low is None:
        return "–"
    if row["reached"]:
        return "yes" if low <= row["observed"] <= high else "no"
    return "yes" if high >= row["at_least"] else "no"


if __name__ == "__main__":
    door(main, "analysis/laws")

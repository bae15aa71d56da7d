"""What `analysis.laws` does for a study whose runs differ in model size: D_J(σ, N) per task and for their average."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from analysis import compat_model_scaling, emit, show
from analysis.curves import Reference
from analysis.records import Study
from analysis.size_data import SizeLaws, as_public_code, errors, fit_levels, splits
from analysis.size_fits import Points, fit_size_batch
from analysis.size_fitted import budgets
from analysis.size_laws import AVERAGE
from analysis.sized import Options, Settings, best_settings, raw_levels, sized_crossings
from analysis.uncertainty import Bootstrap, Floats
from rlscale.spec import SPLITS
from rlscale.typed import Mistake

if TYPE_CHECKING:
    from analysis.laws import Config

PUBLIC_BATCH = 256.0  # what the follow-up's code counts compute with, whatever was run
PUBLISHED = {"fit": 0.100, "interpolate": 0.149, "extrapolate": 0.180}  # its mean errors of D_J on its own runs (§7)
PUBLIC_HELD = 5  # highest levels that it keeps out of its power laws in F


def laws(
    config: Config,
    study: Study,
    reference: Reference,
    options: Options,
    bootstrap: Bootstrap,
    provenance: dict[str, Any],
) -> tuple[dict[str, Any], dict[str, Floats]]:
    """laws.json and its draws. Raises Mistake."""
    public = config.compat == "model_scaling"
    if public:
        found = compat_model_scaling.settings(study, reference, config.metric, options)
    else:
        crossed, reference = sized_crossings(
            study, reference, config.metric, options, bootstrap, show.tracked, config.interpolate
        )
        levels = raw_levels(reference, crossed.cells["task"])
        found = best_settings(
            crossed.cells, crossed.point, crossed.draws, crossed.thresholds, levels, list(crossed.dropped)
        )
    fitted = to_fit(found, config.holdout, options.fit_up_to)
    if public:
        fits = as_public_code(_part(found, fitted), options.exponents, options.least, bootstrap.draws, show.tracked)
    else:
        fits = fit_levels(found, fitted, options.exponents, options.least, bootstrap, show.tracked)
    batch, notes = ({"constant": PUBLIC_BATCH}, [compat_model_scaling.NOTE]) if public else batch_of(found, fitted)
    widths: dict[str, dict[str, float]] = {}
    for row in found.cells.itertuples():
        if pd.notna(row.width):
            widths.setdefault(row.task, {})[str(int(row.width))] = float(row.n_params)
    used = {u for (task, _), law in fits.laws.items() if task != AVERAGE for u in _utds(found, task, law.points)}
    result = {
        "schema": 1,
        "name": config.name,
        "size": True,
        "provenance": provenance | {"compat": config.compat, "size": asdict(options)},
        "tasks": sorted(found.cells["task"].unique()),
        "widths": widths,
        "data": [_row(found, fits, task, j) for task, j in fits.laws],
        "compute": {"formula": "10·N·B·σ·D", "batch": batch},
        "budget": {},
        "errors": in_sample(found, fits, fitted),
        "holdout": errors(found, fits, fitted, bootstrap),
        "thresholds": [float(t) for t in found.thresholds],
        "fit_utds": [str(u) for u in sorted(used)],
        "dropped": [
            {"what": what, "reason": why}
            for what, why in [*map(tuple, study.dropped.itertuples(index=False)), *found.dropped, *fits.dropped]
        ],
        "notes": notes,
    }
    arrays = {}
    for name in {task for task, _ in fits.laws}:
        arrays[f"size/data/{name}"] = np.stack([f.draws for (t, _), f in fits.laws.items() if t == name], axis=1)
    # the follow-up's own optima have no bounds, and it keeps its five highest levels out
    extend, held = (np.inf, PUBLIC_HELD) if public and reference.delta > 0 else (config.extend, config.holdout_budgets)
    result["budget"] = budgets(result, arrays, reference.delta, extend, held)
    return result, arrays


def to_fit(found: Settings, holdout: Any, up_to: float | None) -> NDArray[np.bool_]:
    """Which settings are fitted [n]: of no other split, at no σ that is held out, with N `up_to`. Raises Mistake."""
    if not isinstance(holdout, list | tuple):
        raise Mistake(f"holdout={holdout}: with several model sizes list σ, such as [8,16], or name splits of the runs")
    held = {str(Fraction(str(u))) for u in holdout}
    if unknown := held - set(found.cells["utd"]):
        raise Mistake(f"holdout={sorted(unknown)[0]}: no selected run has this σ; choose of those that were run")
    small = found.cells["n_params"] <= (np.inf if up_to is None else up_to)
    keep = np.asarray((found.cells["split"] == "fit") & ~found.cells["utd"].isin(held) & small)
    if not keep.any():
        raise Mistake(
            "no selected run is to be fitted: of split=fit, at a σ that is not held out, with N up to "
            "size.fit_up_to; select others too"
        )
    return keep


def _part(found: Settings, keep: NDArray[np.bool_]) -> Settings:
    at = np.flatnonzero(keep)
    cells = found.cells.iloc[at].reset_index(drop=True)
    levels = {task: found.levels[task] for task in sorted(cells["task"].unique())}
    return Settings(
        cells, found.thresholds, levels, found.data[at], found.draws[at], found.batch[at], found.limit[at],
        found.dropped,
    )  # fmt: skip


def batch_of(found: Settings, fitted: NDArray[np.bool_]) -> tuple[dict[str, Any], list[str]]:
    """laws.json's `compute.batch`: one constant if the best settings share it, else B*(σ, N) through their B."""
    best = found.batch[:, -1]
    if len(set(best[fitted])) == 1:
        return {"constant": float(best[fitted][0])}, []
    cells, tasks = found.cells, {}
    for task in sorted(cells["task"].unique()):
        at = np.flatnonzero((cells["task"] == task).to_numpy() & fitted)
        sigma, n_params = (cells[c].to_numpy(float)[at] for c in ("sigma", "n_params"))
        tasks[task] = Points(sigma, n_params, best[at], np.zeros(len(at), dtype=bool))
    try:
        fit = fit_size_batch(tasks)
        rows = {task: dict(vars(law)) for task, law in fit.laws.items()}
        if len(tasks) > 1:
            points = [np.concatenate([getattr(p, c) for p in tasks.values()]) for c in ("sigma", "n_params", "value")]
            joint = Points(points[0], points[1], points[2], np.zeros(len(points[0]), dtype=bool))
            rows[AVERAGE] = dict(vars(fit_size_batch({AVERAGE: joint}).laws[AVERAGE]))
        return rows, [f"B*(σ, N): {note}" for note in fit.notes]
    except Mistake as mistake:
        mean = float(np.exp(np.log(best[fitted]).mean()))
        return {"constant": mean}, [f"compute is counted with the mean batch size {mean:.0f}: {mistake}"]


def _utds(found: Settings, task: str, points: Points) -> set[Fraction]:
    cells = found.cells[found.cells["task"] == task]
    return {Fraction(u) for u, s in zip(cells["utd"], cells["sigma"], strict=True) if s in points.sigma}


def _row(found: Settings, fits: SizeLaws, task: str, j: int) -> dict[str, Any]:
    fit = fits.laws[task, j]
    levels = found.levels if task == AVERAGE else {task: found.levels[task]}
    head = {"threshold": float(found.thresholds[j]), "level": {t: float(x[j]) for t, x in levels.items()}, "task": task}
    names = {float(s): u for s, u in zip(found.cells["sigma"], found.cells["utd"], strict=True)}
    where = {}
    if task != AVERAGE:
        mine = found.cells[(found.cells["task"] == task) & (found.cells["split"] == "fit")]
        where = {(r.sigma, r.n_params): (r.width, found.batch[r.Index, j]) for r in mine.itertuples()}
    points = []
    p = fit.points
    for sigma, n, value, censored in zip(p.sigma, p.n_params, p.value, p.censored, strict=True):
        width, batch = where.get((sigma, n), (None, None))
        points.append(
            {
                "utd": names[float(sigma)], "width": width, "n_params": float(n), "batch_size": batch,
                "data": float(value), "reached": not censored, "held_out": False, "law": float(fit.law(sigma, n)),
            }
        )  # fmt: skip
    return head | fit.row() | {"points": points}


def in_sample(found: Settings, fits: SizeLaws, fitted: NDArray[np.bool_]) -> dict[str, Any]:
    """Mean relative error of D_J per task by split; ``published`` is what the follow-up printed for its own runs."""
    split = splits(found, fitted)
    gaps: dict[str, dict[str, list[float]]] = {}
    for i, cell in enumerate(found.cells.itertuples()):
        for j in range(len(found.thresholds)):
            law = fits.laws.get((cell.task, j))
            if law is not None and np.isfinite(found.data[i, j]):
                gap = abs(float(law.law(cell.sigma, cell.n_params)) / found.data[i, j] - 1)
                gaps.setdefault(split[i], {}).setdefault(cell.task, []).append(gap)
    return {
        name: {"tasks": {t: float(np.mean(g)) for t, g in gaps[name].items()}, "published": PUBLISHED.get(name)}
        | {"mean": float(np.mean([np.mean(g) for g in gaps[name].values()]))}
        for name in SPLITS
        if name in gaps
    }


def write(config: Config, result: Mapping[str, Any], arrays: Mapping[str, Floats], folder: Path) -> None:
    """laws.json and its draws, and what they say on the terminal."""
    files: dict[Path, str | bytes] = {folder / "laws.json": emit.to_json(result)}
    files[folder / "laws_draws.npz"] = emit.to_npz(arrays)
    emit.write(files, config.replace)
    print_laws(json.loads(emit.to_json(result)))
    show.say(f"\nwritten: {folder / 'laws.json'}")


def print_laws(result: Mapping[str, Any]) -> None:
    """The laws of the highest level of each task, the errors of their predictions, and what was left out."""
    last = {row["task"]: row for row in result["data"]}  # rows rise in level
    rows = [
        [t, f"{r['threshold']:g}", r["c"], show.span(r["ci95"]["c"]), r["a"], r["alpha"], show.span(r["ci95"]["alpha"]),
         r["b"], r["beta"], show.span(r["ci95"]["beta"]), f"{r['scatter']:.0%}"]
        for t, r in sorted(last.items(), key=lambda item: (item[0] == AVERAGE, item[0]))
    ]  # fmt: skip
    show.table(
        f"D(σ, N) = c·(1 + (a/σ)^alpha + (b/N)^beta), env steps, at the highest of {len(result['thresholds'])} levels",
        ["task", "J", "c", "95 %", "a", "alpha", "95 %", "b", "beta", "95 %", "scatter"],
        rows,
    )
    rows = [
        [split, *(f"{e['tasks'][t]:.1%}" if t in e["tasks"] else "–" for t in result["tasks"]), f"{e['mean']:.1%}",
         "" if e["published"] is None else f"{e['published']:.1%}"]
        for split, e in result["errors"].items()
    ]  # fmt: skip
    show.say()
    show.table(
        "mean relative error of D over settings and levels, by what the runs are for; beside it the follow-up's text",
        ["split", *result["tasks"], "mean", "its four tasks"],
        rows,
    )
    batch = result["compute"]["batch"]
    show.say(f"\ncompute: C = {result['compute']['formula']} FLOPs")
    if "constant" in batch:
        show.say(f"  B = {batch['constant']:g}")
    for task, law in batch.items() if "constant" not in batch else ():
        numbers = ", ".join(f"{k} = {show.number(v)}" for k, v in law.items())
        show.say(f"  B*(σ, N) of {task} = a / (σ^alpha · (1 + (b/N)^c)) with {numbers}")
    _print_budget(result["budget"])
    by_note: dict[str, list[str]] = {}
    for task, r in last.items():
        for note in r["notes"]:
            by_note.setdefault(note, []).append(task)
    # one fit of all tasks has the same notes for each
    noted = [*result["notes"], *(note if len(ts) > 1 else f"{ts[0]}: {note}" for note, ts in by_note.items())]
    if noted:
        show.say("\nnotes\n" + "\n".join(f"  {note}" for note in noted))
    if result["dropped"]:
        show.say()
        show.table(
            f"left out ({len(result['dropped'])})", ["what", "reason"],
            [[d["what"], d["reason"]] for d in result["dropped"]],
        )  # fmt: skip


def _print_budget(budget: Mapping[str, Any]) -> None:
    """Power laws in F of the cheapest settings, and beside their R² what a simpler predictor would have."""
    names = {"utd": "σ*", "n_params": "N*", "data": "D*", "compute": "C*"}
    rows = []
    for task, part in budget.items():
        shares = [p["data_share"] for p in part["points"]]
        for name, law in part["laws"].items():
            rows.append(
                [task, names[name], law["coefficient"], law["exponent"], show.span(law["ci95"]["exponent"]),
                 law["r2"], law["r2_held_out"], law["error_held_out"], law["error_constant"], law.get("error_share"),
                 f"{min(shares):.0%}–{max(shares):.0%}"]
            )  # fmt: skip
    if not rows:
        return
    delta = next(iter(budget.values()))["delta"]
    show.say()
    show.table(
        f"cheapest settings, F = C + {show.number(float(delta))}·D: power laws coefficient · F^exponent; last the "
        "errors of ln on held-out levels of the law, of a constant, of a constant share of F, and δ·D/F",
        ["task", "", "coefficient", "exponent", "95 %", "R²", "R² held out", "law", "constant", "share", "δ·D/F"], rows,
    )  # fmt: skip

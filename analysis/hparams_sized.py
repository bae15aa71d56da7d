"""What `analysis.hparams` does for a study whose runs differ in model size: fits, proposals and the emitted options."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from analysis import compat_model_scaling, hparams_files, show, size_batch, sized
from analysis.best import QUANTITIES, best, best_rows
from analysis.curves import Reference
from analysis.fit_door import provenance, typed_command
from analysis.hparams_files import Grid
from analysis.propose import VARIANTS, middle
from analysis.records import Select, Study
from analysis.size_laws import BATCH
from analysis.uncertainty import Bootstrap
from rlscale.hparams import PowerLaw
from rlscale.typed import Mistake, typed

if TYPE_CHECKING:
    from analysis.hparams import Config


def emit_fit(config: Config, study: Study, spec: Mapping[str, Any], reference: Reference, root: Path) -> None:
    """B*(σ, N) and η*(σ, N) of a study of several model sizes, and the options that run them. Raises Mistake."""
    if config.compat == "qscaled" or config.law != "power":
        key = "law=offset" if config.law != "power" else "compat=qscaled"
        raise Mistake(
            f"{key}: the selected runs differ in model size, which it cannot fit; drop it, or select one size"
        )
    public = config.compat == "model_scaling"
    bootstrap = typed(Bootstrap, config.bootstrap, "bootstrap")
    options = typed(sized.Options, config.size, "size")
    crossed, reference = sized.sized_crossings(
        study, reference, config.metric, options, bootstrap, show.tracked, interpolate=False
    )
    to_fit = crossed.cells["split"] == "fit"  # the others are to be predicted
    if not to_fit.any():
        raise Mistake("no selected run is of split=fit, and only those are fitted; select others too")
    crossed = crossed.take(to_fit)
    average = "arithmetic" if public else config.average
    found = {q: best(crossed, q, config.threshold, average, bootstrap) for q in QUANTITIES}
    fits, notes = size_batch.fits(found, public, bootstrap)
    notes = [compat_model_scaling.NOTE, *notes] if public else notes
    grid = sorted(Fraction(u) for u in crossed.cells["utd"].unique())
    utds = sorted(set(config.utd)) if config.utd else grid
    at = config.baseline_utd or middle(grid)
    if at not in grid:
        raise Mistake(f"baseline_utd={at}: the grid has σ = {', '.join(map(str, grid))}; choose one of these")
    widths = size_batch.widths_of(crossed)
    base = size_batch.baseline(crossed, str(at))
    variants: dict[str, dict[str, Any]] = {
        name: {"batch_size": f.batch, "learning_rate": f.rate} for name, f in fits.items()
    }
    variants["baseline"] = {
        q: PowerLaw(0.0, {str(t): float(v) for t, v in zip(base["task"], base[q], strict=True)}) for q in QUANTITIES
    }
    tasks = sorted(variants[config.variant]["batch_size"].tasks)
    seeds = config.seeds or tuple(sorted(map(int, study.runs["seed"].unique())))
    select = typed(Select, config.select, "select")
    command = typed_command("hparams", config.name, select.as_overrides())
    dropped = [(str(r), str(why)) for r, why in study.dropped.itertuples(index=False)]
    dropped += crossed.dropped + [row for q in QUANTITIES for row in found[q].dropped]
    result = {
        "schema": 1,
        "name": config.name,
        "size": True,
        "provenance": provenance(command, study, config.select, reference)
        | {"metric": config.metric, "threshold": config.threshold, "compat": config.compat, "average": average}
        | {"bootstrap": dict(config.bootstrap), "spec": spec, "size": asdict(options)},
        "laws": {name: f.as_json() for name, f in fits.items()},
        "widths": widths,
        "baseline": {"utd": str(at), "pairs": base.to_dict("records")},
        "best": best_rows(found, ("task", "utd", "width", "n_params")),
        "proposals": size_batch.proposals(variants, utds, widths),
        "thresholds": list(reference.thresholds),
        "dropped": [{"what": what, "reason": why} for what, why in dropped],
        "notes": notes,
    }
    draws = {f"{name}/{key}": array for name, f in fits.items() for key, array in f.draws.items()}
    rows = pd.DataFrame(result["proposals"])
    said = hparams_files.write(
        config,
        root,
        [
            f"from {len(study.runs)} runs of {', '.join(tasks)}",
            "B*(σ, N) = a / (σ^alpha · (1 + (b/N)^c)), N the critics' parameters of the job's own learner",
        ],
        result,
        draws,
        {v: rows[rows["variant"] == v] for v in VARIANTS},
        variants,
        Grid(tasks, utds, seeds, sorted({w for t in tasks for w in widths[t]})),
    )
    show_fit(result)
    show.say(said)


def show_fit(result: Mapping[str, Any]) -> None:
    """The best settings, the laws through them, and what was left out, on the terminal."""
    rows = [
        [r["task"], r["utd"], r["width"], r["n_params"], r["batch_size"], show.span(r["batch_size_ci95"]),
         r["learning_rate"], r["reached"]]
        for r in result["best"]
    ]  # fmt: skip
    show.table("best measured", ["task", "σ", "width", "N", "B", "95 %", "η", "reached"], rows)
    rows = []
    for variant, laws in result["laws"].items():
        law = laws["batch_size"]
        for task in law["a"]:
            own = [law[k][task] if isinstance(law[k], Mapping) else law[k] for k in BATCH]
            spans = [law[f"{k}_ci95"] for k in ("alpha", "c")]
            spans = [s[task] if isinstance(s, Mapping) else s for s in spans]
            rows.append([variant, task, *own, *map(show.span, spans)])
    show.say()
    show.table(
        "B*(σ, N) = a / (σ^alpha · (1 + (b/N)^c))",
        ["variant", "task", "a", "alpha", "b", "c", "alpha 95 %", "c 95 %"], rows,
    )  # fmt: skip
    rate = result["laws"]["shared"]["learning_rate"]
    show.say(
        f"\nη*(σ, N) ∝ σ^{rate['exponent']:.3g} · N^{rate['size_exponent']:.3g}, exponents common to all tasks"
        if rate["exponent"] or rate["size_exponent"]
        else "\nη: the grid has one value, which is taken as given"
    )
    if result["notes"]:
        show.say("\nnotes\n" + "\n".join(f"  {note}" for note in result["notes"]))
    if result["dropped"]:
        show.say()
        rows = [[d["what"], d["reason"]] for d in result["dropped"]]
        show.table(f"left out ({len(result['dropped'])})", ["what", "reason"], rows)

"""Door: the grid's records → B*(σ) and η*(σ) with intervals, and the Hydra options that run them (METHOD A2).

python -m analysis.hparams name=gym-r1 select.algorithm=sac select.benchmark=gym
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Literal

import numpy as np
from omegaconf import DictConfig

from analysis import compat_qscaled, emit, hparams_files, hparams_sized, show, sized
from analysis.best import QUANTITIES, Best, baseline, best, best_rows
from analysis.correlation import correlation
from analysis.curves import Crossings, Reference, Track, crossings
from analysis.fit_door import provenance, read, reference_of, typed_command
from analysis.fits import PowerLaws, power_laws
from analysis.hparams_files import Grid
from analysis.offset import as_json, offset_laws
from analysis.propose import middle, proposals, qscaled_baseline, qscaled_table, variant_laws
from analysis.records import Select, Study, common_spec, load
from analysis.uncertainty import Bootstrap
from rlscale.door import door
from rlscale.store import study_root
from rlscale.typed import Mistake, typed


@dataclass(frozen=True)
class Config:
    """conf/analysis/hparams.yaml."""

    name: str
    select: Mapping[str, Any]
    reference: Mapping[str, Any]
    metric: Literal["train_return", "eval_return"]
    threshold: Any
    average: Literal["geometric", "arithmetic"]
    law: Literal["power", "offset"]
    compat: Literal["qscaled", "model_scaling"] | None
    size: Mapping[str, Any]
    bootstrap: Mapping[str, Any]
    utd: tuple[Fraction, ...] | None
    seeds: tuple[int, ...] | None
    baseline_utd: Fraction | None
    variant: Literal["shared", "separate", "baseline"]
    replace: bool

    def __post_init__(self) -> None:
        if self.compat and self.law != "power":
            raise ValueError(f"law={self.law}: compat={self.compat} fits power laws only; drop one of the two")


@dataclass(frozen=True)
class Fit:
    """What the grid says: best values, laws (shared, separate) per quantity, and what was left out."""

    crossings: Crossings
    best: Mapping[str, Best]
    laws: Mapping[str, tuple[PowerLaws, PowerLaws]]
    dropped: list[tuple[str, str]]
    notes: list[str]


def fit(study: Study, reference: Reference, config: Config, track: Track) -> Fit:
    """Crossings → best values → laws, one joint bootstrap all the way."""
    bootstrap = typed(compat_qscaled.Resamples if config.compat else Bootstrap, config.bootstrap, "bootstrap")
    crossed = crossings(study, reference, config.metric, bootstrap, track)
    found, laws, notes = {}, {}, [compat_qscaled.NOTE] if config.compat else []
    for quantity in QUANTITIES:
        if config.compat:
            found[quantity] = compat_qscaled.best(crossed, quantity, config.threshold)
            shared, separate, more = compat_qscaled.power_laws(found[quantity], quantity)
        else:
            found[quantity] = best(crossed, quantity, config.threshold, config.average, bootstrap)
            fitted = offset_laws if config.law == "offset" else power_laws
            shared, separate, more = fitted(found[quantity], bootstrap, quantity)
        laws[quantity] = shared, separate
        notes += more
        if crossed.cells[quantity].nunique() == 1:
            notes.append(f"{quantity}: the grid has one value, so its exponent 0 is assumed, not measured")
        for row in found[quantity].table.itertuples():
            for share, end in ((row.at_low, "smallest"), (row.at_high, "largest")):
                if share > 0.5 and crossed.cells[quantity].nunique() > 1:
                    notes.append(
                        f"{quantity}: the {end} value of the grid wins {share:.0%} of the votes for {row.task} at "
                        f"σ={row.utd}: the best may lie outside the grid"
                    )
    dropped = [(str(r), str(why)) for r, why in study.dropped.itertuples(index=False)]
    dropped += crossed.dropped + [row for q in QUANTITIES for row in found[q].dropped]
    return Fit(crossed, found, laws, dropped, notes)


def main(cfg: DictConfig) -> None:
    config = read(Config, cfg)
    emit.check_name(config.name)
    select = typed(Select, config.select, "select")
    root = study_root()
    study = load(root, select)
    spec = common_spec(study)
    reference = reference_of(config.reference, spec["benchmark"]["name"])
    if config.compat == "model_scaling" and not study.sized:
        raise Mistake("compat=model_scaling: the selected runs have one model size, so there is no law in N; drop it")
    if study.sized:
        return hparams_sized.emit_fit(config, load(root, select, optional=(sized.RESET,)), spec, reference, root)
    fitted = fit(study, reference, config, show.tracked)

    grid = sorted(Fraction(u) for u in study.runs["utd"].unique())
    utds = sorted(set(config.utd)) if config.utd else grid
    at = config.baseline_utd or (compat_qscaled.middle(grid, utds) if config.compat else middle(grid))
    if at not in grid:
        raise Mistake(f"baseline_utd={at}: the grid has σ = {', '.join(map(str, grid))}; choose one of these")
    laws = {
        variant: {q: as_json(fitted.laws[q][i], shared=variant == "shared") for q in QUANTITIES}
        for i, variant in enumerate(("shared", "separate"))
    }
    base = (compat_qscaled.baseline if config.compat else baseline)(fitted.crossings, str(at), config.threshold)
    variants = variant_laws(laws, base)
    tasks = sorted(variants[config.variant]["batch_size"].tasks)
    if not tasks:
        raise Mistake(f"variant={config.variant}: no task has a best setting at σ={at}; choose another baseline_utd")
    seeds = config.seeds or tuple(sorted(map(int, study.runs["seed"].unique())))

    command = typed_command("hparams", config.name, select.as_overrides())
    result = {
        "schema": 1,
        "name": config.name,
        "provenance": provenance(command, study, config.select, reference)
        | {"metric": config.metric, "threshold": config.threshold, "compat": config.compat}
        | {"average": "arithmetic" if config.compat else config.average}
        | {"bootstrap": dict(config.bootstrap), "spec": spec},
        "laws": laws,
        "baseline": {"utd": str(at), "pairs": base.to_dict("records")},
        "best": best_rows(fitted.best),
        "correlation": correlation(fitted.best),
        "proposals": proposals(variants, utds),
        "thresholds": list(reference.thresholds),
        "dropped": [{"what": what, "reason": why} for what, why in fitted.dropped],
        "notes": fitted.notes,
    }
    about = [f"from {len(study.runs)} runs of {', '.join(tasks)} at σ = {', '.join(map(str, grid))}"]
    about += [
        f"{q}{' − offset' if 'offset' in law else ''} ∝ σ^{law['exponent']:.3f}, "
        f"95 % interval {show.span(law['exponent_ci95'])}"
        for q, law in laws["shared"].items()
    ]
    tables = {v: qscaled_table(variants[v], utds) for v in ("shared", "separate")}
    tables["baseline"] = qscaled_baseline(variants["baseline"], utds, grid)
    said = hparams_files.write(
        config, root, about, result, draws_of(fitted.laws), tables, variants, Grid(tasks, utds, seeds)
    )
    _print(fitted, result, study)
    show.say(said)


def draws_of(laws: Mapping[str, tuple[PowerLaws, PowerLaws]]) -> dict[str, np.ndarray]:
    """Bootstrap draws of the laws, `<variant>/<quantity>/{slope,log_intercept}` [K, T] with tasks in `tasks` [T]."""
    arrays: dict[str, np.ndarray] = {}
    for quantity, pair in laws.items():
        arrays[f"{quantity}/tasks"] = np.array(pair[0].tasks)
        for variant, law in zip(("shared", "separate"), pair, strict=True):
            arrays[f"{variant}/{quantity}/slope"] = law.slope_draws
            arrays[f"{variant}/{quantity}/log_intercept"] = law.log_intercept_draws
    return arrays


def _print(fitted: Fit, result: Mapping[str, Any], study: Study) -> None:
    diverged = int((study.runs["status"] == "diverged").sum())
    show.say(f"{len(study.runs)} runs ({diverged} diverged, kept), {len(fitted.crossings.cells)} configurations\n")
    rows = [
        [r["task"], r["utd"], r["batch_size"], show.span(r["batch_size_ci95"]), r["learning_rate"],
         show.span(r["learning_rate_ci95"]), r["reached"]]
        for r in result["best"]
    ]  # fmt: skip
    show.table("best measured", ["task", "σ", "B", "95 %", "η", "95 %", f"reached {_level(result)}"], rows)
    offset = ["offset", "95 %"] if "offset" in result["laws"]["shared"]["batch_size"] else []
    rows = [
        [q, v, t, law["exponent"] if v == "shared" else law["exponent"][t],
         show.span(law["exponent_ci95"] if v == "shared" else law["exponent_ci95"][t]),
         law["intercept"][t], show.span(law["intercept_ci95"][t]),
         *([law["offset"][t], show.span(law["offset_ci95"][t])] if offset else [])]
        for v, pair in result["laws"].items() for q, law in pair.items() for t in law["intercept"]
    ]  # fmt: skip
    show.say()
    show.table(
        f"value(σ) = {'offset + ' if offset else ''}intercept · σ^exponent",
        ["quantity", "variant", "task", "exponent", "95 %", "intercept", "95 %", *offset],
        rows,
    )
    for name, words in (("measured", "as measured"), ("given_sigma", "about their laws of σ")):
        if r := result["correlation"][name]:
            show.say(f"correlation of ln B* and ln η* {words}: {r['r']:+.2f}, 95 % {show.span(r['ci95'])}")
    if fitted.notes:
        show.say("\nnotes\n" + "\n".join(f"  {note}" for note in fitted.notes))
    if fitted.dropped:
        show.say()
        show.table(f"left out ({len(fitted.dropped)})", ["what", "reason"], fitted.dropped)


def _level(result: Mapping[str, Any]) -> str:
    levels = sorted({r["threshold"] for r in result["best"]})
    return "–".join(f"{x:g}" for x in levels)


if __name__ == "__main__":
    door(main, "analysis/hparams")

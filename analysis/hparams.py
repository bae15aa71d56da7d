"""Door: the grid's records → B*(σ) and η*(σ) with intervals, and the Hydra options that run them (METHOD A2).

python -m analysis.hparams name=gym-r1 select.algorithm=sac select.benchmark=gym
"""

from __future__ import annotations

import hashlib
import shlex
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np
import pandas as pd
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from analysis import compat_model_scaling, compat_qscaled, emit, show, size_hparams, sized
from analysis.best import Best, baseline, best
from analysis.correlation import correlation
from analysis.curves import Crossings, Reference, Track, crossings
from analysis.fits import PowerLaws, power_laws
from analysis.offset import as_json, offset_laws
from analysis.propose import VARIANTS, middle, proposals, qscaled_baseline, qscaled_table, variant_laws
from analysis.records import Select, Study, common_spec, load
from analysis.uncertainty import Bootstrap
from rlscale.door import CONF, door
from rlscale.hparams import PowerLaw
from rlscale.store import study_root
from rlscale.typed import Mistake, nearest, typed

QUANTITIES = ("learning_rate", "batch_size")
T = TypeVar("T")


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
        return sized_fit(config, load(root, select, optional=(sized.RESET,)), spec, reference, root)
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
        "best": _best_rows(fitted.best),
        "correlation": correlation(fitted.best),
        "proposals": proposals(variants, utds),
        "thresholds": list(reference.thresholds),
        "dropped": [{"what": what, "reason": why} for what, why in fitted.dropped],
        "notes": fitted.notes,
    }
    head = [
        f"Fitted by: {command}",
        f"from {len(study.runs)} runs of {', '.join(tasks)} at σ = {', '.join(map(str, grid))}",
    ]
    head += [
        f"{q}{' − offset' if 'offset' in law else ''} ∝ σ^{law['exponent']:.3f}, "
        f"95 % interval {show.span(law['exponent_ci95'])}"
        for q, law in laws["shared"].items()
    ]
    jobs = len(tasks) * len(utds)
    sweep_head = [
        f"python -m rlscale.train -m sweep=fitted/{config.name}",
        f"{jobs} jobs, {jobs * len(seeds)} runs: {len(tasks)} tasks × {len(utds)} σ, {len(seeds)} seeds in each job",
        f"Emitted by: {command}",
    ]
    folder = root / "fits" / config.name
    option, sweep = (root / "conf" / group / "fitted" / f"{config.name}.yaml" for group in ("hparams", "sweep"))
    tables = {v: qscaled_table(variants[v], utds) for v in ("shared", "separate")}
    tables["baseline"] = qscaled_baseline(variants["baseline"], utds, grid)
    files: dict[Path, str | bytes] = {
        folder / "hparams.json": emit.to_json(result),
        folder / "hparams_draws.npz": emit.to_npz(draws_of(fitted.laws)),
        **{folder / f"proposals_{v}.csv": tables[v].to_csv(index=False, lineterminator="\n") for v in VARIANTS},
        option: emit.hparams_option(head, config.variant, variants),
        sweep: emit.sweep_option(sweep_head, config.name, spec, seeds, tasks, utds),
    }
    emit.write(files, config.replace)
    _print(fitted, result, study)
    show.say(f"\nwritten: {folder / 'hparams.json'} and proposals_*.csv beside it\n         {option}\n         {sweep}")
    show.say(
        f"next:    python -m rlscale.train -m sweep=fitted/{config.name}   ({jobs} jobs, {jobs * len(seeds)} runs)"
    )


def sized_fit(config: Config, study: Study, spec: Mapping[str, Any], reference: Reference, root: Path) -> None:
    """B*(σ, N) and η*(σ, N) of a study of several model sizes, and the options that run them. Raises Mistake."""
    if config.compat == "qscaled" or config.law != "power":
        key = "law=offset" if config.law != "power" else "compat=qscaled"
        raise Mistake(
            f"{key}: the selected runs differ in model size, which it cannot fit; drop it, or select one size"
        )
    public = config.compat == "model_scaling"
    bootstrap = typed(Bootstrap, config.bootstrap, "bootstrap")
    options = typed(sized.Options, config.size, "size")
    _, crossed, reference = sized.settings(
        study, reference, config.metric, options, bootstrap, show.tracked, interpolate=False
    )
    average = "arithmetic" if public else config.average
    found = {q: best(crossed, q, config.threshold, average, bootstrap) for q in QUANTITIES}
    fits, notes = size_hparams.fits(found, public, bootstrap)
    notes = [compat_model_scaling.NOTE, *notes] if public else notes
    grid = sorted(Fraction(u) for u in study.runs["utd"].unique())
    utds = sorted(set(config.utd)) if config.utd else grid
    at = config.baseline_utd or middle(grid)
    if at not in grid:
        raise Mistake(f"baseline_utd={at}: the grid has σ = {', '.join(map(str, grid))}; choose one of these")
    widths = size_hparams.widths_of(crossed)
    base = size_hparams.baseline(crossed, str(at))
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
        "best": _best_rows(found, ("task", "utd", "width", "n_params")),
        "proposals": size_hparams.proposals(variants, utds, widths),
        "thresholds": list(reference.thresholds),
        "dropped": [{"what": what, "reason": why} for what, why in dropped],
        "notes": notes,
    }
    every = sorted({w for t in tasks for w in widths[t]})
    jobs = len(tasks) * len(utds) * len(every)
    head = [f"Fitted by: {command}", f"from {len(study.runs)} runs of {', '.join(tasks)}"]
    head += ["B*(σ, N) = a / (σ^alpha · (1 + (b/N)^c)), N the critics' parameters of the job's own learner"]
    sweep_head = [
        f"python -m rlscale.train -m sweep=fitted/{config.name}",
        f"{jobs} jobs, {jobs * len(seeds)} runs: {len(tasks)} tasks × {len(utds)} σ × {len(every)} widths, "
        f"{len(seeds)} seeds in each job",
        f"Emitted by: {command}",
    ]
    folder = root / "fits" / config.name
    option, sweep = (root / "conf" / group / "fitted" / f"{config.name}.yaml" for group in ("hparams", "sweep"))
    draws = {f"{name}/{key}": array for name, f in fits.items() for key, array in f.draws.items()}
    rows = pd.DataFrame(result["proposals"])
    files: dict[Path, str | bytes] = {
        folder / "hparams.json": emit.to_json(result),
        folder / "hparams_draws.npz": emit.to_npz(draws),
        **{
            folder / f"proposals_{v}.csv": rows[rows["variant"] == v].to_csv(index=False, lineterminator="\n")
            for v in VARIANTS
        },
        option: emit.hparams_option(head, config.variant, variants),
        sweep: emit.sweep_option(sweep_head, config.name, spec, seeds, tasks, utds, every),
    }
    emit.write(files, config.replace)
    size_hparams.show_fit(result)
    show.say(f"\nwritten: {folder / 'hparams.json'} and proposals_*.csv beside it\n         {option}\n         {sweep}")
    show.say(
        f"next:    python -m rlscale.train -m sweep=fitted/{config.name}   ({jobs} jobs, {jobs * len(seeds)} runs)"
    )


def read(cls: type[T], cfg: DictConfig) -> T:
    """The door's config as its frozen dataclass, without Hydra's own node. Raises Mistake."""
    values = OmegaConf.to_container(cfg, resolve=True, throw_on_missing=False)
    assert isinstance(values, dict)
    if values.get("name") == "???":
        raise Mistake("name is not set: give the fit a name, name=gym-r1")
    try:
        return typed(cls, {str(k): v for k, v in values.items() if k != "hydra"}, "config")
    except Mistake as mistake:
        raise Mistake(str(mistake).removeprefix("config.")) from None  # a door's own keys are typed without a prefix


def reference_of(values: Mapping[str, Any], benchmark: str) -> Reference:
    """The reference as chosen; `auto` is the benchmark's own with the values that were set laid over it."""
    if values.get("name") != "auto":
        return typed(Reference, values, "reference")
    homes = [CONF / "reference", study_root() / "conf" / "reference"]
    found = [home / f"{benchmark}.yaml" for home in homes if (home / f"{benchmark}.yaml").is_file()]
    if not found:
        known = sorted(p.stem for home in homes for p in home.glob("*.yaml") if p.stem != "auto")
        raise Mistake(f"reference=auto: there is no reference for benchmark {benchmark}; {nearest(benchmark, known)}")
    over = {k: v for k, v in values.items() if v is not None and k != "name"}
    merged = OmegaConf.to_container(OmegaConf.merge(OmegaConf.load(found[0]), OmegaConf.create(over)))
    assert isinstance(merged, dict)
    return typed(Reference, {str(k): v for k, v in merged.items()}, "reference")


def typed_command(door: str, name: str, select: list[str]) -> str:
    """The command line as it was typed (without `replace`), or as the config says where there was none."""
    words = list(HydraConfig.get().overrides.task) if HydraConfig.initialized() else [f"name={name}", *select]
    return " ".join([f"python -m analysis.{door}", *(shlex.quote(w) for w in words if not w.startswith("replace="))])


def provenance(command: str, study: Study, select: Mapping[str, Any], reference: Reference) -> dict[str, Any]:
    """What the fit is of: enough to read the same runs again and to see whether they are the same. No dates."""
    ids = list(study.runs["run_id"])
    return {
        "command": command,
        "select": dict(select),
        "reference": {k: dict(v) if isinstance(v, Mapping) else v for k, v in vars(reference).items()},
        "runs": len(ids),
        "runs_sha256": hashlib.sha256("\n".join(ids).encode()).hexdigest(),
    }


def draws_of(laws: Mapping[str, tuple[PowerLaws, PowerLaws]]) -> dict[str, np.ndarray]:
    """Bootstrap draws of the laws, `<variant>/<quantity>/{slope,log_intercept}` [K, T] with tasks in `tasks` [T]."""
    arrays: dict[str, np.ndarray] = {}
    for quantity, pair in laws.items():
        arrays[f"{quantity}/tasks"] = np.array(pair[0].tasks)
        for variant, law in zip(("shared", "separate"), pair, strict=True):
            arrays[f"{variant}/{quantity}/slope"] = law.slope_draws
            arrays[f"{variant}/{quantity}/log_intercept"] = law.log_intercept_draws
    return arrays


def _best_rows(found: Mapping[str, Best], keys: tuple[str, ...] = ("task", "utd")) -> list[dict[str, Any]]:
    rate, batch = (found[q].table.set_index(list(keys)) for q in QUANTITIES)
    rows = []
    for key in rate.index.intersection(batch.index, sort=False):
        r, b = rate.loc[key], batch.loc[key]
        rows.append(
            {
                **dict(zip(keys, key, strict=True)),
                "learning_rate": r["value"], "learning_rate_ci95": [r["low"], r["high"]],
                "batch_size": b["value"], "batch_size_ci95": [b["low"], b["high"]],
                "reached": bool(r["reached"] and b["reached"]), "threshold": r["threshold"],
                "share": {q: float(v["share"]) for q, v in zip(QUANTITIES, (r, b), strict=True)},
                "at_grid_end": {
                    q: [float(v["at_low"]), float(v["at_high"])] for q, v in zip(QUANTITIES, (r, b), strict=True)
                },
            }
        )  # fmt: skip
    return rows


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

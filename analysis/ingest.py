"""Door: other people's runs → the same records that training writes, so that everything after is blind to the source.

python -m analysis.ingest source=qscaled source.path=dmc_sweep.zip source.benchmark=dmc source.algorithm=bro
"""

from __future__ import annotations

import importlib
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from analysis import show
from analysis.outside import Collection, outside, sort_out, write
from analysis.sources import Found, Source
from analysis.sources.archive import sha256_of
from rlscale.door import door
from rlscale.spec import SPLITS
from rlscale.store import Store
from rlscale.typed import Mistake, convert, nearest, typed

KEYS = ("source", "split", "dry", "replace")
OURS = ("name", "benchmark", "algorithm")  # keys of `source` that the door reads; the rest are the source's own
NAME = re.compile(r"[A-Za-z0-9][\w.+-]*(/[A-Za-z0-9][\w.+-]*)*")


def main(cfg: DictConfig) -> None:
    values = OmegaConf.to_container(cfg, resolve=True, throw_on_missing=False)
    assert isinstance(values, dict)
    config = {str(key): value for key, value in values.items() if key != "hydra"}
    for key in config:
        if key not in KEYS:
            raise Mistake(f"{key}={config[key]}: there is no such key; {nearest(key, KEYS)}")
    if config.get("source") is None:
        raise Mistake("source is not set: choose where the runs are, source=qscaled, model_scaling, csv or wandb")
    source, given = source_of(config["source"])
    dry, replace = (convert(config[key], bool, key) for key in ("dry", "replace"))
    split = config["split"]
    if split is not None and split not in SPLITS:
        raise Mistake(f"split={split}: there is no such split; {nearest(str(split), SPLITS)}")
    found, dropped = source.read(show.tracked)
    collection = collection_of(given, source, split)
    if not found:
        reasons = "; ".join(f"{what}: {why}" for what, why in dropped[:3])
        raise Mistake(f"source.name={collection.name}: no run is left ({reasons or 'there was none'}); give others")
    store = Store()
    runs = (outside(run, collection) for run in show.tracked(found, len(found), "making records"))
    new, known, more = sort_out(runs, store, replace)
    if not dry:  # also with nothing new: a crash may have left its corner behind
        write(new, store, show.tracked)
    report(found, dropped + more, collection)
    verb = "would be written" if dry else "written"
    show.say(f"\n{len(new)} runs {verb} to {store.runs}, {known} were there already")
    doors = "analysis.hparams, analysis.laws, analysis.diagnostics, analysis.export"
    show.say(f"next:    select.sweep={collection.name}   in {doors}")


def source_of(values: Mapping[str, Any]) -> tuple[Source, dict[str, Any]]:
    """The source that `_target_` names, made from its own keys; and the keys that all sources share."""
    for key, value in values.items():
        if value == "???":
            raise Mistake(f"source.{key} is not set: give it a value, source.{key}=…")
    module, _, name = str(values.get("_target_")).rpartition(".")
    try:
        cls = getattr(importlib.import_module(module), name)
    except (ImportError, ValueError, AttributeError) as error:
        raise Mistake(f"source._target_={module}.{name}: this cannot be imported ({error}); name a class") from None
    own = {str(key): value for key, value in values.items() if key not in ("_target_", *OURS)}
    source: Source = typed(cls, own, "source")
    return source, {key: values.get(key) for key in OURS}


def collection_of(given: Mapping[str, Any], source: Source, split: str | None) -> Collection:
    """What names this ingest: `source.name`, or the file's name without its ending."""
    path = getattr(source, "path", None)
    at = Path(path).expanduser() if path is not None else None
    name = given["name"] if given["name"] is not None or at is None else at.resolve().stem
    if name is None or not NAME.fullmatch(str(name)):
        raise Mistake(f"source.name={name}: this cannot be chosen with select.sweep=…; give a plain word")
    words = {key: convert(given[key], str, f"source.{key}") for key in ("benchmark", "algorithm")}
    kind = type(source).__module__.rpartition(".")[2]
    provenance: dict[str, Any] = {"kind": kind}
    if at is not None:
        provenance |= {"file": at.name, "sha256": sha256_of(at)}
    return Collection(str(name), words["benchmark"], words["algorithm"], split, provenance)


def report(found: Sequence[Found], dropped: Sequence[tuple[str, str]], collection: Collection) -> None:
    """What was found, task by task, and what was left out."""
    rows = []
    for task in sorted({run.task for run in found}):
        runs = [run for run in found if run.task == task]
        seeds = Counter((r.utd, r.batch_size, r.learning_rate, tuple(r.algorithm_fields.items())) for r in runs)
        length = [int(run.curve["env_step"].iloc[-1]) for run in runs]
        rows.append(
            [task, _listed({r.utd for r in runs}), _listed({r.batch_size for r in runs}),
             _listed({r.learning_rate for r in runs}), len(seeds), _range(seeds.values()), _range(length)]
        )  # fmt: skip
    show.table(
        f"{collection.name}: {collection.algorithm} on {collection.benchmark}, {len(found)} runs",
        ["task", "σ", "B", "η", "configurations", "seeds", "last env step"],
        rows,
    )
    show.say(f"for example {found[0].origin}")
    if dropped:
        show.say()
        show.table(f"left out ({len(dropped)})", ["what", "reason"], dropped)


def _listed(values: set[Any]) -> str:
    text = [str(v) if isinstance(v, int | Fraction) else f"{v:g}" for v in sorted(values)]
    return " ".join(text) if len(text) <= 8 else f"{text[0]} … {text[-1]} ({len(text)})"


def _range(values: Any) -> str:
    low, high = min(values), max(values)
    return f"{low:,}" if low == high else f"{low:,}–{high:,}"


if __name__ == "__main__":
    door(main, "analysis/ingest")

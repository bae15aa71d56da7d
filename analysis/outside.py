"""Other people's runs as records of our own kind: what names one, what its folder holds, how it gets there.

A run from outside is named by what it is, as ours are, and by the collection that it belongs to: the collection is
part of the hashed spec (``spec.source``), which no spec of ours has, so the two kinds can never meet in one folder, and
the same configuration and seed in two collections stays two runs, which `records.common_spec` will not mix.
"""

from __future__ import annotations

import csv
import fcntl
import hashlib
import io
import json
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from analysis.sources import Found, Track
from rlscale.spec import SPEC_VERSION, Member, canonical_json, plain
from rlscale.store import FIRST_COLUMNS, Store
from rlscale.typed import Mistake

STAGE = ".ingest"  # where folders are made whole before they are moved to their place; what a crash leaves is removed


@dataclass(frozen=True)
class Collection:
    """What all runs of one ingest share and a source does not tell. `source` goes into every record as it is."""

    name: str
    benchmark: str
    algorithm: str
    split: str | None
    source: Mapping[str, Any]


@dataclass(frozen=True)
class Outside:
    """One run from outside, ready to be written: its files by name."""

    run_id: str
    origin: str
    curve_sha256: str
    files: Mapping[str, str]


def outside(found: Found, collection: Collection) -> Outside:
    """The folder of one run. What nobody logged (updates, wall clock, parameters, …) is null, never guessed.

    Raises Mistake where the run's σ, B, η or seed cannot be.
    """
    check(found)
    fields = dict(found.algorithm_fields)
    n_params = fields.pop("n_params", None)  # a measure, which differs between tasks of one learner: not its identity
    identity = plain(
        {
            "spec_version": SPEC_VERSION,
            "spec": {
                "source": collection.name,
                "algorithm": {"name": collection.algorithm} | fields,
                "benchmark": {"name": collection.benchmark, "task": found.task},
                "utd": found.utd,
                "batch_size": found.batch_size,
                "budget": {},
            },
            "member": {"seed": found.seed, "learning_rate": found.learning_rate},
        }
    )
    run = hashlib.sha256(canonical_json(identity).encode()).hexdigest()[:16]
    curve = curve_csv(found)
    digest = hashlib.sha256(curve.encode()).hexdigest()
    record = {
        "schema": 1, "run_id": run, **identity,
        "transitions": int(found.curve["env_step"].iloc[-1]), "updates": None, "utd_realised": None,
        "n_params": {"critic": n_params, "actor": None, "total": None},
        "flops_per_update": None, "wall_s": None, "status": "finished", "resumes": 0,
        "last": {name: last(found, name) for name in ("train_return", "eval_return")},
        "asked_by": {"sweep": collection.name, "hparams": None, "split": collection.split, "overrides": []},
        "source": {"name": collection.name, **collection.source, "origin": found.origin, "curve_sha256": digest},
        "git": None, "versions": {}, "device": None, "pack_size": None, "started": None, "finished": None,
    }  # fmt: skip
    return Outside(
        run, found.origin, digest,
        {
            "spec.json": json.dumps(identity, indent=1, sort_keys=True) + "\n",
            "curve.csv": curve,
            "record.json": json.dumps(record, indent=1) + "\n",
        },
    )  # fmt: skip


def check(found: Found) -> None:
    """What a source has found can be a run. Raises Mistake."""
    try:
        Member(found.seed, found.learning_rate)
        if found.utd <= 0 or found.batch_size <= 0:
            raise ValueError(f"utd={found.utd}, batch_size={found.batch_size}: both must be above 0")
        if not found.task.strip():
            raise ValueError("task is empty: a run needs the name of its task")
    except ValueError as error:
        raise Mistake(f"{found.origin}: {error}") from None


def curve_csv(found: Found) -> str:
    """The curve as the store writes one: its first columns, then metrics; all digits, empty where not logged."""
    metrics = [name for name in found.curve.columns if name not in FIRST_COLUMNS]
    columns: list[Iterable[str]] = []
    for name in (*FIRST_COLUMNS, *metrics):
        if name not in found.curve.columns:
            columns.append([""] * len(found.curve))
        elif name == "env_step":
            columns.append(map(str, found.curve[name].tolist()))
        else:
            columns.append(["" if value != value else repr(value) for value in found.curve[name].tolist()])
    head = io.StringIO()  # a metric may be called anything, so its name may need quotes; numbers never do
    csv.writer(head, lineterminator="\n").writerow([*FIRST_COLUMNS, *metrics])
    return head.getvalue() + "\n".join(map(",".join, zip(*columns, strict=True))) + "\n"


def last(found: Found, name: str) -> float | None:
    """The last value logged of a column, or None."""
    if name not in found.curve.columns:
        return None
    values = found.curve[name].to_numpy(dtype=np.float64)
    values = values[np.isfinite(values)]
    return float(values[-1]) if values.size else None


def sort_out(runs: Iterable[Outside], store: Store, replace: bool) -> tuple[list[Outside], int, list[tuple[str, str]]]:
    """(what is to be written, how many are recorded already, what was left out).

    A run whose configuration and seed the collection holds with another curve is neither merged nor lost: Mistake.
    """
    new: dict[str, Outside] = {}
    seen: dict[str, Outside] = {}
    known = 0
    dropped: list[tuple[str, str]] = []
    for run in runs:
        if (twin := seen.setdefault(run.run_id, run)) is not run:
            if twin.curve_sha256 != run.curve_sha256:
                raise Mistake(
                    f"{run.origin} and {twin.origin} are the same configuration and seed with different curves; "
                    "remove one, or ingest them under names of their own (source.name=…)"
                )
            dropped.append((run.origin, f"the same run as {twin.origin}"))
            continue
        record = store.record(run.run_id)
        if record is None or (replace and record["source"]["curve_sha256"] != run.curve_sha256):
            new[run.run_id] = run
        elif record["source"]["curve_sha256"] != run.curve_sha256:
            raise Mistake(
                f"{run.origin}: source.name={record['source']['name']} holds this configuration and seed already with "
                f"another curve (from {record['source']['origin']}); give another source.name, or replace=true"
            )
        else:
            known += 1
    return list(new.values()), known, dropped


def write(runs: Sequence[Outside], store: Store, track: Track) -> None:
    """Make every folder whole in a corner, then move each to its place: a crash leaves whole runs or none."""
    with _alone(store) as stage:
        for run in track(runs, len(runs), "writing records"):
            (stage / run.run_id).mkdir()
            for name, text in run.files.items():
                (stage / run.run_id / name).write_text(text)
        os.sync()  # once for all: a record must not reach the disk before the curve it speaks of
        for run in runs:
            place = store.runs / run.run_id
            if place.exists():
                place.rename(stage / f"{run.run_id}.old")
            (stage / run.run_id).rename(place)


@contextmanager
def _alone(store: Store) -> Iterator[Path]:
    """An empty corner of the study's own, one process at a time."""
    store.runs.mkdir(parents=True, exist_ok=True)
    stage = store.runs / STAGE
    with (store.runs / ".ingest.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        shutil.rmtree(stage, ignore_errors=True)
        stage.mkdir()
        try:
            yield stage
        finally:
            shutil.rmtree(stage, ignore_errors=True)

"""Reads `study/runs/*/{record.json, curve.csv}` into tidy tables; every run left out is listed with its reason."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from analysis.curve_files import read
from rlscale.typed import Mistake, nearest

RUN_COLUMNS = [
    "run_id", "algorithm", "benchmark", "task", "utd", "sigma", "batch_size", "learning_rate", "seed", "width",
    "status",    "n_params", "flops_per_update", "updates", "transitions", "utd_realised", "hparams", "sweep", "device",
    "split",
]  # fmt: skip
SIZE_FIELDS = ("width", "blocks", "depth", "size")  # of a learner: what may differ between runs that differ in N
CURVE_COLUMNS = ["env_step", "train_return", "eval_return"]
KEPT = ("finished", "diverged")


@dataclass(frozen=True)
class Select:
    """Which runs of the study are read; null means all. A run is meant if any of those who asked for it matches."""

    algorithm: str | None
    benchmark: str | None
    tasks: tuple[str, ...] | None
    hparams: str | None
    sweep: str | None

    def as_overrides(self) -> list[str]:
        """The selection as it would be typed: ``["select.algorithm=sac", …]``."""
        words = [(k, v) for k, v in vars(self).items() if v is not None]
        return [f"select.{k}={'[' + ','.join(v) + ']' if isinstance(v, tuple) else v}" for k, v in words]


@dataclass(frozen=True)
class Study:
    """The selected runs, sorted by run_id so that nothing depends on the order of folders.

    `runs`: one row per run, RUN_COLUMNS (`utd` is exact text such as "1/4", `sigma` the same as a float; `hparams` and
    `sweep` are the option names of the first asker, `split` the first that any named, else fit; a number that nobody
    measured is NaN). `curves`: CURVE_COLUMNS, the metrics asked for, and run_id; one row per logging point, rising in
    env_step within a run.
    `dropped`: run_id, reason. `specs`: run_id → the record's spec.
    """

    runs: pd.DataFrame
    curves: pd.DataFrame
    dropped: pd.DataFrame
    specs: Mapping[str, Mapping[str, Any]]

    @property
    def sized(self) -> bool:
        """Whether some task was run at several model sizes N, so that laws are of (σ, N)."""
        return bool(self.runs.groupby("task")["n_params"].nunique().max() > 1)


def load(root: Path, select: Select, metrics: Sequence[str] = (), optional: Sequence[str] = ()) -> Study:
    """Read the runs under `root`/runs that `select` means; `metrics`, `optional` are further columns of their curves.

    A column is NaN in the runs that did not log it. Raises Mistake when there is no run, or no run with the metric.
    """
    rows: list[dict[str, Any]] = []
    dropped: list[tuple[str, str]] = []
    specs: dict[str, Mapping[str, Any]] = {}
    seen: list[dict[str, Any]] = []
    runs = root / "runs"
    names = os.listdir(runs) if runs.is_dir() else []
    folders = {n: f"{runs}/{n}" for n in sorted(names) if not n.startswith(".") and os.path.isdir(f"{runs}/{n}")}
    for name, folder in folders.items():  # as text: with Path objects a large study takes twice as long
        try:
            with open(f"{folder}/record.json", "rb") as file:
                record = json.loads(file.read())
            row = _row(name, record)
            askers = list(_askers(folder, record))
            row["split"] = next((a["split"] for a in askers if a.get("split")), "fit")
        except FileNotFoundError:
            dropped.append((name, "not finished: there is no record.json"))
            continue
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            dropped.append((name, f"record.json cannot be read: {type(error).__name__} {error}"))
            continue
        seen.append(row | {"askers": askers})
        if not _meant(row, askers, select):
            continue
        if row["status"] not in KEPT:
            dropped.append((name, f"status is {row['status']}, not one of {', '.join(KEPT)}"))
            continue
        rows.append(row)
        specs[name] = record["spec"]
    files = [f"{folders[row['run_id']]}/curve.csv" for row in rows]
    table = read(files, CURVE_COLUMNS, [*metrics, *optional], root / "cache" / "curves")
    dropped += [(rows[i]["run_id"], f"curve.csv cannot be read: {why}") for i, why in table.faults.items()]
    kept = [row for i, row in enumerate(rows) if i not in table.faults]
    if rows and not kept:
        raise Mistake(f"none of the {len(rows)} selected runs can be used ({': '.join(dropped[-1])}); select others")
    if not kept:
        raise Mistake(_nothing(root, select, seen))
    for metric in metrics:
        if not np.isfinite(table.columns[metric]).any():
            raise Mistake(f"metric {metric}: none of the {len(kept)} selected runs logged it; choose another")
    curves = pd.DataFrame(dict(table.columns), copy=False)
    if (table.columns["env_step"] % 1 == 0).all():
        curves["env_step"] = table.columns["env_step"].astype(np.int64)
    curves["run_id"] = np.repeat(np.array([row["run_id"] for row in rows], dtype=object), table.lengths)
    return Study(
        pd.DataFrame(kept, columns=RUN_COLUMNS), curves, pd.DataFrame(sorted(dropped), columns=["run_id", "reason"]),
        {row["run_id"]: specs[row["run_id"]] for row in kept},
    )  # fmt: skip


def _row(run_id: str, record: Mapping[str, Any]) -> dict[str, Any]:
    spec, member = record["spec"], record["member"]
    utd = Fraction(str(spec["utd"]))
    asked = record.get("asked_by") or {}
    return {
        "run_id": run_id,
        "algorithm": str(spec["algorithm"]["name"]),
        "benchmark": str(spec["benchmark"]["name"]),
        "task": str(spec["benchmark"]["task"]),
        "utd": str(utd),
        "sigma": float(utd),
        "batch_size": int(spec["batch_size"]),
        "learning_rate": float(member["learning_rate"]),
        "seed": int(member["seed"]),
        "width": spec["algorithm"].get("width"),
        "status": str(record["status"]),
        "n_params": _number(record["n_params"]["critic"]),
        "flops_per_update": _number(record["flops_per_update"]),
        "updates": _number(record["updates"]),
        "transitions": _number(record["transitions"]),
        "utd_realised": record["utd_realised"],
        "hparams": asked.get("hparams"),
        "sweep": asked.get("sweep"),
        "device": record.get("device"),
    }


def _number(value: Any) -> float:
    """A measured number; NaN where the record has null, as those of runs from outside do."""
    return math.nan if value is None else float(value)


def _askers(folder: str, record: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """Who asked for the run: the one that trained it, then every later one that found it recorded."""
    yield record.get("asked_by") or {}
    if os.path.exists(f"{folder}/asked_by.jsonl"):
        for line in Path(folder, "asked_by.jsonl").read_text().splitlines():
            if line.strip():
                yield json.loads(line)


def _meant(row: Mapping[str, Any], askers: list[Mapping[str, Any]], select: Select) -> bool:
    if select.algorithm not in (None, row["algorithm"]) or select.benchmark not in (None, row["benchmark"]):
        return False
    if select.tasks is not None and row["task"] not in select.tasks:
        return False
    return any(
        select.hparams in (None, asker.get("hparams")) and select.sweep in (None, asker.get("sweep"))
        for asker in askers
    )


def _nothing(root: Path, select: Select, seen: list[dict[str, Any]]) -> str:
    """Why no run is left, in a sentence: the first key of the selection that nothing matches."""
    if not seen:
        return f"{root / 'runs'} holds no record.json: run a sweep first, or point RLSCALE_STUDY at your study"
    have: dict[str, set[str]] = {
        "algorithm": {r["algorithm"] for r in seen},
        "benchmark": {r["benchmark"] for r in seen},
        "tasks": {r["task"] for r in seen},
        "hparams": {str(a["hparams"]) for r in seen for a in r["askers"] if a.get("hparams")},
        "sweep": {str(a["sweep"]) for r in seen for a in r["askers"] if a.get("sweep")},
    }
    for key, known in have.items():
        wanted = getattr(select, key)
        for word in (wanted,) if isinstance(wanted, str) else wanted or ():
            if word not in known:
                mend = nearest(word, known) if known else "they have none, so leave it out"
                return f"select.{key}={word}: none of the {len(seen)} runs in {root} has it; {mend}"
    return f"{' '.join(select.as_overrides()) or 'select'}: no run in {root} matches all of these; drop one of them"


def common_spec(study: Study, free: Collection[str] | None = None) -> dict[str, dict[str, Any]]:
    """What all selected runs share: ``{algorithm, benchmark (without task), budget}``.

    Raises Mistake naming the first key in which they differ: curves of different learners are not one law, and runs of
    two collections may be the same runs twice. In the learner's fields `free` they may differ, which are left out then;
    None: in SIZE_FIELDS where they differ in N.
    """
    free = (SIZE_FIELDS if study.sized else ()) if free is None else free
    collections = sorted(
        {str(study.specs[run_id].get("source", "this study's own")) for run_id in study.runs["run_id"]}
    )
    if len(collections) > 1:
        raise Mistake(
            f"the selected runs are of several collections ({', '.join(collections[:3])}), which may hold the same run "
            "twice: choose one with select.sweep, or ingest both under one source.name"
        )
    shared: dict[str, dict[str, Any]] = {}
    for part in ("algorithm", "benchmark", "budget"):
        bodies = [dict(study.specs[run_id][part]) for run_id in study.runs["run_id"]]
        keys = sorted({key for body in bodies for key in body} - ({"task"} if part == "benchmark" else set()))
        for key in keys:
            values = sorted({json.dumps(body.get(key), sort_keys=True) for body in bodies})
            if len(values) > 1 and part == "algorithm" and key in free:
                bodies[0].pop(key, None)
            elif len(values) > 1:
                raise Mistake(
                    f"the selected runs differ in {part}.{key} ({' and '.join(values[:3])}): "
                    "one fit needs one learner; narrow it with select.sweep, select.algorithm or select.benchmark"
                )
        shared[part] = {key: bodies[0].get(key) for key in bodies[0] if key in keys}
    return shared

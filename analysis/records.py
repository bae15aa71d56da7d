"""Reads `study/runs/*/{record.json, curve.csv}` into tidy tables; every run left out is listed with its reason."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import pandas as pd

from rlscale.typed import Mistake, nearest

RUN_COLUMNS = [
    "run_id", "algorithm", "benchmark", "task", "utd", "sigma", "batch_size", "learning_rate", "seed", "width",
    "status",    "n_params", "flops_per_update", "updates", "transitions", "utd_realised", "hparams", "sweep", "device",
]  # fmt: skip
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
    `sweep` are the option names of the first asker). `curves`: run_id and CURVE_COLUMNS, one row per logging point.
    `dropped`: run_id, reason. `specs`: run_id → the record's spec.
    """

    runs: pd.DataFrame
    curves: pd.DataFrame
    dropped: pd.DataFrame
    specs: Mapping[str, Mapping[str, Any]]


def load(root: Path, select: Select) -> Study:
    """Read the runs under `root`/runs that `select` means. Raises Mistake when there is none."""
    rows: list[dict[str, Any]] = []
    tables: list[pd.DataFrame] = []
    dropped: list[tuple[str, str]] = []
    specs: dict[str, Mapping[str, Any]] = {}
    seen: list[dict[str, Any]] = []
    folders = sorted((root / "runs").iterdir()) if (root / "runs").is_dir() else []
    for folder in folders:
        if not folder.is_dir() or folder.name.startswith("."):
            continue
        if not (folder / "record.json").exists():
            dropped.append((folder.name, "not finished: there is no record.json"))
            continue
        try:
            record = json.loads((folder / "record.json").read_text())
            row = _row(folder.name, record)
            askers = list(_askers(folder, record))
        except (ValueError, KeyError, TypeError) as error:
            dropped.append((folder.name, f"record.json cannot be read: {type(error).__name__} {error}"))
            continue
        seen.append(row | {"askers": askers})
        if not _meant(row, askers, select):
            continue
        if row["status"] not in KEPT:
            dropped.append((folder.name, f"status is {row['status']}, not one of {', '.join(KEPT)}"))
            continue
        try:
            curve = pd.read_csv(folder / "curve.csv", usecols=CURVE_COLUMNS)
        except (OSError, ValueError) as error:
            dropped.append((folder.name, f"curve.csv cannot be read: {error}"))
            continue
        rows.append(row)
        specs[row["run_id"]] = record["spec"]
        tables.append(curve.assign(run_id=row["run_id"]))
    if not rows:
        raise Mistake(_nothing(root, select, seen))
    runs = pd.DataFrame(rows, columns=RUN_COLUMNS).sort_values("run_id", ignore_index=True)
    curves = pd.concat(tables, ignore_index=True).sort_values(["run_id", "env_step"], ignore_index=True, kind="stable")
    return Study(runs, curves, pd.DataFrame(dropped, columns=["run_id", "reason"]), specs)


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
        "n_params": int(record["n_params"]["critic"]),
        "flops_per_update": float(record["flops_per_update"]),
        "updates": int(record["updates"]),
        "transitions": int(record["transitions"]),
        "utd_realised": str(record["utd_realised"]),
        "hparams": asked.get("hparams"),
        "sweep": asked.get("sweep"),
        "device": str(record.get("device")),
    }


def _askers(folder: Path, record: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """Who asked for the run: the one that trained it, then every later one that found it recorded."""
    yield record.get("asked_by") or {}
    if (folder / "asked_by.jsonl").exists():
        for line in (folder / "asked_by.jsonl").read_text().splitlines():
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
        "hparams": {str(a.get("hparams")) for r in seen for a in r["askers"]},
        "sweep": {str(a.get("sweep")) for r in seen for a in r["askers"]},
    }
    for key, known in have.items():
        wanted = getattr(select, key)
        for word in (wanted,) if isinstance(wanted, str) else wanted or ():
            if word not in known:
                return f"select.{key}={word}: none of the {len(seen)} runs in {root} has it; {nearest(word, known)}"
    return f"{' '.join(select.as_overrides()) or 'select'}: no run in {root} matches all of these; drop one of them"


def common_spec(study: Study) -> dict[str, dict[str, Any]]:
    """What all selected runs share: ``{algorithm, benchmark (without task), budget}``.

    Raises Mistake naming the first key in which they differ: curves of different learners are not one law.
    """
    shared: dict[str, dict[str, Any]] = {}
    for part in ("algorithm", "benchmark", "budget"):
        bodies = [dict(study.specs[run_id][part]) for run_id in study.runs["run_id"]]
        keys = sorted({key for body in bodies for key in body} - ({"task"} if part == "benchmark" else set()))
        for key in keys:
            values = sorted({json.dumps(body.get(key), sort_keys=True) for body in bodies})
            if len(values) > 1:
                raise Mistake(
                    f"the selected runs differ in {part}.{key} ({' and '.join(values[:3])}): "
                    "one fit needs one learner; narrow it with select.sweep, select.algorithm or select.benchmark"
                )
        shared[part] = {key: bodies[0].get(key) for key in bodies[0] if key in keys}
    return shared

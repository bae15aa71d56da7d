"""What the tests of log=wandb share: a desk without W&B, and how to tell whether W&B holds what the study holds."""

from __future__ import annotations

import csv
import os
from pathlib import Path
from typing import Any

import pytest

from analysis.sources.wandb_files import records
from tests.smoke.desk import TINY, Desk

OFFLINE = (*TINY, "log=wandb", "log.progress=false", "log.wandb.mode=offline")
METRICS = ("critic_loss", "actor_loss", "updates", "train_episodes")
COLUMNS = ("env_step", "train_return", "eval_return", *METRICS)


def desk_without_wandb(tmp_path: Path, request: pytest.FixtureRequest) -> Desk:
    """A person's desk without W&B credentials or settings, and with no network that would answer."""
    cache = request.config.cache.mkdir(f"xla-{os.environ.get('PYTEST_XDIST_WORKER', 'one')}")  # type: ignore[union-attr]
    environment = {key: value for key, value in os.environ.items() if not key.startswith("WANDB_")} | {
        "PYTHONPATH": os.pathsep.join(map(str, (tmp_path / "first", Path(__file__).resolve().parents[2]))),
        "HOME": str(tmp_path),
        "JAX_COMPILATION_CACHE_DIR": str(cache),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
        "WANDB_BASE_URL": "http://127.0.0.1:9",
        "WANDB_ERROR_REPORTING": "false",
        "WANDB_MODE": "disabled",  # which the option overrules
    }
    return Desk(tmp_path, environment)


def folders(desk: Desk) -> list[Path]:
    return sorted((desk.study / "wandb").glob("offline-run-*"))


def id_of(folder: Path) -> str:
    [file] = folder.glob("run-*.wandb")
    return file.stem.removeprefix("run-")


def curve(study: Path, run: str) -> list[dict[str, float | None]]:
    """What a run's curve holds of what ingest was told to take; floats as they are, exactly."""
    with (study / "runs" / run / "curve.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    return [{name: float(row[name]) if row.get(name) else None for name in COLUMNS} for row in rows]


def same(one: list[dict[str, float | None]], other: list[dict[str, float | None]]) -> bool:
    assert one[-1]["eval_return"] is not None and one[-1]["critic_loss"]
    return one == other


def identity(record: dict[str, Any]) -> tuple[Any, ...]:
    spec, member = record["spec"], record["member"]
    told = (spec["algorithm"]["name"], spec["algorithm"]["width"], spec["benchmark"]["name"], spec["benchmark"]["task"])
    return (*told, spec["utd"], spec["batch_size"], member["learning_rate"], member["seed"])


def read_back(desk: Desk, *words: str) -> None:
    """Ingest the offline folders into another study: as many runs, with equal specs and curves, to the last bit."""
    other = Desk(desk.here.parent / "other", desk.environment)
    metrics = ",".join(f"{name}: {name}" for name in METRICS)
    source = ("source=wandb", f"source.folder={desk.study / 'wandb'}", "source.name=back", "source.benchmark=toy")
    mapping = ("source.history.eval_return=eval_return", f"source.history.metrics={{{metrics}}}")
    algorithm = ("source.algorithm=sac", "source.config.algorithm={width: algorithm.width}")
    said = other.train(*source, *mapping, *algorithm, *words, module="analysis.ingest")
    ours = {identity(record): run for run, record in desk.records().items()}
    back = {identity(record): run for run, record in other.records().items()}
    assert set(ours) == set(back) and len(other.records()) == len(ours), said
    for what, run in ours.items():
        assert same(curve(desk.study, run), curve(other.study, back[what])), what


def ends(desk: Desk) -> dict[str, list[int | None]]:
    """Run → the exit code in each of its folders, None where it says nothing of its end."""
    found: dict[str, list[int | None]] = {}
    for folder in folders(desk):
        codes = [r.exit.exit_code for r in records(folder / f"run-{id_of(folder)}.wandb") if r.HasField("exit")]
        found.setdefault(id_of(folder), []).append(codes[0] if codes else None)
    return found


def rows_of(folder: Path) -> int:
    """How many rows of history reached the folder's file."""
    return sum(record.HasField("history") for record in records(folder / f"run-{id_of(folder)}.wandb"))

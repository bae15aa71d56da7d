"""What the tests of source=wandb share: the option as the door makes it, and the runs of a W&B project."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from analysis.sources import Found
from analysis.sources.wandb import Wandb
from rlscale.typed import typed

REPO = Path(__file__).resolve().parents[2]
CONF = OmegaConf.load(REPO / "conf" / "source" / "wandb.yaml")
DOORS = ("_target_", "benchmark", "algorithm", "name")


def source(**changes: Any) -> Wandb:
    """The option as the door would make it; `__` in a name is a dot. Nothing waits."""
    config = OmegaConf.merge(CONF, {"wait_s": 0.0})
    for key, value in changes.items():
        OmegaConf.update(config, key.replace("__", "."), value)
    own = OmegaConf.to_container(OmegaConf.masked_copy(config, [k for k in config if k not in DOORS]))
    assert isinstance(own, dict)
    return typed(Wandb, {str(k): v for k, v in own.items()}, "source")


def read(**changes: Any) -> tuple[list[Found], list[tuple[str, str]]]:
    return source(**{"project": "p", **changes}).read(lambda items, count, label: items)


def config(**changes: Any) -> dict[str, Any]:
    return {"task": "Hopper-v4", "utd": 0.25, "batch_size": 256, "learning_rate": 3e-4, "seed": 1} | changes


def rows(count: int = 5, **more: Any) -> list[dict[str, Any]]:
    return [{"_step": 10 * i, "env_step": 1000 * i, "train_return": float(i)} | more for i in range(count)]


class Run:
    """In the place of wandb's Run."""

    entity, project = "e", "p"

    def __init__(self, name: str, config: dict[str, Any], rows: list[dict[str, Any]], state: str = "finished") -> None:
        self.id, self.config, self.rows, self.state = name, config, rows, state
        self.heartbeatAt = "2026-01-01T00:00:00"
        self.scans = 0
        self.fail: list[Exception] = []

    @property
    def historyKeys(self) -> dict[str, Any]:
        return {"lastStep": self.rows[-1]["_step"]}

    @property
    def historyLineCount(self) -> int:
        return len(self.rows)

    def scan_history(self, page_size: int = 1000) -> Iterator[dict[str, Any]]:
        self.scans += 1
        if self.fail:
            raise self.fail.pop(0)
        yield from self.rows

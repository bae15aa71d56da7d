"""What the tests of `benchmark=isaacgym` share: a machine with the stand-ins of tests/standins, and environments."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Any

import pytest

from rlscale.benchmarks import isaacgym as suite
from rlscale.benchmarks.isaacgym import IsaacGym

STANDINS = Path(__file__).resolve().parents[1] / "standins"
E, SEED = 3, 7
PACKAGES = ("isaacgym", "isaacgymenvs", "torch")
WITH_STANDINS = [str(STANDINS / "isaac"), str(STANDINS / "isaac_torch")]


def stand_in(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """A machine with the stand-ins, on which a server that never answers costs a test ten seconds at most."""
    interpreter(monkeypatch, *WITH_STANDINS)
    monkeypatch.setenv("RLSCALE_ISAAC_TIMEOUT", "10")
    monkeypatch.delenv("RLSCALE_ISAAC_DEVICE", raising=False)
    monkeypatch.delenv("RLSCALE_ISAAC_LOG", raising=False)
    suite._about.cache_clear()
    return monkeypatch


def interpreter(machine: pytest.MonkeyPatch, *paths: str, program: str = sys.executable) -> None:
    machine.setenv("RLSCALE_ISAAC_PYTHON", shlex.join(["env", f"PYTHONPATH={':'.join(paths)}", program]))


def made(task: str = "Ant", *, spurious: bool = False, seed: int = SEED) -> Any:
    return IsaacGym("isaacgym", task, E, spurious).make(seed)

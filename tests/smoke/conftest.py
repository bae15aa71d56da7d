"""What the tests of the real command lines share."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.smoke.desk import SWEEP, Desk

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="session")
def environment(request: pytest.FixtureRequest) -> dict[str, str]:
    """Of a user who has run such commands before: compiled programs are kept from one process to the next."""
    cache = request.config.cache.mkdir(f"xla-{os.environ.get('PYTEST_XDIST_WORKER', 'one')}")  # type: ignore[union-attr]
    return os.environ | {
        "PYTHONPATH": str(ROOT),
        "JAX_COMPILATION_CACHE_DIR": str(cache),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
    }


@pytest.fixture
def desk(tmp_path: Path, environment: dict[str, str]) -> Desk:
    return Desk(tmp_path, environment)


@pytest.fixture(scope="session")
def whole(tmp_path_factory: pytest.TempPathFactory, environment: dict[str, str]) -> Desk:
    """A study with the whole sweep, made without interruption; to look at only."""
    desk = Desk(tmp_path_factory.mktemp("whole"), environment)
    desk.train(*SWEEP)
    return desk

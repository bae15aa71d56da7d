"""What the tests of `analysis` share: a synthetic study, the published numbers, and the doors."""

from __future__ import annotations

import io
import json
import warnings
from collections.abc import Callable
from contextlib import redirect_stdout
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir

from analysis.curves import Reference
from rlscale.typed import Mistake
from tests.analysis.synthetic import THRESHOLDS, World

REPO = Path(__file__).resolve().parents[2]
CONF = REPO / "conf"
PUBLISHED = REPO.parent / "shared" / "published"


@pytest.fixture(scope="session")
def golden() -> Callable[[str], Any]:
    """Reads a published golden file; the test is skipped where the folder is absent."""

    def read(name: str) -> Any:
        path = PUBLISHED / "golden" / name
        if not path.exists():
            pytest.skip(f"the published data are not at {PUBLISHED}")
        return json.loads(path.read_text())

    return read


@pytest.fixture(scope="session")
def reference() -> Reference:
    floor, ceiling = {"pendulum": -1250.0, "cartpole_swingup": 25.0}, {"pendulum": -150.0, "cartpole_swingup": 870.0}
    return Reference("control", floor, ceiling, THRESHOLDS, None, 2e7)


@pytest.fixture(scope="session")
def world() -> World:
    return World(
        utds=("1/2", "1", "2", "4"), batch_sizes=(64, 128, 256, 512), learning_rates=(1.5e-4, 3e-4, 6e-4, 1.2e-3),
        seeds=4, env_steps=24000, log_every=200,
    )  # fmt: skip


@pytest.fixture(scope="session")
def grid(tmp_path_factory: pytest.TempPathFactory, world: World) -> Path:
    """A study that holds the grid of `world`; read only."""
    root = tmp_path_factory.mktemp("grid")
    world.write_grid(root)
    return root


@dataclass(frozen=True)
class Done:
    """How a door ended."""

    returncode: int
    stdout: str
    stderr: str


@pytest.fixture(scope="session")
def door() -> Callable[..., Done]:
    """Runs the door `analysis.<name>` on a study, in this process: what `rlscale.door` adds has its own test below."""

    def run(name: str, root: Path, *words: str) -> Done:
        main = import_module(f"analysis.{name}").main
        home, config = (CONF / "analysis", name) if name == "plan" else (CONF, f"analysis/{name}")
        out = io.StringIO()
        with (
            pytest.MonkeyPatch.context() as patch,
            warnings.catch_warnings(),
            redirect_stdout(out),
            initialize_config_dir(str(home), version_base="1.3"),
        ):
            patch.setenv("RLSCALE_STUDY", str(root))
            warnings.filterwarnings("ignore", message=r"provider=hydra.searchpath")  # as rlscale.door does
            try:
                main(compose(config, list(words)))
            except Mistake as mistake:
                return Done(2, out.getvalue(), f"error: {mistake}\n")
        return Done(0, out.getvalue(), "")

    return run

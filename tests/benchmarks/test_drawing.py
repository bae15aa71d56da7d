"""Films of the simulators themselves: drawn as they should be, and undisturbed by it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from ctypes.util import find_library
from pathlib import Path

import numpy as np
import pytest

from rlscale.benchmarks.humanoid_bench import HumanoidBench
from rlscale.film import Film
from rlscale.job import Log
from tests.films import pictures


def test_humanoid_bench_is_drawn_as_the_package_draws_it() -> None:
    """Its own size fits as it is but for a few lines; the package may be the stand-in."""
    pytest.importorskip("gymnasium")
    bench = HumanoidBench("humanoid_bench", "h1-stand-v0", 2)
    env, film = bench.filmed(0), Film(bench.spec().episode_steps)
    env.reset()
    for _ in range(5):
        film.look(env)
        env.step(np.ones((2, bench.spec().action_dim), np.float32))
    assert [picture.size for picture in film.frames] == [(240, 240)] * 2


DRAW = """
import json, sys
import numpy as np
from rlscale.benchmarks.dmc import DMCPython
from rlscale.benchmarks.franka import FrankaC
from rlscale.benchmarks.gym import GymPython

tasks = {
    "gym": [GymPython("gym", task, 2, "python") for task in ("HalfCheetah-v4", "Hopper-v4")],
    "dmc": [DMCPython("dmc", task, 2, 1, "python") for task in ("cheetah-run", "walker-walk")],
    "franka": [FrankaC("franka", "franka_push", 2, "c", 0.25, 0.5)] * 2,
}
told = {}
for name, (task, another) in tasks.items():
    actions = np.random.default_rng(0).uniform(-1, 1, (30, 2, task.spec().action_dim)).astype(np.float32)
    plain, filmed, beside = task.make(5), task.filmed(5), another.filmed(5)
    same, pictures = bool((plain.reset() == filmed.reset()).all()), [filmed.frame()]
    beside.reset()
    beside.frame()  # its surfaces differ, and its context is now the last
    again = filmed.frame()
    for action in actions:
        outs = plain.step(action), filmed.step(action)
        same &= all((a == b).all() for a, b in zip(*outs))
        if len(pictures) < 3:
            pictures.append(filmed.frame())
    told[name] = {
        "same": same,
        "shapes": [(p.shape, str(p.dtype)) for p in pictures],
        "spread": [float(p.std()) for p in pictures],
        "moved": float(np.abs(pictures[0].astype(int) - pictures[2]).mean()),
        "disturbed": float(np.abs(pictures[0].astype(int) - again).max()),
    }
    for env in (plain, filmed, beside):
        env.close()
print(json.dumps(told))
"""


@pytest.fixture
def drawing(monkeypatch: pytest.MonkeyPatch) -> None:
    """MUJOCO_GL for child processes, if anything can draw here."""
    pytest.importorskip("mujoco")
    monkeypatch.delenv("MUJOCO_GL", raising=False)
    if not (find_library("EGL") or find_library("OSMesa")):
        pytest.skip("neither libEGL nor libOSMesa is installed, so nothing can be drawn")
    Log(True, 10.0, video=True, wandb=None).prepare()


@pytest.mark.slow
@pytest.mark.usefixtures("drawing")
def test_simulators_are_drawn_and_not_disturbed(root: Path) -> None:
    """In a process of its own: MuJoCo reads MUJOCO_GL when it is first imported."""
    said = subprocess.run([sys.executable, "-c", DRAW], cwd=root, capture_output=True, text=True, check=False)
    assert said.returncode == 0, said.stderr
    for told in json.loads(said.stdout).values():
        assert told["same"]  # as without a camera, bit for bit
        assert told["shapes"] == [[[240, 320, 3], "uint8"]] * 3
        assert min(told["spread"]) > 20  # neither black nor of one colour
        assert told["moved"] > 0.1
        assert told["disturbed"] == 0  # by another environment that is drawn meanwhile


@pytest.mark.slow
@pytest.mark.usefixtures("drawing")
@pytest.mark.parametrize(
    "task",
    ["benchmark=gym benchmark.task=Reacher-v4", "benchmark=dmc benchmark.task=cheetah-run benchmark.action_repeat=20"],
)
def test_a_run_with_a_video(study: Path, root: Path, task: str, request: pytest.FixtureRequest) -> None:
    """The real command line, on tasks of 50 steps; the curves are those of the run without a video."""
    words = [*task.split(), "budget=smoke", "algorithm.width=8", "hparams.batch_size=16", "seed=[0,1]"]
    cache = request.config.cache.mkdir(f"xla-{os.environ.get('PYTEST_XDIST_WORKER', 'one')}")  # type: ignore[union-attr]
    quick = os.environ | {
        "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
        "JAX_COMPILATION_CACHE_DIR": str(cache),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }
    told = []
    for video in ("true", "false"):
        command = [sys.executable, "-m", "rlscale.train", *words, f"log.video={video}"]
        said = subprocess.run(command, cwd=root, env=quick, capture_output=True, text=True, check=False)
        assert said.returncode == 0, said.stderr
        assert "Traceback" not in said.stderr and "Warning" not in said.stderr, said.stderr
        folders = sorted(path.parent for path in study.glob("runs/*/record.json"))
        assert len(folders) == 2
        told.append([without_wall(folder / "curve.csv") for folder in folders])
        if video == "true":
            for folder in folders:
                seen = pictures(folder / "evaluation.gif")
                assert len(seen) == 50 and seen[0].shape == (240, 320, 3) and seen[0].std() > 20
                (folder / "record.json").unlink()
    assert told[0] == told[1]


def without_wall(curve: Path) -> list[list[str]]:
    lines = [line.split(",") for line in curve.read_text().splitlines()]
    at = lines[0].index("wall_s")
    return [line[:at] + line[at + 1 :] for line in lines]

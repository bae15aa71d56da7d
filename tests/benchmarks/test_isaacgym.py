"""The `isaacgym` suite against the stand-ins: what it returns is what the package does, stepped in this process.

The server runs as it does on a machine with Isaac Gym, in a process of its own; only its packages are the stand-ins,
whatever interpreter the environment names.
"""

from __future__ import annotations

import importlib
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Any

import numpy as np
import pytest

from rlscale.benchmarks.isaacgym import IsaacGym
from tests.benchmarks.isaac_machine import PACKAGES, SEED, STANDINS, WITH_STANDINS, E, interpreter, made

pytestmark = pytest.mark.usefixtures("machine")

# The stand-in, stepped in this process as its own package has it


@pytest.fixture
def native(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], Any]]:
    """`make` of the stand-in in this process, with its generators seeded."""
    before = {name: sys.modules.pop(name) for name in list(sys.modules) if name.split(".")[0] in PACKAGES}
    for path in WITH_STANDINS:
        monkeypatch.syspath_prepend(path)

    def make(task: str) -> Any:
        isaacgymenvs = importlib.import_module("isaacgymenvs")
        importlib.import_module("torch").manual_seed(SEED)
        return isaacgymenvs.make(SEED, task, E, "cuda:0", "cuda:0", headless=True, force_render=False)

    yield make
    for name in [name for name in sys.modules if name.split(".")[0] in PACKAGES]:
        del sys.modules[name]
    sys.modules.update(before)


def begin(env: Any) -> np.ndarray:
    """PQL's way into an episode: everything is marked, and a step of zeros resets it."""
    env.reset_buf.fill_(1)
    return env.step(env.zero_actions())[0]["obs"].numpy().copy()


def step(env: Any, action: np.ndarray) -> list[np.ndarray]:
    """Copies of obs, reward, ended and timed_out."""
    torch = sys.modules["torch"]
    obs, reward, resets, extras = env.step(torch.from_numpy(np.clip(action, -1, 1)))
    assert resets.dtype == np.int64
    return [x.numpy().copy() for x in (obs["obs"], reward, resets != 0, extras["time_outs"])]


def scripts(steps: int) -> Iterator[np.ndarray | None]:
    """Random actions, some beyond the box, and now and then None: reset everything."""
    random = np.random.default_rng(3)
    yield None
    for _ in range(steps):
        yield None if random.random() < 0.01 else random.uniform(-1.5, 1.5, (E, 2)).astype(np.float32)


STEPS = [500, pytest.param(10_000, marks=pytest.mark.slow)]


@pytest.mark.parametrize("steps", STEPS)
def test_the_published_behaviour_equals_a_direct_run(steps: int, native: Callable[[str], Any]) -> None:
    """`spurious_transition`: what the package itself does, step by step, bit by bit."""
    as_published(native("BallBalance"), steps)


@pytest.mark.parametrize("other", ["python3.8", pytest.param("torch", marks=pytest.mark.slow)])
def test_other_interpreters_serve_the_same(
    other: str, machine: pytest.MonkeyPatch, native: Callable[[str], Any]
) -> None:
    """The server under the Python that Isaac Gym has, and with PyTorch in the place of its stand-in."""
    direct = native("BallBalance")
    if other == "torch":
        interpreter(machine, str(STANDINS / "isaac"))
        machine.setenv("RLSCALE_ISAAC_DEVICE", "cpu")
        probe = [sys.executable, "-c", "import torch"]
    else:
        interpreter(machine, *WITH_STANDINS, program=other)
        probe = [other, "-c", "import sys, numpy; assert sys.version_info[:2] == (3, 8)"]
    if shutil.which(probe[0]) is None or subprocess.run(probe, capture_output=True, cwd="/").returncode:
        pytest.skip(f"{' '.join(probe)} fails here")
    machine.setenv("RLSCALE_ISAAC_TIMEOUT", "60")
    as_published(direct, steps=500)


def as_published(direct: Any, steps: int) -> None:
    ends = cut = 0
    with closing(made("BallBalance", spurious=True)) as env:
        for action in scripts(steps):
            if action is None:
                np.testing.assert_array_equal(env.reset(), begin(direct))
                continue
            obs, reward, ended, timed_out = step(direct, action)
            out = env.step(action)
            for ours, theirs in zip(out, (obs, reward, ended & ~timed_out, timed_out, obs), strict=True):
                np.testing.assert_array_equal(ours, theirs)
            ends, cut = ends + ended.sum(), cut + timed_out.sum()
    assert cut > steps // 200 and ends - cut > steps // 200


@pytest.mark.parametrize("steps", STEPS)
def test_reset_in_the_step_equals_a_direct_run_without_its_spurious_steps(
    steps: int, native: Callable[[str], Any]
) -> None:
    """Row i as in a direct run of its own that makes one step more, of zeros, whenever row i has ended."""
    direct, ends = [native("BallBalance") for _ in range(E)], 0
    with closing(made("BallBalance")) as env:
        for action in scripts(steps):
            if action is None:
                np.testing.assert_array_equal(env.reset(), [begin(own)[i] for i, own in enumerate(direct)])
                continue
            out = env.step(action)
            for i, own in enumerate(direct):
                obs, reward, ended, timed_out = (x[i] for x in step(own, action))
                np.testing.assert_array_equal(out.final_obs[i], obs)
                assert out.reward[i] == reward
                assert (out.terminated[i], out.truncated[i]) == (ended and not timed_out, timed_out)
                if ended:
                    obs, ends = step(own, np.zeros((E, 2), np.float32))[0][i], ends + 1
                np.testing.assert_array_equal(out.obs[i], obs)
    assert ends > steps // 50


def test_results_are_the_callers_own() -> None:
    """The simulator's buffers change with its next step, and so does the shared memory; what was returned does not."""
    action = np.ones((E, 2), np.float32)
    with closing(made()) as env:
        first = env.reset()
        held = first.copy()
        out = env.step(action)
        kept = [x.copy() for x in out]
        env.step(-action)
        env.reset()
    np.testing.assert_array_equal(first, held)
    for ours, copy in zip(out, kept, strict=True):
        np.testing.assert_array_equal(ours, copy)


@pytest.mark.slow
@pytest.mark.parametrize("spurious", [False, True])
def test_a_time_out_comes_at_the_limit(spurious: bool) -> None:
    assert IsaacGym("isaacgym", "Ant", E, spurious).spec()[:3] == (6, 2, 40 if spurious else 39)
    ages = []
    with closing(made(spurious=spurious)) as env:
        env.reset()
        for now in range(1, 100):
            out = env.step(np.zeros((E, 2), np.float32))
            cut = out.truncated
            assert not out.terminated.any() and cut.all() == cut.any()
            # with the spurious transition an episode's end is where it goes on, and the next step leads into the next
            assert (out.obs == out.final_obs).all() == (spurious or not cut.any())
            if cut.all():
                ages.append(now)
    assert ages == ([39, 79] if spurious else [39, 78])


@pytest.mark.slow
def test_such_a_task_runs_with_its_spurious_transition(native: Callable[[str], Any]) -> None:
    direct = native("ShadowHand")
    with closing(made("ShadowHand", spurious=True)) as env:
        np.testing.assert_array_equal(env.reset(), begin(direct))
        for action in np.random.default_rng(0).uniform(-1, 1, (100, E, 2)).astype(np.float32):
            np.testing.assert_array_equal(env.step(action).obs, step(direct, action)[0])

"""The `humanoid_bench` suite against its package, or against the stand-in of it where the package is missing."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rlscale.benchmarks import humanoid_bench as suite
from rlscale.benchmarks.humanoid_bench import HumanoidBench
from rlscale.typed import Mistake

gymnasium = pytest.importorskip("gymnasium")


def made(task: str, num_envs: int = 1, seed: int = 7) -> Any:
    return HumanoidBench("humanoid_bench", task, num_envs).make(seed)


@pytest.mark.parametrize(
    ("task", "sizes"),
    [
        ("h1-crawl-v0", (51, 19, 1000)),  # 70 numbers go into the critic of the study's three tasks
        ("h1-pole-v0", (51, 19, 1000)),
        ("h1-stand-v0", (51, 19, 1000)),
        ("h1hand-walk-v0", (151, 61, 1000)),
        ("h1-reach-v0", (57, 19, 1000)),
    ],
)
def test_shapes(task: str, sizes: tuple[int, int, int]) -> None:
    assert HumanoidBench("humanoid_bench", task, 1).spec()[:3] == sizes


@pytest.mark.parametrize("task", ["h1-pole-v0", "h1-reach-v0"])  # ends early; draws from NumPy's global generator
def test_equals_the_environment_stepped_by_hand(task: str) -> None:
    env = made(task, num_envs=2)
    own = int(np.random.SeedSequence((7, 1)).generate_state(1)[0])  # of copy 1
    hand = gymnasium.make(task, disable_env_checker=True)
    np.random.seed(own)
    obs, theirs = env.reset(), hand.reset(seed=own)[0]
    np.testing.assert_array_equal(obs[1], theirs.astype(np.float32))
    for action in np.random.default_rng(0).uniform(-1, 1, (1100, 2, 19)).astype(np.float32):
        out = env.step(action)
        theirs, reward, terminated, truncated, _ = hand.step(action[1])
        np.testing.assert_array_equal(out.final_obs[1], theirs.astype(np.float32))
        assert out.reward[1] == np.float32(reward)
        assert (out.terminated[1], out.truncated[1]) == (terminated, truncated and not terminated)
        if terminated or truncated:
            theirs, _ = hand.reset()
        np.testing.assert_array_equal(out.obs[1], theirs.astype(np.float32))


def test_goals_come_from_the_seed_whatever_else_is_drawn() -> None:
    """In the package they come from NumPy's global generator: copies keep theirs apart, and give the caller's back."""
    np.random.seed(1)
    undisturbed = np.random.uniform(size=2)
    np.random.seed(1)
    env = made("h1-reach-v0", num_envs=2)
    first = env.reset()
    drawn = np.random.uniform(size=1)
    second = env.reset()
    np.testing.assert_array_equal([*drawn, *np.random.uniform(size=1)], undisturbed)
    goals = np.stack([first, second])[..., -3:]  # [episode, copy, 3]
    assert len(np.unique(goals.reshape(4, 3), axis=0)) == 4
    alone = made("h1-reach-v0")  # copy 0, in another number
    np.testing.assert_array_equal(np.concatenate([alone.reset(), alone.reset()])[:, -3:], goals[:, 0])


def test_a_task_is_made_quietly(capfd: Any) -> None:
    made("h1-stand-v0").close()  # which prints a line of its own
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("task", "sentence"),
    [
        ("h1-crawl", r"no such task; did you mean h1-crawl-v0\?"),
        ("h1-standing-v0", r"no such task; did you mean h1-stand-v0\?"),
        ("Hopper-v4", r"no such task"),
        ("", r"no such task"),
        ("h1-cube-v0", r"no model of this robot at this task; File .*h1_pos_cube\.xml does not exist$"),
        ("h1-push-v0", r"it needs a renderer, so set MUJOCO_GL=egl or osmesa; "),
    ],
)
def test_mistakes(task: str, sentence: str, monkeypatch: Any) -> None:
    monkeypatch.setenv("MUJOCO_GL", "disable")
    with pytest.raises(Mistake, match=sentence) as error:
        HumanoidBench("humanoid_bench", task, 1).spec()
    assert str(error.value).startswith(f"benchmark.task={task}: ") and "\n" not in str(error.value)


def test_without_the_package_it_says_how_to_install_it(monkeypatch: Any) -> None:
    monkeypatch.setitem(sys.modules, "humanoid_bench", None)
    bench = HumanoidBench("humanoid_bench", "h1-walk-v0", 1)  # typing a config needs no package
    with pytest.raises(Mistake) as error:
        bench.spec()
    said = str(error.value)
    assert said.startswith("benchmark=humanoid_bench: the package is missing") and "\n" not in said
    for word in (
        "git clone https://github.com/carlosferrazza/humanoid-bench",
        "pip install --no-deps -e ./humanoid-bench",
        "gymnasium==0.29.1",
        "mujoco==3.1.6",
    ):
        assert word in said
    assert isinstance(error.value.__cause__, ImportError)


def test_a_package_whose_own_needs_are_missing_says_which(monkeypatch: Any, tmp_path: Path) -> None:
    (tmp_path / "humanoid_bench.py").write_text("import torch_that_nobody_has\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "humanoid_bench", raising=False)
    with pytest.raises(Mistake, match=r"^benchmark=humanoid_bench: its import fails .*torch_that_nobody_has"):
        HumanoidBench("humanoid_bench", "h1-run-v0", 1).spec()


def test_the_shapes_are_asked_of_one_environment(monkeypatch: Any) -> None:
    suite._spec.cache_clear()
    asked: list[str] = []
    make = suite._make
    monkeypatch.setattr(suite, "_make", lambda task: asked.append(task) or make(task))  # type: ignore[func-returns-value]
    for _ in range(3):
        HumanoidBench("humanoid_bench", "h1-stand-v0", 1).spec()
    assert asked == ["h1-stand-v0"]


def test_numbers_out_of_range() -> None:
    with pytest.raises(ValueError, match=r"^num_envs=0: give a whole number"):
        HumanoidBench("humanoid_bench", "h1-stand-v0", 0)

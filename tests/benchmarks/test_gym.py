"""The `gym` suite against Gymnasium's own environments, stepped by hand."""

from __future__ import annotations

import itertools
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rlscale.benchmarks.gym import GymPython
from rlscale.typed import Mistake

gymnasium = pytest.importorskip("gymnasium")


class Probe(gymnasium.Env):
    """Records the actions it gets; ends as told: `ends` maps a step to (terminated, truncated)."""

    observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (2, 2))
    action_space = gymnasium.spaces.Box(np.float32([-3.0, 0.1]), np.float32([5.0, 0.4]))

    def __init__(self, ends: dict[int, tuple[bool, bool]]) -> None:
        self.ends, self.count, self.actions = ends, 0, []

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict]:
        super().reset(seed=seed)
        self.count = 0
        return np.full((2, 2), -1.0, np.float32), {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict]:
        self.count += 1
        self.actions.append(action)
        return np.full((2, 2), self.count, np.float32), 1.0, *self.ends.get(self.count, (False, False)), {}


NUMBERS = itertools.count()  # shapes are cached by name: every probe has its own


@pytest.fixture
def registered() -> Any:
    """Registers a task for the length of one test; returns its id."""
    names: list[str] = []

    def register(entry_point: Any, **kwargs: Any) -> str:
        names.append(f"Probe{next(NUMBERS)}-v0")
        gymnasium.register(names[-1], entry_point=entry_point, **kwargs)
        return names[-1]

    yield register
    for name in names:
        del gymnasium.registry[name]


@pytest.mark.parametrize("task", ["Hopper-v4", "Pendulum-v1"])
def test_equals_the_environment_stepped_by_hand(task: str) -> None:
    """Copy by copy, with Gymnasium's own action rescaling, through terminations and time-outs."""
    steps, num_envs = 450, 2
    env = GymPython("gym", task, num_envs, "python").make(seed=7)
    obs = env.reset()
    action_dim = GymPython("gym", task, num_envs, "python").spec().action_dim
    actions = np.random.default_rng(0).uniform(-1, 1, (steps, num_envs, action_dim)).astype(np.float32)
    ours = [env.step(action) for action in actions]
    for i in range(num_envs):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            hand = gymnasium.wrappers.RescaleAction(gymnasium.make(task), np.float32(-1), np.float32(1))
        theirs, _ = hand.reset(seed=int(np.random.SeedSequence((7, i)).generate_state(1)[0]))
        np.testing.assert_array_equal(obs[i], theirs.astype(np.float32))
        for action, out in zip(actions, ours, strict=True):
            theirs, reward, terminated, truncated, _ = hand.step(action[i])
            np.testing.assert_allclose(out.final_obs[i], theirs, rtol=1e-5, atol=1e-5)
            np.testing.assert_allclose(out.reward[i], reward, rtol=1e-5, atol=1e-5)
            assert (out.terminated[i], out.truncated[i]) == (terminated, truncated)
            if terminated or truncated:
                theirs, _ = hand.reset()
            np.testing.assert_allclose(out.obs[i], theirs, rtol=1e-5, atol=1e-5)


def test_a_copy_is_the_same_in_any_number() -> None:
    few, many = (GymPython("gym", "Pendulum-v1", n, "python").make(seed=3).reset() for n in (2, 5))
    np.testing.assert_array_equal(few, many[:2])


def test_the_tasks_own_box_is_reached(registered: Any) -> None:
    made = []

    def entry_point() -> Probe:
        made.append(Probe({}))
        return made[-1]

    task = registered(entry_point, max_episode_steps=5)
    assert GymPython("gym", task, 1, "python").spec()[:3] == (4, 2, 5)  # flat
    env = GymPython("gym", task, 1, "python").make(seed=0)
    env.reset()
    for size in (-1.0, 0.0, 1.0, 7.0):
        env.step(np.full((1, 2), size, np.float32))
    low, high = Probe.action_space.low, Probe.action_space.high
    np.testing.assert_allclose(made[-1].actions, [low, (low + high) / 2, high, high], rtol=1e-6)
    assert all(Probe.action_space.contains(action) for action in made[-1].actions)


@pytest.mark.parametrize("ends", [(True, True), (True, False), (False, True)])
def test_a_true_end_wins_over_the_limit(registered: Any, ends: tuple[bool, bool]) -> None:
    task = registered(lambda: Probe({3: ends}), max_episode_steps=50)
    env = GymPython("gym", task, 1, "python").make(seed=0)
    env.reset()
    for _ in range(3):
        out = env.step(np.zeros((1, 2), np.float32))
    assert out.terminated[0] == ends[0] and out.truncated[0] == (not ends[0])
    assert (out.final_obs == 3).all() and (out.obs == -1).all()
    # the same tie, made by Gymnasium's own limit
    task = registered(lambda: Probe({3: (True, False)}), max_episode_steps=3)
    env = GymPython("gym", task, 1, "python").make(seed=0)
    env.reset()
    for _ in range(3):
        out = env.step(np.zeros((1, 2), np.float32))
    assert out.terminated[0] and not out.truncated[0]


def test_one_copy_ends_alone(registered: Any) -> None:
    ends = iter([{}, {2: (True, False)}, {}, {}])  # the first is made for its spec
    task = registered(lambda: Probe(next(ends)), max_episode_steps=50)
    env = GymPython("gym", task, 3, "python").make(seed=0)
    env.reset()
    env.step(np.zeros((3, 2), np.float32))
    out = env.step(np.zeros((3, 2), np.float32))
    assert out.terminated.tolist() == [True, False, False]
    assert out.obs[:, 0].tolist() == [-1, 2, 2] and out.final_obs[:, 0].tolist() == [2, 2, 2]


def test_the_papers_tasks_are_made_quietly(tmp_path: Path, monkeypatch: Any, capfd: Any) -> None:
    monkeypatch.chdir(tmp_path)  # where MuJoCo would leave its log
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        GymPython("gym", "HalfCheetah-v4", 1, "python").make(seed=0).close()
    assert capfd.readouterr() == ("", "")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("task", "sizes"),
    [
        ("HalfCheetah-v4", (17, 6, 1000)),
        ("Hopper-v4", (11, 3, 1000)),
        ("Walker2d-v4", (17, 6, 1000)),
        ("Ant-v4", (27, 8, 1000)),  # 105 in v5
        ("Humanoid-v4", (376, 17, 1000)),  # 348 in v5
        ("Pendulum-v1", (3, 1, 200)),
    ],
)
def test_shapes(task: str, sizes: tuple[int, int, int]) -> None:
    assert GymPython("gym", task, 1, "python").spec()[:3] == sizes


@pytest.mark.parametrize(
    ("task", "sentence"),
    [
        ("Hoper-v4", r"no such task; did you mean Hopper-v4\?"),
        ("HalfCheetah-v9", r"no such task; did you mean HalfCheetah-v4\?"),
        ("HalfCheeta-v5", r"did you mean HalfCheetah-v5\?"),
        ("Pendulm-v1", r"did you mean Pendulum-v1\?"),
        ("what is this", r"choose one of Ant-v4, "),
        ("", r"no such task"),
        ("Pendulum", r"the version is missing; write Pendulum-v1"),
        ("CartPole-v1", r"its actions are Discrete\(2\), not a Box"),
        ("FrozenLake-v1", r"its observations are Discrete\(16\), not a Box"),
        ("HalfCheetah-v3", r"moved to the gymnasium-robotics"),
        ("no_such_module:Task-v0", r"No module named 'no_such_module'"),
    ],
)
def test_mistakes(task: str, sentence: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(Mistake, match=sentence) as error:
            GymPython("gym", task, 1, "python").spec()
    assert str(error.value).startswith(f"benchmark.task={task}: ") and "\n" not in str(error.value)


def test_spaces_that_are_not_for_this_house(registered: Any) -> None:
    class Unbounded(Probe):
        action_space = gymnasium.spaces.Box(-np.inf, np.inf, (1,))

    class Whole(Probe):
        action_space = gymnasium.spaces.Box(0, 5, (1,), np.int64)

    for kind in (Unbounded, Whole):
        task = registered(lambda kind=kind: kind({}), max_episode_steps=5)
        with pytest.raises(Mistake, match="not a bounded Box"):
            GymPython("gym", task, 1, "python").spec()
    with pytest.raises(Mistake, match="no time limit"):
        GymPython("gym", registered(lambda: Probe({})), 1, "python").spec()
    with pytest.raises(ValueError, match=r"^num_envs=0"):
        GymPython("gym", "Pendulum-v1", 0, "python")

"""`backend: envpool` of the suites gym and dmc: resets, randomness, repeated actions, sentences for mistakes."""

from __future__ import annotations

import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rlscale import envpool
from rlscale.benchmarks import dmc, gym
from rlscale.benchmarks.dmc import DMCEnvPool, DMCPython
from rlscale.benchmarks.gym import GymEnvPool, GymPython
from rlscale.envpool import Pool, Task
from rlscale.job import component
from rlscale.typed import Mistake
from rlscale.types import ResumableEnv, Step
from tests.benchmarks.pools import SUITE, actions, pooled

package = pytest.importorskip("envpool", reason="the envpool extra is not installed")
gymnasium = pytest.importorskip("gymnasium")


# Resets


def test_a_copy_that_ends_restarts_alone() -> None:
    """The others go on with their own steps, and each is what it is alone."""
    env = pooled("Hopper-v4", num_envs=4)
    obs = env.reset()
    ends = np.zeros(4, int)
    for action in actions(env, 120):
        out = env.step(action)
        over = out.terminated
        assert not out.truncated.any() and (out.final_obs != obs).any(axis=1).all()
        assert (out.obs[~over] == out.final_obs[~over]).all()
        assert (np.abs(out.obs[over] - [1.25, *np.zeros(10)]) <= 0.00501).all()  # Hopper's first observations
        assert (np.abs(out.final_obs[over] - [1.25, *np.zeros(10)]) > 0.00501).any(axis=1).all()
        ends += over
        obs = out.obs
    assert (ends >= 2).all() and len(set(ends)) > 1


def test_a_true_end_wins_over_the_limit() -> None:
    """EnvPool by itself calls an end in the limit's own step a time-out."""
    task = gym._pooled("Hopper-v4")
    env = Pool(task, 1, seed=0)
    env.reset()
    moves = actions(env, 100)
    ended = next(number for number, action in enumerate(moves, start=1) if env.step(action).terminated[0])
    for limit, kind in ((ended, (True, False)), (ended - 1, (False, True))):
        env = Pool(task._replace(episode=limit), 1, seed=0)
        env.reset()
        outs = [env.step(action) for action in moves[:limit]]
        assert not any(out.terminated[0] or out.truncated[0] for out in outs[:-1])
        assert (outs[-1].terminated[0], outs[-1].truncated[0]) == kind


# Randomness


def rolled(task: str, num_envs: int, seed: int) -> tuple[np.ndarray, list[Step]]:
    env = pooled(task, num_envs, seed)
    moves = np.random.default_rng(0).uniform(-1, 1, (60, 4, env._box._low.size)).astype(np.float32)
    return env.reset(), [env.step(action[:num_envs]) for action in moves]


@pytest.mark.parametrize("task", ["Hopper-v4", "cheetah-run"])
def test_a_copy_is_the_same_in_any_number(task: str) -> None:
    """Also in later episodes, which begin when others do not."""
    (few, ours), (many, theirs) = rolled(task, 2, 3), rolled(task, 4, 3)
    np.testing.assert_array_equal(few, many[:2])
    for a, b in zip(ours, theirs, strict=True):
        for x, y in zip(a, b, strict=True):
            np.testing.assert_array_equal(x, y[:2])


def test_no_copy_is_another_seeds() -> None:
    """EnvPool's own seeds count up from the first copy's, so that the next member would share all copies but one."""
    first = np.concatenate([pooled("Hopper-v4", 4, seed).reset() for seed in range(8)])
    assert len(np.unique(first, axis=0)) == len(first)


# Actions


def test_a_repeated_action_stops_where_the_episode_does() -> None:
    """Each copy for itself, and rewards are summed up to there."""
    task, repeat = gym._pooled("Hopper-v4"), 3
    by_one, by_three = Pool(task, 4, seed=1), Pool(task, 4, seed=1, action_repeat=repeat)
    np.testing.assert_array_equal(by_one.reset(), by_three.reset())
    alive, stopped = np.ones(4, bool), []
    for action in actions(by_one, 40):
        total, last, ended = np.zeros(4), np.zeros((4, 11), np.float32), np.zeros(4, bool)
        for number in range(repeat):
            out = by_one.step(action)
            now = alive & ~ended
            total[now] += out.reward[now]
            last[now] = out.final_obs[now]
            ended |= now & out.terminated
            stopped += [number] * int((now & out.terminated).sum())
        out = by_three.step(action)
        np.testing.assert_allclose(out.reward[alive], total[alive], rtol=1e-6)
        np.testing.assert_array_equal(out.final_obs[alive], last[alive])
        np.testing.assert_array_equal(out.terminated[alive], ended[alive])
        alive &= ~ended
    assert not alive.any() and set(stopped) - {repeat - 1}


@pytest.mark.parametrize(("repeat", "steps"), [(1, 5), (3, 2), (5, 1)])
def test_the_limit_is_counted_in_the_simulators_steps(repeat: int, steps: int) -> None:
    """As in dm_control: the last action is applied fewer times where the limit is no multiple."""
    task = dmc._pooled("cheetah-run")._replace(episode=5)
    one, env = Pool(task, 1, seed=0), Pool(task, 1, seed=0, action_repeat=repeat)
    one.reset(), env.reset()
    total = sum(one.step(np.full((1, 6), 0.3)).reward[0] for _ in range(5))
    outs = [env.step(np.full((1, 6), 0.3)) for _ in range(steps)]
    assert [out.truncated[0] for out in outs] == [False] * (steps - 1) + [True]
    assert sum(out.reward[0] for out in outs) == pytest.approx(total, rel=1e-5)
    assert DMCEnvPool("dmc", "cheetah-run", 1, 3, "envpool").spec().episode_steps == 334


def test_the_tasks_own_box_is_reached(monkeypatch: pytest.MonkeyPatch) -> None:
    env, seen = pooled("Humanoid-v4"), []
    env.reset()
    step = env._pool.step
    monkeypatch.setattr(env._pool, "step", lambda action, ids: (seen.append(action), step(action, ids))[1])
    for size in (-1.0, 0.0, 1.0, 7.0):
        env.step(np.full((1, 17), size, np.float32))
    np.testing.assert_allclose(np.ravel([action[0, 0] for action in seen]), [-0.4, 0.0, 0.4, 0.4], rtol=1e-6)


# Observations, and what else a run sees


def test_only_the_suites_own_quantities_are_observed() -> None:
    """EnvPool has one mapping for all tasks of a domain."""
    env = pooled("humanoid-stand", num_envs=2)
    seen, _ = env._pool.reset()
    own = SUITE.load("humanoid", "stand").observation_spec()
    assert set(seen) > set(own) and "position" in set(seen) - set(own)
    np.testing.assert_array_equal(env._flat(seen), np.column_stack([seen[key] for key in own]))


def test_nothing_is_written_or_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: Any) -> None:
    monkeypatch.chdir(tmp_path)  # where MuJoCo would leave its log
    for task in ("HalfCheetah-v4", "cheetah-run"):
        env = pooled(task)
        env.reset()
        env.close()
    assert capfd.readouterr() == ("", "") and list(tmp_path.iterdir()) == []


def test_there_is_no_state_for_a_checkpoint() -> None:
    assert not isinstance(pooled("Hopper-v4"), ResumableEnv)
    assert not hasattr(GymEnvPool, "filmed") and not hasattr(DMCEnvPool, "filmed")


# Mistakes


def chosen(name: str, **fields: Any) -> Any:
    more = {"action_repeat": 1} if name == "dmc" else {}
    target = {"gym": "rlscale.benchmarks.gym.Gym", "dmc": "rlscale.benchmarks.dmc.DMC"}[name]
    task = {"gym": "Hopper-v4", "dmc": "cheetah-run"}[name]
    return component({"_target_": target, "name": name, "task": task, "num_envs": 1, **more, **fields}, "benchmark")


@pytest.mark.parametrize("name", ["gym", "dmc"])
def test_the_backend_is_a_choice(name: str) -> None:
    assert type(chosen(name, backend="python")) in (GymPython, DMCPython)
    assert type(chosen(name, backend="envpool")) in (GymEnvPool, DMCEnvPool)
    with pytest.raises(Mistake, match=r"^benchmark\.backend=envpol: there is no such choice; did you mean envpool\?$"):
        chosen(name, backend="envpol")


@pytest.mark.parametrize(("name", "room"), [("gym", gym), ("dmc", dmc)])
def test_without_the_package_there_is_a_sentence(name: str, room: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    room._pooled.cache_clear()
    monkeypatch.setitem(sys.modules, "envpool", None)
    with pytest.raises(Mistake, match=r"^benchmark\.backend=envpool: .*; pip install -e '\.\[envpool\]'$"):
        chosen(name, backend="envpool").spec()
    assert chosen(name, backend="python").spec().episode_steps == 1000


@pytest.mark.parametrize(
    ("name", "task", "sentence"),
    [
        ("gym", "Pendulum-v1", "EnvPool serves Gymnasium's MuJoCo tasks only, since the steps of others differ"),
        ("gym", "MountainCarContinuous-v0", "EnvPool serves Gymnasium's MuJoCo tasks only"),
        ("dmc", "cartpole-two_poles", "EnvPool's episodes do not begin as dm_control's"),
    ],
)
def test_a_task_that_envpool_has_otherwise(name: str, task: str, sentence: str) -> None:
    with pytest.raises(Mistake, match=rf"^benchmark\.task={task}: {sentence}.*; set benchmark\.backend=python$"):
        chosen(name, backend="envpool", task=task).spec()


@pytest.mark.parametrize("name", ["gym", "dmc"])
def test_what_is_wrong_for_the_suite_is_said_as_by_the_suite(name: str) -> None:
    sentences = []
    for backend in ("python", "envpool"):
        with pytest.raises(Mistake) as mistake, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            chosen(name, backend=backend, task="Hoper").spec()
        sentences.append(str(mistake.value))
    assert sentences[0] == sentences[1]


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (
            {"sizes": {"obs": 12}},
            r"EnvPool's Hopper-v4 has observations of sizes {'obs': 11} instead of {'obs': 12}; set",
        ),
        ({"sizes": {"height": 11}}, r"EnvPool's Hopper-v4 has observations of sizes {'obs': 11} instead of"),
        ({"id": "Hopper-v9"}, r"EnvPool has no such task; set benchmark\.backend=python"),
        ({"low": np.zeros(2)}, r"EnvPool's Hopper-v4 has actions of shape \(3,\), not \(2,\); set benchmark\.backend="),
    ],
)
def test_another_task_under_the_same_id(change: dict[str, Any], sentence: str) -> None:
    task: Task = gym._pooled("Hopper-v4")._replace(**change)
    with pytest.raises(Mistake, match=rf"^benchmark\.task=Hopper-v4: {sentence}"):
        envpool.check(task)

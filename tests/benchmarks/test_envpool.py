"""`backend: envpool` of the suites gym and dmc against Gymnasium's and dm_control's own environments, and by itself."""

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
from rlscale.types import HostEnv, ResumableEnv, Step

package = pytest.importorskip("envpool", reason="the envpool extra is not installed")
gymnasium = pytest.importorskip("gymnasium")
suite = dmc._suite()

STILL = ["HalfCheetah-v4", "Hopper-v4", "Walker2d-v4", "Ant-v4", "Humanoid-v4", "Swimmer-v4"]  # can start without noise
GYM = [*STILL, "HumanoidStandup-v4", "Reacher-v4", "InvertedPendulum-v4", "InvertedDoublePendulum-v4"]
DMC = [f"{domain}-{task}" for domain, task in suite.ALL_TASKS if f"{domain}-{task}" not in dmc.OTHER_STARTS]


def pooled(task: str, num_envs: int = 1, seed: int = 7, action_repeat: int = 1) -> Any:
    """The copies that a run would have."""
    if task in DMC:
        return DMCEnvPool("dmc", task, num_envs, action_repeat, "envpool").make(seed)
    return GymEnvPool("gym", task, num_envs, "envpool").make(seed)


def actions(env: HostEnv, steps: int, seed: int = 0) -> np.ndarray:
    shape = (steps, len(env._age), env._box._low.size)  # type: ignore[attr-defined]
    return np.random.default_rng(seed).uniform(-1, 1, shape).astype(np.float32)


def bare(task: str, **options: Any) -> Any:
    """One environment of Gymnasium's with actions from -1 to 1, whose checker is off."""
    with gym._without_deprecations():
        env = gymnasium.make(task, disable_env_checker=True, **options)
    return gymnasium.wrappers.RescaleAction(env, np.float32(-1), np.float32(1))


# Against the Python backends


@pytest.mark.parametrize(("task", "limit"), [*((task, 1000) for task in STILL), ("HalfCheetah-v4", 6)])
def test_equals_gymnasium_from_the_same_start(task: str, limit: int) -> None:
    """Without noise in the start all episodes begin alike: steps are compared through true ends and time-outs, so that
    none ignores its action. Where nothing ends, only before rounding has grown.
    """
    options = {**gym._pooled(task).options, "reset_noise_scale": 0.0}
    env = Pool(gym._pooled(task)._replace(options=options, episode=limit), 2, seed=0)
    hand = bare(task, reset_noise_scale=0.0, max_episode_steps=limit)
    moves = actions(env, {"HalfCheetah-v4": 15, "Hopper-v4": 150}.get(task, 60))
    ours = [env.reset(), *(env.step(action) for action in moves)]
    ends = 0
    for i in range(2):
        theirs, _ = hand.reset(seed=0)
        np.testing.assert_allclose(ours[0][i], theirs, atol=1e-6)
        for action, out in zip(moves, ours[1:], strict=True):
            theirs, reward, terminated, truncated, _ = hand.step(action[i])
            # contact forces of Humanoid, thousands of newtons, feel the last bit of where it is
            np.testing.assert_allclose(
                out.final_obs[i], theirs, rtol=1e-3, atol=0.05 if task == "Humanoid-v4" else 1e-4
            )
            np.testing.assert_allclose(out.reward[i], reward, rtol=1e-4, atol=1e-4)
            assert (out.terminated[i], out.truncated[i]) == (terminated, truncated)
            if terminated or truncated:
                theirs, ends = hand.reset()[0], ends + 1
            np.testing.assert_allclose(out.obs[i], theirs, rtol=1e-3, atol=0.05 if task == "Humanoid-v4" else 1e-4)
    assert ends >= 2 or (task in ("HalfCheetah-v4", "Swimmer-v4") and limit == 1000)


def state(task: str, obs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The position and velocity [nq], [nv] of a first observation; what is not observed has no influence."""
    if task == "HumanoidStandup-v4":
        return np.r_[0, 0, obs[:22]], obs[22:45]
    if task == "Reacher-v4":
        return np.r_[np.arctan2(obs[2:4], obs[:2]), obs[4:6]], np.r_[obs[6:8], 0, 0]
    if task == "InvertedDoublePendulum-v4":
        return np.r_[obs[0], np.arctan2(obs[1:3], obs[3:5])], obs[5:8]
    half = {"InvertedPendulum-v4": 2, "point_mass-easy": 2, "humanoid-run_pure_state": 28}
    if task in half:
        return obs[: half[task]], obs[half[task] :]
    if task == "cartpole-swingup":
        return np.r_[obs[0], np.arctan2(obs[2], obs[1])], obs[3:]
    if task == "pendulum-swingup":
        return np.arctan2(obs[1:2], obs[:1]), obs[2:]
    unseen, nv = {"cheetah-run": (1, 9), "hopper-hop": (1, 7)}[task]  # the position along the track
    return np.r_[np.zeros(unseen), obs[: nv - unseen]], obs[nv - unseen : 2 * nv - unseen]


@pytest.mark.parametrize(
    "task", ["HumanoidStandup-v4", "Reacher-v4", "InvertedPendulum-v4", "InvertedDoublePendulum-v4"]
)
def test_equals_gymnasium_from_a_start_that_was_drawn(task: str) -> None:
    env, hand = pooled(task), bare(task)
    first = env.reset()[0]
    hand.reset(seed=0)
    hand.unwrapped.set_state(*state(task, first.astype(np.float64)))
    hand.unwrapped.goal = first[4:6]
    for action in actions(env, 5):
        out = env.step(action)
        theirs, reward, terminated, _, _ = hand.step(action[0])
        np.testing.assert_allclose(out.final_obs[0], theirs, rtol=1e-2, atol=0.05 if "Human" in task else 1e-4)
        np.testing.assert_allclose(out.reward[0], reward, rtol=1e-3, atol=1e-4)
        assert out.terminated[0] == terminated
        if terminated:
            break


def some_slow(tasks: list[str], fast: tuple[str, ...]) -> list[Any]:
    return [task if task in fast else pytest.param(task, marks=pytest.mark.slow) for task in tasks]


@pytest.mark.parametrize(
    "task",
    some_slow(
        [
            "cheetah-run",
            "cartpole-swingup",
            "point_mass-easy",
            "hopper-hop",
            "pendulum-swingup",
            "humanoid-run_pure_state",
        ],
        fast=("cheetah-run", "cartpole-swingup"),
    ),
)
def test_equals_dm_control_from_a_start_that_was_drawn(task: str) -> None:
    """Where an observation tells the state; two steps for each action, rewards summed."""
    env, theirs = pooled(task, action_repeat=2), suite.load(*task.split("-"), task_kwargs={"random": 0})
    first = env.reset()[0]
    theirs.reset()
    with theirs.physics.reset_context():
        theirs.physics.data.qpos[:], theirs.physics.data.qvel[:] = state(task, first.astype(np.float64))
    for action in actions(env, 10):
        out, now = env.step(action), [theirs.step(np.float64(action[0])) for _ in range(2)]
        flat = np.concatenate([np.ravel(x) for x in now[-1].observation.values()])
        np.testing.assert_allclose(out.final_obs[0], flat, rtol=1e-3, atol=2e-3)
        np.testing.assert_allclose(out.reward[0], sum(step.reward for step in now), rtol=1e-3, atol=1e-4)


def sampled(env: HostEnv, episodes: int, width: int) -> list[np.ndarray]:
    """First observations and those after ten random actions [episodes, obs_dim], and what that paid [episodes, 1]."""
    rng, found = np.random.default_rng(3), []
    for _ in range(-(-episodes // len(env.reset()))):
        first = env.reset()
        outs = [env.step(rng.uniform(-1, 1, (len(first), width)).astype(np.float32)) for _ in range(10)]
        found.append((first, outs[-1].final_obs, sum(out.reward for out in outs)[:, None]))
    return [np.concatenate(column).astype(np.float64) for column in zip(*found, strict=True)]


@pytest.mark.slow
@pytest.mark.parametrize("task", DMC)
def test_episodes_begin_and_go_on_as_dm_controls_do(task: str) -> None:
    """By statistics, since few tasks show their state: means and spreads of every number, within five standard errors.

    A spring of an `lqr` task is drawn once for each copy of dm_control's.
    """
    width, episodes = DMCPython("dmc", task, 1, 1, "python").spec().action_dim, 40
    theirs = sampled(DMCPython("dmc", task, episodes if "lqr" in task else 1, 1, "python").make(5), episodes, width)
    ours = sampled(pooled(task, num_envs=episodes), episodes, width)
    for a, b in zip(theirs, ours, strict=True):
        centre = np.median(np.concatenate([a, b]), axis=0)
        for x, y in ((a, b), (np.abs(a - centre), np.abs(b - centre))):
            error = np.sqrt(x.var(axis=0) / len(x) + y.var(axis=0) / len(y))
            assert (np.abs(x.mean(axis=0) - y.mean(axis=0)) <= 5 * error + 1e-4).all()


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
    moves = actions(pooled(task, 5), 60)[:, :num_envs]
    return env.reset(), [env.step(action) for action in moves]


@pytest.mark.parametrize("task", ["Hopper-v4", "cheetah-run"])
def test_a_copy_is_the_same_in_any_number(task: str) -> None:
    """Also in later episodes, which begin when others do not."""
    (few, ours), (many, theirs) = rolled(task, 2, 3), rolled(task, 5, 3)
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


# Observations, and all tasks


def test_only_the_suites_own_quantities_are_observed() -> None:
    """EnvPool has one mapping for all tasks of a domain."""
    env = pooled("humanoid-stand", num_envs=2)
    seen, _ = env._pool.reset()
    own = suite.load("humanoid", "stand").observation_spec()
    assert set(seen) > set(own) and "position" in set(seen) - set(own)
    np.testing.assert_array_equal(env._flat(seen), np.column_stack([seen[key] for key in own]))


@pytest.mark.parametrize("task", [*GYM, *some_slow(DMC, fast=("ball_in_cup-catch", "finger-turn_hard"))])
def test_every_task_has_the_suites_shapes_and_box(task: str) -> None:
    """Also the names that are irregular; what is made is made quietly, since warnings are errors here."""
    is_dmc = task in DMC
    python = DMCPython("dmc", task, 1, 1, "python") if is_dmc else GymPython("gym", task, 1, "python")
    env, other = pooled(task, num_envs=2), (dmc if is_dmc else gym)._pooled(task)
    assert (python.spec().obs_dim, python.spec().action_dim) == (sum(other.sizes.values()), other.low.size)
    assert env.reset().shape == (2, python.spec().obs_dim) and other.episode == python.spec().episode_steps
    spec = package.make_spec(other.id)
    with envpool._quiet():
        box = spec.action_space
    if not task.startswith("lqr-"):  # the suite itself leaves these without limits
        np.testing.assert_allclose([box.low, box.high], [other.low, other.high], rtol=1e-6)
    assert spec.config.max_episode_steps == other.episode
    for action in actions(env, 3):
        out = env.step(action)
        assert np.isfinite(out.final_obs).all() and np.isfinite(out.reward).all() and out.obs.dtype == np.float32


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


def test_what_envpool_has_otherwise_is_so_still() -> None:
    """If this fails, EnvPool has mended it, and the task may be served."""
    with envpool._quiet():
        env = package.make_gymnasium("Pendulum-v1", num_envs=1, seed=0, num_threads=1)
        obs, _ = env.reset()
        for _ in range(150):
            before, (obs, *_) = obs, env.step(np.full((1, 1), 2 * np.sign(obs[0, 2]), np.float32))
            if abs(before[0, 2]) < 8 == abs(obs[0, 2]):
                break
    turned = np.arctan2(obs[0, 1], obs[0, 0]) - np.arctan2(before[0, 1], before[0, 0])
    assert abs(obs[0, 2]) == 8 and abs((turned + np.pi) % (2 * np.pi) - np.pi) > 0.05 * 8 + 1e-3
    env = package.make_gymnasium("CartpoleTwoPoles-v1", num_envs=1, seed=0, num_threads=1)
    assert np.std([env.reset()[0]["position"][0, 4] for _ in range(100)]) < 0.05  # of 0.1


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

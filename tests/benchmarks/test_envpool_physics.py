"""The tasks of `backend: envpool` are Gymnasium's and dm_control's: shapes, steps, and how episodes begin."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from rlscale import envpool
from rlscale.benchmarks import dmc, gym
from rlscale.benchmarks.dmc import DMCPython
from rlscale.benchmarks.gym import GymPython
from rlscale.envpool import Pool
from rlscale.types import HostEnv
from tests.benchmarks.pools import DMC, GYM, STILL, SUITE, V5, actions, pooled

package = pytest.importorskip("envpool", reason="the envpool extra is not installed")
gymnasium = pytest.importorskip("gymnasium")
pytestmark = pytest.mark.slow


def bare(task: str, **options: Any) -> Any:
    """One environment of Gymnasium's with actions from -1 to 1, whose checker is off."""
    with gym._without_deprecations():
        env = gymnasium.make(task, disable_env_checker=True, **options)
    return gymnasium.wrappers.RescaleAction(env, np.float32(-1), np.float32(1))


@pytest.mark.parametrize(("task", "limit"), [*((task, 1000) for task in (*STILL, *V5)), ("HalfCheetah-v4", 6)])
def test_equals_gymnasium_from_the_same_start(task: str, limit: int) -> None:
    """Without noise in the start all episodes begin alike: steps are compared through true ends and time-outs, so that
    none ignores its action. Where nothing ends, only before rounding has grown.
    """
    options = {**gym._pooled(task).options, "reset_noise_scale": 0.0}
    env = Pool(gym._pooled(task)._replace(options=options, episode=limit), 2, seed=0)
    hand = bare(task, reset_noise_scale=0.0, max_episode_steps=limit)
    moves = actions(env, {"HalfCheetah": 15, "Hopper": 150}.get(task[:-3], 60))
    ours = [env.reset(), *(env.step(action) for action in moves)]
    ends = 0
    for i in range(2):
        theirs, _ = hand.reset(seed=0)
        np.testing.assert_allclose(ours[0][i], theirs, atol=1e-6)
        for action, out in zip(moves, ours[1:], strict=True):
            theirs, reward, terminated, truncated, _ = hand.step(action[i])
            # contact forces of Humanoid, thousands of newtons, feel the last bit of where it is
            np.testing.assert_allclose(out.final_obs[i], theirs, rtol=1e-3, atol=0.05 if "Humanoid" in task else 1e-4)
            np.testing.assert_allclose(out.reward[i], reward, rtol=1e-4, atol=1e-4)
            assert (out.terminated[i], out.truncated[i]) == (terminated, truncated)
            if terminated or truncated:
                theirs, ends = hand.reset()[0], ends + 1
            np.testing.assert_allclose(out.obs[i], theirs, rtol=1e-3, atol=0.05 if "Humanoid" in task else 1e-4)
    assert ends >= 2 or (task[:-3] in ("HalfCheetah", "Swimmer") and limit == 1000)


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


@pytest.mark.parametrize(
    "task",
    ["cheetah-run", "cartpole-swingup", "point_mass-easy", "hopper-hop", "pendulum-swingup", "humanoid-run_pure_state"],
)
def test_equals_dm_control_from_a_start_that_was_drawn(task: str) -> None:
    """Where an observation tells the state; two steps for each action, rewards summed."""
    env, theirs = pooled(task, action_repeat=2), SUITE.load(*task.split("-"), task_kwargs={"random": 0})
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


@pytest.mark.parametrize("task", [*GYM, *V5, *DMC])
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

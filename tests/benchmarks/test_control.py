"""The JAX tasks against the simulators that they copy, from the same states and under the same actions."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlscale.benchmarks.control import Cartpole, Control, EnvState, Pendulum
from rlscale.typed import Mistake
from rlscale.types import Step

STEPS = 1000  # every comparison is scanned over as many, so that each task compiles once per precision


@functools.cache
def compiled(task: str, double: bool) -> Any:
    step = Control("control", task, 1).functions().step
    return jax.jit(lambda state, actions: jax.lax.scan(step, state, actions)[1])


def ours(task: str, physics: Any, actions: np.ndarray, double: bool = True) -> Step:
    """`actions` [T] applied from the given physics state; in float64 unless told otherwise. [T, ...] each."""
    with (
        jax.enable_x64(double),
        jax.numpy_dtype_promotion("strict"),
        jax.numpy_rank_promotion("raise"),
    ):
        dtype = jnp.float64 if double else jnp.float32
        zero = jnp.zeros((), jnp.int32)
        state = EnvState(type(physics)(*(jnp.asarray(x, dtype) for x in physics)), zero, zero, jax.random.key(0))
        padded = np.zeros((STEPS, 1))
        padded[: len(actions), 0] = actions
        out = compiled(task, double)(state, jnp.asarray(padded, dtype))
        return jax.tree.map(lambda x: np.asarray(x)[: len(actions)], out)


# --- pendulum ---


def gymnasium_pendulum(physics: Pendulum, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(cos, sin, speed) before rounding to float32 [T, 3], rewards [T], truncated [T]."""
    gymnasium = pytest.importorskip("gymnasium")
    env = gymnasium.make("Pendulum-v1")
    env.reset(seed=0)
    env.unwrapped.state = np.array(physics)
    obs, rewards, truncated = [], [], []
    for action in actions:
        _, reward, terminated, cut, _ = env.step(np.array([2 * action]))  # torque
        assert not terminated
        theta, speed = env.unwrapped.state
        obs.append([np.cos(theta), np.sin(theta), speed])
        rewards.append(reward)
        truncated.append(cut)
    return np.array(obs), np.array(rewards), np.array(truncated)


@pytest.mark.parametrize("seed", range(3))
def test_pendulum_equals_gymnasium(seed: int) -> None:
    rng = np.random.default_rng(seed)
    physics = Pendulum(rng.uniform(-np.pi, np.pi), rng.uniform(-1, 1))
    actions = rng.uniform(-1, 1, 200) if seed else np.sign(np.sin(0.1 * np.arange(200)))  # seed 0 turns over
    obs, rewards, truncated = gymnasium_pendulum(physics, actions)
    out = ours("pendulum", physics, actions)
    np.testing.assert_allclose(out.final_obs, obs, atol=1e-10)
    np.testing.assert_allclose(out.reward, rewards, atol=1e-10)
    np.testing.assert_array_equal(out.truncated, truncated)
    single = ours("pendulum", physics, actions, double=False)
    np.testing.assert_allclose(single.final_obs, obs, atol=1e-3)
    np.testing.assert_allclose(single.reward.sum(), rewards.sum(), rtol=1e-4)


def test_pendulum_at_its_speed_limit() -> None:
    physics, actions = Pendulum(0.3, 7.9), np.ones(50)
    obs, rewards, _ = gymnasium_pendulum(physics, actions)
    assert (obs[:, 2] == 8.0).any()
    out = ours("pendulum", physics, actions)
    np.testing.assert_allclose(out.final_obs, obs, atol=1e-10)
    np.testing.assert_allclose(out.reward, rewards, atol=1e-10)


# --- cartpole_swingup ---


@pytest.fixture(scope="module")
def dm_control_cartpole() -> Iterator[Any]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MUJOCO_GL", "disable")  # read when dm_control is first imported; nothing is drawn here
        suite = pytest.importorskip("dm_control.suite")
    env = suite.load("cartpole", "swingup", task_kwargs={"random": 0})
    # MuJoCo's solver of the rail's force stops at 1e-8 by default; let it go on to the solution that ours is.
    env.physics.model.opt.tolerance = 0
    yield env
    env.close()


def drive(env: Any, physics: Cartpole, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray, list[Any]]:
    """Observations [T, 5], rewards [T], time steps [T] of dm_control."""
    env.reset()
    with env.physics.reset_context():
        env.physics.data.qpos[:] = physics.x, physics.theta
        env.physics.data.qvel[:] = physics.v, physics.omega
    steps = [env.step([action]) for action in actions]
    obs = [np.concatenate([s.observation["position"], s.observation["velocity"]]) for s in steps]
    return np.array(obs), np.array([s.reward for s in steps]), steps


HANGING = Cartpole(0.01, np.pi + 0.01, 0.01, -0.02)
NOISE = np.random.default_rng(0).uniform(-1, 1, 1000)
CARTPOLE = {  # start, actions, does the cart meet the rail's end?, tolerance over all the steps
    "hanging": (HANGING, 0.1 * NOISE[:700], False, 1e-10),
    "turning": (Cartpole(0.0, 3.1, 0.0, 12.0), 0.1 * NOISE[:300], False, 1e-10),
    "upright": (Cartpole(0.0, 0.01, 0.0, 0.0), 0.3 * NOISE[:300], False, 1e-8),
    "noise": (HANGING, NOISE, True, 1e-8),
    "leaning right": (Cartpole(1.7, 3.1, 3.0, 1.0), np.ones(300), True, 1e-10),
    "leaning left": (Cartpole(-1.7, 3.1, -3.0, 1.0), -np.ones(300), True, 1e-10),
    "hitting hard": (Cartpole(-1.7, 3.1, -19.3, 1.0), NOISE, True, 1e-8),
    "to and fro": (Cartpole(0.0, 3.1, 0.0, 1.0), np.sign(np.sin(0.012 * np.arange(1000))), True, 1e-6),
}


@pytest.mark.parametrize("name", CARTPOLE)
def test_cartpole_equals_dm_control(dm_control_cartpole: Any, name: str) -> None:
    start, actions, at_the_end, tolerance = CARTPOLE[name]
    obs, rewards, steps = drive(dm_control_cartpole, start, actions)
    assert (np.abs(obs[:, 0]) > 1.8).any() == at_the_end
    out = ours("cartpole_swingup", start, actions)
    np.testing.assert_allclose(out.final_obs, obs, atol=tolerance)
    np.testing.assert_allclose(out.reward, rewards, atol=tolerance)
    np.testing.assert_array_equal(out.truncated, [step.last() for step in steps])
    assert all(step.discount == 1.0 for step in steps)  # at the limit too: a time-out, no termination
    single = ours("cartpole_swingup", start, actions[:200], double=False)
    np.testing.assert_allclose(single.final_obs, obs[:200], atol=2e-4)
    np.testing.assert_allclose(single.reward, rewards[:200], atol=2e-5)


# --- starts and episodes ---


@pytest.mark.slow
def test_starts_are_drawn_as_in_the_originals() -> None:
    keys = jax.random.split(jax.random.key(0), 4000)
    for task, centre, spread in (
        ("pendulum", (0.0, 0.0), (np.pi / np.sqrt(3), 1 / np.sqrt(3))),  # uniform on ±π, ±1
        ("cartpole_swingup", (0.0, np.pi, 0.0, 0.0), (0.01,) * 4),  # normal
    ):
        physics = jax.jit(jax.vmap(Control("control", task, 1).functions().init))(keys)[0].physics
        for value, mean, std in zip(physics, centre, spread, strict=True):
            value = np.asarray(value)
            if mean == np.pi:  # kept in [-π, π]
                value = value % (2 * np.pi)
            assert abs(value.mean() - mean) < 4 * std / np.sqrt(4000)
            assert value.std() == pytest.approx(std, rel=0.05)


@pytest.mark.slow
def test_mapped_and_single_copies_agree() -> None:
    """A reset is a branch for one copy and a select for many: the episodes are the same."""
    env = Control("control", "pendulum", 3).functions()
    keys = jax.random.split(jax.random.key(1), 3)
    actions = np.random.default_rng(0).uniform(-0.1, 0.1, (3, 450, 1)).astype(np.float32)

    def episodes(key: jax.Array, actions: jax.Array) -> Step:
        return jax.lax.scan(env.step, env.init(key)[0], actions)[1]

    many = jax.jit(jax.vmap(episodes))(keys, actions)
    alone = jax.jit(episodes)(keys[1], actions[1])
    assert np.flatnonzero(alone.truncated).tolist() == [199, 399]
    for a, b in zip(many, alone, strict=True):
        np.testing.assert_allclose(a[1], b, atol=1e-3)


def test_shapes() -> None:
    assert Control("control", "pendulum", 1).spec()[:3] == (3, 1, 200)
    assert Control("control", "cartpole_swingup", 1).spec()[:3] == (5, 1, 1000)


def test_mistakes() -> None:
    with pytest.raises(Mistake, match=r"benchmark\.task=pendulm: .*did you mean pendulum\?"):
        Control("control", "pendulm", 1).functions()
    with pytest.raises(ValueError, match=r"^num_envs=-1"):
        Control("control", "pendulum", -1)

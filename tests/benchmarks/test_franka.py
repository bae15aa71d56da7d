"""The `franka` suite: its model against MuJoCo, its task against the description, its engines against each other."""

from __future__ import annotations

import functools
import importlib.util
import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from omegaconf import OmegaConf

from rlscale.benchmarks import franka
from rlscale.benchmarks.franka import SPEC, SUBSTEPS, World, control, grip, judge, observe, start
from rlscale.job import component
from rlscale.types import DeviceBenchmark, Step

mujoco = pytest.importorskip("mujoco")

OPTION = Path(__file__).parents[2] / "conf" / "benchmark" / "franka.yaml"
needs_mjx = pytest.mark.skipif(
    importlib.util.find_spec("mujoco.mjx") is None, reason="mujoco-mjx is not installed (pip install -e '.[mjx]')"
)


def suite(**changed: Any) -> Any:
    return component(dict(OmegaConf.load(OPTION)) | {"num_envs": 3} | changed, "benchmark")


def draws(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).random((*shape, franka.UNIFORMS))


def actions(steps: int, copies: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).uniform(-1, 1, (steps, copies, 7)).astype(np.float32)


# --- the model ---


def test_the_grip_is_where_mujoco_has_it() -> None:
    model, joints = franka._model(), np.random.default_rng(0).uniform(-3, 3, (40, 7))
    data = mujoco.MjData(model)
    for angles, position, quat in zip(joints, *grip(joints, np), strict=True):
        data.qpos[franka.ARM] = angles
        mujoco.mj_kinematics(model, data)
        np.testing.assert_allclose(position, data.site("grip").xpos, atol=1e-12)
        matrix = np.zeros(9)
        mujoco.mju_quat2Mat(matrix, quat)
        np.testing.assert_allclose(matrix, data.site("grip").xmat, atol=1e-12)


def test_the_grips_quaternion_never_jumps() -> None:
    there = np.linspace(-2.8, 2.8, 500)[:, None] * np.ones(7)
    quats = grip(there, np)[1]
    assert (quats[1:] * quats[:-1]).sum(-1).min() > 0.99


def test_the_hand_follows_each_action_and_stays_without_one() -> None:
    """0.61 m/s is what a move of 0.1 m makes under a stiffness of 150 and critical damping: 150·0.1/(2·√150)."""
    env = suite(num_envs=7).make(0)
    env.reset()
    env._qpos[:, franka.CUBE] = [0.5, 0.5, 0.025, 1, 0, 0, 0]  # out of the way
    before = grip(env._qpos[:, franka.ARM], np)
    action = np.zeros((7, 7))
    action[:6, :6] = 0.5 * np.eye(6)  # the last copy is left alone
    for _ in range(20):
        env.step(action)
    after = grip(env._qpos[:, franka.ARM], np)
    moved = after[0] - before[0]
    turned = np.zeros((7, 3))  # rotation vectors in the table's frame
    for row, new, old in zip(turned, after[1], before[1], strict=True):
        change = np.zeros(4)
        mujoco.mju_mulQuat(change, new, old * [1, -1, -1, -1])
        mujoco.mju_quat2Vel(row, change, 1.0)
    expected = 0.5 * 20 / 60 * 150 / (2 * np.sqrt(150)) * np.array([0.1] * 3 + [0.5] * 3)
    for i in range(6):
        own = np.concatenate([moved[i], turned[i]])[i]
        assert 0.65 * expected[i] < own < expected[i], f"axis {i}"
    assert np.abs(moved[6]).max() < 1e-3 and np.abs(turned[6]).max() < 1e-2


def test_the_fingers_open_above_zero() -> None:
    env = suite(num_envs=2).make(0)
    env.reset()
    for _ in range(60):
        env.step(np.array([[0, 0, 0, 0, 0, 0, 0.1], [0, 0, 0, 0, 0, 0, -0.1]]))
    np.testing.assert_allclose(env._qpos[:, franka.FINGERS], [[franka.OPEN] * 2, [0, 0]], atol=2e-3)


def test_a_hand_that_comes_down_beside_the_cube_pushes_it() -> None:
    """Down behind the cube, then forward: it moves on along x, stays on the table and is not turned over."""
    env = suite(num_envs=1).make(0)
    env.reset()
    env._qpos[0] = start(np.full(franka.UNIFORMS, 0.5), 0.25, np)[0]
    env._qpos[0, :2] = 0.07, 0.0
    env._goal[:] = 0.2, 0.2
    for vz, vx, steps in ((-0.8, 0.0, 20), (0.0, 0.6, 40)):
        for _ in range(steps):
            env.step(np.array([[vx, 0, vz, 0, 0, 0, -1]]))
    x, y, z = env._qpos[0, :3]
    assert x > 0.2 and abs(y) < 0.02 and abs(z - franka.SIZE / 2) < 5e-3


# --- the task ---


@pytest.mark.parametrize("spread", [0.15, 0.25])
def test_starts_fill_the_table_and_lie_apart(spread: float) -> None:
    qpos, goal = start(draws(20_000), spread, np)
    for xy in (qpos[:, :2], goal):
        assert np.abs(xy).max() <= spread
        np.testing.assert_allclose(xy.mean(0), 0, atol=5e-3)
        np.testing.assert_allclose(xy.std(0), spread / np.sqrt(3), rtol=0.02)
    assert franka.distance(qpos[:, :2], goal, np).min() >= franka.APART
    yaw = 2 * np.arctan2(qpos[:, 6], qpos[:, 3])
    assert 0.78 < yaw.max() <= np.pi / 4 and -np.pi / 4 <= yaw.min() < -0.78
    hand = grip(qpos[:, franka.ARM], np)[0]
    assert hand[:, 2].min() > 2 * franka.SIZE  # it touches nothing
    assert np.abs(hand[:, :2]).max() < 0.1 and hand.std(0).min() > 5e-3


def test_the_observation_is_as_described() -> None:
    qpos, goal = (x[0] for x in start(draws(1), 0.25, np))
    obs = observe(qpos, goal, np)
    hand, turned = grip(qpos[franka.ARM], np)
    np.testing.assert_array_equal(obs[:4], qpos[3:7])
    np.testing.assert_allclose(obs[4:7], 10 * qpos[:3])
    np.testing.assert_allclose(obs[7:10], 10 * np.array([*(goal - qpos[:2]), 0]), atol=1e-12)
    np.testing.assert_allclose(obs[10:13], 10 * hand)
    np.testing.assert_array_equal(obs[13:17], turned)
    np.testing.assert_allclose(obs[17:], 10 * qpos[14:])


def placed(distance: float = 0.1, height: float = 0.025) -> tuple[np.ndarray, np.ndarray]:
    qpos = start(np.full(franka.UNIFORMS, 0.5), 0.25, np)[0]
    qpos[:3] = 0.1, 0.1, height
    return qpos, np.array([0.1 + distance, 0.1])


@pytest.mark.parametrize(
    ("distance", "height", "age", "reward", "ends"),
    [
        (0.1, 0.025, 7, 2 * (1 - np.tanh(1.0)), (False, False, False)),
        (0.004, 0.025, 100, 4 * 200, (True, False, False)),
        (0.0051, 0.025, 100, 2 * (1 - np.tanh(0.051)), (False, False, False)),
        (0.1, 0.091, 7, -5 * np.tanh(1.0), (False, True, False)),
        (0.1, 0.089, 7, 2 * (1 - np.tanh(1.0)), (False, False, False)),
        (0.1, 0.025, 300, -5 * np.tanh(1.0), (False, False, True)),
        (0.004, 0.1, 299, 4, (True, True, False)),  # success wins
    ],
)
def test_the_reward_is_the_published_one(
    distance: float, height: float, age: int, reward: float, ends: tuple[bool, bool, bool]
) -> None:
    obs = observe(*placed(distance, height), np)
    told, *how = judge(obs, age, 0.0, np)
    np.testing.assert_allclose(told, reward)
    assert tuple(how) == ends
    assert suite().succeeded(obs) == ends[0]


def test_the_way_there_is_rewarded_besides() -> None:
    qpos, goal = placed()
    gap = np.linalg.norm(grip(qpos[franka.ARM], np)[0] - qpos[:3] + [0.035, 0, 0])  # the goal lies along x
    obs = observe(qpos, goal, np)
    more = judge(obs, 1, 0.5, np)[0] - judge(obs, 1, 0.0, np)[0]
    np.testing.assert_allclose(more, 0.5 * (1 - np.tanh(5 * gap) + 2 * (1 - np.tanh(0.3))), atol=1e-5)


def test_numpy_and_jax_say_the_same() -> None:
    """In float32 and over two leading axes."""
    u, action = draws(4, 5).astype(np.float32), actions(4, 5)
    age = np.arange(20).reshape(4, 5) * 20

    def everything(u: Any, action: Any, age: Any, xp: Any) -> tuple[Any, ...]:
        qpos, goal = start(u, 0.25, xp)
        obs = observe(qpos, goal, xp)
        return qpos, goal, control(action, xp), obs, *judge(obs, age, 0.5, xp), suite().succeeded(obs)

    ours = everything(u, action, age, np)
    theirs = jax.jit(lambda *x: everything(*x, jnp))(u, action, age)
    for a, b in zip(ours, theirs, strict=True):
        assert a.shape == b.shape and a.dtype in (b.dtype, np.float64)
        np.testing.assert_allclose(a, b, atol=2e-6, rtol=5e-6)


# --- engine c ---


def test_threads_change_nothing_and_copies_keep_to_themselves() -> None:
    """The same bits with one thread and three; and copy 1 alone among other copies is copy 1."""
    moves = actions(40, 7)
    envs = [franka._Copies(suite(num_envs=7), 3, threads=n) for n in (1, 3)]
    obs = [env.reset() for env in envs]
    for env in envs:
        env._age[: len(env._age) // 2] = 280  # so that some are reset meanwhile
    np.testing.assert_array_equal(obs[0], obs[1])
    for move in moves:
        one, three = (env.step(move) for env in envs)
        for a, b in zip(one, three, strict=True):
            np.testing.assert_array_equal(a, b)
    for env in envs:
        env.close()
    envs = [suite(num_envs=n).make(3) for n in (7, 2)]
    np.testing.assert_array_equal(envs[0].reset()[:2], envs[1].reset())
    for move in moves[:5]:
        np.testing.assert_array_equal(envs[0].step(move).obs[:2], envs[1].step(move[:2]).obs)


def test_success_ends_an_episode_and_the_next_begins_in_the_same_step() -> None:
    env = suite().make(0)
    env.reset()
    env._goal[1], env._age[2] = env._qpos[1, :2] + 0.001, 299
    out = env.step(np.zeros((3, 7)))
    assert out.terminated.tolist() == [False, True, False] and out.truncated.tolist() == [False, False, True]
    assert out.reward[1] == 4 * 299 and out.reward[2] < -4
    assert suite().succeeded(out.final_obs).tolist() == [False, True, False]
    assert not suite().succeeded(out.obs).any()
    assert (out.obs[0] == out.final_obs[0]).all() and (out.obs[1:] != out.final_obs[1:]).any(-1).all()
    assert env._age.tolist() == [1, 0, 0]


def test_a_step_is_two_of_mujocos_own() -> None:
    env, model = suite(num_envs=1).make(1), franka._model()
    env.reset()
    data = mujoco.MjData(model)
    for action in actions(20, 1) - np.array([0, 0, 1, 0, 0, 0, 0]):  # down onto the table
        mujoco.mj_resetData(model, data)
        data.qpos[:], data.qvel[:] = env._qpos[0], env._state[0, 17:]
        data.ctrl[:] = control(action[0], np)
        mujoco.mj_step(model, data, SUBSTEPS)
        env.step(action)
        np.testing.assert_allclose(env._qpos[0], data.qpos, atol=1e-12)


# --- engine mjx ---


@functools.cache  # the compile takes longer than all tests with it
def mjx_step() -> Any:
    return jax.jit(jax.vmap(suite(engine="mjx").functions().step))


def both(qpos: np.ndarray, goal: np.ndarray, age: int, moves: np.ndarray) -> list[tuple[Step, Step]]:
    """What both engines make of the same states and actions."""
    n = len(qpos)
    env = suite(num_envs=n).make(0)
    env.reset()
    env._qpos[:], env._goal[:], env._age[:] = qpos, goal, age
    zero = jnp.zeros(n, jnp.int32)
    world = World(
        *map(jnp.float32, (qpos, np.zeros((n, 15)), goal)), zero + age, zero, jax.random.split(jax.random.key(0), n)
    )
    told = []
    for action in moves:
        world, out = mjx_step()(world, action)
        told.append((env.step(action), jax.tree.map(np.asarray, out)))
    return told


@needs_mjx
@pytest.mark.slow
def test_the_engines_agree() -> None:
    """In float32 within 5e-5 (5 µm) for a hand in the air, and while a finger begins to push a cube (from step 23 on).

    Then a touch that begins one physics step earlier or later makes millimetres, and after ten steps centimetres.
    """
    qpos, goal = start(draws(6, seed=1), 0.25, np)
    moves = actions(30, 6)
    moves[:, 3:] = 0.0
    moves[:16, 3:, 2], moves[16:, 3:, 0] = -0.8, 0.6  # three go down, then forward
    qpos[3:, :2] = [0.08, 0.0]  # where their cubes are
    told = both(qpos, goal, 0, moves)
    apart = np.stack([np.abs(c.final_obs - x.final_obs) for c, x in told])  # [30, 6, 19]
    assert apart[:, :3].max() < 5e-5 and apart[:26].max() < 5e-5 and apart.max() < 0.1
    assert told[25][0].final_obs[3:, 4].max() > 0.9  # a cube was pushed by 1 cm within the narrow bound
    for c, x in told:
        np.testing.assert_allclose(c.reward, x.reward, atol=0.02)
        assert (c.terminated == x.terminated).all() and (c.truncated == x.truncated).all()


@needs_mjx
@pytest.mark.slow
def test_mjx_restarts_in_the_same_step() -> None:
    """The last steps before the time limit: true final observation, a fresh start, another one for each copy."""
    qpos, goal = start(draws(6), 0.25, np)
    goal[2] = qpos[2, :2] + 0.001
    (c, x), (_, after) = both(qpos, goal, 299, np.zeros((2, 6, 7), np.float32))
    assert x.terminated.tolist() == [False, False, True, False, False, False]
    assert (x.truncated == ~x.terminated).all() and (c.truncated == x.truncated).all()
    np.testing.assert_allclose(c.final_obs, x.final_obs, atol=1e-5)
    assert (x.obs != x.final_obs).any(-1).all() and len(np.unique(x.obs, axis=0)) == 6
    assert not (after.terminated | after.truncated).any()
    np.testing.assert_allclose(after.final_obs[:, 4:6], x.obs[:, 4:6], atol=1e-3)  # cubes lie still


# --- the suite ---


def test_the_engine_decides_the_executor() -> None:
    on_host, on_device = suite(), suite(engine="mjx")
    assert not isinstance(on_host, DeviceBenchmark) and hasattr(on_host, "make") and hasattr(on_host, "filmed")
    assert isinstance(on_device, DeviceBenchmark) and not hasattr(on_device, "make")
    assert on_host.spec() == on_device.spec() == SPEC


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        ({"engine": "warp"}, r"^benchmark\.engine=warp: there is no such choice; choose one of c, mjx$"),
        ({"spread": 0.3}, r"^benchmark\.spread=0\.3: give metres from 0\.15 to 0\.25$"),
        ({"guidance": -1}, r"^benchmark\.guidance=-1\.0: give 0 or more$"),
    ],
)
def test_mistakes_are_sentences(changed: dict[str, Any], sentence: str) -> None:
    with pytest.raises(franka.Mistake, match=sentence):
        suite(**changed)


def test_mjx_that_is_missing_is_a_mistake(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "mujoco.mjx", None)
    monkeypatch.delattr(mujoco, "mjx", raising=False)
    with pytest.raises(franka.Mistake, match=r"^benchmark\.engine=mjx: .*; pip install -e '\.\[mjx\]'$"):
        suite(engine="mjx").functions()

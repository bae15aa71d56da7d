"""A Franka arm pushes a cube to a goal on a table: one model (franka.xml), one task, two engines.

The task is Isaac Gym's FrankaCubePush as SAPG has it (Singla et al. 2024, isaacgymenvs/tasks/franka_cube_push.py):
its observation, its reward, its clock of 60 Hz and 300 steps, its actions. There they are moves of the hand by at most
0.1 m and 0.5 rad from where it is, turned into torques with a stiffness of 150 and critical damping, in the measure of
the arm's inertia. That law is a velocity servo of the hand of at most 0.61 m/s and 3.1 rad/s, and as such it stands in
the model, with one inertia for all poses, so that both engines apply it in every physics step.

Everything that defines the task is a pure function of arrays, NumPy's or JAX's: `xp` says whose. `engine: c` runs
MuJoCo's own engine over a pool of threads; `engine: mjx` its translation to JAX, made for accelerators. They agree
until contacts multiply rounding errors; start states differ in their random numbers only.
"""

from __future__ import annotations

import functools
import os
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from rlscale.simulator_state import packed, unpacked
from rlscale.typed import Mistake, nearest
from rlscale.types import PICTURE, Array, DeviceEnv, EnvSpec, FilmedEnv, HostEnv, Step

TASKS = ("franka_push",)
SPEC = EnvSpec(obs_dim=19, action_dim=7, episode_steps=300)
SUBSTEPS = 2  # physics steps of 1/120 s in a control step
SIZE = 0.05  # m, edge of the cube
APART = 0.075  # m, cube and goal are at least so far apart at the start: more than the cube's diagonal
LENGTH = 10.0  # observed lengths are in decimetres, so that all numbers are of the order of 1
REACHABLE = 0.25  # m, from the table's middle in x and in y: beyond, the arm is too short
REACHED = 0.005  # m between cube and goal is success
BEHIND = 0.035  # m from the cube's centre, where a finger touches it
LIFTED = SIZE + 0.04  # m, a cube whose centre is so high was lifted, not pushed
HOME = (0.0, 0.032, 0.0, -2.565, 0.0, 2.597, np.pi / 4)  # rad: hand pointing down, 0.15 m above the table's middle
NOISE = 0.05  # rad, joints start within ± this of HOME
OPEN = 0.04  # m, each finger's way
UNIFORMS = 12  # random numbers that a start takes
COPIES_PER_THREAD = 16  # at least: below it waking a thread costs more than it saves
CUBE, ARM, FINGERS = slice(0, 7), slice(7, 14), slice(14, 16)  # in qpos [16]; a cube is position and quaternion


# --- the task: pure functions of arrays ---


def start(u: Any, spread: float, xp: ModuleType) -> tuple[Any, Any]:
    """qpos [..., 16] and goal [..., 2] in metres, both within ±`spread`, from `u` [..., 12] uniform in [0, 1)."""
    v = 2 * u - 1
    cube, goal, turn = spread * v[..., 0:2], spread * v[..., 2:4], np.pi / 4 * v[..., 4:5]
    # A goal too near the cube goes half the field's width along x, around its edge if need be: no draw is rejected.
    near = distance(cube, goal, xp) < APART
    across = goal - xp.stack([xp.where(goal[..., 0] > 0, spread, -spread), 0 * goal[..., 1]], axis=-1)
    goal = xp.where(near[..., None], across, goal)
    zero = xp.zeros_like(turn)
    quat = [xp.cos(turn / 2), zero, zero, xp.sin(turn / 2)]
    joints = xp.asarray(HOME, u.dtype) + NOISE * v[..., 5:12]
    return xp.concatenate([cube, zero + SIZE / 2, *quat, joints, zero, zero], axis=-1), goal


def control(action: Any, xp: ModuleType) -> Any:
    """The model's control [..., 8] of an action [..., 7]: the hand's six velocities; the gripper opens above 0."""
    action = xp.clip(action, -1.0, 1.0)
    finger = xp.where(action[..., 6:] > 0, OPEN, 0.0)
    return xp.concatenate([action[..., :6], finger, finger], axis=-1)


def observe(qpos: Any, goal: Any, xp: ModuleType) -> Any:
    """[..., 19]: the cube's quaternion and position, from cube to goal, the grip's position and quaternion, both
    fingers' openings; lengths in decimetres.
    """
    cube, (hand, turned) = qpos[..., CUBE], grip(qpos[..., ARM], xp)
    ahead = xp.concatenate([goal - cube[..., :2], SIZE / 2 - cube[..., 2:3]], axis=-1)
    lengths = [LENGTH * x for x in (cube[..., :3], ahead, hand, qpos[..., FINGERS])]
    return xp.concatenate([cube[..., 3:], *lengths[:3], turned, lengths[3]], axis=-1)


def judge(obs: Any, age: Any, guidance: float, xp: ModuleType) -> tuple[Any, Any, Any, Any]:
    """Reward, success, lifted and timed out, [...] each, of step number `age` of an episode, which led to `obs`.

    The published reward is flat where the cube is more than 0.2 m from the goal, as most are at first, and knows
    nothing of the hand: thousands of copies find the cube by chance, a few never. `guidance` adds two slopes that
    are felt from everywhere: of the hand to the cube's back, as seen from the goal, and of the cube to the goal.
    """
    cube, ahead, hand = (obs[..., i : i + 3] / LENGTH for i in (4, 7, 10))
    gap = distance(ahead[..., :2], 0.0, xp)
    aligned = 1 - xp.tanh(10 * gap)
    success = gap < REACHED
    lifted = cube[..., 2] > LIFTED
    late = age >= SPEC.episode_steps
    behind = cube - BEHIND * ahead / (gap[..., None] + 1e-6)
    near = 1 - xp.tanh(5 * distance(hand, behind, xp))
    afar = 1 - xp.tanh(3 * gap)
    reward = xp.where(lifted | late, -5 * (1 - aligned), 2 * aligned + guidance * (near + 2 * afar))
    return xp.where(success, 4.0 * (SPEC.episode_steps - age), reward), success, lifted, late


def distance(a: Any, b: Any, xp: ModuleType) -> Any:
    """Euclidean, over the last axis."""
    return xp.sqrt(((a - b) ** 2).sum(-1))


def grip(joints: Any, xp: ModuleType) -> tuple[Any, Any]:
    """Position [..., 3] in metres and unit quaternion [..., 4] of the point between the fingertips, from the joint
    angles [..., 7] in rad. The quaternion is a smooth function of the angles: it never jumps to its negative.
    """
    chain = _chain()
    angles = xp.concatenate([joints, 0 * joints[..., :1]], axis=-1) / 2  # the hand is bolted on
    cos, sin = xp.cos(angles), xp.sin(angles)
    quat = xp.zeros_like(cos[..., :4]) + xp.asarray([1.0, 0.0, 0.0, 0.0], joints.dtype)
    quats = [quat]
    for i, (still, turned) in enumerate(zip(chain.still, chain.turned, strict=True)):
        quat = cos[..., i : i + 1] * (quat @ xp.asarray(still, quat.dtype))
        quat = quat + sin[..., i : i + 1] * (quats[-1] @ xp.asarray(turned, quat.dtype))
        quats.append(quat)
    frames, offsets = xp.stack(quats, axis=-2), xp.asarray(chain.offsets, quat.dtype)  # [..., 9, 4], [9, 3]
    axis = frames[..., 1:]
    across = 2 * xp.cross(axis, offsets)  # the usual way to rotate a vector by a quaternion
    rotated = offsets + frames[..., :1] * across + xp.cross(axis, across)
    return rotated.sum(-2) + xp.asarray(chain.base, quat.dtype), quat


class Chain(NamedTuple):
    """The arm's geometry, read from the model: each part's frame in that of the one before, base to grip."""

    base: np.ndarray  # [3]
    offsets: np.ndarray  # [9, 3]: joints 1 … 7, hand, grip
    still: np.ndarray  # [8, 4, 4]: quat @ still is quat times the part's own rotation …
    turned: np.ndarray  # … and quat @ turned the same times k, half a turn about the part's z


@functools.cache
def _chain() -> Chain:
    import mujoco

    model = _model()
    parts = [model.body(name) for name in (*(f"link{i}" for i in range(1, 8)), "hand")]

    def times(right: np.ndarray) -> np.ndarray:
        """[4, 4] such that left @ it is the product of quaternions left · right."""
        rows = np.zeros((4, 4))
        for row, unit in zip(rows, np.eye(4), strict=True):
            mujoco.mju_mulQuat(row, unit, right)
        return rows

    still = np.stack([times(part.quat) for part in parts])
    offsets = np.stack([*(part.pos for part in parts), model.site("grip").pos])
    return Chain(model.body("base").pos, offsets, still, still @ times(np.array([0.0, 0.0, 0.0, 1.0])))


@functools.cache
def _model() -> Any:
    import mujoco

    return mujoco.MjModel.from_xml_path(str(Path(__file__).with_name("franka.xml")))


# --- the suite ---


@dataclass(frozen=True)
class Franka:
    """Benchmark suite `franka` (conf/benchmark/franka.yaml); `chosen` is the one that runs."""

    name: str
    task: str
    num_envs: int
    engine: Literal["c", "mjx"]
    spread: float
    guidance: float

    def __post_init__(self) -> None:
        if self.num_envs < 1:
            raise ValueError(f"num_envs={self.num_envs}: give a whole number of copies, 1 or more")
        if not 2 * APART <= self.spread <= REACHABLE:
            raise ValueError(f"spread={self.spread}: give metres from {2 * APART} to {REACHABLE}")
        if self.guidance < 0:
            raise ValueError(f"guidance={self.guidance}: give 0 or more")

    def chosen(self) -> Franka:
        """The suite by its engine: what it can do decides the executor (see loop.py)."""
        return {"c": FrankaC, "mjx": FrankaMJX}[self.engine](**vars(self))

    def spec(self) -> EnvSpec:
        """The task's shapes; raises Mistake if there is no such task."""
        if self.task not in TASKS:
            raise Mistake(f"benchmark.task={self.task}: franka has no such task; {nearest(self.task, TASKS)}")
        return SPEC

    def succeeded(self, final_obs: Any) -> Any:
        """Whether the cube has reached the goal, bool [...], from an observation [..., 19]."""
        return judge(final_obs, 0, self.guidance, np if isinstance(final_obs, np.ndarray) else jnp)[1]


class FrankaC(Franka):
    """On MuJoCo's own engine, run by the host executor."""

    def make(self, seed: int) -> HostEnv:
        """`num_envs` copies; copy i draws all its randomness from (seed, i), so it is the same in any number."""
        return self.filmed(seed)

    def filmed(self, seed: int) -> FilmedEnv:
        """As `make`, bit for bit: every copy can be drawn where MUJOCO_GL asked for a screen.

        It uses the cores that the process may use, as a launcher pins it; results do not depend on their number.
        """
        self.spec()
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        return _Copies(self, seed, min(cores, self.num_envs // COPIES_PER_THREAD))


class _Copies:
    """Copies of the task as arrays: one call of the engine steps them all, on all threads."""

    def __init__(self, suite: Franka, seed: int, threads: int) -> None:
        import mujoco
        from mujoco.rollout import Rollout

        self._model = _model()
        self._suite, num_envs = suite, suite.num_envs
        threads = max(1, min(threads, num_envs))
        self._data = [mujoco.MjData(self._model) for _ in range(threads)]
        self._pool = Rollout(nthread=threads if threads > 1 else 0)  # 0: in this thread
        self._generators = [np.random.default_rng((seed, i)) for i in range(num_envs)]
        # a copy's state is the time, which nothing depends on, qpos [16] and qvel [15]; solvers start from it alone
        self._state = np.zeros((num_envs, 1 + self._model.nq + self._model.nv))
        self._qpos = self._state[:, 1 : 1 + self._model.nq]
        self._goal, self._age = np.zeros((num_envs, 2)), np.zeros(num_envs, int)
        self._renderer: Any = None

    def reset(self) -> np.ndarray:
        """Start an episode in every copy; returns obs [E, 19]."""
        self._start(np.arange(len(self._age)))
        return self._observe()

    def step(self, action: Any) -> Step:
        """Apply action [E, 7]: see `control`."""
        controls = np.repeat(control(np.asarray(action, float), np)[:, None], SUBSTEPS, axis=1)
        states, _ = self._pool.rollout(self._model, self._data, self._state, controls)
        self._state[:] = states[:, -1]
        self._age += 1
        final_obs = obs = self._observe()
        reward, success, lifted, late = judge(final_obs, self._age, self._suite.guidance, np)
        over = np.flatnonzero(success | lifted | late)
        if len(over):
            self._start(over)
            obs = self._observe()
        ended = success | lifted
        return Step(obs, reward.astype(np.float32), ended, late & ~ended, final_obs)

    def state(self) -> bytes | None:
        """As ResumableEnv.state."""
        return packed((self._generators, self._state, self._goal, self._age))

    def resume(self, state: bytes) -> None:
        """As ResumableEnv.resume."""
        self._generators, self._state[:], self._goal, self._age = unpacked(state)  # _qpos is a view of _state

    def frame(self) -> np.ndarray:
        """A picture of copy 0 as it is now, uint8 [H, W, 3]."""
        import mujoco

        if self._renderer is None:
            self._renderer = mujoco.Renderer(self._model, *PICTURE)
        data = self._data[0]
        data.qpos[:], data.mocap_pos[0, :2] = self._qpos[0], self._goal[0]
        mujoco.mj_forward(self._model, data)
        self._renderer.update_scene(data, camera="front")
        picture: np.ndarray = self._renderer.render()
        return picture

    def close(self) -> None:
        """End the threads."""
        self._pool.close()
        if self._renderer is not None:
            self._renderer.close()

    def _start(self, copies: np.ndarray) -> None:
        u = np.stack([self._generators[i].random(UNIFORMS) for i in copies])
        self._state[copies], self._age[copies] = 0.0, 0
        self._qpos[copies], self._goal[copies] = start(u, self._suite.spread, np)

    def _observe(self) -> np.ndarray:
        obs: np.ndarray = observe(self._qpos, self._goal, np).astype(np.float32)
        return obs


class World(NamedTuple):
    """One copy on MJX, in mid-episode."""

    qpos: Array  # [16]
    qvel: Array  # [15]
    goal: Array  # [2]
    age: Array  # [] int32, steps taken in this episode
    episode: Array  # [] int32, episodes begun before this one
    key: Array  # never changes; episode e starts from fold_in(key, e)


class FrankaMJX(Franka):
    """On MJX, run by the device executor."""

    def functions(self) -> DeviceEnv:
        """`init` and `step` of one copy, with a reset in the same step; raises Mistake without MJX."""
        self.spec()
        try:
            from mujoco import mjx
        except ImportError as error:
            raise Mistake(f"benchmark.engine=mjx: {error}; pip install -e '.[mjx]'") from error
        model, still = mjx.put_model(_model(), impl="jax"), mjx.make_data(_model(), impl="jax")

        def begin(key: Array, episode: Array) -> World:
            qpos, goal = start(jax.random.uniform(jax.random.fold_in(key, episode), (UNIFORMS,)), self.spread, jnp)
            return World(qpos, jnp.zeros(model.nv), goal, jnp.int32(0), episode, key)

        def init(key: Array) -> tuple[World, Array]:
            world = begin(key, jnp.int32(0))
            return world, observe(world.qpos, world.goal, jnp)

        def step(world: World, action: Array) -> tuple[World, Step]:
            # Only position and velocity go from step to step, as in the C engine.
            data = still.replace(qpos=world.qpos, qvel=world.qvel, ctrl=control(action, jnp))
            data = jax.lax.fori_loop(0, SUBSTEPS, lambda _, d: mjx.step(model, d), data)
            world = world._replace(qpos=data.qpos, qvel=data.qvel, age=world.age + 1)
            final_obs = observe(world.qpos, world.goal, jnp)
            reward, success, lifted, late = judge(final_obs, world.age, self.guidance, jnp)
            ended = success | lifted
            # a branch only for one copy: vmap makes it a select, which costs a draw and the arm's geometry
            world = jax.lax.cond(ended | late, lambda: begin(world.key, world.episode + 1), lambda: world)
            obs = observe(world.qpos, world.goal, jnp)
            return world, Step(obs, reward, ended, late & ~ended, final_obs)

        return DeviceEnv(init, step)

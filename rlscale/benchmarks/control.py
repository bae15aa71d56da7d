"""Two control tasks as pure JAX functions: Gymnasium's `Pendulum-v1` and dm_control's `cartpole` `swingup`.

Both equal their originals step for step (tests/benchmarks/test_control.py drives the originals beside them), so that
what is learned about them carries over, and a laptop can scan environment and learner in one compiled loop. No
simulator is imported here. In float64 they agree to rounding, at the ends of cartpole's rail too, where the larger
error is MuJoCo's own (its solver stops at 1e-8); in float32 to about 1e-5 per 200 steps. Contact with the rail's end
multiplies such differences, so that float32 trajectories with many of them part after some hundred steps.

Angles are kept in [-π, π): nothing that the agent sees or earns depends on the number of turns, and float32 keeps
its precision. All arithmetic follows the dtype of the state (float32, or float64 under JAX's x64 mode).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from rlscale.typed import Mistake, nearest
from rlscale.types import Array, DeviceEnv, EnvSpec, Step


@dataclass(frozen=True)
class Control:
    """Benchmark suite `control` (conf/benchmark/control.yaml), run by the device executor."""

    name: str
    task: str
    num_envs: int

    def __post_init__(self) -> None:
        if self.num_envs < 1:
            raise ValueError(f"num_envs={self.num_envs}: give a whole number of copies, 1 or more")

    def spec(self) -> EnvSpec:
        """The task's shapes; raises Mistake if there is no such task."""
        return self._task().spec

    def functions(self) -> DeviceEnv:
        """`init` and `step` of one copy, with a reset in the same step; raises Mistake if there is no such task."""
        return _episodes(self._task())

    def _task(self) -> Task:
        if self.task not in TASKS:
            raise Mistake(f"benchmark.task={self.task}: control has no such task; {nearest(self.task, TASKS)}")
        return TASKS[self.task]


class Task(NamedTuple):
    """What distinguishes one task from another; `_episodes` adds what they share."""

    spec: EnvSpec
    start: Callable[[Array], Any]  # (key) -> physics, a fresh draw of the initial distribution
    move: Callable[[Any, Array], tuple[Any, Array]]  # (physics, action[A]) -> (physics, reward[])
    observe: Callable[[Any], Array]  # (physics) -> obs[O]


class EnvState(NamedTuple):
    """One copy of a task in mid-episode."""

    physics: Any  # the task's own NamedTuple of scalars
    env_step: Array  # [] int32, steps taken in this episode
    episode: Array  # [] int32, episodes begun before this one
    key: Array  # never changes; episode e starts from fold_in(key, e)


def _episodes(task: Task) -> DeviceEnv:
    """Wrap a task's physics into episodes that only a time-out ends and that restart in the same step."""

    def init(key: Array) -> tuple[EnvState, Array]:
        physics = task.start(jax.random.fold_in(key, 0))
        zero = jnp.zeros((), jnp.int32)
        return EnvState(physics, zero, zero, key), task.observe(physics)

    def step(state: EnvState, action: Array) -> tuple[EnvState, Step]:
        physics, reward = task.move(state.physics, jnp.clip(action, -1.0, 1.0))
        env_step = state.env_step + 1
        truncated = env_step >= task.spec.episode_steps
        episode = state.episode + truncated.astype(jnp.int32)
        final_obs = task.observe(physics)
        # A branch, so that a scan over one copy draws random numbers once per episode, not once per step (vmap
        # turns it into a select and pays for the draw: 3 hashes, which is little beside a learner's update).
        physics, obs = jax.lax.cond(
            truncated,
            lambda: _with_obs(task, task.start(jax.random.fold_in(state.key, episode))),
            lambda: (physics, final_obs),
        )
        env_step = jnp.where(truncated, 0, env_step)
        never = jnp.zeros((), bool)
        return EnvState(physics, env_step, episode, state.key), Step(obs, reward, never, truncated, final_obs)

    return DeviceEnv(init, step)


def _with_obs(task: Task, physics: Any) -> tuple[Any, Array]:
    return physics, task.observe(physics)


def _wrap(angle: Array) -> Array:
    """The same angle in [-π, π]."""
    return angle - 2 * math.pi * jnp.round(angle / (2 * math.pi))


# --- pendulum: gymnasium/envs/classic_control/pendulum.py ---


class Pendulum(NamedTuple):
    theta: Array  # [] rad, 0 is upright
    omega: Array  # [] rad/s, within ±8


def _pendulum_start(key: Array) -> Pendulum:
    theta, omega = jax.random.uniform(key, (2,), minval=-1.0, maxval=1.0)
    return Pendulum(math.pi * theta, omega)


def _pendulum_move(q: Pendulum, action: Array) -> tuple[Pendulum, Array]:
    """Semi-implicit Euler, 0.05 s, with g = 10, m = l = 1; the reward is of the state before the step."""
    torque = 2.0 * action[0]  # N·m
    reward = -(q.theta**2 + 0.1 * q.omega**2 + 0.001 * torque**2)
    omega = jnp.clip(q.omega + 0.05 * (15.0 * jnp.sin(q.theta) + 3.0 * torque), -8.0, 8.0)
    return Pendulum(_wrap(q.theta + 0.05 * omega), omega), reward


def _pendulum_observe(q: Pendulum) -> Array:
    return jnp.stack([jnp.cos(q.theta), jnp.sin(q.theta), q.omega])


# --- cartpole_swingup: dm_control/suite/cartpole.{py,xml} ---

_CART, _POLE, _HALF = 1.0, 0.1, 0.5  # kg, kg, m from the hinge to the pole's centre
# The pole is a capsule of radius 0.045 m around a 1 m line, of uniform density: a cylinder and two half balls. Its
# moment of inertia about a transverse axis through the hinge at its end [kg·m²] (model.body_inertia + m·l²):
_R, _L = 0.045, 1.0
_BALL = _POLE * (4 * _R) / (4 * _R + 3 * _L)  # kg, both half balls together
_ROD = (_POLE - _BALL) * (_R**2 / 4 + _L**2 / 12)
_INERTIA = _ROD + _BALL * (2 * _R**2 / 5 + _L**2 / 4 + 3 * _R * _L / 8) + _POLE * _HALF**2
_COUPLING = _POLE * _HALF  # kg·m


class Cartpole(NamedTuple):
    x: Array  # [] m along the rail
    theta: Array  # [] rad, 0 is upright
    v: Array  # [] m/s
    omega: Array  # [] rad/s


def _cartpole_start(key: Array) -> Cartpole:
    x, theta, v, omega = 0.01 * jax.random.normal(key, (4,))
    return Cartpole(x, _wrap(math.pi + theta), v, omega)


def _cartpole_move(q: Cartpole, action: Array) -> tuple[Cartpole, Array]:
    """Classical Runge–Kutta of order 4, 0.01 s (MuJoCo's RK4); the reward is of the state after the step."""
    h, control = 0.01, action[0]

    def ahead(seconds: float, rate: Cartpole) -> Cartpole:
        return Cartpole(*(value + seconds * slope for value, slope in zip(q, rate, strict=True)))

    k1 = _cartpole_rate(q, control)
    k2 = _cartpole_rate(ahead(h / 2, k1), control)
    k3 = _cartpole_rate(ahead(h / 2, k2), control)
    k4 = _cartpole_rate(ahead(h, k3), control)
    mean = Cartpole(*((a + 2 * b + 2 * c + d) / 6 for a, b, c, d in zip(k1, k2, k3, k4, strict=True)))
    q = ahead(h, mean)
    q = q._replace(theta=_wrap(q.theta))

    # `tolerance` of dm_control.utils.rewards: a Gaussian that is 0.1 at its margin, and 1 - u² for the control
    upright = (1.0 + jnp.cos(q.theta)) / 2
    centred = (1.0 + jnp.exp(math.log(0.1) * (q.x / 2.0) ** 2)) / 2
    small_control = (5.0 - control**2) / 5
    small_velocity = (1.0 + jnp.exp(math.log(0.1) * (q.omega / 5.0) ** 2)) / 2
    return q, upright * centred * small_control * small_velocity


def _cartpole_rate(q: Cartpole, control: Array) -> Cartpole:
    """Time derivative of the state: M(θ)·(dv, dω) = forces, with the rail's end as a soft force on the cart."""
    sin, cos = jnp.sin(q.theta), jnp.cos(q.theta)
    total, cross = _CART + _POLE, _COUPLING * cos  # M = [[total, cross], [cross, _INERTIA]]
    det = total * _INERTIA - cross**2
    cart = 10.0 * control - 5e-4 * q.v + _COUPLING * sin * q.omega**2  # N
    pole = 9.81 * _COUPLING * sin - 2e-6 * q.omega  # N·m
    free = (_INERTIA * cart - cross * pole) / det  # m/s², the cart's acceleration off the rail's end
    cart = cart - _rail_end(q.x, q.v, free, _INERTIA / det)
    dv = (_INERTIA * cart - cross * pole) / det
    return Cartpole(q.v, q.omega, dv, (total * pole - cross * cart) / det)


def _rail_end(x: Array, v: Array, free: Array, mobility: Array) -> Array:
    """The force [N] against the cart's passing ±1.8 m, exactly MuJoCo's soft joint limit.

    With one scalar constraint MuJoCo's convex problem has a closed form (mujoco.readthedocs.io, Computation,
    "Constraint model"): f = max(0, (a_ref - a) / (A + R)), where A is `mobility` = (M⁻¹)₀₀, R = (1-d)/d · A at θ = 0,
    and the reference a_ref is a critically damped spring: solref (0.08, 1), solimp (0.9, 0.95, 0.001, 0.5, 2).
    """
    side, depth = jnp.sign(x), jnp.abs(x) - 1.8
    near = jnp.clip(depth / 0.001, 0.0, 1.0)
    impedance = 0.9 + 0.05 * jnp.where(near < 0.5, 2 * near**2, 1 - 2 * (1 - near) ** 2)
    stiffness, damping = 1 / (0.95 * 0.08) ** 2, 2 / (0.95 * 0.08)  # 1/s², 1/s
    reference = damping * side * v + stiffness * impedance * depth  # m/s², inwards
    at_rest = _INERTIA / ((_CART + _POLE) * _INERTIA - _COUPLING**2)  # model.dof_invweight0[0], 1/kg
    force = (reference + side * free) / (mobility + at_rest * (1 - impedance) / impedance)
    return jnp.where(depth > 0, side * jnp.maximum(force, 0.0), 0.0)


def _cartpole_observe(q: Cartpole) -> Array:
    return jnp.stack([q.x, jnp.cos(q.theta), jnp.sin(q.theta), q.v, q.omega])


TASKS = {
    "pendulum": Task(EnvSpec(3, 1, 200), _pendulum_start, _pendulum_move, _pendulum_observe),
    "cartpole_swingup": Task(EnvSpec(5, 1, 1000), _cartpole_start, _cartpole_move, _cartpole_observe),
}

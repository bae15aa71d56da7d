"""Brax's tasks as pure JAX functions: simulator, replay and learner in one program on the device.

Between resets a step is Brax's own `env.step`. None of its wrappers is used: the automatic reset there puts a copy back
into the first state of its first episode, and loses the observation that an episode ended with.

A reset is dear, and under vmap a branch takes both its ways, so that all copies would be reset in every step. So every
copy has the start of its next episode ready, and `_episodes` makes those of many copies at once, when they were used.
"""

from __future__ import annotations

import contextlib
import functools
import io
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from rlscale.typed import Mistake, nearest
from rlscale.types import Array, DeviceEnv, EnvSpec, Step

BACKENDS = ("spring", "positional", "generalized", "mjx")
TASKS = (
    "ant",
    "halfcheetah",
    "hopper",
    "humanoid",
    "humanoidstandup",
    "inverted_double_pendulum",
    "inverted_pendulum",
    "pusher",
    "reacher",
    "walker2d",
)  # without `swimmer`: Brax 0.14 cannot step it, since it gives `jnp.clip` an argument that JAX no longer has
SHARES = 4  # starts are made for a quarter of the copies at once: see `_episodes`


@dataclass(frozen=True)
class Brax:
    """Benchmark suite `brax` (conf/benchmark/brax.yaml), run by the device executor."""

    name: str
    task: str
    backend: str
    num_envs: int
    episode_steps: int

    def __post_init__(self) -> None:
        for field in ("num_envs", "episode_steps"):
            if getattr(self, field) < 1:
                raise ValueError(f"{field}={getattr(self, field)}: give a whole number, 1 or more")

    def spec(self) -> EnvSpec:
        """The task's shapes, nothing compiled; raises Mistake without Brax, or if it has no such task or backend."""
        env = self._env()
        obs = jax.eval_shape(env.reset, jax.random.PRNGKey(0)).obs
        return EnvSpec(obs.shape[0], env.action_size, self.episode_steps)

    def functions(self) -> DeviceEnv:
        """`init` and `step` of one copy, with a reset in the same step; raises Mistake as `spec` does."""
        return _episodes(self._env(), self.episode_steps)

    def _env(self) -> Any:
        if self.task not in TASKS:
            raise Mistake(f"benchmark.task={self.task}: brax has no such task; {nearest(self.task, TASKS)}")
        if self.backend not in BACKENDS:
            raise Mistake(f"benchmark.backend={self.backend}: brax has no such; {nearest(self.backend, BACKENDS)}")
        return _load(self.task, self.backend)


class EnvState(NamedTuple):
    """One copy of a task in mid-episode."""

    now: Any  # brax.envs.State
    ready: Any  # brax.envs.State at the start of the next episode, unless that is still to be made
    spent: Array  # [] bool: `ready` is still to be made
    env_step: Array  # [] int32, steps taken in this episode
    episode: Array  # [] int32, episodes begun before this one
    key: Array  # never changes; episode e starts from fold_in(key, e)


def _episodes(env: Any, episode_steps: int) -> DeviceEnv:
    """Wrap a Brax environment into episodes that end truly or by the time limit and restart in the same step.

    Where the simulation diverges (an observation or a reward that is not finite) the step is a time-out without a
    reward that leads nowhere: the fault is the simulator's, so that it is neither an outcome of the task to be learned
    nor worth the run.
    """
    kinds = jax.eval_shape(env.reset, jax.random.PRNGKey(0))

    def start(key: Array, episode: Array) -> Any:
        return env.reset(jax.random.fold_in(key, episode))

    @jax.custom_batching.custom_vmap
    def prepared(over: Array, spent: Array, key: Array, episode: Array, ready: Any) -> tuple[Any, Array]:
        """`ready` and `spent`, with what a copy needs that is over."""
        ready = jax.lax.cond(over & spent, start, lambda *_: ready, key, episode)
        return ready, spent & ~over

    @prepared.def_vmap
    def prepared_together(copies: int, mapped: Any, *batch: Any) -> tuple[Any, Any]:
        """`prepared` of a batch: nothing in most steps, and a share of the copies at once when so many are spent.

        When they are made changes no result: a start depends on its copy's key and episode alone. Under pack=vmap the
        loop turns as often as the neediest member wants.
        """
        over, spent, key, episode, ready = jax.tree.map(
            lambda x, own: x if own else jnp.broadcast_to(x, (copies, *jnp.shape(x))), batch, tuple(mapped)
        )
        at_once = -(-copies // SHARES)

        def wanted(carry: tuple[Array, Any]) -> Array:
            spent, _ = carry
            return (spent.sum() >= at_once) | (over & spent).any()

        def some(carry: tuple[Array, Any]) -> tuple[Array, Any]:
            spent, ready = carry
            which = jnp.nonzero(spent, size=at_once, fill_value=copies)[0]  # their indices, then ones that lie outside
            fresh = jax.vmap(start)(key.at[which].get(mode="clip"), episode.at[which].get(mode="clip"))
            made = jax.tree.map(lambda x, new: x.at[which].set(new, mode="drop"), ready, fresh)
            return spent.at[which].set(False, mode="drop"), made

        spent, ready = jax.lax.while_loop(wanted, some, (spent, ready))
        return (ready, spent), jax.tree.map(lambda _: True, (ready, spent))

    def init(key: Array) -> tuple[EnvState, Array]:
        zero = jnp.zeros((), jnp.int32)
        now = start(key, zero)
        return EnvState(now, now, jnp.ones((), bool), zero, zero, key), now.obs

    def step(state: EnvState, action: Array) -> tuple[EnvState, Step]:
        before = state.now.obs
        now = env.step(state.now, jnp.clip(action, -1.0, 1.0))
        now = jax.tree.map(lambda x, kind: jnp.asarray(x, kind.dtype), now, kinds)  # a reward may be a plain 1.0
        env_step = state.env_step + 1
        sound = jnp.isfinite(now.obs).all() & jnp.isfinite(now.reward)
        terminated = sound & (now.done > 0)
        truncated = ~terminated & (~sound | (env_step >= episode_steps))
        final_obs, reward = jnp.where(sound, now.obs, before), jnp.where(sound, now.reward, 0.0)
        over = terminated | truncated
        ready, spent = prepared(over, state.spent, state.key, state.episode + 1, state.ready)
        now = jax.tree.map(lambda old, new: jnp.where(over, new, old), now, ready)
        episode, env_step = state.episode + over.astype(jnp.int32), jnp.where(over, 0, env_step)
        state = EnvState(now, ready, spent | over, env_step, episode, state.key)
        return state, Step(now.obs, reward, terminated, truncated, final_obs)

    return DeviceEnv(init, step)


@functools.cache  # shapes are asked for by the door, the loop and the estimates: build the model once
def _load(task: str, backend: str) -> Any:
    """Brax's own environment; raises Mistake without Brax."""
    with _quiet():
        try:
            from brax import envs
        except ImportError as error:
            raise Mistake(f"benchmark=brax: {error}; pip install -e '.[brax]'") from error
        return envs.get_environment(task, backend=backend)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silence what a user of these tasks can do nothing about, while Brax is imported or one of them is made.

    MJX prints that it found no Warp (it needs none here), JAXopt and Brax warn that they are no longer maintained, and
    MuJoCo that halfcheetah's model uses `settotalmass`, which it writes to MUJOCO_LOG.TXT in the working directory.
    """

    def pass_on(message: str) -> None:
        if "settotalmass" not in message:
            warnings.warn(message, RuntimeWarning, stacklevel=2)

    try:
        import mujoco
    except ImportError:  # Brax needs it and says so
        yield
        return
    before = mujoco.get_mju_user_warning()
    mujoco.set_mju_user_warning(pass_on)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.filterwarnings("ignore", "JAXopt is no longer maintained", DeprecationWarning)
            warnings.filterwarnings("ignore", "Brax System, piplines and environments are not", UserWarning)
            yield
    finally:
        mujoco.set_mju_user_warning(before)

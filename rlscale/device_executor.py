"""Runs cycles of a task that is a pure function: simulator, replay and learner in one program, K cycles a call."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from rlscale.cycle import Executor, Learner, Now, Run, transition
from rlscale.types import Array

UPDATES_PER_CALL = 4000  # bounds the time between two looks at the clock and at Ctrl-C


class World(NamedTuple):
    """One member's environments on the device executor."""

    env: Any  # [E, ...] simulator state
    obs: Array  # [E, O]
    running: Array  # [E] return so far of the episode under way
    ended: Array  # [2] sum of returns and number of the episodes ended since the last read


class DeviceExecutor(Executor):
    """Drives a benchmark that has `functions()`."""

    def __init__(self, job: Run):
        self.functions = job.benchmark.functions()
        self.steps_per_call = max(
            1, min(job.budget.log_every // job.cadence.num_envs, UPDATES_PER_CALL // job.cadence.max_due)
        )
        super().__init__(job)
        self.cycles_all = self.over_members(self.cycles, donate=True)
        self.episodes_all = self.over_members(self.episodes)
        self.fresh_all = self.over_members(self.fresh)

    def begin(self, _: None, own: tuple[Array, Array], shared: None) -> tuple[Learner, World]:
        learner = super().begin(_, own, shared)
        env, obs = jax.vmap(self.functions.init)(jax.random.split(learner.keys.env, self.job.cadence.num_envs))
        return learner, World(env, obs, jnp.zeros(len(obs)), jnp.zeros(2))

    @property
    def learners(self) -> list[Learner]:
        return [learner for learner, _ in self.carries]

    def cycles(self, carry: tuple[Learner, World], _: None, shared: tuple[Array, Now]) -> tuple[Learner, World]:
        """The first `count` of the given vector steps; a value again, so a shorter last call compiles nothing."""
        count, clock = shared

        def cycle(i: Array, carry: tuple[Learner, World]) -> tuple[Learner, World]:
            (learner, world), now = carry, Now(*(x[i] for x in clock))
            action = self.act(learner, world.obs, now)
            env, step = jax.vmap(self.functions.step)(world.env, action)
            rows, over = transition(world.obs, action, step, self.job.algorithm.timeout_is_terminal)
            learner = self.absorb(learner, rows, over, now)
            running = world.running + step.reward
            ended = world.ended + jnp.stack([jnp.where(over, running, 0.0).sum(), over.sum().astype(jnp.float32)])
            return learner, World(env, step.obs, jnp.where(over, 0.0, running), ended)

        return jax.lax.fori_loop(0, count, cycle, carry)

    def advance(self, step: int, stop: int) -> int:
        """Run cycles from vector step `step` towards `stop`; returns how far it came."""
        count = min(self.steps_per_call, stop - step)
        clock = Now(*(np.resize(x, self.steps_per_call) for x in self.now(range(step, step + count))))
        self.carries = self.cycles_all(self.carries, shared=(np.int32(count), clock))
        jax.block_until_ready(self.carries)
        return step + count

    def reset(self, count: int) -> None:
        """As HostExecutor.reset."""
        learners = self.fresh_all(self.learners, shared=np.uint32(count))
        self.carries = [(learner, world) for learner, (_, world) in zip(learners, self.carries, strict=True)]

    def read(self) -> tuple[np.ndarray, np.ndarray, dict[str, np.ndarray]]:
        """Sum and number of the returns of episodes ended since the last read [M, 2], updates made [M], metrics [M]."""
        values = self.by_member([(w.ended, learner.state.updates, learner.metrics) for learner, w in self.carries])
        self.carries = [(learner, world._replace(ended=jnp.zeros_like(world.ended))) for learner, world in self.carries]
        return values

    def evaluate(self, step: int) -> tuple[np.ndarray, np.ndarray | None]:
        """Mean return [M] of `eval_episodes` fresh episodes without exploration, and the share [M] of them that did
        the task, if the benchmark can tell.
        """
        return self.by_member(self.episodes_all(self.learners, shared=np.uint32(step % 2**32)))

    def episodes(self, learner: Learner, _: None, step: Array) -> tuple[Array, Array | None]:
        keys = jax.random.split(jax.random.fold_in(learner.keys.evaluate, step), self.job.budget.eval_episodes)
        env, obs = jax.vmap(self.functions.init)(keys)

        def one(_: Array, carry: tuple[Any, ...]) -> tuple[Any, ...]:
            env, obs, total, alive, won = carry
            action = self.job.algorithm.act(learner.state, obs, learner.keys.evaluate, False)
            env, step = jax.vmap(self.functions.step)(env, action)
            if self.succeeded:
                won = jnp.maximum(won, alive * self.succeeded(step.final_obs))
            return env, step.obs, total + alive * step.reward, alive * ~(step.terminated | step.truncated), won

        start = (env, obs, jnp.zeros(len(obs)), jnp.ones(len(obs)), jnp.zeros(len(obs)) if self.succeeded else None)
        _, _, total, _, won = jax.lax.fori_loop(0, self.env.episode_steps, one, start)
        return total.mean(), won if won is None else won.mean()

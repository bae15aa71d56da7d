"""Transitions that are never trained on: a second stream of environments for each member, stepped by its policy."""

from __future__ import annotations

import io
from math import ceil
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rlscale import checkpoint, n_step, replay
from rlscale.cycle import Executor, Learner, Now, transition
from rlscale.types import Array, DeviceBenchmark, DeviceEnv, HostEnv, ResumableEnv, Step, Transition

LABEL = 2**32 - 1  # folded into a member's keys and seeds: diagnostics draw from streams of their own
ACT, BATCHES, INIT = range(3)  # which


def own_key(learner: Learner, which: int) -> Array:
    """A stream of diagnostics; the learner's own are as if it had never been asked for."""
    return jax.random.fold_in(jax.random.fold_in(learner.keys.init, LABEL), which)


class Stream:
    """A step for each vector step of the warm-up, at random, and then for every `every`-th, by the newest policy."""

    def __init__(self, executor: Executor, every: int):
        self.executor, self.every = executor, every
        self.num_envs, self.late = executor.job.cadence.num_envs, executor.returns.n - 1
        self.first = 0  # the vector step with which it began: later where an earlier process trained without it
        rows = self.taken(executor.job.cadence.total) * self.num_envs
        wanted = min(rows, executor.job.budget.replay_capacity or rows)
        self.capacity = ceil(wanted / self.num_envs) * self.num_envs
        self.kept: list[Any] = executor.over_members(self.begin)(executor.learners)
        self.envs, self.obs = self.fresh(0)
        self.choose_all = executor.over_members(self.choose)
        self.keep_all = executor.over_members(self.keep, donate=True)

    def due(self, step: int) -> bool:
        """Whether vector step number `step` is one of them."""
        warmup = self.executor.job.cadence.warmup
        return step < warmup or (step - warmup) % self.every == 0

    def taken(self, step: int) -> int:
        """How many have been made before vector step number `step`."""
        warmup = self.executor.job.cadence.warmup
        since, before = (min(t, warmup) + ceil(max(0, t - warmup) / self.every) for t in (step, self.first))
        return since - before

    def size(self, step: int) -> int:
        """Transitions kept once vector step number `step` is done; 0 while the first return is not complete."""
        return min(max(0, self.taken(step + 1) - self.late) * self.num_envs, self.capacity)

    def advance(self, step: int) -> None:
        """Vector step number `step`, if it is due."""
        if not self.due(step):
            return
        at, executor = self.taken(step), self.executor
        asked = (np.uint32(at % 2**32), step < executor.job.cadence.warmup)
        action = executor.by_member(self.choose_all(executor.learners, self.obs, asked))
        out = executor.stepped(self.envs, action)
        made = transition(self.obs, action, out, executor.job.algorithm.timeout_is_terminal)
        self.kept = self.keep_all(self.kept, made, np.int32(max(0, at - self.late) * self.num_envs % self.capacity))
        self.obs = out.obs

    def begin(self, learner: Learner, *_: Any) -> tuple[Transition, n_step.Window | None]:
        """One member's empty replay, and the window of its returns."""
        env, returns = self.executor.env, self.executor.returns
        window = n_step.init(returns.n, self.num_envs, env) if returns.n > 1 else None
        return replay.init(self.capacity, env), window

    def choose(self, learner: Learner, obs: Array, asked: tuple[Array, Array]) -> Array:
        """The exploring policy's actions, at random in the warm-up, from a key of its own."""
        keys = learner.keys._replace(act=own_key(learner, ACT))
        return self.executor.act(learner._replace(keys=keys), obs, Now(*asked, None, None, None))

    def keep(self, kept: Any, made: tuple[Transition, Array], at: Array) -> Any:
        """The replay with a vector step more."""
        (storage, window), (rows, over) = kept, made
        if window is not None:
            window, rows = n_step.push(window, rows, over, self.executor.returns.discount)
        return replay.add(storage, at, rows), window

    def fresh(self, step: int) -> tuple[list[HostEnv], np.ndarray]:
        """Environments from seeds that neither training nor evaluation has, and what is first seen in them."""
        benchmark, members = self.executor.job.benchmark, self.executor.job.members
        seeds = [int(np.random.SeedSequence((LABEL, m.seed, step)).generate_state(1)[0]) for m in members]
        if isinstance(benchmark, DeviceBenchmark):
            envs: list[HostEnv] = [Simulated(benchmark.functions(), self.num_envs, seed) for seed in seeds]
        else:
            envs = [benchmark.make(seed) for seed in seeds]
        return envs, np.stack([env.reset() for env in envs])

    def begin_anew(self, step: int) -> None:
        """Empty, from vector step number `step` on."""
        self.close()
        self.first = step
        self.kept = self.executor.over_members(self.begin)(self.executor.learners)
        self.envs, self.obs = self.fresh(step)

    def saved(self, m: int, step: int) -> dict[str, Any]:
        """Of member m, after `step` ≥ 1 vector steps."""
        env, (storage, window) = self.envs[m], self.executor.of_member(self.kept, m)
        rows = Transition(*(x[: self.size(step - 1)] for x in storage))
        simulator = env.state() if isinstance(env, ResumableEnv) else None
        return {"kept": (rows, window), "obs": self.obs[m], "simulator": simulator}

    def restore(self, kept: list[Any], saved: list[checkpoint.Arrays], first: int, step: int) -> None:
        """Go on with what was `kept` since `first`; environments that cannot be as they were begin episodes anew.

        Raises Unusable before anything is changed but `first`.
        """
        self.first = first
        filled = self.size(step - 1)
        if any(len(x) != filled for rows, _ in kept for x in rows):
            raise checkpoint.Unusable("its validation replay is not that of this program")
        space = ((0, self.capacity - filled),)
        full = [(Transition(*(np.pad(x, space + ((0, 0),) * (x.ndim - 1)) for x in rows)), w) for rows, w in kept]
        self.kept = self.executor.grouped(full)
        if all("diagnostics['simulator']" in a for a in saved):
            for env, a in zip(self.envs, saved, strict=True):
                env.resume(a["diagnostics['simulator']"].tobytes())  # type: ignore[attr-defined]
            self.obs = np.stack([a["diagnostics['obs']"] for a in saved])
        else:
            self.close()
            self.envs, self.obs = self.fresh(step)

    def close(self) -> None:
        for env in self.envs:
            env.close()


class Simulated:
    """A task that is a pure function, as environments that the host steps."""

    def __init__(self, functions: DeviceEnv, num_envs: int, seed: int):
        self.keys = jax.random.split(jax.random.PRNGKey(seed), num_envs)
        self.init, self.functions = jax.jit(jax.vmap(functions.init)), jax.jit(jax.vmap(functions.step))

    def reset(self) -> Any:
        self.world, obs = self.init(self.keys)
        return np.asarray(obs)

    def step(self, action: Any) -> Step:
        self.world, out = self.functions(self.world, jnp.asarray(action))
        return Step(*map(np.asarray, out))

    def state(self) -> bytes:
        file = io.BytesIO()
        np.savez(file, *map(np.asarray, jax.tree.leaves(self.world)))
        return file.getvalue()

    def resume(self, state: bytes) -> None:
        with np.load(io.BytesIO(state), allow_pickle=False) as arrays:
            leaves = [jnp.asarray(arrays[name]) for name in arrays.files]
        self.world = jax.tree.unflatten(jax.tree.structure(self.world), leaves)

    def close(self) -> None:
        """There is nothing to free."""

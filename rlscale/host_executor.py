"""Runs cycles of a task that lives in this process: act on the device, step on the host, absorb on the device."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rlscale import checkpoint, n_step, replay
from rlscale.cycle import Executor, Learner, Now, Run, transition
from rlscale.film import Film
from rlscale.packing import Packed, pack, unpack
from rlscale.types import Array, ResumableEnv, Transition


class HostExecutor(Executor):
    """Drives a benchmark that has `make(seed)`; the replay lives on the device or on the host."""

    def __init__(self, job: Run, films: Sequence[Film] = ()):
        super().__init__(job)
        self.films = films
        self.envs = [job.benchmark.make(m.seed) for m in job.members]
        self.obs = np.stack([env.reset() for env in self.envs])  # [M, E, O]
        self.running = np.zeros(self.obs.shape[:2])
        self.ended = np.zeros((len(job.members), 2))
        self.act_all = self.over_packed(self.act)
        self.greedy_all = self.over_packed(self.greedy)
        self.fresh_all = self.over_members(self.fresh)
        self.turn_all = self.over_packed(self.turn, donate=True)
        self.read_all = self.over_packed(lambda learner, *_: (learner.state.updates, learner.metrics))
        self.action: Any = None  # chosen by the last turn for the next step
        if job.replay == "host":
            self.storage = [replay.init(self.capacity, self.env, np) for _ in job.members]
            if self.returns.n > 1:
                self.windows = [n_step.init(self.returns.n, job.cadence.num_envs, self.env, np) for _ in job.members]
            self.indices_all = self.over_packed(self.indices)
            self.batches: Any = None  # [M, n, B, ...], of the last turn that had updates

    def over_packed(self, function: Callable[..., Any], donate: bool = False) -> Callable[..., list[Any]]:
        """As over_members: `function` of a learner for the packed ones."""

        @functools.wraps(function)  # whose name a profile shows
        def unpacking(packed: Packed, *args: Any) -> Any:
            return function(unpack(packed), *args)

        return self.over_members(unpacking, donate)

    @property
    def carries(self) -> list[Any]:
        """The groups' learners. They are kept packed, since each vector step has them through a call."""
        return self.unpack_all(self.packed)

    @carries.setter
    def carries(self, learners: list[Any]) -> None:
        self.packed = self.pack_all(learners)

    @functools.cached_property
    def pack_all(self) -> Callable[[list[Any]], list[Any]]:
        return self.over_members(lambda learner, *_: pack(learner))

    @functools.cached_property
    def unpack_all(self) -> Callable[[list[Any]], list[Any]]:
        return self.over_members(lambda packed, *_: unpack(packed))

    def advance(self, step: int, stop: int) -> int:
        """One vector step and its updates; returns the next step's number."""
        clock = self.now(range(step, step + 2))
        now, then = (Now(*(x[i] for x in clock)) for i in (0, 1))
        action = self.by_member(self.act_all(self.packed, self.obs, now)) if self.action is None else self.action
        out = self.stepped(self.envs, action)
        rows, over = transition(self.obs, action, out, self.job.algorithm.timeout_is_terminal)
        seen = (self.obs, rows.reward, over)
        experience = (rows, over) if self.job.replay == "device" else (self.gather(rows, over, now), seen)
        turned = self.turn_all(self.packed, (experience, out.obs), (now, then))
        self.packed = [packed for packed, _ in turned]
        self.action = self.by_member([action for _, action in turned])
        self.running += out.reward
        self.ended += np.stack([(self.running * over).sum(1), over.sum(1)], axis=1)
        self.running *= ~over
        self.obs = out.obs
        return step + 1

    def reset(self, count: int) -> None:
        """The learners start afresh, for the `count`-th time; the next action is the new policy's."""
        self.carries = self.fresh_all(self.carries, shared=np.uint32(count))
        self.action = None

    def saved(self, m: int, step: int) -> checkpoint.Arrays:
        """As Executor.saved, with the environments' state where the simulator can give it."""
        env = self.envs[m]
        own = {"obs": self.obs[m], "action": self.action[m], "running": self.running[m], "ended": self.ended[m]}
        if self.job.replay == "host":
            own["storage"] = self._filled_rows(self.storage[m], step)
            own["window"] = self.windows[m] if self.returns.n > 1 else None
        own["simulator"] = env.state() if isinstance(env, ResumableEnv) else None
        return super().saved(m, step) | checkpoint.named(own, "host")

    def restore(self, saved: Sequence[checkpoint.Arrays], step: int) -> bool:
        """As Executor.restore. Environments that cannot be as they were begin episodes anew, from other seeds."""
        on_host: dict[str, Any] = {}  # all that may be refused before anything is changed
        if self.job.replay == "host":
            rows = [checkpoint.rebuilt(self.storage[0], "host['storage']", a) for a in saved]
            on_host["storage"] = [self._filled_up(own, step) for own in rows]
            if self.returns.n > 1:
                on_host["windows"] = [checkpoint.rebuilt(self.windows[0], "host['window']", a) for a in saved]
        super().restore(saved, step)
        vars(self).update(on_host)
        self.ended = np.stack([a["host['ended']"] for a in saved])
        exact = all("host['simulator']" in a for a in saved)
        if exact:
            for env, a in zip(self.envs, saved, strict=True):
                env.resume(a["host['simulator']"].tobytes())  # type: ignore[attr-defined]
            self.obs, self.action, self.running = (
                np.stack([a[f"host['{name}']"] for a in saved]) for name in ("obs", "action", "running")
            )
        else:
            self._begin_anew(step)
        return exact

    def _begin_anew(self, step: int) -> None:
        """New episodes everywhere; a return over several steps ends with the episodes that were cut."""
        for env in self.envs:
            env.close()
        seeds = [int(np.random.SeedSequence((m.seed, step)).generate_state(1)[0]) for m in self.job.members]
        self.envs = [self.job.benchmark.make(seed) for seed in seeds]
        self.obs, self.action = np.stack([env.reset() for env in self.envs]), None
        if self.returns.n > 1 and self.job.replay == "host":
            for window in self.windows:
                window.over[-1] = True
        elif self.returns.n > 1:
            self.carries = [
                c._replace(window=c.window._replace(over=c.window.over.at[..., -1, :].set(True))) for c in self.carries
            ]

    def turn(self, learner: Learner, own: tuple[Any, Array], clock: tuple[Now, Now]) -> tuple[Packed, Array]:
        """Absorb a step, then choose the next action: one call of a compiled function where two would cost double.

        `own` holds the step's transitions and where episodes ended, or the batches [n, B, ...] drawn from a replay on
        the host and what `observe` takes; and the observations to act on next. `clock` is of this step and of the next.
        """
        (experience, obs), (now, then) = own, clock
        if learner.storage is not None:
            rows, over = experience
            learner = self.absorb(learner, rows, over, now)
        else:
            batches, seen = experience
            learner = self.observe(learner, *seen)
            learner = self.learn(learner, now.updates, lambda i, _: Transition(*(x[i] for x in batches)))
        return pack(learner), self.act(learner, obs, then)

    def gather(self, rows: Transition, over: np.ndarray, now: Now) -> Transition:
        """Add rows [M, E, ...] to the replay on the host and draw the batches [M, n, B, ...] of the updates due."""
        for m, storage in enumerate(self.storage):
            own = Transition(*(x[m] for x in rows))
            if self.returns.n > 1:
                self.windows[m], own = n_step.push(self.windows[m], own, over[m], self.returns.discount)
            replay.add(storage, int(now.at), own)
        if now.updates or self.batches is None:
            index = self.by_member(self.indices_all(self.packed, shared=now))
            drawn = [replay.sample(storage, index[m]) for m, storage in enumerate(self.storage)]
            self.batches = Transition(*map(np.stack, zip(*drawn, strict=True)))
        return self.batches

    def greedy(self, learner: Learner, obs: Array, _: None) -> Array:
        """Actions without exploration; the key is not used for them."""
        return self.job.algorithm.act(learner.state, obs, learner.keys.evaluate, False)

    def indices(self, learner: Learner, _: None, now: Now) -> Array:
        """The rows [n, B] of the next updates by the same law as on the device; n is the most that can be due."""
        updates = learner.state.updates + jnp.arange(self.job.cadence.max_due)
        return jax.vmap(lambda u: replay.indices(learner.keys.sample, u, now.size, self.job.batch_size))(updates)

    def read(self) -> tuple[np.ndarray, np.ndarray, dict[str, np.ndarray]]:
        """As DeviceExecutor.read."""
        ended, self.ended = self.ended, np.zeros_like(self.ended)
        return ended, *self.by_member(self.read_all(self.packed))

    def evaluate(self, step: int) -> tuple[np.ndarray, np.ndarray | None]:
        """As DeviceExecutor.evaluate; the environments are made anew, so an evaluation leaves nothing behind.

        The run's last one is filmed if there are films: the first episode of each member.
        """
        budget, cadence = self.job.budget, self.job.cadence
        last = budget.evaluations(step * cadence.num_envs) == budget.evaluations(cadence.total * cadence.num_envs)
        films = self.films if last else ()
        copies = replace(self.job.benchmark, num_envs=budget.eval_episodes)  # type: ignore[type-var]
        make = copies.filmed if films else copies.make
        envs = [make(int(np.random.SeedSequence((m.seed, step)).generate_state(1)[0])) for m in self.job.members]
        obs = np.stack([env.reset() for env in envs])
        total, alive, won = np.zeros(obs.shape[:2]), np.ones(obs.shape[:2], bool), np.zeros(obs.shape[:2], bool)
        while alive.any():
            for m, film in enumerate(films):
                if alive[m, 0]:
                    film.look(envs[m])
            action = self.by_member(self.greedy_all(self.packed, obs))
            out = self.stepped(envs, action)
            total += alive * out.reward
            if self.succeeded:
                won |= alive & self.succeeded(out.final_obs)
            alive &= ~(out.terminated | out.truncated)
            obs = out.obs
        for env in envs:
            env.close()
        return total.mean(1), won.mean(1) if self.succeeded else None

    def close(self) -> None:
        for env in self.envs:
            env.close()

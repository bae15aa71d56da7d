"""The parts of a training cycle, over one member, and how they reach the members of a pack.

Both executors are made of these parts: `act` chooses actions, `absorb` adds transitions and makes the updates that are
due, `learn` is the update loop itself. The compute option decides how they meet the pack: ``loop`` runs one compiled
program for each member in turn, ``vmap`` one program for all.

Randomness is a function of the member's seed and of a counter (vector step or update), never of what ran before, so a
member is the same alone and in any pack.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from rlscale import checkpoint, n_step, replay
from rlscale.cadence import Cadence
from rlscale.n_step import Window
from rlscale.spec import Budget, Member
from rlscale.typed import Mistake
from rlscale.types import Algorithm, Array, HostEnv, Hyper, Metrics, NStep, Step, TrainState, Transition


@dataclass(frozen=True)
class Run:
    """What the loop needs to train a pack: learner, task, members, lengths, and where things live."""

    algorithm: Algorithm
    benchmark: Any  # a HostBenchmark or a DeviceBenchmark
    members: Sequence[Member]
    cadence: Cadence
    budget: Budget
    batch_size: int
    pack: Literal["loop", "vmap"]
    replay: Literal["device", "host"]


class Keys(NamedTuple):
    """A member's independent streams of randomness."""

    init: Array
    act: Array
    sample: Array
    env: Array
    evaluate: Array


class Now(NamedTuple):
    """What a vector step must know of the clock, from exact host integers; the same for all members."""

    step: Any  # t, modulo 2³²
    random: Any  # whether to act at random (warm-up)
    at: Any  # where the step's transitions go in the replay
    size: Any  # rows in the replay once they are there
    updates: Any  # updates due directly after the step


class Learner(NamedTuple):
    """One member's learning state, carried from call to call."""

    keys: Keys
    state: TrainState
    storage: Transition | None  # None where the replay lives on the host
    window: Window | None  # None there too, and where returns are of one step
    metrics: Metrics  # of the latest update


@functools.cache
def compiler_options() -> dict[str, Any]:
    """Options of XLA's CPU compiler, where it has them: older ones than the oldest jax that serves may not.

    Its preset for fast programs, and an analysis that spares copies of weights which are read before they are changed.
    """
    wanted = {
        "xla_cpu_opt_preset": "CPU_OPT_PRESET_FAST_RUNTIME",
        "xla_cpu_copy_insertion_use_region_analysis": True,
    }
    known: dict[str, Any] = {}
    if jax.default_backend() == "cpu":
        for name, value in wanted.items():
            with contextlib.suppress(jax.errors.JaxRuntimeError):
                jax.jit(lambda: 0, compiler_options={name: value}).lower().compile()
                known[name] = value
    return known


class Executor:
    """What both executors share: the members' carries and how one-member functions reach all of them."""

    def __init__(self, job: Run):
        self.job, self.env = job, job.benchmark.spec()
        self.succeeded = getattr(job.benchmark, "succeeded", None)  # of a JudgedBenchmark
        self.capacity = job.cadence.capacity(job.budget.replay_capacity)
        self.returns = job.algorithm.n_step or NStep(1, 1.0)
        # A group is what one compiled call serves: a member (its index drops the member axis), or all of them.
        self.groups: list[Any] = [slice(None)] if job.pack == "vmap" else list(range(len(job.members)))
        own = (
            np.array([m.seed for m in job.members], np.int32),
            np.array([m.learning_rate for m in job.members], np.float32),
        )
        self.carries: list[Any] = self.over_members(self.begin)([None] * len(self.groups), own)

    def over_members(self, function: Callable[..., Any], donate: bool = False) -> Callable[..., list[Any]]:
        """`function(carry, own, shared)` of one member → the same for every group; `own` has a member axis.

        With `donate` the carry's buffers are given up, so that the replay in it is changed in place.
        """
        mapped = jax.vmap(function, in_axes=(0, 0, None)) if self.job.pack == "vmap" else function
        compiled = jax.jit(mapped, donate_argnums=0 if donate else (), compiler_options=compiler_options())

        def call(carries: list[Any], own: Any = None, shared: Any = None) -> list[Any]:
            return [
                compiled(carry, jax.tree.map(lambda x, g=group: x[g], own), shared)
                for carry, group in zip(carries, self.groups, strict=True)
            ]

        return call

    def by_member(self, results: list[Any]) -> Any:
        """Results of `over_members` on the host, with a leading member axis."""
        members = len(self.job.members)
        host = jax.device_get(results)
        return jax.tree.map(lambda *x: np.stack(x).reshape(members, *np.shape(x[0])[self.job.pack == "vmap" :]), *host)

    @property
    def learners(self) -> list[Learner]:
        """The learning state of each group."""
        return list(self.carries)

    def of_member(self, carries: list[Any], m: int) -> Any:
        """Member m's part of what `over_members` returned."""
        return jax.tree.map(lambda x: x[m], carries[0]) if self.job.pack == "vmap" else carries[m]

    def grouped(self, members: list[Any]) -> list[Any]:
        """What `over_members` takes, of each member's part."""
        if self.job.pack == "vmap":
            members = [jax.tree.map(lambda *x: np.stack(x), *members)]
        return [jax.tree.map(jnp.array, carry) for carry in members]  # copies, since they are given up to JAX

    def saved(self, m: int, step: int) -> checkpoint.Arrays:
        """Member m's state after `step` ≥ 1 vector steps, by name; of the replay the rows that are filled."""
        carry = self._with_rows(self.of_member(self.carries, m), lambda x: self._filled_rows(x, step))
        return checkpoint.named(carry, "carry")

    def restore(self, saved: Sequence[checkpoint.Arrays], step: int) -> bool:
        """Take the members' states; returns whether their environments are as they were. Raises Unusable."""
        like = self.of_member(self.carries, 0)
        members = [
            self._with_rows(checkpoint.rebuilt(like, "carry", arrays), lambda x: self._filled_up(x, step))
            for arrays in saved
        ]
        if any(np.shape(x) != y.shape for c in members for x, y in zip(*map(jax.tree.leaves, (c, like)), strict=True)):
            raise checkpoint.Unusable("its arrays are not those of this program")
        self.carries = self.grouped(members)
        return True

    def _filled_rows(self, storage: Transition, step: int) -> Transition:
        """Of the replay the rows that are filled after `step` ≥ 1 vector steps."""
        return Transition(*(x[: self.now(range(step - 1, step)).size[0]] for x in storage))

    def _filled_up(self, rows: Transition, step: int) -> Transition:
        """The replay whose filled rows these are. Raises Unusable if they are not as many as they should be."""
        filled = int(self.now(range(step - 1, step)).size[0])
        if any(len(x) != filled for x in rows):
            raise checkpoint.Unusable("its replay is not that of this program")
        space = ((0, self.capacity - filled),)
        return Transition(*(np.pad(x, space + ((0, 0),) * (x.ndim - 1)) for x in rows))

    def _with_rows(self, carry: Any, change: Callable[[Any], Any]) -> Any:
        """The carry with `change` made to the replay on the device, where it is there."""

        def changed(part: Any) -> Any:
            if not isinstance(part, Learner) or part.storage is None:
                return part
            return part._replace(storage=change(part.storage))

        return jax.tree.map(changed, carry, is_leaf=lambda part: isinstance(part, Learner))

    def begin(self, _: None, own: tuple[Array, Array], shared: None) -> Any:
        """One member's carry before the first step."""
        seed, learning_rate = own
        # Raw keys: a typed key array costs every call of a compiled function a detour through Python.
        keys = Keys(*jax.random.split(jax.random.PRNGKey(seed), len(Keys._fields)))
        state = self.job.algorithm.init(keys.init, Hyper(learning_rate))
        storage = replay.init(self.capacity, self.env) if self.job.replay == "device" else None
        batch = replay.init(self.job.batch_size, self.env)
        metrics = jax.eval_shape(self.job.algorithm.update, state, batch)[1]
        windowed = self.returns.n > 1 and storage is not None
        window = n_step.init(self.returns.n, self.job.cadence.num_envs, self.env) if windowed else None
        return Learner(keys, state, storage, window, jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), metrics))

    def fresh(self, learner: Learner, _: None, count: Array) -> Learner:
        """The learner as new, from a key of its own for each reset; its counter, its replay and its other keys stay."""
        state = self.job.algorithm.init(jax.random.fold_in(learner.keys.init, count), learner.state.hyper)
        return learner._replace(state=state.replace(updates=learner.state.updates))

    def now(self, steps: range) -> Now:
        """The clock of the given vector steps, [len(steps)] each; a transition of n steps is there n − 1 later."""
        cadence, late = self.job.cadence, self.returns.n - 1
        return Now(
            np.array([t % 2**32 for t in steps], np.uint32),
            np.array([t < cadence.warmup for t in steps], bool),
            np.array([max(0, t - late) * cadence.num_envs % self.capacity for t in steps], np.int32),
            np.array([min(max(1, t + 1 - late) * cadence.num_envs, self.capacity) for t in steps], np.int32),
            np.array([cadence.due(t) for t in steps], np.int32),
        )

    def act(self, learner: Learner, obs: Array, now: Now) -> Array:
        """Actions [E, A]: uniform over the whole box in the warm-up, then the exploring policy."""
        key = jax.random.fold_in(learner.keys.act, now.step)
        uniform = jax.random.uniform(key, (*obs.shape[:-1], self.env.action_dim), minval=-1.0, maxval=1.0)
        return jnp.where(now.random, uniform, self.job.algorithm.act(learner.state, obs, key, True))

    def learn(self, learner: Learner, updates: Array, draw: Callable[[Array, TrainState], Transition]) -> Learner:
        """`updates` gradient steps; the trip count is a value, so one compiled program serves every σ."""

        def one(i: Array, carry: tuple[TrainState, Metrics]) -> tuple[TrainState, Metrics]:
            return self.job.algorithm.update(carry[0], draw(i, carry[0]))

        state, metrics = jax.lax.fori_loop(0, updates, one, (learner.state, learner.metrics))
        return learner._replace(state=state, metrics=metrics)

    def observe(self, learner: Learner, obs: Array, reward: Array, over: Array) -> Learner:
        """The learner after it has seen a vector step: obs [E, O] acted on, reward [E], and ends of episodes [E]."""
        if self.job.algorithm.observe is None:
            return learner
        return learner._replace(state=self.job.algorithm.observe(learner.state, obs, reward, over))

    def absorb(self, learner: Learner, rows: Transition, over: Array, now: Now) -> Learner:
        """Add the step's transitions [E, ...] to the replay on the device, then make the updates that are due."""
        learner = self.observe(learner, rows.obs, rows.reward, over)
        if learner.window is not None:
            window, rows = n_step.push(learner.window, rows, over, self.returns.discount)
            learner = learner._replace(window=window)
        assert learner.storage is not None
        storage = replay.add(learner.storage, now.at, rows)

        def draw(_: Array, state: TrainState) -> Transition:
            index = replay.indices(learner.keys.sample, state.updates, now.size, self.job.batch_size)
            return replay.sample(storage, index)

        return self.learn(learner._replace(storage=storage), now.updates, draw)

    def stepped(self, envs: Sequence[HostEnv], action: np.ndarray) -> Step:
        """What the members' environments make of actions [M, E, A], as [M, E, ...].

        A member that diverged goes on beside the others, and a simulator must not be fed NaN. Raises Mistake where a
        simulator fails, from its own error.
        """
        try:
            results = [env.step(np.nan_to_num(a)) for env, a in zip(envs, action, strict=True)]
        except (Mistake, MemoryError):
            raise
        except Exception as error:
            what = " ".join(f"{type(error).__name__}: {error}".split())
            raise Mistake(
                f"benchmark.task={self.job.benchmark.task}: its simulator failed ({what}); failure.json in the run's "
                "folder says where, and the same command goes on from the last checkpoint"
            ) from error
        return Step(*map(np.stack, zip(*results, strict=True)))

    def close(self) -> None:
        """Free what the executor holds outside of JAX."""


def transition(obs: Any, action: Any, step: Step, timeout_is_terminal: bool) -> tuple[Transition, Any]:
    """What the replay keeps of one vector step, and where an episode ended; a time-out does not end the value
    (discount 1) unless the learner has it so.
    """
    over = step.terminated | step.truncated
    ended = over if timeout_is_terminal else step.terminated
    return Transition(obs, action, step.reward, 1.0 - ended.astype(np.float32), step.final_obs), over

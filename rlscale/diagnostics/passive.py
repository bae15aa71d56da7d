"""Critics of other widths that learn from the learner's lessons: the same batches, the same targets, no say in either.

The updates themselves stay in a program that knows nothing of this one: one that did more would be compiled to other
sums. So each vector step's updates are made a second time here, from the state before it, and the second result is
thrown away.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from rlscale import replay
from rlscale.cycle import Executor, Learner, Now
from rlscale.diagnostics.validation import INIT, own_key
from rlscale.types import Algorithm, Array, TrainState


class Pupils(NamedTuple):
    """One member's passive critics, by width."""

    states: dict[int, TrainState]  # of learners of that width, of which only the critic is there
    losses: dict[int, Array]  # sums since the last read
    lessons: Array  # [] float32, their number


class Passive:
    """The passive critics of a pack; `algorithms` are the learner's own at other widths."""

    def __init__(self, executor: Executor, algorithms: Mapping[int, Algorithm]):
        self.executor, self.algorithms = executor, algorithms
        self.begin_all = executor.over_members(self.begin)
        self.copy_all = executor.over_members(lambda learner, *_: jax.tree.map(jnp.copy, learner.state))
        self.learn_all = executor.over_members(self.learn)
        self.carries: list[Any] = []
        self.reset(0)

    def reset(self, count: int) -> None:
        """Fresh ones, as the learner's after its `count`-th reset; the sums of their losses start anew."""
        self.carries = self.begin_all(self.executor.learners, shared=np.uint32(count))

    def begin(self, learner: Learner, _: None, count: Array) -> Pupils:
        """One member's, each from a key of its own."""
        key = jax.random.fold_in(own_key(learner, INIT), count)

        def pupil(width: int, algorithm: Algorithm) -> TrainState:
            state = algorithm.init(jax.random.fold_in(key, width), learner.state.hyper)
            only = {name: {"critic": part["critic"]} for name, part in (("params", state.params), ("opt", state.opt))}
            return state.replace(**only, targets=(), seen=())

        zero = {width: jnp.float32(0) for width in self.algorithms}
        return Pupils({w: pupil(w, a) for w, a in self.algorithms.items()}, zero, jnp.float32(0))

    def before(self) -> list[Any]:
        """The learners' states as they are, for `advance`: the loop gives their memory up."""
        return self.copy_all(self.executor.learners)

    def advance(self, before: list[Any], now: Now) -> None:
        """Learn what the learners have learnt in a vector step."""
        self.carries = self.learn_all(list(zip(before, self.executor.learners, self.carries, strict=True)), shared=now)

    def learn(self, carry: tuple[TrainState, Learner, Pupils], _: None, now: Now) -> Pupils:
        before, learner, pupils = carry
        main = self.executor.job.algorithm
        assert main.critic is not None and learner.storage is not None
        storage, critic = learner.storage, main.critic

        def one(_: Array, carry: tuple[TrainState, Pupils]) -> tuple[TrainState, Pupils]:
            state, pupils = carry
            index = replay.indices(learner.keys.sample, state.updates, now.size, self.executor.job.batch_size)
            batch = replay.sample(storage, index)
            lesson = critic.lesson(state, batch)
            states, losses = {}, {}
            for width, algorithm in self.algorithms.items():
                assert algorithm.critic is not None
                pupil = pupils.states[width].replace(updates=state.updates)
                states[width], metrics = algorithm.critic.fit(pupil, *lesson)
                losses[width] = pupils.losses[width] + metrics["critic_loss"]
            return main.update(state, batch)[0], Pupils(states, losses, pupils.lessons + 1)

        # what the learner saw of this step it saw before its updates
        start = before.replace(seen=learner.state.seen)
        return jax.lax.fori_loop(0, now.updates, one, (start, pupils))[1]

    def read(self) -> dict[str, Any]:
        """The mean losses [M] of the lessons since the last read, NaN where there was none."""
        losses, lessons = self.executor.by_member([(p.losses, p.lessons) for p in self.carries])
        self.carries = [
            Pupils(p.states, jax.tree.map(jnp.zeros_like, p.losses), jnp.zeros_like(p.lessons)) for p in self.carries
        ]
        with np.errstate(invalid="ignore"):
            return {column(width): total / lessons for width, total in losses.items()}


def column(width: int) -> str:
    """Of curve.csv, for the loss on what they are trained on."""
    return f"passive_critic_loss_w{width}"


def validation_column(width: int) -> str:
    """Of curve.csv, for the loss on what nothing is trained on."""
    return f"passive_validation_critic_loss_w{width}"

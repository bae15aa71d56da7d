"""An executor with diagnostics attached: what it does is its own, call for call, and looks are taken in between.

No look takes part in what is looked at. Each is a program of its own on a copy or on what it only reads, with keys,
environments and buffers of its own, so the run's own programs are the same with and without.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rlscale import checkpoint, replay
from rlscale.cycle import Learner, Now
from rlscale.device_executor import DeviceExecutor
from rlscale.diagnostics.asked import Diagnostics
from rlscale.diagnostics.passive import Passive, Pupils, column, validation_column
from rlscale.diagnostics.validation import BATCHES, Stream, own_key
from rlscale.host_executor import HostExecutor
from rlscale.types import Algorithm, Array, Critic, TrainState, Transition

REPLAY, VALIDATION, NEWEST, SMALL, BIG, KINDS = range(6)  # kinds of batches, for their keys
SQUARES = ("grad_norm_small", "grad_norm_big")  # kept as means of squares until they are read


@dataclass
class Watch:
    """What train asks to be attached, and what the record tells of it."""

    asked: Diagnostics
    passive: Mapping[int, Algorithm]  # the learner at the widths of its passive critics
    label: str
    since: int = 0  # the env step at which the diagnostics began

    def told(self) -> dict[str, Any]:
        """The part of a record; nothing where nothing is attached."""
        attached = {name: part for name, part in asdict(self.asked).items() if part is not None}
        return {"diagnostics": attached | {"since_env_step": self.since}} if attached else {}


class Observed:
    """Has the executor's methods, and `looks`."""

    def __init__(self, executor: DeviceExecutor | HostExecutor, watch: Watch):
        self.executor, self.watch, self.asked = executor, watch, watch.asked
        assert executor.job.algorithm.critic is not None
        self.critic: Critic = executor.job.algorithm.critic
        self.succeeded, self.evaluate, self.read = executor.succeeded, executor.evaluate, executor.read
        self.stream = Stream(executor, self.asked.validation.every) if self.asked.validation else None
        self.passive = Passive(executor, watch.passive) if self.asked.passive_critic else None
        self.means = Means(len(executor.job.members))
        self.norms_all = executor.over_members(self.norms)
        self.replay_all = executor.over_members(self.replay_loss)
        self.validation_all = executor.over_members(self.validation_losses)
        self.newest_all = executor.over_members(self.newest_loss)
        self.gradients_all = executor.over_members(self.gradients)

    def advance(self, step: int, stop: int) -> int:
        """One vector step, and what there is to see of it; returns the next one's number."""
        now = Now(*(x[0] for x in self.executor.now(range(step, step + 1))))
        before = self.passive.before() if self.passive and now.updates else None
        self.executor.advance(step, step + 1)
        if self.stream:
            self.stream.advance(step)
        if self.passive and before is not None:
            self.passive.advance(before, now)
        if self.executor.job.cadence.updates_after(step + 1):
            self.look(step, now)
        return step + 1

    def look(self, step: int, now: Now) -> None:
        """Measure what is due after vector step number `step`."""
        since, learners = step - self.executor.job.cadence.warmup, self.executor.learners
        validation, newest, noise = (
            part is not None and since % part.every == 0
            for part in (self.asked.validation, self.asked.newest_td, self.asked.gradient_noise)
        )
        if validation or newest:
            self._note(self.replay_all(learners, shared=now))
        if self.stream and validation and self.stream.size(step):
            pupils = self.passive.carries if self.passive else [None] * len(learners)
            storages = [storage for storage, _ in self.stream.kept]
            carries = list(zip(learners, storages, pupils, strict=True))
            self._note(self.validation_all(carries, shared=(now.step, np.int32(self.stream.size(step)))))
        if newest:
            self._note(self.newest_all(learners, shared=now))
        if noise:
            self._note(self.gradients_all(learners, shared=now))

    def _note(self, results: list[Any]) -> None:
        self.means.add(self.executor.by_member(results))

    def looks(self) -> dict[str, list[float | None]]:
        """Each column's value for each member since the last call; None where there is none, or none that is finite.

        What is not finite would end the run as diverged, which it need not be.
        """
        found = self.means.read() | self.executor.by_member(self.norms_all(self.executor.learners))
        if self.passive:
            found |= self.passive.read()
        if self.asked.gradient_noise and set(SQUARES) <= set(found):
            small, big = (found[name] for name in SQUARES)
            found |= {"noise_scale": noise_scale(small, big, *self.asked.gradient_noise.batches)}
            found |= {name: np.sqrt(found[name]) for name in SQUARES}
        nothing = np.full(len(self.executor.job.members), np.nan)
        return {name: [float(x) if np.isfinite(x) else None for x in found.get(name, nothing)] for name in self.columns}

    @property
    def columns(self) -> list[str]:
        """Of curve.csv."""
        asked = self.asked
        widths = asked.passive_critic.widths if asked.passive_critic else ()
        return [
            *(["replay_critic_loss"] if asked.validation or asked.newest_td else []),
            *(["validation_critic_loss"] if asked.validation else []),
            *(["newest_critic_loss"] if asked.newest_td else []),
            *map(column, widths),
            *(map(validation_column, widths) if asked.validation else []),
            *([*SQUARES, "noise_scale"] if asked.gradient_noise else []),
            *("critic_norm", "actor_norm"),
        ]

    # Of one member

    def norms(self, learner: Learner, *_: None) -> dict[str, Array]:
        return {f"{name}_norm": norm(learner.state.params[name]) for name in ("critic", "actor")}

    def replay_loss(self, learner: Learner, _: None, now: Now) -> dict[str, Array]:
        batch = self._drawn(learner, learner.storage, REPLAY, now.step, now.size, self.executor.job.batch_size)
        return {"replay_critic_loss": self._loss(learner, batch, REPLAY, now.step)}

    def validation_losses(
        self, carry: tuple[Learner, Transition, Pupils | None], _: None, shared: tuple[Array, Array]
    ) -> dict[str, Array]:
        """Of the learner's critic, and of the passive ones by its targets."""
        (learner, storage, pupils), (step, size) = carry, shared
        batch = self._drawn(learner, storage, VALIDATION, step, size, self.executor.job.batch_size)
        lesson = self.critic.lesson(self._state(learner, VALIDATION, step), batch)
        losses = {"validation_critic_loss": self.critic.loss(learner.state.params["critic"], *lesson)[0]}
        for width, pupil in pupils.states.items() if pupils else ():
            passive = self.watch.passive[width].critic
            assert passive is not None
            losses[validation_column(width)] = passive.loss(pupil.params["critic"], *lesson)[0]
        return losses

    def newest_loss(self, learner: Learner, _: None, now: Now) -> dict[str, Array]:
        assert self.asked.newest_td is not None and learner.storage is not None
        end = now.at + self.executor.job.cadence.num_envs  # the rows written last end before it
        back = jnp.arange(1, self.asked.newest_td.newest + 1)
        batch = replay.sample(learner.storage, (end - 1 - (back - 1) % now.size) % self.executor.capacity)
        return {"newest_critic_loss": self._loss(learner, batch, NEWEST, now.step)}

    def gradients(self, learner: Learner, _: None, now: Now) -> dict[str, Array]:
        """Squares of the gradient's norm on two sizes of batches."""
        assert self.asked.gradient_noise is not None
        found = {}
        for name, kind, size in zip(SQUARES, (SMALL, BIG), self.asked.gradient_noise.batches, strict=True):
            batch = self._drawn(learner, learner.storage, kind, now.step, now.size, size)
            lesson = self.critic.lesson(self._state(learner, kind, now.step), batch)
            gradient, _ = jax.grad(self.critic.loss, has_aux=True)(learner.state.params["critic"], *lesson)
            found[name] = norm(gradient) ** 2
        return found

    def _loss(self, learner: Learner, batch: Transition, kind: int, step: Array) -> Array:
        """The TD loss of the critic as it is."""
        lesson = self.critic.lesson(self._state(learner, kind, step), batch)
        return self.critic.loss(learner.state.params["critic"], *lesson)[0]

    def _state(self, learner: Learner, kind: int, step: Array) -> TrainState:
        """The learner's, with another key for the noise of its targets."""
        return learner.state.replace(key=jax.random.fold_in(jax.random.fold_in(own_key(learner, BATCHES), step), kind))

    def _drawn(
        self, learner: Learner, storage: Transition | None, kind: int, step: Array, size: Array, rows: int
    ) -> Transition:
        assert storage is not None
        key = jax.random.fold_in(jax.random.fold_in(own_key(learner, BATCHES), step), KINDS + kind)
        return replay.sample(storage, replay.indices(key, jnp.uint32(0), size, rows))

    # As the executor's

    def reset(self, count: int) -> None:
        self.executor.reset(count)
        if self.passive:
            self.passive.reset(count)

    def saved(self, m: int, step: int) -> checkpoint.Arrays:
        own: dict[str, Any] = {"means": self.means.saved(m), "since": np.int64(self.watch.since)}
        if self.stream:
            own |= self.stream.saved(m, step)
        if self.passive:
            own["pupils"] = self.executor.of_member(self.passive.carries, m)
        return self.executor.saved(m, step) | checkpoint.named(own, "diagnostics")

    def restore(self, saved: Sequence[checkpoint.Arrays], step: int) -> bool:
        """The run goes on as it would without diagnostics; they begin anew if the checkpoint has not these ones."""
        exact = self.executor.restore(saved, step)
        try:
            self._restore(saved, step)
        except checkpoint.Unusable:
            self.watch.since = step * self.executor.job.cadence.num_envs
            if self.stream:
                self.stream.begin_anew(step)
            said = f"its checkpoint holds no such diagnostics; they begin at step {self.watch.since:,}"
            print(f"{self.watch.label}: {said}", file=sys.stderr, flush=True)
        return exact

    def _restore(self, saved: Sequence[checkpoint.Arrays], step: int) -> None:
        """Raises Unusable before anything is changed that does not begin anew then."""
        if any("diagnostics['since']" not in a for a in saved):
            raise checkpoint.Unusable("it has no diagnostics")
        names = [{n for n in a if n.startswith("diagnostics['means']")} for a in saved]
        kept, pupils = list[Any](), list[Any]()
        if self.stream:
            like = self.executor.of_member(self.stream.kept, 0)
            kept = [checkpoint.rebuilt(like, "diagnostics['kept']", a) for a in saved]
        if self.passive:
            like = self.executor.of_member(self.passive.carries, 0)
            pupils = [checkpoint.rebuilt(like, "diagnostics['pupils']", a) for a in saved]
            pairs = [(x, y) for p in pupils for x, y in zip(*map(jax.tree.leaves, (p, like)), strict=True)]
            if any(np.shape(x) != y.shape for x, y in pairs):
                raise checkpoint.Unusable("its passive critics are of other widths")
        if any(other != names[0] for other in names):
            raise checkpoint.Unusable("its members have not the same diagnostics")
        since = max(int(a["diagnostics['since']"]) for a in saved)
        if self.stream:
            self.stream.restore(kept, list(saved), since // self.executor.job.cadence.num_envs, step)
        if self.passive:
            self.passive.carries = self.executor.grouped(pupils)
        self.means.restore({n.split("'")[3]: np.stack([a[n] for a in saved]) for n in names[0]})
        self.watch.since = since

    def close(self) -> None:
        if self.stream:
            self.stream.close()
        self.executor.close()


class Means:
    """Of values [M] by name, since the last read."""

    def __init__(self, members: int):
        self.members, self.sums = members, dict[str, np.ndarray]()  # [M, 2]: total and number

    def add(self, values: Mapping[str, np.ndarray]) -> None:
        for name, value in values.items():
            one = np.stack([value.astype(np.float64), np.ones(self.members)], axis=1)
            self.sums[name] = self.sums.get(name, 0.0) + one

    def read(self) -> dict[str, np.ndarray]:
        sums, self.sums = self.sums, {}
        return {name: total[:, 0] / total[:, 1] for name, total in sums.items()}

    def saved(self, m: int) -> dict[str, np.ndarray]:
        return {name: total[m] for name, total in self.sums.items()}

    def restore(self, sums: dict[str, np.ndarray]) -> None:
        self.sums = sums


def norm(tree: Any) -> Array:
    """√Σx² over all leaves."""
    return jnp.sqrt(sum(jnp.vdot(x, x) for x in jax.tree.leaves(tree)))


def noise_scale(small: np.ndarray, big: np.ndarray, b_small: int, b_big: int) -> np.ndarray:
    """S/|G|² from mean squares of gradient norms on two sizes of batches (METHOD A7); NaN where |G|² is not above 0."""
    signal = (b_big * big - b_small * small) / (b_big - b_small)
    noise = (small - big) / (1 / b_small - 1 / b_big)
    return np.where(signal > 0, noise / np.where(signal > 0, signal, 1.0), np.nan)

"""σ → whole numbers of steps and updates, exactly.

A vector step adds `num_envs` transitions. After k vector steps of training exactly ⌊k·num_envs·σ⌋ updates have been
made, in integers, so nothing drifts and σ below and above one are the same case. A run is rounded up to the end of a
cycle (the fewest vector steps that hold a whole number of updates): there, updates / transitions = σ exactly.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from math import ceil


@dataclass(frozen=True)
class Cadence:
    """The schedule of one run, in vector steps: `warmup` random ones, then `training` ones with updates."""

    utd: Fraction
    num_envs: int
    warmup: int
    training: int

    @property
    def total(self) -> int:
        """Vector steps of the whole run."""
        return self.warmup + self.training

    @property
    def max_due(self) -> int:
        """The most updates that any one vector step can be followed by."""
        return ceil(self.utd * self.num_envs)

    def updates_after(self, step: int) -> int:
        """Updates made once `step` vector steps (warm-up included) are done."""
        per_step = self.utd * self.num_envs
        return max(0, step - self.warmup) * per_step.numerator // per_step.denominator

    def due(self, step: int) -> int:
        """Updates due directly after vector step number `step` (counted from 0)."""
        return self.updates_after(step + 1) - self.updates_after(step)

    def resets(self, every_updates: int | None, at_env_steps: tuple[int, ...]) -> list[int]:
        """The vector steps before which a learner starts afresh, in order: once `every_updates` more updates are made,
        and at the listed env steps. Between vector steps, so up to max_due − 1 updates late.
        """
        due = {ceil(Fraction(step, self.num_envs)) - 1 for step in at_env_steps}
        if every_updates is not None:
            many = self.updates_after(self.total) // every_updates
            per_step = self.utd * self.num_envs
            due |= {self.warmup + ceil(n * every_updates / per_step) for n in range(1, many + 1)}
        return sorted(step for step in due if step < self.total)

    def capacity(self, wanted: int | None) -> int:
        """Rows of replay: the wanted number (None: the whole run), no more than the run, in whole vector steps."""
        rows = self.total * self.num_envs
        return ceil(Fraction(rows if wanted is None else min(wanted, rows), self.num_envs)) * self.num_envs

    def realised(self, updates: int, transitions: int) -> Fraction:
        """Updates per transition since the warm-up: what a finished run must find equal to `utd`."""
        return Fraction(updates, transitions - self.warmup * self.num_envs)


def schedule(utd: Fraction, num_envs: int, env_steps: int, warmup_steps: int) -> Cadence:
    """The cadence of a run of at least `env_steps` transitions, `warmup_steps` of them (at least) without updates."""
    cycle = (utd * num_envs).denominator
    warmup = ceil(Fraction(warmup_steps, num_envs))
    training = ceil(Fraction(env_steps, num_envs)) - warmup
    return Cadence(utd, num_envs, warmup, max(1, ceil(Fraction(training, cycle))) * cycle)

"""The one seeded bootstrap: resamples of seeds per configuration, extra scatter about a law, percentile intervals.

Every configuration has its own random stream, keyed by the bootstrap's seed and the configuration's name, so a result
does not depend on the order of records or on which other configurations are in the study. Draw k of every quantity
belongs to one joint draw: crossings → best values → slopes → data law → budget law.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Bootstrap:
    """How many joint draws, and the seed of all of them; with `tasks` they resample the tasks too, as clusters.

    Without it intervals are about the tasks that were run, with it about tasks like these.
    """

    draws: int
    seed: int
    tasks: bool

    def __post_init__(self) -> None:
        if self.draws < 20:
            raise ValueError(f"draws={self.draws}: a 95 % interval needs at least 20 draws; give 100 or more")
        if self.seed < 0:
            raise ValueError(f"seed={self.seed}: give a whole number from 0 up")

    def stream(self, name: str) -> np.random.Generator:
        """The random stream that belongs to `name` alone."""
        words = np.frombuffer(hashlib.sha256(name.encode()).digest(), dtype="<u4")
        return np.random.default_rng(np.random.SeedSequence([self.seed, *map(int, words)]))

    def weights(self, seeds: int, name: str) -> Floats:
        """Weights of the seeds in each draw: [K, S], each row sums to 1; seeds drawn with replacement.

        A resample of S seeds has (S − 1)/S of the variance that a fresh set of S seeds has: with three seeds its
        intervals are a fifth too narrow. So the weights lie √(S/(S − 1)) further from 1/S than the counts say.
        """
        if seeds == 1:
            return np.ones((self.draws, 1))
        counts = self.stream(name).multinomial(seeds, np.full(seeds, 1.0 / seeds), size=self.draws)
        return np.asarray(1.0 / seeds + (counts / seeds - 1.0 / seeds) * np.sqrt(seeds / (seeds - 1)))

    def task_weights(self, tasks: Sequence[str]) -> Floats:
        """Weights of the tasks in each draw, the same for every quantity of the draw: [K, T], each row sums to 1."""
        even = np.full(len(tasks), 1.0 / len(tasks))
        if not self.tasks:
            return np.tile(even, (self.draws, 1))
        return self.stream("tasks/" + "/".join(tasks)).multinomial(len(tasks), even, size=self.draws) / len(tasks)


def interval(draws: Floats) -> list[float]:
    """The central 95 % of `draws` along axis 0 as [low, high]; non-finite draws are left out (both NaN if none)."""
    finite = draws[np.isfinite(draws)]
    if finite.size == 0:
        return [float("nan"), float("nan")]
    low, high = np.quantile(finite, [0.025, 0.975])
    return [float(low), float(high)]


def excess_scatter(residuals: Floats, seed_variance: Floats, dof: int) -> float:
    """Variance of points about their law beyond what resampling the seeds explains (0 if none, or if dof < 1).

    A grid picks values in steps of √2 or 2 and no law is exact, so points scatter more than seeds do. Without this
    term the intervals of a slope would shrink to nothing when every resample of the seeds picks the same grid value.
    """
    if dof < 1:
        return 0.0
    return max(0.0, float(np.sum(residuals**2)) / dof - float(np.mean(seed_variance)))


def t_scale(stream: np.random.Generator, draws: int, dof: int) -> Floats:
    """√(dof/χ²) for each draw: times normal numbers it gives Student's t, for a spread that `dof` numbers told [K]."""
    return np.sqrt(dof / stream.chisquare(dof, size=draws))

"""From the best (σ, N, B) to one that can be typed and that hardware likes, and what the rounding costs.

σ becomes a plain fraction, the width a multiple of 16, the batch size a multiple of 16. Of the settings around the
best one the one that is best by the question itself is taken, among those that keep its bound if any does.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from itertools import product
from math import ceil, floor

from analysis.allocate import Box, Setting
from analysis.budget import compute
from analysis.model_size import Quadratic
from analysis.question import Question, plain_fraction
from analysis.size_frontier import SizeFrontier

MULTIPLE = 16  # of widths and batch sizes: what matrix units are made of
NEAR = 1.08  # σ may be this much larger or smaller than the best
SLACK = 1.0 + 1e-9  # a bound is kept to rounding error


@dataclass(frozen=True)
class Rounded:
    """A setting that can be run: what it takes by the law, and each of that over what the exact setting takes.

    `compute` is at the rounded `batch_size`; data is the law's, which holds at B*. `keeps`: the bound is kept.
    """

    utd: Fraction
    width: int
    n_params: float
    batch_size: int
    data: float
    compute: float
    budget: float
    keeps: bool
    data_ratio: float
    compute_ratio: float
    budget_ratio: float


def rounded(frontier: SizeFrontier, question: Question, best: Setting, size: Quadratic) -> Rounded:
    """The best setting that can be typed of those around `best`."""
    found = [
        _at(frontier, question, best, size, utd, width)
        for utd, width in product(_sigmas(best.sigma, frontier.box), _widths(best.n_params, frontier.box, size))
    ]

    def worth(at: Rounded) -> tuple[bool, float]:
        """At the law's own B*, lest a batch size that is rounded down, which the law of data does not see, count."""
        exact = frontier.at(float(at.utd), at.n_params)
        asked, kept = (exact.data, at.compute) if question.bound == "compute" else (exact.compute, at.data)
        if question.bound == "budget":
            asked = kept = exact.compute + question.delta * exact.data
        return not at.keeps, asked if at.keeps else kept

    return min(found, key=worth)


def round_batch(batch: float) -> int:
    """To the nearest multiple of 16, halves to even, at least 16."""
    return max(MULTIPLE, MULTIPLE * round(batch / MULTIPLE))


def _at(
    frontier: SizeFrontier, question: Question, best: Setting, size: Quadratic, utd: Fraction, width: int
) -> Rounded:
    sigma, n_params = float(utd), size.parameters(width)
    batch = round_batch(float(frontier.batch_size(sigma, n_params)))
    data = float(frontier.law(sigma, n_params))
    flops = float(compute(n_params, batch, sigma, data))
    budget, exact = flops + question.delta * data, best.compute + question.delta * best.data
    bounded = {"compute": flops, "data": data, "budget": budget}[question.bound]
    return Rounded(
        utd, width, n_params, batch, data, flops, budget, bounded <= question.limit * SLACK,
        data / best.data, flops / best.compute, budget / exact,
    )  # fmt: skip


def _sigmas(sigma: float, box: Box) -> list[Fraction]:
    """Plain fractions just below, about and just above σ, in the box where one of them is."""
    ranges = ((sigma / NEAR, sigma), (sigma / NEAR**0.5, sigma * NEAR**0.5), (sigma, sigma * NEAR))
    near = sorted({plain_fraction(sigma, low, high) for low, high in ranges})
    return [u for u in near if box.sigma[0] <= u * Fraction(SLACK) and u <= Fraction(box.sigma[1] * SLACK)] or near


def _widths(n_params: float, box: Box, size: Quadratic) -> list[int]:
    """The multiples of 16 on both sides of the width with N parameters, in the box where one of them is."""
    exact = size.width(n_params) / MULTIPLE
    near = sorted({MULTIPLE * max(1, end) for end in _sides(exact)})
    low, high = box.n_params
    return [w for w in near if low <= size.parameters(w) * SLACK and size.parameters(w) <= high * SLACK] or near


def _sides(value: float) -> Iterator[int]:
    """The whole numbers on both sides; one where it is whole to rounding error."""
    nearest = round(value)
    yield from (nearest,) if abs(value - nearest) < 1e-9 * max(1.0, value) else (floor(value), ceil(value))

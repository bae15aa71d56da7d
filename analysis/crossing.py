"""When a curve first reaches a level, for many weighted means of its seeds at once, by prefix sums (METHOD A1).

The isotonic regression of y is the slope of the greatest convex minorant of y's prefix sums. So it is ≥ J exactly from
the minimum of the prefix sums of y − J onwards, and the first index at which it is ≥ J is the first position of that
minimum: no regression has to be made. Prefix sums are linear, so those of K weighted means of S seeds are one matrix
product of the weights [K, S] with the seeds' own prefix sums [S, T + 1].
"""

from __future__ import annotations

import numpy as np

from analysis.uncertainty import Floats

BLOCK = 1 << 15  # float64 numbers worked on at a time: what fits into a core's own cache


def first_reached(
    steps: Floats, values: Floats, weights: Floats, thresholds: Floats, interpolate: bool, counts: Floats | None = None
) -> Floats:
    """The step at which the isotonic regression of each weighted mean is first ≥ each threshold: [K, J], inf = never.

    steps [T] rising; values [T, S]; weights [K, S], whose rows all have one and the same sum; thresholds [J];
    counts [T]: how many measurements each row stands for (None: one each). With whole-number weights and values the
    comparison is exact, ties too. With `interpolate` the crossing lies on the line between the regression's levels
    on its two sides, so between two logging points; without, on a logging point (the papers').
    """
    rows = np.ones(len(steps)) if counts is None else counts
    sums = np.zeros((values.shape[1], len(steps) + 1))
    np.cumsum((values * rows[:, None]).T, axis=1, out=sums[:, 1:])
    mass = np.append(0.0, np.cumsum(rows))
    levels = np.multiply.outer(thresholds * weights[0].sum(), mass)  # [J, T + 1]
    ends = np.append(steps, np.inf)
    reached = np.empty((len(weights), len(thresholds)))
    size = max(1, BLOCK // (len(steps) + 1))
    gap = np.empty((size, len(steps) + 1))
    for low in range(0, len(weights), size):
        part = slice(low, low + size)
        prefix = weights[part] @ sums  # [k, T + 1]
        left = gap[: len(prefix)]
        for j, level in enumerate(levels):
            np.subtract(prefix, level, out=left)
            index = left.argmin(axis=1)
            reached[part, j] = ends[index]
            if interpolate:
                reached[part, j] = _between(steps, left, index, mass, reached[part, j])
    return reached


def _between(steps: Floats, left: Floats, index: Floats, mass: Floats, reached: Floats) -> Floats:
    """The crossing between the logging point before `index` [k] and the one at it; `left` [k, T + 1] sums of y − J.

    The regression's level just above the crossing is the least mean of what follows it, the level just below the
    greatest mean of what leads to it; a crossing at the first logging point stays there.
    """
    base = mass[index]
    run = mass - base[:, None]  # [k, T + 1]
    with np.errstate(divide="ignore", invalid="ignore"):
        slope = (left - left[np.arange(len(index)), index][:, None]) / run
    above = np.where(run > 0, slope, np.inf).min(axis=1)
    below = np.where(run < 0, slope, -np.inf).max(axis=1)
    inner = (index > 0) & np.isfinite(reached) & (above > below)
    last, first = np.append(steps, np.inf)[index[inner]], steps[index[inner] - 1]
    share = -below[inner] / (above[inner] - below[inner])
    result = reached.copy()
    result[inner] = first + share * (last - first)
    return result

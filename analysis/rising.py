"""One configuration's returns → its rising mean curve: cut at a step, dips after resets taken out, isotonic (METHOD B).

A reset of the networks makes the return fall and climb back. Isotonic regression would average that dip into the level
before it and put crossings too late, so the evaluations in the dip are left out first.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from analysis.curves import isotonic
from analysis.uncertainty import Floats


@dataclass(frozen=True)
class Rising:
    """The `steps` [T] that were kept and the non-decreasing `values` [T] there; `in_dips`: how many were left out."""

    steps: Floats
    values: Floats
    in_dips: int

    @property
    def final(self) -> float:
        """The highest return that counts as reached; NaN where there is no evaluation."""
        return float(self.values[-1]) if self.values.size else float("nan")


def inferred_resets(every_updates: int, sigma: float, last_step: float) -> Floats:
    """Env steps [R] of the resets of a run that did not log them: each int(every_updates/σ) steps, while it goes on."""
    every = int(every_updates / sigma)
    return np.arange(every, last_step + 1, every, dtype=float)


def rising(steps: Floats, returns: Floats, resets: Floats, last_step: float) -> Rising:
    """The rising mean curve of `returns` [T, S] (S seeds) at rising env `steps` [T], up to and with `last_step`.

    The mean at a step is over the seeds that have a return there, steps where none has are skipped. `resets` [R]: env
    steps at which the networks were reset, logged or inferred, possibly none.
    """
    some = np.isfinite(returns).any(axis=1) & (steps <= last_step)
    steps, mean = steps[some], np.nanmean(returns[some], axis=1)
    keep = out_of_dips(steps, mean, resets)
    return Rising(steps[keep], isotonic(steps[keep], mean[keep]), int((~keep).sum()))


def out_of_dips(steps: Floats, mean: Floats, resets: Floats) -> NDArray[np.bool_]:
    """Which of the evaluations `mean` [T] at rising `steps` [T] are not in the dip after a reset: a mask [T].

    From each reset on, evaluations count again from the first that is at least the one just before the reset; if there
    is none until the next reset, that whole stretch is left out. Whether an evaluation at the very step of a reset was
    made before or after it is not logged, so it is read off the curve: the reading under which the returns fall more,
    summed over all resets of the run, is taken.
    """
    keep = np.ones(len(mean), dtype=bool)
    readings = []
    for side in ("left", "right"):  # first reading wins a tie: the evaluation came after the reset
        first = np.searchsorted(steps, resets, side=side)  # the first evaluation after each reset
        first = np.unique(first[(first > 0) & (first < len(steps))])
        readings.append((float((mean[first - 1] - mean[first]).sum()), first))
    first = max(readings, key=lambda reading: reading[0])[1]
    for start, end in zip(first, np.append(first, len(mean))[1:], strict=True):
        recovered = mean[start:end] >= mean[start - 1]
        keep[start : start + int(recovered.argmax()) if recovered.any() else end] = False
    return keep

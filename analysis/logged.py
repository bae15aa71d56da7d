"""What the papers read off columns that a run may log beside its returns: overfitting and the critical batch size (A7).

Pure functions of arrays. They say nothing about runs that did not log the columns they need.
"""

from __future__ import annotations

import numpy as np

from analysis.uncertainty import Floats


def rolling_mean(values: Floats, window: int) -> Floats:
    """The mean of each row and the `window` − 1 before it (fewer at the start), along axis 0; NaN rows do not count."""
    seen = np.isfinite(values)
    total = np.cumsum(np.where(seen, values, 0.0), axis=0)
    count = np.cumsum(seen, axis=0).astype(float)
    total[window:], count[window:] = total[window:] - total[:-window], count[window:] - count[:-window]
    return np.asarray(np.where(count > 0, total / np.maximum(count, 1.0), np.nan))


def critical_batch_size(small: Floats, big: Floats, b_small: float, b_big: float, window: int) -> Floats:
    """S/|G|² at each row (App. E), from gradient norms |G| [T] at two batch sizes; NaN where |G|² is not above 0.

    |G|² = (B_big·|G_big|² − B_small·|G_small|²)/(B_big − B_small) and S = (|G_small|² − |G_big|²)/(1/B_small − 1/B_big)
    are unbiased but noisy, so each is averaged over `window` rows before the ratio is taken.
    """
    if not 0 < b_small < b_big:
        raise ValueError(f"b_small={b_small:g}, b_big={b_big:g}: give two batch sizes, the smaller first")
    signal = rolling_mean((b_big * big**2 - b_small * small**2) / (b_big - b_small), window)
    noise = rolling_mean((small**2 - big**2) / (1 / b_small - 1 / b_big), window)
    return np.asarray(np.where(signal > 0, noise / np.where(signal > 0, signal, 1.0), np.nan))


def overfitting(replay_loss: Floats, newest_loss: Floats, window: int) -> Floats:
    """TD loss on the newest transitions over that on a random replay batch (B.1), rolling means of both: [T].

    1 is none; the more updates each transition has had, the further the newest ones, which had none, lie above.
    """
    return np.asarray(rolling_mean(newest_loss, window) / rolling_mean(replay_loss, window))

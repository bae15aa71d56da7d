"""Do the best batch size and the best learning rate move together? (METHOD A7, figure 5 right)"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from analysis.best import Best
from analysis.fits import shared_slope
from analysis.uncertainty import Floats, interval


def correlation(found: Mapping[str, Best]) -> dict[str, Any]:
    """Pearson's r of ln B̂ and ln η̂ over the (task, σ) that have both, each with a 95 % interval from the joint draws.

    `measured` is of the values as they are (the paper's figure). `given_sigma` is of what is left after each one's law
    with a shared slope: it says whether fitting the two apart loses anything. None with fewer than three points or
    where one of the two does not vary.
    """
    keys = {q: list(zip(best.table["task"], best.table["utd"], strict=True)) for q, best in found.items()}
    rate, batch = keys["learning_rate"], keys["batch_size"]
    both = [key for key in batch if key in rate]
    at = {q: [keys[q].index(key) for key in both] for q in keys}
    result: dict[str, Any] = {"points": len(both), "measured": None, "given_sigma": None}
    if len(both) < 3:
        return result
    table = found["batch_size"].table.iloc[at["batch_size"]]
    x = np.log(table["sigma"].to_numpy(float))
    member = np.unique(table["task"], return_inverse=True)[1]
    values = {q: np.log(best.table["value"].to_numpy(float)[at[q]]) for q, best in found.items()}
    draws = {q: np.log(best.draws[at[q]]).T for q, best in found.items()}  # [K, n]
    for name, of in (("measured", lambda y: y), ("given_sigma", lambda y: _left(x, y, member))):
        r = float(_pearson(of(values["batch_size"]), of(values["learning_rate"])))
        drawn = _pearson(of(draws["batch_size"]), of(draws["learning_rate"]))
        result[name] = {"r": r, "ci95": interval(np.asarray(drawn))} if np.isfinite(r) else None
    return result


def _left(x: Floats, y: Floats, member: Any) -> Floats:
    """What a law with one slope and an intercept for each task leaves of y [..., n]."""
    slope, intercept = shared_slope(x, y, member)
    return np.asarray(y - intercept[..., member] - np.asarray(slope)[..., None] * x)


def _pearson(a: Floats, b: Floats) -> Any:
    """r along the last axis; NaN where one of the two is constant (up to rounding)."""
    da, db = a - a.mean(axis=-1, keepdims=True), b - b.mean(axis=-1, keepdims=True)
    spread = np.sqrt((da**2).sum(axis=-1) * (db**2).sum(axis=-1))
    return (da * db).sum(axis=-1) / np.where(spread > 1e-12, spread, np.nan)

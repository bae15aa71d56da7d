"""Which σ are kept out of every fit: named one by one, or the two with most data or most compute (METHOD A5)."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import numpy as np

from analysis.curves import Crossings
from analysis.uncertainty import Floats
from rlscale.typed import Mistake, convert, nearest

WORDS = ("most_data", "most_compute")
HELD = 2


def held_out(asked: Any, crossed: Crossings) -> tuple[Fraction, ...]:
    """`asked` as exact σ: a list of them, or one of WORDS, for the ends of the Pareto frontier (figure 6).

    Data and compute of a σ are the means of their logarithms over tasks at the highest level that every task reaches at
    every σ; a σ that misses even the lowest counts with the env steps that it was given.
    """
    if not isinstance(asked, str):
        found: tuple[Fraction, ...] = convert(asked, tuple[Fraction, ...], "holdout")
        return found
    if asked not in WORDS:
        raise Mistake(f"holdout={asked}: give a list of σ such as [8,16], or a word; {nearest(asked, WORDS)}")
    cells = crossed.cells
    whole = np.flatnonzero(np.isfinite(crossed.point).all(axis=0))
    point = crossed.point[:, whole[-1] if whole.size else 0]
    cost: Floats = np.log(np.where(np.isfinite(point), point, cells["t_max"].to_numpy(float)))
    if asked == "most_compute":
        cost = cost + np.log(cells["batch_size"].to_numpy(float) * cells["sigma"].to_numpy(float))
    ranked = cells.assign(cost=cost).groupby("utd")["cost"].mean().sort_values(kind="stable")
    return tuple(Fraction(str(utd)) for utd in ranked.index[-HELD:])

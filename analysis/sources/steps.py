"""Is column 0 the env step, or is it a seed? Told from the numbers themselves, for an archive as a whole.

A wrong answer is silent nonsense, so each file must speak clearly, or agree with files that do; else it is refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from rlscale.typed import Mistake

Array = NDArray[np.float64]
FEWEST_ROWS = 3  # two points are a line whatever they are
SMALLEST_STEP = 10  # env steps between rows; nobody logs more often, and small whole numbers may be returns
SHORTEST_OF_USUAL = 0.5  # of the usual distance between rows: gaps are common in merged logs, crowding is rare
MANY_ROWS = 20  # from here on the distances do not matter: no return rises so many times running
BEYOND = 2  # times every return: one seed's whole returns may rise like a ruler, but not that far above the others
OFTEN = 0.1  # share of rows at which a return falls and a counter, even of a run resumed now and then, does not
JITTER = 2  # env steps by which two runs logged at "the same" step may differ


def check_rows(first_step: int, step_every: int) -> None:
    """Raises ValueError unless row k can be env step `first_step` + `step_every` · k."""
    if first_step < 0 or step_every < 1:
        raise ValueError(
            f"step_every={step_every}, first_step={first_step}: rows are at first_step + step_every · k; "
            "give a distance of at least 1 and a start of at least 0"
        )


@dataclass(frozen=True)
class Steps:
    """Which layout the archive has: `column` "first" or "none" (then row k is `first_step` + `step_every` · k)."""

    column: Literal["first", "none"]
    first_step: int
    step_every: int

    def where(self, member: str, seed: int) -> str:
        """Where a seed's values are, in words."""
        if self.column == "first":
            return f"{member}, column {seed + 1}"
        return f"{member}, column {seed} (row k is env step {self.first_step} + {self.step_every}·k)"

    def split(self, array: Array) -> tuple[Array, Array]:
        """(steps [T], seeds [T, S]) of an array [T, columns]."""
        if self.column == "first":
            return array[:, 0], array[:, 1:]
        return self.first_step + self.step_every * np.arange(len(array), dtype=np.float64), array


@np.errstate(over="ignore", invalid="ignore")  # a harmed file may hold 1e308
def looks(array: Array) -> Literal["first", "none"] | None:
    """What one array [T, columns] says of its column 0; None if it does not speak clearly.

    "first": it counts (see `is_counter`), far beyond every value beside it, and no other column does.
    "none": it falls as often as no counter would, or most of it are fractions and it is no straight line.
    """
    column = array[np.isfinite(array[:, 0]), 0]
    if is_counter(np.unique(column)):
        others = array[:, 1:]
        alone = others.shape[1] > 0 and not any(is_counter(other) for other in others.T)
        beyond = not (BEYOND * np.abs(others[np.isfinite(others)]) >= column.max()).any()
        return "first" if alone and beyond and is_counter(array[:, 0]) else None
    if len(column) < FEWEST_ROWS:
        return None
    change = np.diff(column)
    straight = np.ptp(change) <= 0.02 * np.abs(change).max()
    fractions = (column != np.round(column)).mean() > 0.5
    return "none" if (change < 0).mean() > OFTEN or (fractions and not straight) else None


def is_counter(column: Array) -> bool:
    """Whether a column [T] could count env steps: whole, finite, rising by SMALLEST_STEP or more, evenly if short."""
    if len(column) < FEWEST_ROWS or not np.isfinite(column).all() or (column != np.round(column)).any():
        return False
    change = np.diff(column)
    even = SHORTEST_OF_USUAL * float(np.median(change)) if len(column) < MANY_ROWS else 0.0
    return bool(column[0] >= 0 and change.min() >= max(SMALLEST_STEP, even))


def layout(
    arrays: Mapping[str, Array], asked: Literal["auto", "first", "none"], first_step: int, step_every: int, file: str
) -> Steps:
    """The layout of all `arrays` (member name → [T, columns]); with "auto" they must agree. Raises Mistake."""
    column = asked if asked != "auto" else _agreed(arrays, file)
    if column == "first":
        for name, array in arrays.items():
            _check_first(array, f"{file}: {name}")
    return Steps(column, first_step, step_every)


def _agreed(arrays: Mapping[str, Array], file: str) -> Literal["first", "none"]:
    say = {name: looks(array) for name, array in arrays.items()}
    first, none = ([name for name, word in say.items() if word == kind] for kind in ("first", "none"))
    if first and none:
        raise Mistake(
            f"{file}: column 0 is the env step in {first[0]} and a seed in {none[0]}; "
            "ingest the two kinds from archives of their own"
        )
    mend = "say which it is with source.step_column=first or source.step_column=none"
    if not first and not none:
        raise Mistake(f"{file}: whether column 0 of {min(say)} is the env step or a seed cannot be told; {mend}")
    # what one file leaves open the others may tell: the same steps, or a return that a seed beside it had
    if first:
        known = np.unique(np.concatenate([arrays[name][:, 0] for name in first]))
    else:
        seen = np.concatenate([arrays[name].ravel() for name in none])
        low, high = np.nanmin(seen), np.nanmax(seen)
    for name in (name for name, word in say.items() if word is None):
        value = arrays[name][:, 0]
        value = value[np.isfinite(value)]
        fits = _near(value, known) if first else value.size == 0 or (value.min() >= low and value.max() <= high)
        if not fits:
            raise Mistake(f"{file}: whether column 0 of {name} is the env step or a seed cannot be told; {mend}")
    return "first" if first else "none"


def _near(value: Array, known: Array) -> bool:
    """Whether every value is within JITTER of one of the sorted `known`."""
    if value.size == 0:
        return False
    at = np.clip(np.searchsorted(known, value), 1, len(known) - 1)
    return bool((np.minimum(np.abs(value - known[at - 1]), np.abs(value - known[at])) <= JITTER).all())


def _check_first(array: Array, where: str) -> None:
    """Column 0 can be read as env steps, whatever else is odd about it."""
    if array.shape[1] < 2:
        raise Mistake(f"{where}: one column cannot be env steps and a seed; give source.step_column=none")
    step = array[:, 0][np.isfinite(array[:, 0])]
    if step.size == 0 or step.min() < 0 or step.max() >= 2**53 or (step != np.round(step)).any():
        raise Mistake(f"{where}: column 0 is not whole env steps; mend the file or give source.step_column=none")

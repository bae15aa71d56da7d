"""Where other people's runs come from: one source per file, each a frozen dataclass made from conf/source/<name>.yaml.

A source only reads. It returns what it found in this common form and what it left out with the reason; `ingest` turns
that into records, so everything after is blind to where a run came from.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Protocol

import pandas as pd

Track = Callable[[Iterable[Any], int, str], Iterable[Any]]  # (items, how many, label) → the same items, shown passing


@dataclass(frozen=True)
class Found:
    """One seed of one configuration, as a source found it.

    `curve` has `env_step` (rising, whole) and at least one of `train_return`, `eval_return`; other columns are metrics;
    NaN where not logged. `algorithm_fields` are the fields of the learner that the source tells (such as `width`).
    `origin` says where it is: the file or run and the column.
    """

    task: str
    utd: Fraction
    batch_size: int
    learning_rate: float
    seed: int
    algorithm_fields: Mapping[str, Any]
    curve: pd.DataFrame
    origin: str


class Source(Protocol):
    """A place that runs can be read from."""

    def read(self, track: Track) -> tuple[list[Found], list[tuple[str, str]]]:
        """All runs, and what was left out as (what, reason). Raises Mistake when it cannot tell what it reads."""

"""What a W&B run logged, wherever it was read: flat config, and a column for every key that holds numbers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Logged:
    """One run: flat `config` by dotted key; `history`, every key that holds numbers → [rows], NaN where not logged.

    `state` is W&B's word: running, finished, crashed, failed, killed, …; `odd` is what a person should know.
    """

    origin: str
    state: str
    config: Mapping[str, Any]
    history: Mapping[str, Array]
    odd: tuple[str, ...]


def flat(values: Mapping[str, Any], above: str = "") -> dict[str, Any]:
    """Nested mappings by dotted key; a medium (a mapping with `_type`, such as an image) stays one value."""
    leaves: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping) and value and "_type" not in value:
            leaves |= flat(value, f"{above}{key}.")
        else:
            leaves[f"{above}{key}"] = value
    return leaves


def table(rows: list[dict[str, Any]]) -> dict[str, Array]:
    """Rows as logged → [rows] for every key that ever holds a number; JSON's words NaN and Infinity are numbers."""
    columns: dict[str, Array] = {}
    for i, row in enumerate(rows):
        for key, value in row.items():
            if isinstance(value, str) and value in ("NaN", "Infinity", "-Infinity"):
                value = float(value)
            if isinstance(value, int | float) and not isinstance(value, bool):
                if key not in columns:
                    columns[key] = np.full(len(rows), np.nan)
                columns[key][i] = value
    return columns

"""One seed's columns as they came → a curve: whole rising steps, one row a step; what was odd is said."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd
from numpy.typing import NDArray

Array = NDArray[np.float64]


def curve(steps: Array, columns: Mapping[str, Array]) -> tuple[pd.DataFrame | None, list[str]]:
    """`steps` [T] and named `columns` [T] → (env_step and the columns, NaN where not logged; what was left out).

    Rows without a step go. Where a step comes twice, or steps fall back (a resumed run logs again), the last value
    logged at a step counts. An infinite value counts as not logged. Rows after the last value go: the seed stopped.
    None if no value is left.
    """
    odd: list[str] = []
    table = np.stack([np.asarray(column, dtype=np.float64) for column in columns.values()], axis=1)
    known = np.isfinite(steps)
    if not known.all():
        odd.append(f"{int((~known).sum())} rows without a step left out")
        steps, table = steps[known], table[known]
    if np.isinf(table).any():
        odd.append(f"{int(np.isinf(table).sum())} infinite values left out")
        table = np.where(np.isinf(table), np.nan, table)
    if not (np.diff(steps) > 0).all():
        odd.append("steps fall or come twice: the last value logged at a step counts")
        frame = pd.DataFrame(table).groupby(steps, sort=True).last()  # of each column the last that is not NaN
        steps, table = frame.index.to_numpy(), frame.to_numpy()
    logged = np.flatnonzero(np.isfinite(table).any(axis=1))
    if logged.size == 0:
        return None, [*odd, "no value was logged"]
    end = logged[-1] + 1
    return pd.DataFrame(
        {"env_step": steps[:end].astype(np.int64)} | dict(zip(columns, table[:end].T, strict=True))
    ), odd


def binned(steps: Array, columns: Mapping[str, Array], every: int) -> tuple[Array, dict[str, Array]]:
    """Means over the rows of each `every` env steps, at the end of the bin, so that seeds share their steps.

    The mean of episodes that ended in (k − 1)·every … k·every stands at k·every: never earlier than it was known.
    """
    known = np.isfinite(steps)
    ends, where = np.unique(np.maximum(1, np.ceil(steps[known] / every)), return_inverse=True)
    means = {}
    for name, column in columns.items():
        value = column[known]
        logged = np.isfinite(value)
        count = np.bincount(where[logged], minlength=ends.size)
        total = np.bincount(where[logged], weights=value[logged], minlength=ends.size)
        means[name] = np.divide(total, count, out=np.full(ends.size, np.nan), where=count > 0)
    return ends * every, means

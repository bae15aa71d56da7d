"""Thousands of curve.csv as one table: parsed together, and kept in a cache that only their own bytes can open.

The cache trusts no name and no date: its key is the SHA-256 of every file's content, read anew each time (which is
cheap; parsing is not). It lies in ``study/cache/curves``, is safe to delete at any moment, and what cannot be read of
it is ignored. Each file of it appears by rename, so a crash leaves none that is half.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import uuid
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

Array = NDArray[np.float64]
FORMAT = "1"  # part of every key: raise it when the same files would give another table
WORTH = 200_000  # values; fewer are parsed faster than it is worth leaving a file in somebody's study
KEPT = 8  # tables in the cache, one for each selection of late
AT_ONCE = 256  # files parsed in one go


@dataclass(frozen=True)
class Table:
    """The rows of all readable curves, one curve after the other.

    `lengths` [n] rows of each file (0 where it could not be read), `columns` name → [sum of lengths], NaN where not
    logged, rising in env_step within each curve. `faults`: index of a file → why it could not be read.
    """

    lengths: NDArray[np.int64]
    columns: Mapping[str, Array]
    faults: Mapping[int, str]


def read(files: Sequence[str | Path], needed: Sequence[str], wanted: Sequence[str], cache: Path) -> Table:
    """The columns `needed` (a file without one is a fault) and `wanted` (NaN where a file has none) of `files`.

    `needed` begins with env_step.
    """
    names = [*needed, *wanted]
    place = cache / f"{key(map(_digest, files), names)}.npz"
    if (table := _recall(place, names, len(files))) is not None:
        return table
    parts: list[Array] = []
    digests: list[str] = []
    faults: dict[int, str] = {}
    for start in range(0, len(files), AT_ONCE):
        found = [_bytes(file) for file in files[start : start + AT_ONCE]]
        digests += [digest for _, digest in found]  # of the very bytes that are parsed: a file may have changed since
        frames, more = _parse([data for data, _ in found], needed, names)
        parts += frames
        faults |= {start + i: why for i, why in more.items()}
    lengths = np.array([len(part) for part in parts], dtype=np.int64)
    rows = np.concatenate(parts) if parts else np.empty((0, len(names)))
    table = Table(lengths, {name: np.ascontiguousarray(rows[:, i]) for i, name in enumerate(names)}, faults)
    if rows.size >= WORTH:
        _keep(table, cache / f"{key(digests, names)}.npz")
    return table


def key(digests: Iterable[str], names: Sequence[str]) -> str:
    """The name of the table of files with these contents, in this order, with these columns."""
    return hashlib.sha256(json.dumps([FORMAT, list(names), list(digests)]).encode()).hexdigest()


def _bytes(file: str | Path) -> tuple[bytes | OSError, str]:
    """The content, or why there is none; and its digest."""
    try:
        with open(file, "rb") as stream:
            data = stream.read()
    except OSError as error:
        return error, ""
    return data, hashlib.sha256(data).hexdigest()


def _digest(file: str | Path) -> str:
    return _bytes(file)[1]


def _parse(
    files: Sequence[bytes | OSError], needed: Sequence[str], names: Sequence[str]
) -> tuple[list[Array], dict[int, str]]:
    """Each file's rows [T, names], all files of one header in one go; and what is wrong with the others."""
    empty = np.empty((0, len(names)))
    parts, faults = [empty] * len(files), {}
    alike: dict[bytes, list[int]] = {}
    bodies: dict[int, bytes] = {}
    for i, data in enumerate(files):
        if isinstance(data, OSError):
            faults[i] = str(data)
            continue
        head, _, body = data.replace(b"\r\n", b"\n").partition(b"\n")
        bodies[i] = body if not body or body.endswith(b"\n") else body + b"\n"
        alike.setdefault(head, []).append(i)
    for head, group in alike.items():
        try:
            columns = next(csv.reader([head.decode()]), [])
        except (ValueError, csv.Error):
            columns = []
        lacking = [name for name in needed if columns.count(name) != 1]
        if lacking or len(set(columns)) < len(columns):
            reason = f"it has no column {lacking[0]}" if lacking else "two of its columns have one name"
            faults |= dict.fromkeys(group, reason)
            continue
        try:
            rows = _numbers(b"".join(bodies[i] for i in group), columns, names)
            lengths = [bodies[i].count(b"\n") for i in group]
            if sum(lengths) != len(rows):
                raise ValueError("an empty line")
            for i, part in zip(group, np.split(rows, np.cumsum(lengths)[:-1]), strict=True):
                parts[i] = part
        except ValueError:  # one of them is odd: find out which
            for i in group:
                try:
                    parts[i] = _numbers(bodies[i], columns, names)
                except ValueError as error:
                    faults[i] = " ".join(str(error).split())
    for i, part in enumerate(parts):
        if not np.isfinite(part[:, 0]).all():
            faults[i], parts[i] = "a row has no env_step", empty
        elif (np.diff(part[:, 0]) < 0).any():
            parts[i] = part[np.argsort(part[:, 0], kind="stable")]
    return parts, faults


def _numbers(body: bytes, columns: Sequence[str], names: Sequence[str]) -> Array:
    """CSV lines with these `columns` → [T, names], to the last bit. Raises ValueError."""
    data = np.frombuffer(body, dtype=np.uint8)
    ends = data[(data == ord(",")) | (data == ord("\n"))] == ord("\n")  # what follows each value: does it end a row?
    if (
        ends.size % len(columns)
        or (ends.reshape(-1, len(columns)) != (np.arange(len(columns)) == len(columns) - 1)).any()
    ):
        raise ValueError(f"a row has not {len(columns)} values")  # which pandas would fill up or cut in silence
    present = [name for name in names if name in columns]
    if not body:
        return np.empty((0, len(names)))
    frame = pd.read_csv(
        io.BytesIO(body), header=None, names=list(columns), usecols=present, dtype=np.float64, index_col=False,
        float_precision="round_trip",
    )  # fmt: skip
    return np.asarray(frame.reindex(columns=list(names)), dtype=np.float64)


def _recall(place: Path, names: Sequence[str], files: int) -> Table | None:
    """The table kept at `place`, or None if there is none or anything about it is not as it must be."""
    try:
        with place.open("rb") as file, np.load(file, allow_pickle=False) as kept:
            lengths, columns = kept["lengths"], {name: kept[f"column/{name}"] for name in names}
            faults = {int(i): str(why) for i, why in json.loads(kept["faults"].tobytes()).items()}
    except Exception:  # a file may be harmed in any way; whatever it is, the curves themselves are there
        return None
    right = lengths.shape == (files,) and lengths.dtype == np.int64
    if not right or any(c.shape != (lengths.sum(),) or c.dtype != np.float64 for c in columns.values()):
        return None
    return Table(lengths, columns, faults)


def _keep(table: Table, place: Path) -> None:
    """Write the table by rename and let the oldest go. A study that cannot be written to has no cache."""
    faults = np.frombuffer(json.dumps({str(i): why for i, why in table.faults.items()}).encode(), dtype=np.uint8)
    arrays: dict[str, Any] = {"lengths": table.lengths, "faults": faults}
    arrays |= {f"column/{name}": column for name, column in table.columns.items()}
    draft = place.with_name(f".{uuid.uuid4().hex}.npz")
    with suppress(OSError):
        place.parent.mkdir(parents=True, exist_ok=True)
        try:
            np.savez(draft, **arrays)
            draft.replace(place)
        finally:
            draft.unlink(missing_ok=True)
        kept = sorted(place.parent.glob("*.npz"), key=lambda file: file.stat().st_mtime, reverse=True)
        for old in kept[KEPT:]:
            old.unlink(missing_ok=True)

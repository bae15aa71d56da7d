"""source=csv: tables with columns of any name, from one file with many runs to one file for each run.

What names a run (task, utd, batch_size, learning_rate, seed, and further fields of the learner) comes from columns,
from the file's path by a pattern with named groups, or from the command line; a curve's columns by their names.
"""

from __future__ import annotations

import io
import math
import re
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatch
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd

from analysis.sources import Found, Track
from analysis.sources.archive import opened
from analysis.sources.tidy import binned, curve
from rlscale.typed import Mistake, convert, nearest

NEEDED = {"task": str, "utd": Fraction, "batch_size": int, "learning_rate": float, "seed": int}
RETURNS = ("train_return", "eval_return")
OFTEN = 0.1  # share of values at a step that has one already, above which it is not a resumed run but several runs


@dataclass(frozen=True)
class Csv:
    """conf/source/csv.yaml; the mappings are from our word to a value, a column or a metric."""

    path: str
    files: str
    pattern: str | None
    values: Mapping[str, Any]
    runs: Mapping[str, Any]
    curve: Mapping[str, Any]
    metric: str | None
    value: str | None
    step: Literal["count", "length"]
    every: int | None

    def __post_init__(self) -> None:
        if self.every is not None and self.every < 1:
            raise ValueError(f"every={self.every}: give a number of env steps, or null to take rows as they are")
        if (self.metric is None) != (self.value is None):
            raise ValueError(f"metric={self.metric}, value={self.value}: a long table needs both, a wide one neither")
        try:
            re.compile(self.pattern or "")
        except re.error as error:
            raise ValueError(f"pattern={self.pattern}: this is no regular expression ({error}); mend it") from None
        if self.columns.get("env_step") is None or not any(name in self.columns for name in RETURNS):
            raise ValueError("curve must name the columns of env_step and of train_return or eval_return; set them")

    @property
    def columns(self) -> dict[str, str]:
        """Our column → theirs, of those that are set."""
        return {str(ours): str(theirs) for ours, theirs in self.curve.items() if theirs is not None}

    @property
    def told(self) -> dict[str, str]:
        """What names a run → the column that tells it, of those that are set."""
        return {str(ours): str(theirs) for ours, theirs in self.runs.items() if theirs is not None}

    def read(self, track: Track) -> tuple[list[Found], list[tuple[str, str]]]:
        """Every run of every file."""
        found: list[Found] = []
        dropped: list[tuple[str, str]] = []
        with tables(Path(self.path).expanduser()) as (members, read):
            chosen = [m for m in members if len(members) == 1 or fnmatch(m, self.files)]
            if not chosen:
                raise Mistake(f"source.files={self.files}: none of the {len(members)} files in {self.path} is so named")
            for member in track(chosen, len(chosen), "reading tables"):
                frame = self._frame(read(member), member)
                by_path = self._by_path(member)
                for names, part in self._parted(frame, member):
                    runs, more = self._run(names, by_path, part, member)
                    found += runs
                    dropped += more
        return found, dropped

    def _frame(self, data: bytes, member: str) -> pd.DataFrame:
        """The columns that are asked for; what names a run as text, what is measured as numbers. Raises Mistake."""
        while data.startswith(b"#"):  # as Stable-Baselines3's Monitor begins its files
            data = data.partition(b"\n")[2]
        try:
            have = list(pd.read_csv(io.BytesIO(data), nrows=0, encoding="utf-8-sig").columns)
            step, told = self.columns["env_step"], [c for c in (*self.told.values(), self.metric) if c is not None]
            wide = [] if self.metric is not None else [c for c in self.columns.values() if c in have]
            for column in [step, *told, *([] if self.value is None else [self.value])]:
                if column not in have:
                    raise Mistake(f"{member}: there is no column {column}; {nearest(column, have)}")
            types = dict.fromkeys([step, *wide, *([] if self.value is None else [self.value])], np.float64)
            return pd.read_csv(
                io.BytesIO(data), usecols=[*types, *told], dtype=types | dict.fromkeys(told, str),
                float_precision="round_trip", encoding="utf-8-sig",
            )  # fmt: skip
        except Mistake:
            raise
        except (ValueError, OverflowError, MemoryError) as error:  # pandas' parser errors are ValueErrors
            text = " ".join(str(error).split())[:150]
            raise Mistake(f"{member}: this is not a table of the columns asked for ({text}); mend the file") from None

    def _by_path(self, member: str) -> dict[str, str]:
        """What the file's path tells of its run."""
        if self.pattern is None:
            return {}
        match = re.search(self.pattern, member)
        if match is None:
            raise Mistake(f"source.pattern={self.pattern}: {member} does not match; mend it, or narrow source.files")
        return {name: text for name, text in match.groupdict().items() if text is not None}

    def _parted(self, frame: pd.DataFrame, member: str) -> Iterator[tuple[dict[str, str], pd.DataFrame]]:
        """The table's runs: what names each, and its rows."""
        if not self.told:
            yield {}, frame
            return
        for name, column in self.told.items():
            if frame[column].isna().any():
                raise Mistake(f"source.runs.{name}={column}: this column is empty in some rows of {member}; fill it in")
        for key, part in frame.groupby(list(self.told.values()), sort=True):
            yield dict(zip(self.told, map(str, key), strict=True)), part

    def _run(
        self, names: Mapping[str, str], by_path: Mapping[str, str], part: pd.DataFrame, member: str
    ) -> tuple[list[Found], list[tuple[str, str]]]:
        """One run as it was found, or why it was not."""
        origin = ", ".join([member, *(f"{k}={v}" for k, v in names.items())])
        word: dict[str, Any] = {k: v for k, v in self.values.items() if v is not None}
        for more in (by_path, names):
            for twice in word.keys() & more.keys():
                raise Mistake(f"{origin}: {twice} is told twice, {word[twice]} and {more[twice]}; set it in one place")
            word |= more
        for name in NEEDED:
            if name not in word:
                raise Mistake(
                    f"source.values.{name} is not set and neither source.runs.{name} nor source.pattern tells it; "
                    "give one of the three"
                )
        known = {name: convert(word[name], kind, f"{member}: {name}") for name, kind in NEEDED.items()}
        fields = {str(k): _plain(v) for k, v in word.items() if k not in NEEDED}
        steps, columns, lacking = self._columns(part, origin)
        dropped = [(origin, f"there is no {name}") for name in lacking]
        if not any(name in columns for name in RETURNS):
            return [], [*dropped, (origin, "no return was logged")]
        if self.every is not None:
            steps, columns = binned(steps, columns, self.every)
        table, odd = curve(steps, columns)
        dropped += [(origin, reason) for reason in odd]
        if table is None or not table[[name for name in RETURNS if name in table]].notna().any(axis=None):
            return [], [*dropped, (origin, "no return was logged")]
        return [Found(**known, algorithm_fields=fields, curve=table, origin=origin)], dropped

    def _columns(self, part: pd.DataFrame, origin: str) -> tuple[Any, dict[str, Any], list[str]]:
        """(env steps [T], our columns [T] each, those that the table lacks). Raises Mistake."""
        theirs = {ours: name for ours, name in self.columns.items() if ours != "env_step"}
        steps = part[self.columns["env_step"]].to_numpy()
        if self.metric is None:
            columns = {ours: part[name].to_numpy() for ours, name in theirs.items() if name in part}
        else:
            rows = {ours: (part[self.metric] == name).to_numpy() for ours, name in theirs.items()}
            columns = {ours: np.where(at, part[self.value], np.nan) for ours, at in rows.items() if at.any()}
        if self.step == "length":
            steps = np.cumsum(steps)
        known = steps[np.isfinite(steps)]
        if (known != np.round(known)).any() or (known < 0).any() or (known >= 2**53).any():
            raise Mistake(f"{origin}: {self.columns['env_step']} is not whole env steps; name another column")
        for ours, values in columns.items():
            at = steps[np.isfinite(values) & np.isfinite(steps)]
            if self.every is None and at.size and 1 - np.unique(at).size / at.size > OFTEN:
                raise Mistake(
                    f"{origin}: many values of {theirs[ours]} are at one env step; name what tells its runs apart in "
                    "source.runs, or take means over steps with source.every"
                )
        return steps, columns, [name for ours, name in theirs.items() if ours not in columns]


@contextmanager
def tables(path: Path) -> Iterator[tuple[tuple[str, ...], Callable[[str], bytes]]]:
    """(names, reader) of the one table at `path`, or of the files in a folder or zip. Raises Mistake."""
    if path.is_file() and not zipfile.is_zipfile(path):
        yield (path.name,), lambda _: path.read_bytes()
        return
    with opened(path) as archive:
        yield archive.members, archive.read


def _plain(value: Any) -> Any:
    """A field of the learner as the number that its text is, if it is one."""
    for kind in (int, float):
        try:
            if math.isfinite(number := kind(value)):
                return number
        except (ValueError, TypeError, OverflowError):
            continue
    return str(value)

"""source=qscaled: the zips of the first paper's public code, in both of its layouts, and its older DMC folders.

    …/utd_<σ>/<task>/<metric>/bs_<B>_lr_<η>[_…].npy      and      …/<LEARNER>_<B>_<σ>_<η>/<task>.npy

An array is [T, seeds], with the env step as an extra column 0 or without it (QSCALED.md §2).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Literal

from analysis.sources import Found, Track
from analysis.sources.archive import opened
from analysis.sources.steps import check_rows, layout
from analysis.sources.tidy import curve
from rlscale.typed import Mistake, nearest

NUMBER = r"\d{1,12}(?:\.\d{1,20})?(?:[eE][-+]?\d{1,2})?"  # bounded: 1e999999999 would be an exact fraction too
NEW = re.compile(
    rf"(?:.*/)?utd_(?P<utd>{NUMBER})/(?P<task>[^/]+)/(?P<metric>[^/]+)/"
    rf"bs_(?P<batch>\d{{1,12}})_lr_(?P<rate>{NUMBER})(?:_[^/]*)?\.npy"
)
OLD = re.compile(rf"(?:.*/)?[A-Za-z]+_(?P<batch>\d{{1,12}})_(?P<utd>{NUMBER})_(?P<rate>{NUMBER})/(?P<task>[^/]+)\.npy")
OLD_METRIC = "returns"  # the older folders hold nothing else and do not name it
SIZED = re.compile(r"(?:.*/)?w\d+(?:p\d+)?/utd_")  # a width above utd_: the second paper's zips


@dataclass(frozen=True)
class Key:
    """What a member's name says; equal for two spellings of one configuration (15e-5, 0.00015)."""

    task: str
    utd: Fraction
    batch_size: int
    learning_rate: float
    metric: str


@dataclass(frozen=True)
class QScaled:
    """conf/source/qscaled.yaml."""

    path: str
    metric: str | None
    column: Literal["train_return", "eval_return"]
    step_column: Literal["auto", "first", "none"]
    first_step: int
    step_every: int

    def __post_init__(self) -> None:
        check_rows(self.first_step, self.step_every)

    def read(self, track: Track) -> tuple[list[Found], list[tuple[str, str]]]:
        """Every seed of every configuration of the chosen metric."""
        path = Path(self.path).expanduser()
        found: list[Found] = []
        dropped: list[tuple[str, str]] = []
        with opened(path) as archive:
            names = {}
            for member in archive.members:
                if member.endswith(".npy"):
                    names[member] = key_of(member, path.name)
                else:
                    dropped.append((member, "not a .npy array"))
            chosen, more = self._of_metric(names, path)
            dropped += more
            first: dict[Key, str] = {}
            for member, key in chosen.items():
                if (other := first.setdefault(key, member)) != member:
                    raise Mistake(f"{path.name}: {other} and {member} are one configuration; remove one of the two")
            arrays = {m: archive.array(m) for m in track(chosen, len(chosen), f"reading {path.name}")}
        steps = layout(arrays, self.step_column, self.first_step, self.step_every, path.name)
        for member, key in chosen.items():
            at, seeds = steps.split(arrays[member])
            for seed, values in enumerate(seeds.T):
                origin = steps.where(member, seed)
                table, odd = curve(at, {self.column: values})
                dropped += [(origin, reason) for reason in odd]
                if table is not None:
                    found.append(Found(key.task, key.utd, key.batch_size, key.learning_rate, seed, {}, table, origin))
        return found, dropped

    def _of_metric(self, names: dict[str, Key], path: Path) -> tuple[dict[str, Key], list[tuple[str, str]]]:
        """The members of the chosen metric, and how many of the others were left out."""
        metrics = sorted({key.metric for key in names.values()})
        if not metrics:
            raise Mistake(f"source.path={path}: it holds no .npy array; give a zip or folder of qscaled's layout")
        if self.metric is None and len(metrics) > 1:
            raise Mistake(f"source.metric is not set and {path.name} holds {', '.join(metrics)}; choose one")
        wanted = metrics[0] if self.metric is None else self.metric.replace("/", ".")
        if wanted not in metrics:
            raise Mistake(f"source.metric={self.metric}: {path.name} has no such metric; {nearest(wanted, metrics)}")
        chosen = {member: key for member, key in names.items() if key.metric == wanted}
        rest = [(m, sum(key.metric == m for key in names.values())) for m in metrics if m != wanted]
        return chosen, [(f"metric {m}", f"{n} files: source.metric is {wanted}") for m, n in rest]


def key_of(member: str, file: str) -> Key:
    """The configuration that a member's name spells. Raises Mistake naming the file if it is of another layout."""
    match = NEW.fullmatch(member) or OLD.fullmatch(member)
    if SIZED.match(member) or match is None:
        mend = "source=model_scaling" if SIZED.match(member) else "…/utd_<σ>/<task>/<metric>/bs_<B>_lr_<η>.npy"
        raise Mistake(f"{file}: {member} is not named as qscaled names its arrays; use {mend}")
    word = match.groupdict()
    utd, batch, rate = Fraction(word["utd"]), int(word["batch"]), float(word["rate"])
    if not (utd > 0 and batch > 0 and 0 < rate < 1e6):
        raise Mistake(f"{file}: {member} has σ = {utd}, B = {batch}, η = {rate}; all three must be above 0")
    return Key(word["task"], utd, batch, rate, word.get("metric") or OLD_METRIC)

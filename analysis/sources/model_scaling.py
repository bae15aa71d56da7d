"""source=model_scaling: the zips of the second paper's public code, in all three of its layouts (MODEL_SIZE.md §3).

    …/w<W>p<N>/utd_<σ>/<task>/<metric>/bs_<B>_lr_<η>_hard_…_targnoise_…_sep_<bool>_w<W'>p<N'>_nstep_….npy   (BRO)
    …/w<W>/utd_<σ>/<task>/<metric>/bs_<B>.npy                                      (SimbaV2; columns are means of seeds)
    …/rr<σ>_<size>/<task>.npy                                             (older BRO; no step column, B and η not named)

The metrics of one configuration become columns of one curve.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from analysis.sources import Found, Track
from analysis.sources.archive import opened
from analysis.sources.qscaled import NUMBER
from analysis.sources.steps import check_rows, layout
from analysis.sources.tidy import curve
from rlscale.typed import Mistake, nearest

SWEEP = re.compile(
    rf"(?:.*/)?w(?P<width>\d{{1,9}})(?:p(?P<n_params>\d{{1,15}}))?/utd_(?P<utd>{NUMBER})/(?P<task>[^/]+)/"
    rf"(?P<metric>[^/]+)/bs_(?P<batch>\d{{1,12}})(?:_lr_(?P<rate>{NUMBER})(?:_(?P<rest>[^/]+))?)?\.npy"
)
SIZES = re.compile(rf"(?:.*/)?rr(?P<utd>{NUMBER})_(?P<size>[^/_]+)/(?P<task>[^/]+)\.npy")
# what follows the learning rate in BRO's names
REST = re.compile(
    rf"hard_(?P<hard>True|False)_(?P<hard_every>\d{{1,12}})_targnoise_(?P<noise>.+)_(?P<noise_scale>{NUMBER})_"
    r"sep_(?P<passive>True|False)_w(?P<passive_width>\d{1,9})(?:p\d+)?_"
    r"nstep_(?P<n_step>\d{1,9})_usenstep_(?P<use_n_step>True|False)"
)
SLASH = "🦕"  # stands for "/" in the names of metric folders


@dataclass(frozen=True)
class Key:
    """A configuration, as a member's name spells it; `fields` are the learner's."""

    task: str
    utd: Fraction
    batch_size: int
    learning_rate: float
    fields: tuple[tuple[str, Any], ...]


@dataclass(frozen=True)
class ModelScaling:
    """conf/source/model_scaling.yaml."""

    path: str
    metric: str | None
    column: Literal["train_return", "eval_return"]
    step_column: Literal["auto", "first", "none"]
    first_step: int
    step_every: int
    batch_size: int | None
    learning_rate: float | None
    n_params: Mapping[str, int] | None

    def __post_init__(self) -> None:
        check_rows(self.first_step, self.step_every)

    def read(self, track: Track) -> tuple[list[Found], list[tuple[str, str]]]:
        """Every seed of every configuration, with all its metrics."""
        path = Path(self.path).expanduser()
        dropped: list[tuple[str, str]] = []
        groups: dict[Key, dict[str, str]] = {}  # configuration → metric → member
        with opened(path) as archive:
            for member in archive.members:
                if not member.endswith(".npy"):
                    dropped.append((member, "not a .npy array"))
                    continue
                key, metric = self._key(member, path.name)
                if (other := groups.setdefault(key, {}).setdefault(metric, member)) != member:
                    raise Mistake(f"{path.name}: {other} and {member} are one configuration; remove one of the two")
            names = self._columns(groups, path)
            members = [member for metrics in groups.values() for member in metrics.values()]
            arrays = {m: archive.array(m) for m in track(members, len(members), f"reading {path.name}")}
        steps = layout(arrays, self.step_column, self.first_step, self.step_every, path.name)
        found: list[Found] = []
        for key, metrics in groups.items():
            parts = {metric: steps.split(arrays[member]) for metric, member in metrics.items()}
            main = next((metric for metric in metrics if names[metric] == self.column), None)
            if main is None:
                dropped += [(member, "its configuration has no return beside it") for member in metrics.values()]
                continue
            for metric in [m for m in parts if not _alike(parts[m], parts[main])]:
                dropped.append((metrics[metric], f"its steps or seeds are not those of {metrics[main]}"))
                del parts[metric]
            at, seeds = parts[main]
            for seed in range(seeds.shape[1]):
                origin = steps.where(metrics[main], seed)
                table, odd = curve(at, {names[metric]: values[:, seed] for metric, (_, values) in parts.items()})
                dropped += [(origin, reason) for reason in odd]
                if table is not None and table[self.column].notna().any():
                    config = key.task, key.utd, key.batch_size, key.learning_rate
                    found.append(Found(*config, seed, dict(key.fields), table, origin))
                elif table is not None:
                    dropped.append((origin, "no return was logged"))
        return found, dropped

    def _columns(self, groups: Mapping[Key, Mapping[str, str]], path: Path) -> dict[str, str]:
        """Metric → our column; the one that is the return becomes `column`."""
        metrics = sorted({metric for members in groups.values() for metric in members})
        if not metrics:
            raise Mistake(f"source.path={path}: it holds no .npy array; give a zip or folder of model_scaling's layout")
        returns = [metric for metric in metrics if re.search("returns?$", metric)]
        if self.metric is None and len(returns) != 1:
            raise Mistake(
                f"source.metric is not set and {path.name} holds {', '.join(metrics)}; say which of them is the return"
            )
        wanted = returns[0] if self.metric is None else self.metric
        if wanted not in metrics:
            raise Mistake(f"source.metric={wanted}: {path.name} has no such metric; {nearest(wanted, metrics)}")
        for metric in metrics:
            if metric in ("env_step", self.column) and metric != wanted:
                raise Mistake(
                    f"source.column={self.column}: {path.name} has a metric {metric} beside {wanted}; "
                    f"choose source.metric={metric}, or another source.column"
                )
        return {metric: self.column if metric == wanted else metric for metric in metrics}

    def _key(self, member: str, file: str) -> tuple[Key, str]:
        """(configuration, metric) of a member's name. Raises Mistake naming the file if it is of another layout."""
        match = SWEEP.fullmatch(member) or SIZES.fullmatch(member)
        if match is None:
            raise Mistake(
                f"{file}: {member} is not named as model_scaling names its arrays; "
                "use …/w<W>p<N>/utd_<σ>/<task>/<metric>/bs_<B>_….npy or …/rr<σ>_<size>/<task>.npy"
            )
        word = match.groupdict()
        batch = self._given("batch_size", member, file) if word.get("batch") is None else int(word["batch"])
        rate = self._given("learning_rate", member, file) if word.get("rate") is None else float(word["rate"])
        fields: dict[str, Any] = {k: int(word[k]) for k in ("width", "n_params") if word.get(k) is not None}
        if "size" in word:
            fields["size"] = word["size"]
        if word.get("rest") is not None:
            fields |= _rest(word["rest"])
        if "n_params" not in fields and self.n_params is not None:
            size = word.get("size") or str(fields["width"])
            if size not in self.n_params:
                raise Mistake(f"source.n_params: {file} has a size {size} and this does not list it; add {size}: N")
            fields["n_params"] = self.n_params[size]
        utd = Fraction(word["utd"])
        if not (utd > 0 and batch > 0 and 0 < rate < 1e6):
            raise Mistake(f"{file}: {member} has σ = {utd}, B = {batch}, η = {rate}; all three must be above 0")
        metric = word.get("metric", "return").replace(SLASH, "/")
        return Key(word["task"], utd, int(batch), float(rate), tuple(fields.items())), metric

    def _given(self, key: str, member: str, file: str) -> float:
        value: float | None = getattr(self, key)
        if value is None:
            raise Mistake(f"source.{key} is not set and {file}: {member} does not tell it; give what the runs used")
        return value


def _rest(text: str) -> dict[str, Any]:
    """The learner's fields after the learning rate; what is switched off is not part of a configuration."""
    match = REST.fullmatch(text)
    if match is None:
        return {"variant": text}  # of another version of their code: kept apart, not interpreted
    word = match.groupdict()
    fields: dict[str, Any] = {}
    if word["hard"] == "True":
        fields["hard_target_every"] = int(word["hard_every"])
    if word["noise"] != "none":
        fields |= {"target_noise": word["noise"], "target_noise_scale": float(word["noise_scale"])}
    if word["passive"] == "True":
        fields["passive_width"] = int(word["passive_width"])
    if word["use_n_step"] == "True":
        fields["n_step"] = int(word["n_step"])
    return fields


def _alike(part: tuple[NDArray[np.float64], ...], main: tuple[NDArray[np.float64], ...]) -> bool:
    """Whether two metrics have the same steps and seeds."""
    return np.array_equal(part[0], main[0], equal_nan=True) and part[1].shape == main[1].shape

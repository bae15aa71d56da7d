"""Door: records → a zip that qscaled reads, with the env step as column 0 (QSCALED.md §2).

python -m analysis.export name=gym-grid select.sweep=gym-grid
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from omegaconf import DictConfig

from analysis import emit, show
from analysis.curves import CELL, Track
from analysis.fit_door import read
from analysis.records import Select, Study, common_spec, load
from rlscale.door import door
from rlscale.store import study_root
from rlscale.typed import Mistake, typed

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Config:
    """conf/analysis/export.yaml."""

    name: str
    path: str | None
    select: Mapping[str, Any]
    metric: Literal["train_return", "eval_return"]
    folder: str
    rows: Literal["shared", "all"]
    replace: bool


def main(cfg: DictConfig) -> None:
    config = read(Config, cfg)
    emit.check_name(config.name)
    select = typed(Select, config.select, "select")
    if not config.folder or "/" in config.folder or config.folder.startswith("."):
        raise Mistake(f"folder={config.folder}: this cannot be a folder's name in the zip; give one as online_returns")
    path = Path(config.path or f"{config.name}.zip").expanduser()
    study = load(study_root(), select)
    common_spec(study)  # qscaled's names have no room for what else could differ
    arrays, dropped = members(study, config, show.tracked)
    content = zipped(arrays)
    if path.exists() and not config.replace and (path.is_dir() or path.read_bytes() != content):
        raise Mistake(f"path={path}: there is another file of this name; give another path, or replace=true")
    emit.write({path: content}, replace=True)
    left_out = [(str(r), str(why)) for r, why in study.dropped.itertuples(index=False)] + dropped
    if left_out:
        show.table(f"left out ({len(left_out)})", ["what", "reason"], left_out)
    seeds = sum(array.shape[1] - 1 for array in arrays.values())
    show.say(f"written: {path}, {len(arrays)} configurations, {seeds} seeds")


def members(study: Study, config: Config, track: Track) -> tuple[dict[str, Array], list[tuple[str, str]]]:
    """Name in the zip → float64 [T, 1 + seeds], env steps first, seeds in their order; and what was left out."""
    by_run = {run_id: part for run_id, part in study.curves.groupby("run_id", sort=False)}
    arrays: dict[str, Array] = {}
    dropped: list[tuple[str, str]] = []
    groups = list(study.runs.groupby(CELL, sort=True))
    for key, runs in track(groups, len(groups), "joining seeds"):
        cell = dict(zip(CELL, key, strict=True))
        member = member_name(
            config, str(cell["task"]), Fraction(cell["utd"]), cell["batch_size"], cell["learning_rate"]
        )
        seeds: list[tuple[Array, Array]] = []
        for run_id in runs.sort_values(["seed", "run_id"])["run_id"]:
            part = by_run.get(run_id, study.curves.iloc[:0])
            values = part[config.metric].to_numpy(dtype=np.float64)
            if np.isfinite(values).any():
                seeds.append((part["env_step"].to_numpy(dtype=np.float64), values))
            else:
                dropped.append((str(run_id), f"{config.metric} is empty in every row of curve.csv"))
        if not seeds:
            continue
        array = joined(seeds)
        if config.rows == "shared":
            whole = np.isfinite(array).all(axis=1)
            if not whole.all():
                dropped.append((member, f"{int((~whole).sum())} of {len(array)} rows, which not every seed has"))
            array = array[whole]
        if len(array):
            arrays[member] = array
    if not arrays:
        raise Mistake(f"metric={config.metric}: no configuration has a row of it; choose the other, or rows=all")
    return arrays, dropped


def joined(seeds: list[tuple[Array, Array]]) -> Array:
    """Seeds [(steps, values)] with unique rising steps → [T, 1 + S] over all their steps, NaN where a seed has none."""
    steps = np.unique(np.concatenate([at for at, _ in seeds]))
    array = np.full((len(steps), 1 + len(seeds)), np.nan)
    array[:, 0] = steps
    for i, (at, values) in enumerate(seeds, 1):
        array[np.searchsorted(steps, at), i] = values
    return array


def member_name(config: Config, task: str, utd: Fraction, batch_size: int, learning_rate: float) -> str:
    """`<name>/utd_<σ>/<task>/<folder>/bs_<B>_lr_<η>.npy` with numbers as Python prints them. Raises Mistake."""
    if "/" in task:
        raise Mistake(f"select.tasks: {task} cannot be a folder's name in the zip; leave it out with select.tasks=[…]")
    sigma = str(utd) if utd.denominator == 1 else repr(float(utd))
    return f"{config.name}/utd_{sigma}/{task}/{config.folder}/bs_{int(batch_size)}_lr_{float(learning_rate)!r}.npy"


def zipped(arrays: Mapping[str, Array]) -> bytes:
    """The arrays as .npy files in a zip without dates, so that equal arrays give equal bytes."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name in sorted(arrays):
            part = io.BytesIO()
            np.lib.format.write_array(part, np.ascontiguousarray(arrays[name]), version=(1, 0), allow_pickle=False)
            info = zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0))
            info.compress_type, info.external_attr = zipfile.ZIP_DEFLATED, 0o644 << 16
            archive.writestr(info, part.getvalue())
    return buffer.getvalue()


if __name__ == "__main__":
    door(main, "analysis/export")

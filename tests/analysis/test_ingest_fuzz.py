"""Zips harmed in every way we could think of: whole runs or one sentence, never a traceback, never a half-read file."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from analysis.outside import Collection, outside, sort_out
from analysis.sources import Found
from analysis.sources.model_scaling import ModelScaling
from analysis.sources.qscaled import QScaled
from rlscale.store import Store
from rlscale.typed import Mistake
from tests.analysis.archives import npy, qscaled, stepped, zip_of
from tests.analysis.conftest import Done

REST = "_lr_0.0003_hard_False_1000_targnoise_none_0_sep_False_w512p1_nstep_1_usenstep_False"
SIZED = {
    f"fit/w{w}p{w * w}/utd_{u}/t/{metric}/bs_{64 * u}{REST}.npy": npy(stepped(9, 2, w + u, 25000))
    for w in (128, 256) for u in (1, 2) for metric in ("return", "critic_loss")
}  # fmt: skip
LIMITS = settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
ARRAYS = hnp.arrays(
    st.sampled_from([np.float64, np.float32, np.int64, np.uint8, np.bool_]),
    hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=12),
)


def read(path: Path, kind: str) -> list[Found]:
    """What the source finds; also checked: what it found can be records, twice the same."""
    if kind == "qscaled":
        source: Any = QScaled(str(path), None, "train_return", "auto", 5000, 1000)
    else:
        source = ModelScaling(str(path), None, "eval_return", "auto", 25000, 25000, 128, 3e-4, None)
    found, dropped = source.read(lambda items, _n, _label: items)
    for run in found:
        steps = run.curve["env_step"].to_numpy()
        assert steps.dtype == np.int64 and len(steps) and (np.diff(steps) > 0).all() and steps[0] >= 0
        assert run.utd > 0 and run.batch_size > 0 and run.learning_rate > 0 and run.seed >= 0
        assert not np.isinf(run.curve.to_numpy(dtype=float)).any()
    assert all(what and why for what, why in dropped)
    runs = [outside(run, Collection("a", "dmc", "bro", None, {})) for run in found]
    new, known, twice = sort_out(runs, Store(path.parent / "study"), False)
    assert len(new) + len(twice) == len(found) and known == 0
    return found


def harmless(path: Path, kind: str) -> list[Found] | None:
    """What was read, or None where a sentence said why not; anything else is a fault of ours."""
    try:
        return read(path, kind)
    except Mistake as mistake:
        assert "\n" not in str(mistake) and 20 < len(str(mistake)) < 600
        assert path.name in str(mistake)
        return None


def harm(whole: bytes, seed: int) -> bytes:
    """A few bytes flipped, or a piece cut out, or the end cut off, or a piece doubled."""
    rng = np.random.default_rng(seed)
    data = bytearray(whole)
    way = seed % 4
    at, length = int(rng.integers(len(data))), int(rng.integers(1, 64))
    if way == 0:
        for i in rng.integers(0, len(data), int(rng.integers(1, 6))):
            data[i] = int(rng.integers(256))
    elif way == 1:
        del data[at : at + length]
    elif way == 2:
        del data[at:]
    else:
        data[at:at] = data[at : at + length]
    return bytes(data)


@pytest.mark.parametrize("kind", ["qscaled", "model_scaling"])
@pytest.mark.parametrize("packed", [zipfile.ZIP_STORED, pytest.param(zipfile.ZIP_DEFLATED, marks=pytest.mark.slow)])
def test_harmed_zips(tmp_path: Path, kind: str, packed: int) -> None:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", packed) as archive:
        for name, data in (qscaled() if kind == "qscaled" else SIZED).items():
            archive.writestr(name, data)
    path, refused = tmp_path / "harmed.zip", 0
    path.write_bytes(stream.getvalue())
    whole = harmless(path, kind)
    assert whole
    for seed in range(120):
        path.write_bytes(harm(stream.getvalue(), seed))
        found = harmless(path, kind)
        refused += found is None
        # a checksum stands behind every array: what is read was not changed
        values = {run.curve.iloc[:, 1].to_numpy().tobytes() for run in whole}
        assert all(run.curve.iloc[:, 1].to_numpy().tobytes() in values for run in found or [])
    assert refused > 60


@pytest.mark.parametrize("kind", ["qscaled", "model_scaling"])
@LIMITS
@given(st.integers(0, 10**6))
def test_arrays_harmed_inside_a_whole_zip(tmp_path: Path, kind: str, seed: int) -> None:
    files = {k: v for k, v in (qscaled(seed % 2 == 0) if kind == "qscaled" else SIZED).items() if k.endswith(".npy")}
    name = sorted(files)[seed % len(files)]
    harmless(zip_of(tmp_path / "harmed.zip", files | {name: harm(files[name], seed)}), kind)


@pytest.mark.parametrize("kind", ["qscaled", "model_scaling"])
@LIMITS
@given(ARRAYS)
@example(np.array([[1e308, -1e308], [-1e308, 1e308], [1e308, -1e308]]))
@example(np.array([[np.inf, 1.0], [1000.0, -np.inf], [2000.0, np.nan]]))
@example(np.full((4, 3), np.nan))
def test_any_array_in_its_place(tmp_path: Path, kind: str, array: np.ndarray) -> None:
    files = qscaled() if kind == "qscaled" else SIZED
    name = sorted(files)[-1]
    harmless(zip_of(tmp_path / "harmed.zip", {name: npy(array)}), kind)  # alone
    harmless(zip_of(tmp_path / "harmed.zip", files | {name: npy(array)}), kind)  # among others


@LIMITS
@given(st.integers(0, 10**6))
def test_steps_are_never_read_as_returns(tmp_path: Path, seed: int) -> None:
    """Rows doubled, moved, emptied or cut: what is still read has returns only."""
    rng = np.random.default_rng(seed)
    arrays = {}
    for name, data in qscaled().items():
        if name.endswith(".npy") and "__MACOSX" not in name:
            array = np.load(io.BytesIO(data))
            for _ in range(int(rng.integers(0, 3))):
                rows = np.arange(len(array))
                way = int(rng.integers(5))
                if way == 0:
                    rows = np.sort(np.append(rows, rng.integers(len(rows), size=2)))
                elif way == 1:
                    rows = rng.permutation(rows) if rng.random() < 0.5 else rows[::-1]
                elif way == 2:
                    rows = rows[: int(rng.integers(1, len(rows) + 1))]
                array = array[rows]
                if way == 3:
                    array[rng.integers(len(array)), :] = np.nan
                elif way == 4:
                    array[rng.integers(len(array)), 0] = np.nan
            arrays[name] = npy(array)
    for run in harmless(zip_of(tmp_path / "harmed.zip", arrays), "qscaled") or []:
        assert np.nanmax(run.curve["train_return"]) <= 1000 and run.curve["env_step"].max() <= 20_000


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(
        st.text(st.characters(codec="utf-8", exclude_characters="\x00"), min_size=1, max_size=20),
        min_size=1,
        max_size=3,
    )
)
def test_members_of_any_name(tmp_path: Path, names: list[str]) -> None:
    for suffix in ("", ".npy"):
        files = {f"x/{name}{suffix}": npy(stepped(random=i)) for i, name in enumerate(dict.fromkeys(names))}
        harmless(zip_of(tmp_path / "harmed.zip", files), "qscaled")
        harmless(zip_of(tmp_path / "harmed.zip", qscaled() | files), "model_scaling")


def test_nothing_is_written_on_refusal(tmp_path: Path, door: Callable[..., Done]) -> None:
    whole = zip_of(tmp_path / "whole.zip", qscaled()).read_bytes()
    path = tmp_path / "harmed.zip"
    refused = 0
    for seed in range(8):
        root = tmp_path / f"study{seed}"
        path.write_bytes(harm(whole, seed))
        done = door("ingest", root, "source=qscaled", f"source.path={path}", "source.benchmark=b", "source.algorithm=a")
        assert (done.returncode == 2) != (root / "runs").exists()
        assert done.returncode == 0 or not root.exists()
        refused += done.returncode == 2
    assert refused > 3

"""Records → a zip that qscaled reads; and an authors' zip → records → the same arrays."""

from __future__ import annotations

import io
import re
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tests.analysis.archives import npy, qscaled, stepped, zip_of
from tests.analysis.conftest import Done
from tests.analysis.synthetic import write_run

Door = Callable[..., Done]
ABOUT = ("source=qscaled", "source.benchmark=dmc", "source.algorithm=bro")
MEMBER = re.compile(r"(?:.*/)?utd_([^/]+)/([^/]+)/([^/]+)/bs_(\d+)_lr_([^_]+?)(?:_[^/]*)?\.npy")
Key = tuple[float, str, str, int, float]


def arrays(path: Path) -> dict[Key, np.ndarray]:
    """A zip's arrays by (σ, task, metric, B, η)."""
    with zipfile.ZipFile(path) as archive:
        matches = {name: MEMBER.fullmatch(name) for name in archive.namelist() if "__MACOSX" not in name}
        return {
            (float(m[1]), m[2], m[3], int(m[4]), float(m[5])): np.load(io.BytesIO(archive.read(name)))
            for name, m in matches.items()
            if m is not None
        }


def same(ours: Path, theirs: Path, with_steps: bool) -> int:
    """How many arrays are equal to the last bit; the keys must be."""
    a, b = arrays(ours), arrays(theirs)
    assert a.keys() == b.keys() and all(x.dtype == np.float64 and x.flags.c_contiguous for x in a.values())
    for key, array in b.items():
        np.testing.assert_array_equal(a[key] if with_steps else a[key][:, 1:], array.astype(float), str(key))
    return len(b)


@pytest.mark.parametrize("with_steps", [True, False])
def test_there_and_back(tmp_path: Path, door: Door, with_steps: bool) -> None:
    path = zip_of(tmp_path / "sweep.zip", qscaled(with_steps))
    assert door("ingest", tmp_path, *ABOUT, f"source.path={path}").returncode == 0
    done = door("export", tmp_path, "name=back", f"path={tmp_path / 'back.zip'}", "select.sweep=sweep")
    assert done.returncode == 0 and "4 configurations, 11 seeds" in done.stdout
    assert same(tmp_path / "back.zip", path, with_steps) == 4
    assert "back/utd_0.25/b-v4/online_returns/bs_256_lr_5e-05.npy" in zipfile.ZipFile(tmp_path / "back.zip").namelist()
    # and what was exported is itself a source, of the same runs
    assert door("ingest", tmp_path / "again", *ABOUT, f"source.path={tmp_path / 'back.zip'}").returncode == 0


@pytest.mark.slow
@pytest.mark.parametrize("name", ["dmc_baseline_utd2", "gym_baseline_utd2", "dmc_sweep"])
def test_the_authors_zips_there_and_back(published: Path, tmp_path: Path, door: Door, name: str) -> None:
    path = published / "qscaled" / f"{name}.zip"
    assert door("ingest", tmp_path, *ABOUT, f"source.path={path}").returncode == 0
    folder = "episode.return" if name.startswith("gym") else "online_returns"
    done = door(
        "export", tmp_path, "name=back", f"path={tmp_path / 'back.zip'}", f"select.sweep={name}", f"folder={folder}"
    )
    assert done.returncode == 0, done.stderr
    assert (
        same(tmp_path / "back.zip", path, name != "dmc_sweep")
        == {"gym_baseline_utd2": 28, "dmc_baseline_utd2": 42, "dmc_sweep": 840}[name]
    )


def test_gaps_are_left_out_or_kept_as_asked(tmp_path: Path, door: Door) -> None:
    array = stepped(12, 3)
    array[4, 1] = np.nan
    array[9:, 2] = np.nan
    path = zip_of(tmp_path / "a.zip", {"a/utd_1/t/online_returns/bs_32_lr_0.0003.npy": npy(array)})
    assert door("ingest", tmp_path, *ABOUT, f"source.path={path}").returncode == 0
    done = door("export", tmp_path, "name=a", f"path={tmp_path / 'all.zip'}", "rows=all")
    assert done.returncode == 0 and same(tmp_path / "all.zip", path, True) == 1
    done = door("export", tmp_path, "name=a", f"path={tmp_path / 'shared.zip'}")
    (shared,) = arrays(tmp_path / "shared.zip").values()
    np.testing.assert_array_equal(shared, array[np.isfinite(array).all(axis=1)])
    assert "4 of 12 rows, which not every seed has" in done.stdout


def test_our_own_runs_are_written_in_the_order_of_their_seeds_and_the_same_bytes_again(
    tmp_path: Path, door: Door
) -> None:
    steps = np.arange(100, 1001, 100)
    for seed in (10, 2, 0):
        write_run(tmp_path, "pendulum", "1/4", 64, 1e-3, seed, steps, steps * 1.0 + seed, {"hparams": "constant"}, 1000)
    for name in ("x", "y"):
        assert (
            door("export", tmp_path, "name=mine", f"path={tmp_path / name}.zip", "folder=episode.return").returncode
            == 0
        )
    assert (tmp_path / "x.zip").read_bytes() == (tmp_path / "y.zip").read_bytes()
    ((key, array),) = arrays(tmp_path / "x.zip").items()
    assert key == (0.25, "pendulum", "episode.return", 64, 1e-3)
    assert array[0].tolist() == [100, 100, 102, 110]


def test_mistakes(tmp_path: Path, door: Door) -> None:
    steps = np.arange(100, 1001, 100)
    write_run(tmp_path, "pendulum", "1/4", 64, 1e-3, 0, steps, steps * 1.0, {"hparams": "constant"}, 1000)
    out = tmp_path / "x.zip"
    out.write_bytes(b"precious")
    for words, said in (
        ((f"path={out}",), "there is another file of this name"),
        ((f"path={tmp_path}",), "there is another file of this name"),
        ((f"path={out}", "metric=eval_return"), "no configuration has a row of it"),
        ((f"path={out}", "folder=a/b"), "folder=a/b: this cannot be a folder's name"),
        ((f"path={out}", "rows=some"), "rows=some: there is no such choice"),
    ):
        done = door("export", tmp_path, "name=a", *words)
        assert done.returncode == 2 and said in done.stderr, done.stderr
    assert out.read_bytes() == b"precious"
    assert door("export", tmp_path, "name=a", f"path={out}", "replace=true").returncode == 0 and len(arrays(out)) == 1
    write_run(tmp_path, "pendulum", "1/4", 64, 1e-3, 1, steps, steps * 1.0, {"hparams": "constant"}, 1000, width=8)
    done = door("export", tmp_path, "name=a", f"path={tmp_path / 'y.zip'}")
    assert done.returncode == 2 and "algorithm.width" in done.stderr

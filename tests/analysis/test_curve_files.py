"""Many curves as one table: to the last bit, odd files named, and a cache that is never wrong."""

from __future__ import annotations

import os
import re
import shutil
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from analysis import curve_files
from analysis.curve_files import Table, read
from analysis.records import Select, load
from rlscale.typed import Mistake
from tests.analysis.synthetic import write_run

ALL = Select(None, None, None, None, None)
NEEDED = ("env_step", "train_return", "eval_return")
HEAD = "env_step,updates,wall_s,train_return,train_episodes,eval_return,eval_episodes,critic_loss\n"


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep every table, also the small ones of these tests."""
    monkeypatch.setattr(curve_files, "WORTH", 1)


def files(root: Path, count: int = 5) -> list[Path]:
    rng = np.random.default_rng(0)
    found = []
    for i in range(count):
        path = root / f"{i}.csv"
        rows = [
            f"{100 * (k + 1)},{k},0.1,{x!r},1,{'' if k % 2 else repr(x / 7)},,{x / 3!r}"
            for k, x in enumerate(rng.standard_normal(i + 2).tolist())
        ]
        path.write_text(HEAD + "\n".join(rows) + "\n")
        found.append(path)
    return found


def same(a: Table, b: Table) -> None:
    np.testing.assert_array_equal(a.lengths, b.lengths)
    assert a.columns.keys() == b.columns.keys() and a.faults == b.faults
    for name, column in a.columns.items():
        np.testing.assert_array_equal(column, b.columns[name])


def test_every_digit_is_read(tmp_path: Path) -> None:
    paths = files(tmp_path)
    table = read(paths, NEEDED, ("critic_loss", "nothing"), tmp_path / "cache")
    assert table.lengths.tolist() == [2, 3, 4, 5, 6] and not table.faults
    frame = pd.concat([pd.read_csv(path, float_precision="round_trip") for path in paths])
    for name in (*NEEDED, "critic_loss"):
        np.testing.assert_array_equal(table.columns[name], frame[name].to_numpy(dtype=float))
    assert np.isnan(table.columns["nothing"]).all()


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        (None, "No such file"),
        ("", "no column env_step"),
        (HEAD.replace("train_return", "other"), "no column train_return"),
        (HEAD.replace("updates", "wall_s"), "two of its columns have one name"),
        (HEAD + "100,0,0.1,5.0\n", "a row has not 8 values"),
        (HEAD + "100,0,0.1,5.0,1,,,0.1,9\n200,0,0.1,5.0,1,,\n", "a row has not 8 values"),
        (HEAD + "100,0,0.1,five,1,,,\n", "five"),
        (HEAD + ",0,0.1,5.0,1,,,\n", "a row has no env_step"),
        (HEAD + "\x00\xff\xfe", "."),
    ],
)
def test_an_odd_file_is_named_and_the_others_are_read(tmp_path: Path, text: str | None, fault: str) -> None:
    paths = files(tmp_path)
    if text is None:
        paths[2].unlink()
    else:
        paths[2].write_bytes(text.encode("latin-1"))
    for _ in range(2):  # the second time from the cache
        table = read(paths, NEEDED, (), tmp_path / "cache")
        assert table.lengths.tolist() == [2, 3, 0, 5, 6] and list(table.faults) == [2]
        assert re.search(fault, table.faults[2])


def test_unusual_but_whole_files_are_read(tmp_path: Path) -> None:
    paths = files(tmp_path, 4)
    whole = read(paths, NEEDED, (), tmp_path / "a")
    paths[0].write_text(paths[0].read_text().rstrip("\n"))  # no line end
    paths[1].write_bytes(paths[1].read_bytes().replace(b"\n", b"\r\n"))
    head, *rows = paths[2].read_text().splitlines()
    paths[2].write_text("\n".join([head, *reversed(rows)]) + "\n")  # backwards
    same(read(paths, NEEDED, (), tmp_path / "b"), whole)
    paths[3].write_text(HEAD)  # nothing logged yet
    assert read(paths, NEEDED, (), tmp_path / "b").lengths.tolist() == [2, 3, 4, 0]


def test_the_cache_answers_without_parsing_and_only_to_the_same_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = files(tmp_path)
    table = read(paths, NEEDED, (), tmp_path / "cache")
    parses = []
    monkeypatch.setattr(curve_files, "_parse", lambda *a, real=curve_files._parse: parses.append(1) or real(*a))
    same(read(paths, NEEDED, (), tmp_path / "cache"), table)
    assert not parses
    # the same size, date and inode, and another number in it
    before = paths[1].stat()
    text = paths[1].read_text()
    at = text.index("\n") + 5
    with paths[1].open("r+") as file:
        file.seek(at)
        file.write("7" if text[at] != "7" else "8")
    os.utime(paths[1], ns=(before.st_atime_ns, before.st_mtime_ns))
    after = paths[1].stat()
    assert (after.st_size, after.st_mtime_ns, after.st_ino) == (before.st_size, before.st_mtime_ns, before.st_ino)
    changed = read(paths, (*NEEDED, "updates"), (), tmp_path / "cache")
    assert parses and changed.columns["updates"][2] in (7, 8)
    # elsewhere, with other dates: the content is the key
    parses.clear()
    shutil.copytree(tmp_path, tmp_path / "copy", ignore=shutil.ignore_patterns("copy"))
    same(read([tmp_path / "copy" / p.name for p in paths], (*NEEDED, "updates"), (), tmp_path / "copy/cache"), changed)
    assert not parses
    # another order or other columns are another table
    assert read(paths[::-1], NEEDED, (), tmp_path / "cache").lengths.tolist() == [6, 5, 4, 3, 2]


def test_a_cache_that_was_harmed_is_ignored(tmp_path: Path) -> None:
    paths = files(tmp_path)
    cache = tmp_path / "cache"
    table = read(paths, NEEDED, (), cache)
    (place,) = cache.glob("*.npz")
    good = place.read_bytes()
    rng = np.random.default_rng(0)
    harmed = [b"", b"PK", good[:-1], good[: len(good) // 2], good + b"x", bytes(len(good))]
    for at in rng.integers(0, len(good), 150):
        flipped = bytearray(good)
        flipped[at] ^= 1 << int(rng.integers(8))
        harmed.append(bytes(flipped))
    for data in harmed:
        place.write_bytes(data)
        same(read(paths, NEEDED, (), cache), table)
    shutil.rmtree(cache)
    same(read(paths, NEEDED, (), cache), table)
    place.unlink()
    place.mkdir()  # cannot be written over
    same(read(paths, NEEDED, (), cache), table)
    assert not list(cache.glob(".*"))


def test_few_tables_are_kept(tmp_path: Path) -> None:
    paths = files(tmp_path, 12)
    for n in range(1, 12):
        read(paths[:n], NEEDED, (), tmp_path / "cache")
    assert len(list((tmp_path / "cache").iterdir())) == curve_files.KEPT


def test_further_columns_of_a_study(tmp_path: Path) -> None:
    steps = np.arange(100, 1001, 100)
    run = write_run(tmp_path, "pendulum", "1", 64, 1e-3, 0, steps, steps * 1.0, {"hparams": "constant"}, 1000)
    write_run(tmp_path, "pendulum", "1", 64, 1e-3, 1, steps, steps * 1.0, {"hparams": "constant"}, 1000)
    (run / "curve.csv").write_text((run / "curve.csv").read_text().replace("critic_loss", "grad_norm"))
    curves = load(tmp_path, ALL, ("critic_loss", "grad_norm")).curves
    assert list(curves.columns) == ["env_step", "train_return", "eval_return", "critic_loss", "grad_norm", "run_id"]
    assert curves["critic_loss"].notna().sum() == curves["grad_norm"].notna().sum() == 10
    assert curves["env_step"].dtype == np.int64
    with pytest.raises(Mistake, match=r"metric critic_los: none of the 2 selected runs logged it"):
        load(tmp_path, ALL, ("critic_los",))


@pytest.mark.slow
def test_two_thousand_runs_are_read_in_time(tmp_path: Path) -> None:
    """2,000 runs × 500 rows: at most 10 s, and at most 1 s from the cache."""
    steps = np.arange(1000, 500_001, 1000)
    rng = np.random.default_rng(0)
    for seed in range(2000):
        write_run(
            tmp_path, "pendulum", "1", 64, 1e-3, seed, steps, rng.standard_normal(500), {"hparams": "constant"}, 500_000
        )
    took = []
    for _ in range(4):
        start = time.perf_counter()
        study = load(tmp_path, ALL)
        took.append(time.perf_counter() - start)
        assert len(study.runs) == 2000 and len(study.curves) == 1_000_000
    print(f"2,000 runs × 500 rows: {took[0]:.2f} s cold, {min(took[1:]):.2f} s from the cache")
    assert took[0] <= 10 and min(took[1:]) <= 1

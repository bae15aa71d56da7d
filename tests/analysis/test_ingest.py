"""Other people's runs become records like ours: once, whole, never mixed up; or nothing at all and a sentence."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from analysis.outside import Collection, outside
from analysis.records import Select, Study, common_spec, load
from analysis.sources.qscaled import QScaled, key_of
from rlscale.typed import Mistake
from tests.analysis.archives import npy, qscaled, returns, stepped, zip_of
from tests.analysis.conftest import REPO, Done

Door = Callable[..., Done]
ABOUT = ("source=qscaled", "source.benchmark=dmc", "source.algorithm=bro")


def everything(root: Path) -> dict[str, tuple[bytes, int]]:
    """Each file of a study with its content and date."""
    return {
        p.relative_to(root).as_posix(): (p.read_bytes(), p.stat().st_mtime_ns)
        for p in sorted(root.rglob("*"))
        if p.is_file() and p.name != ".ingest.lock"
    }


def study(root: Path, sweep: str | None = None) -> Study:
    return load(root, Select(None, None, None, None, sweep))


@pytest.mark.parametrize("with_steps", [True, False])
@pytest.mark.parametrize("unpacked", [True, False])
def test_a_zip_becomes_records(tmp_path: Path, door: Door, with_steps: bool, unpacked: bool) -> None:
    files = qscaled(with_steps)
    path = zip_of(tmp_path / "sweep.zip", files)
    if unpacked:
        path = tmp_path / "sweep"
        for name, data in files.items():
            if not name.endswith("/"):
                (path / name).parent.mkdir(parents=True, exist_ok=True)
                (path / name).write_bytes(data)
    root = tmp_path / "study"
    done = door("ingest", root, *ABOUT, f"source.path={path}")
    assert done.returncode == 0, done.stderr
    assert "sweep: bro on dmc, 11 runs" in done.stdout and "11 runs written" in done.stdout
    found = study(root, "sweep")
    assert len(found.runs) == 11 and found.dropped.empty
    seeds = found.runs.groupby(["task", "utd", "batch_size", "learning_rate"])["seed"].apply(sorted).to_dict()
    assert seeds == {
        ("a-run", "1", 32, 1.5e-4): [0, 1, 2], ("a-run", "1/4", 256, 1.2e-3): [0, 1, 2],
        ("b-v4", "1", 32, 1.5e-4): [0, 1], ("b-v4", "1/4", 256, 5e-5): [0, 1, 2],
    }  # fmt: skip
    row = found.runs.query("task == 'a-run' and utd == '1' and seed == 2").iloc[0]
    curve = found.curves[found.curves["run_id"] == row["run_id"]]
    first = 1000 if with_steps else 5000
    assert curve["env_step"].tolist() == list(range(first, first + 12_000, 1000))
    np.testing.assert_array_equal(curve["train_return"], returns(12, 3, 1)[:, 2])  # to the last bit
    assert curve["eval_return"].isna().all()
    assert found.runs[["n_params", "flops_per_update", "updates"]].isna().all(axis=None)


def test_a_record_says_where_it_came_from(tmp_path: Path, door: Door) -> None:
    path = zip_of(tmp_path / "sweep.zip", qscaled())
    assert door("ingest", tmp_path, *ABOUT, f"source.path={path}").returncode == 0
    records = [json.loads(p.read_text()) for p in (tmp_path / "runs").glob("*/record.json")]
    record = next(r for r in records if r["spec"]["benchmark"]["task"] == "a-run" and r["spec"]["utd"] == "1/4")
    assert record["source"].keys() == {"name", "kind", "file", "sha256", "origin", "curve_sha256"}
    assert record["source"]["file"] == "sweep.zip" and record["source"]["kind"] == "qscaled"
    column = record["member"]["seed"] + 1
    assert record["source"]["origin"].startswith(
        f"inner/utd_0.25/a-run/online_returns/bs_256_lr_12e-4_reset_True.npy, column {column}"
    )
    unknown = ("updates", "utd_realised", "flops_per_update", "wall_s", "git", "device", "started", "finished")
    assert [record[name] for name in unknown] == [None] * len(unknown)
    assert record["asked_by"] == {"sweep": "sweep", "hparams": None, "split": None, "overrides": []}
    folder = tmp_path / "runs" / record["run_id"]
    assert {p.name for p in folder.iterdir()} == {"spec.json", "curve.csv", "record.json"}
    identity = {key: record[key] for key in ("spec_version", "spec", "member")}
    assert json.loads((folder / "spec.json").read_text()) == identity


def test_the_second_time_nothing_is_written(tmp_path: Path, door: Door) -> None:
    path, root = zip_of(tmp_path / "sweep.zip", qscaled()), tmp_path / "study"
    assert door("ingest", root, *ABOUT, f"source.path={path}").returncode == 0
    before = everything(root)
    done = door("ingest", root, *ABOUT, f"source.path={path}")
    assert "0 runs written" in done.stdout and "11 were there already" in done.stdout
    assert everything(root) == before


def test_dry_writes_nothing(tmp_path: Path, door: Door) -> None:
    path, root = zip_of(tmp_path / "sweep.zip", qscaled()), tmp_path / "study"
    done = door("ingest", root, *ABOUT, f"source.path={path}", "dry=true")
    assert done.returncode == 0 and "11 runs would be written" in done.stdout
    assert not root.exists()


def test_the_same_bytes_from_the_same_zip(tmp_path: Path, door: Door) -> None:
    path = zip_of(tmp_path / "sweep.zip", qscaled())
    for root in ("a", "b"):
        assert door("ingest", tmp_path / root, *ABOUT, f"source.path={path}").returncode == 0
    a, b = ({name: data for name, (data, _) in everything(tmp_path / root).items()} for root in ("a", "b"))
    assert a == b and len(a) == 33


def test_two_files_with_one_configuration_stay_two_collections(tmp_path: Path, door: Door) -> None:
    for name, random in (("one", 1), ("two", 2)):
        member = "x/utd_1/a-run/online_returns/bs_32_lr_3e-4.npy"
        path = zip_of(tmp_path / f"{name}.zip", {member: npy(stepped(random=random))})
        assert door("ingest", tmp_path, *ABOUT, f"source.path={path}").returncode == 0
    assert len(study(tmp_path).runs) == 6 and len(study(tmp_path, "one").runs) == 3
    with pytest.raises(Mistake, match=r"several collections \(one, two\).*choose one with select\.sweep"):
        common_spec(study(tmp_path))
    assert common_spec(study(tmp_path, "two"))["algorithm"] == {"name": "bro"}


def test_another_curve_for_a_run_of_the_collection_is_refused_unless_replaced(tmp_path: Path, door: Door) -> None:
    member, root = "x/utd_1/a-run/online_returns/bs_32_lr_3e-4.npy", tmp_path / "study"
    path = zip_of(tmp_path / "one.zip", {member: npy(stepped())})
    words = (*ABOUT, f"source.path={path}")
    assert door("ingest", root, *words).returncode == 0
    before = everything(root)
    changed = stepped()
    changed[3, 2] += 1  # of seed 1 alone
    zip_of(path, {member: npy(changed), member.replace("utd_1", "utd_2"): npy(stepped(random=7))})
    done = door("ingest", root, *words)
    assert done.returncode == 2 and everything(root) == before
    assert "column 2" in done.stderr and "source.name=one holds this configuration and seed" in done.stderr
    assert "4 runs written" in door("ingest", root, *words, "replace=true").stdout
    found = study(root)
    assert len(found.runs) == 6 and changed[3, 2] in found.curves["train_return"].to_numpy()


def test_an_outside_run_is_never_one_of_ours(tmp_path: Path) -> None:
    """Its hashed spec has a key that no spec of ours can have."""
    path = zip_of(tmp_path / "a.zip", qscaled())
    found, _ = QScaled(str(path), None, "train_return", "auto", 5000, 1000).read(lambda items, _n, _label: items)
    names = {outside(run, Collection(name, "dmc", "bro", None, {})).run_id for run in found for name in ("a", "b")}
    assert len(names) == 2 * len(found)
    spec = json.loads(outside(found[0], Collection("a", "dmc", "bro", None, {})).files["spec.json"])["spec"]
    assert set(spec) - {"algorithm", "benchmark", "utd", "batch_size", "budget"} == {"source"}


def test_a_run_that_cannot_be_is_refused(tmp_path: Path) -> None:
    path = zip_of(tmp_path / "a.zip", {"utd_1/a/r/bs_32_lr_3e-4.npy": npy(stepped())})
    found, _ = QScaled(str(path), None, "train_return", "auto", 5000, 1000).read(lambda items, _n, _label: items)
    for harm in ({"seed": -1}, {"utd": Fraction(0)}, {"batch_size": 0}, {"learning_rate": 0.0}, {"task": " "}):
        with pytest.raises(Mistake, match=r"^utd_1/a/r/bs_32_lr_3e-4\.npy, column 1"):
            outside(type(found[0])(**(vars(found[0]) | harm)), Collection("a", "dmc", "bro", None, {}))


def test_odd_rows_are_mended_and_said(tmp_path: Path, door: Door) -> None:
    array = stepped(12, 3)
    array[4, 1] = np.nan  # not logged
    array[8:, 2] = np.nan  # stopped early
    array[:, 3] = np.nan  # never logged
    twice = np.vstack([array[:6], array[4:]])  # resumed from an earlier step
    twice[6, 1] = 555.5
    path = zip_of(
        tmp_path / "a.zip", {"utd_1/a/r/bs_32_lr_3e-4.npy": npy(twice), "utd_2/a/r/bs_32_lr_3e-4.npy": npy(stepped())}
    )
    done = door("ingest", tmp_path, *ABOUT, f"source.path={path}")
    assert done.returncode == 0, done.stderr
    found = study(tmp_path)
    curves = {
        r.seed: found.curves[found.curves["run_id"] == r.run_id] for r in found.runs.query("utd == '1'").itertuples()
    }
    assert sorted(curves) == [0, 1]
    assert curves[0]["env_step"].tolist() == list(range(1000, 12_001, 1000))
    assert curves[0]["train_return"].iloc[4] == 555.5  # the later of the two
    assert curves[1]["env_step"].iloc[-1] == 8000
    assert "steps fall or come twice" in done.stdout and "no value was logged" in done.stdout


def test_metrics_are_chosen(tmp_path: Path, door: Door) -> None:
    files = {f"x/utd_1/a/{m}/bs_32_lr_3e-4.npy": npy(stepped(random=i)) for i, m in enumerate(("online", "val.loss"))}
    path = zip_of(tmp_path / "a.zip", files)
    done = door("ingest", tmp_path / "s", *ABOUT, f"source.path={path}")
    assert done.returncode == 2 and "source.metric is not set and a.zip holds online, val.loss" in done.stderr
    done = door("ingest", tmp_path / "s", *ABOUT, f"source.path={path}", "source.metric=onlin")
    assert "source.metric=onlin: a.zip has no such metric; did you mean online?" in done.stderr
    done = door(
        "ingest", tmp_path / "s", *ABOUT, f"source.path={path}", "source.metric=val/loss", "source.column=eval_return"
    )
    assert done.returncode == 0 and "metric online" in done.stdout
    assert study(tmp_path / "s").curves["eval_return"].notna().all()


def test_the_older_dmc_folders(tmp_path: Path, door: Door) -> None:
    files = {f"old/BRO_{b}_2_3e-4/{task}.npy": npy(returns(30, 4, b)) for b in (64, 128) for task in ("a", "b")}
    path = zip_of(tmp_path / "old.zip", files)
    assert door("ingest", tmp_path, *ABOUT, f"source.path={path}").returncode == 0
    found = study(tmp_path)
    assert set(map(tuple, found.runs[["task", "utd", "batch_size", "learning_rate"]].to_numpy())) == {
        (task, "2", b, 3e-4) for task in ("a", "b") for b in (64, 128)
    }
    assert found.curves["env_step"].min() == 5000 and found.curves["env_step"].max() == 34_000


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ({}, "holds no .npy array"),
        ({"a/readme.txt": b"hello"}, "holds no .npy array"),
        ({"a/b.npy": npy(stepped())}, "a/b.npy is not named as qscaled names its arrays"),
        ({"utd_0/a/r/bs_32_lr_3e-4.npy": npy(stepped())}, "must be above 0"),
        ({"utd_1e999999999/a/r/bs_32_lr_3e-4.npy": npy(stepped())}, "not named"),
        ({"w512p9/utd_1/a/r/bs_32_lr_3e-4.npy": npy(stepped())}, "use source=model_scaling"),
        ({f"utd_1/a/r/bs_32_lr_{lr}.npy": npy(stepped()) for lr in ("3e-4", "0.0003")}, "are one configuration"),
        ({f"utd_{i}/a/r/bs_32_lr_1.npy": npy(a) for i, a in ((1, stepped()), (2, returns()))}, "of their own"),
        ({"utd_1/a/r/bs_32_lr_3e-4.npy": npy(np.full((9, 3), np.nan))}, "cannot be told"),
        ({"utd_1/a/r/bs_32_lr_3e-4.npy": npy(stepped())[:-3]}, "cut short"),
        ({"utd_1/a/r/bs_32_lr_3e-4.npy": npy(np.array([[{}]]), allow_pickle=True)}, "not one of plain numbers"),
    ],
)  # fmt: skip
def test_a_refusal_names_the_file_and_writes_nothing(
    tmp_path: Path, door: Door, files: dict[str, bytes], said: str
) -> None:
    path = zip_of(tmp_path / "bad.zip", files)
    done = door("ingest", tmp_path / "study", *ABOUT, f"source.path={path}")
    assert done.returncode == 2 and said in done.stderr and "bad.zip" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1 and not (tmp_path / "study").exists()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("source.path=none.zip",), "there is no such file or folder"),
        ((), "source.path is not set"),
        (("source.path=x", "source.first_step=-1"), "source.step_every=1000, first_step=-1"),
        (("source.path=x", "source.step_column=frist"), "did you mean first?"),
        (("source.path=x", "+source.colour=red"), "source.colour=red: there is no such key"),
        (("source.path=x", "+colour=red"), "colour=red: there is no such key"),
        (("source.path=x", "source._target_=analysis.nowhere.X"), "this cannot be imported"),
    ],
)
def test_mistakes_on_the_command_line(tmp_path: Path, door: Door, words: tuple[str, ...], said: str) -> None:
    done = door("ingest", tmp_path / "study", *ABOUT, *words)
    assert done.returncode == 2 and said in done.stderr and not (tmp_path / "study").exists()


def test_a_name_that_no_selection_could_spell_is_refused(tmp_path: Path, door: Door) -> None:
    path = zip_of(tmp_path / "my file (1).zip", qscaled())
    done = door("ingest", tmp_path / "s", *ABOUT, f"source.path='{path}'")
    assert done.returncode == 2 and "source.name=my file (1): " in done.stderr
    assert door("ingest", tmp_path / "s", *ABOUT, f"source.path='{path}'", "source.name=mine").returncode == 0
    assert len(study(tmp_path / "s", "mine").runs) == 11


@pytest.mark.slow
@pytest.mark.parametrize("delay", [0.0, 0.02, 0.1])
def test_a_kill_leaves_whole_runs_or_none(tmp_path: Path, door: Door, delay: float) -> None:
    files = {f"x/utd_{u}/t/r/bs_{b}_lr_3e-4.npy": npy(stepped(200, 5, u * b)) for u in range(1, 9) for b in (32, 64)}
    path, root = zip_of(tmp_path / "a.zip", files), tmp_path / "study"
    code = (
        "import sys; from pathlib import Path; from analysis.outside import *; from analysis.sources.qscaled import *\n"
        "from rlscale.store import Store; track = lambda items, n, label: items\n"
        f"found, _ = QScaled({str(path)!r}, None, 'train_return', 'auto', 5000, 1000).read(track)\n"
        "runs = [outside(f, Collection('a', 'dmc', 'bro', None, {'kind': 'qscaled'})) for f in found]\n"
        f"print('ready', flush=True); write(runs, Store(Path({str(root)!r})), track)"
    )
    process = subprocess.Popen([sys.executable, "-c", code], cwd=REPO, stdout=subprocess.PIPE)
    assert process.stdout is not None and process.stdout.readline() == b"ready\n"
    time.sleep(delay)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    process.stdout.close()
    for folder in (root / "runs").glob("[!.]*"):
        assert {p.name for p in folder.iterdir()} == {"spec.json", "curve.csv", "record.json"}
    done = door("ingest", root, *ABOUT, f"source.path={path}")
    assert done.returncode == 0, done.stderr
    assert len(study(root).runs) == 80 and not (root / "runs" / ".ingest").exists()
    (root / "runs" / ".ingest").mkdir()  # killed after the last run was in its place
    assert door("ingest", root, *ABOUT, f"source.path={path}").returncode == 0
    assert not (root / "runs" / ".ingest").exists()


@settings(max_examples=40)
@given(st.text(max_size=60) | st.from_regex(r"utd_[0-9.e+-]{1,8}/[a-z-]{1,5}/r/bs_[0-9]{1,4}_lr_[0-9.e+-]{1,8}\.npy"))
def test_any_name_is_a_configuration_or_a_sentence(name: str) -> None:
    try:
        key = key_of(name, "a.zip")
    except Mistake as mistake:
        assert str(mistake).startswith("a.zip: ")
    else:
        assert key.utd > 0 and key.batch_size > 0 and key.learning_rate > 0


@pytest.mark.slow
def test_the_command_itself(tmp_path: Path) -> None:
    path = zip_of(tmp_path / "sweep.zip", qscaled(with_steps=False))
    command = [sys.executable, "-m", "analysis.ingest", *ABOUT]
    environment = os.environ | {"RLSCALE_STUDY": str(tmp_path / "study")}
    for word, code in ((f"source.path={path}", 0), (f"source.path={tmp_path / 'none.zip'}", 2), ("source.pth=x", 2)):
        done = subprocess.run([*command, word], cwd=REPO, env=environment, capture_output=True, text=True)
        assert done.returncode == code and "Traceback" not in done.stderr
        assert code == 0 or len(done.stderr.strip().splitlines()) == 1
    assert len(study(tmp_path / "study", "sweep").runs) == 11

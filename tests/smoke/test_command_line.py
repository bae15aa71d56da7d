"""The real command lines, in processes of their own, on studies of their own."""

from __future__ import annotations

import csv
import json
import os
import signal
import time
from fractions import Fraction
from pathlib import Path

import pytest

from tests.smoke.desk import SWEEP, TINY, Desk


def test_a_run_and_the_same_again(desk: Desk) -> None:
    words = (*TINY, "utd=3/2", "seed=[0,1]", "budget.eval_episodes=2")
    desk.train(*words)
    assert list(desk.here.iterdir()) == []
    records = desk.records()
    assert len(records) == 2 and not list(desk.study.rglob("claim.json"))
    for run, record in records.items():
        assert record["run_id"] == run and record["schema"] == 1
        assert record["spec"]["utd"] == record["utd_realised"] == "3/2"
        assert (record["transitions"], record["updates"], record["status"]) == (400, 450, "finished")
        assert record["asked_by"]["overrides"] == list(words)
        identity = json.loads((desk.study / "runs" / run / "spec.json").read_text())
        assert identity == {key: record[key] for key in ("spec_version", "spec", "member")}
        with (desk.study / "runs" / run / "curve.csv").open(newline="") as file:
            rows = list(csv.DictReader(file))
        assert [row["env_step"] for row in rows] == ["100", "200", "300", "400"]
        assert [row["eval_return"] != "" for row in rows] == [False, True, False, True]
        assert float(rows[-1]["eval_return"]) == record["last"]["eval_return"]
    assert {record["member"]["seed"] for record in records.values()} == {0, 1}

    before = desk.files()
    desk.train(*TINY, "utd=1.5", "seed=[1,0]", "budget.eval_episodes=2.0", "compute=cpu")  # the same, spelt differently
    after = desk.files()
    asked = {path for path in after if path.endswith("asked_by.jsonl")}  # that they were asked for again is noted
    assert len(asked) == 2 and {path: t for path, t in after.items() if path not in asked} == before


MISTAKE = (["utd=0"], "utd=0", "give one such as 1/4")  # words, the key and value as they are named, the mend
MORE_MISTAKES = [
    (["budget.env_step=5"], "budget.env_step=5", "did you mean budget.env_steps?"),
    (["hparams.batch_size=[64,128]"], "hparams.batch_size=[64,128]", "-m hparams.batch_size=64,128"),
    (["utd=[1,2]"], "utd=[1,2]", "-m utd=1,2"),
    (["benchmark=toy", "benchmark.task=trak"], "benchmark.task=trak", "did you mean track?"),
    (["budget=smok"], "budget=smok", "did you mean smoke?"),
    (["seed=[1,1]"], "seed=[1, 1]", "give each"),
    (["algorithm.width=wide"], "algorithm.width=wide", "give one such as 256"),
    (["utd=-1"], "utd=-1", "give one such as 1/4"),
    (["utd=half"], "utd=half", "give one such as 1/4"),
    (["seeds=3"], "seeds=3", "did you mean seed?"),
    (["+seeds=3"], "seeds=3", "did you mean seed?"),
    (["+budget.colour=red"], "budget.colour=red", "choose one of"),
    (["algorithm=sacc"], "algorithm=sacc", "sac"),
    (["sweep=gym-gird"], "sweep=gym-gird", "did you mean gym-grid?"),
    (["diagnostics=[validatio]"], "diagnostics=[validatio]", "did you mean validation?"),
    (["diagnostics.validation.every=5"], "diagnostics.validation.every=5", "add it, diagnostics=[validation]"),
    (["log.wandb.mode=offline"], "log.wandb.mode=offline", "wandb has no keys"),
    (["compute.platform=quantum"], "compute.platform=quantum", "choose one of auto, cpu, gpu"),
    (["benchmark.task=HalfCheeta-v4"], "benchmark.task=HalfCheeta-v4", "did you mean HalfCheetah-v4?"),
    (["benchmark=toy", "hparams=paper/gym"], "benchmark.task=track", "hparams=constant"),
    (["hparams.learning_rate=0"], "learning_rate=0", "give a positive number"),
    (["hparams.learning_rate=fast"], "hparams.learning_rate=fast", "give one such as 3e-4"),
    (["seed=-1"], "seed=-1", "give a whole number"),
    (["seed=[]"], "seed=[]", "give at least one"),
    (["benchmark=toy", "benchmark.num_envs=0"], "benchmark.num_envs=0", "1 or more"),
    (["budget=smoke", "budget.warmup_steps=400"], "budget.warmup_steps=400", "below env_steps=400"),
    (["budget=smoke", "budget.eval_every=150"], "budget.eval_every=150", "give a multiple"),
    (["utd=1,2"], "utd=1,2", "-m"),
    (["-m", *TINY, "utd=1,0"], "utd=0", "give one such as 1/4"),
    (["-m", *TINY, "utd=1,2", "seed=[0,0]"], "seed=[0, 0]", "give each"),
    (["-m", "budget.env_step=5,6"], "budget.env_step", "did you mean budget.env_steps?"),
]


@pytest.mark.parametrize(
    ("words", "named", "mend"),
    [MISTAKE, *(pytest.param(*case, marks=pytest.mark.slow) for case in MORE_MISTAKES)],
    ids=lambda x: " ".join(x)[-40:] if isinstance(x, list) else "",
)
def test_a_mistake_is_one_sentence(desk: Desk, words: list[str], named: str, mend: str) -> None:
    process = desk.start(*words)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 2, err
    assert out == ""
    assert err.endswith("\n") and err.count("\n") == 1, err
    assert named in err and mend in err
    assert not desk.study.exists() and list(desk.here.iterdir()) == []


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "study", "said"),
    [
        ([*TINY, "algorithm.width=100000000", "algorithm.depth=2"], "study", "sac track σ=1 B=16 ×1: out of memory ("),
        ([*TINY], "file/study", "file/study"),
        (["-m", *TINY, "utd=1,2"], "file/study", "file/study"),
    ],
    ids=["memory", "folder", "folder of a sweep"],
)
def test_what_the_machine_lacks_is_one_sentence(desk: Desk, words: list[str], study: str, said: str) -> None:
    (desk.here.parent / "file").touch()  # in the place of a folder: also root may not write there
    desk.environment["RLSCALE_STUDY"] = str(desk.here.parent / study)
    process = desk.start(*words)
    err = process.communicate(timeout=120)[1]
    assert process.returncode == 2 and err.count("\n") == 1 and said in err, err
    assert not list(desk.here.parent.rglob("record.json")) and not list(desk.here.parent.rglob("claim.json"))


@pytest.mark.slow
def test_a_sweep_and_the_same_again(whole: Desk) -> None:
    records = whole.records()
    assert len(records) == 8
    combinations = {(r["spec"]["utd"], r["member"]["seed"]) for r in records.values()}
    assert combinations == {(utd, seed) for utd in ("1/2", "1", "2", "4") for seed in (0, 1)}
    before = whole.files()
    assert "4 of 4 jobs are recorded already" in whole.train(*SWEEP)
    assert whole.files() == before


@pytest.mark.slow
def test_a_dry_run_counts_and_writes_nothing(desk: Desk, whole: Desk) -> None:
    said = desk.train(*SWEEP, "dry=true")
    assert not desk.study.exists() and list(desk.here.iterdir()) == []
    assert "4 jobs, 8 runs, 0 recorded, 8 to run: 21,000 updates" in said  # 1400 · (½ + 1 + 2 + 4) · 2
    before = whole.files()
    assert "4 jobs, 8 runs, 8 recorded, 0 to run: 0 updates" in whole.train(*SWEEP, "dry=true")
    single = whole.train(*TINY, "budget.env_steps=1500", "budget.log_every=50", "seed=[0,1,2]", "dry=true")
    assert "1 job, 3 runs, 2 recorded, 1 to run: 1,400 updates" in single
    assert whole.files() == before


@pytest.mark.slow
def test_killed_in_the_middle_and_run_again(desk: Desk, whole: Desk) -> None:
    """The records equal, bit for bit, those of a sweep that nothing interrupted."""
    process = desk.start(*SWEEP)
    try:
        patience = time.monotonic() + 240
        while not (desk.records() and half_done(desk)):
            assert process.poll() is None and time.monotonic() < patience, "the sweep ended before it could be killed"
            time.sleep(0.01)
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
    recorded, left = desk.files(), half_done(desk)
    assert left and 0 < len(desk.records()) < 8
    assert list(desk.study.rglob("claim.json"))

    desk.train(*SWEEP)
    assert not list(desk.study.rglob("claim.json"))
    after = desk.files()
    for path, changed in recorded.items():
        if path.endswith("record.json"):
            assert after[path] == changed, "what was recorded was trained again"
    assert desk.results() == whole.results()


def half_done(desk: Desk) -> list[Path]:
    """Curves with rows in them, of runs without a record."""
    curves = [path for path in desk.study.glob("runs/*/curve.csv") if not path.with_name("record.json").exists()]
    return [path for path in curves if path.read_text().count("\n") > 2]


@pytest.mark.slow
def test_two_sweeps_at_once_train_each_member_once(desk: Desk, whole: Desk) -> None:
    """Every claim ever seen on a member is the same one, and a record once written stays."""
    processes = [desk.start(*SWEEP) for _ in range(2)]
    claims: dict[str, set[str]] = {}
    records: dict[str, set[int]] = {}
    try:
        while any(process.poll() is None for process in processes):
            for path in desk.study.glob("runs/*/claim.json"):
                try:
                    claims.setdefault(path.parent.name, set()).add(json.loads(path.read_text())["token"])
                except FileNotFoundError:  # released meanwhile
                    pass
            for path in desk.study.glob("runs/*/record.json"):
                records.setdefault(path.parent.name, set()).add(path.stat().st_mtime_ns)
            time.sleep(0.005)
    finally:
        for process in processes:
            process.kill()
    for process in processes:
        _, err = process.communicate()
        assert process.returncode == 0, err
    assert {run: len(tokens) for run, tokens in claims.items()} == dict.fromkeys(desk.records(), 1)
    assert all(len(times) == 1 for times in records.values())
    assert desk.results() == whole.results()


@pytest.mark.slow
@pytest.mark.parametrize("benchmark", ["toy", "control"])
def test_every_record_of_a_grid_has_its_ratio_exactly(desk: Desk, benchmark: str) -> None:
    """With lengths that nothing divides: 3 copies, 334 env steps of which 101 are for warm-up."""
    ratios = ("1/4", "1/2", "1", "2", "4")
    lengths = ("budget.env_steps=334", "budget.warmup_steps=101", "budget.log_every=50", "budget.eval_every=null")
    words = (f"benchmark={benchmark}", "benchmark.num_envs=3", *TINY[1:], *lengths, f"utd={','.join(ratios)}")
    desk.train("-m", *words)
    records = list(desk.records().values())
    assert sorted(r["spec"]["utd"] for r in records) == sorted(ratios)
    for record in records:
        assert record["utd_realised"] == record["spec"]["utd"]
        trained = record["transitions"] - 102
        assert trained >= 232 and record["updates"] == trained * Fraction(record["spec"]["utd"])


@pytest.mark.slow
def test_the_loop_closes_for_pql_on_brax(desk: Desk) -> None:
    """Grid, laws of B and η, the emitted sweep unedited, laws of data: with σ far below 1 and a pack of simulators."""
    pytest.importorskip("brax")
    levels = ("reference=brax", "reference.ceiling.inverted_pendulum=20", "reference.thresholds=[200,250,300]")
    small = ("algorithm.hidden=[8,8]", "benchmark.num_envs=16", "seed=[0,1]", "hparams.learning_rate=[1e-3,2e-3]")
    budget = ("budget.env_steps=6400", "budget.warmup_steps=640", "budget.log_every=320")
    desk.train("-m", "sweep=brax-small", "hparams.batch_size=32", *small, *budget)
    fit = ("name=loop", "select.sweep=brax-small", "threshold=reachable", *levels)
    desk.train(*fit, "utd=[1/32,1/24]", "seeds=[0]", module="analysis.hparams")
    desk.train("-m", "sweep=fitted/loop")
    desk.train("name=loop", *levels, module="analysis.laws")
    ran = [(r["spec"]["utd"], r["utd_realised"], r["transitions"]) for r in desk.records().values()]
    assert len(ran) == 12 + 2 and all(asked == made and steps == 6400 for asked, made, steps in ran)
    assert {utd for utd, *_ in ran} == {"1/32", "1/24", "1/16", "1/8"}
    laws = json.loads((desk.study / "fits" / "loop" / "laws.json").read_text())
    assert [law["threshold"] for law in laws["data"]] == [200, 250, 300]

"""Processes ended at any moment, by the real command lines: what was recorded stays, the rest is as if nothing was."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.smoke.desk import JOBS, SWEEP, TINY, Desk, until

OFTEN = "checkpoint.every=0.003"  # minutes


def without_resumes(results: dict[str, Any]) -> dict[str, Any]:
    """What records and curves say, but for how often a run went on and by which command; none is seeded anew."""
    for record, _ in results.values():
        del record["asked_by"]
        assert record.pop("reseeded") == 0 and record.pop("resumes") >= 0
    return results


def end_when(desk: Desk, process: subprocess.Popen[str], number: int, rows: int) -> str:
    """Send the signal once a curve has so many rows; what the process printed to standard error."""
    patience = time.monotonic() + 240
    while not any(path.read_text().count("\n") > rows for path in desk.study.glob("runs/*/curve.csv")):
        assert process.poll() is None and time.monotonic() < patience, process.communicate()[1]
        time.sleep(0.01)
    os.killpg(process.pid, number)
    return process.communicate(timeout=120)[1]


TASKS = {
    "gym": ("benchmark=gym", "benchmark.task=HalfCheetah-v4"),
    "dmc": ("benchmark=dmc", "benchmark.task=cheetah-run"),
    "control": ("benchmark=control",),
}


@pytest.mark.slow
@pytest.mark.parametrize("task", TASKS)
def test_a_run_that_is_ended_goes_on(task: str, desk: Desk, tmp_path: Path) -> None:
    """By SIGTERM, by Ctrl-C and by SIGKILL in turn: then the record is that of a run that nothing ended."""
    length = ("budget.env_steps=1600", "budget.log_every=40", "budget.eval_every=800", "hparams.batch_size=128")
    words = (*TASKS[task], *TINY[1:], *length, "utd=2", "seed=[0,1]")
    whole = Desk(tmp_path / "whole", desk.environment)
    whole.train(*words)
    for number, code, rows in ((signal.SIGTERM, 143, 6), (signal.SIGINT, 130, 14)):
        process = desk.start(*words)
        said = end_when(desk, process, number, rows)
        assert process.returncode == code, said
        assert said.count("a checkpoint is left at step ") == 1 and "Traceback" not in said
        assert said.endswith("; the same command goes on from there\n")
        assert not desk.records() and not list(desk.study.rglob("claim.json"))
    process = desk.start(*words, OFTEN)
    end_when(desk, process, signal.SIGKILL, rows=24)
    desk.train(*words)
    assert {record["resumes"] for record in desk.records().values()} == {3}
    assert not list(desk.study.rglob("*.npz"))
    assert without_resumes(desk.results()) == without_resumes(whole.results())


@pytest.mark.slow
def test_a_simulator_without_a_state_begins_episodes_anew(desk: Desk) -> None:
    """And the record says so; replay and learner go on as they were."""
    pytest.importorskip("envpool", reason="the envpool extra is not installed")
    task = ("benchmark=gym", "benchmark.task=Hopper-v4", "benchmark.backend=envpool")
    length = ("budget.env_steps=1600", "budget.log_every=40", "budget.eval_every=800", "hparams.batch_size=128")
    words = (*task, *TINY[1:], *length, "utd=2")
    process = desk.start(*words)
    said = end_when(desk, process, signal.SIGTERM, rows=6)
    assert process.returncode == 143 and "a checkpoint is left at step " in said, said
    desk.train(*words)
    (record,) = desk.records().values()
    assert (record["resumes"], record["reseeded"]) == (1, 1) and record["spec"]["benchmark"]["backend"] == "envpool"
    (_, rows) = next(iter(desk.results().values()))
    assert [int(row["env_step"]) for row in rows] == list(range(40, 1601, 40)) and rows[-1]["eval_return"]
    assert not list(desk.study.rglob("*.npz"))


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_run_that_is_ended_before_its_first_step_gives_its_claims_back(number: int, code: int, desk: Desk) -> None:
    process = desk.start(*JOBS[1:])
    until(lambda: len(list(desk.study.glob("runs/*/claim.json"))) == 2)
    os.killpg(process.pid, number)
    said = process.communicate(timeout=120)[1]
    assert process.returncode == code and "Traceback" not in said, said
    assert not desk.records() and not list(desk.study.rglob("claim.json"))


@pytest.mark.slow
def test_a_sweep_that_is_interrupted_goes_on(desk: Desk, whole: Desk) -> None:
    """One Ctrl-C ends the pool and every job with a checkpoint, and nothing is left at work."""
    process = desk.start(*SWEEP)
    said = end_when(desk, process, signal.SIGINT, rows=4)
    assert process.returncode == 130 and "the same command goes on from there" in said
    assert not list(desk.study.rglob("claim.json")) and list(desk.study.rglob("*.npz"))
    desk.train(*SWEEP)
    assert any(record["resumes"] for record in desk.records().values())
    assert without_resumes(desk.results()) == without_resumes(whole.results())


BROKEN = """
import gymnasium, pathlib
import numpy as np

class Broken(gymnasium.Env):
    observation_space = gymnasium.spaces.Box(-1, 1, (2,))
    action_space = gymnasium.spaces.Box(-1, 1, (1,))
    made = 0
    def reset(self, seed=None, options=None):
        super().reset(seed=seed)
        return np.zeros(2, np.float32), {}
    def step(self, action):
        self.made += 1
        if self.made == 250 and not pathlib.Path("mended").exists():
            raise ArithmeticError("the physics\\nexploded")
        return self.np_random.uniform(-1, 1, 2).astype(np.float32), float(action[0]), False, False, {}

gymnasium.register("Broken-v0", Broken, max_episode_steps=20)
"""


@pytest.mark.slow
def test_a_simulator_that_fails_is_one_sentence_and_the_run_goes_on_when_it_is_mended(desk: Desk) -> None:
    (desk.here / "broken.py").write_text(BROKEN)
    desk.environment["PYTHONPATH"] += os.pathsep + str(desk.here)
    words = ("benchmark=gym", "benchmark.task=broken:Broken-v0", *TINY[1:], "budget.log_every=50", OFTEN)
    process = desk.start(*words)
    _, said = process.communicate(timeout=240)
    assert process.returncode == 2 and "Traceback" not in said
    assert said.splitlines()[-1].startswith(
        "error: benchmark.task=broken:Broken-v0: its simulator failed (ArithmeticError: the physics exploded); "
    )
    (failure,) = desk.study.glob("runs/*/failure.json")
    left = json.loads(failure.read_text())
    assert "the physics exploded" in left["words"] and any("broken.py" in line for line in left["traceback"])
    assert not list(desk.study.rglob("claim.json")) and not desk.records()
    told = desk.train(*words, module="rlscale.status")
    assert "failed: sac broken:Broken-v0" in told and "1 run: 1 failed; nobody is at work" in told
    (desk.here / "mended").touch()
    desk.train(*words)
    (record,) = desk.records().values()
    assert record["resumes"] == 1 and not failure.exists()


BASIC = (*(word for word in SWEEP if "hydra.launcher" not in word), "hydra/launcher=basic", OFTEN)
POOL = (*SWEEP, OFTEN, "hydra.launcher.retries=1000")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("commands", "kills"), [((BASIC,), 20), ((POOL,), 40), ((POOL, POOL), 40)], ids=["basic", "local", "two sweeps"]
)
def test_killed_a_hundred_times(commands: list[tuple[str, ...]], kills: int, desk: Desk, whole: Desk) -> None:
    """`kill -9` of any process of a sweep at random moments, the workers' among them. Then one more run, and all is
    recorded once, as if nothing had happened.
    """
    rng, done, studies = random.Random(kills), 0, [desk]
    processes: list[subprocess.Popen[str]] = []
    while done < kills:
        if len(studies[-1].records()) == 8:  # it has survived: the next kills fall on another
            studies.append(Desk(desk.here / str(len(studies)), desk.environment))
            processes = end(processes)
        ended = [process for process in processes if process.poll() is not None]
        end(ended)
        processes = [process for process in processes if process not in ended]
        processes += [studies[-1].start(*command) for command in commands[len(processes) :]]
        time.sleep(rng.uniform(0.2, 2.0))
        tops = [psutil.Process(process.pid) for process in processes if process.poll() is None]
        tree = [found for top in tops for found in (top, *top.children(recursive=True))]
        if tree:
            rng.choice(tree).kill()
            done += 1
    end(processes)
    for study in studies:
        check(study, whole)


def end(processes: list[subprocess.Popen[str]]) -> list[subprocess.Popen[str]]:
    """Kill them; their workers, if they still live, go on by themselves."""
    for process in processes:
        process.kill()
        process.communicate()
    return []


def check(desk: Desk, whole: Desk) -> None:
    """One more run makes the study whole, and each member was recorded by one process."""
    desk.train(*SWEEP)
    assert without_resumes(desk.results()) == without_resumes(whole.results())
    left = ("claim.json", "*.npz", "checkpoints/.*", "runs/*/.*")
    assert not [path for pattern in left for path in desk.study.rglob(pattern) if path.is_file()]
    assert desk.recorded_once()

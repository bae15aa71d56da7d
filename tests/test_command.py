"""What a job's command line is run with, and what becomes of it when the engine's process is ended."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from launchers.command import Command

SHOW = (
    "import os; print(os.getcwd(), *(os.environ.get(k) for k in ('OMP_NUM_THREADS', 'NPROC', 'CUDA_VISIBLE_DEVICES')))"
)
# A job that keeps a checkpoint when it is told to end.
JOB = """
import signal, sys, time
from pathlib import Path
def keep(*_):
    Path("kept").touch()
    sys.exit({code})
signal.signal(signal.SIGTERM, keep)
Path("started").touch()
time.sleep({seconds})
"""
# The process of the engine that calls it: submitit's handler puts the job back into the queue and exits.
ENGINE = """
import signal, sys
from pathlib import Path
from launchers.command import Command, SlurmCommand
def requeue(*_):
    Path("requeued").write_text("after it kept" if Path("kept").exists() else "before it kept")
    sys.exit(9)
signal.signal(signal.SIGUSR2, requeue)
code = {kind}((sys.executable, "job.py"), Path.cwd(), Path("log/job.log"), None, 1)()
Path("returned").write_text(str(code))
"""


def until(what: Callable[[], bool]) -> None:
    patience = time.monotonic() + 20
    while not what():
        assert time.monotonic() < patience
        time.sleep(0.02)


@pytest.fixture
def engine(tmp_path: Path, root: Path) -> Callable[..., subprocess.Popen[bytes]]:
    """Starts an engine's process with a job, and waits until the job is at work."""

    def start(kind: str = "SlurmCommand", code: int = 143, seconds: float = 20) -> subprocess.Popen[bytes]:
        (tmp_path / "job.py").write_text(JOB.format(code=code, seconds=seconds))
        process = subprocess.Popen(
            [sys.executable, "-c", ENGINE.format(kind=kind)],
            cwd=tmp_path,
            env=os.environ | {"PYTHONPATH": str(root)},
            start_new_session=True,
        )
        until((tmp_path / "started").exists)
        return process

    return start


# An engine's worker has no JAX; this process has, if other tests came before.
@pytest.mark.filterwarnings(r"ignore:os\.fork\(\) was called:RuntimeWarning")
def test_it_runs_where_it_was_launched_from(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In that folder and environment, with the engine's devices, and with threads for its cores unless it says more."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3")
    monkeypatch.setenv("OMP_NUM_THREADS", "7")  # of the engine's process: no business of the job's
    log, words = tmp_path / "log" / "job.log", (sys.executable, "-c", SHOW)
    for mine in ({}, {"OMP_NUM_THREADS": "5", "CUDA_VISIBLE_DEVICES": "0"}):
        assert Command(words, tmp_path, log, mine, cores=2)() == 0
    heads, said = log.read_text().splitlines()[::2], log.read_text().splitlines()[1::2]
    assert heads == [" ".join(words)] * 2  # a second try stands behind the first
    assert said == [f"{tmp_path} 2 2 3", f"{tmp_path} 5 2 3"]


@pytest.mark.parametrize("kind", ["Command", "SlurmCommand"])
def test_a_job_ends_with_its_engine(engine: Callable[..., subprocess.Popen[bytes]], tmp_path: Path, kind: str) -> None:
    process = engine(kind)
    process.kill()
    process.wait()
    until((tmp_path / "kept").exists)


def test_before_its_time_limit_a_job_keeps_a_checkpoint_and_goes_back_into_the_queue(
    engine: Callable[..., subprocess.Popen[bytes]], tmp_path: Path
) -> None:
    process = engine()
    os.killpg(process.pid, signal.SIGUSR2)  # as Slurm does: every process of the job
    assert process.wait(20) == 9
    assert (tmp_path / "requeued").read_text() == "after it kept"


def test_on_sigterm_a_job_keeps_a_checkpoint_and_leaves_no_result(
    engine: Callable[..., subprocess.Popen[bytes]], tmp_path: Path
) -> None:
    """What follows is Slurm's to say: a requeue, or nothing."""
    process = engine()
    process.terminate()
    assert process.wait(20) == 143
    assert (tmp_path / "kept").exists()
    assert not (tmp_path / "requeued").exists() and not (tmp_path / "returned").exists()


@pytest.mark.parametrize("code", [0, 1])
def test_a_job_that_ended_by_itself_is_not_put_back(
    engine: Callable[..., subprocess.Popen[bytes]], tmp_path: Path, code: int
) -> None:
    """It was done as the signal came, or it failed to keep a checkpoint."""
    process = engine(code=code)
    process.send_signal(signal.SIGUSR2)
    assert process.wait(20) == 0
    assert (tmp_path / "returned").read_text() == str(code) and not (tmp_path / "requeued").exists()

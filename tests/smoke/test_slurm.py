"""hydra/launcher=slurm on a real Slurm, of this machine alone."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.engines.alone import alone
from tests.smoke.desk import JOBS, TINY, Desk, until

pytestmark = pytest.mark.slow
SCRIPT = Path(__file__).resolve().parents[1] / "engines" / "slurm.sh"
ON_SLURM = ("hydra/launcher=slurm", "hydra.launcher.mem=1G", "hydra.launcher.timeout_min=5", "log.every_s=1")
# One that works for long, and one that is out of memory at once.
FAILING = ("-m", *TINY[:2], "algorithm.depth=2", "algorithm.width=8,100000000", "budget.env_steps=400000")
PATIENCE_S = 180


class SlurmDesk(Desk):
    """A desk at a login node."""

    def slurm(self, *words: str) -> str:
        return subprocess.run(words, env=self.environment, capture_output=True, text=True, check=True).stdout

    def jobs(self, *states: str) -> list[str]:
        """The numbers of the jobs of this desk's last sweep, in these states or in any."""
        among = f"--states={','.join(states) or 'all'}"
        listed = [line.split() for line in self.slurm("squeue", "-h", "-r", among, "-o", "%i %Z").splitlines()]
        return sorted((number for number, folder in listed if folder == str(self.here)), key=lambda x: x.split("_"))

    def interrupted(self, since: float, *words: str) -> float:
        """A command of Slurm on the one job, once it trains; returns when the job is out of the way."""
        [job] = until(lambda: self.at_work(since) and self.jobs("RUNNING"))
        self.slurm(*words, job)
        until(lambda: not self.jobs("RUNNING", "COMPLETING"))
        return time.time()


@pytest.fixture(scope="module")
def slurm(environment: dict[str, str]) -> Iterator[dict[str, str]]:
    """The environment of a user of the cluster."""
    if os.geteuid() != 0:
        pytest.skip("Slurm's daemons need root")
    if shutil.which("slurmctld") is None and shutil.which("apt-get") is None:
        pytest.skip("Slurm is not installed, and this is no Debian")
    with alone():
        started = subprocess.run([SCRIPT, "start"], capture_output=True, text=True)
        if started.returncode and "cannot be installed" in started.stderr:
            pytest.skip(started.stderr.strip())
        assert started.returncode == 0, started.stderr
        yield {**environment, "SLURM_CONF": started.stdout.split("=")[1].strip()}
        subprocess.run([SCRIPT, "stop"], check=True)


@pytest.fixture
def login(tmp_path: Path, slurm: dict[str, str]) -> SlurmDesk:
    return SlurmDesk(tmp_path, slurm)


def test_a_sweep_and_the_same_again(login: SlurmDesk, whole: Desk) -> None:
    said = login.train(*JOBS, "utd=1,2", *ON_SLURM)
    assert "all 2 jobs recorded" in said and "ETA" in said
    assert len(login.jobs()) == 2 and not list(login.here.iterdir())
    before = login.files()
    assert "2 of 2 jobs are recorded already" in login.train(*JOBS, "utd=1,2", *ON_SLURM)
    assert login.files() == before and len(login.jobs()) == 2
    assert login.outcome("1", "2") == whole.outcome("1", "2")


def test_interrupted_jobs_are_finished_nevertheless(login: SlurmDesk, whole: Desk) -> None:
    """By the signal before a time limit, by a requeue and by scancel, which is a failure."""
    process = login.start(*JOBS, "utd=4", *ON_SLURM, "hydra.launcher.requeue=1", "hydra.launcher.retries=1")
    try:
        since = login.interrupted(0.0, "scancel", "--signal=USR2")
        assert "BeginTime" in login.slurm("squeue", "-h", "-o", "%r")
        since = login.interrupted(since, "scontrol", "requeue")
        login.interrupted(since, "scancel")
        _, err = process.communicate(timeout=PATIENCE_S)
    finally:
        process.kill()
    assert process.returncode == 0, err
    assert "failed, trying again (1 of 1): sac track σ=4 B=16 ×2: ended by Slurm (CANCELLED)" in err
    assert len(login.jobs()) == 2  # the requeued one, and the one submitted for the cancelled
    assert not list(login.study.rglob("claim.json"))
    assert login.outcome("4") == whole.outcome("4") and login.recorded_once()


def test_failed_jobs_are_named(login: SlurmDesk) -> None:
    """One by its own words, one that reaches its time limit for the last time."""
    process = login.start(*FAILING, *ON_SLURM, "hydra.launcher.requeue=0")
    try:
        [job] = until(lambda: login.at_work() and login.jobs("RUNNING"))
        login.slurm("scancel", "--signal=USR2", job)
        _, err = process.communicate(timeout=PATIENCE_S)
    finally:
        process.kill()
    assert process.returncode == 1, err
    table = err[err.index("2 of 2 jobs failed; the same command runs them again:") :]
    assert "sac track σ=1 B=256 ×1: reached its time limit of 5 min 1 time; its last line:" in table
    assert "out of memory (" in table and "0001.log)" in table
    assert login.records() == {}


def test_a_sweep_may_be_left_alone_or_called_off(login: SlurmDesk) -> None:
    assert "1 job submitted" in login.train(*JOBS, "utd=4", *ON_SLURM, "hydra.launcher.wait=false")
    until(login.at_work)
    login.slurm("scancel", *login.jobs("RUNNING"))
    until(lambda: not login.jobs("RUNNING", "COMPLETING"))

    process = login.start(*JOBS, "utd=4", *ON_SLURM)
    until(lambda: login.jobs("PENDING", "RUNNING"))
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 130 and "interrupted:" in err
    until(lambda: not login.jobs("PENDING", "RUNNING", "COMPLETING"))
    assert login.records() == {}


def test_what_slurm_refuses_is_one_sentence(login: SlurmDesk) -> None:
    process = login.start(*JOBS, "utd=1,2", *ON_SLURM, "hydra.launcher.partition=nosuch")
    _, err = process.communicate(timeout=60)
    assert process.returncode == 2 and err.count("\n") == 1, err
    assert "invalid partition specified: nosuch" in err and "hydra.launcher" in err
    assert not json.dumps(login.files()).count(".log")

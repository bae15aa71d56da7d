"""hydra/launcher=ray on a real Ray, of this machine alone."""

from __future__ import annotations

import signal
from collections.abc import Iterator

import psutil
import pytest

from tests.engines.alone import alone
from tests.smoke.desk import JOBS, Desk, until

pytestmark = pytest.mark.slow
ON_RAY = ("hydra/launcher=ray", "hydra.launcher.address=local", "log.every_s=1")
FAILING = ("-m", "benchmark=toy", "budget=smoke", "algorithm.depth=2", "algorithm.width=8,100000000")  # out of memory
PATIENCE_S = 180


@pytest.fixture(autouse=True)
def _one_at_a_time() -> Iterator[None]:
    pytest.importorskip("ray")
    with alone():
        yield


def processes(desk: Desk, what: str) -> list[psutil.Process]:
    """The processes that work for this desk, whoever started them, with these words in their command lines."""
    found = []
    for process in psutil.process_iter():
        try:
            ours = process.environ().get("RLSCALE_STUDY") == str(desk.study)
            if ours and what in " ".join(process.cmdline()):
                found.append(process)
        except psutil.Error:  # gone meanwhile, or another user's
            continue
    return found


def test_a_sweep_outlives_a_killed_worker(desk: Desk, whole: Desk) -> None:
    process = desk.start(*JOBS, "utd=1,4", *ON_RAY)
    try:
        until(lambda: desk.at_work())
        worker = processes(desk, "ray::rlscale_job")[0]
        [trainer] = [child for child in worker.children() if "rlscale.train" in " ".join(child.cmdline())]
        worker.kill()
        until(lambda: not trainer.is_running() or trainer.status() == psutil.STATUS_ZOMBIE)  # it dies with its worker
        _, err = process.communicate(timeout=PATIENCE_S)
    finally:
        process.kill()
    assert process.returncode == 0, err
    assert "all 2 jobs recorded" in err and "ETA" in err and "Warning" not in err
    assert not list(desk.study.rglob("claim.json")) and not list(desk.here.iterdir())
    until(lambda: not processes(desk, ""))
    before = desk.files()
    assert "2 of 2 jobs are recorded already" in desk.train(*JOBS, "utd=1,4", *ON_RAY)
    assert desk.files() == before

    assert len(desk.records()) == 4 and desk.outcome("1", "4") == whole.outcome("1", "4") and desk.recorded_once()


def test_failed_jobs_are_named(desk: Desk) -> None:
    process = desk.start(*FAILING, *ON_RAY)
    try:
        _, err = process.communicate(timeout=PATIENCE_S)
    finally:
        process.kill()
    assert process.returncode == 1, err
    table = err[err.index("1 of 2 jobs failed; the same command runs them again:") :]
    assert "out of memory (" in table and "0001.log)" in table
    assert len(desk.records()) == 1


def test_called_off_nothing_is_left(desk: Desk) -> None:
    process = desk.start(*JOBS, "utd=1,4", *ON_RAY)
    try:
        until(lambda: desk.at_work())
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=PATIENCE_S)
    finally:
        process.kill()
    assert process.returncode == 130 and err.splitlines()[-1].startswith("interrupted:"), err
    until(lambda: not processes(desk, ""))
    assert len(desk.records()) < 4

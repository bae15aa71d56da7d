"""hydra/launcher=ray on a real Ray, of this machine alone."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.engines.alone import alone
from tests.smoke.desk import TINY, Desk

pytestmark = pytest.mark.slow
SWEEP = ("-m", *TINY, "utd=1,2", "seed=[0,1]", "budget.env_steps=2500", "budget.log_every=50")
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


def until(what: Callable[[], Any]) -> Any:
    patience = time.monotonic() + PATIENCE_S
    while not (found := what()):
        assert time.monotonic() < patience
        time.sleep(0.2)
    return found


def at_work(desk: Desk) -> bool:
    return any(path.read_text().count("\n") > 2 for path in desk.study.glob("runs/*/curve.csv"))


def test_a_sweep_outlives_a_killed_worker(desk: Desk, tmp_path: Path, environment: dict[str, str]) -> None:
    process = desk.start(*SWEEP, *ON_RAY)
    try:
        until(lambda: at_work(desk))
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
    assert "2 of 2 jobs are recorded already" in desk.train(*SWEEP, *ON_RAY)
    assert desk.files() == before

    local = Desk(tmp_path / "local", environment)
    local.train(*SWEEP, "log.every_s=1")
    found, expected = desk.results(), local.results()
    for record, _ in (*found.values(), *expected.values()):
        del record["resumes"]
    assert len(expected) == 4 and found == expected


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
    process = desk.start(*SWEEP, *ON_RAY)
    try:
        until(lambda: at_work(desk))
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=PATIENCE_S)
    finally:
        process.kill()
    assert process.returncode == 130 and err.splitlines()[-1].startswith("interrupted:"), err
    until(lambda: not processes(desk, ""))
    assert len(desk.records()) < 4 and not list(desk.study.rglob("claim.json"))

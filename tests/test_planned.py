"""What launchers share, on an engine that takes all jobs at once and lets them queue; see also test_local_pool.py."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from launchers import planned
from launchers.planned import Ended, Order, Planned, last_words
from tests.test_local_pool import Fake


class Line:
    """An engine with one worker and a queue; a job's command line is what becomes of it."""

    workers, poll_s = 1, 0.0

    def __init__(self) -> None:
        self.queue, self.called_off = dict[int, Order](), False

    def __enter__(self) -> Line:
        return self

    def __exit__(self, *_: object) -> None:
        self.called_off = True

    def room(self) -> int:
        return 1000

    def start(self, orders: Mapping[int, Order]) -> None:
        self.queue.update(orders)

    def begun(self) -> Collection[int]:
        return list(self.queue)[:1]

    def ended(self) -> Iterable[Ended]:
        for number in self.begun():
            yield Ended(number, self.queue.pop(number).words[0] or None)

    def withdraw(self) -> Collection[int]:
        left, self.queue = list(self.queue), {}
        return left


class InLine(Planned):
    def _engine(self, jobs: Sequence[Any], folder: Path) -> Line:
        self.engine = Line()
        return self.engine

    def _command(self, overrides: Sequence[str]) -> list[str]:
        return list(overrides)


def run(study: Path, causes: Sequence[str], wait: bool = True, **options: Any) -> tuple[int, InLine]:
    launcher = InLine(**{"on_error": "continue", "retries": 0, "give_up_after": 0} | options)
    launcher.wait = wait
    try:
        launcher._run([Fake(study / f"{i}.done", f"job {i}") for i in range(len(causes))], [[c] for c in causes])
    except SystemExit as end:
        return int(end.code or 0), launcher
    return 0, launcher


def test_what_queues_is_taken_back_when_no_other_is_to_start(study: Path, capfd: pytest.CaptureFixture[str]) -> None:
    code, launcher = run(study, ["", "no such thing", "", ""], on_error="stop")
    said = capfd.readouterr().err
    assert code == 1 and launcher.engine.queue == {} and launcher.engine.called_off
    assert "1 of 4 jobs failed, 2 were not started; the same command runs them again:\n  job 1: no such thing" in said


def test_a_sweep_that_goes_on_by_itself_is_left(study: Path, capfd: pytest.CaptureFixture[str]) -> None:
    code, launcher = run(study, ["", "no such thing"], wait=False)
    assert code == 0 and list(launcher.engine.queue) == [0, 1]
    assert capfd.readouterr().err.startswith(f"sweep: 2 jobs submitted; their logs: {study}")


def test_what_is_recorded_needs_no_engine(study: Path, capfd: pytest.CaptureFixture[str]) -> None:
    study.mkdir()
    (study / "0.done").touch()
    code, launcher = run(study, [""])
    assert code == 0 and not hasattr(launcher, "engine")
    assert "1 of 1 jobs are recorded already" in capfd.readouterr().err


def test_planning_leaves_the_environment_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    """What it sets is for this machine, and the jobs may run on another."""
    monkeypatch.setenv("JAX_PLATFORMS", "cuda")
    monkeypatch.delenv("MUJOCO_GL", raising=False)
    with planned._same_environment_after():
        os.environ |= {"JAX_PLATFORMS": "cpu", "MUJOCO_GL": "egl"}
    assert os.environ["JAX_PLATFORMS"] == "cuda" and "MUJOCO_GL" not in os.environ


def test_the_last_words_are_the_jobs_own(tmp_path: Path) -> None:
    """The command line stands in a log once for each try."""
    log = tmp_path / "job.log"
    assert last_words(log) == "it said nothing"
    log.write_text("python -m job\nstarting\n\npython -m job\n")
    assert last_words(log) == "starting"


def test_an_eta_needs_more_than_rounding() -> None:
    """Two jobs and two workers, and a total that is a hair above its parts."""
    parts = (0.1, 0.2)
    total = sum(parts) * (1 + 1e-15)
    assert total > sum(parts)
    assert planned.eta(10.0, total, parts, 2) is None
    assert planned.eta(10.0, total, (0.075, 0.15), 2) == pytest.approx(10 * 0.3 / 0.075)
    assert planned.eta(10.0, total, (0.0, 0.03), 2) == pytest.approx(10 * 0.06 / 0.27)
    assert planned.eta(10.0, total, (), 2) == 0

"""hydra/launcher=local: which jobs of a sweep run, and what is said of those that fail."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import launchers
from launchers.planned import Order
from rlscale.job import Log
from rlscale.store import Store
from rlscale.typed import Mistake

launchers.discover()
from hydra_plugins import rlscale_local  # noqa: E402  found once the folder is on the path

FINE, LATE, BROKEN, DEAD, RAISING, CRASHING = "fine", "late", "broken", "dead", "raising", "crashing"
PROGRAM = """
import os, sys, time
from pathlib import Path
done, how, number = Path(sys.argv[1]), sys.argv[2], sys.argv[3]
first = not done.with_suffix(".tried").exists()
done.with_suffix(".tried").touch()
if how == "broken" or (how == "late" and first):
    print("starting")
    sys.exit(f"no {number} such thing")
if how in ("dead", "crashing"):
    os.kill(os.getpid(), 9 if how == "dead" else 11)
if how == "raising":
    raise ZeroDivisionError(f"of {number}")
done.touch()
"""


@dataclass(frozen=True)
class Platform:
    platform: str = "cpu"


@dataclass(frozen=True)
class Fake:
    """What the pool asks of a job; its record is a file."""

    done: Path
    label: str
    log = Log(True, 10.0, video=False, wandb=None)
    compute = Platform()

    def nominal_seconds(self) -> float:
        return 1.0

    def missing(self, _: Store) -> list[int]:
        return [] if self.done.exists() else [0]

    def free(self, _: Store) -> bool:
        return True

    def note_asker(self, _: Store) -> None:
        pass

    def share_done(self, _: Store) -> float:
        return 0.0


class Pool(rlscale_local.LocalPool):  # type: ignore[misc]  # found at run time
    def _command(self, overrides: Sequence[str]) -> list[str]:
        return [sys.executable, *overrides]


@pytest.fixture
def sweep(study: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Any:
    """Runs jobs of the given kinds one after the other; returns exit code, what was said, and which were tried."""
    monkeypatch.setattr(rlscale_local, "POLL_S", 0.01)

    def run(*kinds: str, **options: Any) -> tuple[int, str, list[int]]:
        study.mkdir(exist_ok=True)
        jobs = [Fake(study / f"{i}.done", f"job {i}") for i in range(len(kinds))]
        (study / "program.py").write_text(PROGRAM)
        words = [
            [str(study / "program.py"), str(job.done), kind, str(i)]
            for i, (job, kind) in enumerate(zip(jobs, kinds, strict=True))
        ]
        pool = Pool(**{"workers": 1, "on_error": "continue", "retries": 0, "give_up_after": 0} | options)
        try:
            pool._check()
            pool._run(jobs, words)
            code = 0
        except SystemExit as end:
            code = int(end.code or 0)
        tried = sorted(int(path.stem) for path in study.glob("*.tried"))
        return code, capfd.readouterr().err, tried

    return run


def test_all_that_failed_are_named_with_their_causes(sweep: Any) -> None:
    code, said, tried = sweep(FINE, BROKEN, FINE, DEAD)
    assert code == 1 and tried == [0, 1, 2, 3]
    assert said.index("failed: job 1: no 1 such thing") < said.index("failed: job 3: ended by SIGKILL")  # at once …
    table = said[said.index("2 of 4 jobs failed; the same command runs them again:") :]  # … and at the end
    assert re.search(r"job 1: no 1 such thing  \(.*0001\.log\)", table)
    assert re.search(
        r"job 3: ended by SIGKILL, .*out of memory; its last line: it said nothing  \(.*0003\.log\)", table
    )


def test_what_succeeded_is_not_run_again(sweep: Any, study: Path) -> None:
    assert sweep(FINE, BROKEN, FINE)[0] == 1
    for path in study.glob("*.tried"):
        path.unlink()
    code, said, tried = sweep(FINE, FINE, FINE)
    assert (code, tried) == (0, [1]) and "2 of 3 jobs are recorded already" in said


@pytest.mark.slow
def test_twenty_of_five_hundred(sweep: Any, study: Path) -> None:
    """Failures of four kinds, all named with their causes at once and at the end; the second time only they are run."""
    kinds, causes = [FINE] * 500, dict[int, str]()
    for i in range(20):
        number = 25 * i + 3
        kinds[number], causes[number] = [
            (BROKEN, f"no {number} such thing"),
            (DEAD, "ended by SIGKILL, as a kernel does that is out of memory; its last line: it said nothing"),
            (RAISING, f"ZeroDivisionError: of {number}"),
            (CRASHING, "ended by SIGSEGV; its last line: it said nothing"),
        ][i % 4]
    code, said, tried = sweep(*kinds, workers=2)
    assert code == 1 and tried == list(range(500))
    at_once, table = said.split("20 of 500 jobs failed; the same command runs them again:\n")
    for number, cause in causes.items():
        assert f"failed: job {number}: {cause}\n" in at_once
        assert re.search(rf"^  job {number}: {re.escape(cause)}  \(.*{number:04d}\.log\)$", table, re.MULTILINE)
    assert table.count("\n") == 20
    for path in study.glob("*.tried"):
        path.unlink()
    assert sweep(*kinds, workers=2)[2] == sorted(causes)
    for path in study.glob("*.tried"):
        path.unlink()
    code, _, tried = sweep(*[FINE] * 500, workers=2)
    assert code == 0 and tried == sorted(causes)


def test_the_first_failure_may_stop_the_others(sweep: Any) -> None:
    code, said, tried = sweep(FINE, BROKEN, FINE, FINE, on_error="stop")
    assert code == 1 and tried == [0, 1]
    assert "1 of 4 jobs failed, 2 were not started; the same command runs them again:" in said


def test_a_failed_job_may_be_tried_again(sweep: Any) -> None:
    code, said, _ = sweep(LATE, FINE, retries=2)
    assert code == 0 and "failed, trying again (1 of 2): job 0: no 0 such thing" in said
    code, said, _ = sweep(FINE, FINE, BROKEN, retries=2)
    assert code == 1 and said.count("trying again") == 2 and "1 of 3 jobs failed;" in said


@pytest.mark.parametrize(
    ("kinds", "tried"),
    [
        ((BROKEN, BROKEN, BROKEN, FINE, FINE), [0, 1, 2]),  # alike but for a number
        ((BROKEN, DEAD, BROKEN, FINE, FINE), [0, 1, 2, 3, 4]),
        ((FINE, BROKEN, BROKEN, BROKEN, FINE), [0, 1, 2, 3, 4]),
    ],
)
def test_a_sweep_that_cannot_work_is_given_up(sweep: Any, kinds: tuple[str, ...], tried: list[int]) -> None:
    code, said, ran = sweep(*kinds, give_up_after=3)
    assert code == 1 and ran == tried
    assert ("all failed the same way" in said) == (len(tried) == 3)


@pytest.mark.parametrize(
    ("option", "said"),
    [
        ({"on_error": "continu"}, "hydra.launcher.on_error=continu: there is no such way; did you mean continue?"),
        ({"workers": 0}, "hydra.launcher.workers=0: give a whole number, 1 or more"),
        ({"retries": -1}, "hydra.launcher.retries=-1: give a whole number, 0 or more"),
        ({"give_up_after": 1.5}, "hydra.launcher.give_up_after=1.5: give a whole number, 0 or more"),
    ],
)
def test_mistakes_are_sentences(sweep: Any, option: dict[str, Any], said: str) -> None:
    with pytest.raises(Mistake, match=re.escape(said)):
        sweep(FINE, **option)


# Where jobs run


def test_cores_and_gpus_are_dealt_out_evenly() -> None:
    def dealt(*asked: Any) -> list[tuple[list[int], dict[str, str]]]:
        return [(sorted(place.cores), dict(place.variables)) for place in rlscale_local.places(*asked)]

    assert dealt(None, [4, 5], []) == [([4], {}), ([5], {})]
    assert dealt(1, [4, 5], []) == [([4, 5], {})]
    assert dealt(3, [4, 5], []) == [([4], {}), ([5], {}), ([4], {})]
    one, two = {"CUDA_VISIBLE_DEVICES": "2"}, {"CUDA_VISIBLE_DEVICES": "GPU-ab"}
    assert dealt(None, [0, 1, 2, 3], ["2", "GPU-ab"]) == [([0, 2], one), ([1, 3], two)]
    half = {"XLA_PYTHON_CLIENT_MEM_FRACTION": "0.450"}
    assert dealt(3, [0, 1, 2], ["2", "GPU-ab"]) == [([0], one | half), ([1], two), ([2], one | half)]
    assert [place.yields for place in rlscale_local.places(5, [4, 5], [])] == [False, False, True, True, True]


def test_a_job_yields_to_the_one_that_has_its_core(tmp_path: Path) -> None:
    """Whichever place was left first, the next job takes one where it need not."""
    core, mine = min(os.sched_getaffinity(0)), os.getpriority(os.PRIO_PROCESS, 0)
    with rlscale_local.Processes(rlscale_local.places(2, [core], []), 0.01) as engine:

        def started(number: int) -> int:
            engine.start({number: Order((sys.executable, "-c", "import time; time.sleep(60)"), tmp_path / "log")})
            return os.getpriority(os.PRIO_PROCESS, engine.running[number].process.pid)

        assert [started(0), started(1)] == [mine, 19]
        for number in (1, 0):
            engine.running[number].process.kill()
            engine.running[number].process.wait()
            assert [job.number for job in engine.ended()] == [number]
        assert [started(2), started(3)] == [mine, 19]


def test_the_environment_names_the_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    for value, found in (("", []), ("-1", []), ("3", ["3"]), ("0,GPU-ab", ["0", "GPU-ab"])):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", value)
        assert rlscale_local.devices() == found

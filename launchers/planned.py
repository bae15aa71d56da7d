"""What our launchers share: every job of a multirun is composed and checked before the first one starts, those whose
runs are all recorded start nothing, one that another sweep is working on is left for later, and failures are told.

A launcher says where jobs run: it makes an `Engine`. One job is one command line, `python -m rlscale.train …`.
"""

from __future__ import annotations

import os
import re
import signal
import sys
import time
from collections import Counter, deque
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, Protocol

from hydra.core.hydra_config import HydraConfig
from hydra.core.utils import JobReturn, JobStatus, setup_globals
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext
from omegaconf import DictConfig, open_dict

from launchers.sweep_loader import SweepLoader
from rlscale.progress import Meter, counted, duration
from rlscale.store import Store
from rlscale.typed import Mistake, nearest

HELD_POLL_S = 2.0  # while all that is left is held by other sweeps
LOOK_S = 1.0  # between two looks at how far the runs are
ON_ERROR = ("continue", "stop")


class Order(NamedTuple):
    """A job for an engine: its command line and the file for all that it prints."""

    words: tuple[str, ...]
    log: Path


class Ended(NamedTuple):
    """A job that has ended: its number and why it failed, or None if it did not."""

    number: int
    cause: str | None


class Engine(Protocol):
    """Where jobs run. As a context manager it ends, on leaving, all that still runs."""

    workers: int  # jobs at once when it is not shared
    poll_s: float  # between two looks at it

    def __enter__(self) -> Engine: ...

    def __exit__(self, *_: object) -> None: ...

    def room(self) -> int:
        """How many more jobs it takes now."""

    def start(self, orders: Mapping[int, Order]) -> None:
        """Take these jobs, by number; they may wait there. Raises Mistake if it refuses them."""

    def begun(self) -> Collection[int]:
        """The jobs that do not wait any more, of those that have not ended."""

    def ended(self) -> Iterable[Ended]:
        """The jobs that ended since the last call."""

    def withdraw(self) -> Collection[int]:
        """Take the jobs back that have not begun; returns them."""


class Planned(Launcher):
    """Hydra's launcher interface over an engine."""

    # options that are whole numbers, with the least that each may be; those that may be null
    whole: ClassVar[Mapping[str, int]] = {"retries": 0, "give_up_after": 0}
    nullable: ClassVar[Collection[str]] = ()
    wait = True  # whether to stay until the last job has ended

    def __init__(self, on_error: str, retries: int, give_up_after: int):
        self.on_error, self.retries, self.give_up_after = on_error, retries, give_up_after

    def _engine(self, jobs: Sequence[Any], folder: Path) -> Engine:
        """Where these jobs are to run; `folder` (not made yet) is for files of this sweep."""
        raise NotImplementedError

    def _lacks(self) -> str | None:
        """What this machine lacks to run jobs this way, as a sentence; None if nothing."""
        return None

    def setup(self, *, hydra_context: HydraContext, task_function: Callable[..., Any], config: DictConfig) -> None:
        """Hydra hands over what it knows; its sweeper composes with this loader too, to check the jobs."""
        hydra_context.config_loader = SweepLoader(hydra_context.config_loader)  # type: ignore[assignment]
        self.context, self.task, self.config = hydra_context, task_function, config

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Run all jobs; exits with 1 after the last one if some failed."""
        self._check()
        setup_globals()
        jobs = []
        with _same_environment_after():
            os.environ["JAX_PLATFORMS"] = "cpu"  # this process only plans; an accelerator is for the jobs
            configs = [self._compose(list(overrides), initial_job_idx + i) for i, overrides in enumerate(job_overrides)]
            for config in configs:
                # As `set_config`, but without its copies, which take longer than all else here.
                HydraConfig.instance().cfg = config  # type: ignore[assignment]
                jobs.append(self.task.typed_job(config))  # type: ignore[attr-defined]
        if any(job.dry for job in jobs):
            print(self.task.dry_report(jobs))  # type: ignore[attr-defined]
        else:
            if (lack := self._lacks()) is not None:
                raise Mistake(lack)
            self._run(jobs, job_overrides)
        return [
            JobReturn(
                overrides=o, cfg=c, status=JobStatus.COMPLETED, _return_value=None if j.dry else j.result(Store())
            )
            for o, c, j in zip(job_overrides, configs, jobs, strict=True)
        ]

    def _check(self) -> None:
        """Raises Mistake if an option cannot be."""
        if self.on_error not in ON_ERROR:
            raise Mistake(
                f"hydra.launcher.on_error={self.on_error}: there is no such way; {nearest(self.on_error, ON_ERROR)}"
            )
        for name, least in self.whole.items():
            value = getattr(self, name)
            if value is None and name in self.nullable:
                continue
            if type(value) is not int or value < least:
                raise Mistake(
                    f"hydra.launcher.{name}={'null' if value is None else value}: give a whole number, {least} or more"
                )

    def _compose(self, overrides: list[str], number: int) -> DictConfig:
        config = self.context.config_loader.load_sweep_config(self.config, overrides)
        with open_dict(config):
            config.hydra.job.id, config.hydra.job.num = str(number), number
        return config

    def _run(self, jobs: Sequence[Any], overrides: Sequence[Sequence[str]]) -> None:
        store, log = Store(), jobs[0].log
        costs = [job.nominal_seconds() * len(job.missing(store)) for job in jobs]
        for job in jobs:
            job.note_asker(store)
        waiting, running = deque(i for i, cost in enumerate(costs) if cost > 0), set[int]()
        if log.progress and len(waiting) < len(jobs):
            note = ", not run again for a video" if log.video else ""
            print(f"sweep: {len(jobs) - len(waiting)} of {len(jobs)} jobs are recorded already{note}", file=sys.stderr)
        if not waiting:
            return
        folder = store.root.resolve() / "log" / f"{datetime.now():%Y%m%d-%H%M%S}-{os.getpid()}"
        orders = [
            Order(tuple(self._command(words)), folder / f"{number:04d}.log") for number, words in enumerate(overrides)
        ]
        failures, total = Failures(self.on_error, self.retries, self.give_up_after), sum(costs)
        started = looked = time.monotonic()
        with self._engine(jobs, folder) as engine, Meter("sweep", log.progress, log.every_s) as meter:
            while running or (waiting and not failures.stop):
                ready = [] if failures.stop else _ready(waiting, engine.room(), jobs, store)
                if ready:
                    engine.start({number: orders[number] for number in ready})
                    running.update(ready)
                if not self.wait:
                    break
                time.sleep(engine.poll_s if running else HELD_POLL_S)
                for number, cause in engine.ended():
                    running.remove(number)
                    if cause is None:
                        failures.good = True
                    elif failures.again(number, jobs[number].label, cause, orders[number].log):
                        waiting.append(number)
                if failures.stop:
                    withdrawn = engine.withdraw()
                    running.difference_update(withdrawn)
                    waiting.extend(withdrawn)
                if time.monotonic() - looked >= LOOK_S:
                    looked, begun = time.monotonic(), engine.begun()
                    left = [costs[i] for i in (*waiting, *(running - set(begun)))]
                    left += [costs[i] * (1 - jobs[i].share_done(store)) for i in begun]
                    finished, queued = len(jobs) - len(waiting) - len(running), len(running) - len(begun)
                    note = f"{finished} of {len(jobs)} jobs, {len(begun)} running"
                    note += f", {queued} queued" if queued else ""
                    done = max(0.0, 1 - sum(left) / total)  # a sum of the parts may be a hair above the total
                    meter.update(done, note, eta(looked - started, total, left, engine.workers))
        if not self.wait:
            held = f", {counted(len(waiting), 'job')} left to another sweep that is at work on them" if waiting else ""
            print(f"sweep: {counted(len(running), 'job')} submitted{held}; their logs: {folder}", file=sys.stderr)
            return
        if failures.causes:
            left_out = f", {len(waiting)} were not started" if waiting else ""
            head = f"{len(failures.causes)} of {len(jobs)} jobs failed{left_out}; the same command runs them again:"
            print("\n  ".join([head, *failures.causes]), file=sys.stderr)
            sys.exit(1)
        if log.progress:
            print(f"sweep: all {len(jobs)} jobs recorded after {duration(time.monotonic() - started)}", file=sys.stderr)

    def _command(self, overrides: Sequence[str]) -> list[str]:
        ours = ("hydra.mode", "hydra/launcher", "hydra.launcher", "hydra/sweeper", "hydra.sweeper")
        of_hydra = [o for o in self.config.hydra.overrides.hydra if not o.lstrip("+~").startswith(ours)]
        return [sys.executable, "-m", "rlscale.train", *overrides, *of_hydra, "hydra/launcher=basic"]


class Failures:
    """The failed jobs of a sweep, told as they come; `stop` says that no other job is to start."""

    def __init__(self, on_error: str, retries: int, give_up_after: int):
        self.on_error, self.retries, self.give_up_after = on_error, retries, give_up_after
        self.tries = Counter[int]()
        self.causes = list[str]()  # a line for each job that failed for good
        self.kinds = set[str]()  # their causes without numbers
        self.good = False  # whether any job has succeeded
        self.stop = False

    def again(self, number: int, label: str, cause: str, log: Path) -> bool:
        """Note that the job failed; returns whether to try it once more."""
        self.tries[number] += 1
        again = self.tries[number] <= self.retries
        note = f", trying again ({self.tries[number]} of {self.retries})" if again else ""
        print(f"failed{note}: {label}: {cause}", file=sys.stderr)
        if again:
            return True
        self.causes.append(f"{label}: {cause}  ({log})")
        self.kinds.add(re.sub(r"[\d.]+", "#", cause))
        if self.on_error == "stop":
            self.stop = True
        elif not self.good and len(self.kinds) == 1 and len(self.causes) == self.give_up_after:
            self.stop = True
            print(
                f"the first {len(self.causes)} jobs all failed the same way, so no other is started "
                "(hydra.launcher.give_up_after=0 starts them all)",
                file=sys.stderr,
            )
        return False


def eta(elapsed: float, total: float, left: Sequence[float], workers: int) -> float | None:
    """Seconds until the last job ends at the rate so far: all that is left, or the longest job if that is longer."""
    done = total - sum(left)
    if done <= 1e-9 * total:  # nothing but rounding
        return None
    return max(sum(left), *(cost * workers for cost in left), 0.0) * elapsed / done


def why(code: int, log: Path) -> str | None:
    """Why a job with this exit code failed: the signal that ended it, if one did, and what it said last.

    None for an exit code of 0.
    """
    if not code:
        return None
    if code > 0:
        return last_words(log)
    hint = ", as a kernel does that is out of memory" if code == -signal.SIGKILL else ""
    return f"ended by {signal.Signals(-code).name}{hint}; its last line: {last_words(log)}"


def last_words(log: Path) -> str:
    """The last line that a job printed: the sentence or the exception."""
    command, *printed = log.read_text(errors="replace").splitlines() if log.exists() else [""]
    return next((line for line in reversed(printed) if line.strip() and line != command), "it said nothing")


def _ready(waiting: deque[int], room: int, jobs: Sequence[Any], store: Store) -> list[int]:
    """Takes up to `room` jobs that can start now from those that wait; one recorded meanwhile is dropped."""
    ready = list[int]()
    for number in list(waiting) if room else ():
        if jobs[number].missing(store) and not jobs[number].free(store):
            continue  # another sweep is at it: look again later
        waiting.remove(number)
        if jobs[number].missing(store):
            ready.append(number)
        if len(ready) == room:
            break
    return ready


@contextmanager
def _same_environment_after() -> Iterator[None]:
    """What planning sets for JAX and MuJoCo holds on this machine: it is no business of the jobs'."""
    before = dict(os.environ)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)

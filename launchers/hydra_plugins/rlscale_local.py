"""`hydra/launcher=local`: the jobs of a multirun as pinned processes on this machine, a few at a time.

Every job is composed and checked before the first one starts, jobs whose runs are all recorded start no process, and
a job that another sweep is working on is left for later. One that fails says so at once and again at the end; what
comes then is `on_error`, `retries` and `give_up_after` of conf/hydra/launcher/local.yaml.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

from hydra.core.hydra_config import HydraConfig
from hydra.core.utils import JobReturn, JobStatus, setup_globals
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext
from omegaconf import DictConfig, OmegaConf, open_dict

from launchers.sweep_loader import SweepLoader
from rlscale.progress import Meter, duration
from rlscale.store import Store
from rlscale.typed import Mistake, nearest

POLL_S = 0.2  # between two looks at the processes
HELD_POLL_S = 2.0  # while all that is left is held by other sweeps
LOOK_S = 1.0  # between two looks at how far the runs are
ON_ERROR = ("continue", "stop")


class Running(NamedTuple):
    """A job under way: its number, process, cores and log."""

    number: int
    process: subprocess.Popen[bytes]
    cores: frozenset[int]
    log: Path


class LocalPool(Launcher):
    """Hydra's launcher interface over a pool of processes."""

    def __init__(self, workers: int | None, on_error: str, retries: int, give_up_after: int):
        self.workers, self.on_error, self.retries, self.give_up_after = workers, on_error, retries, give_up_after

    def setup(self, *, hydra_context: HydraContext, task_function: Callable[..., Any], config: DictConfig) -> None:
        """Hydra hands over what it knows; its sweeper composes with this loader too, to check the jobs."""
        hydra_context.config_loader = SweepLoader(hydra_context.config_loader)  # type: ignore[assignment]
        self.context, self.task, self.config = hydra_context, task_function, config

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Run all jobs; exits with 1 after the last one if some failed."""
        self._check()
        setup_globals()
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that `_run` ends its processes
        # This process only plans; an accelerator is for the jobs.
        asked_platform = os.environ.get("JAX_PLATFORMS")
        os.environ["JAX_PLATFORMS"] = "cpu"
        configs = [self._compose(list(overrides), initial_job_idx + i) for i, overrides in enumerate(job_overrides)]
        jobs = []
        for config in configs:
            HydraConfig.instance().set_config(config)
            task_config = OmegaConf.masked_copy(config, [str(key) for key in config if key != "hydra"])
            jobs.append(self.task.typed_job(task_config))  # type: ignore[attr-defined]
        if asked_platform is None:
            del os.environ["JAX_PLATFORMS"]
        else:
            os.environ["JAX_PLATFORMS"] = asked_platform
        if any(job.dry for job in jobs):
            print(self.task.dry_report(jobs))  # type: ignore[attr-defined]
        else:
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
        for name, least in (("workers", 1), ("retries", 0), ("give_up_after", 0)):
            value = getattr(self, name)
            if value is not None and (type(value) is not int or value < least):
                raise Mistake(f"hydra.launcher.{name}={value}: give a whole number, {least} or more")

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
        free = deque(slots(self.workers, jobs[0].compute.platform))
        workers, total = len(free), sum(costs)
        waiting = deque(i for i, cost in enumerate(costs) if cost > 0)
        if log.progress and len(waiting) < len(jobs):
            note = ", not run again for a video" if log.video else ""
            print(f"sweep: {len(jobs) - len(waiting)} of {len(jobs)} jobs are recorded already{note}", file=sys.stderr)
        folder = store.root / "log" / f"{datetime.now():%Y%m%d-%H%M%S}-{os.getpid()}"
        running, failures = list[Running](), Failures(self.on_error, self.retries, self.give_up_after)
        started = looked = time.monotonic()
        try:
            with Meter("sweep", log.progress, log.every_s) as meter:
                while running or (waiting and not failures.stop):
                    for number in list(waiting) if free and not failures.stop else ():
                        if jobs[number].missing(store) and not jobs[number].free(store):
                            continue  # another sweep is at it: look again later
                        waiting.remove(number)
                        if jobs[number].missing(store):
                            running.append(self._start(number, overrides[number], free.popleft(), folder))
                        if not free:
                            break
                    time.sleep(POLL_S if running else HELD_POLL_S)
                    for job in [r for r in running if r.process.poll() is not None]:
                        running.remove(job)
                        free.append(job.cores)
                        if not job.process.returncode:
                            failures.good = True
                        elif failures.again(job, jobs[job.number].label):
                            waiting.append(job.number)
                    if time.monotonic() - looked >= LOOK_S:
                        looked = time.monotonic()
                        left = [costs[i] for i in waiting]
                        left += [costs[r.number] * (1 - jobs[r.number].share_done(store)) for r in running]
                        finished = len(jobs) - len(waiting) - len(running)
                        note = f"{finished} of {len(jobs)} jobs, {len(running)} running"
                        meter.update(1 - sum(left) / total, note, eta(looked - started, total, left, workers))
        finally:
            for job in running:
                job.process.terminate()
        if failures.causes:
            left_out = f", {len(waiting)} were not started" if waiting else ""
            head = f"{len(failures.causes)} of {len(jobs)} jobs failed{left_out}; the same command runs them again:"
            print("\n  ".join([head, *failures.causes]), file=sys.stderr)
            sys.exit(1)
        if log.progress and total:
            print(f"sweep: all {len(jobs)} jobs recorded after {duration(time.monotonic() - started)}", file=sys.stderr)

    def _command(self, overrides: Sequence[str]) -> list[str]:
        ours = ("hydra.mode", "hydra/launcher", "hydra.launcher", "hydra/sweeper", "hydra.sweeper")
        of_hydra = [o for o in self.config.hydra.overrides.hydra if not o.lstrip("+~").startswith(ours)]
        return [sys.executable, "-m", "rlscale.train", *overrides, *of_hydra, "hydra/launcher=basic"]

    def _start(self, number: int, overrides: Sequence[str], cores: frozenset[int], folder: Path) -> Running:
        folder.mkdir(parents=True, exist_ok=True)
        log = folder / f"{number:04d}.log"
        command = self._command(overrides)
        # The child inherits this thread's cores, so they are set before JAX counts them for its thread pool.
        mine = os.sched_getaffinity(0)
        try:
            os.sched_setaffinity(0, cores)
            with log.open("ab") as file:  # behind what a failed try left
                file.write((" ".join(command) + "\n").encode())
                file.flush()
                process = subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL)
        finally:
            os.sched_setaffinity(0, mine)
        return Running(number, process, cores, log)


class Failures:
    """The failed jobs of a sweep, told as they come; `stop` says that no other job is to start."""

    def __init__(self, on_error: str, retries: int, give_up_after: int):
        self.on_error, self.retries, self.give_up_after = on_error, retries, give_up_after
        self.tries = Counter[int]()
        self.causes = list[str]()  # a line for each job that failed for good
        self.kinds = set[str]()  # their causes without numbers
        self.good = False  # whether any job has succeeded
        self.stop = False

    def again(self, job: Running, label: str) -> bool:
        """Note that the job failed; returns whether to try it once more."""
        cause = why(job.process.returncode, job.log)
        self.tries[job.number] += 1
        again = self.tries[job.number] <= self.retries
        note = f", trying again ({self.tries[job.number]} of {self.retries})" if again else ""
        print(f"failed{note}: {label}: {cause}", file=sys.stderr)
        if again:
            return True
        self.causes.append(f"{label}: {cause}  ({job.log})")
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


def slots(workers: int | None, platform: str) -> list[frozenset[int]]:
    """The cores of each worker: the machine's, dealt out evenly."""
    cores = sorted(os.sched_getaffinity(0))
    if workers is None:
        on_gpu = platform == "gpu" or (platform == "auto" and Path("/proc/driver/nvidia/version").exists())
        workers = 1 if on_gpu else len(cores)
    if workers >= len(cores):
        return [frozenset({cores[i % len(cores)]}) for i in range(workers)]
    return [frozenset(cores[i::workers]) for i in range(workers)]


def eta(elapsed: float, total: float, left: Sequence[float], workers: int) -> float | None:
    """Seconds until the last job ends at the rate so far: all that is left, or the longest job if that is longer."""
    done = total - sum(left)
    if done <= 0:
        return None
    return max(sum(left), *(cost * workers for cost in left), 0.0) * elapsed / done


def why(code: int, log: Path) -> str:
    """The signal that ended a job, if one did, and the last line that it printed: the sentence or the exception."""
    printed = log.read_text(errors="replace").splitlines()[1:]  # behind the command
    said = next((line for line in reversed(printed) if line.strip()), "it said nothing")
    if code >= 0:
        return said
    hint = ", as a kernel does that is out of memory" if code == -signal.SIGKILL else ""
    return f"ended by {signal.Signals(-code).name}{hint}; its last line: {said}"

"""`hydra/launcher=local`: the jobs of a multirun as pinned processes on this machine, a few at a time.

Every job is composed and checked before the first one starts, jobs whose runs are all recorded start no process, and
a job that another sweep is working on is left for later. One that fails says so at once; the others go on.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections import deque
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

POLL_S = 0.2  # between two looks at the processes
HELD_POLL_S = 2.0  # while all that is left is held by other sweeps
LOOK_S = 1.0  # between two looks at how far the runs are


class Running(NamedTuple):
    """A job under way: its number, process, cores and log."""

    number: int
    process: subprocess.Popen[bytes]
    cores: frozenset[int]
    log: Path


class LocalPool(Launcher):
    """Hydra's launcher interface over a pool of processes."""

    def __init__(self, workers: int | None):
        self.workers = workers

    def setup(self, *, hydra_context: HydraContext, task_function: Callable[..., Any], config: DictConfig) -> None:
        """Hydra hands over what it knows; its sweeper composes with this loader too, to check the jobs."""
        hydra_context.config_loader = SweepLoader(hydra_context.config_loader)  # type: ignore[assignment]
        self.context, self.task, self.config = hydra_context, task_function, config

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Run all jobs; exits with 1 after the last one if some failed."""
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
        running, failed = list[Running](), list[Running]()
        started = looked = time.monotonic()
        try:
            with Meter("sweep", log.progress, log.every_s) as meter:
                while waiting or running:
                    for number in list(waiting) if free else ():
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
                        if job.process.returncode:
                            failed.append(job)
                            print(f"failed: {jobs[job.number].label}: {last_words(job.log)}", file=sys.stderr)
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
        if failed:
            print(f"{len(failed)} of {len(jobs)} jobs failed; the same command runs them again:", file=sys.stderr)
            for job in failed:
                print(f"  {jobs[job.number].label}: {last_words(job.log)}  ({job.log})", file=sys.stderr)
            sys.exit(1)
        if log.progress and total:
            print(f"sweep: all {len(jobs)} jobs recorded after {duration(time.monotonic() - started)}", file=sys.stderr)

    def _start(self, number: int, overrides: Sequence[str], cores: frozenset[int], folder: Path) -> Running:
        folder.mkdir(parents=True, exist_ok=True)
        log = folder / f"{number:04d}.log"
        ours = ("hydra.mode", "hydra/launcher", "hydra.launcher", "hydra/sweeper", "hydra.sweeper")
        of_hydra = [o for o in self.config.hydra.overrides.hydra if not o.lstrip("+~").startswith(ours)]
        command = [sys.executable, "-m", "rlscale.train", *overrides, *of_hydra, "hydra/launcher=basic"]
        # The child inherits this thread's cores, so they are set before JAX counts them for its thread pool.
        mine = os.sched_getaffinity(0)
        try:
            os.sched_setaffinity(0, cores)
            with log.open("wb") as file:
                file.write((" ".join(command) + "\n").encode())
                file.flush()
                process = subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL)
        finally:
            os.sched_setaffinity(0, mine)
        return Running(number, process, cores, log)


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


def last_words(log: Path) -> str:
    """The last line that a job printed: the sentence or the exception."""
    lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
    return lines[-1] if lines else "it said nothing"

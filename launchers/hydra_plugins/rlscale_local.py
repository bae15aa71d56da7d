"""`hydra/launcher=local`: the jobs of a multirun as pinned processes on this machine, a few at a time.

What is done about jobs that fail is `on_error`, `retries` and `give_up_after` of conf/hydra/launcher/local.yaml.
"""

from __future__ import annotations

import os
import subprocess
from collections import deque
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

from launchers.command import Command
from launchers.planned import Ended, Order, Planned, why

POLL_S = 0.2  # between two looks at the processes


class LocalPool(Planned):
    """Jobs as processes of this machine."""

    whole: ClassVar = {"workers": 1, **Planned.whole}
    nullable: ClassVar = ("workers",)

    def __init__(self, workers: int | None, on_error: str, retries: int, give_up_after: int):
        super().__init__(on_error, retries, give_up_after)
        self.workers = workers

    def _engine(self, jobs: Sequence[Any], folder: Path) -> Processes:
        return Processes(slots(self.workers, jobs[0].compute.platform), POLL_S)


class Running(NamedTuple):
    """A job under way: its process, cores and log."""

    process: subprocess.Popen[bytes]
    cores: frozenset[int]
    log: Path


class Processes:
    """The engine: one job for each set of cores."""

    def __init__(self, cores: Sequence[frozenset[int]], poll_s: float):
        self.free, self.workers, self.poll_s = deque(cores), len(cores), poll_s
        self.running = dict[int, Running]()

    def __enter__(self) -> Processes:
        return self

    def __exit__(self, *_: object) -> None:
        for job in self.running.values():
            job.process.terminate()

    def room(self) -> int:
        return len(self.free)

    def start(self, orders: Mapping[int, Order]) -> None:
        for number, order in orders.items():
            cores = self.free.popleft()
            command = Command(order.words, Path.cwd(), order.log, None, len(cores))
            # The child inherits this thread's cores, so they are set before JAX counts them for its thread pool.
            mine = os.sched_getaffinity(0)
            try:
                os.sched_setaffinity(0, cores)
                self.running[number] = Running(command.start(), cores, order.log)
            finally:
                os.sched_setaffinity(0, mine)

    def begun(self) -> Collection[int]:
        return self.running

    def ended(self) -> Iterable[Ended]:
        for number, job in list(self.running.items()):
            code = job.process.poll()
            if code is not None:
                del self.running[number]
                self.free.append(job.cores)
                yield Ended(number, why(code, job.log))

    def withdraw(self) -> Collection[int]:
        return ()  # what it took it has begun


def slots(workers: int | None, platform: str) -> list[frozenset[int]]:
    """The cores of each worker: the machine's, dealt out evenly."""
    cores = sorted(os.sched_getaffinity(0))
    if workers is None:
        on_gpu = platform == "gpu" or (platform == "auto" and Path("/proc/driver/nvidia/version").exists())
        workers = 1 if on_gpu else len(cores)
    if workers >= len(cores):
        return [frozenset({cores[i % len(cores)]}) for i in range(workers)]
    return [frozenset(cores[i::workers]) for i in range(workers)]

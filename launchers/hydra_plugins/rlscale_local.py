"""`hydra/launcher=local`: the jobs of a multirun as pinned processes on this machine, a few at a time.

What is done about jobs that fail is `on_error`, `retries` and `give_up_after` of conf/hydra/launcher/local.yaml.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

from launchers.command import Command
from launchers.planned import Ended, Order, Planned, why

POLL_S = 0.2  # between two looks at the processes
OF_A_GPU = 0.9  # of its memory, for all jobs on it together
YIELDING = 19  # niceness of a job that takes only what another one leaves of their core


class LocalPool(Planned):
    """Jobs as processes of this machine."""

    whole: ClassVar = {"workers": 1, **Planned.whole}
    nullable: ClassVar = ("workers",)

    def __init__(self, workers: int | None, on_error: str, retries: int, give_up_after: int):
        super().__init__(on_error, retries, give_up_after)
        self.workers = workers

    def _engine(self, jobs: Sequence[Any], folder: Path) -> Processes:
        found = [] if jobs[0].compute.platform == "cpu" else devices()
        return Processes(places(self.workers, sorted(os.sched_getaffinity(0)), found), POLL_S)


class Place(NamedTuple):
    """Where one job at a time runs: its cores, and what its environment says of devices."""

    cores: frozenset[int]
    variables: Mapping[str, str]
    yields: bool  # to the job that has these cores first: quicker for both than taking turns (tests/bench/jobs.py)


class Running(NamedTuple):
    """A job under way."""

    process: subprocess.Popen[bytes]
    place: Place
    log: Path


class Processes:
    """The engine: one job in each place."""

    def __init__(self, all_places: Sequence[Place], poll_s: float):
        self.free, self.workers, self.poll_s = list(all_places), len(all_places), poll_s
        self.running = dict[int, Running]()

    def __enter__(self) -> Processes:
        return self

    def __exit__(self, *_: object) -> None:
        """End the jobs and wait for their checkpoints; a Ctrl-C meanwhile kills them."""
        for job in self.running.values():
            job.process.terminate()
        try:
            for job in self.running.values():
                job.process.wait()
        except KeyboardInterrupt:
            for job in self.running.values():
                job.process.kill()
            raise

    def room(self) -> int:
        return len(self.free)

    def start(self, orders: Mapping[int, Order]) -> None:
        for number, order in orders.items():
            place = min(self.free, key=lambda place: place.yields)
            self.free.remove(place)
            command = Command(order.words, Path.cwd(), order.log, None, len(place.cores))
            # The child inherits this thread's cores, so they are set before JAX counts them for its thread pool.
            mine = os.sched_getaffinity(0)
            try:
                os.sched_setaffinity(0, place.cores)
                process = command.start({**os.environ, **place.variables})
                self.running[number] = Running(process, place, order.log)
                if place.yields:
                    os.setpriority(os.PRIO_PROCESS, process.pid, YIELDING)
            finally:
                os.sched_setaffinity(0, mine)

    def begun(self) -> Collection[int]:
        return self.running

    def ended(self) -> Iterable[Ended]:
        for number, job in list(self.running.items()):
            code = job.process.poll()
            if code is not None:
                del self.running[number]
                self.free.append(job.place)
                yield Ended(number, why(code, job.log))

    def withdraw(self) -> Collection[int]:
        return ()  # what it took it has begun


def devices() -> list[str]:
    """The GPUs that this process may use, by the names that CUDA_VISIBLE_DEVICES has for them."""
    if (named := os.environ.get("CUDA_VISIBLE_DEVICES")) is not None:
        return [name for name in named.split(",") if name and name != "-1"]
    return [str(i) for i, _ in enumerate(Path("/proc/driver/nvidia/gpus").glob("*"))]


def places(workers: int | None, cores: Sequence[int], gpus: Sequence[str]) -> list[Place]:
    """The places of so many workers (None: one for each GPU, or else for each core), with what there is dealt out
    evenly. Where several share a GPU, each has its part of the memory, of which JAX would else take most at once,
    unless the environment says how much; where several share a core, all but the first of them yield.
    """
    workers = workers or len(gpus) or len(cores)
    found = []
    for i in range(workers):
        own = frozenset(cores[i::workers] or [cores[i % len(cores)]])
        sharing = len(range(i % len(gpus), workers, len(gpus))) if gpus else 1
        variables = {"CUDA_VISIBLE_DEVICES": gpus[i % len(gpus)]} if gpus else {}
        if sharing > 1 and "XLA_PYTHON_CLIENT_MEM_FRACTION" not in os.environ:
            variables["XLA_PYTHON_CLIENT_MEM_FRACTION"] = f"{OF_A_GPU / sharing:.3f}"
        found.append(Place(own, variables, i >= len(cores)))
    return found

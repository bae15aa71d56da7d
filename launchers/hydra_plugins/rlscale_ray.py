"""`hydra/launcher=ray`: the jobs of a multirun as tasks of a Ray cluster, or of a Ray that lives as long as the sweep.

It stands on Ray's public API: Hydra's own plugin holds cloudpickle and joblib back at old versions, and cannot join a
running cluster without changes to its options.
"""

from __future__ import annotations

import importlib.util
import os
import re
import signal
import socket
import warnings
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from launchers import command
from launchers.command import Command
from launchers.planned import Ended, Order, Planned, why
from rlscale.progress import counted
from rlscale.typed import Mistake, convert

POLL_S = 0.5  # between two looks at the tasks
CONNECT_S = 10.0  # for a cluster to answer
END_S = 30.0  # for jobs that are cancelled to keep a checkpoint
STORE_BYTES = 100 * 2**20  # of a Ray of our own: what passes through it is command lines


class Ray(Planned):
    """Jobs as tasks of Ray."""

    whole: ClassVar = {"cpus": 1, "requeue": 0, **Planned.whole}

    def __init__(
        self,
        address: str,
        cpus: int,
        gpus: float,
        resources: Mapping[str, float],
        requeue: int,
        on_error: str,
        retries: int,
        give_up_after: int,
    ):
        super().__init__(on_error, retries, give_up_after)
        self.address, self.cpus, self.gpus, self.resources, self.requeue = address, cpus, gpus, resources, requeue

    def _check(self) -> None:
        super()._check()
        if convert(self.gpus, float, "hydra.launcher.gpus") < 0:
            raise Mistake(f"hydra.launcher.gpus={self.gpus}: give 0 or more")
        if not isinstance(self.resources, Mapping):
            raise Mistake(f"hydra.launcher.resources={self.resources}: give names and amounts, {{big_memory: 1}}")
        if not re.fullmatch(r"local|auto|[\w.-]+:\d+", str(self.address)):
            raise Mistake(f"hydra.launcher.address={self.address}: give host:port of the cluster's head, auto or local")
        cores = len(os.sched_getaffinity(0))
        if self.address == "local" and self.cpus > cores:
            raise Mistake(
                f"hydra.launcher.cpus={self.cpus}: this machine has {cores} for all jobs; give at most {cores}"
            )

    def _lacks(self) -> str | None:
        if importlib.util.find_spec("ray") is None:
            return "hydra/launcher=ray: Ray is not installed; run pip install -e '.[ray]'"
        return None

    def _engine(self, jobs: Sequence[Any], folder: Path) -> Tasks:
        host, _, port = self.address.partition(":")
        if port:  # Ray itself would try for minutes
            try:
                socket.create_connection((host, int(port)), CONNECT_S).close()
            except OSError as error:
                raise Mistake(
                    f"hydra.launcher.address={self.address}: no Ray answers there ({error}); give the address of a "
                    "running cluster, or local"
                ) from None
        needs = {"num_cpus": self.cpus, "num_gpus": self.gpus, "resources": dict(self.resources)}
        return Tasks(self.address, needs, self.requeue)


class Tasks:
    """The engine: tasks that Ray places and, if their worker dies, starts again."""

    poll_s = POLL_S

    def __init__(self, address: str, needs: Mapping[str, Any], requeue: int):
        os.environ.setdefault("RAY_AUTH_MODE", "token")  # as `ray start` does; a driver does not by itself
        import ray

        ours = signal.getsignal(signal.SIGTERM)
        options: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}
        if address == "local":  # a running cluster refuses these
            options |= {"num_cpus": len(os.sched_getaffinity(0)), "object_store_memory": STORE_BYTES}
            options |= {"include_dashboard": False}
        try:
            with warnings.catch_warnings():  # Ray forks to start its daemons, which JAX, loaded for planning, warns of
                warnings.filterwarnings("ignore", message=r"os\.fork\(\) was called", category=RuntimeWarning)
                ray.init(address, **options)
        except (ConnectionError, ValueError, RuntimeError, ray.exceptions.RayError) as error:
            what = " ".join(str(error).split())
            mend = "give the address of a running cluster, or local"
            raise Mistake(f"hydra.launcher.address={address}: no Ray can be used there ({what}); {mend}") from None
        signal.signal(signal.SIGTERM, ours)  # Ray has put its own in the place of it
        ray.cloudpickle.register_pickle_by_value(command)  # so that no worker has to find our code
        self.ray, self.cpus, self.requeue = ray, needs["num_cpus"], requeue

        def rlscale_job(job: Command) -> int:  # the name that Ray's own tools show
            return job()

        self.run: Any = ray.remote(rlscale_job).options(max_retries=requeue, **needs)
        self.workers = max(1, int(ray.cluster_resources().get("CPU", 1) // self.cpus))
        self.environment = dict(os.environ)
        self.tasks = dict[Any, tuple[int, Path]]()  # of the jobs that have not ended: number and log

    def __enter__(self) -> Tasks:
        return self

    def __exit__(self, *_: object) -> None:
        for task in self.tasks:
            self.ray.cancel(task)
        if self.tasks:
            self.ray.wait(list(self.tasks), num_returns=len(self.tasks), timeout=END_S)
        self.ray.shutdown()

    def room(self) -> int:
        return 2**31

    def start(self, orders: Mapping[int, Order]) -> None:
        for number, order in orders.items():
            job = Command(order.words, Path.cwd(), order.log, self.environment, self.cpus)
            self.tasks[self.run.remote(job)] = (number, order.log)

    def begun(self) -> Collection[int]:
        return [number for number, log in self.tasks.values() if log.exists()]

    def ended(self) -> Iterable[Ended]:
        over, _ = self.ray.wait(list(self.tasks), num_returns=len(self.tasks), timeout=0) if self.tasks else ([], [])
        for task in over:
            number, log = self.tasks.pop(task)
            try:
                cause = why(self.ray.get(task), log)
            except (self.ray.exceptions.WorkerCrashedError, self.ray.exceptions.NodeDiedError):
                cause = f"its worker died {counted(self.requeue + 1, 'time')}"
            except self.ray.exceptions.RayError as error:  # nothing of the job itself: it could not be started
                cause = next(line for line in reversed(str(error).splitlines()) if line.strip())
            yield Ended(number, cause)

    def withdraw(self) -> Collection[int]:
        begun = set(self.begun())
        back = {task: number for task, (number, _) in self.tasks.items() if number not in begun}
        for task in back:
            self.ray.cancel(task)
            del self.tasks[task]
        return list(back.values())

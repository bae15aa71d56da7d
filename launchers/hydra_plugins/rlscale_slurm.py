"""`hydra/launcher=slurm`: the jobs of a multirun as tasks of a Slurm job array, which goes on without the login node.

submitit writes and submits the array and puts a job back into the queue that reaches its time limit; what has become
of the jobs is read from what they leave in the study's folder and from squeue, since sacct needs a database that a
small cluster has not.
"""

from __future__ import annotations

import importlib.util
import io
import os
import re
import shutil
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import redirect_stderr
from pathlib import Path
from typing import Any, ClassVar

from launchers.command import SlurmCommand
from launchers.planned import Ended, Order, Planned, last_words, why
from rlscale.progress import counted
from rlscale.typed import Mistake

POLL_S = 2.0  # between two looks at the queue
GONE_S = 10.0  # a job that ended without a word is given so long: a shared file system is late, and so is a requeue
ACTIVE = {"PENDING", "RUNNING", "COMPLETING", "CONFIGURING", "SUSPENDED", "STOPPED", "SIGNALING", "STAGE_OUT"}
ACTIVE |= {"REQUEUED", "REQUEUE_HOLD", "REQUEUE_FED", "RESIZING", "RESV_DEL_HOLD"}
WAITING = {"PENDING", "CONFIGURING", "REQUEUED", "REQUEUE_HOLD", "REQUEUE_FED", "RESV_DEL_HOLD"}
NOT_ITS_FAULT = {"PREEMPTED", "TIMEOUT", "NODE_FAIL", "BOOT_FAIL"}
ARRAY = 1001  # Slurm's own MaxArraySize, where it does not say


class Slurm(Planned):
    """Jobs as tasks of a Slurm array."""

    whole: ClassVar = {
        **{"array_parallelism": 1, "timeout_min": 1, "signal_s": 0, "cpus_per_task": 1, "requeue": 0},
        **Planned.whole,
    }

    def __init__(
        self,
        array_parallelism: int,
        partition: str | None,
        timeout_min: int,
        signal_s: int,
        cpus_per_task: int,
        mem: str | None,
        gres: str | None,
        directives: Mapping[str, Any],
        setup: Sequence[str],
        requeue: int,
        wait: bool,
        on_error: str,
        retries: int,
        give_up_after: int,
    ):
        super().__init__(on_error, retries, give_up_after)
        self.array_parallelism, self.timeout_min, self.signal_s = array_parallelism, timeout_min, signal_s
        self.cpus_per_task, self.requeue, self.wait = cpus_per_task, requeue, wait
        self.partition, self.mem, self.gres = partition, mem, gres
        self.directives, self.setup_lines = directives, setup

    def _check(self) -> None:
        super()._check()
        if type(self.wait) is not bool:
            raise Mistake(f"hydra.launcher.wait={self.wait}: give true or false")
        if self.signal_s >= 60 * self.timeout_min:
            raise Mistake(
                f"hydra.launcher.signal_s={self.signal_s}: this is not before the time limit, "
                f"timeout_min={self.timeout_min}; give fewer than {60 * self.timeout_min} seconds"
            )
        if not isinstance(self.directives, Mapping):
            raise Mistake(f"hydra.launcher.directives={self.directives}: give names and values, {{account: ours}}")
        if isinstance(self.setup_lines, str) or not isinstance(self.setup_lines, Sequence):
            raise Mistake(f'hydra.launcher.setup={self.setup_lines}: write it as a list, ["{self.setup_lines}"]')

    def _lacks(self) -> str | None:
        if importlib.util.find_spec("submitit") is None:
            return "hydra/launcher=slurm: submitit is not installed; run pip install -e '.[slurm]'"
        for tool in ("sbatch", "srun", "squeue"):
            if shutil.which(tool) is None:
                return (
                    f"hydra/launcher=slurm: this machine has no {tool}; run the command on a login node of the "
                    "cluster, or choose hydra/launcher=local"
                )
        return None

    def _engine(self, jobs: Sequence[Any], folder: Path) -> Queue:
        given = {"partition": self.partition, "mem": self.mem, "gres": self.gres, "setup": list(self.setup_lines)}
        options: dict[str, Any] = {name: value for name, value in given.items() if value}
        options |= {"time": self.timeout_min, "signal_delay_s": self.signal_s, "cpus_per_task": self.cpus_per_task}
        # sbatch must hand the environment on whatever the site's default is, and a log must survive a requeue.
        fixed = {"export": "ALL", "open-mode": "append", "requeue" if self.requeue else "no-requeue": True}
        options |= {"additional_parameters": {**fixed, **self.directives}}
        return Queue(folder, options, self.array_parallelism, self.requeue, self.wait)


class Queue:
    """The engine: Slurm's queue."""

    poll_s = POLL_S

    def __init__(self, folder: Path, options: Mapping[str, Any], parallelism: int, requeue: int, wait: bool):
        self.folder, self.options, self.parallelism = folder, options, parallelism
        self.requeue, self.wait = requeue, wait
        self.workers = 1  # the most jobs that were seen running at once: the cluster may give fewer than are asked for
        self.orders = dict[int, Order]()  # of the jobs that have not ended
        self.jobs = dict[int, Any]()  # submitit's, the same ones
        self.states = dict[str, str]()  # by Slurm's number, as last seen
        self.silent = dict[int, float]()  # since when a job is over for Slurm, without a result
        self.lost = Counter[int]()  # how often Slurm ended a job that could not help it

    def __enter__(self) -> Queue:
        return self

    def __exit__(self, *_: object) -> None:
        if self.jobs and self.wait:
            self._ask("scancel", *self._arrays())

    def room(self) -> int:
        return sys.maxsize

    def start(self, orders: Mapping[int, Order]) -> None:
        numbers, most = list(orders), self._longest_array()
        parts = [numbers[i : i + most] for i in range(0, len(numbers), most)]
        for part in parts:
            commands = [
                SlurmCommand(orders[n].words, Path.cwd(), orders[n].log, None, self.options["cpus_per_task"])
                for n in part
            ]
            submitted = self._submit(commands, max(1, self.parallelism // len(parts)))
            for number, job in zip(part, submitted, strict=True):
                self.orders[number], self.jobs[number] = orders[number], job
                self.states[job.job_id] = "PENDING"

    def begun(self) -> Collection[int]:
        return [number for number, job in self.jobs.items() if self.states[job.job_id] not in WAITING]

    def ended(self) -> Iterable[Ended]:
        self._look()
        for number, job in list(self.jobs.items()):
            if job.paths.result_pickle.exists():
                cause = self._cause(job, self.orders[number].log)
            elif self.states[job.job_id] in ACTIVE:
                self.silent.pop(number, None)
                continue
            elif time.monotonic() - self.silent.setdefault(number, time.monotonic()) < GONE_S:
                continue
            elif self.states[job.job_id] in NOT_ITS_FAULT and self.lost[number] < self.requeue:
                self.lost[number] += 1
                self.silent.pop(number)
                self.start({number: self.orders[number]})
                continue
            else:
                said = self.orders[number].log if self.orders[number].log.exists() else job.paths.stderr
                cause = f"ended by Slurm ({self.states[job.job_id]}); its last line: {last_words(said)}"
            self._forget(number)
            yield Ended(number, cause)

    def withdraw(self) -> Collection[int]:
        if not any(self.states[job.job_id] in WAITING for job in self.jobs.values()):
            return ()
        self._ask("scancel", "--state=PENDING", *self._arrays())
        self._look()
        gone = [
            number
            for number, job in self.jobs.items()
            if self.states[job.job_id] == "CANCELLED" and not job.paths.result_pickle.exists()
        ]
        for number in gone:
            self._forget(number)
        return gone

    def _submit(self, commands: Sequence[SlurmCommand], parallelism: int) -> list[Any]:
        import submitit

        executor = submitit.SlurmExecutor(self.folder / "slurm", max_num_timeout=self.requeue)
        executor.update_parameters(job_name="rlscale", array_parallelism=parallelism, **self.options)
        jobs = list[Any]()
        try:
            with redirect_stderr(io.StringIO()), executor.batch():  # submitit prints what it raises, too
                jobs = [executor.submit(command) for command in commands]
        except submitit.core.utils.FailedJobError as error:
            if not self.jobs:
                shutil.rmtree(self.folder, ignore_errors=True)
            what = "; ".join(re.sub(r"^sbatch: (error: )?", "", line) for line in str(error).splitlines())
            raise Mistake(f"hydra/launcher=slurm: sbatch refuses ({what}); change hydra.launcher's options") from None
        return jobs

    def _cause(self, job: Any, log: Path) -> str | None:
        error = job.exception()
        if error is None:
            return why(job.result(), log)
        if "timed-out too many times" in str(error):
            limit, times = self.options["time"], counted(self.requeue + 1, "time")
            return f"reached its time limit of {limit} min {times}; its last line: {last_words(log)}"
        # nothing of the job itself: it could not be started
        return next(
            (x for x in reversed(str(error).splitlines()) if re.match(r"[\w.]+(Error|Exception)\b", x)), str(error)
        )

    def _forget(self, number: int) -> None:
        del self.orders[number], self.jobs[number]
        self.silent.pop(number, None)

    def _arrays(self) -> list[str]:
        return sorted({job.job_id.split("_")[0] for job in self.jobs.values()})

    def _look(self) -> None:
        """The states of our jobs; as they were if Slurm does not answer."""
        said = self._ask("squeue", "--me", "--noheader", "--array", "--states=all", "--format=%i %T")
        if said is None:
            return
        now = dict(line.split() for line in said.splitlines())
        for job in self.jobs.values():
            self.states[job.job_id] = now.get(job.job_id, "forgotten")
        self.workers = max(self.workers, len(self.begun()))

    def _longest_array(self) -> int:
        said = self._ask("scontrol", "show", "config") or ""
        found = re.search(r"MaxArraySize\s*=\s*(\d+)", said)
        return max(1, int(found[1]) - 1 if found else ARRAY - 1)

    def _ask(self, *words: str) -> str | None:
        """What a command of Slurm prints; None if it fails, as it does while the controller is busy."""
        try:
            done = subprocess.run(words, capture_output=True, text=True, timeout=60, env=os.environ | {"LC_ALL": "C"})
        except subprocess.TimeoutExpired:
            return None
        return done.stdout if done.returncode == 0 else None

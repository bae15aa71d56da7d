"""The command line of one job, run where an engine puts it: in the folder and environment that it was launched from."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

WAIT_S = 0.5  # between two looks at the child, so that what interrupts this process is noticed
STOPPED = (-signal.SIGTERM, 128 + signal.SIGTERM)  # exit codes of a job that was asked to end, and did
# What each numerical library reads when it starts; NPROC is XLA's.
THREADS = ("NPROC", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
PR_SET_PDEATHSIG = 1


@dataclass(frozen=True)
class Command:
    """Calling it runs it and returns its exit code; all it prints is appended to `log`.

    It has `cores` threads for numerical work unless the environment says otherwise; an `environment` of None is that
    of the process which runs it.
    """

    words: tuple[str, ...]
    folder: Path
    log: Path
    environment: Mapping[str, str] | None
    cores: int

    def __call__(self) -> int:
        """Whatever ends or interrupts this process ends the job too, with SIGTERM: it keeps a checkpoint."""
        child = self.start(self._variables(), before=_bound_to_parent())
        try:
            return _code(child)
        finally:
            child.terminate()
            child.wait()

    def start(
        self, environment: Mapping[str, str] | None = None, before: Callable[[], None] | None = None
    ) -> subprocess.Popen[bytes]:
        """The process, started; `before` is called in it before the program is."""
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with self.log.open("ab") as file:  # behind what an earlier try left
            file.write((" ".join(self.words) + "\n").encode())
            file.flush()
            return subprocess.Popen(
                self.words,
                cwd=self.folder,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                preexec_fn=before,
            )

    def _variables(self) -> dict[str, str]:
        here = dict(os.environ)
        if self.environment is not None:  # but which devices are the job's own is the engine's word
            here = {**self.environment, **{k: v for k, v in here.items() if k.endswith("_VISIBLE_DEVICES")}}
        return {**dict.fromkeys(THREADS, str(self.cores)), **here}


class SlurmCommand(Command):
    """A command that submitit calls; it goes back into the queue when Slurm ends it before its time limit."""

    def __call__(self) -> int:
        """Run it on the signals that Slurm sends.

        SIGUSR2 comes some seconds before the time limit, and SIGTERM with scancel, a preemption or a requeue. Both ask
        the job to keep a checkpoint and end.
        """
        told = list[int]()
        requeue = signal.getsignal(signal.SIGUSR2)  # submitit's: puts this job back into the queue, and exits
        child = self.start(self._variables(), before=_bound_to_parent())

        def tell(number: int, _: Any) -> None:
            told.append(number)
            child.terminate()

        for number in (signal.SIGTERM, signal.SIGUSR2):
            signal.signal(number, tell)
        code = _code(child)
        if told and code in STOPPED:
            if signal.SIGUSR2 in told and callable(requeue):
                requeue(signal.SIGUSR2, None)
            raise SystemExit(128 + signal.SIGTERM)  # without a result: Slurm says what becomes of the job
        return code

    def checkpoint(self) -> Any:
        """What submitit puts into the queue: the same again, which resumes."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(replace(self))


def _code(child: subprocess.Popen[bytes]) -> int:
    while True:
        try:
            return child.wait(WAIT_S)
        except subprocess.TimeoutExpired:
            continue


def _bound_to_parent() -> Callable[[], None]:
    """What a child does before it becomes the job: end when its parent dies, and leave the engine's signals to it."""
    libc = ctypes.CDLL(None)

    def bind() -> None:
        libc.prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
        signal.signal(signal.SIGUSR2, signal.SIG_IGN)  # Slurm sends it to every process of a job

    return bind

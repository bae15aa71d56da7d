"""Four jobs of a sweep at once on this machine's cores, beside as many at a time as there are cores.

Each job is SAC on Pendulum-v1 in a process of its own under `hydra/launcher=local`, as a user starts it; what is timed
is the whole sweep, the start of its processes included.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from statistics import median
from typing import NamedTuple

import psutil

JOBS = 4
LOOK_S = 0.2
JOB = "rlscale.train"  # in the command line of a job; the launcher has other children too


class Swept(NamedTuple):
    """A sweep that has ended."""

    seconds: float
    threads: int  # of the process that had most
    cores: int  # that the job with most might use


def sweep(workers: int, env_steps: int, jobs: int = JOBS) -> Swept:
    """Run so many jobs, `workers` at a time, in a new study."""
    with tempfile.TemporaryDirectory() as study:
        words = ["benchmark.task=Pendulum-v1", f"budget.env_steps={env_steps}", "budget.warmup_steps=200"]
        words += ["budget.eval_every=null", "hparams.batch_size=256", f"seed={','.join(map(str, range(jobs)))}"]
        command = [sys.executable, "-m", "rlscale.train", "-m", *words, f"hydra.launcher.workers={workers}"]
        started, threads, cores = time.perf_counter(), 0, 0
        process = subprocess.Popen(command, env=os.environ | {"RLSCALE_STUDY": study}, stderr=subprocess.DEVNULL)
        while process.poll() is None:
            for job in psutil.Process(process.pid).children():
                try:
                    if job.status() == psutil.STATUS_ZOMBIE or JOB not in job.cmdline():  # the kernel unbinds the dead
                        continue
                    threads, cores = max(threads, job.num_threads()), max(cores, len(job.cpu_affinity()))
                except psutil.Error:  # it has ended meanwhile
                    continue
            time.sleep(LOOK_S)
        if process.returncode:
            raise RuntimeError(f"{' '.join(command)} ended with {process.returncode}")
        return Swept(time.perf_counter() - started, threads, cores)


def measure(rounds: int, env_steps: int) -> tuple[list[Swept], list[Swept]]:
    """Sweeps with all jobs at once, and with one job for each core, in turn; the first of all fills the cache."""
    few = len(os.sched_getaffinity(0))
    sweep(few, env_steps, few)
    pairs = [(sweep(JOBS, env_steps), sweep(few, env_steps)) for _ in range(rounds)]
    return [crowded for crowded, _ in pairs], [roomy for _, roomy in pairs]


def slower(crowded: list[Swept], roomy: list[Swept]) -> float:
    """Median over rounds of the time with all at once, as a multiple of that with one for each core."""
    return median(a.seconds / b.seconds for a, b in zip(crowded, roomy, strict=True))

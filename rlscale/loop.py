"""act · step · add · update · evaluate: the only training loop in the house.

One cycle (cycle.py), two executors: where the simulator is a process the host drives the cycle, where it is a pure
function the same cycle runs K times in one call on the device. This file turns either into rows.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Generator, Sequence
from fractions import Fraction
from math import ceil

from rlscale.checkpoint import Clock, Keeper
from rlscale.cycle import Run
from rlscale.device_executor import DeviceExecutor
from rlscale.diagnostics.observed import Observed, Watch
from rlscale.film import Film
from rlscale.host_executor import HostExecutor
from rlscale.types import DeviceBenchmark

Row = dict[str, float | int | None]


def run(
    job: Run, films: Sequence[Film] = (), keeper: Keeper | None = None, watch: Watch | None = None
) -> Generator[list[Row], None, None]:
    """Train the pack; yields one row for each member at each logging point.

    `films`, one for each member, take up the last evaluation; the benchmark is then a `FilmedBenchmark`. With a
    `keeper` it goes on from where a checkpoint left off, and leaves others; raises its Stopped. What `watch` attaches
    adds columns and changes nothing.
    """
    on_device = isinstance(job.benchmark, DeviceBenchmark)
    plain: DeviceExecutor | HostExecutor = DeviceExecutor(job) if on_device else HostExecutor(job, films)
    watched = Observed(plain, watch) if watch is not None and watch.asked.names else None
    executor = watched or plain
    num_envs, total = job.cadence.num_envs, job.cadence.total
    log_every = job.budget.log_every
    resets = job.cadence.resets(*job.algorithm.resets)
    try:
        began = Clock() if keeper is None else keeper.resume(executor.restore)
        started, step, reset = time.monotonic() - began.wall_s, began.step, began.reset
        logged, reset_logged = began.logged, began.reset_logged
        while step < total:
            # A logging point is the first vector step that reaches a multiple of `log_every`; so for evaluations.
            before = logged * num_envs
            stop = min(total, ceil(Fraction((before // log_every + 1) * log_every, num_envs)))
            while step < stop:
                if keeper is not None and step > began.step and keeper.due():
                    now = Clock(step, logged, reset, reset_logged, time.monotonic() - started)
                    keeper.keep(now, num_envs, functools.partial(executor.saved, step=step))
                if resets[reset : reset + 1] == [step]:
                    reset += 1
                    executor.reset(reset)
                step = executor.advance(step, min([stop, *resets[reset : reset + 1]]))
            env_step = step * num_envs
            ended, updates, metrics = executor.read()
            looks = watched.looks() if watched else {}
            due = job.budget.evaluations(env_step) > job.budget.evaluations(before)
            returns, successes = executor.evaluate(step) if due else (None, None)
            yield [
                {
                    "env_step": env_step,
                    "updates": int(updates[m]),
                    "wall_s": round(time.monotonic() - started, 3),
                    "train_return": float(ended[m, 0] / ended[m, 1]) if ended[m, 1] else None,
                    "train_episodes": int(ended[m, 1]),
                    "eval_return": None if returns is None else float(returns[m]),
                    "eval_episodes": job.budget.eval_episodes if due else 0,
                }
                | ({"eval_success": None if successes is None else float(successes[m])} if executor.succeeded else {})
                | ({"reset": reset - reset_logged} if any(job.algorithm.resets) else {})
                | {name: float(values[m]) if updates[m] else None for name, values in metrics.items()}
                | {name: values[m] for name, values in looks.items()}
                for m in range(len(job.members))
            ]
            logged, reset_logged = step, reset
    finally:
        executor.close()

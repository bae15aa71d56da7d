"""act · step · add · update · evaluate: the only training loop in the house.

One cycle (cycle.py), two executors: where the simulator is a process the host drives the cycle, where it is a pure
function the same cycle runs K times in one call on the device. This file turns either into rows.
"""

from __future__ import annotations

import time
from collections.abc import Generator, Sequence
from fractions import Fraction
from math import ceil

from rlscale.cycle import Run
from rlscale.device_executor import DeviceExecutor
from rlscale.film import Film
from rlscale.host_executor import HostExecutor
from rlscale.types import DeviceBenchmark

Row = dict[str, float | int | None]


def run(job: Run, films: Sequence[Film] = ()) -> Generator[list[Row], None, None]:
    """Train the pack; yields one row for each member at each logging point.

    `films`, one for each member, take up the last evaluation; the benchmark is then a `FilmedBenchmark`.
    """
    executor = DeviceExecutor(job) if isinstance(job.benchmark, DeviceBenchmark) else HostExecutor(job, films)
    num_envs, total = job.cadence.num_envs, job.cadence.total
    log_every = job.budget.log_every
    resets = job.cadence.resets(*job.algorithm.resets)
    started, step, reset = time.monotonic(), 0, 0
    try:
        while step < total:
            # A logging point is the first vector step that reaches a multiple of `log_every`; so for evaluations.
            before = step * num_envs
            stop = min(total, ceil(Fraction((before // log_every + 1) * log_every, num_envs)))
            reset_before = reset
            while step < stop:
                if resets[reset : reset + 1] == [step]:
                    reset += 1
                    executor.reset(reset)
                step = executor.advance(step, min([stop, *resets[reset : reset + 1]]))
            env_step = step * num_envs
            ended, updates, metrics = executor.read()
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
                | ({"reset": reset - reset_before} if any(job.algorithm.resets) else {})
                | {name: float(values[m]) if updates[m] else None for name, values in metrics.items()}
                for m in range(len(job.members))
            ]
    finally:
        executor.close()

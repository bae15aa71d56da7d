"""How a thing is timed: a worker process holds what is to be timed and runs a short round of it whenever it is asked.

The parent asks its workers in turn, so that rounds of different things are interleaved in time and whatever else the
machine does falls on all of them alike.
"""

from __future__ import annotations

import importlib
import os
import time
import traceback
from collections.abc import Callable, Mapping
from multiprocessing.connection import Connection
from typing import Any, NamedTuple

CAPACITY = 100_000  # rows of replay on both sides: a copy of it where none is needed would show
WARMUP = 100  # env steps at random before the first update, on both sides
LONG = 1_000_000  # env steps that a run is made for; no bench gets there


class Point(NamedTuple):
    """One size of the comparison."""

    width: int  # of both hidden layers, actor and critics
    batch_size: int
    utd: int

    def __str__(self) -> str:
        return f"({self.width}, {self.batch_size}) σ={self.utd}"


class Crowd(NamedTuple):
    """One size of the comparison on Brax's tasks."""

    task: str
    num_envs: int

    def __str__(self) -> str:
        return f"{self.task} N={self.num_envs}"


class Spent(NamedTuple):
    """Seconds by the wall clock and of the CPU (all threads of the process)."""

    wall: float
    cpu: float


class Round(NamedTuple):
    """One timed round: `units` of work (vector steps or updates) in one member."""

    units: int
    spent: Spent
    flops: float  # floating-point operations of them, where the work says how many a unit has


class Work(NamedTuple):
    """Something to time: `run` does that many units and waits for their end."""

    run: Callable[[int], None]
    whole: int = 1  # rounds are multiples of this many units
    flops: float = 0.0  # floating-point operations of a unit, where they are asked for


Maker = Callable[[], Work]  # builds it, compiles it and runs it until all is compiled


class Worker:
    """What the process on the other end of `serve` holds: works by name, each with its number of units a round."""

    def __init__(self, makers: Callable[[Any], Mapping[str, Maker]]) -> None:
        self.makers = makers
        self.works: dict[str, tuple[Work, int]] = {}

    def open(self, point: Point | Crowd, seconds: float) -> dict[str, Spent]:
        """Build the works of a point, with rounds of about `seconds`; returns what building and compiling took."""
        taken = {}
        self.works = {}
        for name, maker in self.makers(point).items():
            work, taken[name] = timed(maker)
            self.works[name] = work, round_units(work, seconds)
        return taken

    def round(self, name: str) -> Round:
        """Time one round of a work."""
        work, units = self.works[name]
        return Round(units, timed(lambda: work.run(units))[1], units * work.flops)


def timed(call: Callable[[], Any]) -> tuple[Any, Spent]:
    """What `call` returns and what it took."""
    wall, cpu = time.perf_counter(), time.process_time()
    result = call()
    return result, Spent(time.perf_counter() - wall, time.process_time() - cpu)


def round_units(work: Work, seconds: float) -> int:
    """Units of work in about `seconds` of CPU; finding out is the warm-up that no round counts."""
    units = work.whole
    while (cpu := timed(lambda n=units: work.run(n))[1].cpu) <= seconds / 4:  # type: ignore[misc]
        units *= 2
    return max(1, round(units * seconds / cpu / work.whole)) * work.whole


def serve(connection: Connection, module: str, *arguments: Any) -> None:
    """A worker process: answer (method, *arguments) until None comes. What it prints goes to standard error."""
    os.dup2(2, 1)
    try:
        worker = Worker(importlib.import_module(module).makers(*arguments))
        connection.send((None, None))
        while (asked := connection.recv()) is not None:
            method, *given = asked
            connection.send((None, getattr(worker, method)(*given)))
    except EOFError:  # the parent is gone
        pass
    except Exception:
        connection.send((traceback.format_exc(), None))

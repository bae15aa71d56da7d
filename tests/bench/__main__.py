"""Speed of the loop on one core of a CPU, beside other programs in one run: `make bench`.

    python -m tests.bench [start] [jobs] [sac] [bro] [brax] [--quick] [--strict] [--rounds N] [--seconds S]

`sac` is measured beside Stable-Baselines3-JAX's, `bro` at width 512 beside the machine's own matrix products, and
`brax`, the loop on Brax's tasks, beside Brax's own SAC trainer. `jobs` are four at once beside one for each core,
and `start` is what a person waits for an answer of a command that trains nothing.

Two workers, one for each library, are pinned to the same core and asked in turn for short rounds; every number is a
median over rounds, and a ratio is the median of the ratios of neighbouring rounds. Compiling is timed apart (without
the persistent cache) and counted nowhere else. Rates per CPU-second hold on a busy machine too; rates by the wall
clock are what a user sees there.
"""

from __future__ import annotations

import argparse
import importlib.util
import multiprocessing
import os
import platform
import sys
import time
from contextlib import ExitStack
from datetime import UTC, datetime
from importlib import metadata
from statistics import median
from typing import Any

import psutil

from tests.bench import jobs, start
from tests.bench.report import (
    BesideBrax,
    Measured,
    OfPeak,
    brax_table,
    brax_verdicts,
    jobs_verdict,
    peak_table,
    peak_verdict,
    start_verdict,
    table,
    verdicts,
)
from tests.bench.timing import Crowd, Point, Round, serve

POINTS = [Point(width, batch_size, utd) for width, batch_size in ((64, 64), (256, 256)) for utd in (1, 8)]
BRO_POINTS = [Point(512, 128, utd) for utd in (2, 10)]
CROWDS = [Crowd(task, num_envs) for task in ("inverted_pendulum", "hopper") for num_envs in (64, 256, 1024)]
NAMES = ("start", "jobs", "sac", "bro", "brax")
PACKS = (1, 8)
JOB_STEPS = 5000  # of each of the jobs: most of a minute, so that a sweep is training and not the start of processes
PARTS = ("update", "update-call", "sample", "env-host", "env-device", "gemm")

# Before any worker imports numpy, jax or torch: one thread in each pool, and nothing compiled read from a disk.
ENVIRONMENT = {name: "1" for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")} | {
    "JAX_PLATFORMS": "cpu",
    "JAX_ENABLE_COMPILATION_CACHE": "false",
    "CUDA_VISIBLE_DEVICES": "",
}


class Client:
    """The parent's end of one worker, which times what `module` has."""

    def __init__(self, module: str, *arguments: Any) -> None:
        context = multiprocessing.get_context("spawn")
        self.connection, other = context.Pipe()
        self.process = context.Process(target=serve, args=(other, module, *arguments), daemon=True)
        self.process.start()
        other.close()
        self._answer()

    def ask(self, method: str, *arguments: Any) -> Any:
        """What the worker's method returns."""
        self.connection.send((method, *arguments))
        return self._answer()

    def close(self) -> None:
        """End the worker."""
        if self.process.is_alive():
            self.connection.send(None)
            self.process.join(10)
        self.connection.close()

    def _answer(self) -> Any:
        try:
            error, value = self.connection.recv()
        except EOFError:
            raise RuntimeError("a worker of the bench ended without an answer") from None
        if error is not None:
            raise RuntimeError(f"a worker of the bench failed:\n{error}")
        return value


def measure(
    point: Point, packs: tuple[int, ...], ours: Client, theirs: Client, rounds: int, seconds: float
) -> Measured:
    """Build a point in both workers, then time all works round by round."""
    compiled = ours.ask("open", point, seconds) | theirs.ask("open", point, seconds)
    names = [*(f"host/{pack}" for pack in packs), "sbx", *(f"device/{pack}" for pack in packs), *PARTS]
    taken: dict[str, list[Round]] = {name: [] for name in names}
    for number in range(rounds):
        for name in names if number % 2 == 0 else reversed(names):
            taken[name].append((theirs if name == "sbx" else ours).ask("round", name))
    return Measured(point, compiled, taken)


def measure_bro(point: Point, client: Client, rounds: int, seconds: float) -> OfPeak:
    """Build a point of BRO's, then time its works round by round."""
    names = list(client.ask("open", point, seconds))
    taken: dict[str, list[Round]] = {name: [] for name in names}
    for number in range(rounds):
        for name in names if number % 2 == 0 else reversed(names):
            taken[name].append(client.ask("round", name))
    return OfPeak(point, taken)


def measure_brax(crowd: Crowd, ours: Client, theirs: Client, rounds: int, seconds: float) -> BesideBrax:
    """Build a point in both workers, then time all works round by round."""
    compiled = [worker.ask("open", crowd, seconds) for worker in (ours, theirs)]
    works = [(name, worker) for worker, names in zip((ours, theirs), compiled, strict=True) for name in names]
    taken: dict[str, list[Round]] = {name: [] for name, _ in works}
    for number in range(rounds):
        for name, worker in works if number % 2 == 0 else reversed(works):
            taken[name].append(worker.ask("round", name))
    return BesideBrax(crowd, compiled[0] | compiled[1], taken)


def pin() -> str:
    """Keep this process, and the workers that it starts, on the idlest core; says which."""
    if not hasattr(os, "sched_setaffinity"):
        return "not pinned (this system cannot)"
    allowed = sorted(os.sched_getaffinity(0))
    load = psutil.cpu_percent(interval=0.5, percpu=True)
    core = min(allowed, key=lambda c: load[c] if c < len(load) else 0.0)
    os.sched_setaffinity(0, {core})
    return f"pinned to core {core} of {len(allowed)}"


def say(text: str) -> None:
    """Progress, for people; the results alone go to standard output."""
    print(text, file=sys.stderr, flush=True)


def main(arguments: list[str] | None = None) -> int:
    """Measure, print, judge; 1 only where --strict is given and a target is missed."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__.split("\n\n")[0])
    parser.add_argument(
        "--quick", action="store_true", help="one small point and two short rounds: to see that it runs"
    )
    parser.add_argument("--strict", action="store_true", help="exit with 1 if a target is missed")
    parser.add_argument("--rounds", type=int, help="rounds of each work (5; quick: 2)")
    parser.add_argument("--seconds", type=float, help="CPU-seconds of a round (0.5; quick: 0.1)")
    parser.add_argument("what", nargs="*", metavar="WHAT", help=f"{', '.join(NAMES)}; all if none is named")
    chosen = parser.parse_args(arguments)
    what = chosen.what or list(NAMES)
    if unknown := set(what) - set(NAMES):
        parser.error(f"{unknown.pop()}: there is no such part; name {' or '.join(NAMES)}")
    if "sac" in what and importlib.util.find_spec("sbx") is None:
        print("the bench extra is not installed: run make bench, or pip install -e '.[bench]'", file=sys.stderr)
        return 2
    rounds = chosen.rounds or (2 if chosen.quick else 5)
    seconds = chosen.seconds or (0.1 if chosen.quick else 0.5)

    started, results = time.monotonic(), []
    if "start" in what:
        say(f"bench: start, {rounds} rounds")
        results += [start_verdict(name, median(taken)) for name, taken in start.measure(rounds).items()]
    if "jobs" in what:  # before the rest, since a sweep is not to be pinned to one core
        results += bench_jobs(1 if chosen.quick else rounds, 400 if chosen.quick else JOB_STEPS)
    os.environ.update(ENVIRONMENT)
    where = pin()
    packages = ("rlscale", "jax", *(["sbx-rl", "gymnasium"] if "sac" in what else []), *({"brax"} & set(what)))
    versions = ", ".join(f"{p} {metadata.version(p)}" for p in packages)
    print(f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC, Python {platform.python_version()}, {versions}")
    print(f"{processor()}, {where}; {rounds} interleaved rounds of about {seconds} CPU-s, medians")
    if "sac" in what:
        results += bench_sac(POINTS[:1] if chosen.quick else POINTS, rounds, seconds)
    if "bro" in what:
        # a round of BRO holds some tens of updates, no fewer than the two of a quick one
        results += bench_bro(BRO_POINTS[:1] if chosen.quick else BRO_POINTS, rounds, 4 * seconds)
    if "brax" in what:
        results += bench_brax(CROWDS[:1] if chosen.quick else CROWDS, rounds, 2 * seconds)
    print()
    for met, line in results:
        print(f"{'pass' if met else 'FAIL'}  {line}")
    print(f"({time.monotonic() - started:.0f} s in all)")
    return 1 if chosen.strict and not all(met for met, _ in results) else 0


def bench_jobs(rounds: int, env_steps: int) -> list[tuple[bool, str]]:
    """Measure and print four jobs at once; returns the verdict."""
    say(f"bench: {jobs.JOBS} jobs at once, {rounds} rounds")
    crowded, roomy = jobs.measure(rounds, env_steps)
    few = len(os.sched_getaffinity(0))
    print(f"\nA sweep of {jobs.JOBS} jobs under hydra/launcher=local, {env_steps:,} env steps each (SAC, Pendulum-v1)")
    print("jobs at once | median time | threads of a job | cores of a job")
    for at_once, found in ((jobs.JOBS, crowded), (few, roomy)):
        seconds = median(swept.seconds for swept in found)
        threads, cores = (max(getattr(swept, name) for swept in found) for name in ("threads", "cores"))
        print(f"{at_once:>12} | {seconds:>9.1f} s | {threads:>16} | {cores:>14}")
    return [jobs_verdict(jobs.slower(crowded, roomy), jobs.JOBS, few)]


def bench_sac(points: list[Point], rounds: int, seconds: float) -> list[tuple[bool, str]]:
    """Measure and print SAC; returns its verdicts."""
    started, found = time.monotonic(), []
    with ExitStack() as stack:
        ours, theirs = Client("tests.bench.ours", PACKS), Client("tests.bench.theirs")
        stack.callback(ours.close)
        stack.callback(theirs.close)
        for number, point in enumerate(points):
            elapsed = time.monotonic() - started
            left = f", about {elapsed / number * (len(points) - number) / 60:.0f} min left" if number else ""
            say(f"bench: SAC, point {number + 1} of {len(points)}, {point} ({elapsed:.0f} s{left})")
            found.append(measure(point, PACKS, ours, theirs, rounds, seconds))

    print("\nSAC, two hidden layers, one update on B transitions; rates are sums over the members of the pack")
    print("\nHost executor (benchmark gym, Pendulum-v1), beside sbx.SAC on the same task and sizes.")
    print("sbx has no packs: at pack=8 its rate is that of 8 seeds one after the other.")
    print(table("host", found, PACKS))
    print("\nDevice executor (benchmark control, pendulum)")
    print(table("device", found, PACKS))
    print("\nCompile: CPU-seconds to build a pack and compile all that it runs, cache off; once per shape.")
    print("sbx's: " + ", ".join(f"{m.compiled['sbx'].cpu:.1f} s" for m in found) + ".")
    print(
        "Shares: parts timed alone at the same shapes, by CPU time; rest is acting, dispatch, adding and bookkeeping."
    )
    busy = median(m.busy() for m in found)
    if busy < 0.9:
        print(f"The machine was busy: the rounds held their core {busy:.0%} of the time. Go by the CPU-second columns.")
    return verdicts(found, PACKS)


def bench_bro(points: list[Point], rounds: int, seconds: float) -> list[tuple[bool, str]]:
    """Measure and print BRO; returns its verdict."""
    with ExitStack() as stack:
        client = Client("tests.bench.bro")
        stack.callback(client.close)
        found = []
        for point in points:
            say(f"bench: BRO, {point}")
            found.append(measure_bro(point, client, rounds, seconds))
    print("\nBRO (two blocks, 100 quantiles, both actors; benchmark dmc, cheetah-run), per CPU-second")
    print(peak_table(found))
    return [peak_verdict(found)]


def bench_brax(crowds: list[Crowd], rounds: int, seconds: float) -> list[tuple[bool, str]]:
    """Measure and print the loop on Brax's tasks; returns its verdicts."""
    found = []
    for crowd in crowds:
        say(f"bench: Brax, {crowd}")
        with ExitStack() as stack:  # new workers for each: Brax's trainer cannot be stopped
            workers = [Client("tests.bench.brax", who) for who in ("ours", "theirs")]
            for worker in workers:
                stack.callback(worker.close)
            found.append(measure_brax(crowd, *workers, rounds, seconds))
    print(
        "\nBrax's tasks (spring), env steps per CPU-second; random actions, then SAC (two layers of 256, B = 256) with"
    )
    print("one update per vector step of N copies. Compile: CPU-seconds of the loop and of Brax's trainer.")
    print(brax_table(found))
    return brax_verdicts(found)


def processor() -> str:
    """The CPU's own name, where the system tells it."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as lines:
            return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


if __name__ == "__main__":
    sys.exit(main())

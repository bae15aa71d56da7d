"""Speed of the loop on one core of a CPU, beside Stable-Baselines3-JAX's SAC, in one run: `make bench`.

    python -m tests.bench [--quick] [--strict] [--rounds N] [--seconds S]

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
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from datetime import UTC, datetime
from functools import partial
from importlib import metadata
from statistics import median
from typing import Any

import psutil

from tests.bench.timing import Maker, Point, Round, Spent, serve

POINTS = [Point(width, batch_size, utd) for width, batch_size in ((64, 64), (256, 256)) for utd in (1, 8)]
PACKS = (1, 8)
MAX_OVERHEAD, MIN_RATIO, MIN_DEVICE_STEPS = 0.10, 1.1, 5000.0
PARTS = ("update", "sample", "env-host", "env-device")

# Before any worker imports numpy, jax or torch: one thread in each pool, and nothing compiled read from a disk.
ENVIRONMENT = {name: "1" for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")} | {
    "JAX_PLATFORMS": "cpu",
    "JAX_ENABLE_COMPILATION_CACHE": "false",
    "CUDA_VISIBLE_DEVICES": "",
}


def our_makers(packs: tuple[int, ...]) -> Callable[[Point], Mapping[str, Maker]]:
    """rlscale's works; imported in its worker only."""
    from tests.bench import ours

    return ours.makers(packs)


def their_makers() -> Callable[[Point], Mapping[str, Maker]]:
    """sbx's work; imported in its worker only."""
    from tests.bench import theirs

    return theirs.makers()


class Client:
    """The parent's end of one worker."""

    def __init__(self, makers: Callable[[], Callable[[Point], Mapping[str, Maker]]]) -> None:
        context = multiprocessing.get_context("spawn")
        self.connection, other = context.Pipe()
        self.process = context.Process(target=serve, args=(other, makers), daemon=True)
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


class Measured:
    """All rounds of one point, and what follows from them."""

    def __init__(self, point: Point, compiled: dict[str, Spent], rounds: dict[str, list[Round]]) -> None:
        self.point, self.compiled, self.rounds = point, compiled, rounds

    def rate(self, name: str, clock: str, factor: int = 1) -> float:
        """Median of units per second by a clock (``wall`` or ``cpu``), times `factor`."""
        return factor * median(r.units / getattr(r.spent, clock) for r in self.rounds[name])

    def ratio(self, name: str, clock: str, factor: int) -> float:
        """Median over rounds of `factor` times the work's rate against sbx's in the same round."""
        pairs = zip(self.rounds[name], self.rounds["sbx"], strict=True)
        return factor * median(
            (a.units / getattr(a.spent, clock)) / (b.units / getattr(b.spent, clock)) for a, b in pairs
        )

    def shares(self, name: str, pack: int) -> dict[str, float]:
        """Shares of a member's vector step spent in updates, env, sampling and the rest, by CPU time.

        Each is the median of its rounds' shares; what the parts leave is the rest, never below 0.
        """
        shares = {"updates": 0.0, "env": 0.0, "sampling": 0.0}
        parts = {
            "updates": ("update", self.point.utd),
            "env": (f"env-{name}", 1),
            "sampling": ("sample", self.point.utd),
        }
        for what, (part, times) in parts.items():
            pairs = zip(self.rounds[part], self.rounds[f"{name}/{pack}"], strict=True)
            shares[what] = median(times * (a.spent.cpu / a.units) / (b.spent.cpu / (b.units * pack)) for a, b in pairs)
        total = max(
            1.0, sum(shares.values())
        )  # parts alone may seem to take more than the whole: then there is no rest
        shares = {what: share / total for what, share in shares.items()}
        return shares | {"rest": 1.0 - sum(shares.values())}

    def overhead(self, name: str, pack: int) -> float:
        """The loop's own share: all but updates and physics."""
        shares = self.shares(name, pack)
        return shares["sampling"] + shares["rest"]

    def busy(self) -> float:
        """The share of the wall clock's time for which the rounds held the core."""
        every = [r.spent for rounds in self.rounds.values() for r in rounds]
        return sum(s.cpu for s in every) / sum(s.wall for s in every)


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


def table(name: str, found: list[Measured], packs: tuple[int, ...]) -> str:
    """One executor's numbers; beside the host executor's, sbx's."""
    beside = name == "host"
    head = (
        f"{'width':>5} {'B':>4} {'σ':>2} {'pack':>4} | {'updates/s':>9} {'per CPU-s':>9} | {'steps/s':>8} {'per CPU-s':>9} |"
        f" {'compile':>8} | {'updates':>7} {'env':>6} {'sampling':>8} {'rest':>6}"
    )
    if beside:
        head += f" | {'sbx updates per CPU-s':>21} {'ratio':>6} {'by wall':>7}"
    lines = [head, "-" * len(head)]
    for m in found:
        for pack in packs:
            work, (width, batch_size, utd) = f"{name}/{pack}", m.point
            steps, steps_cpu = m.rate(work, "wall", pack), m.rate(work, "cpu", pack)
            shares = m.shares(name, pack)
            line = (
                f"{width:>5} {batch_size:>4} {utd:>2} {pack:>4} | {steps * utd:>9,.0f} {steps_cpu * utd:>9,.0f} |"
                f" {steps:>8,.0f} {steps_cpu:>9,.0f} | {m.compiled[work].cpu:>6.1f} s | {shares['updates']:>7.1%}"
                f" {shares['env']:>6.1%} {shares['sampling']:>8.1%} {shares['rest']:>6.1%}"
            )
            if beside:
                line += (
                    f" | {m.rate('sbx', 'cpu', utd):>21,.0f} {m.ratio(work, 'cpu', pack):>6.2f}"
                    f" {m.ratio(work, 'wall', pack):>7.2f}"
                )
            lines.append(line)
    return "\n".join(lines)


def verdicts(found: list[Measured], packs: tuple[int, ...]) -> list[tuple[bool, str]]:
    """Each target that the measured points can speak of: whether it is met, and a line that says so."""

    def label(m: Measured, pack: int) -> str:
        return f"({m.point.width}, {m.point.batch_size}) σ={m.point.utd} pack={pack}"

    lines = []
    wide = [
        (m.overhead(e, p), f"{e} {label(m, p)}")
        for m in found
        if m.point.width == 256
        for e in ("host", "device")
        for p in packs
    ]
    if wide:
        worst, where = max(wide)
        lines.append(
            (
                worst < MAX_OVERHEAD,
                f"overhead of the loop at width 256: at most {worst:.1%} ({where}); target < {MAX_OVERHEAD:.0%}",
            )
        )
    least, where = min((m.ratio(f"host/{p}", "cpu", p), label(m, p)) for m in found for p in packs)
    lines.append(
        (least >= MIN_RATIO, f"host executor against sbx: at least {least:.2f}× ({where}); target ≥ {MIN_RATIO}×")
    )
    small = [m for m in found if m.point == Point(64, 64, 1)]
    for m, pack in ((m, p) for m in small for p in packs):
        steps = m.rate(f"device/{pack}", "cpu", pack)
        lines.append(
            (
                steps >= MIN_DEVICE_STEPS,
                f"device executor {label(m, pack)}: {steps:,.0f} steps-with-updates per CPU-second; target ≥ {MIN_DEVICE_STEPS:,.0f}",
            )
        )
    return lines


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
    chosen = parser.parse_args(arguments)
    if importlib.util.find_spec("sbx") is None:
        print("the bench extra is not installed: run make bench, or pip install -e '.[bench]'", file=sys.stderr)
        return 2
    points = POINTS[:1] if chosen.quick else POINTS
    rounds = chosen.rounds or (2 if chosen.quick else 5)
    seconds = chosen.seconds or (0.1 if chosen.quick else 0.5)

    started = time.monotonic()
    os.environ.update(ENVIRONMENT)
    where = pin()
    versions = ", ".join(f"{p} {metadata.version(p)}" for p in ("rlscale", "jax", "sbx-rl", "gymnasium"))
    print(f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC, Python {platform.python_version()}, {versions}")
    print(f"{processor()}, {where}; {rounds} interleaved rounds of about {seconds} CPU-s, medians")
    found = []
    with ExitStack() as stack:
        ours, theirs = Client(partial(our_makers, PACKS)), Client(their_makers)
        stack.callback(ours.close)
        stack.callback(theirs.close)
        for number, point in enumerate(points):
            elapsed = time.monotonic() - started
            left = f", about {elapsed / number * (len(points) - number) / 60:.0f} min left" if number else ""
            say(f"bench: point {number + 1} of {len(points)}, {point} ({elapsed:.0f} s{left})")
            found.append(measure(point, PACKS, ours, theirs, rounds, seconds))

    print("\nSAC, two hidden layers, one update on B transitions; rates are sums over the members of the pack")
    print("\nHost executor (benchmark gym, Pendulum-v1), beside sbx.SAC on the same task and sizes.")
    print("sbx has no packs: at pack=8 its rate is that of 8 seeds one after the other.")
    print(table("host", found, PACKS))
    print("\nDevice executor (benchmark control, pendulum)")
    print(table("device", found, PACKS))
    print("\nCompile: CPU-seconds to build a pack and compile all that it runs, cache off; once per shape.")
    print(f"sbx's: {', '.join(f'{m.compiled["sbx"].cpu:.1f} s' for m in found)}.")
    print(
        "Shares: parts timed alone at the same shapes, by CPU time; rest is acting, dispatch, adding and bookkeeping."
    )
    busy = median(m.busy() for m in found)
    if busy < 0.9:
        print(f"The machine was busy: the rounds held their core {busy:.0%} of the time. Go by the CPU-second columns.")
    print()
    results = verdicts(found, PACKS)
    for met, line in results:
        print(f"{'pass' if met else 'FAIL'}  {line}")
    print(f"({time.monotonic() - started:.0f} s in all)")
    return 1 if chosen.strict and not all(met for met, _ in results) else 0


def processor() -> str:
    """The CPU's own name, where the system tells it."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as lines:
            return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


if __name__ == "__main__":
    sys.exit(main())

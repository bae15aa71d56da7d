"""What follows from the rounds: rates, shares, ratios, the tables, and whether each target is met."""

from __future__ import annotations

from collections.abc import Callable
from statistics import median

from tests.bench.timing import Crowd, Point, Round, Spent

MAX_OVERHEAD, MIN_RATIO, MIN_DEVICE_STEPS, MIN_OF_PEAK, MIN_OF_BRAX = 0.10, 1.1, 5000.0, 0.6, 1.0
MAX_CROWDED = 1.03  # 1, and what such a time varies by from round to round
MAX_START_S = 5


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

    def ceiling(self) -> float:
        """The ratio to sbx of a program that makes no more than the updates' matrix products, at the machine's rate."""
        rounds = zip(self.rounds["gemm"], self.rounds["update"], self.rounds["sbx"], strict=True)
        return median(
            (g.flops / g.spent.cpu) / (u.flops / u.units) / (self.point.utd * b.units / b.spent.cpu)
            for g, u, b in rounds
        )

    def shares(self, name: str, pack: int) -> dict[str, float]:
        """Shares of a member's vector step spent in updates, env, sampling and the rest, by CPU time.

        Each is the median of its rounds' shares; what the parts leave is the rest, never below 0. On the host an
        update cannot be had without a call of a compiled function for each vector step, so there "updates" is that
        call with σ updates in it; on the device it is an update within a long loop.
        """
        shares = {"updates": 0.0, "env": 0.0, "sampling": 0.0}
        parts = {
            "updates": ("update-call", 1) if name == "host" else ("update", self.point.utd),
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

    def dispatch(self, pack: int) -> float:
        """What a call of its own adds to a vector step's updates on the host, as a share of the vector step."""
        parts = zip(self.rounds["update-call"], self.rounds["update"], self.rounds[f"host/{pack}"], strict=True)
        return median(
            (call.spent.cpu / call.units - self.point.utd * update.spent.cpu / update.units)
            / (loop.spent.cpu / (loop.units * pack))
            for call, update, loop in parts
        )

    def busy(self) -> float:
        """The share of the wall clock's time for which the rounds held the core."""
        every = [r.spent for rounds in self.rounds.values() for r in rounds]
        return sum(s.cpu for s in every) / sum(s.wall for s in every)


def table(name: str, found: list[Measured], packs: tuple[int, ...]) -> str:
    """One executor's numbers; beside the host executor's, sbx's."""
    beside = name == "host"
    head = (
        f"{'width':>5} {'B':>4} {'σ':>2} {'pack':>4} | {'updates/s':>9} {'per CPU-s':>9} | {'steps/s':>8}"
        f" {'per CPU-s':>9} | {'compile':>8} | {'updates':>7} {'env':>6} {'sampling':>8} {'rest':>6}"
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
    lines = []
    each = [(m, pack, f"{m.point} pack={pack}") for m in found for pack in packs]
    wide = [
        (m.overhead(name, pack), f"{name} executor, {label}")
        for m, pack, label in each
        for name in ("host", "device")
        if m.point.width == 256
    ]
    if wide:
        worst, where = max(wide)
        added = max(m.dispatch(pack) for m, pack, _ in each if m.point.width == 256)
        text = f"the loop's own overhead at width 256: at most {worst:.1%} ({where}); target < {MAX_OVERHEAD:.0%}"
        text += f" (beside it, the host's call for each step's updates is up to {added:.1%}, counted as updates)"
        lines.append((worst < MAX_OVERHEAD, text))
    least, where, ceiling = min((m.ratio(f"host/{pack}", "cpu", pack), label, m.ceiling()) for m, pack, label in each)
    text = f"host executor against sbx, per CPU-second: at least {least:.2f}× ({where}); target ≥ {MIN_RATIO}×"
    text += f" (the updates' matrix products alone, at the machine's rate: {ceiling:.2f}×)"
    lines.append((least >= MIN_RATIO, text))
    for m, pack, label in each:
        if m.point == Point(64, 64, 1):
            steps = m.rate(f"device/{pack}", "cpu", pack)
            text = f"device executor, {label}: {steps:,.0f} steps-with-updates per CPU-second"
            lines.append((steps >= MIN_DEVICE_STEPS, f"{text}; target ≥ {MIN_DEVICE_STEPS:,.0f}"))
    return lines


class OfPeak:
    """The rounds of one point of BRO: how near its arithmetic comes to the machine's matrix products."""

    def __init__(self, point: Point, rounds: dict[str, list[Round]]) -> None:
        self.point, self.rounds = point, rounds

    def rate(self, name: str) -> float:
        """Median FLOPs per CPU-second."""
        return median(r.flops / r.spent.cpu for r in self.rounds[name])

    def share(self, name: str) -> float:
        """Median over rounds of the work's FLOPs per CPU-second over the product's in the same round."""
        return _ratio(self.rounds[name], self.rounds["gemm"], lambda r: r.flops)


def peak_table(found: list[OfPeak]) -> str:
    """BRO's updates beside the arithmetic floor: what matrix products of the same FLOPs would take."""
    head = (
        f"{'width':>5} {'B':>4} {'σ':>2} | {'GFLOP/update':>12} {'products, GFLOP/s':>17} {'floor, updates/s':>16} |"
        f" {'update alone':>12} {'of peak':>7} | {'in the loop':>11} {'of peak':>7}"
    )
    lines = [head, "-" * len(head)]
    for m in found:
        once, (width, batch_size, utd) = m.rounds["update"][0], m.point
        flops, peak = once.flops / once.units, m.rate("gemm")
        alone, loop = m.rate("update") / flops, m.rate("loop") / flops
        lines.append(
            f"{width:>5} {batch_size:>4} {utd:>2} | {flops / 1e9:>12.2f} {peak / 1e9:>17.0f} {peak / flops:>16.1f} |"
            f" {alone:>12.1f} {m.share('update'):>7.0%} | {loop:>11.1f} {m.share('loop'):>7.0%}"
        )
    return "\n".join(lines)


def peak_verdict(found: list[OfPeak]) -> tuple[bool, str]:
    """Whether the loop's updates keep to the share of peak that is asked for."""
    least, where = min((m.share("loop"), str(m.point)) for m in found)
    text = f"BRO's updates in the loop: at least {least:.0%} of the machine's matrix products ({where})"
    return least >= MIN_OF_PEAK, f"{text}; target ≥ {MIN_OF_PEAK:.0%}"


class BesideBrax:
    """The rounds of one task and number of copies, ours beside Brax's own."""

    PAIRS = (("physics", "wrapped"), ("loop", "trainer"))

    def __init__(self, crowd: Crowd, compiled: dict[str, Spent], rounds: dict[str, list[Round]]) -> None:
        self.crowd, self.compiled, self.rounds = crowd, compiled, rounds

    def rate(self, name: str) -> float:
        """Median env steps per CPU-second."""
        return self.crowd.num_envs * median(r.units / r.spent.cpu for r in self.rounds[name])

    def ratio(self, ours: str, theirs: str) -> float:
        """Median over rounds of our rate over theirs in the same round."""
        return _ratio(self.rounds[ours], self.rounds[theirs], lambda r: r.units)


def _ratio(ours: list[Round], theirs: list[Round], amount: Callable[[Round], float]) -> float:
    """Median over rounds of our amount per CPU-second over theirs in the same round."""
    return median((amount(a) / a.spent.cpu) / (amount(b) / b.spent.cpu) for a, b in zip(ours, theirs, strict=True))


def brax_table(found: list[BesideBrax]) -> str:
    """Env steps per CPU-second, physics alone and with updates, and what compiling took."""
    head = (
        f"{'task':>17} {'N':>5} | {'physics':>8} {'wrapped':>8} {'ratio':>5} |"
        f" {'loop':>8} {'trainer':>8} {'ratio':>5} | {'compile':>8} {'theirs':>8}"
    )
    lines = [head, "-" * len(head)]
    for m in found:
        line = f"{m.crowd.task:>17} {m.crowd.num_envs:>5} |"
        for ours, theirs in m.PAIRS:
            line += f" {m.rate(ours):>8,.0f} {m.rate(theirs):>8,.0f} {m.ratio(ours, theirs):>5.2f} |"
        lines.append(f"{line} {m.compiled['loop'].cpu:>6.1f} s {m.compiled['trainer'].cpu:>6.1f} s")
    return "\n".join(lines)


def brax_verdicts(found: list[BesideBrax]) -> list[tuple[bool, str]]:
    """Whether physics and loop are nowhere slower than Brax's own."""
    lines = []
    for (ours, theirs), what in zip(
        BesideBrax.PAIRS,
        ("Brax's physics with fresh resets against its wrappers", "SAC on Brax's tasks against its own trainer"),
        strict=True,
    ):
        least, where = min((m.ratio(ours, theirs), str(m.crowd)) for m in found)
        text = f"{what}, per CPU-second: at least {least:.2f}× ({where}); target ≥ {MIN_OF_BRAX}×"
        lines.append((least >= MIN_OF_BRAX, text))
    return lines


def jobs_verdict(slower: float, at_once: int, few: int) -> tuple[bool, str]:
    """Whether jobs that share cores fight."""
    text = f"{at_once} jobs at once take {slower:.2f} times as long as {few} at a time; target ≤ {MAX_CROWDED}"
    return slower <= MAX_CROWDED, text


def start_verdict(name: str, seconds: float) -> tuple[bool, str]:
    """Whether a command that trains nothing answers at once."""
    return seconds <= MAX_START_S, f"{name} answers in {seconds:.1f} s; target ≤ {MAX_START_S} s"

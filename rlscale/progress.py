"""How far long work is: a bar with an ETA on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any

from rich.progress import BarColumn, Progress, TextColumn

from rlscale.cadence import Cadence


def duration(seconds: float) -> str:
    """12 s, 3 min 20 s, 5 h 02 min."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def counted(number: int, noun: str) -> str:
    """1 job, 2 jobs."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def short(number: float) -> str:
    """950, 21.2k, 4M: to three digits."""
    for unit in ("", "k", "M"):
        if number < 999.5:
            return f"{number:.3g}{unit}"
        number /= 1000
    return f"{number:.3g}G"


def throughput(before: Mapping[str, Any], row: Mapping[str, Any], members: int, batch_size: int) -> str:
    """Of `members` trained together from one row of their curves to the next; empty if no time went by."""
    seconds = row["wall_s"] - before["wall_s"]
    if seconds <= 0:
        return ""
    steps, updates = (members * (row[name] - before[name]) / seconds for name in ("env_step", "updates"))
    return f"{short(steps)} transitions/s, {short(updates)} updates/s, {short(updates * batch_size)} samples/s"


class Meter:
    """Shows the done share of one piece of work; use as a context manager and call `update`."""

    def __init__(self, label: str, shown: bool = True, every_s: float = 10.0):
        self.label, self.shown, self.every_s = label, shown, every_s
        self.started = self.printed = time.monotonic()
        self.bar: Progress | None = None
        if shown and sys.stderr.isatty():
            columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[note]}"))
            self.bar = Progress(*columns, transient=True)
            self.task = self.bar.add_task(label, total=1.0, note="")

    def __enter__(self) -> Meter:
        if self.bar is not None:
            self.bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self.bar is not None:
            self.bar.stop()

    def update(self, share: float, note: str = "", eta_s: float | None = None, already: float = 0.0) -> None:
        """`share` of the work is done, of which `already` was before; `eta_s` defaults to the time so far scaled by
        what is left.
        """
        elapsed = time.monotonic() - self.started
        if eta_s is None and share > already:
            eta_s = elapsed * (1 - share) / (share - already)
        left = f"ETA {duration(eta_s)}" if eta_s is not None else "ETA unknown yet"
        text = " · ".join(part for part in (f"{100 * share:.0f} %", note, duration(elapsed), left) if part)
        if self.bar is not None:
            self.bar.update(self.task, completed=share, note=text)
        elif self.shown and time.monotonic() - self.printed >= self.every_s:
            self.printed = time.monotonic()
            print(f"{self.label}: {text}", file=sys.stderr, flush=True)


class Pace:
    """What a meter shows of a pack under training, from one logging point to the next."""

    def __init__(self, cadence: Cadence, members: int, batch_size: int):
        self.cadence, self.members, self.batch_size = cadence, members, batch_size
        self.before: Mapping[str, Any] = {}  # the row before

    def at(self, rows: Sequence[Mapping[str, Any]], began: int, spent_s: float) -> tuple[float, str, None, float]:
        """The arguments of `Meter.update` at the members' rows, in a process that took the run up after vector step
        `began` and `spent_s` seconds of others.
        """
        cadence, row = self.cadence, rows[0]
        updates = cadence.updates_after(began)
        start = {"env_step": began * cadence.num_envs, "updates": updates, "wall_s": spent_s}
        pace = throughput(self.before or start, row, self.members, self.batch_size)
        self.before = row
        returns = [own["train_return"] for own in rows if own["train_return"] is not None]
        note = f"step {row['env_step']:,}" + (f", return {sum(returns) / len(returns):.1f}" if returns else "")
        done, total = cadence.updates_after(row["env_step"] // cadence.num_envs), cadence.updates_after(cadence.total)
        return done / total, " · ".join(part for part in (note, pace) if part), None, updates / total

"""The status door: what a sweep has done, is doing and lacks. It takes the words of the command that trains.

python -m rlscale.status -m sweep=gym-grid
"""

from __future__ import annotations

import shlex
import sys
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, fields
from typing import Any, NamedTuple

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

import launchers
from rlscale.door import door
from rlscale.job import Job
from rlscale.outlook import calibration
from rlscale.progress import counted, duration
from rlscale.spec import Member
from rlscale.store import Store
from rlscale.train import typed_job as job_of
from rlscale.typed import convert

LIVE_S = 2.0  # between two looks while it is watched
WORDS = ("recorded", "training", "failed", "interrupted", "waiting")  # what a member can be


class State(NamedTuple):
    """Of one member."""

    word: str  # of WORDS
    share: float  # how far it is, from 0 to 1
    who: str = ""  # the process that trains it
    note: str = ""  # why it failed; that it diverged


@dataclass(frozen=True)
class Looked(Job):
    """A job that is only looked at."""

    watch: bool  # again and again


class Seen(NamedTuple):
    """Of all jobs at one moment."""

    jobs: Sequence[Job]
    states: list[list[State]]  # of each job's members
    left_s: list[float]  # of one core, for each job
    basis: str  # of that estimate


def main(config: Any) -> None:
    """The status of one job; that of a sweep is asked for by its launcher, as the table of `dry=true` is."""
    print(shown([typed_job(config)]))


def typed_job(config: Any) -> Looked:
    """The job as rlscale.train has it, never to be run."""
    job, watch = job_of(config, beside=("hydra", "watch")), convert(config.watch, bool, "watch")
    return Looked(**{f.name: getattr(job, f.name) for f in fields(job)} | {"dry": True, "watch": watch})


def look(store: Store, jobs: Sequence[Job]) -> Seen:
    """Read the study as it is now."""
    scale, basis = calibration(store, jobs)
    states = [[state(store, job, member) for member in job.members] for job in jobs]
    left = [
        scale * job.nominal_seconds() * sum(1 - s.share for s in own) for job, own in zip(jobs, states, strict=True)
    ]
    return Seen(jobs, states, left, basis)


def state(store: Store, job: Job, member: Member) -> State:
    """What has become of a member."""
    run = job.runs[member]
    if (record := store.record(run)) is not None:
        return State("recorded", 1.0, note="" if record["status"] == "finished" else record["status"])
    share = store.last_env_step(run) / (job.cadence.total * job.cadence.num_envs)
    if (holder := store.holder(run)) is not None:
        return State("training", share, who=f"{holder['host']} {holder['pid']}")
    if (words := store.failure(run)) is not None:
        return State("failed", share, note=words)
    return State("interrupted" if share else "waiting", share)


def report(seen: Seen) -> Group:
    """One line for each job that is not whole, the failures with their causes, and the totals."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("job", "done", "left", "runs"):
        table.add_column(name, justify="right" if name in ("done", "left") else "left", no_wrap=name != "runs")
    notes = list[Text]()
    for job, states, left in zip(seen.jobs, seen.states, seen.left_s, strict=True):
        if any(s.word != "recorded" for s in states):
            share = sum(s.share for s in states) / len(states)
            table.add_row(Text(job.label), f"{share:.0%}", duration(left), tally(states))
        for what in dict.fromkeys(f"{s.word}: {job.label}: {s.note}" for s in states if s.note):
            notes.append(Text(what))
    parts: list[Any] = [table] if table.row_count else []
    return Group(*parts, *notes, Text(totals(seen)), *([] if whole(seen) else [Text(f"go on: {go_on()}")]))


def tally(states: Sequence[State]) -> str:
    """2 recorded, 1 training."""
    counts = Counter(state.word for state in states)
    return ", ".join(f"{counts[word]} {word}" for word in WORDS if counts[word])


def totals(seen: Seen) -> str:
    """Of all jobs, in one line."""
    members = sum(map(len, seen.states))
    tallied = tally([state for states in seen.states for state in states])
    text = f"{counted(len(seen.jobs), 'job')}, {counted(members, 'run')}: {tallied}"
    if whole(seen):
        return text
    at_work = len({s.who for states in seen.states for s in states if s.who})
    if not at_work:
        return f"{text}; nobody is at work, about {duration(sum(seen.left_s))} of one core left ({seen.basis})"
    # Those at work share what is left, but none is done before its own job.
    longest = max(left for left, states in zip(seen.left_s, seen.states, strict=True) if any(s.who for s in states))
    workers = "1 process" if at_work == 1 else f"{at_work} processes"
    return f"{text}; {workers} at work, ETA {duration(max(sum(seen.left_s) / at_work, longest))} ({seen.basis})"


def whole(seen: Seen) -> bool:
    """Whether every run is recorded."""
    return all(state.word == "recorded" for states in seen.states for state in states)


def go_on() -> str:
    """The command that runs what is missing."""
    return shlex.join(
        ["python", "-m", "rlscale.train", *(word for word in sys.argv[1:] if not word.startswith("watch="))]
    )


def shown(jobs: Sequence[Looked]) -> str:
    """The report as text; if it is to be watched, after showing it again and again until all is recorded."""
    store, console = Store(), Console(soft_wrap=True, highlight=False)
    seen = look(store, jobs)
    if jobs[0].watch:
        with (
            Live(console=console, auto_refresh=False, transient=True) if console.is_terminal else nullcontext() as live
        ):
            said = ""
            while not whole(seen):
                if live is not None:
                    live.update(report(seen), refresh=True)
                elif (line := totals(seen)) != said:  # a plain line whenever something has changed
                    said = line
                    print(line, flush=True)
                time.sleep(LIVE_S)
                seen = look(store, jobs)
    with console.capture() as capture:
        console.print(report(seen))
    return capture.get().rstrip()


# What a launcher needs to know of this door: see rlscale.train.
main.typed_job, main.dry_report = typed_job, shown  # type: ignore[attr-defined]

if __name__ == "__main__":
    launchers.discover()
    door(main, "status")

"""What a sweep has still to do and what that costs: the table of `dry=true`, and the estimates of every door."""

from __future__ import annotations

from collections.abc import Sequence

from rlscale.job import Job
from rlscale.progress import counted, duration
from rlscale.store import Store


def dry_report(jobs: Sequence[Job]) -> str:
    """What would run, how much of it, and at what cost, as a table."""
    store, lines, total_s, runs, updates_sum = Store(), [], 0.0, 0, 0
    scale, basis = calibration(store, jobs)
    for job in jobs:
        lacking = len(job.missing(store))
        updates = job.cadence.updates_after(job.cadence.total)
        seconds = scale * job.nominal_seconds() * lacking
        total_s, runs, updates_sum = total_s + seconds, runs + lacking, updates_sum + updates * lacking
        memory = job.bytes_per_member() * lacking / 2**20
        lines.append(
            f"{job.label:<44} {lacking:>4} of {len(job.members)} to run {updates:>12,} updates each "
            f"{memory:>8,.0f} MiB  {duration(seconds):>12}"
        )
    asked = sum(len(job.members) for job in jobs)
    lines.append(
        f"{counted(len(jobs), 'job')}, {counted(asked, 'run')}, {asked - runs} recorded, {runs} to run: "
        f"{updates_sum:,} updates, "
        f"about {duration(total_s)} of one core ({basis})"
    )
    return "\n".join(lines)


def calibration(store: Store, jobs: Sequence[Job]) -> tuple[float, str]:
    """How many times the nominal cost a member of these jobs took where it is recorded; 1 where none is."""
    ratios = []
    for job in jobs:
        records = [r for run in job.runs.values() if (r := store.record(run)) is not None]
        ratios += [r["wall_s"] / r["pack_size"] / job.nominal_seconds() for r in records if r["pack_size"]]
    if not ratios:
        return 1.0, "nominal: no run of it is recorded yet to go by"
    return sorted(ratios)[len(ratios) // 2], f"going by {len(ratios)} recorded runs"

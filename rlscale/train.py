"""The training door: compose → Job → what is missing → run → records.

python -m rlscale.train algorithm=sac benchmark=gym benchmark.task=HalfCheetah-v4 utd=2 'seed=[0,1,2,3]'
"""

from __future__ import annotations

import os
import platform
import re
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import closing
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import launchers
from rlscale.door import door
from rlscale.job import Job, job_from
from rlscale.progress import Meter, counted, duration, throughput
from rlscale.sinks import Sink
from rlscale.spec import Member, identity, plain, run_id
from rlscale.store import ClaimLost, Recording, Store, write_atomically
from rlscale.typed import Mistake

if TYPE_CHECKING:
    from rlscale.types import Algorithm

POLL_S = 2.0  # between two looks at members that another process trains
PACKAGES = ("rlscale", "jax", "jaxlib", "flax", "optax", "numpy", "gymnasium", "mujoco", "dm_control", "hydra-core")


def main(config: Any) -> float | None:
    """One job: train the members that have no record yet; returns the recorded return."""
    job = typed_job(config)
    if job.dry:
        print(dry_report([job]))
        return None
    return execute(job)


def typed_job(config: Any) -> Job:
    """The one function that sees the composed DictConfig."""
    from hydra.core.hydra_config import HydraConfig
    from omegaconf import OmegaConf

    hydra = HydraConfig.get()
    data: dict[str, Any] = OmegaConf.to_container(config, resolve=True)  # type: ignore[assignment]
    return job_from(data, hydra.runtime.choices, hydra.overrides.task)


def execute(job: Job) -> float | None:
    """Train what is missing of a job; members that another process trains are waited for, and taken over if it dies."""
    store = Store()
    if job.log.video:
        recorded = len(job.members) - len(job.missing(store))
        if recorded and job.log.progress:
            print(
                f"{job.label}: {counted(recorded, 'run')} recorded already, not run again for a video", file=sys.stderr
            )
        if recorded < len(job.members):
            try_camera(job)
    job.note_asker(store)
    waiting = False
    while lacking := job.missing(store):
        recordings = {m: r for m in lacking if (r := store.claim(job.spec, m)) is not None}
        if recordings:
            train(job, recordings)
        else:
            if not waiting and job.log.progress:
                print(f"{job.label}: another process trains what is missing; waiting for it", file=sys.stderr)
            waiting = True
            time.sleep(POLL_S)
    return job.result(store)


def try_camera(job: Job) -> None:
    """Take one picture now: what is wrong with the camera must be known before hours of training, not after."""
    try:
        env = job.benchmark.filmed(0)  # type: ignore[attr-defined]
        try:
            env.reset()
            env.frame()
        finally:
            env.close()
    except Exception as error:  # whatever a simulator, a driver or a library of theirs may raise
        way, what = os.environ.get("MUJOCO_GL", ""), " ".join(str(error).split()) or type(error).__name__
        raise Mistake(
            f"log.video=true: no picture of {job.spec.task} can be taken with MUJOCO_GL={way} ({what}); mend that or "
            "set log.video=false"
        ) from error


def train(job: Job, recordings: Mapping[Member, Recording]) -> None:
    """Train the claimed members as one pack and record each; a crash leaves no record."""
    import jax

    from rlscale.cycle import Run
    from rlscale.film import Film
    from rlscale.loop import run

    started, clock = datetime.now(UTC), time.monotonic()
    learner, cadence, on_cpu = job.learner(), job.cadence, jax.default_backend() == "cpu"
    pack = job.compute.pack if job.compute.pack != "auto" else "loop" if on_cpu else "vmap"
    replay = "device" if job.compute.replay == "auto" else job.compute.replay
    work = Run(learner, job.benchmark, list(recordings), cadence, job.spec.budget, job.spec.batch_size, pack, replay)
    films = [Film(job.benchmark.spec().episode_steps) for _ in recordings] if job.log.video else []
    sink = Sink(job.log.wandb, job.spec, list(recordings), job.asked_by, job.label)
    before: Mapping[str, Any] = {"env_step": 0, "updates": 0, "wall_s": 0.0}
    try:
        with Meter(job.label, job.log.progress, job.log.every_s) as meter, closing(run(work, films)) as logged:
            for rows in logged:
                told = [None if r.diverged else row for r, row in zip(recordings.values(), rows, strict=True)]
                for recording, row in zip(recordings.values(), rows, strict=True):
                    recording.row(row)
                sink.rows(told)
                if all(recording.diverged for recording in recordings.values()):
                    break
                step = int(rows[0]["env_step"] or 0)
                returns = [float(row["train_return"]) for row in rows if row["train_return"] is not None]
                note = f"step {step:,}" + (f", return {sum(returns) / len(returns):.1f}" if returns else "")
                pace = throughput(before, rows[0], len(rows), job.spec.batch_size)
                before, note = rows[0], " · ".join(part for part in (note, pace) if part)
                meter.update(
                    cadence.updates_after(step // cadence.num_envs) / cadence.updates_after(cadence.total), note
                )
        videos = [
            (i, r.folder / "evaluation.gif") for i, r in enumerate(recordings.values()) if films and films[i].frames
        ]
        for index, path in videos:
            write_atomically(path, films[index].gif())
            sink.video(index, path)
            if job.log.progress:
                print(f"{job.label}: {path}", file=sys.stderr)
        provenance = {
            "asked_by": dict(job.asked_by),
            "source": None,
            "git": git_state(),
            "versions": versions(),
            "device": f"{jax.devices()[0].platform}: {jax.devices()[0].device_kind}",
            "pack_size": len(recordings),
            "started": started.isoformat(timespec="seconds"),
            "finished": datetime.now(UTC).isoformat(timespec="seconds"),
        }
        for member, recording in recordings.items():
            head = {"schema": 1, "run_id": run_id(job.spec, member)} | identity(job.spec, member)
            try:
                recording.finish(head | measured(job, recording, learner, time.monotonic() - clock) | provenance)
            except ClaimLost as lost:  # this process was suspended for minutes; the other's result is as good
                print(f"{job.label}: {lost}", file=sys.stderr)
        sink.finish()
    except (MemoryError, jax.errors.JaxRuntimeError) as error:
        what = " ".join(str(error).split("\n")[0].split()) or "no memory is left"
        if not isinstance(error, MemoryError) and not re.search(
            "out of memory|RESOURCE_EXHAUSTED", what, re.IGNORECASE
        ):
            raise
        raise Mistake(
            f"{job.label}: out of memory ({what}); pack fewer members, or lower budget.replay_capacity, "
            "benchmark.num_envs, hparams.batch_size or the learner's size"
        ) from error
    finally:
        for recording in recordings.values():
            recording.release()
        sink.finish(failed=True)  # what is not finished yet


def measured(job: Job, recording: Recording, learner: Algorithm, wall_s: float) -> dict[str, Any]:
    """The measured part of a record. Raises RuntimeError if a finished run's updates are not σ per transition."""
    last, cadence, diverged = recording.last, job.cadence, recording.diverged
    trained = last["env_step"] > cadence.warmup * cadence.num_envs
    realised = cadence.realised(last["updates"], last["env_step"]) if trained else None
    if not diverged and realised != job.spec.utd:
        raise RuntimeError(f"{job.label}: realised σ = {realised}, asked for {job.spec.utd}")
    return {
        "transitions": last["env_step"],
        "updates": last["updates"],
        "utd_realised": plain(realised),
        "n_params": learner.n_params,
        "flops_per_update": learner.flops_per_update,
        "wall_s": round(wall_s, 3),
        "status": "diverged" if diverged else "finished",
        "resumes": 0,
        "last": {name: None if diverged else last[name] for name in ("train_return", "eval_return")},
    }


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
        records = [r for m in job.members if (r := store.record(run_id(job.spec, m))) is not None]
        ratios += [r["wall_s"] / r["pack_size"] / job.nominal_seconds() for r in records if r["pack_size"]]
    if not ratios:
        return 1.0, "nominal: no run of it is recorded yet to go by"
    return sorted(ratios)[len(ratios) // 2], f"going by {len(ratios)} recorded runs"


def git_state() -> str | None:
    """Commit of the code, ``+`` if changed since; None outside of a checkout."""
    here = Path(__file__).resolve().parent
    try:
        call = {"cwd": here, "capture_output": True, "text": True, "check": True, "timeout": 10}
        commit = subprocess.run(["git", "rev-parse", "HEAD"], **call).stdout.strip()  # type: ignore[call-overload]
        changed = subprocess.run(["git", "status", "--porcelain", "-uno"], **call).stdout  # type: ignore[call-overload]
    except (OSError, subprocess.SubprocessError):
        return None
    return commit + ("+" if changed.strip() else "")


def versions() -> dict[str, str]:
    """Of Python and of what a result can depend on."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


# What a launcher needs to know of this door, without importing what a job imports.
main.typed_job, main.dry_report = typed_job, dry_report  # type: ignore[attr-defined]

if __name__ == "__main__":
    launchers.discover()
    door(main, "train")

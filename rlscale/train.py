"""The training door: compose → Job → what is missing → run → records.

python -m rlscale.train algorithm=sac benchmark=gym benchmark.task=HalfCheetah-v4 utd=2 'seed=[0,1,2,3]'
"""

from __future__ import annotations

import contextlib
import os
import platform
import re
import subprocess
import sys
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import launchers
from rlscale.door import door
from rlscale.job import Job, job_from
from rlscale.outlook import dry_report
from rlscale.progress import Meter, Pace, counted
from rlscale.sinks import Sink
from rlscale.spec import Member, identity, plain, run_id
from rlscale.store import ClaimLost, Recording, Store, write_atomically
from rlscale.typed import Mistake

if TYPE_CHECKING:
    from rlscale.checkpoint import Keeper
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


def typed_job(config: Any, beside: Collection[str] = ("hydra",)) -> Job:
    """The one function that sees the composed DictConfig; keys `beside` the job's are Hydra's or the caller's."""
    from hydra.core.hydra_config import HydraConfig
    from omegaconf import OmegaConf

    hydra = HydraConfig.get()

    def value_of(key: Any) -> Any:
        if OmegaConf.is_missing(config, key):  # ???, of which the key's type will say that it is none of its values
            return "???"
        value = config[key]
        return OmegaConf.to_container(value, resolve=True) if OmegaConf.is_config(value) else value

    data = {str(key): value_of(key) for key in config if key not in beside}
    return job_from(data, hydra.runtime.choices, hydra.overrides.task)


def execute(job: Job) -> float | None:
    """Train what is missing of a job; members that another process trains are waited for, and taken over if it dies."""
    store = Store()
    extras = [*(["a video"] if job.log.video else []), *(["diagnostics"] if job.diagnostics.names else [])]
    recorded = len(job.members) - len(job.missing(store))
    if extras and recorded and job.log.progress:
        what = f"{counted(recorded, 'run')} recorded already, not run again for {' and '.join(extras)}"
        print(f"{job.label}: {what}", file=sys.stderr)
    if job.log.video and recorded < len(job.members):
        try_camera(job)
    job.note_asker(store)
    waiting = False
    while lacking := job.missing(store):
        if not train_all(job, lacking, store):
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


def train_all(job: Job, lacking: Sequence[Member], store: Store) -> bool:
    """Train those members that can be claimed, those together that have come equally far; returns whether any could.

    Exits where a signal asks to.
    """
    from rlscale.checkpoint import Keeper, Stopped, listening, together

    recordings = dict[Member, Recording]()
    every_s = None if job.checkpoint.every is None else 60 * job.checkpoint.every
    try:
        with listening(job.label, every_s) as asked:
            for member in lacking:
                if (recording := store.claim(job.spec, member)) is not None:
                    recordings[member] = recording
            if not recordings:
                return False
            for pack in together(recordings):
                train(job, pack, Keeper(list(pack.values()), every_s, versions(), job.label, asked))
    except Stopped as stopped:
        print(f"{job.label}: {stopped}", file=sys.stderr)
        sys.exit(stopped.code)
    except Exception as error:
        for recording in recordings.values():
            recording.fail(error)
        raise
    finally:
        for recording in recordings.values():
            recording.release()
    return True


def train(job: Job, recordings: Mapping[Member, Recording], keeper: Keeper) -> None:
    """Train members as one pack, from their last checkpoint if there is one, and record each; a crash leaves no record.

    Raises Stopped where a signal asked to end.
    """
    import jax

    from rlscale.cycle import Run
    from rlscale.diagnostics.observed import Watch
    from rlscale.film import Film
    from rlscale.loop import run

    started, clock = datetime.now(UTC), time.monotonic()
    learner, cadence, on_cpu = job.learner(), job.cadence, jax.default_backend() == "cpu"
    pack = job.compute.pack if job.compute.pack != "auto" else "loop" if on_cpu else "vmap"
    replay = "device" if job.compute.replay == "auto" else job.compute.replay
    work = Run(learner, job.benchmark, list(recordings), cadence, job.spec.budget, job.spec.batch_size, pack, replay)
    films = [Film(job.benchmark.spec().episode_steps) for _ in recordings] if job.log.video else []
    watch = Watch(job.diagnostics, job.passive(), job.label)
    sink = Sink(job.log.wandb, job.spec, list(recordings), job.asked_by, job.label)
    pace = Pace(cadence, len(recordings), job.spec.batch_size)
    meter = Meter(job.label, job.log.progress, job.log.every_s)
    try:
        with meter, contextlib.closing(run(work, films, keeper, watch)) as logged:
            for rows in logged:
                taken = [recording.row(row) for recording, row in zip(recordings.values(), rows, strict=True)]
                sink.rows([row if counts else None for row, counts in zip(rows, taken, strict=True)])
                if all(recording.diverged for recording in recordings.values()):
                    break
                meter.update(*pace.at(rows, keeper.began.step, keeper.began.wall_s))
        for index, (recording, film) in enumerate(zip(recordings.values(), films, strict=False)):
            if not film.frames:
                continue
            path = recording.folder / "evaluation.gif"
            write_atomically(path, film.gif())
            sink.video(index, path)
            if job.log.progress:
                print(f"{job.label}: {path}", file=sys.stderr)
        wall_s = time.monotonic() - clock + keeper.began.wall_s
        about = provenance(job, len(recordings), started) | watch.told()
        for (member, recording), resumed in zip(recordings.items(), keeper.resumed, strict=True):
            head = {"schema": 1, "run_id": run_id(job.spec, member)} | identity(job.spec, member)
            try:
                recording.finish(head | measured(job, recording, learner, wall_s) | asdict(resumed) | about)
            except ClaimLost as lost:  # this process was suspended for minutes; the other's result is as good
                print(f"{job.label}: {lost}", file=sys.stderr)
        sink.finish()
    except (MemoryError, jax.errors.JaxRuntimeError) as error:
        if (mistake := out_of_memory(job, error)) is None:
            raise
        raise mistake from error
    finally:
        for recording in recordings.values():
            recording.release()
        sink.finish(failed=True)  # what is not finished yet


def out_of_memory(job: Job, error: Exception) -> Mistake | None:
    """The sentence for an error that is about memory; None for another one."""
    what = " ".join(str(error).split("\n")[0].split()) or "no memory is left"
    if not isinstance(error, MemoryError) and not re.search("out of memory|RESOURCE_EXHAUSTED", what, re.IGNORECASE):
        return None
    return Mistake(
        f"{job.label}: out of memory ({what}); pack fewer members, or lower budget.replay_capacity, "
        "benchmark.num_envs, hparams.batch_size or the learner's size"
    )


def provenance(job: Job, pack_size: int, started: datetime) -> dict[str, Any]:
    """The part of a record that says who asked for the run, and on what it was made."""
    import jax

    return {
        "asked_by": dict(job.asked_by),
        "source": None,
        "git": git_state(),
        "versions": versions(),
        "device": f"{jax.devices()[0].platform}: {jax.devices()[0].device_kind}",
        "pack_size": pack_size,
        "started": started.isoformat(timespec="seconds"),
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
    }


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
        "last": {name: None if diverged else last[name] for name in ("train_return", "eval_return")},
    }


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

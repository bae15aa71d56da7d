"""One job: the typed form of a composed config. A pack of members that share a spec, and where to compute it."""

from __future__ import annotations

import importlib
import os
import platform
from collections.abc import Mapping, Sequence
from ctypes.util import find_library
from dataclasses import dataclass, fields, replace
from fractions import Fraction
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from rlscale.cadence import Cadence, schedule
from rlscale.diagnostics.asked import Diagnostics
from rlscale.sinks import Wandb
from rlscale.spec import SPLITS, Budget, Member, RunSpec, run_id
from rlscale.store import Store
from rlscale.typed import Mistake, convert, described, nearest, typed

if TYPE_CHECKING:  # importing JAX must wait until `Compute.prepare` has set its environment
    from rlscale.types import Algorithm, Benchmark

KEYS = {
    "algorithm",
    "benchmark",
    "hparams",
    "budget",
    "compute",
    "checkpoint",
    "log",
    "diagnostics",
    "utd",
    "seed",
    "split",
    "dry",
}
# For estimates before any run of a study is there to go by: a plain CPU core, and what a step costs beside updates.
NOMINAL_FLOPS_PER_S, NOMINAL_S_PER_UPDATE, NOMINAL_S_PER_STEP = 1e11, 6e-5, 3e-5

DRAWING = {"egl": "EGL", "osmesa": "OSMesa"}  # values of MUJOCO_GL that need no screen, and their libraries


@dataclass(frozen=True)
class Compute:
    """Where a run computes; never part of its identity."""

    platform: Literal["auto", "cpu", "gpu"]
    replay: Literal["auto", "device", "host"]
    pack: Literal["auto", "loop", "vmap"]
    compilation_cache: bool

    def prepare(self) -> None:
        """Set what JAX reads once, when it is first imported; what the user's environment sets already stays."""
        if self.platform != "auto":
            os.environ.setdefault("JAX_PLATFORMS", {"cpu": "cpu", "gpu": "cuda"}[self.platform])
        if self.compilation_cache:
            # One folder for each kind of host: a program compiled for one CPU can crash on another.
            flags = Path("/proc/cpuinfo")
            kind = sha256(next((x for x in flags.read_text().split("\n") if "flags" in x), "").encode()).hexdigest()[:8]
            folder = Path.home() / ".cache" / "rlscale" / f"xla-{platform.node()}-{kind}"
            os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(folder))
            os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.2")
            os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "-1")


@dataclass(frozen=True)
class Checkpoint:
    """How often a run's state is kept; never part of its identity."""

    every: float | None  # minutes

    def __post_init__(self) -> None:
        if self.every is not None and not self.every >= 0:
            raise ValueError(f"every={self.every}: give minutes, 0 or more, or null for no checkpoints")


@dataclass(frozen=True)
class Log:
    """What is shown of a run; never part of its identity."""

    progress: bool
    every_s: float
    video: bool
    wandb: Wandb | None

    def prepare(self) -> None:
        """Choose how MuJoCo draws without a screen, before its first import; what the environment sets stays.

        Raises Mistake if a video is asked for and nothing could be drawn that way.
        """
        if not self.video:
            return
        found = [way for way, library in DRAWING.items() if find_library(library)]
        mend = "unset it" if found else "run apt-get install libegl1 (or libosmesa6)"
        if "MUJOCO_GL" not in os.environ:
            if not found:
                raise Mistake(f"log.video=true: there is no library to draw with; {mend}")
            os.environ["MUJOCO_GL"] = found[0]
        if os.environ["MUJOCO_GL"] not in (*found, "glfw"):
            raise Mistake(f"log.video=true: nothing can be drawn with MUJOCO_GL={os.environ['MUJOCO_GL']}; {mend}")


@dataclass(frozen=True)
class Job:
    """A spec, the members that were asked for, and how to make the learner and the task."""

    spec: RunSpec
    members: tuple[Member, ...]
    algorithm: Any
    benchmark: Benchmark
    compute: Compute
    checkpoint: Checkpoint
    log: Log
    diagnostics: Diagnostics
    asked_by: Mapping[str, Any]
    dry: bool

    @property
    def label(self) -> str:
        """One line for people."""
        spec = self.spec
        return f"{spec.algorithm['name']} {spec.task} σ={spec.utd} B={spec.batch_size} ×{len(self.members)}"

    @property
    def cadence(self) -> Cadence:
        budget = self.spec.budget
        return schedule(self.spec.utd, self.benchmark.num_envs, budget.env_steps, budget.warmup_steps)

    def learner(self) -> Algorithm:
        """The algorithm's functions for this task, σ and batch size."""
        env = self.benchmark.spec()._replace(num_envs=self.benchmark.num_envs)
        made: Algorithm = self.algorithm.make(env, self.spec.utd, self.spec.batch_size)
        return made

    def passive(self) -> dict[int, Algorithm]:
        """The learner at each width that its passive critics have."""
        asked, env = self.diagnostics.passive_critic, self.benchmark.spec()._replace(num_envs=self.benchmark.num_envs)
        return {
            width: replace(self.algorithm, width=width).make(env, self.spec.utd, self.spec.batch_size)
            for width in (asked.widths if asked else ())
        }

    @cached_property  # a sweep asks again and again, of thousands of members
    def runs(self) -> Mapping[Member, str]:
        """The run_id of each member."""
        return {m: run_id(self.spec, m) for m in self.members}

    def missing(self, store: Store) -> list[Member]:
        """The members without a record."""
        return [m for m, run in self.runs.items() if store.record(run) is None]

    def free(self, store: Store) -> bool:
        """Whether a member without a record is not being trained by another process."""
        return any(not store.held(self.runs[m]) for m in self.missing(store))

    def share_done(self, store: Store) -> float:
        """How far the members without a record are, from 0 to 1, by their curves."""
        lacking = self.missing(store)
        steps = [store.last_env_step(self.runs[m]) for m in lacking]
        return sum(steps) / (len(steps) * self.cadence.total * self.cadence.num_envs) if steps else 1.0

    def note_asker(self, store: Store) -> None:
        """Let members that another sweep recorded be found by this one's name too, and tidy up after them."""
        for run in self.runs.values():
            store.also_asked_by(run, self.asked_by)
            store.tidy(run)

    def result(self, store: Store) -> float | None:
        """What a sweeper may optimise: the mean over members of the last return, evaluated if there was one."""
        records = [store.record(run) for run in self.runs.values()]
        last = [r["last"] for r in records if r is not None]
        returns = [x["train_return"] if x["eval_return"] is None else x["eval_return"] for x in last]
        return None if not returns or None in returns else sum(returns) / len(returns)

    def nominal_seconds(self) -> float:
        """A rough cost of one member on one core, before anything was measured."""
        cadence, updates = self.cadence, self.cadence.updates_after(self.cadence.total)
        per_update = self.learner().flops_per_update / NOMINAL_FLOPS_PER_S + NOMINAL_S_PER_UPDATE
        return updates * per_update + cadence.total * cadence.num_envs * NOMINAL_S_PER_STEP

    def bytes_per_member(self) -> int:
        """Memory of one member: its replay, and parameters with both Adam moments and a gradient (float32)."""
        env, rows = self.benchmark.spec(), self.cadence.capacity(self.spec.budget.replay_capacity)
        return 4 * (rows * (2 * env.obs_dim + env.action_dim + 2) + 4 * self.learner().n_params["total"])


def job_from(config: Mapping[str, Any], choices: Mapping[str, Any], overrides: Sequence[str]) -> Job:
    """The typed job of a composed config, given as plain data; `choices` are Hydra's options by group.

    Raises Mistake for anything a user can get wrong, before anything slow starts or is written.
    """
    for key in config:
        if key not in KEYS:
            raise Mistake(f"{key}={config[key]}: there is no such key; {nearest(key, KEYS)}")
    compute = typed(Compute, config["compute"], "compute")
    compute.prepare()
    algorithm = component(config["algorithm"], "algorithm")
    benchmark = component(config["benchmark"], "benchmark")
    log = typed(Log, config["log"], "log")
    if log.video and not hasattr(benchmark, "filmed"):
        having = "gym and dmc (backend=python), humanoid_bench and franka (engine=c)"
        raise Mistake(f"log.video=true: benchmark={benchmark.name} has no pictures; {having} have")
    log.prepare()
    hparams = component(config["hparams"], "hparams")
    budget = typed(Budget, config["budget"], "budget")
    if isinstance(config["utd"], list):
        values = ",".join(map(str, config["utd"]))
        raise Mistake(f"utd=[{values}]: σ is control flow and cannot be packed in brackets; sweep it, -m utd={values}")
    utd = convert(config["utd"], Fraction, "utd")
    if utd <= 0:
        raise Mistake(f"utd={utd}: the updates-to-data ratio must be above 0; give one such as 1/4 or 2")
    benchmark.spec()  # raises if there is no such task

    def n_params() -> int:
        env = benchmark.spec()._replace(num_envs=benchmark.num_envs)
        return int(algorithm.make(env, utd, 1).n_params["critic"])  # the same for every batch size

    batch_size = hparams.batch(utd, benchmark.task, n_params)
    spec = RunSpec(described(algorithm), described(benchmark), utd, batch_size, budget)
    seeds = config["seed"] if isinstance(config["seed"], list) else [config["seed"]]
    rates = hparams.rates(utd, benchmark.task, n_params)
    members = tuple(typed(Member, {"seed": s, "learning_rate": r}, "member") for r in rates for s in seeds)
    if not members:
        raise Mistake(f"seed={config['seed']}: there is nothing to train; give at least one seed and one learning rate")
    if len(set(members)) < len(members):
        raise Mistake(f"seed={config['seed']}: a member is asked for twice; give each seed and learning rate once")
    if (split := config["split"]) is not None and split not in SPLITS:
        raise Mistake(f"split={split}: there is no such split; {nearest(str(split), SPLITS)}")
    asked_by = {"sweep": choices.get("sweep"), "hparams": choices.get("hparams"), "split": split}
    asked_by["overrides"] = list(overrides)
    keep, dry = typed(Checkpoint, config["checkpoint"], "checkpoint"), convert(config["dry"], bool, "dry")
    looks = dict.fromkeys((f.name for f in fields(Diagnostics)), None) | dict(config.get("diagnostics") or {})
    diagnostics = typed(Diagnostics, looks, "diagnostics")
    job = Job(spec, members, algorithm, benchmark, compute, keep, log, diagnostics, asked_by, dry)
    check_lengths(job)
    check_diagnostics(job)
    if log.video and not budget.evaluations(job.cadence.total * benchmark.num_envs):
        raise Mistake(
            "log.video=true: the last evaluation is what is filmed, and this budget has none; set budget.eval_every "
            f"to at most {budget.env_steps}"
        )
    return job


def check_lengths(job: Job) -> None:
    """Raises Mistake where a run's warm-up is too short for its returns, or its counts too large for the device."""
    budget, cadence = job.spec.budget, job.cadence
    n = job.spec.algorithm.get("n_step", 1)
    if cadence.warmup < n - 1:
        raise Mistake(
            f"budget.warmup_steps={budget.warmup_steps}: the first return over algorithm.n_step={n} steps would come "
            f"after the first update; give {(n - 2) * cadence.num_envs + 1} or more"
        )
    # What a learner counts and where a transition lies are int32 there; env steps are Python's and have no bound.
    if (updates := cadence.updates_after(cadence.total)) >= 2**31:
        raise Mistake(f"budget.env_steps={budget.env_steps}: {updates:,} updates are more than 2^31; give fewer")
    if (rows := cadence.capacity(budget.replay_capacity)) >= 2**31:
        raise Mistake(
            f"budget.replay_capacity={'null' if budget.replay_capacity is None else budget.replay_capacity}: {rows:,} "
            "transitions are more than 2^31; give fewer"
        )


def check_diagnostics(job: Job) -> None:
    """Raises Mistake where what is asked for cannot be looked at."""
    asked, name = f"diagnostics=[{','.join(job.diagnostics.names)}]", job.spec.algorithm["name"]
    if job.diagnostics.names and job.compute.replay == "host":
        raise Mistake(f"{asked}: they look at a replay on the device; set compute.replay=auto")
    if job.diagnostics.names and job.learner().critic is None:
        raise Mistake(f"{asked}: algorithm={name} does not show its critic; choose another, or no diagnostics")
    if job.diagnostics.passive_critic and "width" not in job.spec.algorithm:
        raise Mistake(f"{asked}: algorithm={name} has no width, so passive_critic has none to change; leave it out")


def component(values: Mapping[str, Any], where: str) -> Any:
    """The frozen dataclass that an option's `_target_` names, with the option's other keys as fields.

    One whose fields decide which of several classes it is has `chosen`, which returns that one.
    """
    target = str(values.get("_target_"))
    module, _, name = target.rpartition(".")
    try:
        cls = getattr(importlib.import_module(module), name)
    except (ImportError, ValueError, AttributeError) as error:
        raise Mistake(f"{where}._target_={target}: this cannot be imported ({error}); name a class") from None
    made = typed(cls, {k: v for k, v in values.items() if k != "_target_"}, where)
    return made.chosen() if hasattr(made, "chosen") else made

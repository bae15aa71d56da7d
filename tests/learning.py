"""Does it learn like the published runs? Named checks against published curves, as a table.

python -m tests.learning                       every check (hours on two cores)
python -m tests.learning pendulum halfcheetah  only those whose name contains one of the words

A check trains its seeds through the ordinary command line into the study's records, so one that is recorded costs
nothing, and compares the mean over seeds with the published mean: two-sided within 3·std·√(1/n + 1/n_ref), or a floor.
Where nothing is published, another learner and random actions stand beside it.
"""

from __future__ import annotations

import csv
import subprocess
import sys
import warnings
from dataclasses import dataclass
from datetime import date
from math import sqrt
from typing import Any

import numpy as np

from rlscale.job import Job, job_from
from rlscale.spec import run_id
from rlscale.store import Store
from rlscale.train import versions


@dataclass(frozen=True)
class Published:
    """A published level: mean and standard deviation over `seeds` runs."""

    mean: float
    std: float
    seeds: int

    def band(self, n: int) -> tuple[float, float]:
        """Where the mean of n of our runs must lie."""
        half = 3 * self.std * sqrt(1 / n + 1 / self.seeds)
        return self.mean - half, self.mean + half


@dataclass(frozen=True)
class Check:
    """One level of one run: which command, which column, when, and what is expected."""

    name: str
    overrides: tuple[str, ...]
    column: str
    at: int  # env step; 0: episodes of uniformly random actions
    window: int  # env steps before `at` whose rows are averaged
    expected: Published | float | None  # a float is a floor, None stands beside another check
    source: str
    seeds: int = 4


def sac(task: str, utd: str, batch_size: int, learning_rate: str, env_steps: int) -> tuple[str, ...]:
    """SAC of the scaling paper on a Gym task: 2×256, warm-up 5,000, no evaluation (its metric is the online return)."""
    budget = (f"budget.env_steps={env_steps}", "budget.warmup_steps=5000", "budget.eval_every=null")
    hparams = (f"hparams.batch_size={batch_size}", f"hparams.learning_rate={learning_rate}")
    return ("algorithm=sac", "benchmark=gym", f"benchmark.task={task}", f"utd={utd}", *hparams, *budget)


def bro(task: str, width: int, blocks: int, batch_size: int, env_steps: int, *more: str) -> tuple[str, ...]:
    """BRO at σ = 2 on a DMC task, η = 3e-4, warm-up 2,500, five episodes of evaluation every 25,000 env steps."""
    size = (f"algorithm.width={width}", f"algorithm.blocks={blocks}", f"hparams.batch_size={batch_size}")
    budget = (f"budget.env_steps={env_steps}", "budget.warmup_steps=2500")
    return ("algorithm=bro", "benchmark=dmc", f"benchmark.task={task}", "utd=2", *size, *budget, *more)


def simbav2(task: str, width: int, blocks: int, batch_size: int, env_steps: int) -> tuple[str, ...]:
    """SimbaV2 at σ = 1 on a DMC task as published but for its size: each action twice, one critic; η = 3e-4."""
    size = (f"algorithm.width={width}", f"algorithm.blocks={blocks}", "algorithm.actor_width=64", "algorithm.critics=1")
    rates = ("hparams.learning_rate=3e-4", "algorithm.actor_learning_rate=3e-4")
    budget = (f"budget.env_steps={env_steps}", f"algorithm.decay_env_steps={env_steps}", "budget.warmup_steps=2500")
    suite = ("benchmark=dmc", f"benchmark.task={task}", "benchmark.action_repeat=2", "budget.eval_every=5000")
    return ("algorithm=simbav2", *suite, "utd=1", f"hparams.batch_size={batch_size}", *size, *rates, *budget)


def parallel(suite: str, task: str, copies: int, utd: str) -> tuple[str, ...]:
    """A task of many copies, B = 512, η = 5e-4."""
    chosen = (f"benchmark={suite}", f"benchmark.task={task}", f"benchmark.num_envs={copies}", f"utd={utd}")
    return (*chosen, "hparams.batch_size=512", "hparams.learning_rate=5e-4")


PAPER = "scaling paper's runs, 8 seeds"
PENDULUM = (
    *("algorithm=sac", "benchmark=gym", "benchmark.task=Pendulum-v1", "utd=1"),
    *("hparams.batch_size=256", "hparams.learning_rate=1e-3"),
    *("budget.env_steps=6000", "budget.warmup_steps=500", "budget.eval_every=6000", "budget.eval_episodes=10"),
)
CHEETAH_1 = sac("HalfCheetah-v4", "1", 512, "2e-3", 30_000)
CHEETAH_QUARTER = sac("HalfCheetah-v4", "1/4", 512, "2e-3", 39_000)
BRO_PAPER = "BRO's ablation runs, 10 seeds"
# Stock BRO at σ = 2 resets once, at env step 15,001.
STOCK = ("algorithm.reset.mode=env_steps", "algorithm.reset.at=[15001]")
DMC_CHEETAH = bro("cheetah-run", 128, 1, 128, 100_000, *STOCK)
CARTPOLE = bro("cartpole-swingup", 128, 1, 128, 40_000)
SIMBAV2_CARTPOLE = simbav2("cartpole-swingup", 128, 1, 64, 20_000)
PQL = ("algorithm=pql", "algorithm.hidden=[256,128,64]")
ANT = (
    *(*PQL, *parallel("brax", "ant", 128, "1/16"), "budget.env_steps=512000", "budget.warmup_steps=12800"),
    *("budget.log_every=64000", "budget.eval_every=512000", "budget.eval_episodes=16"),
)
PUSH = (
    *(*parallel("franka", "franka_push", 256, "1/64"), "benchmark.spread=0.15", "budget.warmup_steps=25600"),
    *("budget.log_every=128000", "budget.eval_every=1024000", "budget.eval_episodes=64"),
    "budget.replay_capacity=1000000",
)
SAC_PUSH = ("algorithm=sac", *PUSH, "budget.env_steps=5120000")
PQL_PUSH = (*PQL, "algorithm.reward_scale=0.01", *PUSH, "budget.env_steps=6000000")
CHECKS = (
    Check("pendulum", PENDULUM, "eval_return", 6_000, 1, -250.0, "a floor; plain SAC gets −114±43"),
    Check("halfcheetah σ=1 15k", CHEETAH_1, "train_return", 15_000, 3_000, Published(513, 168, 8), PAPER),
    Check("halfcheetah σ=1 20k", CHEETAH_1, "train_return", 20_000, 3_000, Published(1795, 438, 8), PAPER),
    Check("halfcheetah σ=1 30k", CHEETAH_1, "train_return", 30_000, 3_000, Published(3045, 566, 8), PAPER),
    Check("halfcheetah σ=1/4 30k", CHEETAH_QUARTER, "train_return", 30_000, 3_000, Published(201, 91, 8), PAPER),
    Check("halfcheetah σ=1/4 39k", CHEETAH_QUARTER, "train_return", 39_000, 3_000, Published(917, 142, 8), PAPER),
    *(
        Check(f"{task.split('-')[0].lower()} σ=1 50k", run, "train_return", 50_000, 10_000, expected, PAPER)
        for task, run, expected in (
            ("Walker2d-v4", sac("Walker2d-v4", "1", 128, "5e-4", 50_000), Published(511, 153, 8)),
            ("Ant-v4", sac("Ant-v4", "1", 256, "1e-4", 50_000), Published(555, 144, 8)),
            ("Humanoid-v4", sac("Humanoid-v4", "1", 256, "2e-4", 50_000), Published(456, 18, 8)),
        )
    ),
    Check("bro cartpole-swingup 40k", CARTPOLE, "train_return", 40_000, 5_000, 750.0, "a floor; at full size 835±21"),
    *(
        Check(f"bro xs cheetah-run {at // 1000}k", DMC_CHEETAH, "eval_return", at, 1, expected, BRO_PAPER)
        for at, expected in (
            (50_000, Published(155.3, 44.7, 10)),
            (75_000, Published(227.3, 72.9, 10)),
            (100_000, Published(365.1, 32.0, 10)),
        )
    ),
    Check(
        *("simbav2 cartpole-swingup 20k", SIMBAV2_CARTPOLE, "eval_return", 20_000, 1, 430.0),
        "a floor, half of the published 861 at full size with 2.5 times the data and 6 times the updates",
    ),
    Check("pql brax ant 512k", ANT, "eval_return", 512_000, 1, 2_000.0, "a floor; standing still pays 1,000", 3),
    Check("random franka_push return", PUSH, "eval_return", 0, 1, None, "first episodes of 256 copies"),
    Check("sac franka_push 5.1M return", SAC_PUSH, "eval_return", 5_120_000, 1, None, "64 episodes", seeds=1),
    Check("pql franka_push 5.1M return", PQL_PUSH, "eval_return", 5_120_000, 1, None, "64 episodes", seeds=2),
    Check("random franka_push success", PUSH, "eval_success", 0, 1, None, "first episodes of 256 copies"),
    Check("sac franka_push 5.1M success", SAC_PUSH, "eval_success", 5_120_000, 1, None, "64 episodes", seeds=1),
    Check("pql franka_push 5.1M success", PQL_PUSH, "eval_success", 5_120_000, 1, 0.2, "a floor", seeds=2),
)


def job_of(check: Check) -> Job:
    """All its seeds, as one job."""
    from hydra import compose, initialize_config_dir
    from omegaconf import OmegaConf

    from rlscale.door import CONF

    warnings.filterwarnings("ignore", message=r"provider=hydra.searchpath")  # no emitted options are needed
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = OmegaConf.to_container(
            compose("train", [*check.overrides, f"seed={list(range(check.seeds))}"]), resolve=True
        )
    return job_from(config, {}, ())  # type: ignore[arg-type]


def measure(check: Check) -> list[float]:
    """The level of each seed: the mean of the column's rows in (at − window, at]."""
    job = job_of(check)
    if not check.at:
        return [at_random(job, member.seed)[check.column] for member in job.members]
    levels = []
    for member in job.members:
        with (Store().runs / run_id(job.spec, member) / "curve.csv").open() as file:
            rows = [r for r in csv.DictReader(file) if check.at - check.window < int(r["env_step"]) <= check.at]
        values = [float(r[check.column]) for r in rows if r[check.column]]
        levels.append(sum(values) / len(values))
    return levels


def at_random(job: Job, seed: int) -> dict[str, float]:
    """Return and success of the first episode of each copy of a host task."""
    suite: Any = job.benchmark
    env, rng, spec = suite.make(seed), np.random.default_rng(seed), suite.spec()
    env.reset()
    returns, success, over = (np.zeros(suite.num_envs) for _ in range(3))
    while not over.all():
        out = env.step(rng.uniform(-1, 1, (len(over), spec.action_dim)).astype(np.float32))
        returns += (1 - over) * out.reward
        success += (1 - over) * suite.succeeded(out.final_obs)
        over = np.maximum(over, out.terminated | out.truncated)
    env.close()
    return {"eval_return": returns.mean(), "eval_success": success.mean()}


def figure(value: float) -> str:
    """A return as a whole number, a share with two decimals."""
    return f"{value:,.0f}" if abs(value) >= 10 else f"{value:.2f}"


def main(words: list[str]) -> int:
    """Run the chosen checks and print the table; returns the number that failed."""
    checks = [c for c in CHECKS if not words or any(w in c.name for w in words)]
    # One process for each seed, so that all cores work: the members are the same either way.
    for overrides, n in dict.fromkeys((c.overrides, c.seeds) for c in checks if c.at):
        seeds = ",".join(map(str, range(n)))
        subprocess.run([sys.executable, "-m", "rlscale.train", "-m", *overrides, f"seed={seeds}"], check=True)
    failed = 0
    print(f"\n{date.today()} · " + ", ".join(f"{k} {v}" for k, v in versions().items()))
    print(f"{'check':<30} {'mean':>8} {'of seeds':<28} {'must be':<20} {'verdict':<8} basis")
    for check in checks:
        levels = measure(check)
        mean = sum(levels) / len(levels)
        if isinstance(check.expected, Published):
            low, high = check.expected.band(len(levels))
            bar = f"{figure(low)} … {figure(high)}"
        elif check.expected is None:
            low, high, bar = -float("inf"), float("inf"), "(beside the others)"
        else:
            low, high, bar = check.expected, float("inf"), f"≥ {figure(check.expected)}"
        held = low <= mean <= high
        failed += not held
        verdict = "" if check.expected is None else "held" if held else "MISSED"
        each = ", ".join(map(figure, levels))
        print(f"{check.name:<30} {figure(mean):>8} {each:<28} {bar:<20} {verdict:<8} {check.source}")
    return failed


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""The scale of massively parallel simulation: σ far below one is exact to the record, and a clock has no end."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from omegaconf import OmegaConf

from rlscale.cycle import Run
from rlscale.device_executor import DeviceExecutor
from rlscale.host_executor import HostExecutor
from rlscale.job import Job, job_from
from rlscale.spec import run_id
from rlscale.store import Store
from rlscale.train import execute
from rlscale.typed import Mistake
from tests.contract.learners import data
from tests.contract.runs import LEARNERS, TASKS, Asked, probe, real, work

pytestmark = pytest.mark.usefixtures("quick_compiles")
CONF = Path(__file__).parents[1] / "conf"


def job(algorithm: str, utd: str, num_envs: int, **budget: Any) -> Job:
    """A small learner on toy; the budget is `smoke` with some fields changed."""
    names = {"algorithm": algorithm, "benchmark": "toy", "hparams": "constant", "budget": "smoke"}
    names |= {"compute": "cpu", "log": "none"}
    config: Any = {k: OmegaConf.to_container(OmegaConf.load(CONF / k / f"{name}.yaml")) for k, name in names.items()}
    config["algorithm"] |= {"hidden": [8]} if "hidden" in config["algorithm"] else {"width": 8}
    config["benchmark"]["num_envs"] = num_envs
    config["hparams"]["batch_size"] = 16
    config["budget"] |= budget
    rest = {"checkpoint": {"every": None}, "utd": utd, "seed": 0, "split": None, "dry": False}
    return job_from(config | rest, {}, ())


SMALL = [(f"1/{2**k}", 4096) for k in range(10, 17)] + [("1/64", 16), ("3/4000", 24)]


@pytest.mark.slow
@pytest.mark.parametrize(("utd", "num_envs"), SMALL)
def test_a_small_ratio_is_exact_to_the_record(utd: str, num_envs: int, study: Path) -> None:
    """PQL's published settings and others: so many updates, no more and no fewer, and half as many of the policy."""
    warmup = 3 * num_envs
    steps = warmup + 3 * Fraction(utd).denominator
    asked = job("pql", utd, num_envs, warmup_steps=warmup, env_steps=steps, log_every=steps, eval_every=None)
    execute(asked)
    record = Store().record(run_id(asked.spec, asked.members[0]))
    assert record is not None and record["status"] == "finished"
    assert record["utd_realised"] == utd
    assert record["updates"] == Fraction(utd) * (record["transitions"] - warmup) >= 3 * Fraction(utd).numerator


@pytest.mark.slow
@pytest.mark.parametrize("task", ["reach", "device_reach"])
def test_the_policy_has_its_exact_share_of_updates(task: str) -> None:
    """Two for every five of the critic's, by the optimisers' own count, however many a vector step is followed by."""
    asked = Asked(task, utd=Fraction(5, 8), num_envs=4, env_steps=120, log_every=4)
    algorithm = real("pql", TASKS[task].spec(), updates_per_policy_update="5/2")
    executor: Any = (DeviceExecutor if task == "device_reach" else HostExecutor)(work(asked, algorithm))
    for step in range(30):
        executor.advance(step, step + 1)
        learner = executor.carries[0][0] if task == "device_reach" else executor.carries[0]
        made = max(0, step + 1 - 5) * 5 // 2
        counts = {
            net: [int(x) for x in jax.tree.leaves(opt) if x.dtype == np.int32] for net, opt in learner.state.opt.items()
        }
        assert counts == {"critic": [made], "actor": [made * 2 // 5]}


# The clock


def run_from(kind: Any, job: Run, start: int, steps: int) -> list[np.ndarray]:
    """What there is after 50 steps from the beginning and then `steps` ones numbered from `start`."""
    executor, step = kind(job), 0
    for first, stop in ((0, 50), (start, start + steps)):
        step = first
        while step < stop:
            step = executor.advance(step, stop)
    ended, updates, metrics = executor.read()
    return [*data(executor.carries), ended, updates, *metrics.values(), executor.evaluate(step)[0]]


@pytest.mark.parametrize("passed", [*(pytest.param(n, marks=pytest.mark.slow) for n in (2**31, 2**32)), 10**10])
@pytest.mark.parametrize("task", ["reach", pytest.param("device_reach", marks=pytest.mark.slow)])
def test_a_run_does_the_same_however_late_it_is(task: str, passed: int) -> None:
    """With one copy, so that env steps and vector steps alike pass int32, uint32 and the paper's longest run; returns
    over three steps, a ring that wraps, σ = 1/4. Nothing in task or learner is random, so all must be equal to the bit.
    """
    asked = Asked(task, utd=Fraction(1, 4), env_steps=2 * passed, warmup_steps=20, replay_capacity=30, log_every=100)
    algorithm = LEARNERS["windowed"](TASKS[task].spec())._replace(act=probe(TASKS[task].spec()).act)
    run = work(asked, algorithm)
    kind = DeviceExecutor if task == "device_reach" else HostExecutor
    cycle = 60  # of the ring (30) and of the updates (4)
    late = passed // cycle * cycle - cycle + 50
    assert late < passed < late + 90
    for early, then in zip(run_from(kind, run, 50, 90), run_from(kind, run, late, 90), strict=True):
        np.testing.assert_array_equal(early, then)


# What cannot be


def test_lengths_that_cannot_be_are_mistakes() -> None:
    with pytest.raises(Mistake, match=r"^budget\.warmup_steps=4096: the first return over algorithm\.n_step=3 .* 4097"):
        job("pql", "1/4096", 4096, warmup_steps=4096, env_steps=10**5)
    job("pql", "1/4096", 4096, warmup_steps=4097, env_steps=10**5)
    job("sac", "1/4096", 4096, warmup_steps=1, env_steps=10**5)
    job("pql", "1/512", 4096, warmup_steps=131_072, env_steps=10**10, replay_capacity=5_000_000)
    with pytest.raises(Mistake, match=r"^budget\.env_steps=10000000000: 4,999,936,000 updates are more than 2\^31"):
        job("pql", "1/2", 4096, warmup_steps=131_072, env_steps=10**10, replay_capacity=5_000_000)
    with pytest.raises(Mistake, match=r"^budget\.replay_capacity=null: 10,000,003,072 transitions are more than 2\^31"):
        job("pql", "1/512", 4096, warmup_steps=131_072, env_steps=10**10)

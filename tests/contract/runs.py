"""Short runs of small things: two tasks twice, a probe in the place of a learner, and a run in few words."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from omegaconf import OmegaConf

from rlscale.benchmarks.control import Control
from rlscale.benchmarks.toy import Toy
from rlscale.cadence import schedule
from rlscale.cycle import Run
from rlscale.job import component
from rlscale.loop import Row, run
from rlscale.spec import Budget, Member
from rlscale.types import Algorithm, DeviceEnv, EnvSpec, HostEnv, Hyper, NStep, Step, TrainState, Transition
from tests.contract.learners import OPTIONS

B = 16
MEMBERS = (Member(0, 1e-3), Member(1, 1e-3), Member(0, 1e-2))


# Tasks


@dataclass(frozen=True)
class DeviceReach:
    """toy's `reach` as pure functions: nothing in it is random, so both executors must do the same with it."""

    name: str
    task: str
    num_envs: int

    def spec(self) -> EnvSpec:
        return Toy("toy", "reach", 1).spec()

    def functions(self) -> DeviceEnv:
        def step(state: Any, action: Any) -> Any:
            x, age = state[0] + 0.25 * jnp.clip(action[0], -1, 1), state[1] + 1
            terminated = x >= 1
            truncated = (age >= 20) & ~terminated
            over = terminated | truncated
            new = jnp.where(over, 0.0, x)
            return (new, jnp.where(over, 0, age)), Step(new[None], jnp.float32(-1), terminated, truncated, x[None])

        return DeviceEnv(lambda _: ((jnp.float32(0), jnp.int32(0)), jnp.zeros(1)), step)


@dataclass(frozen=True)
class Watched:
    """A toy task that notes what is done with its environments; evaluations make more of them."""

    name: str
    task: str
    num_envs: int
    made: list[WatchedEnv]

    def spec(self) -> EnvSpec:
        return Toy("toy", self.task, 1).spec()

    def make(self, seed: int) -> HostEnv:
        self.made.append(WatchedEnv(Toy("toy", self.task, self.num_envs).make(seed)))
        return self.made[-1]


class WatchedEnv:
    def __init__(self, env: HostEnv):
        self.env, self.actions, self.steps, self.closed = env, list[np.ndarray](), list[Step](), False

    def reset(self) -> Any:
        return self.env.reset()

    def step(self, action: Any) -> Step:
        self.actions.append(np.array(action))
        self.steps.append(self.env.step(action))
        return self.steps[-1]

    def close(self) -> None:
        self.closed = True


TASKS: dict[str, Any] = {
    "toy": Toy("toy", "track", 1),
    "control": Control("control", "pendulum", 1),
    "reach": Toy("toy", "reach", 1),
    "device_reach": DeviceReach("device", "reach", 1),
}


# Learners


def real(name: str, env: EnvSpec, **fields: Any) -> Algorithm:
    """A learner as its option has it, but narrow."""
    values: dict[str, Any] = OmegaConf.to_container(OmegaConf.load(OPTIONS[name]))  # type: ignore[assignment]
    narrow = {key: value for key, value in (("width", 8), ("actor_width", 8), ("hidden", [8])) if key in values}
    made: Algorithm = component(values | narrow | fields, "algorithm").make(env, Fraction(1), B)
    return made


def probe(env: EnvSpec, traces: list[int] | None = None, drifting: bool = False) -> Algorithm:
    """A number that follows what the batches hold, by η; it reports on them, and costs next to nothing to compile.

    It explores with 0.5 and acts with 1 otherwise; drifting, its actions depend on all that a learner's may depend on.
    """

    def init(key: Any, hyper: Hyper) -> TrainState:
        return TrainState(jax.random.normal(key), (), (), hyper, key, jnp.int32(0))

    def act(state: TrainState, obs: Any, key: Any, explore: bool) -> Any:
        shape = (*obs.shape[:-1], env.action_dim)
        if not drifting:
            return jnp.full(shape, 0.5 if explore else 1.0)
        noise = jax.random.normal(key, shape) if explore else 0.0
        return jnp.tanh(state.params + obs.sum(-1, keepdims=True) + noise)

    def update(state: TrainState, batch: Transition) -> Any:
        if traces is not None:
            traces.append(1)
        seen = (batch.obs.sum(-1) + batch.action.sum(-1) + batch.reward).mean()
        value = state.params + state.hyper.learning_rate * (seen - state.params)
        # of `reach`: a transition is a step of that task, and a row of the replay that was never written is none
        astray = jnp.abs(batch.next_obs - batch.obs - batch.action / 4).max()
        ended = (batch.discount == 0) != (batch.next_obs[..., 0] >= 1)
        wrong = (astray > 1e-5) | ended.any() | (batch.reward != -1).any()
        # a learner that diverges, for the asking
        value = jnp.where(state.hyper.learning_rate > 1, jnp.nan, value)
        metrics = {"value": value, "count": state.updates.astype(jnp.float32) + 1, "wrong": wrong.astype(jnp.float32)}
        return state.replace(params=value, updates=state.updates + 1), metrics

    return Algorithm(init, act, update, {"critic": 1, "actor": 1, "total": 2}, 1.0)


LEARNERS: dict[str, Callable[[EnvSpec], Algorithm]] = {
    "sac": functools.partial(real, "sac"),
    "bro": functools.partial(real, "bro", actor_blocks=0, blocks=1, quantiles=5),
    "pql": functools.partial(real, "pql", lag=1),  # with its window, its statistics and its hand-over
    "simbav2": functools.partial(real, "simbav2", atoms=11),  # with what it keeps of each copy
    "probe": probe,
    "drifting": functools.partial(probe, drifting=True),
    "windowed": lambda env: probe(env, drifting=True)._replace(n_step=NStep(3, 0.9)),
}


class Asked(NamedTuple):
    """A run in few words."""

    task: str
    learner: str = "drifting"
    members: tuple[Member, ...] = MEMBERS[:1]
    utd: Fraction = Fraction(1)
    num_envs: int = 1
    env_steps: int = 60
    warmup_steps: int = 20
    log_every: int = 20
    eval_every: int | None = None
    replay_capacity: int | None = 64
    pack: str = "loop"
    replay: str = "device"


def work(asked: Asked, algorithm: Algorithm | None = None, benchmark: Any = None) -> Run:
    if benchmark is None:
        benchmark = type(TASKS[asked.task])(TASKS[asked.task].name, TASKS[asked.task].task, asked.num_envs)
    env = benchmark.spec()._replace(num_envs=asked.num_envs)
    budget = Budget(asked.env_steps, asked.warmup_steps, asked.log_every, asked.eval_every, 2, asked.replay_capacity)
    return Run(
        algorithm=algorithm or LEARNERS[asked.learner](env),
        benchmark=benchmark,
        members=asked.members,
        cadence=schedule(asked.utd, asked.num_envs, asked.env_steps, asked.warmup_steps),
        budget=budget,
        batch_size=B,
        pack=asked.pack,  # type: ignore[arg-type]
        replay=asked.replay,  # type: ignore[arg-type]
    )


def curves(job: Run) -> list[list[Row]]:
    """The rows of each member, without the wall clock."""
    return [[{k: v for k, v in row.items() if k != "wall_s"} for row in rows] for rows in zip(*run(job), strict=True)]


@functools.cache
def train(asked: Asked) -> list[list[Row]]:
    """Rows of a run, made once for all tests that ask for it."""
    return curves(work(asked))


def assert_close(a: list[Row], b: list[Row], rtol: float) -> None:
    assert len(a) == len(b)
    for x, y in zip(a, b, strict=True):
        assert x.keys() == y.keys()
        for name in x:
            if x[name] is None or y[name] is None:
                assert x[name] is y[name] is None, name
            else:
                assert x[name] == pytest.approx(y[name], rel=rtol, abs=rtol), f"{name} at {x['env_step']}"

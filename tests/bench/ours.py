"""What is timed of rlscale: both executors as they are, and their parts alone at the same shapes.

`host` and `device` are one vector step of the real loop (`advance`), updates included, for a pack of members. The
parts: `update` (one gradient step on a fixed batch), `sample` (one draw of a batch: indices and gather), `env-host` and
`env-device` (one env step under random actions). They run many times inside one compiled loop (the host's env in a
Python loop), so they hold no dispatch: dispatch, acting, and what the parts cost more in company than alone are the
loop's own. `update-call` is σ updates in a call of their own, which shows how much of that a call as such costs.
`gemm` is one of the machine's own matrix products.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from fractions import Fraction
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from omegaconf import OmegaConf

from rlscale import replay
from rlscale.algorithms.sac import SAC
from rlscale.benchmarks.control import Control
from rlscale.benchmarks.gym import GymPython
from rlscale.cadence import schedule
from rlscale.cycle import Run, compiler_options
from rlscale.device_executor import DeviceExecutor
from rlscale.host_executor import HostExecutor
from rlscale.spec import Budget, Member
from rlscale.types import Algorithm, EnvSpec, HostBenchmark, Hyper, Transition
from tests.bench.timing import CAPACITY, LONG, WARMUP, Maker, Point, Work

CONF = Path(__file__).resolve().parents[2] / "conf"
GYM, CONTROL = GymPython("gym", "Pendulum-v1", 1, "python"), Control("control", "pendulum", 1)
RATE = 3e-4
GEMM = 1024  # rows and columns of a product large enough to be at the machine's peak


def makers(packs: tuple[int, ...]) -> Callable[[Point], Mapping[str, Maker]]:
    """All works of a point: both executors with each number of members, and the parts."""
    return lambda point: {
        **{f"{name}/{pack}": _executor(name, point, pack) for name in ("host", "device") for pack in packs},
        "update": lambda: updates(_algorithm(point), GYM.spec(), point.batch_size),
        "update-call": lambda: updates(_algorithm(point), GYM.spec(), point.batch_size, point.utd),
        "sample": lambda: _sample(point),
        "env-host": _env_host,
        "env-device": _env_device,
        "gemm": gemm,
    }


def _algorithm(point: Point) -> Algorithm:
    return sac(GYM.spec(), point.width, Fraction(point.utd), point.batch_size)


def sac(env: EnvSpec, width: int, utd: Fraction, batch_size: int) -> Algorithm:
    """conf/algorithm/sac.yaml at that width."""
    fields: Any = OmegaConf.to_container(OmegaConf.load(CONF / "algorithm" / "sac.yaml"))
    del fields["_target_"]
    return SAC(**fields | {"width": width}).make(env, utd, batch_size)


def _executor(name: str, point: Point, pack: int) -> Maker:
    def make() -> Work:
        algorithm = _algorithm(point)
        if name == "host":
            return host_loop(algorithm, GYM, point, pack)
        # The device executor makes `log_every` steps a call, and a round whole calls: what a call costs beside its
        # steps is shared by them. Up to the 1,000 of a real run, fewer where that would take longer than a round.
        call = min(1000, max(1, int(5e10 / (algorithm.flops_per_update * point.utd * pack))))
        return driven(DeviceExecutor(_job(algorithm, CONTROL, point, pack, call)), f"{name} at {point}", call)

    return make


def host_loop(algorithm: Algorithm, benchmark: HostBenchmark, point: Point, pack: int) -> Work:
    """One vector step of the host executor for a pack of members, its σ updates included."""
    return driven(HostExecutor(_job(algorithm, benchmark, point, pack, 1)), f"{benchmark.task} at {point}", 1)


def _job(algorithm: Algorithm, benchmark: Any, point: Point, pack: int, log_every: int) -> Run:
    budget = Budget(LONG, WARMUP, log_every, eval_every=None, eval_episodes=1, replay_capacity=CAPACITY)
    cadence = schedule(Fraction(point.utd), 1, LONG, WARMUP)
    members = [Member(seed, RATE) for seed in range(pack)]
    return Run(algorithm, benchmark, members, cadence, budget, point.batch_size, "loop", "device")


def driven(executor: HostExecutor | DeviceExecutor, what: str, call: int, before: int = WARMUP + 1) -> Work:
    """The executor's vector steps, `call` at a time, once the `before` with the first updates are made."""
    step = 0

    def work(units: int) -> None:
        nonlocal step
        stop = step + units
        while step < stop:
            step = executor.advance(step, stop)

    work(before)
    *_, metrics = executor.read()
    if not all(np.isfinite(values).all() for values in metrics.values()) or not metrics["critic_loss"].all():
        raise RuntimeError(f"{what}: no update was made, or one that is not finite: {metrics}")
    return Work(work, call)


def _random_rows(count: int, spec: EnvSpec) -> Transition:
    rng = np.random.default_rng(0)
    obs, next_obs = rng.standard_normal((2, count, spec.obs_dim), np.float32)
    action = rng.uniform(-1, 1, (count, spec.action_dim)).astype(np.float32)
    rows = Transition(obs, action, rng.standard_normal(count, np.float32), np.ones(count, np.float32), next_obs)
    return jax.tree.map(jnp.asarray, rows)


def looped(body: Callable[[Any, Any], Any], start: Any, fixed: Any = None, times: int | None = None) -> Work:
    """`body(carry, fixed)` any number of times in one compiled call; the carry goes on from call to call.

    With `times`, a unit is one call that does it that often.
    """
    run = jax.jit(
        lambda n, carry, fixed: jax.lax.fori_loop(0, n, lambda _, c: body(c, fixed), carry),
        donate_argnums=1,
        compiler_options=compiler_options(),  # as the executors compile it
    )
    carry = start

    def work(units: int) -> None:
        nonlocal carry
        for count in [units] if times is None else [times] * units:
            carry = jax.block_until_ready(run(np.int32(count), carry, fixed))

    work(1)
    return Work(work)


def updates(algorithm: Algorithm, env: EnvSpec, batch_size: int, times: int | None = None) -> Work:
    """One gradient step on a fixed batch."""
    state = jax.jit(algorithm.init)(jax.random.key(0), Hyper(jnp.float32(RATE)))
    work = looped(lambda s, batch: algorithm.update(s, batch)[0], state, _random_rows(batch_size, env), times)
    return work._replace(flops=algorithm.flops_per_update * (times or 1))


def gemm() -> Work:
    """One of the machine's own matrix products."""
    left, right = jax.random.normal(jax.random.key(0), (2, GEMM, GEMM)) / GEMM**0.5
    return looped(lambda x, y: x @ y, left, right)._replace(flops=2.0 * GEMM**3)


def _sample(point: Point) -> Work:
    key = jax.random.key(0)

    def body(carry: tuple[Any, Any], storage: Transition) -> tuple[Any, Any]:
        _, update = carry
        index = replay.indices(key, update, CAPACITY, point.batch_size)
        return replay.sample(storage, index), update + 1

    return looped(body, (_random_rows(point.batch_size, GYM.spec()), jnp.int32(0)), _random_rows(CAPACITY, GYM.spec()))


def _env_host() -> Work:
    env = GYM.make(0)
    env.reset()
    actions = np.random.default_rng(0).uniform(-1, 1, (1000, 1, GYM.spec().action_dim)).astype(np.float32)

    def work(units: int) -> None:
        for i in range(units):
            env.step(actions[i % 1000])

    return Work(work)


def _env_device() -> Work:
    functions = CONTROL.functions()
    actions = jnp.asarray(np.random.default_rng(0).uniform(-1, 1, (1000, 1, CONTROL.spec().action_dim)), jnp.float32)
    state, obs = jax.vmap(functions.init)(jax.random.key(0)[None])

    def body(carry: Any, actions: Any) -> Any:
        state, _, reward, i = carry
        state, step = jax.vmap(functions.step)(state, actions[i % 1000])
        return state, step.obs, reward + step.reward, i + 1

    return looped(body, (state, obs, jnp.zeros(1), jnp.int32(0)), actions)

"""What is timed of `benchmark=brax`: our physics and our loop, and beside them Brax's own wrappers and its SAC trainer.

A unit is a vector step of `num_envs` copies. `physics` are steps under random actions, ours with fresh resets in the
step, `wrapped` the same with Brax's training wrappers, which copy a stored first state back instead. `loop` is the
device executor with SAC, `trainer` is `brax.training.agents.sac.train`: both with two hidden layers of 256, 256
transitions an update and one update a vector step (the trainer's default), from a replay that is not yet full.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from fractions import Fraction
from typing import Any

import jax
import jax.numpy as jnp

from rlscale.benchmarks.brax import Brax, _load
from rlscale.cadence import schedule
from rlscale.cycle import Run
from rlscale.device_executor import DeviceExecutor
from rlscale.spec import Budget, Member
from tests.bench.ours import RATE, driven, looped, sac
from tests.bench.timing import LONG, Crowd, Maker, Work

CAPACITY = 1_000_000  # transitions; Brax rolls its whole replay at each step once it is full, which none gets to here
WARMUP = 8192  # transitions before the first update, on both sides
CALL = 8192  # transitions of one call of a compiled program, on both sides
BATCH = 256


def makers(who: str) -> Callable[[Crowd], Mapping[str, Maker]]:
    """The works of a point of ``ours`` or ``theirs``."""
    if who == "ours":
        return lambda crowd: {"physics": lambda: _physics(crowd), "loop": lambda: _loop(crowd)}
    return lambda crowd: {"wrapped": lambda: _wrapped(crowd), "trainer": lambda: _trainer(crowd)}


def _suite(crowd: Crowd) -> Brax:
    return Brax("brax", crowd.task, "spring", crowd.num_envs, 1000)


def _physics(crowd: Crowd) -> Work:
    functions = _suite(crowd).functions()
    state, _ = jax.jit(jax.vmap(functions.init))(_keys(crowd))
    return _stepped(crowd, jax.vmap(functions.step), state)


def _wrapped(crowd: Crowd) -> Work:
    env = _load(crowd.task, "spring")
    from brax.envs.wrappers.training import wrap

    env = wrap(env, episode_length=1000, action_repeat=1)
    return _stepped(crowd, lambda state, action: (env.step(state, action), None), jax.jit(env.reset)(_keys(crowd)))


def _keys(crowd: Crowd) -> Any:
    return jax.random.split(jax.random.PRNGKey(0), crowd.num_envs)


def _stepped(crowd: Crowd, step: Callable[[Any, Any], tuple[Any, Any]], state: Any) -> Work:
    kinds, size = jax.eval_shape(lambda: state), (crowd.num_envs, _suite(crowd).spec().action_dim)

    def body(carry: tuple[Any, Any], _: Any) -> tuple[Any, Any]:
        state, count = carry
        action = jax.random.uniform(jax.random.fold_in(jax.random.PRNGKey(1), count), size, minval=-1.0, maxval=1.0)
        state = jax.tree.map(lambda x, kind: jnp.asarray(x, kind.dtype), step(state, action)[0], kinds)
        return state, count + 1

    return looped(body, (state, jnp.int32(0)))


def _loop(crowd: Crowd) -> Work:
    suite, sigma = _suite(crowd), Fraction(1, crowd.num_envs)
    budget = Budget(LONG, WARMUP, CALL, eval_every=None, eval_episodes=1, replay_capacity=CAPACITY)
    cadence = schedule(sigma, crowd.num_envs, LONG, WARMUP)
    algorithm = sac(suite.spec(), 256, sigma, BATCH)
    job = Run(algorithm, suite, [Member(0, RATE)], cadence, budget, BATCH, "loop", "device")
    call = CALL // crowd.num_envs
    return driven(DeviceExecutor(job), f"brax at {crowd}", call, WARMUP // crowd.num_envs + call)


def _trainer(crowd: Crowd) -> Work:
    """Brax's trainer in a thread of its own, held after each of its epochs until the next is asked for.

    `episode_length` tells it also how long to evaluate after each epoch: of that it is given one step of one copy, and
    to the wrappers the true limit.
    """
    env = _load(crowd.task, "spring")
    from brax.envs.wrappers.training import wrap
    from brax.training.agents.sac import train

    # the one thing that Brax 0.14 needs and this JAX no longer has: a copy for each device, of which there is one
    jax.device_put_replicated = lambda tree, devices: jax.tree.map(lambda x: jnp.stack([x] * len(devices)), tree)
    go, done = threading.Semaphore(0), threading.Semaphore(0)
    seen: dict[str, Any] = {}

    def held(env_steps: int, metrics: Mapping[str, Any]) -> None:
        seen.update(metrics, env_steps=env_steps)
        done.release()
        go.acquire()

    def forever() -> None:
        go.acquire()
        epochs = (LONG - WARMUP) // CALL
        train.train(
            env,
            num_timesteps=WARMUP + epochs * CALL,
            episode_length=1,
            wrap_env_fn=lambda env, action_repeat, **_: wrap(env, episode_length=1000, action_repeat=action_repeat),
            num_envs=crowd.num_envs,
            num_eval_envs=1,
            num_evals=epochs + 1,
            learning_rate=RATE,
            discounting=0.99,
            batch_size=BATCH,
            min_replay_size=WARMUP,
            max_replay_size=CAPACITY,
            grad_updates_per_step=1,
            progress_fn=held,
        )

    thread = threading.Thread(target=forever, daemon=True)
    call = CALL // crowd.num_envs

    def next_epoch() -> None:
        go.release()
        while not done.acquire(timeout=1):
            if not thread.is_alive():
                raise RuntimeError(f"Brax's trainer at {crowd} has ended after {seen}")

    def work(units: int) -> None:
        before = seen["env_steps"]
        for _ in range(units // call):
            next_epoch()
        if seen["env_steps"] - before != units * crowd.num_envs or not seen["training/critic_loss"] > 0:
            raise RuntimeError(f"Brax's trainer at {crowd}: {units} vector steps asked for, but {seen}")

    thread.start()
    next_epoch()  # its first evaluation, before it has stepped
    next_epoch()  # the replay's first rows and the first epoch
    return Work(work, call)

"""A learner as its option has it, but narrow: made and compiled once for all tests that ask for it."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from omegaconf import OmegaConf

from rlscale.job import component
from rlscale.types import Algorithm, EnvSpec, Hyper, TrainState, Transition

OPTIONS = {path.stem: path for path in sorted((Path(__file__).parents[2] / "conf" / "algorithm").glob("*.yaml"))}
ENV = EnvSpec(obs_dim=3, action_dim=2, episode_steps=10)
B = 16
ETA = 1e-3


class Learner(NamedTuple):
    """An algorithm with its compiled functions, and how often Python ran through the update."""

    fields: dict[str, Any]
    algorithm: Algorithm
    init: Callable[[Any, Hyper], TrainState]
    act: Callable[[TrainState, Any, Any, bool], Any]
    update: Callable[[TrainState, Transition], tuple[TrainState, dict[str, Any]]]
    traces: list[int]


def learner(name: str, utd: Fraction = Fraction(1), env: EnvSpec = ENV, batch_size: int = B, **changed: Any) -> Learner:
    """A learner as its option has it, but narrow, and with some fields changed."""
    hashable = {key: tuple(value) if isinstance(value, list) else value for key, value in changed.items()}
    return _learner(name, utd, env, batch_size, tuple(sorted(hashable.items())))


@functools.cache  # a compile is a second: all tests of one learner share it
def _learner(name: str, utd: Fraction, env: EnvSpec, batch_size: int, changed: tuple[tuple[str, Any], ...]) -> Learner:
    fields: dict[str, Any] = OmegaConf.to_container(OmegaConf.load(OPTIONS[name]))  # type: ignore[assignment]
    narrow: dict[str, Any] = {"width": 8, "hidden": [8, 8], "actor_width": 8, "actor_blocks": 0, "blocks": 1}
    narrow |= {"quantiles": 5}
    fields |= {name: value for name, value in narrow.items() if name in fields} | dict(changed)
    algorithm, traces = component(fields, "algorithm").make(env, utd, batch_size), []

    def counting(state: TrainState, batch: Transition) -> Any:
        traces.append(1)
        return algorithm.update(state, batch)

    act = jax.jit(algorithm.act, static_argnums=3)
    return Learner(fields, algorithm, jax.jit(algorithm.init), act, jax.jit(counting), traces)


def start(it: Learner, seed: int = 0, learning_rate: float = ETA) -> TrainState:
    return it.init(jax.random.key(seed), Hyper(np.float32(learning_rate)))


def batch(seed: int = 0, size: int = B, **replaced: Any) -> Transition:
    rng = np.random.default_rng(seed)
    rows = Transition(
        obs=rng.normal(size=(size, ENV.obs_dim)),
        action=rng.uniform(-1, 1, (size, ENV.action_dim)),
        reward=rng.normal(size=size),
        discount=rng.random(size) < 0.7,
        next_obs=rng.normal(size=(size, ENV.obs_dim)),
    )._replace(**replaced)
    return Transition(*(np.asarray(x, np.float32) for x in rows))


def train(it: Learner, state: TrainState, updates: int, seed: int = 0) -> TrainState:
    for i in range(updates):
        state, _ = it.update(state, batch(seed + i))
    return state


def data(tree: Any) -> list[np.ndarray]:
    """The leaves as NumPy arrays, keys as their numbers."""
    return [
        np.asarray(jax.random.key_data(x) if jnp.issubdtype(x.dtype, jax.dtypes.prng_key) else x)
        for x in jax.tree.leaves(tree)
    ]


def same(a: Any, b: Any) -> bool:
    return all((x == y).all() for x, y in zip(data(a), data(b), strict=True))


def steps_and_slopes(before: Any, after: Any, loss: Callable[[Any], float]) -> Iterator[tuple[float, float, float]]:
    """For some entries of each parameter: its value, the step that was made, and the loss's slope there.

    `before` is a float64 tree and changed in place for the finite differences; a slope so small that a float32 gradient
    may have either sign is left out.
    """
    leaves, tree = jax.tree.flatten(before)
    moved = [b - a for a, b in zip(leaves, data(after), strict=True)]
    for leaf, step in zip(leaves, moved, strict=True):
        for entry in list(np.ndindex(leaf.shape))[:: max(1, leaf.size // 6)]:
            ends = []
            for h in (1e-5, -1e-5):
                leaf[entry] += h
                ends.append(loss(jax.tree.unflatten(tree, leaves)))
                leaf[entry] -= h
            slope = (ends[0] - ends[1]) / 2e-5
            if abs(slope) > 1e-3:
                yield leaf[entry], step[entry], slope

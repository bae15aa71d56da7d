"""Replay: the device and the host keep the same rows and draw the same ones; the newest overwrite the oldest."""

from __future__ import annotations

from collections import deque
from fractions import Fraction
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chi2

from rlscale import replay
from rlscale.cadence import Cadence, schedule
from rlscale.cycle import Executor, Now
from rlscale.types import EnvSpec, NStep, Transition

pytestmark = pytest.mark.usefixtures("quick_compiles")

ENV = EnvSpec(obs_dim=2, action_dim=1, episode_steps=5)


def rows(first: int, count: int) -> Transition:
    """Transitions that say in every field which they are: number `first` and on."""
    n = np.arange(first, first + count, dtype=np.float32)
    return Transition(np.stack([n, -n], 1), n[:, None] / 2, 10 * n, n % 2, np.stack([n + 1, -n - 1], 1))


def clock(cadence: Cadence, capacity: int, steps: range) -> Now:
    """Where the executors write, and how much they say is there."""
    here = SimpleNamespace(job=SimpleNamespace(cadence=cadence), capacity=capacity, returns=NStep(1, 1.0))
    return Executor.now(here, steps)  # type: ignore[arg-type]


def filled(cadence: Cadence, capacity: int, steps: int, backend: object) -> Transition:
    storage, now = replay.init(capacity, ENV, backend), clock(cadence, capacity, range(steps))
    for t in range(steps):
        storage = replay.add(storage, int(now.at[t]), rows(t * cadence.num_envs, cadence.num_envs))
    return storage


def test_empty_storage() -> None:
    for backend, kind in ((np, np.ndarray), (jnp, jax.Array)):
        storage = replay.init(7, ENV, backend)
        assert [x.shape for x in storage] == [(7, 2), (7, 1), (7,), (7,), (7, 2)]
        assert all(isinstance(x, kind) and x.dtype == np.float32 for x in storage)


@given(num_envs=st.integers(1, 5), wanted=st.integers(1, 40), steps=st.integers(1, 60))
def test_it_holds_the_newest_rows_whole(num_envs: int, wanted: int, steps: int) -> None:
    """Against a queue of bounded length; `size` counts what has been written, and rows are never mixed."""
    cadence = schedule(Fraction(1), num_envs, env_steps=60 * num_envs, warmup_steps=1)
    capacity = cadence.capacity(wanted)
    assert wanted <= capacity < wanted + num_envs and capacity % num_envs == 0
    queue: deque[int] = deque(maxlen=capacity)
    storage, now = replay.init(capacity, ENV, np), clock(cadence, capacity, range(steps))
    for t in range(steps):
        replay.add(storage, int(now.at[t]), rows(t * num_envs, num_envs))
        queue.extend(range(t * num_envs, (t + 1) * num_envs))
        size = int(now.size[t])
        assert size == len(queue)
        held = np.argsort(storage.reward[:size])
        for kept, want in zip(replay.sample(storage, held), rows(queue[0], size), strict=True):
            np.testing.assert_array_equal(kept, want)


@settings(max_examples=15)
@given(num_envs=st.sampled_from([1, 3, 4]), wanted=st.sampled_from([4, 12, 30]), steps=st.integers(1, 25))
def test_the_device_keeps_what_the_host_keeps(num_envs: int, wanted: int, steps: int) -> None:
    cadence = schedule(Fraction(1), num_envs, env_steps=30 * num_envs, warmup_steps=1)
    capacity = cadence.capacity(wanted)
    device, host = (filled(cadence, capacity, steps, backend) for backend in (jnp, np))
    assert isinstance(device.reward, jax.Array) and isinstance(host.reward, np.ndarray)
    index = np.random.default_rng(steps).integers(0, capacity, (2, 8))
    for a, b in zip((*device, *replay.sample(device, index)), (*host, *replay.sample(host, index)), strict=True):
        assert isinstance(b, np.ndarray) and a.dtype == b.dtype == np.float32
        np.testing.assert_array_equal(a, b)


@given(seed=st.integers(0, 2**31 - 1), update=st.integers(0, 2**31 - 1), size=st.integers(1, 10**6))
def test_only_rows_that_were_written_are_drawn(seed: int, update: int, size: int) -> None:
    index = np.asarray(replay.indices(jax.random.key(seed), jnp.int32(update), jnp.int32(size), 16))
    assert index.shape == (16,) and index.dtype == np.int32
    assert (index >= 0).all() and (index < size).all()


@pytest.mark.parametrize("size", [1, 2, 7, 100])
def test_all_rows_are_drawn_alike(size: int) -> None:
    """Pearson's χ² over 20,000 draws: a fair draw fails once in a million keys, and this key is fixed."""
    draw = jax.vmap(lambda update: replay.indices(jax.random.key(1), update, size, 200))
    counts = np.bincount(np.ravel(draw(jnp.arange(100))), minlength=size)
    assert len(counts) == size and (counts > 0).all()
    expected = counts.sum() / size
    assert size == 1 or ((counts - expected) ** 2 / expected).sum() < chi2.isf(1e-6, size - 1)


def test_a_draw_depends_on_the_member_and_the_update_alone() -> None:
    keys = jax.random.split(jax.random.key(0), 3)
    alone = [np.asarray(replay.indices(key, jnp.int32(5), 1000, 32)) for key in keys]
    for a, b in ((0, 1), (0, 2), (1, 2)):
        assert (alone[a] != alone[b]).mean() > 0.9  # members draw apart ...
    assert (np.asarray(replay.indices(keys[0], jnp.int32(6), 1000, 32)) != alone[0]).mean() > 0.9  # ... and updates
    together = jax.vmap(lambda key: replay.indices(key, jnp.int32(5), 1000, 32))(keys)
    np.testing.assert_array_equal(together, alone)
    # the host draws the rows of several updates in one call, of which some may not be due yet
    ahead = jax.vmap(lambda update: replay.indices(keys[1], update, 1000, 32))(jnp.arange(3, 8))
    np.testing.assert_array_equal(ahead[2], alone[1])

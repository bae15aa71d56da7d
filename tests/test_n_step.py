"""n-step returns against a brute-force sum over whole episodes: pushed by hand, and as the real executors keep them."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlscale import n_step
from rlscale.device_executor import DeviceExecutor
from rlscale.host_executor import HostExecutor
from rlscale.types import EnvSpec, NStep, Transition
from tests.contract.runs import Asked, Watched, probe, work

pytestmark = pytest.mark.usefixtures("quick_compiles")

ENV = EnvSpec(obs_dim=1, action_dim=1, episode_steps=5)


class Life(list[tuple[Transition, np.ndarray]]):
    """Vector steps [E, ...], and where an episode ended in them."""

    def completed(self, t: int, e: int, n: int, gamma: float) -> tuple[float, float, float, float, float]:
        """What begins at step t in copy e, by its definition."""
        total, k = 0.0, 0
        while True:
            rows, over = self[t + k]
            total += gamma**k * float(rows.reward[e])
            if over[e] or k == n - 1:
                first = self[t][0]
                discount = gamma**k * float(rows.discount[e])
                return float(first.obs[e, 0]), float(first.action[e, 0]), total, discount, float(rows.next_obs[e, 0])
            k += 1


def random_life(steps: int, num_envs: int, seed: int) -> Life:
    """Random steps in which every observation is told apart from every other."""
    rng, life = np.random.default_rng(seed), Life()
    for t in range(steps):
        names = np.float32(1 + t * num_envs + np.arange(num_envs))[:, None]
        terminated, truncated = rng.random(num_envs) < 0.15, rng.random(num_envs) < 0.15
        reward = np.float32(rng.normal(size=num_envs))
        life.append((Transition(names, -names, reward, np.float32(~terminated), names + 0.5), terminated | truncated))
    return life


def numbers(rows: Transition, i: Any) -> tuple[Any, ...]:
    return rows.obs[i, 0], rows.action[i, 0], rows.reward[i], rows.discount[i], rows.next_obs[i, 0]


@settings(max_examples=30)
@given(st.integers(1, 5), st.integers(1, 4), st.integers(0, 1000))
def test_returns_are_those_of_the_definition(n: int, num_envs: int, seed: int) -> None:
    life = random_life(14, num_envs, seed)
    window = n_step.init(n, num_envs, ENV, np)
    for t, (rows, over) in enumerate(life):
        window, out = n_step.push(window, rows, over, 0.9)
        assert all(isinstance(x, np.ndarray) and x.dtype == np.float32 for x in out)
        if t < n - 1:
            continue
        for e in range(num_envs):
            expected = life.completed(t - n + 1, e, n, 0.9)
            np.testing.assert_allclose(numbers(out, e), expected, rtol=1e-5, atol=1e-6)


def test_one_step_is_the_step_itself() -> None:
    life = random_life(3, num_envs=2, seed=0)
    window = n_step.init(1, 2, ENV, np)
    for rows, over in life:
        window, out = n_step.push(window, rows, over, 0.9)
        for a, b in zip(out, rows, strict=True):
            np.testing.assert_array_equal(a, b)


STEPS, COPIES, N, GAMMA, CAPACITY = 120, 3, 3, 0.9, 30


def run_of(task: str, replay: str) -> Asked:
    """Random actions to the end, so that every such run lives through the same."""
    steps = STEPS * COPIES
    lengths = {"env_steps": steps, "warmup_steps": steps - COPIES, "log_every": steps, "replay_capacity": CAPACITY}
    return Asked(task, num_envs=COPIES, replay=replay, **lengths)  # type: ignore[arg-type]


@functools.cache
def lived(timeout_is_terminal: bool) -> Life:
    """What happens in them, written down step by step."""
    watched = Watched("toy", "reach", COPIES, [])
    executor = HostExecutor(work(run_of("reach", "host"), probe(ENV), watched))
    life, obs = Life(), np.zeros((COPIES, 1), np.float32)
    for t in range(STEPS):
        executor.advance(t, t + 1)
        action, step = watched.made[0].actions[t], watched.made[0].steps[t]
        over = step.terminated | step.truncated
        ended = over if timeout_is_terminal else step.terminated
        life.append((Transition(obs, action, step.reward, np.float32(~ended), step.final_obs), over))
        obs = step.obs
    assert any((rows.next_obs >= 1).any() for rows, _ in life)  # true ends
    assert any((over & (rows.discount == 1)).any() for rows, over in life) != timeout_is_terminal  # time-outs
    return life


@pytest.mark.parametrize("timeout_is_terminal", [False, True], ids=["cut", "terminal"])
@pytest.mark.parametrize(
    ("task", "replay"),
    [
        ("reach", "host"),
        pytest.param("reach", "device", marks=pytest.mark.slow),
        pytest.param("device_reach", "device", marks=pytest.mark.slow),
    ],
)
def test_the_replay_holds_the_returns_of_what_was_lived(task: str, replay: str, timeout_is_terminal: bool) -> None:
    """Row by row, whatever the ring's fill: through true ends, time-outs, resets and the ring's own end."""
    algorithm = probe(ENV)._replace(n_step=NStep(N, GAMMA), timeout_is_terminal=timeout_is_terminal)
    kind = DeviceExecutor if task == "device_reach" else HostExecutor
    executor: Any = kind(work(run_of(task, replay), algorithm))
    life, blocks = lived(timeout_is_terminal), CAPACITY // COPIES
    for t in range(STEPS):
        executor.advance(t, t + 1)
        if t < N - 1 or t % 7:
            continue
        learner = executor.carries[0][0] if kind is DeviceExecutor else executor.carries[0]
        storage = executor.storage[0] if replay == "host" else Transition(*map(np.asarray, learner.storage))
        newest = t - N + 1
        for begun in range(max(0, newest - blocks + 1), newest + 1):
            for e in range(COPIES):
                found = numbers(storage, begun % blocks * COPIES + e)
                np.testing.assert_allclose(found, life.completed(begun, e, N, GAMMA), rtol=1e-5, atol=1e-5)

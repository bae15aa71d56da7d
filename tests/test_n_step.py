"""n-step returns against a brute-force sum over whole episodes, on both backends, and through the real executors."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from rlscale import n_step
from rlscale.types import EnvSpec, Transition

ENV = EnvSpec(obs_dim=1, action_dim=1, episode_steps=5)


class Life(list[tuple[Transition, np.ndarray]]):
    """Random vector steps [E, ...] in which every observation is told apart from every other."""

    def __init__(self, steps: int, num_envs: int, seed: int):
        rng = np.random.default_rng(seed)
        for t in range(steps):
            names = np.float32(1 + t * num_envs + np.arange(num_envs))[:, None]
            terminated, truncated = rng.random(num_envs) < 0.15, rng.random(num_envs) < 0.15
            rows = Transition(
                names, -names, np.float32(rng.normal(size=num_envs)), np.float32(~terminated), names + 0.5
            )
            self.append((rows, terminated | truncated))

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


@given(st.integers(1, 5), st.integers(1, 4), st.integers(0, 1000), st.sampled_from([np, jnp]))
def test_returns_are_those_of_the_definition(n: int, num_envs: int, seed: int, backend: Any) -> None:
    life = Life(steps=14, num_envs=num_envs, seed=seed)
    window = n_step.init(n, num_envs, ENV, backend)
    for t, (rows, over) in enumerate(life):
        given = Transition(*map(backend.asarray, rows))
        window, out = n_step.push(window, given, backend.asarray(over), 0.9)
        assert all(isinstance(x, backend.ndarray) and x.dtype == np.float32 for x in out)
        if t < n - 1:
            continue
        for e in range(num_envs):
            one = (out.obs[e, 0], out.action[e, 0], out.reward[e], out.discount[e], out.next_obs[e, 0])
            np.testing.assert_allclose(one, life.completed(t - n + 1, e, n, 0.9), rtol=1e-5, atol=1e-6)


def test_one_step_is_the_step_itself() -> None:
    life = Life(steps=3, num_envs=2, seed=0)
    window = n_step.init(1, 2, ENV, np)
    for rows, over in life:
        window, out = n_step.push(window, rows, over, 0.9)
        for a, b in zip(out, rows, strict=True):
            np.testing.assert_array_equal(a, b)

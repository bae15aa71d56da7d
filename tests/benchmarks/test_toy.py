"""The toy tasks are worth exactly what they say."""

from __future__ import annotations

import numpy as np
import pytest

from rlscale.benchmarks.toy import Toy
from rlscale.typed import Mistake

BEST = {"track": lambda obs: obs, "reach": np.ones_like}


@pytest.mark.parametrize("task", BEST)
def test_the_best_policy_earns_the_optimal_return(task: str) -> None:
    toy = Toy("toy", task, 4)
    env = toy.make(seed=0)
    obs = env.reset()
    for _ in range(3):  # episodes
        total, over = np.zeros(4), np.zeros(4, bool)
        while not over.any():
            out = env.step(BEST[task](obs))
            total, obs, over = total + out.reward, out.obs, out.terminated | out.truncated
        assert over.all()
        assert total.tolist() == [toy.optimal_return] * 4


@pytest.mark.parametrize("task", BEST)
def test_no_policy_earns_more(task: str) -> None:
    """Noise on the best action never earns more, and nearly always less."""
    toy = Toy("toy", task, 200)
    env, rng = toy.make(seed=0), np.random.default_rng(0)
    obs, total, running = env.reset(), np.zeros(200), np.ones(200, bool)
    while running.any():
        noise = rng.normal(0, 0.5, (200, toy.spec().action_dim))
        out = env.step(BEST[task](obs) + noise.astype(np.float32))
        total += out.reward * running
        running &= ~(out.terminated | out.truncated)
        obs = out.obs
    assert (total <= toy.optimal_return).all()
    assert (total < toy.optimal_return).mean() > 0.5


def test_track_pays_for_the_goal_that_was_shown() -> None:
    env = Toy("toy", "track", 1).make(seed=0)
    goal = env.reset()
    out = env.step(goal + np.array([[0.0, 0.5]], np.float32) * np.where(goal > 0, -1, 1))
    assert out.reward[0] == pytest.approx(1 - 0.25 / 2)
    assert (out.final_obs != goal).all()


def test_reach_ends_truly_on_arrival_even_at_the_limit() -> None:
    env = Toy("toy", "reach", 3).make(seed=0)
    env.reset()
    # at step 20: copy 0 has arrived after 4, 8, ..., 20; copy 1 arrives just then; copy 2 never does
    rates = np.array([[1.0], [0.2], [0.1]], np.float32)
    for step in range(1, 21):
        out = env.step(rates)
        assert out.terminated.tolist() == [step % 4 == 0, step == 20, False], step
        assert out.truncated.tolist() == [False, False, step == 20]
    np.testing.assert_allclose(out.final_obs[:, 0], [1.0, 1.0, 0.5], atol=1e-6)
    assert (out.obs == 0).all()


def test_mistakes() -> None:
    with pytest.raises(Mistake, match=r"benchmark\.task=trak: .*did you mean track\?"):
        Toy("toy", "trak", 1).spec()
    with pytest.raises(ValueError, match=r"^num_envs=0"):
        Toy("toy", "track", 0)

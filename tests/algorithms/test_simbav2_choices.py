"""SimbaV2's normalisers, its γ, its sizes and its mistakes: what a task and the options make of it."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from omegaconf import OmegaConf

from rlscale.algorithms.simbav2 import SimbaV2
from rlscale.job import component
from rlscale.typed import Mistake
from rlscale.types import EnvSpec, Hyper, Transition
from tests.contract.learners import ENV, OPTIONS, batch, learner, start

pytestmark = pytest.mark.usefixtures("quick_compiles")
GAMMA = 0.95  # of episodes of ten steps: the least


def fields(**changed: Any) -> dict[str, Any]:
    return OmegaConf.to_container(OmegaConf.load(OPTIONS["simbav2"])) | changed  # type: ignore[return-value]


@pytest.mark.slow
def test_what_it_keeps_of_what_it_saw() -> None:
    """Every G of three copies, each summed anew from its rewards."""
    it = learner("simbav2", env=ENV._replace(num_envs=3))
    state, rng, steps = start(it), np.random.default_rng(0), 40
    obs = np.float32(rng.normal([5, -100, 0], [1, 30, 0.01], (steps, 3, 3)))
    rewards, over = np.float32(rng.normal(2, 10, (steps, 3))), rng.random((steps, 3)) < 0.2
    observe = jax.jit(it.algorithm.observe)  # type: ignore[arg-type]
    returns = np.zeros((steps, 3))
    for t in range(steps):
        state = observe(state, obs[t], rewards[t], over[t])
        for e in range(3):
            ends = [k + 1 for k in range(t) if over[k, e]]
            since = max(ends, default=0)
            returns[t, e] = sum(GAMMA ** (t - k) * float(rewards[k, e]) for k in range(since, t + 1))
        seen = state.seen
        so_far = returns[: t + 1]
        np.testing.assert_allclose(seen.returns, np.where(over[t], 0, so_far[-1]), rtol=1e-4, atol=1e-4)
        np.testing.assert_allclose(seen.return_variance, so_far.var(), rtol=1e-3)
        np.testing.assert_allclose(seen.return_max, np.abs(so_far).max(), rtol=1e-5)
    assert over.any() and seen.steps == steps
    every = obs.reshape(-1, 3).astype(np.float64)
    np.testing.assert_allclose(seen.mean, every.mean(0), rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(seen.variance, every.var(0), rtol=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("spread", [0.1, 1e4])
def test_the_scale_of_the_rewards_makes_no_difference(spread: float) -> None:
    """To what is learned from them: the same update, whatever they are counted in."""
    it = learner("simbav2")
    states = []
    for times in (1.0, spread):
        state, rng = start(it), np.random.default_rng(0)
        for n in range(20):
            reward = np.float32(times * rng.normal(1, 3, 1))
            state = it.algorithm.observe(state, batch(n).obs[:1], reward, np.array([n % 7 == 6]))  # type: ignore[misc, arg-type]
        after, metrics = it.update(state, batch(0)._replace(reward=np.float32(times) * batch(0).reward))
        assert metrics["reward_scale"] * state.seen.return_max <= 5 * (1 + 1e-5)
        states.append(after.params)
    for a, b in zip(*map(jax.tree.leaves, states), strict=True):
        np.testing.assert_allclose(a, b, atol=2e-5)


@pytest.mark.parametrize(
    ("episode_steps", "gamma"), [(10, 0.95), (100, 0.95), (200, 0.975), (500, 0.99), (1000, 0.995), (10**6, 0.995)]
)
def test_the_discount_follows_the_length_of_episodes(episode_steps: int, gamma: float) -> None:
    """Published: DMC 0.99 (500 decisions), MuJoCo 0.995 (1000)."""
    made: SimbaV2 = component(fields(), "algorithm")
    assert made.discount(EnvSpec(1, 1, episode_steps)) == pytest.approx(gamma)
    fixed: SimbaV2 = component(fields(discount_min=0.97, discount_max=0.97), "algorithm")
    assert fixed.discount(EnvSpec(1, 1, episode_steps)) == 0.97


@pytest.mark.parametrize(
    ("width", "double_critic"), [(128, 604_362), (256, 2_322_634), (512, 9_101_514), (1024, 36_028_618)]
)
def test_the_published_number_of_parameters(width: int, double_critic: int) -> None:
    """Of both critics without their targets, for the HumanoidBench tasks of the model-size study."""
    made = component(fields(width=width), "algorithm")
    n = made.make(EnvSpec(51, 19, 1000), Fraction(2), 256).n_params
    assert n["double_critic"] == n["paper"] == n["critic"] == double_critic


def test_the_published_number_of_parameters_on_halfcheetah() -> None:
    n = component(fields(), "algorithm").make(EnvSpec(17, 6, 1000), Fraction(2), 256).n_params
    assert (n["double_critic"], n["actor"]) == (9_053_386, 168_716)
    assert n["total"] == 2 * 9_053_386 + 168_716 + 1


@pytest.mark.slow
@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize(("width", "blocks", "batch_size"), [(128, 1, 64), (512, 2, 256)])
def test_flops_are_xlas_at_the_published_sizes(width: int, blocks: int, batch_size: int, count: int) -> None:
    env, size = EnvSpec(17, 6, 1000), {"width": width, "blocks": blocks, "critics": count}
    it = learner("simbav2", env=env, batch_size=batch_size, actor_width=128, actor_blocks=1, **size)
    state = jax.eval_shape(it.algorithm.init, jax.random.key(0), Hyper(jnp.float32(0)))
    rows = Transition(*(jax.ShapeDtypeStruct((batch_size, *s), jnp.float32) for s in ((17,), (6,), (), (), (17,))))
    counted = it.update.lower(state, rows).cost_analysis()["flops"]  # type: ignore[attr-defined]
    assert it.algorithm.flops_per_update == pytest.approx(counted, rel=0.05)


def test_mistakes_are_sentences() -> None:
    for changed, message in (
        ({"width": 0}, r"algorithm\.width=0: give a positive whole number"),
        ({"blocks": -1}, r"algorithm\.blocks=-1: give 0 or more"),
        ({"critics": 3}, r"algorithm\.critics=3: give 1 or 2"),
        ({"atoms": 1}, r"algorithm\.atoms=1: a distribution needs two"),
        ({"value_max": 0.0}, r"algorithm\.value_max=0\.0: give a positive number"),
        ({"discount_min": 1.0}, r"algorithm\.discount_min=1\.0: give γ"),
        ({"discount_max": 0.9}, r"algorithm\.discount_max=0\.9: give γ from discount_min=0\.95"),
        ({"tau": 0.0}, r"algorithm\.tau=0\.0: give a target step"),
        ({"final_rate": 2.0}, r"algorithm\.final_rate=2\.0: give a share"),
    ):
        with pytest.raises(Mistake, match=message):
            component(fields(**changed), "algorithm")

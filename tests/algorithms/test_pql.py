"""PQL against a slow reference in float64, and what it keeps of what it has seen."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import jax
import numpy as np
import pytest
from omegaconf import OmegaConf

from rlscale.job import component
from rlscale.typed import Mistake
from rlscale.types import EnvSpec, NStep
from tests.contract.learners import ENV, OPTIONS, B, batch, learner, same, start, train

pytestmark = pytest.mark.usefixtures("quick_compiles")
SMALL = {"hidden": [8, 8]}
PLAIN = SMALL | {"normalise_observations": False}


def f64(tree: Any) -> Any:
    return jax.tree.map(lambda x: np.asarray(x, np.float64), tree)


def mlp(net: dict[str, Any], x: np.ndarray) -> np.ndarray:
    for i in range(len(net)):
        x = x @ net[f"Dense_{i}"]["kernel"] + net[f"Dense_{i}"]["bias"]
        x = np.where(x > 0, x, np.expm1(np.minimum(x, 0))) if i < len(net) - 1 else x
    return x


def heads(critic: Any, obs: np.ndarray, action: np.ndarray) -> list[np.ndarray]:
    x = np.concatenate([obs, action], axis=-1)
    return [mlp(critic["params"][f"EluMLP_{i}"], x) for i in range(2)]


def policy(actor: Any, obs: np.ndarray) -> np.ndarray:
    return np.tanh(mlp(actor["params"]["EluMLP_0"], obs))


@pytest.mark.slow
def test_pql_losses_by_hand() -> None:
    """The critic against the target policy with clipped noise; the actor against the critic that was just updated."""
    it = learner("pql", updates_per_policy_update=1, reward_scale=0.5, **PLAIN)
    state, rows = train(it, start(it, seed=2, learning_rate=1e-2), 10), batch(5)
    after, metrics = it.update(state, rows)
    noise = f64(jax.random.normal(jax.random.split(state.key)[1], rows.action.shape))
    params, r = f64(state.params), f64(rows)
    action = np.clip(policy(params["actor"], r.next_obs) + np.clip(0.8 * noise, -0.2, 0.2), -1, 1)
    q = np.minimum(*(h[:, 0] for h in heads(f64(state.targets), r.next_obs, action)))
    y = 0.5 * r.reward + 0.99 * r.discount * q
    online = [h[:, 0] for h in heads(params["critic"], r.obs, r.action)]
    np.testing.assert_allclose(metrics["critic_loss"], sum(((h - y) ** 2).mean() for h in online), rtol=2e-4)
    np.testing.assert_allclose(metrics["q"], online[0].mean(), rtol=2e-4, atol=1e-6)
    both = heads(f64(after.params["critic"]), r.obs, policy(params["actor"], r.obs))
    np.testing.assert_allclose(metrics["actor_loss"], -np.minimum(*both).mean(), rtol=2e-4, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("per_policy", [1, 2, Fraction(5, 2)], ids=str)
def test_policy_updates_are_exactly_their_share(per_policy: Fraction) -> None:
    it = learner("pql", updates_per_policy_update=per_policy, **PLAIN)
    state, moved = start(it), []
    for i in range(10):
        after, _ = it.update(state, batch(i))
        moved.append(not same(after.params["actor"], state.params["actor"]))
        state = after
    assert [sum(moved[:n]) for n in range(11)] == [n // Fraction(per_policy) for n in range(11)]


@pytest.mark.slow
def test_each_copy_explores_with_its_own_noise() -> None:
    it = learner("pql", noise_min=0.1, noise_max=0.4, **SMALL)
    state, copies = start(it), 4
    obs = np.broadcast_to(batch(0).obs[0], (copies, ENV.obs_dim))
    greedy = np.asarray(it.act(state, obs, jax.random.key(0), False))
    drawn = np.stack([it.act(state, obs, jax.random.key(n), True) for n in range(400)]) - greedy
    np.testing.assert_allclose(drawn.std((0, 2)), np.linspace(0.1, 0.4, copies), rtol=0.12)
    key = jax.random.key(3)
    np.testing.assert_array_equal(it.act(state, obs, key, True), it.act(state, obs, key, True))


@pytest.mark.slow
def test_observations_are_normalised_by_all_that_was_acted_on() -> None:
    it = learner("pql", **SMALL)
    state, rng = start(it), np.random.default_rng(0)
    seen = [np.float32(rng.normal([5, -100, 0], [1, 30, 0.01], (4, 3))) for _ in range(50)]
    for obs in seen:
        state = jax.jit(it.algorithm.observe)(state, obs)  # type: ignore[arg-type]
    every = np.concatenate(seen).astype(np.float64)
    assert state.seen.steps == 50
    np.testing.assert_allclose(state.seen.mean, every.mean(0), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(state.seen.variance, every.var(0), rtol=1e-3)
    fresh = f64(state.params["actor"])
    obs = np.float32([[6, -40, 0.1], [5, -100, 0]])
    scaled = (obs - every.mean(0)) / np.sqrt(every.var(0) + 1e-4)
    assert scaled.max() > 5  # so that the clamp is seen
    for clamp, expected in ((True, np.clip(scaled, -5, 5)), (False, scaled)):
        acting = learner("pql", clamp_when_acting=clamp, **SMALL)
        action = acting.act(state, obs, jax.random.key(0), False)
        np.testing.assert_allclose(action, policy(fresh, expected), rtol=1e-3, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("lag", [0, 1])
def test_the_lag_is_one_hand_over(lag: int) -> None:
    """With it, critic and actor work with what the other had at the last vector step."""
    it = learner("pql", lag=lag, updates_per_policy_update=1, **PLAIN)
    observe = jax.jit(it.algorithm.observe)  # type: ignore[arg-type]
    state = train(it, observe(start(it, learning_rate=1e-2), batch(0).obs), 4)
    rows = batch(7)
    critic_moved = state.replace(
        params=state.params | {"critic": jax.tree.map(lambda x: x + 0.1, state.params["critic"])}
    )
    a, b = (it.update(s, rows)[1]["actor_loss"] for s in (state, critic_moved))
    assert (a == b) == bool(lag)
    handed = observe(critic_moved, rows.obs)
    if lag:
        assert same(handed.seen.handed, critic_moved.params)
        assert it.update(handed, rows)[1]["actor_loss"] != a


@pytest.mark.slow
@pytest.mark.parametrize("published", [False, True], ids=["sane", "published"])
def test_distributional_critics_learn(published: bool) -> None:
    """Towards a reward that ends the episode: the heads' expected value comes near it."""
    it = learner("pql", distributional=True, atoms=21, value_max=2.0, minimum_of_probabilities=published, **PLAIN)
    over = batch(3, discount=np.zeros(B), reward=np.full(B, 1.0))
    state, first = start(it, learning_rate=1e-2), None
    for _ in range(60):
        state, metrics = it.update(state, over)
        first = metrics["q"] if first is None else first
    assert abs(metrics["q"] - 1) < 0.5 * abs(first - 1)


def test_what_it_asks_of_the_loop() -> None:
    it = learner("pql", timeout_is_terminal=True, discount=0.9, **SMALL).algorithm
    assert it.n_step == NStep(3, 0.9) and it.timeout_is_terminal
    assert learner("pql", n_step=1, **SMALL).algorithm.n_step is None


@pytest.mark.parametrize(
    ("task", "env", "double", "actor"),
    [("Franka", EnvSpec(19, 7, 300), 356_354, 175_367), ("Ant", EnvSpec(60, 8, 1000), 399_362, None)],
)
def test_the_published_number_of_parameters(task: str, env: EnvSpec, double: int, actor: int | None) -> None:
    fields: Any = OmegaConf.to_container(OmegaConf.load(OPTIONS["pql"]))
    n = component(fields, "algorithm").make(env, Fraction(1), 64).n_params
    assert n["double_critic"] == double and actor in (None, n["actor"])


def test_mistakes_are_sentences() -> None:
    fields: Any = OmegaConf.to_container(OmegaConf.load(OPTIONS["pql"]))
    for changed, message in (
        ({"hidden": []}, r"algorithm\.hidden=\[\]: give at least one hidden layer"),
        ({"n_step": 0}, r"algorithm\.n_step=0: give a whole number"),
        ({"lag": 2}, r"algorithm\.lag=2: give 0"),
        ({"updates_per_policy_update": "1/2"}, r"algorithm\.updates_per_policy_update=1/2: give 1 or more"),
        ({"noise_max": 0.01}, r"algorithm\.noise_max=0\.01: give a number from noise_min"),
        ({"atoms": 1}, r"algorithm\.atoms=1: a distribution needs two"),
    ):
        with pytest.raises(Mistake, match=message):
            component(fields | changed, "algorithm")

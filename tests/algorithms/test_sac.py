"""SAC against a slow reference: float64, the density of the squashed Gaussian by the change of variables."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from typing import Any

import jax
import numpy as np
import pytest

from rlscale.types import EnvSpec, TrainState, Transition
from tests.contract.learners import ENV, ETA, B, Learner, batch, data, learner, same, start, steps_and_slopes, train

pytestmark = pytest.mark.usefixtures("quick_compiles")


@pytest.fixture
def sac() -> Learner:
    return learner("sac")


def f64(tree: Any) -> Any:
    return jax.tree.map(lambda x: np.asarray(x, np.float64), tree)


def mlp(layers: dict[str, Any], x: np.ndarray) -> np.ndarray:
    for i in range(len(layers)):
        x = x @ layers[f"Dense_{i}"]["kernel"] + layers[f"Dense_{i}"]["bias"]
        x = np.maximum(x, 0) if i < len(layers) - 1 else x
    return x


def twin(critic: Any, obs: np.ndarray, action: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    x = np.concatenate([obs, action], axis=-1)
    return mlp(critic["params"]["MLP_0"], x)[:, 0], mlp(critic["params"]["MLP_1"], x)[:, 0]


def policy(actor: Any, obs: np.ndarray, noise: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    mean, log_std = np.split(mlp(actor["params"], obs), 2, axis=-1)
    std = np.exp(np.clip(log_std, -10, 2))
    u = mean + std * noise
    density = np.exp(-((u - mean) ** 2) / (2 * std**2)) / (std * np.sqrt(2 * np.pi)) * np.cosh(u) ** 2  # du/da
    return np.tanh(u), np.log(density).sum(-1)


class Reference:
    """The three losses of one update of `state` on `rows`, as functions of the parameters they are minimised in."""

    def __init__(self, fields: dict[str, Any], state: TrainState, rows: Transition):
        noise_key = jax.random.split(state.key)[1]
        self.next_noise, self.noise = f64(jax.random.normal(noise_key, (2, *rows.action.shape)))
        self.params, self.targets, self.rows = f64(state.params), f64(state.targets), f64(rows)
        self.discount, self.alpha = fields["discount"], np.exp(self.params["log_temperature"])

    def critic_loss(self, critic: Any) -> float:
        rows = self.rows
        action, log_prob = policy(self.params["actor"], rows.next_obs, self.next_noise)
        value = np.minimum(*twin(self.targets, rows.next_obs, action)) - self.alpha * log_prob
        y = rows.reward + self.discount * rows.discount * value
        return float(sum(((q - y) ** 2).mean() for q in twin(critic, rows.obs, rows.action)))

    def actor_loss(self, actor: Any, critic: Any) -> tuple[float, float]:
        action, log_prob = policy(actor, self.rows.obs, self.noise)
        loss = (self.alpha * log_prob - np.minimum(*twin(critic, self.rows.obs, action))).mean()
        return float(loss), float(-log_prob.mean())


@pytest.fixture(params=[0, 20], ids=["start", "trained"])
def before(request: pytest.FixtureRequest, sac: Learner) -> TrainState:
    """At the start (targets equal to the critic, α = 1), and well into training."""
    return train(sac, start(sac, seed=2, learning_rate=1e-2), request.param)


def test_sac_losses_by_hand(sac: Learner, before: TrainState) -> None:
    rows = batch(5)
    assert 0 < rows.discount.sum() < B
    after, metrics = sac.update(before, rows)
    by_hand = Reference(sac.fields, before, rows)
    # the actor's loss against the critic that this update has already made
    actor_loss, entropy = by_hand.actor_loss(by_hand.params["actor"], f64(after.params["critic"]))
    q = twin(by_hand.params["critic"], by_hand.rows.obs, by_hand.rows.action)[0].mean()
    expected = {
        "critic_loss": by_hand.critic_loss(by_hand.params["critic"]),
        "actor_loss": actor_loss,
        "entropy": entropy,
        "q": q,
        "temperature": np.exp(np.float64(after.params["log_temperature"])),
    }
    assert set(metrics) == set(expected)
    for name, value in expected.items():
        np.testing.assert_allclose(metrics[name], value, rtol=2e-4, atol=2e-5, err_msg=name)


def test_sac_steps_go_down_the_losses_by_hand(sac: Learner) -> None:
    """Adam's first step is −η·sign(∂loss): compared with finite differences of the reference, entry by entry.

    A gradient that leaks into the target, or is stopped where it should flow through the action, has other signs.
    """
    state, rows = start(sac, seed=3), batch(6)
    after, _ = sac.update(state, rows)
    by_hand = Reference(sac.fields, state, rows)
    new_critic = f64(after.params["critic"])
    losses: dict[str, Callable[[Any], float]] = {
        "critic": by_hand.critic_loss,
        "actor": lambda actor: by_hand.actor_loss(actor, new_critic)[0],
    }
    for net, loss in losses.items():
        checked = 0
        for _, step, slope in steps_and_slopes(by_hand.params[net], after.params[net], loss):
            checked += 1
            assert step == pytest.approx(-ETA * np.sign(slope), rel=1e-2), net
        assert checked > 20, net


def test_sac_target_is_the_reward_where_the_episode_ended(sac: Learner) -> None:
    state = train(sac, start(sac), 3)
    over = batch(8, discount=np.zeros(B))
    after, metrics = sac.update(state, over)
    by_hand = [((q - over.reward) ** 2).mean() for q in twin(f64(state.params["critic"]), over.obs, over.action)]
    np.testing.assert_allclose(metrics["critic_loss"], sum(by_hand), rtol=1e-5)
    elsewhere, _ = sac.update(state, over._replace(next_obs=over.next_obs + 3))
    assert same(after.params["critic"], elsewhere.params["critic"])
    bootstrapped, _ = sac.update(state, over._replace(discount=np.ones(B, np.float32)))
    assert not same(after.params["critic"], bootstrapped.params["critic"])


def test_sac_actor_update_leaves_the_critic_alone(sac: Learner) -> None:
    """The same first update without an actor step (σ = 2, one per env step), and with one."""
    without = learner("sac", utd=Fraction(2), actor_updates="per_env_step")
    state, rows = start(sac), batch(0)
    a, b = sac.update(state, rows)[0], without.update(state, rows)[0]
    assert same((b.params["actor"], b.opt["actor"]), (state.params["actor"], state.opt["actor"]))
    assert same(b.params["log_temperature"], state.params["log_temperature"])
    assert not same(a.params["actor"], b.params["actor"])
    for x, y in zip(data((a.params["critic"], a.targets)), data((b.params["critic"], b.targets)), strict=True):
        np.testing.assert_allclose(x, y, rtol=0, atol=1e-7)


def test_sac_learning_rates(sac: Learner) -> None:
    """α moves by 3e-4 (of its logarithm) whatever η; the actor follows η unless it has a rate of its own."""
    own = learner("sac", actor_learning_rate=5e-4)
    for rate in (1e-4, 1e-2):
        for it, actor_rate in ((sac, rate), (own, 5e-4)):
            state = start(it, learning_rate=rate)
            after, _ = it.update(state, batch(2))
            step = {
                net: max(
                    np.abs(b - a).max() for a, b in zip(*map(data, (state.params[net], after.params[net])), strict=True)
                )
                for net in state.params
            }
            # the largest of Adam's first steps is η itself
            assert step["critic"] == pytest.approx(rate, rel=1e-2)
            assert step["actor"] == pytest.approx(actor_rate, rel=1e-2)
            assert step["log_temperature"] == pytest.approx(3e-4, rel=1e-3)


def test_sac_temperature_follows_the_entropy(sac: Learner) -> None:
    state, rows = start(sac), batch(2)
    after, metrics = sac.update(state, rows)
    assert metrics["entropy"] > -0.5 * ENV.action_dim  # a fresh policy is more random than its target
    assert after.params["log_temperature"] < state.params["log_temperature"]
    greedy = learner("sac", entropy_per_action=50.0)
    assert greedy.update(state, rows)[0].params["log_temperature"] > state.params["log_temperature"]


@pytest.mark.parametrize(
    ("task", "env", "critic", "actor"),
    [
        ("HalfCheetah-v4", EnvSpec(17, 6, 1000), 144_386, 73_484),  # the papers' N
        ("Ant-v4", EnvSpec(27, 8, 1000), 150_530, 77_072),
    ],
)
def test_sac_has_the_published_number_of_parameters(task: str, env: EnvSpec, critic: int, actor: int) -> None:
    n = learner("sac", env=env, width=256, depth=2).algorithm.n_params
    assert n == {
        "critic": critic,
        "actor": actor,
        "log_temperature": 1,
        "total": 2 * critic + actor + 1,
        "double_critic": critic,
        "paper": critic,
    }

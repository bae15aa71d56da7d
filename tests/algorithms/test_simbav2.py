"""SimbaV2 against a slow reference in float64 NumPy: losses, slopes, the way back to the sphere, learning rates."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import jax
import numpy as np
import pytest

from rlscale.types import TrainState, Transition
from tests.contract.learners import ETA, B, Learner, batch, data, learner, start, steps_and_slopes, train
from tests.test_hypersphere import kernels
from tests.test_td import slow_project

pytestmark = pytest.mark.usefixtures("quick_compiles")
K = 11
SUPPORT = np.linspace(-5, 5, K)
GAMMA = 0.95  # of episodes of ten steps: the least


@pytest.fixture(params=[2, 1], ids=["two critics", "one critic"])
def simba(request: pytest.FixtureRequest) -> Learner:
    return learner("simbav2", atoms=K, actor_blocks=1, critics=request.param)


def seeing(it: Learner, state: TrainState, steps: int = 5) -> TrainState:
    """The state after some vector steps of unlike observations and rewards."""
    rng = np.random.default_rng(0)
    for n in range(steps):
        obs, reward = rng.normal([1, -3, 0], [1, 5, 0.2], (1, 3)), rng.normal(0, 20, 1)
        state = jax.jit(it.algorithm.observe)(state, np.float32(obs), np.float32(reward), np.array([n == 2]))  # type: ignore[arg-type]
    return state


def f64(tree: Any) -> Any:
    return jax.tree.map(lambda x: np.asarray(x, np.float64), tree)


def norm(x: np.ndarray) -> np.ndarray:
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def trunk(net: dict[str, Any], x: np.ndarray) -> np.ndarray:
    """Of one block."""
    (k0, k1, k2), (f0, f1, f2) = (
        [net[f"{layer}_{i}"][name] for i in range(3)] for layer, name in (("Dense", "kernel"), ("Scale", "factor"))
    )
    x = norm(norm(np.concatenate([x, np.full((len(x), 1), 3.0)], axis=-1)) @ k0 * f0)
    goal = norm((np.maximum(x @ k1 * f1, 0) + 1e-8) @ k2)
    return norm(x + 0.5 * np.sqrt(x.shape[-1]) * f2 * (goal - x))


def head(net: dict[str, Any], x: np.ndarray) -> np.ndarray:
    return x @ net["Dense_0"]["kernel"] * net["Scale_0"]["factor"] @ net["Dense_1"]["kernel"] + net["bias"]


def critics(params: Any, obs: np.ndarray, action: np.ndarray) -> list[np.ndarray]:
    """The distributions [B, K] of each."""
    net, x = params["params"], np.concatenate([obs, action], axis=-1)
    both = [head(net[f"SphereHead_{i}"], trunk(net[f"SphereNet_{i}"], x)) for i in range(len(net) // 2)]
    return [np.exp(x) / np.exp(x).sum(-1, keepdims=True) for x in both]


def gaussian(params: Any, obs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    net = params["params"]
    x = trunk(net["SphereNet_0"], obs)
    return head(net["SphereHead_0"], x), np.exp(-10 + 6 * (1 + np.tanh(head(net["SphereHead_1"], x))))


def squashed(mean: np.ndarray, std: np.ndarray, noise: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    u = mean + std * noise
    density = np.exp(-((u - mean) ** 2) / (2 * std**2)) / (std * np.sqrt(2 * np.pi)) * np.cosh(u) ** 2  # du/da
    return np.tanh(u), np.log(density).sum(-1)


def normal(seen: Any, obs: np.ndarray) -> np.ndarray:
    return (obs - np.float64(seen.mean)) / np.sqrt(np.float64(seen.variance) + 1e-8)


class Reference:
    """The losses of one update of `state` on `rows`, as functions of the parameters they are minimised in."""

    def __init__(self, state: TrainState, rows: Transition):
        self.noise = f64(jax.random.normal(jax.random.split(state.key)[1], (2, *rows.action.shape)))
        self.params, self.targets, seen, rows = f64(state.params), f64(state.targets), f64(state.seen), f64(rows)
        self.scale = 1 / max(np.sqrt(seen.return_variance + 1e-8), seen.return_max / 5)
        self.obs, self.next_obs = normal(seen, rows.obs), normal(seen, rows.next_obs)
        self.action, self.reward, self.discount = rows.action, self.scale * rows.reward, rows.discount

    def actor_loss(self, actor: Any) -> tuple[float, float]:
        """Against the critics before the update."""
        action, log_prob = squashed(*gaussian(actor, self.obs), self.noise[0])
        q = np.min([p @ SUPPORT for p in critics(self.params["critic"], self.obs, action)], axis=0)
        return float((np.exp(self.params["log_temperature"]) * log_prob - q).mean()), float(-log_prob.mean())

    def critic_loss(self, critic: Any, actor: Any, log_temperature: float) -> float:
        """With the actor and temperature after it."""
        action, log_prob = squashed(*gaussian(actor, self.next_obs), self.noise[1])
        both = critics(self.targets, self.next_obs, action)
        online = critics(critic, self.obs, self.action)
        loss = 0.0
        for b in range(B):
            lower = min((p[b] for p in both), key=lambda p: float(p @ SUPPORT))
            soft = SUPPORT - np.exp(log_temperature) * log_prob[b]
            towards = slow_project(lower, self.reward[b] + GAMMA * self.discount[b] * soft, SUPPORT)
            loss -= sum(float(towards @ np.log(p[b])) for p in online) / B
        return loss


@pytest.fixture(params=[0, 20], ids=["start", "trained"])
def before(request: pytest.FixtureRequest, simba: Learner) -> TrainState:
    return train(simba, seeing(simba, start(simba, seed=2, learning_rate=1e-2)), request.param)


@pytest.mark.slow
def test_simbav2_losses_by_hand(simba: Learner, before: TrainState) -> None:
    rows = batch(5, reward=np.random.default_rng(1).normal(0, 60, B))  # some beyond the support
    assert 0 < rows.discount.sum() < B
    after, metrics = simba.update(before, rows)
    by_hand = Reference(before, rows)
    assert np.abs(by_hand.reward).max() > 5
    new = f64(after.params)
    actor_loss, entropy = by_hand.actor_loss(by_hand.params["actor"])
    online = critics(by_hand.params["critic"], by_hand.obs, by_hand.action)
    expected = {
        "actor_loss": actor_loss,
        "entropy": entropy,
        "temperature": np.exp(new["log_temperature"]),
        "critic_loss": by_hand.critic_loss(by_hand.params["critic"], new["actor"], new["log_temperature"]),
        "q": (online[0] @ SUPPORT).mean(),
        "reward_scale": by_hand.scale,
    }
    assert set(metrics) == set(expected)
    for name, value in expected.items():
        np.testing.assert_allclose(metrics[name], value, rtol=5e-4, atol=2e-5, err_msg=name)


@pytest.mark.slow
def test_simbav2_slopes_are_those_of_the_losses_by_hand(simba: Learner) -> None:
    """Adam's first moment after one step is a tenth of the gradient: compared with finite differences."""
    state, rows = seeing(simba, start(simba, seed=3)), batch(6)
    after, _ = simba.update(state, rows)
    by_hand, new = Reference(state, rows), f64(after.params)
    losses = {
        "critic": lambda net: by_hand.critic_loss(net, new["actor"], new["log_temperature"]),
        "actor": lambda net: by_hand.actor_loss(net)[0],
    }
    for name, loss in losses.items():
        down = jax.tree.map(lambda p, m: p - 10 * m, by_hand.params[name], f64(after.opt[name].mu))
        checked = 0
        for _, step, slope in steps_and_slopes(by_hand.params[name], down, loss):
            checked += 1
            assert step == pytest.approx(-slope, rel=1e-2, abs=2e-5), name
        assert checked > 20, name


def stepped(before: Any, opt: Any, rate: float) -> Any:
    """A parameter tree after Adam's step of a state [after the step], by hand and before any projection."""
    count = int(opt.count)
    return jax.tree.map(
        lambda p, m, v: p - rate * (m / (1 - 0.9**count)) / (np.sqrt(v / (1 - 0.999**count)) + 1e-8),
        *(f64(tree) for tree in (before, opt.mu, opt.nu)),
    )


@pytest.mark.slow
def test_each_step_goes_back_to_the_sphere(simba: Learner) -> None:
    """However large: Adam's step by hand, divided by the lengths of the columns; scales and biases undivided."""
    state = seeing(simba, start(simba, learning_rate=0.1))
    for n in range(6):
        after, _ = simba.update(state, batch(n))
        for name, rate in (("critic", 0.1), ("actor", 1e-4)):
            assert kernels(after.params[name])
            for kernel in kernels(after.params[name]):
                np.testing.assert_allclose(np.linalg.norm(kernel, axis=0), 1, atol=1e-6)
            free = jax.tree_util.tree_leaves_with_path(stepped(state.params[name], after.opt[name], rate))
            for (path, expected), leaf in zip(free, jax.tree.leaves(after.params[name]), strict=True):
                if path[-1].key == "kernel":
                    expected = expected / np.linalg.norm(expected, axis=0)
                np.testing.assert_allclose(leaf, expected, rtol=1e-3, atol=2e-5)
        state = after
    for kernel in kernels(state.targets):  # means of unit vectors are shorter
        assert np.linalg.norm(kernel, axis=0).min() < 1 - 1e-6


@pytest.mark.slow
def test_learning_rates_fall_to_their_share() -> None:
    """Over two env steps at σ = 2, which are four updates."""
    it = learner("simbav2", utd=Fraction(2), atoms=K, decay_env_steps=2, final_rate=0.5)
    state = start(it)
    for left in (1, 0.875, 0.75, 0.625, 0.5, 0.5):
        after, _ = it.update(state, batch(0))
        expected = stepped(state.params["log_temperature"], after.opt["log_temperature"], 1e-4 * left)
        moved = expected - np.float64(state.params["log_temperature"])
        assert after.params["log_temperature"] - state.params["log_temperature"] == pytest.approx(moved, rel=1e-2)
        state = after
    biases = [
        x.params["critic"]["params"]["SphereHead_0"]["bias"] for x in (start(it), it.update(start(it), batch(0))[0])
    ]
    assert np.abs(biases[1] - biases[0]).max() == pytest.approx(ETA, rel=1e-2)


@pytest.mark.slow
def test_simbav2_target_is_the_reward_where_the_episode_ended(simba: Learner) -> None:
    state = train(simba, start(simba), 3)
    over = batch(8, discount=np.zeros(B))
    after, _ = simba.update(state, over)
    elsewhere, _ = simba.update(state, over._replace(next_obs=over.next_obs + 3))
    bootstrapped, _ = simba.update(state, over._replace(discount=np.ones(B, np.float32)))
    ended, moved, other = (
        np.concatenate([x.ravel() for x in data(s.params["critic"])]) for s in (after, elsewhere, bootstrapped)
    )
    np.testing.assert_allclose(ended, moved, atol=2e-6)  # the sum of the probabilities is 1 but for rounding
    assert np.abs(ended - other).max() > 1e-4


@pytest.mark.slow
def test_it_acts_on_normal_observations(simba: Learner) -> None:
    state, obs, key = train(simba, seeing(simba, start(simba)), 3), batch(3).obs, jax.random.key(1)
    mean, std = gaussian(f64(state.params["actor"]), normal(state.seen, np.float64(obs)))
    np.testing.assert_allclose(simba.act(state, obs, key, False), np.tanh(mean), rtol=1e-3, atol=1e-5)
    noise = np.float64(jax.random.normal(key, mean.shape))
    np.testing.assert_allclose(simba.act(state, obs, key, True), np.tanh(mean + std * noise), rtol=1e-3, atol=1e-5)


@pytest.mark.slow
def test_without_normalisers_it_takes_things_as_they_are() -> None:
    it = learner("simbav2", atoms=K, actor_blocks=1, normalise_observations=False, normalise_rewards=False)
    state, obs = seeing(it, start(it)), batch(3).obs
    mean, _ = gaussian(f64(state.params["actor"]), np.float64(obs))
    np.testing.assert_allclose(it.act(state, obs, jax.random.key(0), False), np.tanh(mean), rtol=1e-3, atol=1e-5)
    assert it.update(state, batch(0))[1]["reward_scale"] == 1

"""BRO against a slow reference: float64 NumPy, loops for the quantile loss, the KL by its general closed form."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from omegaconf import OmegaConf

from rlscale.algorithms.bro import dual, dual_of
from rlscale.job import component
from rlscale.td import quantile_huber
from rlscale.typed import Mistake
from rlscale.types import EnvSpec, Hyper, TrainState, Transition
from tests.contract.learners import (
    ENV,
    ETA,
    OPTIONS,
    B,
    Learner,
    batch,
    learner,
    same,
    start,
    steps_and_slopes,
    train,
)

pytestmark = pytest.mark.usefixtures("quick_compiles")


def slow_quantile_huber(q: np.ndarray, y: np.ndarray) -> float:
    """One row: Σ_i mean_j |τ_i − 1{δ<0}|·Huber(δ)."""
    total = 0.0
    for i in range(len(q)):
        for j in range(len(y)):
            delta, tau = y[j] - q[i], (i + 0.5) / len(q)
            huber = 0.5 * delta**2 if abs(delta) <= 1 else abs(delta) - 0.5
            total += abs(tau - (1.0 if delta < 0 else 0.0)) * huber / len(y)
    return total


@pytest.mark.parametrize(("k", "j"), [(1, 1), (4, 4), (7, 3), (12, 25)])
def test_the_quantile_loss_and_its_slope(k: int, j: int) -> None:
    rng = np.random.default_rng(k)
    q, y = rng.normal(size=(6, k)) * 2, rng.normal(size=(6, j)) * 2
    y[:, 0] = q[:, 0]  # a tie: δ = 0 counts as not below
    expected = [slow_quantile_huber(a, b) for a, b in zip(q, y, strict=True)]
    q32, y32 = np.float32(q), np.float32(y)
    np.testing.assert_allclose(quantile_huber(q32, y32), expected, rtol=2e-5)
    weights = np.float32(rng.normal(size=6))  # whatever comes after the loss
    slope, targets = jax.grad(lambda q, y: (weights * quantile_huber(q, y)).sum(), (0, 1))(q32, y32)
    assert not np.any(targets)
    for row in range(6):
        for i in range(1, k):
            ends = []
            for h in (1e-6, -1e-6):
                moved = q[row].copy()
                moved[i] += h
                ends.append(slow_quantile_huber(moved, y[row]))
            assert slope[row, i] == pytest.approx(weights[row] * (ends[0] - ends[1]) / 2e-6, abs=2e-4)


def test_the_quantiles_that_minimise_the_loss_are_the_quantiles() -> None:
    """Of a spread far wider than Huber's bend, so that it is the pinball loss nearly."""
    y = jnp.asarray(np.random.default_rng(0).uniform(0, 1000, 400), jnp.float32)[None]
    q = jnp.full((1, 4), 500.0)
    slope = jax.jit(jax.grad(lambda q: quantile_huber(q, y).sum()))
    for n in range(2000):
        q = q - 200 / (1 + n / 20) * slope(q)
    np.testing.assert_allclose(q[0], np.quantile(y, [0.125, 0.375, 0.625, 0.875]), atol=10)


@pytest.mark.parametrize("value", [1e-3, 0.25, 1.0, 50.0])
def test_a_multiplier_starts_at_its_value(value: float) -> None:
    assert dual(jnp.float32(dual_of(value))) == pytest.approx(value, rel=1e-4)


# One update


@pytest.fixture
def bro() -> Learner:
    return learner("bro")


def f64(tree: Any) -> Any:
    return jax.tree.map(lambda x: np.asarray(x, np.float64), tree)


def dense(layer: dict[str, Any], x: np.ndarray) -> np.ndarray:
    return x @ layer["kernel"] + layer.get("bias", 0.0)


def norm(layer: dict[str, Any], x: np.ndarray) -> np.ndarray:
    centred = x - x.mean(-1, keepdims=True)
    return centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-6) * layer["scale"] + layer["bias"]


def trunk(net: dict[str, Any], x: np.ndarray) -> np.ndarray:
    def layer(i: int, x: np.ndarray) -> np.ndarray:
        return norm(net[f"LayerNorm_{i}"], dense(net[f"Dense_{i}"], x))

    x = np.maximum(layer(0, x), 0)
    for block in range((len(net) // 2 - 1) // 2):
        x = x + layer(2 * block + 2, np.maximum(layer(2 * block + 1, x), 0))
    return x


def critics(params: Any, obs: np.ndarray, action: np.ndarray) -> list[np.ndarray]:
    net, x = params["params"], np.concatenate([obs, action], axis=-1)
    return [dense(net[f"Dense_{i}"], trunk(net[f"BroNet_{i}"], x)) for i in range(2)]


def gaussian(params: Any, obs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    net = params["params"]
    x = trunk(net["BroNet_0"], obs)
    return dense(net["Dense_0"], x), np.exp(-10 + 6 * (1 + np.tanh(dense(net["Dense_1"], x))))


def squashed(mean: np.ndarray, std: np.ndarray, noise: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    u = mean + std * noise
    density = np.exp(-((u - mean) ** 2) / (2 * std**2)) / (std * np.sqrt(2 * np.pi)) * np.cosh(u) ** 2  # du/da
    return np.tanh(u), np.log(density).sum(-1)


def multiplier(x: float) -> float:
    return float(np.exp(-10 + 17.5 * 0.5 * (1 + np.tanh(x))))


class Reference:
    """The losses of one update of `state` on `rows`, as functions of the parameters they are minimised in."""

    def __init__(self, state: TrainState, rows: Transition):
        noise_key = jax.random.split(state.key)[1]
        self.noise = f64(jax.random.normal(noise_key, (3, *rows.action.shape)))
        self.params, self.targets, self.rows = f64(state.params), f64(state.targets), f64(rows)

    def critic_loss(self, critic: Any) -> float:
        rows = self.rows
        action, log_prob = squashed(*gaussian(self.params["actor"], rows.next_obs), self.noise[0])
        value = sum(critics(self.targets, rows.next_obs, action)) / 2
        value = value - np.exp(self.params["log_temperature"]) * log_prob[:, None]
        y = rows.reward[:, None] + 0.99 * rows.discount[:, None] * value
        both = critics(critic, rows.obs, rows.action)
        return float(sum(np.mean([slow_quantile_huber(a, b) for a, b in zip(q, y, strict=True)]) for q in both))

    def actor_loss(self, actor: Any, critic: Any) -> tuple[float, float]:
        action, log_prob = squashed(*gaussian(actor, self.rows.obs), self.noise[1])
        q = sum(critics(critic, self.rows.obs, action)).mean(-1) / 2  # type: ignore[attr-defined]
        return float((np.exp(self.params["log_temperature"]) * log_prob - q).mean()), float(-log_prob.mean())

    def optimist_loss(self, optimist: Any, actor: Any, critic: Any) -> tuple[float, float]:
        obs = self.rows.obs
        mean_c, std_c = gaussian(actor, obs)
        net = optimist["params"]
        mean_o = mean_c + dense(net["Dense_0"], trunk(net["BroNet_0"], np.concatenate([obs, mean_c], axis=-1)))
        std_o = 0.75 * std_c
        q1, q2 = critics(critic, obs, squashed(mean_o, std_o, self.noise[2])[0])
        wide = std_o / 0.75
        # the divergence of two Gaussians in general
        kl = (np.log(std_c / wide) + (wide**2 + (mean_o - mean_c) ** 2) / (2 * std_c**2) - 0.5).sum(-1).mean()
        upper = ((q1 + q2) / 2 + multiplier(self.params["optimism"]) * np.abs(q1 - q2) / 2).mean()
        return float(-upper + multiplier(self.params["penalty"]) * kl), float(kl / ENV.action_dim)


@pytest.fixture(params=[0, 20], ids=["start", "trained"])
def before(request: pytest.FixtureRequest, bro: Learner) -> TrainState:
    return train(bro, start(bro, seed=2, learning_rate=1e-2), request.param)


def test_bro_losses_by_hand(bro: Learner, before: TrainState) -> None:
    rows = batch(5)
    assert 0 < rows.discount.sum() < B
    after, metrics = bro.update(before, rows)
    by_hand = Reference(before, rows)
    critic, actor = f64(after.params["critic"]), f64(after.params["actor"])  # later losses are against the new nets
    actor_loss, entropy = by_hand.actor_loss(by_hand.params["actor"], critic)
    optimist_loss, kl = by_hand.optimist_loss(by_hand.params["optimist"], actor, critic)
    expected = {
        "critic_loss": by_hand.critic_loss(by_hand.params["critic"]),
        "q": critics(by_hand.params["critic"], by_hand.rows.obs, by_hand.rows.action)[0].mean(),
        "actor_loss": actor_loss,
        "entropy": entropy,
        "temperature": np.exp(np.float64(after.params["log_temperature"])),
        "optimist_loss": optimist_loss,
        "kl": kl,
        "optimism": multiplier(np.float64(after.params["optimism"])),
    }
    assert set(metrics) == set(expected)
    for name, value in expected.items():
        np.testing.assert_allclose(metrics[name], value, rtol=5e-4, atol=2e-5, err_msg=name)


def test_bro_steps_go_down_the_losses_by_hand(bro: Learner) -> None:
    """AdamW's first step is −η·(sign(∂loss) + decay·p): compared with finite differences of the reference.

    A gradient that leaks into the target, out of the optimist into the actor, or is stopped where it should flow
    through the action, has other signs.
    """
    state, rows = start(bro, seed=3), batch(6)
    after, _ = bro.update(state, rows)
    by_hand = Reference(state, rows)
    critic, actor = f64(after.params["critic"]), f64(after.params["actor"])
    losses: dict[str, tuple[float, Callable[[Any], float]]] = {
        "critic": (ETA, by_hand.critic_loss),
        "actor": (3e-4, lambda net: by_hand.actor_loss(net, critic)[0]),
        "optimist": (3e-4, lambda net: by_hand.optimist_loss(net, actor, critic)[0]),
    }
    for net, (rate, loss) in losses.items():
        checked = 0
        for value, step, slope in steps_and_slopes(by_hand.params[net], after.params[net], loss):
            checked += 1
            assert step == pytest.approx(-rate * (np.sign(slope) + 1e-4 * value), rel=1e-2), net
        assert checked > 20, net


def test_bro_target_is_the_reward_where_the_episode_ended(bro: Learner) -> None:
    state = train(bro, start(bro), 3)
    over = batch(8, discount=np.zeros(B))
    after, _ = bro.update(state, over)
    elsewhere, _ = bro.update(state, over._replace(next_obs=over.next_obs + 3))
    assert same(after.params["critic"], elsewhere.params["critic"])
    bootstrapped, _ = bro.update(state, over._replace(discount=np.ones(B, np.float32)))
    assert not same(after.params["critic"], bootstrapped.params["critic"])


@pytest.mark.parametrize(("head", "sign"), [(5.0, 1), (-5.0, -1)], ids=["near", "far"])
def test_the_duals_follow_the_distance(bro: Learner, head: float, sign: int) -> None:
    """Near a wide actor there is room for more optimism and a smaller penalty; far from a narrow one for less."""
    state = start(bro)
    heads = state.params["actor"]["params"]
    heads["Dense_1"]["bias"] += head  # log σ near 2, or near −10
    after, metrics = bro.update(state, batch(2))
    assert np.sign(0.05 - metrics["kl"]) == sign
    alpha = -np.sign(metrics["entropy"] + 0.5 * ENV.action_dim)
    for name, step in (("optimism", sign * 3e-5), ("penalty", -sign * 3e-5), ("log_temperature", alpha * 3e-4)):
        assert after.params[name] - state.params[name] == pytest.approx(step, rel=1e-2), name


def test_the_optimist_explores_and_the_actor_is_evaluated(bro: Learner) -> None:
    state, obs, key = train(bro, start(bro), 5), batch(3).obs, jax.random.key(1)
    mean, std = gaussian(f64(state.params["actor"]), np.float64(obs))
    np.testing.assert_allclose(bro.act(state, obs, key, False), np.tanh(mean), rtol=1e-4, atol=1e-5)
    noise = np.float64(jax.random.normal(key, mean.shape))
    net = f64(state.params["optimist"])["params"]
    shift = dense(net["Dense_0"], trunk(net["BroNet_0"], np.concatenate([obs, mean], axis=-1)))
    assert np.abs(shift).max() > 1e-3
    expected = np.tanh(mean + shift + 0.75 * std * noise)
    np.testing.assert_allclose(bro.act(state, obs, key, True), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_without_the_optimist_the_actor_explores() -> None:
    """BRO-minimal: the same critic and actor, no second actor, no duals."""
    minimal = learner("bro", optimistic_actor=False)
    state, obs, key = start(minimal), batch(3).obs, jax.random.key(1)
    assert set(state.params) == {"critic", "actor", "log_temperature"}
    mean, std = gaussian(f64(state.params["actor"]), np.float64(obs))
    expected = np.tanh(mean + std * np.float64(jax.random.normal(key, mean.shape)))
    np.testing.assert_allclose(minimal.act(state, obs, key, True), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("size", "everywhere", "humanoid", "double_critic"),
    [
        pytest.param((128, 1), 0.535e6, 0.555e6, 0.112e6, id="xs"),
        pytest.param((256, 1), 1.021e6, 1.049e6, 0.355e6, id="s", marks=pytest.mark.slow),
        pytest.param((512, 1), 2.780e6, 2.824e6, 1.235e6, id="sm", marks=pytest.mark.slow),
        pytest.param((512, 2), 4.889e6, 4.933e6, 2.290e6, id="m", marks=pytest.mark.slow),
        pytest.param((1024, 3), 26.27e6, 26.35e6, 12.98e6, id="l", marks=pytest.mark.slow),
    ],
)
def test_the_ladder_of_sizes(size: tuple[int, int], everywhere: float, humanoid: float, double_critic: float) -> None:
    """All networks of humanoid-stand, and the means over the study's seven tasks, to the digits that are published."""
    tasks = {"cartpole": (5, 1), "cheetah": (17, 6), "dog": (223, 38), "finger": (9, 2)}
    tasks |= {"humanoid": (67, 21), "quadruped": (78, 12), "walker": (24, 6)}
    fields = OmegaConf.to_container(OmegaConf.load(OPTIONS["bro"])) | {"width": size[0], "blocks": size[1]}
    made = component(fields, "algorithm")
    n = {task: made.make(EnvSpec(*dims, 1000), Fraction(2), 128).n_params for task, dims in tasks.items()}
    assert n["humanoid"]["paper"] == pytest.approx(humanoid, rel=5e-4)
    assert np.mean([x["paper"] for x in n.values()]) == pytest.approx(everywhere, rel=5e-4)
    assert np.mean([x["double_critic"] for x in n.values()]) == pytest.approx(double_critic, rel=3e-3)


@pytest.mark.parametrize("optimist", [True, False], ids=["bro", "minimal"])
@pytest.mark.parametrize(("width", "blocks", "batch_size"), [(128, 1, 128), (512, 2, 256)], ids=["xs", "m"])
@pytest.mark.slow
def test_flops_are_xlas_at_the_published_sizes(width: int, blocks: int, batch_size: int, optimist: bool) -> None:
    """XLA counts the body of the quantile loss's loop once; the formula, as often as it is run."""
    env, fixed = EnvSpec(17, 6, 1000), {"actor_width": 256, "actor_blocks": 1, "quantiles": 100}
    size = {"width": width, "blocks": blocks, "optimistic_actor": optimist}
    it = learner("bro", env=env, batch_size=batch_size, **fixed, **size)
    state = jax.eval_shape(it.algorithm.init, jax.random.key(0), Hyper(jnp.float32(0)))
    rows = Transition(*(jax.ShapeDtypeStruct((batch_size, *s), jnp.float32) for s in ((17,), (6,), (), (), (17,))))
    counted = it.update.lower(state, rows).cost_analysis()["flops"]  # type: ignore[attr-defined]
    assert it.algorithm.flops_per_update == pytest.approx(counted, rel=0.05)


def test_mistakes_are_sentences() -> None:
    fields = OmegaConf.to_container(OmegaConf.load(OPTIONS["bro"]))
    for changed, message in (
        ({"width": 0}, r"algorithm\.width=0: give a positive whole number"),
        ({"blocks": -1}, r"algorithm\.blocks=-1: give 0 or more"),
        ({"initial_optimism": 1e9}, r"algorithm\.initial_optimism=1000000000\.0: give a number between"),
        ({"reset": "none"}, r"algorithm\.reset=none: set its keys one by one, algorithm\.reset\.mode="),
        ({"reset": {"mode": "never", "every": 1, "at": []}}, r"algorithm\.reset\.mode=never: there is no such choice"),
        ({"reset": {"mode": "none", "every": 0, "at": []}}, r"algorithm\.reset\.every=0: give a positive number"),
        ({"reset": {"mode": "none", "every": 1, "at": [5, 3]}}, r"algorithm\.reset\.at=\[5, 3\]: give env steps"),
    ):
        with pytest.raises(Mistake, match=message):
            component(fields | changed, "algorithm")

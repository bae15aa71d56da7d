"""What every learner promises, over every conf/algorithm/*.yaml, and what SAC's own file says, against plain NumPy."""

from __future__ import annotations

import functools
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from omegaconf import OmegaConf

from rlscale.job import component
from rlscale.types import Algorithm, EnvSpec, Hyper, TrainState, Transition

pytestmark = pytest.mark.usefixtures("quick_compiles")

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


@functools.cache  # a compile is a second: all tests of one learner share it
def learner(name: str, utd: Fraction = Fraction(1), env: EnvSpec = ENV, batch_size: int = B, **changed: Any) -> Learner:
    fields: dict[str, Any] = OmegaConf.to_container(OmegaConf.load(OPTIONS[name]))  # type: ignore[assignment]
    fields |= ({"width": 8} if "width" in fields else {}) | changed
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


@pytest.fixture(params=OPTIONS)
def it(request: pytest.FixtureRequest) -> Learner:
    """A learner as its option has it, but narrow."""
    return learner(request.param)


# Every algorithm


def test_every_option_is_called_by_its_name() -> None:
    for name in OPTIONS:
        assert learner(name).fields["name"] == name


def test_updates_keep_shapes_and_types_and_stay_finite(it: Learner) -> None:
    first = start(it)
    state, metrics = it.update(first, batch(0))
    for i in range(1, 5):
        state, metrics = it.update(state, batch(i))
    jax.tree.map(lambda before, after: None, first, state)  # raises unless they are built alike
    for before, after in zip(jax.tree.leaves(first), jax.tree.leaves(state), strict=True):
        assert before.shape == after.shape and before.dtype == after.dtype
    for leaf in jax.tree.leaves((state.params, state.targets, state.hyper)):
        assert leaf.dtype == jnp.float32
    for leaf in data(state):
        assert np.isfinite(leaf).all()
    assert metrics
    for name, value in metrics.items():
        assert value.shape == () and value.dtype == jnp.float32 and np.isfinite(value), name
        assert not value.weak_type, f"{name}: the loop's carry would change its type and be compiled twice"
    for before, after in zip(jax.tree.leaves(first.params), jax.tree.leaves(state.params), strict=True):
        assert (before != after).any(), "a parameter that nothing moves"


def test_a_start_is_a_function_of_the_key(it: Learner) -> None:
    assert same(start(it, seed=4), start(it, seed=4))
    a, b = start(it, seed=4), start(it, seed=5)
    kernels = [(x, y) for x, y in zip(data(a.params), data(b.params), strict=True) if x.ndim == 2]
    assert kernels and all((x != y).any() for x, y in kernels)
    assert (data(a.key)[0] != data(b.key)[0]).any()


def test_actions_are_inside_the_box_over_any_leading_axes(it: Learner) -> None:
    state, key, other = train(it, start(it), 3), jax.random.key(9), jax.random.key(10)
    obs = np.random.default_rng(0).normal(size=(2, 3, ENV.obs_dim)).astype(np.float32)
    obs[1] *= 1e3  # far outside of what was seen, too
    for explore in (True, False):
        for part in (obs[0, 0], obs[0], obs):
            action = it.act(state, part, key, explore)
            assert action.shape == (*part.shape[:-1], ENV.action_dim) and action.dtype == jnp.float32
            assert (np.abs(action) <= 1).all()  # a NaN is not
    greedy = it.act(state, obs, key, False)
    np.testing.assert_array_equal(greedy, it.act(state, obs, other, False))
    one_by_one = [[it.act(state, row, key, False) for row in rows] for rows in obs]
    np.testing.assert_allclose(greedy, one_by_one, rtol=1e-5, atol=1e-6)
    exploring = it.act(state, obs, key, True)
    assert (exploring[0] != greedy[0]).all() and (exploring[0] != it.act(state, obs, other, True)[0]).all()
    alike = it.act(state, np.broadcast_to(obs[0, 0], obs.shape), key, True)
    assert len(np.unique(np.reshape(alike, (-1, ENV.action_dim)), axis=0)) == 6, (
        "copies that see the same explore apart"
    )


def test_counter_and_key_advance(it: Learner) -> None:
    state = start(it)
    assert state.updates == 0 and state.updates.dtype == jnp.int32
    keys = [data(state.key)[0]]
    for n in range(1, 5):
        state, _ = it.update(state, batch(0))  # the same batch: the key alone makes the difference
        assert state.updates == n
        keys.append(data(state.key)[0])
    assert len(np.unique(np.stack(keys), axis=0)) == 5
    assert same(state.hyper, start(it).hyper)


def test_targets_move_by_tau(it: Learner) -> None:
    """From a copy of the critic, and each time by exactly τ of the way to the new one."""
    if "tau" not in it.fields:
        pytest.skip("no target network")
    first = start(it)
    assert same(first.targets, first.params["critic"])
    before = train(it, first, 3)
    after, _ = it.update(before, batch(7))
    tau = it.fields["tau"]
    for t0, t1, p in zip(*map(data, (before.targets, after.targets, after.params["critic"])), strict=True):
        np.testing.assert_allclose(
            t1, t0.astype(np.float64) * (1 - tau) + tau * p.astype(np.float64), rtol=0, atol=2e-7
        )
        assert (t1 != t0).any()


def test_the_learning_rate_scales_the_critic_step_in_one_program(it: Learner) -> None:
    steps = {}
    for rate in (ETA, 4 * ETA):
        state = start(it, learning_rate=rate)
        after, _ = it.update(state, batch(1))
        steps[rate] = [b - a for a, b in zip(*map(data, (state.params["critic"], after.params["critic"])), strict=True)]
    for small, large in zip(steps[ETA], steps[4 * ETA], strict=True):
        np.testing.assert_allclose(large, 4 * small, rtol=2e-3, atol=1e-6)
    assert max(np.abs(x).max() for x in steps[ETA]) > ETA / 10


def test_one_trace_for_each_shape(it: Learner) -> None:
    """Neither η nor the data nor what came before is a reason to compile again; a batch size is."""
    train(it, start(it, seed=1, learning_rate=0.1), 2)
    state = start(it, learning_rate=1e-5)
    it.update(train(it, state, 3), batch(3))
    assert len(it.traces) == 1  # in all tests of this file together
    it.update.lower(state, batch(size=B + 1))  # type: ignore[attr-defined]
    assert len(it.traces) == 2
    it.traces.pop()


def test_parameters_are_counted(it: Learner) -> None:
    state, n = start(it), it.algorithm.n_params

    def size(tree: Any) -> int:
        return sum(x.size for x in jax.tree.leaves(tree))

    assert n == {
        "critic": size(state.params["critic"]),
        "actor": size(state.params["actor"]),
        "total": size((state.params, state.targets)),
    }


@pytest.mark.parametrize("name", OPTIONS)
def test_flops_are_xlas(name: str) -> None:
    """The formula in the algorithm's file against the compiler's own count, at the papers' size."""
    sizes = {"width": 256} if "width" in learner(name).fields else {}
    it = learner(name, env=EnvSpec(17, 6, 1000), batch_size=256, **sizes)
    state = jax.eval_shape(it.algorithm.init, jax.random.key(0), Hyper(jnp.float32(0)))
    rows = Transition(*(jax.ShapeDtypeStruct((256, *s), jnp.float32) for s in ((17,), (6,), (), (), (17,))))
    counted = it.update.lower(state, rows).cost_analysis()["flops"]  # type: ignore[attr-defined]
    print(f"{name}: formula {it.algorithm.flops_per_update:.4g}, XLA {counted:.4g}")
    assert it.algorithm.flops_per_update == pytest.approx(counted, rel=0.15)


# The share of actor updates, where it is a choice


def changes(it: Learner, updates: int) -> list[bool]:
    """Whether each of the updates moved the actor."""
    state, moved = start(it), []
    for i in range(updates):
        after, _ = it.update(state, batch(i))
        assert not same(after.params["critic"], state.params["critic"])
        moved.append(not same(after.params["actor"], state.params["actor"]))
        state = after
    return moved


PER_STEP = [name for name in OPTIONS if "actor_updates" in OmegaConf.load(OPTIONS[name])]


@pytest.mark.parametrize("utd", [Fraction(1, 2), Fraction(3, 2), Fraction(2), Fraction(3)], ids=str)
@pytest.mark.parametrize("name", PER_STEP)
def test_one_actor_update_for_each_env_step(name: str, utd: Fraction) -> None:
    moved = changes(learner(name, utd=utd, actor_updates="per_env_step"), 12)
    for n in range(13):
        assert sum(moved[:n]) == (n if utd < 1 else n // utd)


@pytest.mark.parametrize("name", PER_STEP)
def test_one_actor_update_for_each_update(name: str) -> None:
    assert all(changes(learner(name, utd=Fraction(3), actor_updates="per_update"), 4))


@pytest.mark.parametrize("name", PER_STEP)
def test_chunks_of_updates_change_nothing(name: str) -> None:
    """12 updates one by one, and as 5 + 7 in a loop on the device: the counter in the state decides, not the call."""
    it = learner(name, utd=Fraction(3, 2), actor_updates="per_env_step")
    batches = jax.tree.map(lambda *x: np.stack(x), *(batch(i) for i in range(12)))

    @jax.jit
    def chunk(state: TrainState, first: int, count: int) -> TrainState:
        def one(i: Any, state: TrainState) -> TrainState:
            return it.algorithm.update(state, jax.tree.map(lambda x: x[i], Transition(*map(jnp.asarray, batches))))[0]

        return jax.lax.fori_loop(first, first + count, one, state)

    chunked, single = chunk(chunk(start(it), 0, 5), 5, 7), train(it, start(it), 12)
    for a, b in zip(data(chunked), data(single), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)
    assert same(chunked.key, single.key) and chunked.updates == single.updates == 12
    assert [int(chunked.opt[net].count) for net in ("critic", "actor")] == [12, 8]


# SAC against a slow reference: float64, the density of the squashed Gaussian by the change of variables


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
        leaves, tree = jax.tree.flatten(by_hand.params[net])
        moved = [b - a for a, b in zip(leaves, data(after.params[net]), strict=True)]
        checked = 0
        for leaf, step in zip(leaves, moved, strict=True):
            for entry in list(np.ndindex(leaf.shape))[:: max(1, leaf.size // 6)]:
                ends = []
                for h in (1e-5, -1e-5):
                    leaf[entry] += h
                    ends.append(loss(jax.tree.unflatten(tree, leaves)))
                    leaf[entry] -= h
                slope = (ends[0] - ends[1]) / 2e-5
                if abs(slope) > 1e-3:  # below it a float32 gradient may have either sign
                    checked += 1
                    assert step[entry] == pytest.approx(-ETA * np.sign(slope), rel=1e-2), (net, entry)
        assert checked > 20


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
    assert n == {"critic": critic, "actor": actor, "total": 2 * critic + actor + 1}

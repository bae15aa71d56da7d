"""What every learner promises, over every conf/algorithm/*.yaml; each one's own promises are in tests/algorithms."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from omegaconf import OmegaConf

from rlscale.types import EnvSpec, Hyper, TrainState, Transition
from tests.contract.learners import ENV, ETA, OPTIONS, B, Learner, batch, data, learner, same, start, train

pytestmark = pytest.mark.usefixtures("quick_compiles")


# One learner is compiled for the fast tests; the others take the same way.
LEARNERS = [pytest.param(name, marks=[pytest.mark.slow] * (name != "sac")) for name in OPTIONS]


@pytest.fixture(params=LEARNERS)
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


def test_the_parts_of_the_critics_update_are_those_of_the_update(it: Learner) -> None:
    """The lesson's loss is the one that the update reports, and `fit` takes the update's step of the critic alone."""
    state, critic = train(it, start(it), 3), it.algorithm.critic
    assert critic is not None

    @jax.jit
    def parts(state: TrainState, batch: Transition) -> Any:
        rows, target = critic.lesson(state, batch)
        return critic.loss(state.params["critic"], rows, target)[0], critic.fit(state, rows, target)

    loss, (fitted, metrics) = parts(state, batch(7))
    after, of_update = it.update(state, batch(7))
    # SimbaV2's update moves the actor before the critic, so its targets are an actor's step away
    tolerance = 0.05 if it.fields["name"] == "simbav2" else 1e-5
    assert loss == pytest.approx(float(of_update["critic_loss"]), rel=tolerance)
    assert loss == pytest.approx(float(metrics["critic_loss"]), rel=1e-5)
    for a, b in zip(data(fitted.params["critic"]), data(after.params["critic"]), strict=True):
        # the last bit of a number may be another, since they are compiled apart
        np.testing.assert_allclose(a, b, rtol=np.finfo(np.float32).eps, atol=ETA * tolerance)
    assert same(fitted.params["actor"], state.params["actor"]) and same(fitted.targets, state.targets)


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
    """Steps so small that a projection bends them by less than the tolerance."""
    steps, eta = {}, ETA / 10
    for rate in (eta, 4 * eta):
        state = start(it, learning_rate=rate)
        after, _ = it.update(state, batch(1))
        steps[rate] = [b - a for a, b in zip(*map(data, (state.params["critic"], after.params["critic"])), strict=True)]
    for small, large in zip(steps[eta], steps[4 * eta], strict=True):
        np.testing.assert_allclose(large, 4 * small, rtol=2e-3, atol=1e-6)
    assert max(np.abs(x).max() for x in steps[eta]) > eta / 10


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

    assert {name: n[name] for name in state.params} == {name: size(x) for name, x in state.params.items()}
    assert n["total"] == size((state.params, state.targets))
    assert n["double_critic"] == n["critic"] <= n["paper"] <= n["total"]


@pytest.mark.parametrize("name", [pytest.param(n, marks=[pytest.mark.slow] * (n != "sac")) for n in OPTIONS])
def test_flops_are_xlas(name: str) -> None:
    """The formula in the algorithm's file against the compiler's own count, at the papers' size."""
    # XLA counts a branch as if it were always taken.
    published = {"width": 256, "hidden": [512, 256, 128], "updates_per_policy_update": 1}
    sizes = {field: value for field, value in published.items() if field in learner(name).fields}
    it = learner(name, env=EnvSpec(17, 6, 1000), batch_size=256, **sizes)
    state = jax.eval_shape(it.algorithm.init, jax.random.key(0), Hyper(jnp.float32(0)))
    rows = Transition(*(jax.ShapeDtypeStruct((256, *s), jnp.float32) for s in ((17,), (6,), (), (), (17,))))
    counted = it.update.lower(state, rows).cost_analysis()["flops"]  # type: ignore[attr-defined]
    print(f"{name}: formula {it.algorithm.flops_per_update:.4g}, XLA {counted:.4g}")
    assert it.algorithm.flops_per_update == pytest.approx(counted, rel=0.05)


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


@pytest.mark.parametrize(
    "utd",
    [
        Fraction(3, 2),
        *(pytest.param(utd, marks=pytest.mark.slow) for utd in (Fraction(1, 2), Fraction(2), Fraction(3))),
    ],
    ids=str,
)
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

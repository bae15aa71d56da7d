"""Diagnostics change nothing of what they look at, and what they say is what can be computed by hand."""

from __future__ import annotations

import functools
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlscale.cycle import Run
from rlscale.diagnostics.asked import Diagnostics, GradientNoise, NewestTD, PassiveCritic, Validation
from rlscale.diagnostics.observed import Watch, noise_scale
from rlscale.diagnostics.passive import Passive, Pupils
from rlscale.loop import Row, run
from rlscale.types import Algorithm, Critic, EnvSpec, Hyper, Resets, TrainState, Transition
from tests.contract.runs import MEMBERS, TASKS, Asked, Watched, real, work
from tests.test_checkpoint import END, Done, assert_same, trained

pytestmark = pytest.mark.usefixtures("quick_compiles")

ALL = Diagnostics(Validation(3), PassiveCritic((4, 8)), GradientNoise(2, (4, 32)), NewestTD(2, 5))
NOTHING = Diagnostics(None, None, None, None)
EACH = {name: replace(NOTHING, **{name: getattr(ALL, name)}) for name in ALL.names}
PACK = Asked("toy", "drifting", MEMBERS[:2], Fraction(3, 2), num_envs=2, env_steps=120, eval_every=40)
FIELDS: dict[str, dict[str, Any]] = {
    "sac": {"depth": 1},
    "bro": {"actor_blocks": 0, "blocks": 0, "quantiles": 5},
    "pql": {"lag": 1},
    "simbav2": {"atoms": 11, "blocks": 0, "actor_blocks": 0},
}


def job(asked: Asked) -> Run:
    """A run with resets, of the narrow learner, or of a fake one that compiles at once."""
    made = learner(asked.learner, asked.task, asked.num_envs)
    return work(asked, algorithm=made._replace(resets=Resets(every_updates=30)))


@functools.cache
def learner(name: str, task: str, num_envs: int, **fields: Any) -> Any:
    env = TASKS[task].spec()._replace(num_envs=num_envs)
    return drifting(env) if name == "drifting" else real(name, env, **FIELDS[name], **fields)


def watch(asked: Asked, diagnostics: Diagnostics) -> Watch:
    widths = diagnostics.passive_critic.widths if diagnostics.passive_critic else ()
    return Watch(diagnostics, {w: learner(asked.learner, asked.task, asked.num_envs, width=w) for w in widths}, "test")


def rows(done: Done) -> list[list[dict[str, str]]]:
    return [[dict(zip(table[0], row, strict=True)) for row in table[1:]] for table in done.curves]


def assert_unmoved(plain: Done, observed: Done, rows_of: int = END) -> None:
    """Every column and every array of the state that the run has without diagnostics, bit for bit.

    Where `observed` ended before, the rows up to the `rows_of`-th vector step.
    """
    for a, b in zip(rows(plain), rows(observed), strict=True):
        assert a[: rows_of // 10] == [{name: row[name] for name in a[0]} for row in b]
    if rows_of < END:
        return
    for one, other in zip(plain.states, observed.states, strict=True):
        assert set(one) == {name for name in other if not name.startswith("diagnostics")}
        for name in one:
            np.testing.assert_array_equal(one[name], other[name], err_msg=name)


SAC = PACK._replace(learner="sac")
WAYS = {
    "drifting": PACK,
    "sac": SAC,
    "sac, vmap": SAC._replace(pack="vmap"),
    "sac, device": SAC._replace(task="control"),
    "bro": PACK._replace(learner="bro"),
    "pql, device": PACK._replace(learner="pql", task="control"),
    "simbav2": PACK._replace(learner="simbav2"),
}


@pytest.mark.parametrize("way", [pytest.param(w, marks=[pytest.mark.slow] * (w != "drifting")) for w in WAYS])
def test_looking_changes_nothing(way: str, tmp_path: Path) -> None:
    asked = WAYS[way]
    diagnostics = replace(ALL, passive_critic=None) if asked.learner == "pql" else ALL
    plain = trained(job(asked), tmp_path / "plain", END, END)
    observed = trained(job(asked), tmp_path / "observed", END, END, watch=watch(asked, diagnostics))
    assert_unmoved(plain, observed)
    for table in rows(observed):
        new = [name for name in table[0] if name not in rows(plain)[0][0]]
        assert set(new) > {"validation_critic_loss", "replay_critic_loss", "newest_critic_loss", "grad_norm_small"}
        assert all(row[name] for row in table[1:] for name in new if name != "noise_scale")


# Checkpoints


@pytest.mark.slow
@pytest.mark.parametrize(
    "asked",
    [PACK, SAC, SAC._replace(task="control", pack="vmap")],
    ids=["drifting", "sac", "sac, device, vmap"],
)
def test_a_resumed_run_goes_on_with_its_diagnostics(asked: Asked, tmp_path: Path) -> None:
    whole = trained(job(asked), tmp_path / "whole", END, END, watch=watch(asked, ALL))
    trained(job(asked), tmp_path / "ended", 20, 23, watch=watch(asked, ALL))
    again = watch(asked, ALL)
    assert_same(whole, trained(job(asked), tmp_path / "ended", END, END, watch=again))
    assert again.told()["diagnostics"]["since_env_step"] == 0


@pytest.mark.slow
def test_diagnostics_may_come_and_go(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The run goes on as it would; where they begin late it is said, in the record too."""
    one = replace(NOTHING, validation=ALL.validation, newest_td=ALL.newest_td)
    plain = trained(job(SAC), tmp_path / "plain", END, END)
    trained(job(SAC), tmp_path / "late", 20, 23)
    late = watch(SAC, one)
    assert_unmoved(plain, trained(job(SAC), tmp_path / "late", 40, 42, watch=late), rows_of=42)
    assert capsys.readouterr().err == "test: its checkpoint holds no such diagnostics; they begin at step 46\n"
    assert late.told()["diagnostics"]["since_env_step"] == 46
    again = watch(SAC, one)
    resumed = trained(job(SAC), tmp_path / "late", END, END, watch=again)
    assert_unmoved(plain, resumed)
    assert again.since == 46 and not capsys.readouterr().err
    filled = [bool(row["validation_critic_loss"]) for row in rows(resumed)[0]]
    assert filled == [False, False, True, True, True]  # rows at 20, 40, 60, 80 and 100 env steps
    for state in resumed.states:  # (every third of the vector steps 10, 11, … from the 23rd on) × 2 copies
        kept = state["diagnostics['kept'][0].reward"]
        assert kept.shape == (2 * 9,) and (kept != 0).all(), "rows that were never written"
    trained(job(SAC), tmp_path / "early", 20, 23, watch=watch(SAC, one))
    assert_unmoved(plain, trained(job(SAC), tmp_path / "early", END, END))


# By hand


def telling(env: EnvSpec, loss_at: float = 0.0) -> Algorithm:
    """A learner that adds up the rewards of its batches, with a critic whose loss tells the largest one it is shown."""

    def init(key: Any, hyper: Hyper) -> TrainState:
        params = {"critic": {"w": jnp.float32(loss_at)}, "actor": {"w": jnp.full(3, 2.0)}}
        return TrainState(params, (), {"critic": (), "actor": ()}, hyper, key, jnp.int32(0))

    def act(state: TrainState, obs: Any, key: Any, explore: bool) -> Any:
        return jnp.full((*obs.shape[:-1], env.action_dim), 0.5)

    def update(state: TrainState, batch: Transition) -> Any:
        return state.replace(updates=state.updates + 1), {"critic_loss": batch.reward.mean()}

    def loss(params: Any, batch: Transition, target: Any) -> Any:
        return batch.reward.max() + params["w"] * batch.reward.mean(), {}

    def fit(state: TrainState, batch: Transition, target: Any) -> Any:
        return state, {"critic_loss": batch.reward.mean() + target}

    critic = Critic(lambda state, batch: (batch, 10.0 * state.updates), loss, fit)
    return Algorithm(init, act, update, {"critic": 1, "actor": 3, "total": 4}, 1.0, critic=critic)


def drifting(env: EnvSpec) -> Algorithm:
    """The same, but what it does depends on all that a learner's may depend on."""
    made = telling(env, loss_at=1.0)

    def act(state: TrainState, obs: Any, key: Any, explore: bool) -> Any:
        noise = jax.random.normal(key, (*obs.shape[:-1], env.action_dim)) if explore else 0.0
        return jnp.tanh(state.params["critic"]["w"] + obs.sum(-1, keepdims=True) + noise)

    def update(state: TrainState, batch: Transition) -> Any:
        state, metrics = made.update(state, batch)
        key, own = jax.random.split(state.key)
        pull = batch.reward.mean() + jax.random.normal(own)
        return state.replace(params=jax.tree.map(lambda w: 0.9 * w + 0.1 * pull, state.params), key=key), metrics

    return made._replace(act=act, update=update)


def told(asked: Asked, diagnostics: Diagnostics, made: Algorithm, benchmark: Any = None) -> list[Row]:
    """The rows of the first member."""
    passive = dict.fromkeys(diagnostics.passive_critic.widths, made) if diagnostics.passive_critic else {}
    job = work(asked, algorithm=made, benchmark=benchmark)
    return [pack[0] for pack in run(job, watch=Watch(diagnostics, passive, "test"))]


@pytest.mark.slow
def test_validation_is_a_stream_of_its_own() -> None:
    watched = Watched("toy", "track", 2, [])
    asked = Asked("toy", num_envs=2, env_steps=120, warmup_steps=40, log_every=20)
    lines = told(asked, replace(NOTHING, validation=Validation(4)), telling(watched.spec()), watched)
    training, validation = watched.made
    assert training.closed and validation.closed
    assert (len(training.steps), len(validation.steps)) == (60, 20 + 10)
    warm = np.stack([env.actions[:20] for env in watched.made])
    assert (np.abs(warm) <= 1).all() and warm.std() > 0.4 and (warm[0] != warm[1]).all()
    assert all((a == 0.5).all() for a in (*training.actions[20:], *validation.actions[20:]))
    own, others = ({float(r) for step in env.steps for r in step.reward} for env in (validation, training))
    single = told(asked._replace(log_every=2), replace(NOTHING, validation=Validation(4)), telling(watched.spec()))
    seen = [row["validation_critic_loss"] for row in single if row["validation_critic_loss"] is not None]
    assert len(seen) == 10 and set(seen) <= own and not set(seen) <= others
    replayed = {row["replay_critic_loss"] for row in single if row["replay_critic_loss"] is not None}
    assert replayed <= others
    assert [row["validation_critic_loss"] is None for row in lines] == [True] * 2 + [False] * 4
    assert lines[-1]["actor_norm"] == pytest.approx(12**0.5) and lines[-1]["critic_norm"] == 0.0


def test_the_newest_are_those_written_last_around_the_end_of_the_replay() -> None:
    watched = Watched("toy", "track", 2, [])
    asked = Asked("toy", num_envs=2, env_steps=120, warmup_steps=40, log_every=2, replay_capacity=30)
    diagnostics = replace(NOTHING, newest_td=NewestTD(1, 5))
    lines = told(asked, diagnostics, telling(watched.spec()), watched)
    paid = np.concatenate([step.reward for step in watched.made[0].steps])
    for t, row in enumerate(lines):
        wanted = None if t < 20 else paid[2 * t + 2 - 5 : 2 * t + 2].max()
        assert row["newest_critic_loss"] == wanted


@pytest.mark.parametrize("pack", ["loop", pytest.param("vmap", marks=pytest.mark.slow)])
def test_a_passive_critic_has_the_lessons_of_the_learner(pack: str) -> None:
    """The same batches, and targets by the learner's state before each update: of the fake, its count of them."""
    asked = Asked("toy", num_envs=2, env_steps=80, warmup_steps=40, log_every=2, utd=Fraction(1, 2), pack=pack)
    one, made = replace(NOTHING, passive_critic=PassiveCritic((4,))), telling(TASKS["toy"].spec())
    lines = told(asked, one, made)
    for row in lines[20:]:
        before = 10.0 * (int(row["updates"] or 0) - 1)
        assert row["passive_critic_loss_w4"] == pytest.approx(row["critic_loss"] + before, rel=1e-6)  # type: ignore[operator]
    for row in told(asked._replace(utd=Fraction(1)), one, made)[20:]:  # two lessons, the second an update later
        before = 10.0 * (int(row["updates"] or 0) - 1.5)
        assert abs(row["passive_critic_loss_w4"] - before) < 1  # type: ignore[operator]


@pytest.mark.slow
def test_a_passive_critic_like_the_learners_has_its_losses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Begun with the learner's own weights it is its critic, update by update: targets and noise are the same."""

    def begin(self: Passive, learner: Any, *_: Any) -> Pupils:
        zero = jnp.float32(0)
        return Pupils({8: learner.state.replace(targets=(), seen=())}, {8: zero}, zero)

    monkeypatch.setattr(Passive, "begin", begin)
    asked = PACK._replace(utd=Fraction(1, 2), log_every=2, eval_every=None)
    lines = told(asked, replace(NOTHING, passive_critic=PassiveCritic((8,))), learner("sac", "toy", 2))
    assert len(lines) == 60
    for row in lines[10:]:
        assert row["passive_critic_loss_w8"] == pytest.approx(row["critic_loss"], rel=1e-4)


def test_gradient_noise_is_the_two_batch_formula() -> None:
    """Of the fake the gradient is the mean reward: on `reach` always −1, so there is no noise; and on a Gaussian."""
    noise = replace(NOTHING, gradient_noise=GradientNoise(1, (4, 64)))
    last = told(Asked("reach"), noise, telling(TASKS["reach"].spec()))[-1]
    assert (last["grad_norm_small"], last["grad_norm_big"], last["noise_scale"]) == (1.0, 1.0, 0.0)
    rng, signal, spread = np.random.default_rng(0), 3.0, 5.0
    small, big = (np.mean((signal + spread / b**0.5 * rng.standard_normal(100_000)) ** 2) for b in (4, 64))
    assert noise_scale(np.array(small), np.array(big), 4, 64) == pytest.approx(spread**2 / signal**2, rel=0.05)
    assert np.isnan(noise_scale(np.array(1.0), np.array(0.01), 4, 64))


@pytest.mark.slow
def test_a_diagnostic_that_is_not_finite_does_not_end_the_run() -> None:
    looks = replace(ALL, passive_critic=None)
    last = told(Asked("toy"), looks, telling(TASKS["toy"].spec(), loss_at=float("nan")))[-1]
    assert last["env_step"] == 60 and last["validation_critic_loss"] is None and last["critic_norm"] is None
    assert last["actor_norm"] == pytest.approx(12**0.5)

"""The `brax` suite: how episodes follow each other, on a small stand-in; and against Brax's own steps (slow)."""

from __future__ import annotations

import functools
import subprocess
import sys
from pathlib import Path
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlscale.benchmarks import brax
from rlscale.benchmarks.brax import Brax
from rlscale.typed import Mistake
from rlscale.types import DeviceEnv, Step

LIMIT = 7  # episode steps of the stand-in


# --- how episodes follow each other ---


@flax.struct.dataclass
class Now:
    """What the suite reads of a brax.envs.State, and a physics of one number."""

    pipeline_state: Any
    obs: Any
    reward: Any
    done: Any


class Walk:
    """A walk on a line that ends beyond +2 and diverges below -2; its reward is a plain float, as Brax's may be."""

    def reset(self, key: Any) -> Now:
        x = jax.random.uniform(key, (1,), minval=-1.0, maxval=1.0)
        return Now(x, jnp.append(x, 0.0), jnp.zeros(()), jnp.zeros(()))

    def step(self, state: Now, action: Any) -> Now:
        x = state.pipeline_state + action
        x = jnp.where(x < -2.0, jnp.nan, x)
        return state.replace(pipeline_state=x, obs=jnp.append(x, action), reward=1.0, done=(x[0] > 2.0) * 1.0)


def by_hand(key: Any, actions: np.ndarray) -> list[tuple[np.ndarray, float, bool, bool, np.ndarray]]:
    """One copy of `Walk` under `actions` [T, 1], in plain Python."""

    def start(episode: int) -> np.ndarray:
        return np.append(jax.random.uniform(jax.random.fold_in(key, episode), (1,), minval=-1.0, maxval=1.0), 0.0)

    episode, age, out = 0, 0, []
    obs = start(0).astype(np.float32)
    for action in np.clip(actions[:, 0], -1, 1):
        age += 1
        successor, reward = np.float32([obs[0] + action, action]), 1.0
        diverged = successor[0] < -2
        if diverged:
            successor, reward = obs, 0.0
        terminated = bool(successor[0] > 2)
        truncated = bool(not terminated and (age == LIMIT or diverged))
        obs = successor
        if terminated or truncated:
            episode, age = episode + 1, 0
            obs = start(episode).astype(np.float32)
        out.append((obs, reward, terminated, truncated, successor))
    return out


@functools.cache
def walked(shape: tuple[int, ...]) -> tuple[Any, np.ndarray, Step]:
    """Keys [*shape], actions [T, *shape, 1], and what `Walk`'s copies make of them, [T, *shape, ...]."""
    functions = brax._episodes(Walk(), LIMIT)
    for _ in shape:
        functions = DeviceEnv(jax.vmap(functions.init), jax.vmap(functions.step))
    count = int(np.prod(shape, dtype=int))
    keys = jax.random.split(jax.random.PRNGKey(0), count).reshape(*shape, 2)
    actions = np.random.default_rng(0).uniform(-1.5, 1.5, (40, *shape, 1)).astype(np.float32)
    run = jax.jit(lambda keys, actions: jax.lax.scan(functions.step, functions.init(keys)[0], actions)[1])
    return keys, actions, jax.tree.map(np.asarray, run(keys, actions))


@pytest.mark.parametrize(
    "shape",
    [
        pytest.param((), id="one copy", marks=pytest.mark.slow),
        pytest.param((1,), id="E=1", marks=pytest.mark.slow),
        pytest.param((20,), id="E=20", marks=pytest.mark.slow),
        pytest.param((2, 10), id="two members of 10", marks=pytest.mark.slow),
    ],
)
def test_every_copy_goes_its_own_way(shape: tuple[int, ...]) -> None:
    """True ends, time-outs and divergence, more at once than are made together, or none; whatever the batching."""
    keys, actions, out = walked(shape)
    over = out.terminated | out.truncated
    if shape == (20,):
        assert over.sum(axis=-1).max() > 20 / brax.SHARES and (over.sum(axis=-1) == 0).any()
        assert out.terminated.any() and (out.reward == 0).any()
    for copy in np.ndindex(*shape):
        expected = by_hand(keys[copy], actions[(slice(None), *copy)])
        for name, column in zip(Step._fields, map(np.stack, zip(*expected, strict=True)), strict=True):
            np.testing.assert_array_equal(getattr(out, name)[(slice(None), *copy)], column, err_msg=name)


# --- mistakes ---


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        ({"task": "hoper"}, "benchmark.task=hoper: brax has no such task; did you mean hopper?"),
        ({"task": "fast"}, "benchmark.task=fast: brax has no such task; choose one of ant, "),
        ({"backend": "sprung"}, "benchmark.backend=sprung: brax has no such; did you mean spring?"),
    ],
)
def test_mistakes(changed: dict[str, Any], sentence: str) -> None:
    fields: dict[str, Any] = {"task": "hopper", "backend": "spring", "num_envs": 1, "episode_steps": 1000}
    for method in (Brax.spec, Brax.functions):
        with pytest.raises(Mistake) as error:
            method(Brax("brax", **fields | changed))
        assert str(error.value).startswith(sentence)


@pytest.mark.parametrize("field", ["num_envs", "episode_steps"])
def test_numbers_out_of_range(field: str) -> None:
    with pytest.raises(ValueError, match=f"^{field}=0: give a whole number, 1 or more$"):
        Brax("brax", **{"task": "hopper", "backend": "spring", "num_envs": 1, "episode_steps": 1000} | {field: 0})


def test_without_brax(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "brax", None)
    brax._load.cache_clear()
    with pytest.raises(Mistake, match=r"^benchmark=brax: import of brax halted.*; pip install -e '\.\[brax\]'$"):
        Brax("brax", "hopper", "spring", 1, 1000).spec()


# --- against Brax ---


@pytest.mark.slow
@pytest.mark.parametrize(
    ("task", "backend"), [("inverted_pendulum", "spring"), ("inverted_pendulum", "mjx"), ("halfcheetah", "spring")]
)
def test_a_step_is_braxs_own(task: str, backend: str, quick_compiles: None) -> None:
    """Between resets state for state, at an end the observation that Brax's step gives, after it Brax's own reset."""
    steps, copies, limit = 60, 3, 25
    bench = Brax("brax", task, backend, copies, limit)
    env, functions = brax._load(task, backend), bench.functions()
    keys = jax.random.split(jax.random.PRNGKey(3), copies)
    actions = np.random.default_rng(0).uniform(-1.2, 1.2, (steps, copies, bench.spec().action_dim)).astype(np.float32)

    @jax.jit
    def run(keys: Any, actions: Any) -> Any:
        def one(state: Any, action: Any) -> Any:
            after, step = jax.vmap(functions.step)(state, action)
            return after, (state, after, step)

        return jax.lax.scan(one, jax.vmap(functions.init)(keys)[0], actions)[1]

    before, after, out = jax.tree.map(lambda x: x.reshape(steps * copies, *x.shape[2:]), run(keys, actions))
    stepped = jax.jit(jax.vmap(env.step))(before.now, jnp.clip(actions, -1, 1).reshape(steps * copies, -1))
    begun = jax.jit(jax.vmap(env.reset))(jax.vmap(jax.random.fold_in)(before.key, after.episode))

    over = np.asarray(out.terminated | out.truncated)
    assert over.sum() >= 2 * copies
    # Another batch size is another program, with other roundings: halfcheetah's 16 stiff substeps make 1e-4 of them.
    close = functools.partial(np.testing.assert_allclose, rtol=1e-3, atol=1e-3)
    close(out.final_obs, stepped.obs)
    close(out.reward, stepped.reward)
    np.testing.assert_array_equal(out.terminated, np.asarray(stepped.done) > 0)
    for ours, theirs, fresh in zip(*map(jax.tree.leaves, (after.now, stepped, begun)), strict=True):
        close(ours[~over], theirs[~over])
        close(ours[over], fresh[over])
    starts = np.asarray(out.obs)[over]
    assert len(np.unique(starts, axis=0)) == len(starts)
    ends = (np.asarray(x).reshape(steps, copies) for x in (out.terminated, out.truncated))
    age = np.zeros(copies, int)
    for terminated, truncated in zip(*ends, strict=True):
        age += 1
        np.testing.assert_array_equal(truncated, (age == limit) & ~terminated)
        age[terminated | truncated] = 0


@pytest.mark.slow
@pytest.mark.parametrize("task", brax.TASKS)
def test_every_task_takes_every_backend(task: str) -> None:
    """Traced, not compiled: what a step takes and gives has the shapes that the suite promises."""
    for backend in brax.BACKENDS:
        bench = Brax("brax", task, backend, 2, 1000)
        functions, (obs_dim, action_dim, *_) = bench.functions(), bench.spec()
        state, _ = jax.eval_shape(functions.init, jax.random.PRNGKey(0))
        after, step = jax.eval_shape(functions.step, state, jnp.zeros(action_dim))
        kinds = [[(x.shape, x.dtype) for x in jax.tree.leaves(each)] for each in (state, after)]
        assert kinds[0] == kinds[1]
        assert step.obs.shape == step.final_obs.shape == (obs_dim,) and step.reward.shape == ()


@pytest.mark.slow
def test_the_list_is_braxs_own() -> None:
    """Less its stand-in `fast` and `swimmer`, which fails: should a Brax mend that, it belongs on the list."""
    env = brax._load("swimmer", "generalized")
    from brax import envs

    assert set(brax.TASKS) == set(envs._envs) - {"fast", "swimmer"}
    state = jax.eval_shape(env.reset, jax.random.PRNGKey(0))
    with pytest.raises(TypeError, match="a_min"):
        jax.eval_shape(env.step, state, jnp.zeros(env.action_size))


@pytest.mark.slow
def test_nothing_is_said(root: Path, tmp_path: Path) -> None:
    """Not by Brax, JAXopt or MJX on their import, nor by MuJoCo, which would leave a file as well."""
    code = "from rlscale.benchmarks.brax import Brax; print(Brax('brax', 'halfcheetah', 'spring', 2, 1000).spec())"
    command, env = [sys.executable, "-W", "always", "-c", code], {"PYTHONPATH": str(root), "JAX_PLATFORMS": "cpu"}
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True)
    assert done.stdout == "EnvSpec(obs_dim=17, action_dim=6, episode_steps=1000, num_envs=1)\n"
    assert done.stderr == ""
    assert list(tmp_path.iterdir()) == []

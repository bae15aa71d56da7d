"""What every suite promises, over every conf/benchmark/*.yaml; a suite whose simulator is not installed is skipped."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import pytest
from omegaconf import OmegaConf

from rlscale.job import component
from rlscale.typed import Mistake
from rlscale.types import DeviceEnv, ResumableEnv, Step

pytestmark = pytest.mark.usefixtures("quick_compiles")

OPTIONS = sorted((Path(__file__).parents[2] / "conf" / "benchmark").glob("*.yaml"))
# Tasks to hold to the contract besides each option's default.
MORE = {
    "brax": ["reacher"],
    "control": ["cartpole_swingup"],
    "gym": ["Pendulum-v1", "Hopper-v4"],
    "humanoid_bench": ["h1-pole-v0"],
    "toy": ["reach"],
}


class Case(NamedTuple):
    """A suite and a task of it, by default the option's, and the same of a backend."""

    suite: str
    task: str | None = None
    backend: str | None = None


ENVPOOL = [
    Case("gym", "Reacher-v4", "envpool"),
    Case("gym", "Hopper-v4", "envpool"),
    Case("dmc", "point_mass-easy", "envpool"),
]
CASES = [*(Case(path.stem, task) for path in OPTIONS for task in (None, *MORE.get(path.stem, []))), *ENVPOOL]
# Slow to compile, to make or to step; or a second task of a suite. All have quick tests in tests/benchmarks too.
SLOW = {
    *(Case("brax"), Case("brax", "reacher"), Case("control", "cartpole_swingup"), Case("dmc")),
    *(Case("gym", "Hopper-v4"), Case("isaacgym"), *ENVPOOL),
}
NOTHING_RANDOM = {Case("toy", "reach")}
# under random actions
ENDS_EARLY = {("brax", "hopper"), ("gym", "Hopper-v4"), ("humanoid_bench", "h1-pole-v0"), ("toy", "reach")}
WITHOUT_STATE = {Case("isaacgym"), *ENVPOOL}  # it is another process's, or EnvPool's own
E = 3  # copies


def option(suite: str) -> dict[str, Any]:
    path = next(path for path in OPTIONS if path.stem == suite)
    return dict(OmegaConf.load(path))


def benchmark(suite: str, task: str | None, backend: str | None = None, num_envs: int = E) -> Any:
    values = option(suite)
    chosen = {"task": task or values["task"], "num_envs": num_envs} | ({"backend": backend} if backend else {})
    return component(values | chosen, "benchmark")


class Driver(NamedTuple):
    """Host and device environments, driven alike; everything that comes out is NumPy."""

    reset: Callable[[], np.ndarray]
    step: Callable[[np.ndarray], Step]


@functools.cache  # one compile for all tests of a task
def compiled(bench: Any) -> DeviceEnv:
    functions = bench.functions()
    return DeviceEnv(jax.jit(jax.vmap(functions.init)), jax.jit(jax.vmap(functions.step)))


def driver(bench: Any, seed: int) -> Driver:
    if hasattr(bench, "make"):
        env = bench.make(seed)
        return Driver(env.reset, env.step)
    init, step_ = compiled(bench)
    keys = jax.random.split(jax.random.key(seed), bench.num_envs)
    state = init(keys)[0]

    def reset() -> np.ndarray:
        nonlocal state, keys
        state, obs = init(keys)
        keys = jax.vmap(jax.random.split)(keys)[:, 1]
        return np.asarray(obs)

    def step(action: np.ndarray) -> Step:
        nonlocal state
        state, out = step_(state, action)
        return jax.tree.map(np.asarray, out)

    return Driver(reset, step)


@pytest.fixture(
    params=[pytest.param(case, marks=pytest.mark.slow) if case in SLOW else case for case in CASES],
    ids=lambda case: "-".join([case.suite, case.task or "default", *([case.backend] if case.backend else [])]),
)
def case(request: pytest.FixtureRequest) -> Case:
    """A suite and a task that can run here."""
    wanted: Case = request.param
    try:
        benchmark(*wanted).spec()
    except (ImportError, Mistake) as error:
        cause: BaseException | None = error
        while cause is not None and not isinstance(cause, ImportError):
            cause = cause.__cause__
        if cause is None:
            raise
        pytest.skip(f"benchmark={wanted.suite}: {error}")
    return wanted


def actions(steps: int, action_dim: int) -> np.ndarray:
    return np.random.default_rng(0).uniform(-1, 1, (steps, E, action_dim)).astype(np.float32)


def rollout(bench: Any, seed: int, steps: int) -> tuple[np.ndarray, Step]:
    """The observations acted on and what came of it, [T, E, ...] each."""
    env = driver(bench, seed)
    obs, seen, out = env.reset(), [], []
    for action in actions(steps, bench.spec().action_dim):
        seen.append(obs)
        out.append(env.step(action))
        obs = out[-1].obs
    return np.stack(seen), Step(*(np.stack(column) for column in zip(*out, strict=True)))


@functools.cache  # bought once for two tests
def long_rollout(bench: Any) -> tuple[np.ndarray, Step]:
    """Two time-outs and a half, or some dozens of true ends: every copy restarts."""
    limit = bench.spec().episode_steps
    ends_early = (bench.name, bench.task) in ENDS_EARLY
    return rollout(bench, seed=1, steps=min(2 * limit + limit // 2, 400 if ends_early else 10_000))


def test_every_option_is_whole(case: Case) -> None:
    assert set(option(case.suite)) >= {"_target_", "name", "task", "num_envs"}
    assert option(case.suite)["name"] == case.suite


def test_shapes_and_dtypes(case: Case) -> None:
    bench = benchmark(*case)
    obs_dim, action_dim, episode_steps, _ = bench.spec()
    assert episode_steps > 0
    env = driver(bench, seed=0)
    obs = env.reset()
    assert obs.shape == (E, obs_dim) and obs.dtype == np.float32
    for action in (np.ones, np.zeros, lambda shape, dtype: -np.ones(shape, dtype)):  # the ends of the box are inside
        out = env.step(action((E, action_dim), np.float32))
        for x, shape, dtype in (
            (out.obs, (E, obs_dim), np.float32),
            (out.final_obs, (E, obs_dim), np.float32),
            (out.reward, (E,), np.float32),
            (out.terminated, (E,), np.bool_),
            (out.truncated, (E,), np.bool_),
        ):
            assert isinstance(x, np.ndarray) and x.shape == shape and x.dtype == dtype
            assert np.isfinite(x).all()


def test_episodes(case: Case) -> None:
    """A time-out is no termination and comes at the limit; an ended copy restarts in the same step, and only it."""
    bench = benchmark(*case)
    limit = bench.spec().episode_steps
    seen, out = long_rollout(bench)
    ended = out.terminated | out.truncated

    assert not (out.terminated & out.truncated).any()
    age = np.zeros(E, int)
    for now in range(len(seen)):
        age += 1
        assert (out.truncated[now] == ((age == limit) & ~out.terminated[now])).all(), f"copy ages {age}"
        age[ended[now]] = 0
    if (bench.name, bench.task) in ENDS_EARLY:
        assert out.terminated.any()
    else:
        assert out.truncated.sum() == 2 * E

    # `final_obs` is the observation before the reset, `obs` the one to go on from
    assert (out.final_obs == out.obs)[~ended].all()
    assert (out.final_obs != out.obs)[ended].any(axis=-1).all()

    # Every episode begins like one (no transition leads across a reset), and its first step is a real step.
    fresh = driver(bench, seed=2)
    starts = np.concatenate([fresh.reset() for _ in range(40)])
    low, high = starts.min(axis=0), starts.max(axis=0)
    margin = high - low + 1e-6
    begun = out.obs[ended]
    assert (begun >= low - margin).all() and (begun <= high + margin).all()
    follows = ended[:-1]
    assert (out.final_obs[1:] != seen[1:])[follows].any(axis=-1).all()


def test_seeds_reproduce_and_differ(case: Case) -> None:
    bench = benchmark(*case)
    steps = min(bench.spec().episode_steps + 20, 250)
    once, again, other = (rollout(bench, seed, steps) for seed in (5, 5, 6))
    for a, b in zip(jax.tree.leaves(once), jax.tree.leaves(again), strict=True):
        np.testing.assert_array_equal(a, b)
    if case not in NOTHING_RANDOM:
        seen = once[0]
        assert (seen[0] != other[0][0]).any(axis=-1).all()  # from the first observation on, in every copy
        assert (seen[0, 0] != seen[0, 1]).any() and (seen[0, 1] != seen[0, 2]).any()


def test_a_state_is_all_that_steps_depend_on(case: Case) -> None:
    """Environments made with another seed go on as those whose state they take, past an episode's start."""
    bench = benchmark(*case)
    if case in WITHOUT_STATE or not hasattr(bench, "make"):
        pytest.skip("on the device the state is the program's own" if hasattr(bench, "functions") else "it has none")
    limit = bench.spec().episode_steps
    before, after = limit // 2, min(limit + 10, 1100)
    env, other = bench.make(1), bench.make(2)
    assert isinstance(env, ResumableEnv)
    env.reset()
    other.reset()
    moves = actions(before + after, bench.spec().action_dim)
    for action in moves[:before]:
        env.step(action)
    state = env.state()
    assert state is not None
    other.resume(state)
    for action in moves[before:]:
        for a, b in zip(env.step(action), other.step(action), strict=True):
            np.testing.assert_array_equal(a, b)
    env.close()
    other.close()


def test_episodes_of_a_copy_differ(case: Case) -> None:
    bench = benchmark(*case)
    if case in NOTHING_RANDOM:
        pytest.skip("nothing in this task is random")
    env = driver(bench, seed=0)
    first, second = env.reset(), env.reset()
    assert (first != second).any(axis=-1).all()
    _, out = long_rollout(bench)
    begun = out.obs[out.terminated | out.truncated]
    assert len(np.unique(begun, axis=0)) == len(begun)


def test_the_whole_box_is_used(case: Case) -> None:
    """From the same start, ½ does less than 1, and beyond 1 there is nothing more to have."""
    bench = benchmark(*case)
    shape = (E, bench.spec().action_dim)

    def after(size: float) -> tuple[np.ndarray, np.ndarray]:
        env = driver(bench, seed=3)
        env.reset()
        out = env.step(np.full(shape, size, np.float32))
        return out.final_obs, out.reward

    for sign in (1.0, -1.0):
        half, whole, beyond = after(sign * 0.5), after(sign), after(sign * 1.5)
        assert any((a != b).any() for a, b in zip(half, whole, strict=True))
        for a, b in zip(whole, beyond, strict=True):
            np.testing.assert_array_equal(a, b)


def test_mistakes_are_sentences(case: Case) -> None:
    with pytest.raises(Mistake, match=r"^benchmark\.task=no-such-task: "):
        benchmark(*case._replace(task="no-such-task")).spec()
    with pytest.raises(Mistake, match=r"^benchmark\.num_envs=0: "):
        benchmark(*case, num_envs=0)

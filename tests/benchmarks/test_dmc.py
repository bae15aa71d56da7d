"""The `dmc` suite against dm_control's own environments, stepped by hand."""

from __future__ import annotations

import collections
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest

from rlscale.benchmarks import dmc
from rlscale.benchmarks.dmc import DMCPython
from rlscale.types import HostEnv

pytest.importorskip("dm_control")
suite = dmc._suite()  # with MuJoCo's renderer off, as the suite imports it
TASKS = [f"{domain}-{task}" for domain, task in suite.ALL_TASKS]


def made(task: str, num_envs: int = 1, action_repeat: int = 1, seed: int = 7) -> HostEnv:
    return DMCPython("dmc", task, num_envs, action_repeat, "python").make(seed)


def bare(task: str, index: int = 0, seed: int = 7) -> Any:
    """The environment that copy `index` of `made` wraps."""
    own = int(np.random.SeedSequence((seed, index)).generate_state(1)[0])
    return suite.load(*task.split("-"), task_kwargs={"random": own})


def flat(observation: Any) -> np.ndarray:
    return np.concatenate([np.ravel(value) for value in observation.values()]).astype(np.float32)


def random_actions(steps: int, num_envs: int, task: str) -> np.ndarray:
    action_dim = DMCPython("dmc", task, 1, 1, "python").spec().action_dim
    return np.random.default_rng(0).uniform(-1, 1, (steps, num_envs, action_dim)).astype(np.float32)


class Scripted:
    """An environment of the suite's kind that ends as told: `ends` maps a step to the discount of its last step."""

    def __init__(self, ends: dict[int, float], fails: int | None = None) -> None:
        self.ends, self.fails, self.count, self.actions = ends, fails, 0, []

    def reset(self) -> Any:
        self.count = 0
        return self._now()

    def step(self, action: np.ndarray) -> Any:
        from dm_control.rl.control import PhysicsError

        self.count += 1
        self.actions.append(action)
        if self.count == self.fails:
            raise PhysicsError("Physics state is invalid.\nWarning(s) raised: mjWARN_BADQACC")
        return self._now(float(self.count))

    def _now(self, reward: float | None = None) -> Any:
        import dm_env

        last = self.count in self.ends
        kind = dm_env.StepType.LAST if last else dm_env.StepType.MID if self.count else dm_env.StepType.FIRST
        discount = self.ends[self.count] if last else None if reward is None else 1.0
        quantities = {"height": np.array(self.count + 0.5), "position": np.full((2, 2), self.count)}
        return dm_env.TimeStep(kind, reward, discount, dict(reversed(quantities.items())) if last else quantities)


def scripted(ends: dict[int, float], action_repeat: int = 1, fails: int | None = None) -> tuple[Any, Scripted]:
    env = Scripted(ends, fails)
    copy = dmc._Copy("no-task", ("position", "height"), action_repeat, env)
    return dmc.Copies([copy], 5, -np.ones(1), np.ones(1)), env


@pytest.mark.parametrize("task", ["finger-turn_hard", "quadruped-walk"])  # with scalars; with an uneven box of actions
def test_equals_the_environment_stepped_by_hand(task: str) -> None:
    env, theirs = made(task, num_envs=2), [bare(task, i) for i in range(2)]
    first = env.reset()
    for i in range(2):
        np.testing.assert_array_equal(first[i], flat(theirs[i].reset().observation))
    box = theirs[0].action_spec()
    for action in random_actions(40, 2, task):
        out = env.step(action)
        for i in range(2):
            now = theirs[i].step(box.minimum + (action[i] + 1.0) / 2 * (box.maximum - box.minimum))
            np.testing.assert_allclose(out.final_obs[i], flat(now.observation), rtol=2e-4, atol=2e-4)
            np.testing.assert_allclose(out.reward[i], now.reward, rtol=1e-4, atol=1e-5)


def test_equals_the_environment_across_episodes() -> None:
    """Bit by bit where the box is ±1: the limit cuts, nothing ends, and the next episode is the suite's own next."""
    task = "point_mass-easy"
    env, theirs = made(task), bare(task)
    env.reset()
    theirs.reset()
    cut = []
    for number, action in enumerate(random_actions(2005, 1, task), start=1):
        out, now = env.step(action), theirs.step(np.asarray(action[0], np.float64))
        np.testing.assert_array_equal(out.final_obs[0], flat(now.observation))
        assert out.reward[0] == np.float32(now.reward) and not out.terminated[0]
        if now.last():
            cut.append(number)
            now = theirs.reset()
        assert out.truncated[0] == (number in cut)
        np.testing.assert_array_equal(out.obs[0], flat(now.observation))
    assert cut == [1000, 2000]


def test_the_suites_order_is_kept_whatever_the_mapping_s() -> None:
    env, theirs = made("walker-walk"), bare("walker-walk")
    assert list(theirs.observation_spec()) == ["orientations", "height", "velocity"]
    own = theirs.task.get_observation
    copy = env._copies[0]  # type: ignore[attr-defined]
    assert copy._keys == ("orientations", "height", "velocity")
    ours = copy._env.task
    ours.get_observation = lambda physics: collections.OrderedDict(sorted(own(physics).items()))
    obs = env.reset()
    np.testing.assert_array_equal(obs[0], flat(theirs.reset().observation))
    # the sorted mapping would have begun with the height
    assert list(ours.get_observation(copy._env.physics)) == ["height", "orientations", "velocity"]
    assert obs.dtype == np.float32 and obs.shape == (1, 24)


def test_an_action_is_repeated_and_its_rewards_summed() -> None:
    task, repeat = "cheetah-run", 4
    env, theirs = made(task, action_repeat=repeat), bare(task)
    env.reset()
    theirs.reset()
    for action in random_actions(20, 1, task):
        out = env.step(action)
        now = [theirs.step(np.asarray(action[0], np.float64)) for _ in range(repeat)]
        np.testing.assert_array_equal(out.final_obs[0], flat(now[-1].observation))
        assert out.reward[0] == np.float32(sum(step.reward for step in now))


@pytest.mark.parametrize(("repeat", "steps"), [(1, 1000), (2, 500), (3, 334), (1000, 1)])
def test_the_limit_is_counted_in_the_agents_steps(repeat: int, steps: int) -> None:
    assert DMCPython("dmc", "cheetah-run", 1, repeat, "python").spec()[:3] == (17, 6, steps)


def test_a_repeated_action_stops_where_the_episode_does() -> None:
    env, inner = scripted({5: 1.0}, action_repeat=3)
    env.reset()
    first, second = env.step(np.zeros((1, 1))), env.step(np.zeros((1, 1)))
    assert (first.reward[0], second.reward[0]) == (1 + 2 + 3, 4 + 5) and len(inner.actions) == 5
    assert second.truncated[0] and (second.final_obs[0] == [5, 5, 5, 5, 5.5]).all()  # of a mapping turned about
    assert (second.obs[0] == [0, 0, 0, 0, 0.5]).all()


@pytest.mark.parametrize(("discount", "terminated"), [(1.0, False), (0.0, True)])
def test_a_last_step_is_an_end_only_without_discount(discount: float, terminated: bool) -> None:
    env, _ = scripted({2: discount})
    env.reset()
    out = [env.step(np.zeros((1, 1))) for _ in range(2)]
    assert not (out[0].terminated[0] or out[0].truncated[0])
    assert (out[1].terminated[0], out[1].truncated[0]) == (terminated, not terminated)


def test_physics_that_give_up_cut_the_episode() -> None:
    """The step leads nowhere and earns nothing, the next episode begins, and the run goes on."""
    env, _ = scripted({}, fails=3)
    env.reset()
    before = [env.step(np.zeros((1, 1))) for _ in range(2)][-1]
    with pytest.warns(RuntimeWarning, match=r"^no-task: episode cut, since Physics .* raised: mjWARN_BADQACC$"):
        out = env.step(np.zeros((1, 1)))
    assert out.truncated[0] and not out.terminated[0] and out.reward[0] == 0
    np.testing.assert_array_equal(out.final_obs, before.final_obs)
    assert (out.obs[0] == [0, 0, 0, 0, 0.5]).all()


def test_the_suites_error_is_the_one_that_is_caught() -> None:
    env = made("cheetah-run", seed=0)
    env.reset()
    env._copies[0]._env.physics.data.qvel[:] = np.nan  # type: ignore[attr-defined]
    with pytest.warns(RuntimeWarning, match="cheetah-run: episode cut"):
        out = env.step(np.zeros((1, 6), np.float32))
    assert out.truncated[0] and np.isfinite(out.obs).all() and np.isfinite(out.final_obs).all()


def test_actions_reach_the_ends_of_the_tasks_own_box() -> None:
    env = made("quadruped-walk")
    env.reset()
    box = bare("quadruped-walk").action_spec()
    control = env._copies[0]._env.physics.control  # type: ignore[attr-defined]
    for size, end in ((-1.0, box.minimum), (1.0, box.maximum), (7.0, box.maximum)):
        env.step(np.full((1, 12), size, np.float32))
        np.testing.assert_allclose(control(), end, rtol=1e-12)


def test_lqr_has_an_end_here() -> None:
    """The suite gives these neither a time limit nor limits of the action, and a true end at the origin."""
    bench = DMCPython("dmc", "lqr-lqr_2_1", 1, 1, "python")
    assert bench.spec()[:3] == (4, 1, 1000)
    env = bench.make(seed=0)
    env.reset()
    inner = env._copies[0]._env  # type: ignore[attr-defined]
    assert inner._step_limit == 1000
    env.step(np.full((1, 1), 3.0, np.float32))
    assert inner.physics.control() == 1.0
    with inner.physics.reset_context():
        inner.physics.data.qpos[:] = inner.physics.data.qvel[:] = 0.0
    out = env.step(np.zeros((1, 1), np.float32))
    assert out.terminated[0] and not out.truncated[0]


def test_a_task_that_draws_its_terrain_runs_without_a_screen() -> None:
    env = made("quadruped-escape")
    terrain = env._copies[0]._env.physics.model.hfield_data  # type: ignore[attr-defined]
    env.reset()
    first = terrain.copy()
    env.reset()
    assert (terrain != first).any()  # a new one for each episode


def test_a_copy_is_the_same_in_any_number() -> None:
    few, many = (made("cartpole-swingup", num_envs=n, seed=3).reset() for n in (1, 3))
    np.testing.assert_array_equal(few, many[:1])


def test_a_task_is_made_quietly(tmp_path: Path, monkeypatch: Any, capfd: Any, caplog: Any) -> None:
    monkeypatch.chdir(tmp_path)
    made("cheetah-run").close()  # whose model MuJoCo finds deprecated
    assert capfd.readouterr() == ("", "") and not caplog.records
    assert list(tmp_path.iterdir()) == []


def test_every_name_of_the_suite_is_known(monkeypatch: Any) -> None:
    asked: list[tuple[str, str]] = []

    def load(domain: str, task: str, task_kwargs: Any) -> Any:
        asked.append((domain, task))
        return Mock()

    monkeypatch.setattr(suite, "load", load)
    for task in TASKS:
        dmc._load(task, seed=0)
    assert tuple(asked) == suite.ALL_TASKS and len(set(asked)) >= 51
    assert {"ball_in_cup-catch", "finger-turn_hard", "humanoid_CMU-run", "walker-walk"} <= set(TASKS)


@pytest.mark.slow
@pytest.mark.parametrize("task", TASKS)
def test_every_task_runs(task: str) -> None:
    bench = DMCPython("dmc", task, 1, 1, "python")
    obs_dim, action_dim, limit, _ = bench.spec()
    env = bench.make(seed=0)
    assert env.reset().shape == (1, obs_dim) and limit == 1000
    assert env._copies[0]._env._step_limit == limit  # type: ignore[attr-defined]
    for action in random_actions(5, 1, task):
        out = env.step(action)
        assert np.isfinite(out.final_obs).all() and np.isfinite(out.reward).all() and action.shape == (1, action_dim)
    env.close()


@pytest.mark.parametrize(
    ("task", "sentence"),
    [
        ("walker_walk", "did you mean walker-walk?"),
        ("humanoid_CMU_run", "did you mean humanoid_CMU-run?"),
        ("finger-turn-hard", "did you mean finger-turn_hard?"),
        ("Cheetah-Run", "did you mean cheetah-run?"),
        ("", "--help lists all there are"),
    ],
)
def test_mistakes(task: str, sentence: str) -> None:
    with pytest.raises(dmc.Mistake) as error:
        DMCPython("dmc", task, 1, 1, "python").spec()
    assert str(error.value) == f"benchmark.task={task}: dmc has no such task; {sentence}"


@pytest.mark.parametrize(
    ("num_envs", "repeat", "key"), [(0, 1, "num_envs=0"), (1, 0, "action_repeat=0"), (1, 1001, "")]
)
def test_numbers_out_of_range(num_envs: int, repeat: int, key: str) -> None:
    with pytest.raises(ValueError, match=f"^{key or 'action_repeat=1001'}: give a whole number"):
        DMCPython("dmc", "walker-walk", num_envs, repeat, "python")

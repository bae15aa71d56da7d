"""Copies of a task stepped by EnvPool: the same simulators called from C++, behind a suite's `backend: envpool`.

What EnvPool does otherwise than this house is put right here. It resets a copy in the step after its last one, which
ignores the action and pays nothing: such a step must never reach the replay, so that ended copies are reset at once.
Where an episode truly ends in the last step that its time limit allows it reports a time-out: its own limit is put out
of reach and the steps are counted here. One thread steps the copies of a member, since cores belong to jobs.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from rlscale.copies import ActionBox
from rlscale.typed import Mistake
from rlscale.types import Step

PLAIN = "obs"  # the one quantity of an observation that is not a mapping


class Task(NamedTuple):
    """A task as its suite knows it, which EnvPool is held to."""

    name: str  # `benchmark.task`
    id: str  # EnvPool's
    sizes: Mapping[str, int]  # the quantities of an observation and their lengths, in the order of its flat form
    low: np.ndarray  # the task's own box of actions, of any shape
    high: np.ndarray
    episode: int  # the time limit, in the simulator's steps
    options: Mapping[str, Any]  # EnvPool's settings to change, where the task has them


def check(task: Task) -> None:
    """Raises Mistake without the package, without such a task in it, or if its task is another under that id."""
    spec = _spec(task)
    with _quiet():
        seen, actions = spec.observation_space, spec.action_space
    shapes = {key: box.shape for key, box in seen.spaces.items()} if hasattr(seen, "spaces") else {PLAIN: seen.shape}
    found = {key: int(np.prod(shape)) for key, shape in shapes.items()}
    own = f"benchmark.task={task.name}: EnvPool's {task.id} has"
    if any(found.get(key) != size for key, size in task.sizes.items()):
        wanted = dict(task.sizes)
        raise Mistake(f"{own} observations of sizes {found} instead of {wanted}; set benchmark.backend=python")
    if actions.shape != task.low.shape:
        raise Mistake(f"{own} actions of shape {actions.shape}, not {task.low.shape}; set benchmark.backend=python")


class Pool:
    """A `HostEnv` of `num_envs` copies; copy i draws all its randomness from (seed, i).

    An action is applied `action_repeat` times, or until the copy's episode ends; rewards are summed. EnvPool gives a
    simulator's state to nobody, so there is none for a checkpoint.
    """

    def __init__(self, task: Task, num_envs: int, seed: int, action_repeat: int = 1) -> None:
        seeds = [int(np.random.SeedSequence((seed, i)).generate_state(1)[0] >> 1) for i in range(num_envs)]  # 31 bits
        config = _spec(task).config
        options = {key: value for key, value in task.options.items() if hasattr(config, key)}
        options |= {"num_envs": num_envs, "seed": seeds, "num_threads": 1, "max_episode_steps": task.episode + 1}
        with _quiet():
            self._pool = _package().make_gymnasium(task.id, **options)
            _ = self._pool.observation_space  # kept from now on: else the first reset would make it, aloud
        self._keys, self._repeat, self._episode = tuple(task.sizes), action_repeat, task.episode
        self._box = ActionBox(task.low, task.high)
        self._everyone = np.arange(num_envs, dtype=np.int32)
        self._age = np.zeros(num_envs, int)  # the simulator's steps in this episode
        self._obs_shape, self._action_shape = (num_envs, sum(task.sizes.values())), (num_envs, *task.low.shape)

    def reset(self) -> np.ndarray:
        """Start an episode in every copy; returns obs [E, obs_dim]."""
        obs = np.empty(self._obs_shape, np.float32)
        self._begin(self._everyone, obs)
        return obs

    def step(self, action: Any) -> Step:
        """Apply action [E, action_dim], where ±1 are the ends of the task's own box."""
        applied = self._box.own(np.asarray(action), self._action_shape)
        final_obs, reward = np.empty(self._obs_shape, np.float32), np.zeros(len(self._age))
        terminated, truncated = np.zeros(len(self._age), bool), np.zeros(len(self._age), bool)
        going = self._everyone
        for _ in range(self._repeat):
            seen, paid, ended, _, about = self._pool.step(applied[going], going)
            rows = about["env_id"]  # EnvPool promises no order
            age = self._age[rows] + 1
            over = ended | (age == self._episode)
            self._age[rows], final_obs[rows] = age, self._flat(seen)
            reward[rows] += paid
            terminated[rows], truncated[rows] = ended, over & ~ended
            going = rows[~over]
            if not len(going):
                break
        obs, restarting = final_obs, self._everyone[terminated | truncated]
        if len(restarting):
            obs = final_obs.copy()
            self._begin(restarting, obs)
        return Step(obs, reward.astype(np.float32), terminated, truncated, final_obs)

    def close(self) -> None:
        """Free the simulator."""
        self._pool.close()

    def _begin(self, copies: np.ndarray, obs: np.ndarray) -> None:
        """Start an episode in these copies and write its first observation into their rows of `obs` [E, obs_dim]."""
        seen, about = self._pool.reset(copies)
        obs[about["env_id"]] = self._flat(seen)
        self._age[copies] = 0

    def _flat(self, seen: Any) -> np.ndarray:
        """Observations [n, obs_dim] of EnvPool's own type, of the wanted quantities only."""
        quantities = seen if isinstance(seen, Mapping) else {PLAIN: seen}
        return np.concatenate([quantities[key].reshape(len(quantities[key]), -1) for key in self._keys], axis=1)


def _spec(task: Task) -> Any:
    """What EnvPool says of the task; raises Mistake if it has none."""
    package = _package()
    if task.id not in package.list_all_envs():
        raise Mistake(f"benchmark.task={task.name}: EnvPool has no such task; set benchmark.backend=python")
    return package.make_spec(task.id)


def _package() -> Any:
    """EnvPool, whose import takes seconds; raises Mistake without it."""
    try:
        import envpool
    except ImportError as error:
        raise Mistake(f"benchmark.backend=envpool: {error}; pip install -e '.[envpool]'") from error
    return envpool


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silence Gymnasium's word on how EnvPool writes the ends of its float32 boxes."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", r".*precision lowered by casting", UserWarning)
        yield

"""Two NumPy tasks whose best return is known exactly: no simulator, milliseconds per test, host executor.

`track`   obs is a goal g ∈ [-1, 1]², drawn anew at each step; reward = 1 - mean((a - g)²); 10 steps, then a time-out.
          The best action is a = g, the best return 10.
`reach`   obs is a position x, at first 0; x += a/4; reward -1 per step; ends truly at x ≥ 1, by time-out after 20
          steps. The best action is a = 1, the best return -4. Nothing in it is random.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from rlscale.simulator_state import packed, unpacked
from rlscale.typed import Mistake, nearest
from rlscale.types import EnvSpec, HostEnv, Step


class Task(NamedTuple):
    spec: EnvSpec
    optimal_return: float  # what the best policy earns in an episode, exactly


TASKS = {"track": Task(EnvSpec(2, 2, 10), 10.0), "reach": Task(EnvSpec(1, 1, 20), -4.0)}


@dataclass(frozen=True)
class Toy:
    """Benchmark suite `toy` (conf/benchmark/toy.yaml)."""

    name: str
    task: str
    num_envs: int

    def __post_init__(self) -> None:
        if self.num_envs < 1:
            raise ValueError(f"num_envs={self.num_envs}: give a whole number of copies, 1 or more")

    def spec(self) -> EnvSpec:
        """The task's shapes; raises Mistake if there is no such task."""
        return self._task().spec

    def make(self, seed: int) -> HostEnv:
        """`num_envs` copies, all randomness from `seed`; raises Mistake if there is no such task."""
        self._task()
        return _Track(self.num_envs, seed) if self.task == "track" else _Reach(self.num_envs)

    @property
    def optimal_return(self) -> float:
        """What the best policy earns in an episode of this task, exactly."""
        return self._task().optimal_return

    def _task(self) -> Task:
        if self.task not in TASKS:
            raise Mistake(f"benchmark.task={self.task}: toy has no such task; {nearest(self.task, TASKS)}")
        return TASKS[self.task]


class _Resumable:
    """A task whose attributes are all that it is."""

    def state(self) -> bytes | None:
        """As ResumableEnv.state."""
        return packed(vars(self))

    def resume(self, state: bytes) -> None:
        """As ResumableEnv.resume."""
        vars(self).update(unpacked(state))


class _Track(_Resumable):
    """All copies begin and end together."""

    def __init__(self, num_envs: int, seed: int) -> None:
        self._rng = np.random.default_rng(np.random.SeedSequence(seed))
        self._num_envs = num_envs
        self._goal = self._draw()
        self._env_step = 0

    def _draw(self) -> np.ndarray:
        return self._rng.uniform(-1.0, 1.0, (self._num_envs, 2)).astype(np.float32)  # [E, 2]

    def reset(self) -> np.ndarray:
        self._goal, self._env_step = self._draw(), 0
        return self._goal

    def step(self, action: Any) -> Step:
        action = np.clip(np.asarray(action, np.float32), -1.0, 1.0)
        reward = 1.0 - np.mean((action - self._goal) ** 2, axis=1)  # [E]
        final_obs = self._goal = self._draw()
        self._env_step += 1
        limit = self._env_step == TASKS["track"].spec.episode_steps
        obs = self.reset() if limit else final_obs
        return Step(obs, reward, np.zeros(self._num_envs, bool), np.full(self._num_envs, limit), final_obs)

    def close(self) -> None:
        pass


class _Reach(_Resumable):
    """Copies end one by one, each when it arrives."""

    def __init__(self, num_envs: int) -> None:
        self._x = np.zeros(num_envs)  # [E], in float64 so that 1e-9 below means something
        self._env_step = np.zeros(num_envs, np.int64)  # [E]

    def reset(self) -> np.ndarray:
        self._x, self._env_step = np.zeros_like(self._x), np.zeros_like(self._env_step)
        return self._obs()

    def _obs(self) -> np.ndarray:
        return self._x[:, None].astype(np.float32)

    def step(self, action: Any) -> Step:
        self._x = self._x + 0.25 * np.clip(np.asarray(action, np.float64)[:, 0], -1.0, 1.0)
        self._env_step = self._env_step + 1
        terminated = self._x >= 1.0 - 1e-9  # as reached, whatever the rounding of the steps that led there
        truncated = (self._env_step >= TASKS["reach"].spec.episode_steps) & ~terminated
        final_obs = self._obs()
        over = terminated | truncated
        self._x, self._env_step = np.where(over, 0.0, self._x), np.where(over, 0, self._env_step)
        return Step(self._obs(), np.full(len(over), -1.0, np.float32), terminated, truncated, final_obs)

    def close(self) -> None:
        pass

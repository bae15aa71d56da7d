"""What `gymnasium.make` makes; see the package's docstring."""

from __future__ import annotations

import os
from typing import Any, NamedTuple

import gymnasium
import numpy as np
from gymnasium.spaces import Box

ROBOTS = {"h1": (26, 19), "h1hand": (76, 61), "g1": (44, 37)}  # (dof, actuators)


class Task(NamedTuple):
    falls_below: float | None  # height of the pelvis [m] at which the episode ends, if it does
    max_episode_steps: int = 1000
    has_goal: bool = False
    robots: tuple[str, ...] = ("h1", "h1hand", "g1")


TASKS = {
    "crawl": Task(None),
    "pole": Task(0.5),
    "stand": Task(0.2),
    "walk": Task(0.2),
    "reach": Task(None, has_goal=True),
    "push": Task(None, max_episode_steps=500, has_goal=True),
    "cube": Task(0.58, max_episode_steps=500, robots=("h1hand",)),
}


class Renderer(NamedTuple):
    """Of Gymnasium since 1.0, whose `render` takes no camera; the package's own `render` gives it one and fails."""

    picture: np.ndarray
    viewer: Any = None

    def render(self, render_mode: str) -> np.ndarray:
        assert render_mode == "rgb_array"
        return self.picture


class HumanoidEnv(gymnasium.Env):
    metadata = {"render_modes": ["human", "rgb_array", "depth_array"], "render_fps": 50}  # noqa: RUF012

    def __init__(
        self,
        robot: Any = None,
        control: Any = None,
        task: Any = None,
        render_mode: str = "rgb_array",
        width: int = 256,
        height: int = 256,
        randomness: float = 0.01,
        **kwargs: Any,
    ) -> None:
        assert robot and control and task, f"{robot} {control} {task}"
        self.task, self.render_mode, self.randomness = TASKS[task], render_mode, randomness
        self.mujoco_renderer = Renderer(np.zeros((height, width, 3), np.uint8))
        if robot not in self.task.robots:
            raise OSError(f"File {robot}_{control}_{task}.xml does not exist")
        if task == "push" and os.environ.get("MUJOCO_GL") not in ("egl", "osmesa", "glfw"):
            raise RuntimeError(
                f"Environment variable MUJOCO_GL must be one of ...: got {os.environ.get('MUJOCO_GL')!r}."
            )
        self.dof, actuators = ROBOTS[robot]
        size = 2 * self.dof - 1 + 6 * self.task.has_goal
        self.observation_space = Box(-np.inf, np.inf, (size,), np.float64)
        self.action_space = Box(-1, 1, (actuators,), np.float32)
        print(False)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        self.qpos, self.qvel = np.zeros(self.dof), np.zeros(self.dof - 1)
        self.qpos[2:4] = 0.98, 1.0
        self.qpos += self.np_random.uniform(-self.randomness, self.randomness, self.dof)
        self.goal = np.random.uniform(-2, 2, 3) if self.task.has_goal else np.zeros(3)
        return self._obs(), {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, Any, bool, dict[str, Any]]:
        assert action.shape == self.action_space.shape and action.dtype == np.float32
        assert (np.abs(action) <= 1).all()
        self.qvel[6 : 6 + len(action)] = action[: self.dof - 7]
        self.qvel[2] = 0.3 * action.mean() - 0.4 * (self.task.falls_below is not None)  # sinks, if it can fall
        self.qpos[:3] += 0.02 * self.qvel[:3]
        self.qpos[7:] += 0.02 * self.qvel[6:]
        reward = np.exp(-np.square(action).mean())
        terminated = self.qpos[2] < (-np.inf if self.task.falls_below is None else self.task.falls_below)
        return self._obs(), reward, terminated, False, {"per_timestep_reward": reward, "small_control": reward}

    def render(self) -> np.ndarray:
        return self.mujoco_renderer.render(self.render_mode, None, "cam_default")  # type: ignore[call-arg]

    def _obs(self) -> np.ndarray:
        state = np.concatenate((self.qpos, self.qvel))
        return np.concatenate((state, np.zeros(3), self.goal)) if self.task.has_goal else state

"""HumanoidBench by its own names, `robot-task-v0`: h1-crawl-v0, h1-pole-v0, h1-stand-v0 are the model-size study's.

The package (github.com/carlosferrazza/humanoid-bench, arXiv 2403.10506) is not on the package index, hence an optional
import. Observations are its default: positions and velocities of the robot and of what stands about it, as one vector.
"""

from __future__ import annotations

import contextlib
import functools
import io
import os
from dataclasses import dataclass
from typing import Any

import numpy as np

from rlscale.copies import Copies, Outcome, picture
from rlscale.typed import Mistake, nearest
from rlscale.types import EnvSpec, FilmedEnv, HostEnv

INSTALL = (
    "git clone https://github.com/carlosferrazza/humanoid-bench, pip install torch, "
    "pip install --no-deps -e ./humanoid-bench (its pins gymnasium==0.29.1, mujoco==3.1.6, dm_control==1.0.20 "
    "contradict rlscale's: hence --no-deps)"
)


@dataclass(frozen=True)
class HumanoidBench:
    """Benchmark suite `humanoid_bench` (conf/benchmark/humanoid_bench.yaml), run by the host executor."""

    name: str
    task: str
    num_envs: int

    def __post_init__(self) -> None:
        if self.num_envs < 1:
            raise ValueError(f"num_envs={self.num_envs}: give a whole number of copies, 1 or more")

    def spec(self) -> EnvSpec:
        """The task's shapes; raises Mistake without the package or if it has no such task."""
        return _spec(self.task)

    def make(self, seed: int) -> HostEnv:
        """`num_envs` copies; copy i draws all its randomness from (seed, i), so it is the same in any number.

        Raises Mistake without the package or if it has no such task.
        """
        return self.filmed(seed)

    def filmed(self, seed: int) -> FilmedEnv:
        """As `make`, bit for bit: every copy can be drawn where MUJOCO_GL asked for a screen."""
        spec = self.spec()
        seeds = [int(np.random.SeedSequence((seed, i)).generate_state(1)[0]) for i in range(self.num_envs)]
        envs = [_make(self.task) for _ in seeds]
        box = envs[0].action_space
        return Copies([_Copy(*pair) for pair in zip(envs, seeds, strict=True)], spec.obs_dim, box.low, box.high)


class _Copy:
    """One environment of the package with both its generators its own: Gymnasium's, and NumPy's global one.

    The package draws from the global one only when an episode begins (read in all of its tasks).
    """

    def __init__(self, env: Any, seed: int) -> None:
        self._env = env
        self._seed: int | None = seed
        self._global_state = np.random.RandomState(seed).get_state()

    def reset(self) -> np.ndarray:
        """Start an episode; returns obs [obs_dim] float64. Only the first call seeds, later ones go on."""
        before = np.random.get_state()
        np.random.set_state(self._global_state)
        try:
            obs, _ = self._env.reset(seed=self._seed)
            self._global_state = np.random.get_state()
        finally:
            np.random.set_state(before)
        self._seed = None
        return obs

    def step(self, action: np.ndarray) -> Outcome:
        """Apply the action, ±1 being the ends of each joint's range; falling is a true end in most tasks."""
        obs, reward, terminated, truncated, _ = self._env.step(action)
        return Outcome(obs, float(reward), bool(terminated), bool(truncated))

    def frame(self) -> np.ndarray:
        """A picture by the task's own camera, uint8 [H, W, 3]."""
        return picture(self._env)

    def close(self) -> None:
        """Free the simulator."""
        self._env.close()


@functools.cache  # shapes are asked for by the door, the loop and the estimates: build the simulator once
def _spec(task: str) -> EnvSpec:
    env = _make(task)
    try:
        return EnvSpec(env.observation_space.shape[0], env.action_space.shape[0], env.spec.max_episode_steps)
    finally:
        env.close()


def _make(task: str) -> Any:
    """One environment as the package makes it, less its print and Gymnasium's checker; raises Mistake."""
    import gymnasium

    os.environ.setdefault("MUJOCO_GL", "disable")  # read when dm_control is imported, on which the package builds
    try:
        import humanoid_bench  # registers its tasks
    except ImportError as error:
        why = f"the package is missing ({error})" if error.name == "humanoid_bench" else f"its import fails ({error})"
        raise Mistake(f"benchmark=humanoid_bench: {why}; {INSTALL}") from error
    home = humanoid_bench.__name__ + "."
    known = [name for name, spec in gymnasium.registry.items() if str(spec.entry_point).startswith(home)]
    if task not in known:
        raise Mistake(f"benchmark.task={task}: humanoid_bench has no such task; {nearest(task, known)}")
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            return gymnasium.make(task, disable_env_checker=True)
    except OSError as error:  # every robot is registered with every task, but not every pair has a model
        raise Mistake(
            f"benchmark.task={task}: humanoid_bench has no model of this robot at this task; {error}"
        ) from error
    except RuntimeError as error:  # `push` opens a renderer when it is made
        raise Mistake(f"benchmark.task={task}: it needs a renderer, so set MUJOCO_GL=egl or osmesa; {error}") from error

"""What suites share whose simulators are stateful objects of this process: copies of a task, stepped in turn."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np

from rlscale.simulator_state import packed, unpacked
from rlscale.types import Step


class Outcome(NamedTuple):
    """What one copy returns for one action."""

    obs: np.ndarray  # [obs_dim], the true successor
    reward: float
    terminated: bool  # the episode truly ended
    truncated: bool  # the time limit cut it


class Copy(Protocol):
    """One copy of a task, as a suite adapts its simulator."""

    def reset(self) -> np.ndarray:
        """Start an episode; returns obs [obs_dim]."""

    def step(self, action: np.ndarray) -> Outcome:
        """Apply an action in the task's own units; after an end comes a reset."""

    def frame(self) -> np.ndarray:
        """A picture as FilmedEnv.frame."""

    def close(self) -> None:
        """Free the simulator."""


class ActionBox:
    """A task's own box of actions, of any shape; ±1 are its ends and nothing lies beyond them."""

    def __init__(self, low: np.ndarray, high: np.ndarray) -> None:
        self._low, self._high = low, high
        self._middle, self._half = (high + low) / 2, (high - low) / 2
        self._is_unit = bool((low == -1).all() and (high == 1).all())

    def own(self, action: Any, shape: tuple[int, ...]) -> np.ndarray:
        """Actions in [-1, 1] in the task's own units, type and `shape`, which is [E, *the box's]."""
        wanted = np.asarray(action, self._low.dtype).reshape(shape)
        if not self._is_unit:  # most boxes are ±1 already, and this is a fifth of what a step itself costs
            wanted = self._middle + self._half * wanted
        return np.minimum(np.maximum(wanted, self._low), self._high)


class Copies:
    """A `HostEnv` of single copies, each reset in the step that ends its episode.

    `low` and `high` are the task's own box of actions, of any shape.
    """

    def __init__(self, copies: Sequence[Copy], obs_dim: int, low: np.ndarray, high: np.ndarray) -> None:
        self._copies, self._box = copies, ActionBox(low, high)
        self._obs_shape, self._action_shape = (len(copies), obs_dim), (len(copies), *low.shape)

    def reset(self) -> np.ndarray:
        """Start an episode in every copy; returns obs [E, obs_dim]."""
        obs = np.empty(self._obs_shape, np.float32)
        for i, copy in enumerate(self._copies):
            obs[i] = copy.reset()
        return obs

    def step(self, action: Any) -> Step:
        """Apply action [E, action_dim], where ±1 are the ends of the task's own box."""
        applied = self._box.own(action, self._action_shape)
        final_obs = np.empty(self._obs_shape, np.float32)
        reward = np.empty(len(self._copies), np.float32)
        terminated, truncated = np.zeros(len(self._copies), bool), np.zeros(len(self._copies), bool)
        over = []
        for i, copy in enumerate(self._copies):
            final_obs[i], reward[i], ended, cut = copy.step(applied[i])
            if ended or cut:
                terminated[i], truncated[i] = ended, not ended  # a true end wins over the limit
                over.append(i)
        obs = final_obs
        if over:
            obs = final_obs.copy()
            for i in over:
                obs[i] = self._copies[i].reset()
        return Step(obs, reward, terminated, truncated, final_obs)

    def state(self) -> bytes | None:
        """As ResumableEnv.state."""
        return packed(self._copies)

    def resume(self, state: bytes) -> None:
        """As ResumableEnv.resume."""
        self.close()
        self._copies = unpacked(state)

    def frame(self) -> np.ndarray:
        """A picture of copy 0 as it is now, uint8 [H, W, 3]."""
        return self._copies[0].frame()

    def close(self) -> None:
        """Free the simulator."""
        for copy in self._copies:
            copy.close()


def picture(env: Any) -> np.ndarray:
    """What a Gymnasium environment with `render_mode="rgb_array"` looks like now, uint8 [H, W, 3].

    Of a MuJoCo task its renderer is asked: HumanoidBench's own `render` calls that as Gymnasium before 1.0 had it.
    """
    renderer = getattr(env.unwrapped, "mujoco_renderer", None)
    if renderer is not None and renderer.viewer is not None:
        # Gymnasium leaves current the context that was made last, and would draw this one with that one's textures.
        renderer.viewer.make_context_current()
    pixels: np.ndarray = env.render() if renderer is None else renderer.render("rgb_array")
    return pixels

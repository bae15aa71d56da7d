"""Any Gymnasium task with continuous observations and actions, the MuJoCo `-v4` tasks of the papers first of all."""

from __future__ import annotations

import contextlib
import functools
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import numpy as np

from rlscale import envpool
from rlscale.copies import ActionBox, picture
from rlscale.simulator_state import packed, unpacked
from rlscale.typed import Mistake, absent_at, nearest
from rlscale.types import PICTURE, EnvSpec, FilmedEnv, HostEnv, Step


@dataclass(frozen=True)
class Gym:
    """Benchmark suite `gym` (conf/benchmark/gym.yaml), run by the host executor; `chosen` is the one that runs."""

    name: str
    task: str
    num_envs: int
    backend: Literal["python", "envpool"] = field(metadata=absent_at("python"))

    def __post_init__(self) -> None:
        if self.num_envs < 1:
            raise ValueError(f"num_envs={self.num_envs}: give a whole number of copies, 1 or more")

    def chosen(self) -> Gym:
        """The suite by its backend: what it can do decides what may be asked of a run."""
        return {"python": GymPython, "envpool": GymEnvPool}[self.backend](**vars(self))

    def spec(self) -> EnvSpec:
        """The task's shapes; raises Mistake if there is no such task or it is not one for this house."""
        return _shapes(self.task).spec


class GymPython(Gym):
    """Gymnasium's own environments."""

    def make(self, seed: int) -> HostEnv:
        """`num_envs` copies; copy i draws all its randomness from (seed, i), so it is the same in any number."""
        return _Copies(_shapes(self.task), self.task, self.num_envs, seed)

    def filmed(self, seed: int) -> FilmedEnv:
        """As `make`, bit for bit, and its `frame` is a picture of copy 0."""
        return _Copies(_shapes(self.task), self.task, self.num_envs, seed, filmed=True)


class GymEnvPool(Gym):
    """EnvPool's environments of the same ids, for MuJoCo's tasks."""

    def spec(self) -> EnvSpec:
        """As Gym.spec; raises Mistake too where EnvPool is not installed or does not have that task."""
        _pooled(self.task)
        return super().spec()

    def make(self, seed: int) -> HostEnv:
        """As GymPython.make, with other random numbers."""
        return envpool.Pool(_pooled(self.task), self.num_envs, seed)


class _Copies:
    """Copies of a task stepped one after the other.

    A plain loop, because it costs half of what `gymnasium.vector.SyncVectorEnv` does (9 µs a step against 18 for one
    copy of Pendulum-v1, whose own step takes 14), and because it is shorter to read than that class is to configure.
    """

    def __init__(self, shapes: _Shapes, task: str, num_envs: int, seed: int, filmed: bool = False) -> None:
        self._envs = [_make(task, filmed and index == 0) for index in range(num_envs)]
        self._seeds: list[int | None] = [
            int(np.random.SeedSequence((seed, index)).generate_state(1)[0]) for index in range(num_envs)
        ]
        self._box = ActionBox(shapes.low, shapes.high)
        self._action_shape = (num_envs, *shapes.low.shape)
        self._obs_shape = (num_envs, shapes.spec.obs_dim)

    def reset(self) -> np.ndarray:
        """Start an episode in every copy; returns obs [E, obs_dim]. Only the first call seeds, later ones go on."""
        obs = np.empty(self._obs_shape, np.float32)
        for i, env in enumerate(self._envs):
            obs[i] = env.reset(seed=self._seeds[i])[0].reshape(-1)
            self._seeds[i] = None
        return obs

    def step(self, action: Any) -> Step:
        """Apply action [E, action_dim], where ±1 are the ends of the task's own box."""
        applied = self._box.own(action, self._action_shape)
        final_obs = np.empty(self._obs_shape, np.float32)
        reward = np.empty(len(self._envs), np.float32)
        terminated, truncated = np.zeros(len(self._envs), bool), np.zeros(len(self._envs), bool)
        over = []
        for i, env in enumerate(self._envs):
            successor, reward[i], ended, cut, _ = env.step(applied[i])
            final_obs[i] = successor.reshape(-1)
            if ended or cut:
                terminated[i], truncated[i] = ended, not ended
                over.append(i)
        obs = final_obs
        if over:
            obs = final_obs.copy()
            for i in over:
                obs[i] = self._envs[i].reset()[0].reshape(-1)
        return Step(obs, reward, terminated, truncated, final_obs)

    def state(self) -> bytes | None:
        """As ResumableEnv.state: None for a task whose simulator is neither Python's nor MuJoCo's."""
        return packed((self._envs, self._seeds))

    def resume(self, state: bytes) -> None:
        """As ResumableEnv.resume."""
        self.close()
        self._envs, self._seeds = unpacked(state)

    def frame(self) -> np.ndarray:
        """A picture of copy 0 as it is now, uint8 [H, W, 3]; it must have been made to be filmed."""
        return picture(self._envs[0])

    def close(self) -> None:
        """Free the simulator."""
        for env in self._envs:
            env.close()


class _Shapes(NamedTuple):
    """How a task looks from outside."""

    spec: EnvSpec
    low: np.ndarray  # its own box of actions, float32, of any shape
    high: np.ndarray


@functools.cache  # shapes are asked for by the door, the loop and the estimates: build the simulator once
def _shapes(task: str) -> _Shapes:
    import gymnasium

    env = _make(task)
    try:
        exact, limit = env.spec.id, env.spec.max_episode_steps
        for what, space in (("observations", env.observation_space), ("actions", env.action_space)):
            if not isinstance(space, gymnasium.spaces.Box):
                raise Mistake(f"benchmark.task={task}: its {what} are {space}, not a Box; choose a continuous task")
        actions = env.action_space
        if not (np.issubdtype(actions.dtype, np.floating) and actions.is_bounded()):
            raise Mistake(f"benchmark.task={task}: its actions are {actions}, not a bounded Box of real numbers")
        if limit is None:
            raise Mistake(f"benchmark.task={task}: it has no time limit; register it with max_episode_steps")
        if task.rpartition(":")[2] != exact:  # else one task would go under two names in the records
            raise Mistake(f"benchmark.task={task}: the version is missing; write {exact}")
        spec = EnvSpec(int(np.prod(env.observation_space.shape)), int(np.prod(actions.shape)), int(limit))
        return _Shapes(spec, actions.low.astype(np.float32), actions.high.astype(np.float32))
    finally:
        env.close()


@functools.cache
def _pooled(task: str) -> envpool.Task:
    """The task for EnvPool, which has it under the same id; raises Mistake as GymEnvPool.spec.

    Only of the MuJoCo tasks: they equal Gymnasium's step by step, and others do not. The angle of EnvPool's Pendulum-v1
    outruns the limit of its speed.
    """
    import gymnasium

    spec, low, high = _shapes(task)
    if not str(gymnasium.spec(task).entry_point).startswith("gymnasium.envs.mujoco."):
        raise Mistake(
            f"benchmark.task={task}: EnvPool serves Gymnasium's MuJoCo tasks only, since the steps of others differ; "
            "set benchmark.backend=python"
        )
    # In its versions up to 4 EnvPool leaves contact forces at zero, as mujoco_py did; Gymnasium has them in all.
    forces = {"post_constraint": True}
    pooled = envpool.Task(task, task, {envpool.PLAIN: spec.obs_dim}, low, high, spec.episode_steps, forces)
    envpool.check(pooled)
    return pooled


def _make(task: str, filmed: bool = False) -> Any:
    """One copy as Gymnasium makes it, less its checker (which costs time and warns); raises Mistake."""
    import gymnasium

    pictures: dict[str, Any] = {"render_mode": "rgb_array"} if filmed else {}
    if filmed and "mujoco" in str(getattr(gymnasium.registry.get(task), "entry_point", None)):
        # a camera that goes along with the robot, where the model has one: Gymnasium 1.4 by itself lets it run away
        pictures |= {"height": PICTURE[0], "width": PICTURE[1], "camera_name": "track"}
    try:
        with _without_deprecations():
            return gymnasium.make(task, disable_env_checker=True, **pictures)
    except (gymnasium.error.DependencyNotInstalled, ImportError) as error:  # a known task that cannot run here
        raise Mistake(f"benchmark.task={task}: {' '.join(str(error).split())}") from error
    except gymnasium.error.Error:
        known = _known(5 if task.endswith("-v5") else 4)
        raise Mistake(f"benchmark.task={task}: Gymnasium has no such task; {nearest(task, known)}") from None


def _known(version: int) -> list[str]:
    """Names to propose for a misspelt one: few enough to be listed, and each runs with what is installed."""
    import gymnasium

    mujoco = (
        name
        for name, spec in gymnasium.registry.items()
        if "mujoco" in str(spec.entry_point) and spec.version == version and name != "Pusher-v4"  # wants mujoco<3
    )
    return [*mujoco, "Pendulum-v1"]


@contextlib.contextmanager
def _without_deprecations() -> Iterator[None]:
    """Silence two deprecations of the `-v4` tasks while one is made: we keep to the papers' tasks on purpose.

    Gymnasium says that v5 exists. MuJoCo says that HalfCheetah's model uses `settotalmass`, for which it writes
    MUJOCO_LOG.TXT into the working directory unless it is given another way to warn.
    """

    def pass_on(message: str) -> None:
        if "settotalmass" not in message:
            warnings.warn(message, RuntimeWarning, stacklevel=2)

    try:
        import mujoco
    except ImportError:  # Pendulum-v1 and its kind need none
        mujoco = None
    before = mujoco.get_mju_user_warning() if mujoco else None
    try:
        if mujoco:
            mujoco.set_mju_user_warning(pass_on)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", r".*-v4 is out of date", DeprecationWarning)
            yield
    finally:
        if mujoco:
            mujoco.set_mju_user_warning(before)

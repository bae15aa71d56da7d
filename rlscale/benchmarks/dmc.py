"""Every task of the DeepMind Control Suite from its state, by the name `domain-task`.

Observations are the suite's own quantities in the order in which its observation spec lists them, flattened to float32
one after another. The order is read once for a task and then held by name, so that a mapping that lists the same
quantities in another order is the same observation.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import os
import re
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import numpy as np

from rlscale import envpool
from rlscale.copies import Copies, Outcome
from rlscale.typed import Mistake, absent_at, nearest
from rlscale.types import PICTURE, EnvSpec, FilmedEnv, HostEnv

EPISODE = 1000  # control steps of an episode, in every task of the suite
NO_SCREEN = ("disable", "disabled", "off", "false", "0")  # values of MUJOCO_GL with which dm_control has no renderer
# EnvPool begins their episodes within a tenth of dm_control's spread: other tasks under the same name.
OTHER_STARTS = ("cartpole-two_poles", "cartpole-three_poles")
UNLIMITED = 1e10  # what the suite's action spec says of an actuator without limits (MuJoCo's mjMAXVAL)


@dataclass(frozen=True)
class DMC:
    """Benchmark suite `dmc` (conf/benchmark/dmc.yaml), run by the host executor; `chosen` is the one that runs.

    The suite leaves its two `lqr` tasks without a time limit and without limits of their actions. Here they have the
    1000 steps of all others, and an action of ±1 is a control signal of ±1. Their springs are drawn with the seed of
    the copy (by the suite), so that no two copies are the same system.
    """

    name: str
    task: str
    num_envs: int
    action_repeat: int
    backend: Literal["python", "envpool"] = field(metadata=absent_at("python"))

    def __post_init__(self) -> None:
        if self.num_envs < 1:
            raise ValueError(f"num_envs={self.num_envs}: give a whole number of copies, 1 or more")
        if not 1 <= self.action_repeat <= EPISODE:
            raise ValueError(f"action_repeat={self.action_repeat}: give a whole number from 1 to {EPISODE}")

    def chosen(self) -> DMC:
        """The suite by its backend: what it can do decides what may be asked of a run."""
        return {"python": DMCPython, "envpool": DMCEnvPool}[self.backend](**vars(self))

    def spec(self) -> EnvSpec:
        """The task's shapes; `episode_steps` counts the agent's own steps. Raises Mistake if there is no such task."""
        layout = _layout(self.task)
        return EnvSpec(layout.obs_dim, len(layout.low), -(-EPISODE // self.action_repeat))


class DMCPython(DMC):
    """dm_control's own environments."""

    def make(self, seed: int) -> HostEnv:
        """`num_envs` copies; copy i draws all its randomness from (seed, i), so it is the same in any number.

        Raises Mistake if there is no such task.
        """
        return self.filmed(seed)

    def filmed(self, seed: int) -> FilmedEnv:
        """As `make`, bit for bit: every copy can be drawn where MUJOCO_GL asked for a screen."""
        layout = _layout(self.task)
        seeds = [int(np.random.SeedSequence((seed, i)).generate_state(1)[0]) for i in range(self.num_envs)]
        keys = tuple(layout.sizes)
        copies = [_Copy(self.task, keys, self.action_repeat, _load(self.task, own)) for own in seeds]
        return Copies(copies, layout.obs_dim, layout.low, layout.high)


class DMCEnvPool(DMC):
    """EnvPool's environments of the same tasks, of whose observations only the suite's own quantities are taken."""

    def spec(self) -> EnvSpec:
        """As DMC.spec; raises Mistake too where EnvPool is not installed or does not have that task."""
        _pooled(self.task)
        return super().spec()

    def make(self, seed: int) -> HostEnv:
        """As DMCPython.make, with other random numbers."""
        return envpool.Pool(_pooled(self.task), self.num_envs, seed, self.action_repeat)


class _Copy:
    """One environment of the suite, with its action repeated and its observation flat."""

    def __init__(self, task: str, keys: tuple[str, ...], action_repeat: int, env: Any) -> None:
        from dm_control.rl.control import PhysicsError

        self._task, self._keys, self._repeat, self._env = task, keys, action_repeat, env
        self._physics_error = PhysicsError
        self._obs = np.zeros(0)  # [obs_dim], the last that was valid

    def reset(self) -> np.ndarray:
        """Start an episode; returns obs [obs_dim] float64."""
        return self._flat(self._env.reset().observation)

    def step(self, action: np.ndarray) -> Outcome:
        """Apply the action `action_repeat` times, or until the episode ends; rewards are summed.

        Where MuJoCo gives up on the state (a diverged or overfull simulation, which the suite raises as PhysicsError)
        the step is a time-out without a reward that leads nowhere: the fault is the simulator's, so that it is neither
        an outcome of the task to be learned nor worth the run of the other members.
        """
        total = 0.0
        try:
            for _ in range(self._repeat):
                now = self._env.step(action)
                total += now.reward
                if now.last():
                    break
        except self._physics_error as error:
            warnings.warn(f"{self._task}: episode cut, since {' '.join(str(error).split())}", RuntimeWarning, 2)
            return Outcome(self._obs, 0.0, False, True)
        return Outcome(self._flat(now.observation), total, now.last() and now.discount == 0, now.last())

    def frame(self) -> np.ndarray:
        """A picture by the task's first camera, uint8 [H, W, 3]."""
        picture: np.ndarray = self._env.physics.render(*PICTURE, camera_id=0)
        return picture

    def close(self) -> None:
        """Free the simulator."""
        self._env.close()

    def _flat(self, observation: Any) -> np.ndarray:
        self._obs = np.concatenate([observation[key] for key in self._keys], axis=None)
        return self._obs


class _Layout(NamedTuple):
    """How a task looks from outside."""

    sizes: dict[str, int]  # the quantities of an observation and their lengths, in the order of its flat form
    obs_dim: int
    low: np.ndarray  # [action_dim] float64
    high: np.ndarray


@functools.cache  # shapes are asked for by the door, the loop and the estimates: build the simulator once
def _layout(task: str) -> _Layout:
    env = _load(task, seed=0)
    try:
        quantities, actions = env.observation_spec(), env.action_spec()
    finally:
        env.close()
    sizes = {key: int(np.prod(quantity.shape)) for key, quantity in quantities.items()}  # a scalar's shape is ()
    low, high = (np.broadcast_to(bound, actions.shape) for bound in (actions.minimum, actions.maximum))
    limited = (low > -UNLIMITED) & (high < UNLIMITED)
    return _Layout(sizes, sum(sizes.values()), np.where(limited, low, -1.0), np.where(limited, high, 1.0))


@functools.cache
def _pooled(task: str) -> envpool.Task:
    """The task for EnvPool, which calls `humanoid_CMU-run` HumanoidCMURun-v1; raises Mistake as DMCEnvPool.spec."""
    layout = _layout(task)
    if task in OTHER_STARTS:
        raise Mistake(
            f"benchmark.task={task}: EnvPool's episodes do not begin as dm_control's; set benchmark.backend=python"
        )
    words = "".join(word[0].upper() + word[1:] for word in re.split("[-_]", task))
    pooled = envpool.Task(task, f"{words}-v1", layout.sizes, layout.low, layout.high, EPISODE, {})
    envpool.check(pooled)
    return pooled


def _load(task: str, seed: int) -> Any:
    """One environment of the suite; raises Mistake if there is no such task."""
    suite = _suite()
    names = {f"{domain}-{name}": (domain, name) for domain, name in suite.ALL_TASKS}
    if task not in names:
        raise Mistake(f"benchmark.task={task}: dmc has no such task; {nearest(task, names)}")
    kwargs: dict[str, Any] = {"random": seed}
    if task.startswith("lqr-"):
        kwargs["time_limit"] = EPISODE * 0.03  # s; the only tasks without a limit, at 0.03 s per step
    with _without_deprecations():
        env = suite.load(*names[task], task_kwargs=kwargs)
    if task == "quadruped-escape" and os.environ["MUJOCO_GL"] in NO_SCREEN:
        # At each reset it hands its new terrain to the renderer, if there is one, and cannot see that there is none.
        seeing = type(env.physics)
        env.physics.__class__ = type(seeing.__name__, (seeing,), {"contexts": None})
    return env


def _suite() -> Any:
    """dm_control's suite, imported to run without a screen unless MUJOCO_GL asks for one: it is read at the import."""
    os.environ.setdefault("MUJOCO_GL", NO_SCREEN[0])
    try:
        from dm_control import suite
    except ImportError as error:
        raise Mistake(f"benchmark=dmc: {error}; pip install dm_control 'mujoco<4'") from error
    return suite


@contextlib.contextmanager
def _without_deprecations() -> Iterator[None]:
    """Silence MuJoCo's word on `settotalmass` in cheetah's model, which dm_control passes on to absl's logger."""

    def wanted(record: logging.LogRecord) -> bool:
        return "settotalmass" not in record.getMessage()

    logger = logging.getLogger("absl")
    logger.addFilter(wanted)
    try:
        yield
    finally:
        logger.removeFilter(wanted)

"""What the tests of `backend: envpool` share: copies as a run would have them, and the tasks that are served."""

from __future__ import annotations

from typing import Any

import numpy as np

from rlscale.benchmarks import dmc
from rlscale.benchmarks.dmc import DMCEnvPool
from rlscale.benchmarks.gym import GymEnvPool
from rlscale.types import HostEnv

SUITE = dmc._suite()
STILL = ["HalfCheetah-v4", "Hopper-v4", "Walker2d-v4", "Ant-v4", "Humanoid-v4", "Swimmer-v4"]  # can start without noise
V5 = [task.replace("v4", "v5") for task in STILL]
GYM = [*STILL, "HumanoidStandup-v4", "Reacher-v4", "InvertedPendulum-v4", "InvertedDoublePendulum-v4"]
DMC = [f"{domain}-{task}" for domain, task in SUITE.ALL_TASKS if f"{domain}-{task}" not in dmc.OTHER_STARTS]


def pooled(task: str, num_envs: int = 1, seed: int = 7, action_repeat: int = 1) -> Any:
    """The copies that a run would have."""
    if task in DMC:
        return DMCEnvPool("dmc", task, num_envs, action_repeat, "envpool").make(seed)
    return GymEnvPool("gym", task, num_envs, "envpool").make(seed)


def actions(env: HostEnv, steps: int, seed: int = 0) -> np.ndarray:
    shape = (steps, len(env._age), env._box._low.size)  # type: ignore[attr-defined]
    return np.random.default_rng(seed).uniform(-1, 1, shape).astype(np.float32)

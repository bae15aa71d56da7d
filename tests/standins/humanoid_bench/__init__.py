"""Stands in for the package of the same name, which is on no package index: its surface, and next to no physics.

From the public code (github.com/carlosferrazza/humanoid-bench, `humanoid_bench/__init__.py`, `env.py`, `tasks.py`,
`envs/`): every robot is registered with every task; the entry point and its arguments; unbounded float64 observations
of 2·dof - 1 numbers, actions within ±1 as float32; `step` never truncates, since that is Gymnasium's limit, and
`terminated` is a NumPy bool; making an environment prints a line; a pair without a model raises OSError; `push` opens a
renderer when it is made; the pose at the start is drawn from `np_random`, goals from NumPy's global generator;
`render` calls Gymnasium's renderer with arguments that it took before 1.0.
"""

from gymnasium.envs import register

from .env import ROBOTS, TASKS

for robot in ROBOTS:
    for task, kind in TASKS.items():
        register(
            id=f"{robot}-{task}-v0",
            entry_point="humanoid_bench.env:HumanoidEnv",
            max_episode_steps=kind.max_episode_steps,
            kwargs={"robot": robot, "control": "torque" if robot == "g1" else "pos", "task": task},
        )

"""What is timed of Stable-Baselines3-JAX: `sbx.SAC.learn` on one Pendulum-v1, as its users call it.

One unit is one env step with its updates. It is given the task without Gymnasium's checker, which costs time and which
rlscale leaves out as well; policy, optimiser and everything else are its own defaults.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from tests.bench.timing import CAPACITY, WARMUP, Maker, Point, Work


def makers() -> Callable[[Point], Mapping[str, Maker]]:
    """The one work of a point: ``sbx``."""
    import torch  # sbx keeps its replay in NumPy but hands batches over as torch tensors

    torch.set_num_threads(1)
    return lambda point: {"sbx": lambda: _sbx(point)}


def _sbx(point: Point) -> Work:
    import gymnasium
    import sbx

    model = sbx.SAC(
        "MlpPolicy",
        gymnasium.make("Pendulum-v1", disable_env_checker=True),
        policy_kwargs={"net_arch": [point.width, point.width]},
        batch_size=point.batch_size,
        gradient_steps=point.utd,
        train_freq=1,
        learning_starts=WARMUP,
        buffer_size=CAPACITY,
        seed=0,
    )

    def work(units: int) -> None:
        model.learn(units, reset_num_timesteps=False)  # reads its metrics, so no update is under way after it
        due = (model.num_timesteps - WARMUP) * point.utd
        if model._n_updates != due:
            raise RuntimeError(f"sbx at {point}: {model._n_updates} updates where {due} are due")

    work(WARMUP + 1)
    return Work(work)

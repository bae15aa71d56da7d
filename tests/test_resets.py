"""A reset starts the learner afresh and nothing else: asked of BRO on both executors, of members alone and in packs."""

from __future__ import annotations

import functools
from fractions import Fraction
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlscale.benchmarks.control import Control
from rlscale.benchmarks.toy import Toy
from rlscale.cadence import schedule
from rlscale.cycle import Run
from rlscale.device_executor import DeviceExecutor
from rlscale.host_executor import HostExecutor
from rlscale.loop import run
from rlscale.spec import Budget, Member
from rlscale.types import Algorithm, Resets
from tests.contract.learners import data, learner

pytestmark = [pytest.mark.usefixtures("quick_compiles"), pytest.mark.slow]

TASKS: dict[str, Any] = {"host": Toy("toy", "track", 1), "device": Control("control", "pendulum", 1)}
MEMBERS = (Member(0, 1e-2), Member(1, 1e-2))
STEPS, WARMUP = 60, 20


@functools.cache
def bro(executor: str) -> Algorithm:
    return learner("bro", env=TASKS[executor].spec(), blocks=0).algorithm


def job(executor: str, members: tuple[Member, ...] = MEMBERS, pack: str = "loop", resets: Resets | None = None) -> Run:
    algorithm = bro(executor) if resets is None else bro(executor)._replace(resets=resets)
    budget = Budget(STEPS, WARMUP, 20, None, 1, None)
    cadence = schedule(Fraction(2), 1, STEPS, WARMUP)
    return Run(algorithm, TASKS[executor], members, cadence, budget, 16, pack, "device")  # type: ignore[arg-type]


@pytest.fixture(
    params=[("host", "loop"), ("device", "loop"), ("device", "vmap")],
    ids=["host-loop", "device-loop", "device-vmap"],
)
def trained(request: pytest.FixtureRequest) -> Any:
    """An executor in the middle of its run."""
    name, pack = request.param
    executor = {"host": HostExecutor, "device": DeviceExecutor}[name](job(name, pack=pack))
    step = 0
    while step < 30:
        step = executor.advance(step, 30)
    return executor


def learners(executor: Any) -> list[Any]:
    """Each member's learner, on the host."""
    carries = [carry[0] if isinstance(executor, DeviceExecutor) else carry for carry in executor.carries]
    if executor.job.pack == "vmap":
        return [jax.tree.map(lambda x, m=m: np.array(x[m]), carries[0]) for m in range(len(MEMBERS))]
    return [jax.tree.map(np.array, carry) for carry in carries]


def world(executor: Any) -> list[np.ndarray]:
    """What there is of the environments."""
    if isinstance(executor, DeviceExecutor):
        return data([world for _, world in executor.carries])
    return [executor.obs.copy(), executor.running.copy(), executor.ended.copy()]


def test_a_reset_really_resets_and_only_the_learner(trained: Any) -> None:
    before, outside = learners(trained), world(trained)
    trained.reset(1)
    after = learners(trained)
    for a, b in zip(outside, world(trained), strict=True):
        np.testing.assert_array_equal(a, b)
    start = bro("host" if isinstance(trained, HostExecutor) else "device").init
    for old, new in zip(before, after, strict=True):
        for name in ("critic", "actor", "optimist"):
            kernels = [
                (x, y) for x, y in zip(*map(data, (old.state.params[name], new.state.params[name])), strict=True)
            ]
            assert all((x != y).all() for x, y in kernels if x.ndim == 2)
        for name in ("log_temperature", "optimism", "penalty"):
            assert old.state.params[name] != new.state.params[name]
        assert new.state.params["log_temperature"] == 0
        assert all(
            (x == y).all() for x, y in zip(*map(data, (new.state.targets, new.state.params["critic"])), strict=True)
        )
        assert any(x.any() for x in data(old.state.opt)) and not any(x.any() for x in data(new.state.opt))
        assert (old.state.key != new.state.key).any()
        # what stays
        assert new.state.updates == old.state.updates == 20
        for a, b in zip(
            data((old.storage, old.keys, old.state.hyper)), data((new.storage, new.keys, new.state.hyper)), strict=True
        ):
            np.testing.assert_array_equal(a, b)
        assert new.storage.obs[:30].any()
        # afresh, and not as it was in the beginning
        first = jax.tree.map(np.array, jax.jit(start)(jnp.asarray(new.keys.init), new.state.hyper))
        assert not all((x == y).all() for x, y in zip(*map(data, (first.params, new.state.params)), strict=True))


def test_two_resets_and_two_members_give_different_networks(trained: Any) -> None:
    kernels = []
    for count in (1, 2):
        trained.reset(count)
        kernels += [next(x for x in data(each.state.params["critic"]) if x.ndim == 2) for each in learners(trained)]
    assert len({kernel.tobytes() for kernel in kernels}) == 4
    trained.reset(1)  # a function of the member and the count
    again = [next(x for x in data(each.state.params["critic"]) if x.ndim == 2) for each in learners(trained)]
    for a, b in zip(again, kernels, strict=False):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("executor", ["host", "device"])
@pytest.mark.parametrize(
    ("resets", "column"),
    [
        pytest.param(Resets(), None, id="none"),
        pytest.param(Resets(every_updates=30), [0, 1, 1], id="grad_steps"),
        pytest.param(Resets(at_env_steps=(5, 41, 60)), [1, 0, 2], id="env_steps"),
    ],
)
def test_resets_are_rows_of_the_curve(executor: str, resets: Resets, column: list[int] | None) -> None:
    """80 updates from step 20 on: the 30th is made at step 35, the 60th at step 50."""
    rows = [pack[0] for pack in run(job(executor, MEMBERS[:1], resets=resets))]
    assert [row.get("reset") for row in rows] == (column or [None] * 3)
    assert [row["updates"] for row in rows] == [0, 40, 80]


def test_a_members_reset_is_its_own() -> None:
    """Alone or in a pack, and the learner that trains on after a reset, gives the same rows."""
    resets = Resets(every_updates=30)
    packed = list(run(job("host", resets=resets)))
    for m, member in enumerate(MEMBERS):
        alone = [pack[0] for pack in run(job("host", (member,), resets=resets))]
        for row, pack in zip(alone, packed, strict=True):
            assert {k: v for k, v in row.items() if k != "wall_s"} == {
                k: v for k, v in pack[m].items() if k != "wall_s"
            }
    never = [pack[0] for pack in run(job("host", MEMBERS[:1], resets=Resets()))]
    assert never[1]["critic_loss"] != packed[1][0]["critic_loss"]

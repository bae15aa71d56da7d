"""The loop: exact counts, and a member that is the same in any pack, on either executor, wherever its replay lives.

Most of it is asked of a probe, which says from inside the update what it was given, and not of a learner: the loop is
the same for every algorithm, and a learner takes seconds to compile.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rlscale.benchmarks.toy import Toy
from rlscale.loop import Row, run
from rlscale.spec import Member, RunSpec
from rlscale.store import FIRST_COLUMNS, Store
from tests.contract.runs import (
    MEMBERS,
    TASKS,
    Asked,
    B,
    DeviceReach,
    Watched,
    assert_close,
    curves,
    probe,
    real,
    train,
    work,
)

pytestmark = pytest.mark.usefixtures("quick_compiles")


@dataclass(frozen=True)
class JudgedToy(Toy):
    """`reach` where a step to 0.75 is a success and the end is none."""

    def succeeded(self, final_obs: Any) -> Any:
        return (final_obs[..., 0] > 0.7) & (final_obs[..., 0] < 0.8)


@dataclass(frozen=True)
class JudgedDevice(DeviceReach):
    """The same on the device."""

    succeeded = JudgedToy.succeeded


# Rows


@pytest.mark.parametrize(("task", "episode"), [("toy", 10), pytest.param("control", 200, marks=pytest.mark.slow)])
def test_rows_say_what_happened(task: str, episode: int) -> None:
    asked = Asked(task, env_steps=450, warmup_steps=30, log_every=20, eval_every=60, utd=Fraction(1, 10))
    rows = list(run(work(asked)))
    assert [len(pack) for pack in rows] == [1] * 23
    assert [list(pack[0])[:7] for pack in rows] == [list(FIRST_COLUMNS)] * 23
    only = [pack[0] for pack in rows]
    assert [row["env_step"] for row in only] == [*range(20, 441, 20), 450]
    assert [row["updates"] for row in only] == [max(0, row["env_step"] - 30) // 10 for row in only]  # type: ignore[operator]
    assert np.cumsum([row["train_episodes"] for row in only]).tolist() == [row["env_step"] // episode for row in only]  # type: ignore[operator]
    metrics = [name for name in only[0] if name not in FIRST_COLUMNS]
    assert metrics == ["count", "value", "wrong"]
    walls = [row["wall_s"] for row in only]
    assert walls == sorted(walls) and walls[0] > 0  # type: ignore[operator, type-var]
    for row in only:
        assert (row["train_return"] is None) == (row["train_episodes"] == 0)
        assert (row["eval_return"] is None) == (row["env_step"] % 60 != 0) == (row["eval_episodes"] == 0)  # type: ignore[operator]
        for name in metrics:
            assert (row[name] is None) == (row["updates"] == 0)


def test_copies_that_do_not_divide_the_cadence() -> None:
    """A logging point is the first vector step that reaches a multiple; nothing drifts and no evaluation is lost."""
    rows = train(Asked("reach", num_envs=3, env_steps=100, warmup_steps=21, log_every=20, eval_every=40))[0]
    assert [row["env_step"] for row in rows] == [21, 42, 60, 81, 102]
    assert [row["eval_return"] is not None for row in rows] == [False, True, False, True, False]


@pytest.mark.parametrize("num_envs", [pytest.param(1, marks=pytest.mark.slow), 3])
@pytest.mark.parametrize("task", ["reach", "device_reach"])
def test_updates_are_exact_for_any_ratio(task: str, num_envs: int) -> None:
    """Counted by the learner itself, in the state; and one trace of the update serves every σ and any last chunk."""
    counted = set()
    for utd in map(Fraction, ("1/4", "1/2", "2/3", "1", "3/2", "2", "4")):
        asked = Asked(task, utd=utd, num_envs=num_envs, env_steps=100, warmup_steps=20, log_every=num_envs * 7)
        traces: list[int] = []
        job = work(asked, algorithm=probe(TASKS[task].spec(), traces))
        (rows,) = curves(job)
        last = rows[-1]
        assert last["env_step"] >= 100 and last["env_step"] % num_envs == 0  # type: ignore[operator]
        warmup = math.ceil(20 / num_envs) * num_envs
        assert Fraction(int(last["count"]), last["env_step"] - warmup) == utd  # type: ignore[arg-type, operator]
        for row in rows:
            assert row["updates"] == (row["count"] or 0) == max(0, row["env_step"] - warmup) * utd // 1  # type: ignore[operator]
        counted.add(len(traces))
    assert len(counted) == 1, "another σ or a shorter chunk compiled again"


@pytest.mark.parametrize(
    ("task", "replay"),
    [
        ("control", "device"),
        pytest.param("toy", "host", marks=pytest.mark.slow),
        pytest.param("toy", "device", marks=pytest.mark.slow),
        pytest.param("control", "host", marks=pytest.mark.slow),
    ],
)
def test_traces_do_not_grow_with_the_run_or_the_pack(task: str, replay: str) -> None:
    if task == "control" and replay == "host":
        pytest.skip("the device executor keeps its replay with it")
    counts = []
    for asked in (
        Asked(task, replay=replay),
        Asked(task, env_steps=190, replay=replay),
        Asked(task, env_steps=95, log_every=10, utd=Fraction(2, 3), replay=replay),
        Asked(task, members=MEMBERS, replay=replay),
    ):
        traces: list[int] = []
        curves(work(asked, algorithm=probe(TASKS[task].spec(), traces)))
        counts.append(len(traces))
    assert len(set(counts)) == 1, counts
    assert counts[0] <= 2, "once for the shapes of the metrics, once for the program"


@pytest.mark.parametrize("replay", ["device", "host"])
@pytest.mark.parametrize("task", ["reach", "device_reach"])
def test_batches_hold_real_transitions(task: str, replay: str) -> None:
    """Every row sampled is a step of the task with its true successor and end, after wrap-around too."""
    if task == "device_reach" and replay == "host":
        pytest.skip("the device executor keeps its replay with it")
    asked = Asked(task, num_envs=2, utd=Fraction(2), env_steps=400, log_every=2, replay=replay, replay_capacity=50)
    (rows,) = train(asked)
    assert [row["wrong"] for row in rows if row["updates"]] == [0.0] * 190
    returns = [row["train_return"] for row in rows if row["train_episodes"] == 1]
    assert returns.count(-20) >= 3 and len(returns) - returns.count(-20) >= 3  # time-outs, and true ends


# A member is the same, whatever runs beside it and wherever

PACKED = {
    "toy": Asked("toy", members=MEMBERS, utd=Fraction(3, 2), num_envs=2, eval_every=20),
    "control": Asked("control", members=MEMBERS, utd=Fraction(1, 2), num_envs=2, env_steps=120, log_every=40),
}
LEARNING = ["drifting", *(pytest.param(name, marks=pytest.mark.slow) for name in ("windowed", "sac", "pql"))]


@pytest.mark.parametrize("learner", LEARNING)
@pytest.mark.parametrize("task", PACKED)
def test_a_member_is_the_same_alone_and_in_a_pack(task: str, learner: str) -> None:
    asked = PACKED[task]._replace(learner=learner)
    one_by_one, all_at_once = train(asked), train(asked._replace(pack="vmap"))
    for i, member in enumerate(MEMBERS):
        (alone,) = train(asked._replace(members=(member,)))
        assert one_by_one[i] == alone  # bit for bit
        assert_close(all_at_once[i], alone, rtol=2e-3 if learner in ("sac", "pql") else 1e-5)
    last = [tuple(rows[-1].values()) for rows in one_by_one]
    assert len(set(last)) == 3  # a seed makes a difference, and so does a learning rate


@pytest.mark.slow
@pytest.mark.parametrize("learner", LEARNING)
def test_the_replay_may_live_on_the_host(learner: str) -> None:
    """The same index law: the same rows, whatever σ and however many updates are due at once."""
    asked = PACKED["toy"]._replace(learner=learner, members=MEMBERS[:2], replay_capacity=30)
    for utd in (Fraction(3, 2), Fraction(1, 3)):
        device, host = (train(asked._replace(utd=utd, replay=where)) for where in ("device", "host"))
        for a, b in zip(device, host, strict=True):
            assert_close(a, b, rtol=1e-5)


@pytest.mark.parametrize("learner", [*LEARNING, pytest.param("simbav2", marks=pytest.mark.slow)])
def test_both_executors_do_the_same(learner: str) -> None:
    """On a task of which nothing is random: returns, ends, replay, updates and evaluations.

    What SimbaV2 sees of a step reaches it by three ways, and its compiles are long: the third is the host's replay.
    """
    asked = Asked("reach", learner, MEMBERS[:2], Fraction(1, 2), num_envs=2, env_steps=120, eval_every=40)
    where = "host" if learner == "simbav2" else "device"
    host, device = train(asked._replace(replay=where)), train(asked._replace(task="device_reach"))
    for a, b in zip(host, device, strict=True):
        assert_close(a, b, rtol=1e-3)
    assert sum(row["train_episodes"] or 0 for row in host[0]) > 3
    assert any(row["eval_return"] is not None for row in host[0])


@pytest.mark.parametrize("task", ["toy", pytest.param("control", marks=pytest.mark.slow)])
def test_looking_changes_nothing(task: str) -> None:
    asked = Asked(task, members=MEMBERS[:2], env_steps=100, eval_every=20)
    for seen, unseen in zip(train(asked), train(asked._replace(eval_every=None)), strict=True):
        assert all(row["eval_return"] is not None for row in seen)
        blind: Row = {"eval_return": None, "eval_episodes": 0}
        assert [row | blind for row in seen] == unseen


@pytest.mark.parametrize("suite", [JudgedToy, pytest.param(JudgedDevice, marks=pytest.mark.slow)])
def test_success_is_a_column_where_the_task_can_tell(suite: Any) -> None:
    """The probe takes steps of 1/4 in evaluations, so that each episode passes the place once."""
    asked = Asked("reach", eval_every=20)
    (rows,) = curves(work(asked._replace(learner="probe"), benchmark=suite("judged", "reach", 1)))
    assert [row["eval_success"] for row in rows] == [1.0] * 3
    (rows,) = curves(work(asked._replace(learner="probe", eval_every=40), benchmark=suite("judged", "reach", 1)))
    assert [row["eval_success"] for row in rows] == [None, 1.0, None]
    assert not any("eval_success" in row for row in train(asked)[0])


def test_evaluation_is_greedy_and_whole() -> None:
    """The probe acts with 1 when it does not explore, which earns the best return of `reach`, -4."""
    for task in ("reach", "device_reach"):
        (rows,) = train(Asked(task, "probe", eval_every=20))
        assert [row["eval_return"] for row in rows] == [-4.0] * 3
        assert [row["eval_episodes"] for row in rows] == [2] * 3


# By hand


def test_returns_are_those_of_the_episodes() -> None:
    """Summed again from what the environment paid, episode by episode; evaluations do not count as training."""
    watched = Watched("toy", "reach", 3, [])
    asked = Asked("reach", num_envs=3, env_steps=240, log_every=60, eval_every=120)
    (rows,) = curves(work(asked, benchmark=watched))
    training, *evaluations = watched.made
    assert len(training.steps) == 80 and len(evaluations) == 2
    assert all(env.closed for env in watched.made)
    running, returns = np.zeros(3), [list[float]() for _ in rows]
    for t, step in enumerate(training.steps):
        running += step.reward
        for copy in np.flatnonzero(step.terminated | step.truncated):
            returns[t // 20].append(running[copy])
            running[copy] = 0
    assert [row["train_episodes"] for row in rows] == [len(part) for part in returns]
    for row, part in zip(rows, returns, strict=True):
        assert row["train_return"] == pytest.approx(np.mean(part))


def test_track_pays_what_the_actions_earn() -> None:
    watched = Watched("toy", "track", 1, [])
    (rows,) = curves(work(Asked("toy"), benchmark=watched))
    earned = [step.reward[0] for step in watched.made[0].steps]
    for i, row in enumerate(rows):
        assert row["train_return"] == pytest.approx(np.sum(earned[20 * i : 20 * (i + 1)]) / 2, abs=1e-5)


def test_warm_up_acts_all_over_the_box_and_learns_nothing() -> None:
    watched = [Watched("toy", "track", 2, []) for _ in range(2)]
    asked = Asked("toy", num_envs=2, env_steps=440, warmup_steps=400, log_every=20)
    for member, benchmark in zip(MEMBERS, watched, strict=False):
        (rows,) = curves(work(asked._replace(members=(member,)), probe(benchmark.spec()), benchmark))
        assert [row["env_step"] for row in rows if row["updates"] == 0] == list(range(20, 401, 20))
    actions = np.stack([bench.made[0].actions for bench in watched], 2)  # [T, E, members, A]
    assert actions.shape == (220, 2, 2, 2) and actions.dtype == np.float32
    warm = actions[:200].reshape(200, -1)  # each of copies, members and dimensions for itself
    assert (np.abs(warm) <= 1).all()
    assert (warm.min(0) < -0.95).all() and (warm.max(0) > 0.95).all()
    quarters = [np.histogram(column, 4, (-1, 1))[0] for column in warm.T]
    assert (np.abs(np.array(quarters) - 50) < 5 * np.sqrt(200 * 0.25 * 0.75)).all()
    assert np.abs(np.corrcoef(warm.T) - np.eye(8)).max() < 0.35
    assert (actions[200:] == 0.5).all()  # from then on, the policy


# What a learner may do


def test_a_learner_that_diverges_is_recorded_so(study: Path) -> None:
    """Its curve ends there, its record says so, and the other member of the pack is finished."""
    members = (Member(0, 1e-3), Member(0, 5.0))  # of the probe, an η above 1 makes NaN
    asked = Asked("reach", "probe", members=members, env_steps=100)
    job = work(asked)
    healthy, ill = curves(job)
    assert all(math.isfinite(row["value"]) for row in healthy if row["updates"])  # type: ignore[arg-type]
    assert [math.isnan(row["value"]) for row in ill if row["updates"]] == [True] * 4  # type: ignore[arg-type]

    spec = RunSpec({"name": "probe"}, {"name": "toy", "task": "reach"}, asked.utd, B, job.budget)
    store = Store(study)
    recordings = [store.claim(spec, member) for member in members]
    for rows in run(job):
        for recording, row in zip(recordings, rows, strict=True):
            assert recording is not None
            recording.row(row)
    assert [recording.diverged for recording in recordings if recording] == [False, True]
    lengths = [len((recording.folder / "curve.csv").read_text().splitlines()) for recording in recordings if recording]
    assert lengths == [1 + 5, 1 + 2]  # the row with NaN is the last one
    for recording in recordings:
        assert recording is not None
        recording.release()


@pytest.mark.slow
def test_sac_learns_to_track() -> None:
    """A known best return of 10; a policy that acts at random earns 3.3."""
    asked = Asked("toy", env_steps=1000, warmup_steps=200, log_every=200, members=(Member(0, 3e-3), Member(1, 3e-3)))
    fields = {"width": 32, "depth": 1, "initial_temperature": 0.1, "discount": 0.0, "temperature_learning_rate": 1e-2}
    learner = real("sac", TASKS["toy"].spec(), **fields)
    for rows in curves(work(asked, algorithm=learner)):
        assert rows[0]["train_return"] < 5  # type: ignore[operator]
        assert rows[-1]["train_return"] > 8.5  # type: ignore[operator]

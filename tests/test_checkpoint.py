"""Checkpoints: a resumed run is the uninterrupted one bit for bit; what is damaged or foreign is passed over."""

from __future__ import annotations

import functools
import signal
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

from rlscale import checkpoint
from rlscale.benchmarks.dmc import DMCPython
from rlscale.benchmarks.franka import FrankaC
from rlscale.benchmarks.gym import GymPython
from rlscale.checkpoint import Clock, Keeper, Resumed, Stopped
from rlscale.cycle import Run
from rlscale.diagnostics.observed import Watch
from rlscale.loop import run
from rlscale.spec import Budget, Member, RunSpec
from rlscale.store import Recording, Store, write_atomically
from rlscale.types import Resets
from tests.contract.runs import LEARNERS, MEMBERS, Asked, Watched, WatchedEnv, real, work

pytestmark = pytest.mark.usefixtures("quick_compiles")
VERSIONS = {"python": "3", "jax": "1"}
NEVER = 1e9  # seconds


def claimed(root: Path, members: Sequence[Member]) -> list[Recording]:
    """Recordings of a study of which only the members matter."""
    budget = Budget(60, 20, 20, None, 0, None)
    spec = RunSpec({"name": "probe"}, {"name": "toy", "task": "any"}, Fraction(1), 16, budget)
    recordings = [Store(root).claim(spec, member) for member in members]
    assert None not in recordings
    return recordings  # type: ignore[return-value]


class Interrupted(Keeper):
    """Writes a checkpoint at every step from the `first` on and is ended at the `last`."""

    first, last = float("inf"), float("inf")

    def due(self) -> bool:
        return True

    def keep(self, clock: Clock, num_envs: int, saved: Callable[[int], checkpoint.Arrays]) -> None:
        if clock.step >= self.last:
            self.asked.number = signal.SIGTERM
        if clock.step >= self.first:
            super().keep(clock, num_envs, saved)


class Done(NamedTuple):
    """A pack after its run."""

    folders: list[Path]
    resumed: list[Resumed]

    @property
    def curves(self) -> list[list[list[str]]]:
        """The rows without the wall clock."""
        texts = [(folder / "curve.csv").read_text().splitlines() for folder in self.folders]
        return [[row[:2] + row[3:] for row in (line.split(",") for line in text)] for text in texts]

    @property
    def states(self) -> list[checkpoint.Arrays]:
        """All arrays of the newest checkpoints: weights, replay, keys, environments as they are seen."""
        newest = [checkpoint.read(folder, max(checkpoint.steps(folder))) for folder in self.folders]
        return [{k: v for k, v in x.items() if k not in ("about", "host['simulator']")} for x in newest]


def trained(
    job: Run,
    root: Path,
    first: float = float("inf"),
    last: float = float("inf"),
    versions: Mapping[str, str] = VERSIONS,
    watch: Watch | None = None,
) -> Done:
    """Train the pack from what is there, with checkpoints from vector step `first` on, until the `last` or its end."""
    recordings = claimed(root, job.members)
    keeper = Interrupted(recordings, NEVER, versions, "test")
    keeper.first, keeper.last = first, last
    try:
        for rows in run(job, keeper=keeper, watch=watch):
            for recording, row in zip(recordings, rows, strict=True):
                recording.row(row)
    except Stopped as error:
        assert last < float("inf") and error.code == 128 + signal.SIGTERM
    else:
        assert last == float("inf")
    finally:
        for recording in recordings:
            recording.release()
    return Done([recording.folder for recording in recordings], keeper.resumed)


def assert_same(one: Done, other: Done) -> None:
    assert one.curves == other.curves
    for a, b in zip(one.states, other.states, strict=True):
        assert a.keys() == b.keys()
        for name in a:
            np.testing.assert_array_equal(a[name], b[name], err_msg=name)


PACK = Asked("toy", members=MEMBERS[:2], utd=Fraction(3, 2), num_envs=2, env_steps=120, eval_every=40)
END = 50  # of the 60 vector steps: where the state is compared
WAYS = {
    "host": PACK,
    "host, replay on the host": PACK._replace(replay="host", learner="windowed", replay_capacity=30),
    "host, vmap": PACK._replace(pack="vmap", learner="windowed"),
    "device": PACK._replace(task="control", learner="windowed"),
    "device, vmap": PACK._replace(task="control", pack="vmap"),
    "sac": PACK._replace(learner="sac"),
    "pql": PACK._replace(task="control", learner="pql"),
    "simbav2": PACK._replace(learner="simbav2", replay="host"),
}
SLOW = ("host, replay on the host", "host, vmap", "device", "device, vmap", "sac", "pql", "simbav2")


@pytest.mark.parametrize("way", [pytest.param(w, marks=[pytest.mark.slow] * (w in SLOW)) for w in WAYS])
def test_a_resumed_run_is_the_uninterrupted_one(way: str, tmp_path: Path) -> None:
    """Ended twice, on the host between two logging points."""
    job = work(WAYS[way])
    job = replace(job, algorithm=job.algorithm._replace(resets=Resets(every_updates=30)))
    whole = trained(job, tmp_path / "whole", END)
    assert whole.resumed == [Resumed()] * 2
    trained(job, tmp_path / "ended", 20, 23)
    trained(job, tmp_path / "ended", 35, 37)
    resumed = trained(job, tmp_path / "ended", END)
    assert resumed.resumed == [Resumed(2, 0)] * 2
    assert_same(whole, resumed)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Done:
    return trained(work(PACK), tmp_path_factory.mktemp("whole"), END)


@pytest.mark.slow
def test_members_go_on_in_other_packs(whole: Done, tmp_path: Path) -> None:
    """Ended together and resumed alone; ended alone, at different steps, which are not one pack."""
    trained(work(PACK), tmp_path, 20, 23)
    alone = [trained(work(PACK._replace(members=(m,))), tmp_path, END, END) for m in reversed(PACK.members)]
    assert [a.resumed for a in alone] == [[Resumed(1, 0)]] * 2
    assert_same(whole, trained(work(PACK), tmp_path, END))
    first, second = PACK.members
    trained(work(PACK._replace(members=(first,))), tmp_path / "apart", 20, 23)
    for steps, packs in ((None, [[second], [first]]), (30, [[first], [second]])):
        if steps:
            trained(work(PACK._replace(members=(second,))), tmp_path / "apart", steps, steps)
        recordings = dict(zip(PACK.members, claimed(tmp_path / "apart", PACK.members), strict=True))
        assert [list(pack) for pack in checkpoint.together(recordings)] == packs
        for recording in recordings.values():
            recording.release()


def flipped(content: bytes, share: float) -> bytes:
    at = int(share * len(content))
    return content[:at] + bytes([content[at] ^ 0xFF]) + content[at + 1 :]


DAMAGE: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda content: b"",
    "cut": lambda content: content[: len(content) // 2],
    "another file": lambda content: b"not a checkpoint",
    "a byte": functools.partial(flipped, share=0.35),
}


@pytest.mark.parametrize("damage", [pytest.param(d, marks=[pytest.mark.slow] * (d != "a byte")) for d in DAMAGE])
def test_a_damaged_checkpoint_is_passed_over(
    damage: str, whole: Done, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The one before is taken; with both damaged the run begins anew; the end is the same."""
    folders = trained(work(PACK), tmp_path, 20, 23).folders
    assert all(checkpoint.steps(folder) == {22, 23} for folder in folders)  # the last two
    newest = folders[1] / "checkpoints" / f"{23:012d}.npz"
    newest.write_bytes(DAMAGE[damage](newest.read_bytes()))
    once = trained(work(PACK), tmp_path, 40, 41)
    assert once.resumed == [Resumed(1, 0)] * 2
    said = capsys.readouterr().err
    assert said.startswith("test: the checkpoint at vector step 23 is passed over: ") and said.count("\n") == 1
    assert_same(whole, trained(work(PACK), tmp_path, END))

    again = tmp_path / "again"
    folders = trained(work(PACK), again, 20, 23).folders
    for path in (folders[1] / "checkpoints").iterdir():
        path.write_bytes(DAMAGE[damage](path.read_bytes()))
    anew = trained(work(PACK), again, END)
    assert anew.resumed == [Resumed()] * 2
    assert_same(whole, anew)


@pytest.mark.slow
def test_no_damage_goes_unseen(tmp_path: Path) -> None:
    """Whichever byte is another one: the file is refused, or it was one that nothing depends on."""
    arrays = {name: np.arange(size, dtype=np.float32) for name, size in (("carry.a", 40), ("host['b']", 3))}
    checkpoint.write(tmp_path, 7, arrays)
    path = tmp_path / "checkpoints" / f"{7:012d}.npz"
    content, refused = path.read_bytes(), 0
    for at in range(len(content)):
        path.write_bytes(flipped(content, at / len(content)))
        try:
            found = checkpoint.read(tmp_path, 7)
        except checkpoint.DAMAGED:
            refused += 1
            continue
        assert found.keys() == arrays.keys()
        for name in arrays:
            np.testing.assert_array_equal(found[name], arrays[name])
    assert refused > 0.7 * len(content)


@pytest.mark.parametrize(
    "foreign", ["versions", "shapes", *(pytest.param(name, marks=pytest.mark.slow) for name in ("parts", "replay"))]
)
def test_a_foreign_checkpoint_is_passed_over(foreign: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What other packages, or code of ours that has changed since, have left."""
    asked = PACK._replace(members=MEMBERS[:1])
    before = {
        "versions": asked,
        "parts": asked._replace(learner="windowed"),
        "shapes": asked._replace(num_envs=3, env_steps=180),
        "replay": asked._replace(replay_capacity=30),
    }[foreign]
    trained(work(before), tmp_path, 22, 23)
    versions = VERSIONS | {"jax": "2"} if foreign == "versions" else VERSIONS
    assert trained(work(asked), tmp_path, versions=versions).resumed == [Resumed()]
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2 and all("is passed over: it" in line for line in lines)


def test_nothing_is_left_of_who_was_killed_while_writing(tmp_path: Path) -> None:
    (folder,) = trained(work(PACK._replace(members=MEMBERS[:1])), tmp_path, 20, 23).folders
    drafts = [folder / ".record.json.abc", folder / "checkpoints" / ".000000000024.npz.abc"]
    for draft in drafts:
        draft.write_text("half")
    (recording,) = claimed(tmp_path, MEMBERS[:1])
    assert not any(draft.exists() for draft in drafts) and checkpoint.steps(folder) == {22, 23}
    recording.finish({"asked_by": None})
    assert checkpoint.steps(folder) == set()  # a finished run needs none


def test_a_run_that_was_taken_over_writes_none(tmp_path: Path) -> None:
    (recording,) = claimed(tmp_path, MEMBERS[:1])
    keeper = Keeper([recording], 0.0, VERSIONS, "test")
    assert keeper.due()
    keeper.keep(Clock(1), 1, lambda m: {"carry": np.zeros(2)})
    assert checkpoint.steps(recording.folder) == {1}
    write_atomically(recording.folder / "claim.json", '{"host": "elsewhere", "pid": 1, "born": 1, "token": "theirs"}')
    keeper.keep(Clock(2), 1, lambda m: {"carry": np.zeros(2)})
    recording.release()
    assert checkpoint.steps(recording.folder) == {1}


@pytest.mark.slow
def test_a_member_that_diverged_stays_so(tmp_path: Path) -> None:
    asked = PACK._replace(learner="probe", members=(Member(0, 10.0), Member(1, 1e-3)))
    whole = trained(work(asked), tmp_path / "whole", END)
    trained(work(asked), tmp_path / "ended", 40, 41)
    resumed = trained(work(asked), tmp_path / "ended", END)
    assert_same(whole, resumed)
    assert len(resumed.curves[0]) < len(resumed.curves[1]) and "nan" in resumed.curves[0][-1]


@pytest.mark.slow
@pytest.mark.parametrize("replay", ["device", "host"])
def test_where_the_simulator_cannot_tell_episodes_begin_anew(replay: str, tmp_path: Path) -> None:
    """Flagged, without a transition across the cut, and a return over several steps ends there."""
    asked = PACK._replace(task="reach", learner="probe", replay=replay, utd=Fraction(1))
    for learner in ("probe", "windowed"):
        made: list[WatchedEnv] = []
        benchmark, root = Watched("watched", "reach", 2, made), tmp_path / learner
        algorithm = LEARNERS[learner](benchmark.spec())
        job = work(asked._replace(eval_every=None), algorithm, benchmark)
        trained(job, root, 20, 23)
        rows = trained(job, root, 24, 24)
        assert rows.resumed == [Resumed(1, 1)] * 2
        assert all(env.closed for env in made[:2])
        if learner == "windowed":  # of the window's two steps, the last before the cut and the first behind it
            over = "host['window'].over" if replay == "host" else "carry.window.over"
            assert [state[over].all(axis=1).tolist() for state in rows.states] == [[True, False]] * 2
        done = trained(job, root, END)
        assert done.resumed == [Resumed(2, 2)] * 2
        if learner == "probe":
            column = done.curves[0][0].index("wrong")
            assert {row[column] for row in done.curves[0][2:]} == {"0.0"}


SIMULATORS = {
    "gym": GymPython("gym", "HalfCheetah-v4", 2, "python"),
    "gym, ends": GymPython("gym", "Hopper-v4", 2, "python"),
    "dmc": DMCPython("dmc", "cheetah-run", 2, 2, "python"),
    "franka": FrankaC("franka", "franka_push", 2, "c", 0.15, 0.5),
}


@pytest.mark.slow
@pytest.mark.parametrize("suite", SIMULATORS)
def test_a_resumed_simulation_is_the_uninterrupted_one(suite: str, tmp_path: Path) -> None:
    """SAC, the whole state, bit for bit."""
    asked = PACK._replace(learner="sac", env_steps=600, log_every=50, eval_every=None, replay_capacity=None)
    job = work(asked, real("sac", SIMULATORS[suite].spec()), SIMULATORS[suite])
    whole = trained(job, tmp_path / "whole", 290)
    trained(job, tmp_path / "ended", 120, 123)
    resumed = trained(job, tmp_path / "ended", 290)
    assert resumed.resumed == [Resumed(1, 0)] * 2
    assert_same(whole, resumed)

"""The store: a record is the last thing written, and of all who ask for a member exactly one trains it."""

from __future__ import annotations

import errno
import fcntl
import json
import math
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import psutil
import pytest

from rlscale import store as store_module
from rlscale.spec import Budget, Member, RunSpec, identity, run_id
from rlscale.store import FIRST_COLUMNS, STALE_S, ClaimLost, Recording, Store, read_claim, study_root, write_atomically
from rlscale.typed import Mistake

SPEC = RunSpec(
    {"name": "sac"}, {"name": "toy", "task": "track"}, Fraction(1, 4), 16, Budget(400, 100, 100, None, 0, None)
)
MEMBER = Member(0, 3e-4)
RUN = run_id(SPEC, MEMBER)
ROW = {"env_step": 100, "updates": 0, "wall_s": 0.5, "train_return": None, "train_episodes": 0}
ROW |= {"eval_return": None, "eval_episodes": 0, "critic_loss": None}


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "study")


def taken(store: Store, member: Member = MEMBER) -> Recording:
    recording = store.claim(SPEC, member)
    assert recording is not None
    return recording


@pytest.fixture
def dead_pid() -> int:
    """Of a process that was."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def leave_claim(store: Store, beaten_s_ago: float = 0.0, **holder: Any) -> Path:
    """A claim as another process leaves it."""
    path = store.runs / RUN / "claim.json"
    write_atomically(
        path, json.dumps({"host": socket.gethostname(), "pid": 1, "born": 1.0, "token": "theirs"} | holder)
    )
    os.utime(path, (time.time() - beaten_s_ago,) * 2)
    return path


# Records


def test_the_study_is_where_the_environment_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RLSCALE_STUDY", "/somewhere/else")
    assert Store().runs == Path("/somewhere/else/runs")
    monkeypatch.delenv("RLSCALE_STUDY")
    assert study_root() == Path("study")


def test_looking_writes_nothing(store: Store) -> None:
    assert store.record(RUN) is None and not store.held(RUN) and store.last_env_step(RUN) == 0
    assert not store.root.exists()


def test_a_run_from_claim_to_record(store: Store) -> None:
    recording, folder = taken(store), store.runs / RUN
    assert json.loads((folder / "spec.json").read_text()) == identity(SPEC, MEMBER)
    assert store.held(RUN) and store.last_env_step(RUN) == 0
    recording.row(ROW)
    assert store.last_env_step(RUN) == 100  # at once, while the run goes on
    recording.row(ROW | {"env_step": 200, "updates": 25, "train_return": 0.1 + 0.2, "critic_loss": 1e-9})
    assert store.last_env_step(RUN) == 200
    assert store.record(RUN) is None
    recording.finish({"run_id": RUN})
    assert store.record(RUN) == {"run_id": RUN}
    assert (folder / "curve.csv").read_text() == (
        "env_step,updates,wall_s,train_return,train_episodes,eval_return,eval_episodes,critic_loss\n"
        "100,0,0.5,,0,,0,\n"
        "200,25,0.5,0.30000000000000004,0,,0,1e-09\n"
    )
    assert sorted(p.name for p in folder.iterdir()) == ["claims.jsonl", "curve.csv", "record.json", "spec.json"]
    log = [json.loads(line) for line in (folder / "claims.jsonl").read_text().splitlines()]
    assert [line["event"] for line in log] == ["taken", "recorded"]
    assert {(line["token"], line["pid"]) for line in log} == {(recording.token, os.getpid())}
    assert not store.held(RUN)
    assert store.claim(SPEC, MEMBER) is None  # never trained again


def test_the_record_is_written_last(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """When it appears, it is whole, the curve is on the disk, and the claim is still held."""
    recording, replaced = taken(store), []
    recording.row(ROW)
    rename = Path.replace

    def watched(draft: Path, target: Path) -> Path:
        if target.name == "record.json":
            assert not target.exists() and json.loads(draft.read_text()) == {"run_id": RUN}
            assert len((store.runs / RUN / "curve.csv").read_text().splitlines()) == 2
            assert store.held(RUN)
            replaced.append(target)
        return rename(draft, target)

    monkeypatch.setattr(Path, "replace", watched)
    recording.finish({"run_id": RUN})
    assert len(replaced) == 1


def test_an_exception_leaves_no_record(store: Store) -> None:
    recording = taken(store)
    recording.row(ROW)
    with pytest.raises(TypeError):
        recording.finish({"run_id": object()})  # cannot be written
    recording.release()
    assert store.record(RUN) is None
    assert not list((store.runs / RUN).glob("record*"))
    again = taken(store)  # from the start
    assert store.last_env_step(RUN) == 0
    again.release()


def test_half_a_file_is_never_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "folder" / "file.json"
    write_atomically(path, "old")

    def broken(fd: int) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr(os, "fsync", broken)
    with pytest.raises(OSError, match="no space"):
        write_atomically(path, "new")
    assert path.read_text() == "old"


def test_a_curve_gets_the_columns_that_an_earlier_process_did_not_log(store: Store) -> None:
    first = dict.fromkeys(FIRST_COLUMNS, 1) | {"loss": 0.5}
    recording = taken(store)
    recording.row(first)
    curve = recording.curve()
    recording.release()
    recording = taken(store)
    recording.resume(curve)
    recording.row(first | {"env_step": 2, "norm": 0.25})
    recording.row(first | {"env_step": 3})
    lines = recording.curve().splitlines()
    recording.release()
    assert [line.split(",")[0] for line in lines] == ["env_step", "1", "2", "3"]
    assert [line.split(",")[-2:] for line in lines] == [["loss", "norm"], ["0.5", ""], ["0.5", "0.25"], ["0.5", ""]]


def test_a_curve_without_a_whole_row_counts_as_none(store: Store) -> None:
    recording = taken(store)
    for text in ("", "env_step,upd", "env_step,updates\n"):
        (store.runs / RUN / "curve.csv").write_text(text)
        assert store.last_env_step(RUN) == 0
    recording.release()


@pytest.mark.parametrize("sick", [math.nan, math.inf, -math.inf])
def test_a_diverged_run_ends_with_the_row_that_shows_it(store: Store, sick: float) -> None:
    recording = taken(store)
    recording.row(ROW)
    assert not recording.diverged
    recording.row(ROW | {"env_step": 200, "critic_loss": sick})
    assert recording.diverged
    recording.row(ROW | {"env_step": 300, "critic_loss": 1.0})
    assert recording.diverged and recording.last["env_step"] == 200
    assert store.last_env_step(RUN) == 200
    recording.release()


def test_what_a_process_leaves_that_dies_after_its_record_is_removed(store: Store, dead_pid: int) -> None:
    taken(store).finish({})
    folder = store.runs / RUN
    write_atomically(folder / "checkpoints" / "1.npz", "large")
    leave_claim(store, pid=os.getpid(), born=psutil.Process().create_time())
    store.tidy(RUN)  # it is at it itself
    assert (folder / "claim.json").exists() and (folder / "checkpoints").exists()
    leave_claim(store, pid=dead_pid)
    store.tidy(RUN)
    assert not (folder / "claim.json").exists() and not (folder / "checkpoints").exists()
    taken(store, Member(1, 3e-4)).release()
    other = store.runs / run_id(SPEC, Member(1, 3e-4))
    write_atomically(other / "checkpoints" / "1.npz", "needed")
    store.tidy(other.name)
    assert (other / "checkpoints" / "1.npz").exists()


def test_others_who_asked_are_noted_once(store: Store) -> None:
    asker: dict[str, Any] = {"sweep": "first", "hparams": "constant", "overrides": []}
    other = asker | {"sweep": "second"}
    path = store.runs / RUN / "asked_by.jsonl"
    store.also_asked_by(RUN, other)
    assert not store.root.exists()  # nothing is recorded yet, so there is nothing to note
    taken(store).finish({"asked_by": asker})
    store.also_asked_by(RUN, asker)
    assert not path.exists()
    for _ in range(2):
        store.also_asked_by(RUN, other)
        store.also_asked_by(RUN, dict(reversed(list(other.items()))))
    assert [json.loads(line) for line in path.read_text().splitlines()] == [other]


# Claims


def test_a_member_is_claimed_once_and_free_again_when_released(store: Store) -> None:
    first = taken(store)
    assert store.claim(SPEC, MEMBER) is None
    taken(store, Member(1, 3e-4)).release()  # another member is another matter
    first.release()
    first.release()  # twice is once
    assert not store.held(RUN)
    taken(store).release()


def test_a_claim_of_a_dead_process_is_taken_over_at_once(store: Store, dead_pid: int) -> None:
    leave_claim(store, pid=dead_pid)
    assert not store.held(RUN)
    taken(store).release()


def test_a_process_that_only_has_the_same_number_holds_nothing(store: Store) -> None:
    """This one has the pid in the claim, but began at another time."""
    leave_claim(store, pid=os.getpid(), born=1.0)
    assert not store.held(RUN)
    taken(store).release()


def test_a_claim_on_another_host_is_judged_by_its_heartbeat(store: Store) -> None:
    leave_claim(store, host="elsewhere", beaten_s_ago=STALE_S - 30)
    assert store.held(RUN) and store.claim(SPEC, MEMBER) is None
    leave_claim(store, host="elsewhere", beaten_s_ago=STALE_S + 30)
    assert not store.held(RUN)
    taken(store).release()


def test_clocks_of_hosts_may_differ(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """What counts is the clock that stamps the files."""
    leave_claim(store, host="elsewhere")
    now = time.time()
    for skew in (-3600, 3600):
        monkeypatch.setattr(time, "time", lambda skew=skew: now + skew)
        assert store.held(RUN) and store.claim(SPEC, MEMBER) is None


def test_a_filesystem_without_locks_is_one_sentence(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", refuse)
    with pytest.raises(Mistake, match=r"^RLSCALE_STUDY=.*: files cannot be locked there \(No locks available\); mount"):
        store.claim(SPEC, MEMBER)


def test_a_living_process_here_keeps_its_claim_however_late_its_heart(store: Store) -> None:
    recording = taken(store)
    os.utime(store.runs / RUN / "claim.json", (0, 0))
    assert store.held(RUN) and store.claim(SPEC, MEMBER) is None
    recording.release()


def test_the_heart_beats(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store_module, "HEARTBEAT_S", 0.02)
    recording, path = taken(store), store.runs / RUN / "claim.json"
    os.utime(path, (0, 0))
    wait_for(lambda: path.stat().st_mtime > time.time() - 60)
    recording.release()
    assert not path.exists()


def test_the_heart_stops_when_the_claim_is_lost(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else the one who lost a run would keep the claim of the one who took it over fresh for ever."""
    monkeypatch.setattr(store_module, "HEARTBEAT_S", 0.02)
    before = set(threading.enumerate())
    recording = taken(store)
    (heart,) = set(threading.enumerate()) - before
    path = leave_claim(store, host="elsewhere", beaten_s_ago=1000)
    wait_for(lambda: not heart.is_alive())
    assert path.stat().st_mtime < time.time() - 900
    recording.release()


def wait_for(happened: Callable[[], bool]) -> None:
    for _ in range(500):
        if happened():
            return
        time.sleep(0.01)
    raise AssertionError("it did not happen within 5 s")


def test_who_lost_a_run_does_not_record_it(store: Store) -> None:
    recording = taken(store)
    path = leave_claim(store, host="elsewhere")
    with pytest.raises(ClaimLost, match=RUN):
        recording.finish({"run_id": RUN})
    assert store.record(RUN) is None
    holder = read_claim(store.runs / RUN)
    assert path.exists() and holder is not None and holder["token"] == "theirs"  # and theirs stays
    path.unlink()
    lost = taken(store)
    path.unlink()
    with pytest.raises(ClaimLost):
        lost.finish({"run_id": RUN})
    assert store.record(RUN) is None


# Races

RACER = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from tests.test_store import MEMBER, SPEC
from rlscale.store import Store
held = []
print("ready", flush=True)
for line in sys.stdin:
    recording = Store(Path(line.strip())).claim(SPEC, MEMBER)
    held.append(recording)
    print("lost" if recording is None else "won", flush=True)
"""


def test_of_two_processes_exactly_one_wins_a_stale_claim(tmp_path: Path, root: Path, dead_pid: int) -> None:
    racers = [
        subprocess.Popen(
            [sys.executable, "-c", RACER, str(root)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            bufsize=1,
        )
        for _ in range(2)
    ]
    pipes = [(racer.stdin, racer.stdout) for racer in racers]
    try:
        assert [out.readline() for _, out in pipes if out] == ["ready\n"] * 2
        for i in range(20):
            study = tmp_path / str(i)
            leave_claim(Store(study), pid=dead_pid)
            for into, _ in pipes[:: 1 if i % 2 else -1]:
                assert into is not None
                into.write(f"{study}\n")
            assert sorted(out.readline() for _, out in pipes if out) == ["lost\n", "won\n"], f"round {i}"
    finally:
        for racer in racers:
            racer.kill()
            racer.communicate()


def test_of_many_threads_exactly_one_wins_a_stale_claim(tmp_path: Path, dead_pid: int) -> None:
    for i in range(20):
        store, gate, won = Store(tmp_path / str(i)), threading.Barrier(4), list[Recording]()
        leave_claim(store, pid=dead_pid)

        def race(store: Store = store, gate: threading.Barrier = gate, won: list[Recording] = won) -> None:
            gate.wait()
            if recording := store.claim(SPEC, MEMBER):
                won.append(recording)

        threads = [threading.Thread(target=race) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(won) == 1, f"round {i}"
        won[0].release()

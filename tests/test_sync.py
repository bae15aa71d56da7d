"""The sync door with a stand-in for W&B's command, which notes its calls and fails where it is told to."""

from __future__ import annotations

import fcntl
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from rlscale.spec import Budget, Member, RunSpec, run_id
from rlscale.store import Store
from rlscale.sync import Sync, upload_all, waiting
from rlscale.typed import Mistake, typed

ROOT = Path(__file__).resolve().parents[1]
FINE = {"report": None, "project": None, "entity": None, "workers": 4, "give_up_after": 0, "limit_s": 60.0}
COMMAND = """
import json, os, pathlib, sys, time
_, verb, *words = sys.argv
if verb == "artifact":
    with open(os.environ["CALLS"], "a") as calls:
        calls.write(json.dumps([verb, words, pathlib.Path(words[-1]).read_text()]) + "\\n")
    sys.exit("Error: no such project" if "lost/report-r1" in words else 0)
folder = pathlib.Path(*words)
[file] = folder.glob("run-*.wandb")
asked = file.read_text()  # what this folder is to do
with open(os.environ["CALLS"], "a") as calls:
    calls.write(json.dumps([verb, folder.name, time.monotonic()]) + "\\n")
print("wandb: Syncing 1 run(s):", flush=True)
if asked == "hang":
    time.sleep(60)
if asked == "slow":
    time.sleep(0.5)
if asked == "grow":
    file.write_text("grown")
if asked == "refuse":
    print("wandb: ERROR permission denied\\n")
elif asked == "crash":
    sys.exit("Error: broken pipe")
else:
    file.with_name(file.name + ".synced").touch()
with open(os.environ["CALLS"], "a") as calls:
    calls.write(json.dumps(["end", folder.name, time.monotonic()]) + "\\n")
"""


class Desk:
    """A study with offline folders, and the door."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch):
        self.study, self.log = folder / "study", folder / "calls"
        self.home = self.study / "wandb"
        (folder / "standin" / "wandb").mkdir(parents=True)
        (folder / "standin" / "wandb" / "__init__.py").touch()
        (folder / "standin" / "wandb" / "__main__.py").write_text(COMMAND)
        monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(folder / "standin"), str(ROOT)]))
        monkeypatch.setenv("CALLS", str(self.log))
        monkeypatch.setenv("RLSCALE_STUDY", str(self.study))
        self.here = folder / "here"
        self.here.mkdir()

    def put(self, run: str, at: int = 0, does: str = "fine") -> str:
        folder = self.home / f"offline-run-20260101_{at:06d}-{run}"
        folder.mkdir(parents=True)
        (folder / f"run-{run}.wandb").write_text(does)
        return folder.name

    def door(self, *words: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "rlscale.sync", *words]
        return subprocess.run(command, cwd=self.here, capture_output=True, text=True, timeout=120)

    def calls(self) -> list[Any]:
        """(verb, folder, when) since the last look."""
        lines = self.log.read_text().splitlines() if self.log.exists() else []
        self.log.unlink(missing_ok=True)
        return [json.loads(line) for line in lines]

    def synced(self) -> set[str]:
        return {path.parent.name for path in self.home.rglob("*.synced")}

    def upload(self, **changes: Any) -> tuple[int, list[str], int]:
        return upload_all(typed(Sync, {**FINE, **changes}, "sync"), waiting(self.home, Store())[0])


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Desk:
    return Desk(tmp_path, monkeypatch)


def test_all_are_uploaded_failures_are_named_and_again_does_what_is_left(desk: Desk) -> None:
    fine = {desk.put(f"fine{i}", i) for i in range(3)}
    refused, crashed = desk.put("refused", 5, "refuse"), desk.put("crashed", 6, "crash")
    done = desk.door("workers=2", "give_up_after=0")
    assert done.returncode == 1
    assert desk.synced() == fine
    assert {folder for verb, folder, _ in desk.calls() if verb == "sync"} == fine | {refused, crashed}
    assert done.stdout == "3 folders uploaded, 0 were uploaded before\n"
    told, table = done.stderr.split("not uploaded; the same command tries again:\n")
    for text in (told, table):
        assert f"{refused}: ERROR permission denied\n" in text and f"{crashed}: Error: broken pipe\n" in text
    assert list(desk.here.iterdir()) == []

    for folder in (refused, crashed):
        next((desk.home / folder).glob("*.wandb")).write_text("fine")
    done = desk.door()
    assert (done.returncode, done.stdout) == (0, "2 folders uploaded, 3 were uploaded before\n"), done.stderr
    assert {folder for verb, folder, _ in desk.calls() if verb == "sync"} == {refused, crashed}


def test_nothing_to_upload(desk: Desk) -> None:
    done = desk.door()
    assert (done.returncode, done.stdout) == (0, f"no runs to upload: there is no {desk.home}\n")
    assert not desk.study.exists()


@pytest.mark.slow
def test_runs_go_side_by_side_folders_of_one_run_in_their_order(desk: Desk) -> None:
    one = [desk.put("resumed", at, "slow") for at in (7, 3, 5)]
    other = desk.put("other", 4, "slow")
    assert desk.upload(workers=2) == (4, [], 0)
    calls = desk.calls()
    assert [folder for verb, folder, _ in calls if verb == "sync" and folder in one] == sorted(one)
    span = {folder: [t for _, name, t in calls if name == folder] for folder in {*one, other}}
    for before, after in zip(sorted(one), sorted(one)[1:], strict=False):
        assert span[before][1] <= span[after][0]
    assert span[other][0] < span[sorted(one)[0]][1] and span[sorted(one)[0]][0] < span[other][1]


def test_a_folder_waits_for_the_one_before_it(desk: Desk) -> None:
    first, _ = desk.put("resumed", 1, "refuse"), desk.put("resumed", 2)
    assert desk.upload() == (0, [f"{first}: ERROR permission denied"], 0)
    assert [folder for verb, folder, _ in desk.calls() if verb == "sync"] == [first]


def test_where_all_fail_the_rest_are_not_tried(desk: Desk) -> None:
    for i in range(12):
        desk.put(f"r{i}", i, "crash")
    uploaded, failures, left = desk.upload(workers=1, give_up_after=2)
    assert uploaded == 0 and 2 <= len(failures) <= 3 and left == 12 - len(failures)
    assert len(desk.upload(workers=4)[1]) == 12


@pytest.mark.slow
def test_one_that_hangs_is_ended(desk: Desk) -> None:
    hung, fine = desk.put("hung", 1, "hang"), desk.put("fine", 2)
    started = time.monotonic()
    assert desk.upload(limit_s=2.0) == (1, [f"{hung}: not done after limit_s=2"], 0)
    assert time.monotonic() - started < 30 and desk.synced() == {fine}


def test_what_grew_while_it_was_uploaded_is_not_whole(desk: Desk) -> None:
    grew = desk.put("grew", 1, "grow")
    assert desk.upload() == (0, [f"{grew}: it grew meanwhile, so it is not whole in W&B yet"], 0)
    assert desk.synced() == set()
    assert desk.upload() == (1, [], 0)


def test_runs_under_training_and_empty_files_are_left(desk: Desk) -> None:
    spec = RunSpec({"name": "sac"}, {"name": "toy", "task": "track"}, 1, 16, Budget(400, 100, 100, None, 1, None))  # type: ignore[arg-type]
    member = Member(0, 1e-3)
    recording = Store().claim(spec, member)
    assert recording is not None
    alone, packed = desk.put(run_id(spec, member), 1), desk.put(f"{run_id(spec, member)}-0123abcd", 2)
    desk.put("empty", 3, "")
    assert waiting(desk.home, Store()) == ([], 0, 2)
    recording.release()
    runs, marked, busy = waiting(desk.home, Store())
    assert [[path.parent.name for path in files] for files in runs] == [[alone], [packed]] and marked == busy == 0


def test_a_second_sync_is_refused(desk: Desk) -> None:
    desk.put("one")
    with (desk.home / ".sync.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        done = desk.door()
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    assert "another rlscale.sync is uploading it; wait" in done.stderr and not desk.calls()


@pytest.mark.slow
def test_a_report_is_an_artifact(desk: Desk) -> None:
    done = desk.door("report=r1", "project=gym")
    page = desk.study / "fits" / "r1" / "report.html"
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f"error: report=r1: there is no {page}; write it, python -m analysis.report name=…\n"
    page.parent.mkdir(parents=True)
    page.write_text("<html>")
    for words, name in ((["project=gym"], "gym/report-r1"), (["project=gym", "entity=me"], "me/gym/report-r1")):
        assert desk.door("report=r1", *words).returncode == 0
        [[_, told, content]] = desk.calls()
        assert told == ["put", "--type", "report", "--name", name, "--id", "report-r1", str(page)]
        assert content == "<html>"
    done = desk.door("report=r1", "project=lost")
    assert done.returncode == 1 and "  report r1: Error: no such project\n" in done.stderr


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"workers": 0}, "workers=0: give a whole number, 1 or more"),
        ({"give_up_after": -1}, "give_up_after=-1: give a whole number, 0 or more"),
        ({"limit_s": 0}, "limit_s=0: give a number of seconds above 0"),
        ({"report": "r1"}, "report=r1: W&B keeps it in a project; name that as well, project="),
        ({"worker": 1}, "worker=1: there is no such key; did you mean workers?"),
    ],
)
def test_a_mistake_is_one_sentence(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(Mistake, match=said.replace("?", r"\?")):
        typed(Sync, {**FINE, **changes}, "sync")

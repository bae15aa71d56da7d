"""Where runs live: one folder for each member, a claim while it is trained, a record once it is finished.

``study/runs/<run_id>/{spec.json, curve.csv, record.json}``, and ``evaluation.gif`` where a video was asked for. The
record is written last, by rename, so its presence means "finished" and a crash at any moment leaves nothing that looks
so. While a process trains a member it holds ``claim.json``, whose age is its heartbeat; a claim whose process is gone
or whose heart has stopped is taken over. ``claims.jsonl`` tells who took the run, and who recorded it;
``failure.json`` what ended the last try, if that was an error.

Many hosts may share a study on a filesystem that has locks and renames files atomically. Their clocks may differ: ages
are by the clock of the filesystem.
"""

from __future__ import annotations

import csv
import fcntl
import json
import math
import os
import shutil
import socket
import threading
import time
import traceback
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

import psutil

from rlscale.spec import Member, RunSpec, canonical_json, identity, run_id
from rlscale.typed import Mistake

HEARTBEAT_S = 10.0
STALE_S = 120.0  # a heart that has not beaten for so long has stopped: many beats, since clocks and disks stall
FIRST_COLUMNS = ("env_step", "updates", "wall_s", "train_return", "train_episodes", "eval_return", "eval_episodes")


class ClaimLost(RuntimeError):
    """Another process took this run over (this one was suspended for longer than a claim lives)."""


def study_root() -> Path:
    """``$RLSCALE_STUDY``, or ``study`` in the working folder."""
    return Path(os.environ.get("RLSCALE_STUDY") or "study")


class Store:
    """The runs of one study."""

    def __init__(self, root: Path | None = None):
        self.root = study_root() if root is None else root
        self.runs = self.root / "runs"

    def record(self, run: str) -> dict[str, Any] | None:
        """The record of a finished run, or None."""
        try:
            loaded: dict[str, Any] = json.loads((self.runs / run / "record.json").read_text())
            return loaded
        except FileNotFoundError:
            return None

    def claim(self, spec: RunSpec, member: Member) -> Recording | None:
        """The sole right to train this member, or None if it is finished or another living process trains it."""
        run = run_id(spec, member)
        folder = self.runs / run
        folder.mkdir(parents=True, exist_ok=True)
        with self._locked():
            holder = read_claim(folder)
            if (folder / "record.json").exists() or (holder is not None and alive(folder, holder)):
                return None
            for old in (*folder.glob(".*"), *folder.glob("checkpoints/.*"), folder / "failure.json"):
                old.unlink(missing_ok=True)  # drafts of who was killed while writing them, and a word from the last try
            token = uuid.uuid4().hex
            mine = {"host": socket.gethostname(), "pid": os.getpid(), "born": _born(os.getpid()), "token": token}
            write_atomically(folder / "claim.json", json.dumps(mine))
            log_claim(folder, "taken", token)
        write_atomically(folder / "spec.json", json.dumps(identity(spec, member), indent=1, sort_keys=True) + "\n")
        return Recording(folder, token)

    def held(self, run: str) -> bool:
        """Whether a living process is training this member."""
        return self.holder(run) is not None

    def holder(self, run: str) -> dict[str, Any] | None:
        """The living process that trains this member, its `host` and `pid`, or None."""
        holder = read_claim(self.runs / run)
        return holder if holder is not None and alive(self.runs / run, holder) else None

    def failure(self, run: str) -> str | None:
        """What ended the last try of a run, if it was an error."""
        try:
            return str(json.loads((self.runs / run / "failure.json").read_text())["words"])
        except FileNotFoundError:
            return None

    def last_env_step(self, run: str) -> int:
        """How far the curve of a run under training has come; 0 before its first row."""
        try:
            lines = (self.runs / run / "curve.csv").read_text().splitlines()
            return int(lines[-1].split(",")[0]) if len(lines) > 1 else 0
        except (FileNotFoundError, ValueError):
            return 0

    def tidy(self, run: str) -> None:
        """Remove what a process has left that died between its record and the end of its claim."""
        folder = self.runs / run
        if (folder / "record.json").exists() and not self.held(run):
            shutil.rmtree(folder / "checkpoints", ignore_errors=True)
            (folder / "claim.json").unlink(missing_ok=True)

    def also_asked_by(self, run: str, asker: Mapping[str, Any]) -> None:
        """Note that another sweep found this run recorded, so that it can be selected by that sweep's name too."""
        record, path = self.record(run), self.runs / run / "asked_by.jsonl"
        line = canonical_json(asker)
        known = path.read_text().splitlines() if path.exists() else []
        if record is not None and canonical_json(record["asked_by"]) != line and line not in known:
            with path.open("a") as file:
                file.write(line + "\n")

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """One process at a time looks at and takes claims; the kernel frees the lock of one that dies."""
        with (self.runs / ".lock").open("w") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX)
            except OSError as error:
                raise Mistake(
                    f"RLSCALE_STUDY={self.root}: files cannot be locked there ({error.strerror}); mount it with locks "
                    "or name a folder on another filesystem"
                ) from error
            yield


class Recording:
    """A member under training: rows go to its curve at once, the record comes last."""

    def __init__(self, folder: Path, token: str):
        self.folder, self.token = folder, token
        self.diverged = False
        self.last: dict[str, Any] = {}
        self._file = (folder / "curve.csv").open("w", newline="")
        self._csv: csv.DictWriter[str] | None = None
        self._stop = threading.Event()
        threading.Thread(target=self._beat, daemon=True).start()

    def curve(self) -> str:
        """The rows so far, as the file holds them."""
        self._file.flush()
        return (self.folder / "curve.csv").read_text()

    def resume(self, curve: str) -> None:
        """Go on behind the rows of an earlier process, of which it is the `curve`; none must have been appended."""
        self._file.write(curve)
        self._file.flush()
        rows = list(csv.DictReader(curve.splitlines()))
        if rows:
            self._csv = csv.DictWriter(self._file, list(rows[0]), lineterminator="\n")
            self.last = {name: number(text) for name, text in rows[-1].items()}
            self.diverged = not_finite(self.last)

    def holds(self) -> bool:
        """Whether the run is still this process's to train."""
        holder = read_claim(self.folder)
        return holder is not None and holder["token"] == self.token

    def row(self, row: Mapping[str, Any]) -> bool:
        """Append one logging point; after one with a number that is not finite the run counts as diverged.

        A diverged run's later rows are dropped: its pack goes on for the sake of the other members. Returns whether
        this one was not.
        """
        if self.diverged:
            return False
        if self._csv is None:
            extra = [name for name in row if name not in FIRST_COLUMNS]
            self._csv = csv.DictWriter(self._file, [*FIRST_COLUMNS, *extra], lineterminator="\n")
            self._csv.writeheader()
        self._widen([name for name in row if name not in self._csv.fieldnames])
        self._csv.writerow({k: "" if v is None else v for k, v in row.items()})
        self._file.flush()
        self.last = dict(row)
        self.diverged = not_finite(row)
        return True

    def _widen(self, names: list[str]) -> None:
        """Give the rows so far columns that an earlier process did not log, empty."""
        if not names or self._csv is None:
            return
        rows = list(csv.DictReader(self.curve().splitlines()))
        self._csv = csv.DictWriter(self._file, [*self._csv.fieldnames, *names], lineterminator="\n")
        self._file.seek(0)
        self._file.truncate()
        self._csv.writeheader()
        self._csv.writerows(rows)

    def finish(self, record: Mapping[str, Any]) -> None:
        """Write the record, by rename, and let the claim go. Raises ClaimLost if the run was taken over."""
        self._file.flush()
        os.fsync(self._file.fileno())
        if not self.holds():
            self.release()
            raise ClaimLost(f"{self.folder.name}: taken over by another process; its result counts, this one does not")
        write_atomically(self.folder / "record.json", json.dumps(record, indent=1) + "\n")
        log_claim(self.folder, "recorded", self.token)
        shutil.rmtree(self.folder / "checkpoints", ignore_errors=True)
        self.release()

    def fail(self, error: BaseException) -> None:
        """Leave word of what ended the run, at once: ``failure.json``, until someone takes it up again."""
        if (self.folder / "record.json").exists():  # of its pack another member failed
            return
        words = " ".join(str(error).split())
        about = {
            "words": f"{type(error).__name__}: {words}" if words else type(error).__name__,
            "traceback": traceback.format_exception(error),
            "host": socket.gethostname(),
            "at": time.time(),
        }
        with suppress(OSError):  # a full disk may be the reason
            write_atomically(self.folder / "failure.json", json.dumps(about, indent=1) + "\n")

    def release(self) -> None:
        """Give the claim up; whoever asks next goes on with the member unless it is finished."""
        self._stop.set()
        self._file.close()
        if self.holds():
            (self.folder / "claim.json").unlink(missing_ok=True)

    def _beat(self) -> None:
        while not self._stop.wait(HEARTBEAT_S):
            if not self.holds():
                return
            with suppress(FileNotFoundError):  # released in between
                os.utime(self.folder / "claim.json")


def read_claim(folder: Path) -> dict[str, Any] | None:
    """Who holds the run, or None."""
    try:
        holder: dict[str, Any] = json.loads((folder / "claim.json").read_text())
        return holder
    except (FileNotFoundError, json.JSONDecodeError):
        return None


def log_claim(folder: Path, event: str, token: str) -> None:
    """Append a line: so short that lines of several processes never mix."""
    about = {"event": event, "token": token, "host": socket.gethostname(), "pid": os.getpid(), "at": time.time()}
    with (folder / "claims.jsonl").open("a") as file:
        file.write(json.dumps(about) + "\n")


def alive(folder: Path, holder: Mapping[str, Any]) -> bool:
    """Whether the claim's process still works: on this host by its process, elsewhere by its heartbeat."""
    if holder["host"] == socket.gethostname():
        born = _born(holder["pid"])
        return born is not None and born == float(holder["born"])
    try:
        return clock(folder.parent) - (folder / "claim.json").stat().st_mtime < STALE_S
    except FileNotFoundError:
        return False


def clock(folder: Path) -> float:
    """The time by the clock that stamps the folder's files, which may be a server's."""
    probe = folder / ".clock"
    try:
        probe.touch()
        return probe.stat().st_mtime
    except OSError:  # who may only read goes by this host's
        return time.time()


def _born(pid: int) -> float | None:
    """When the process started: tells it from a later one with the same number. None if it is gone."""
    try:
        process = psutil.Process(pid)
        return None if process.status() == psutil.STATUS_ZOMBIE else process.create_time()
    except psutil.NoSuchProcess:
        return None


def number(text: str) -> float | int | None:
    """What a cell of a curve holds: empty where nothing was measured."""
    try:
        return int(text) if text else None
    except ValueError:
        return float(text)


def not_finite(row: Mapping[str, Any]) -> bool:
    """Whether a logging point shows that the run has diverged."""
    return any(isinstance(v, float) and not math.isfinite(v) for v in row.values())


def write_atomically(path: Path, content: str | bytes | Callable[[BinaryIO], None]) -> None:
    """All of `content` (or of what it writes) under `path`, or nothing: a reader never sees half a file, nor does a
    crash leave one.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    with draft.open("wb") as file:
        if callable(content):
            content(file)
        else:
            file.write(content.encode() if isinstance(content, str) else content)
        file.flush()
        os.fsync(file.fileno())
    draft.replace(path)

"""Checkpoints of a pack under training: one file for each member, the last two kept, a damaged one passed over.

``study/runs/<run_id>/checkpoints/<vector step>.npz`` holds the member's arrays by name (weights, optimiser, replay,
normalisers, keys, environments), the simulator's own state where it can give it, the loop's clock and the curve up to
here. It is written by rename, and every array in it has a checksum, so half a file never counts as one. A member's
file does not depend on its pack: what is resumed together need not have been trained together.
"""

from __future__ import annotations

import contextlib
import json
import signal
import sys
import threading
import time
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

import jax
import numpy as np

from rlscale.store import Recording, write_atomically

KEPT = 2  # files of a member: if the newest is damaged there is one before it
Arrays = dict[str, np.ndarray]
K = TypeVar("K")


# What reading a file raises that is not whole.
DAMAGED = (OSError, ValueError, KeyError, EOFError, NotImplementedError, zipfile.BadZipFile, zlib.error)


class Stopped(Exception):
    """The run was asked to end and has left a checkpoint."""

    def __init__(self, number: int, env_step: int):
        super().__init__(f"a checkpoint is left at step {env_step:,}; the same command goes on from there")
        self.code = 128 + number  # as a shell says of who ended by that signal


class Unusable(Exception):
    """What a file holds is not this run's state."""


@dataclass(frozen=True)
class Clock:
    """Where the loop is."""

    step: int = 0  # vector steps made
    logged: int = 0  # of them, up to the last logging point
    reset: int = 0  # resets of the learner made
    reset_logged: int = 0  # of them, up to the last logging point
    wall_s: float = 0.0  # spent so far, in all processes that trained it


@dataclass(frozen=True)
class Resumed:
    """Of a member's record."""

    resumes: int = 0  # how often it went on from a checkpoint …
    reseeded: int = 0  # … and of these, how often with environments begun anew, so that an uninterrupted run differs


@dataclass
class Asked:
    """Whether the process was asked to end, and by which signal."""

    number: int | None = None


@contextlib.contextmanager
def listening(label: str, every_s: float | None) -> Iterator[Asked]:
    """While it lasts, SIGTERM and a first Ctrl-C end the run at its next step, with a checkpoint; exits if none came.

    Without effect where no checkpoints are written, and outside of the main thread, since Python gives signals to no
    other.
    """
    asked = Asked()
    if every_s is None or threading.current_thread() is not threading.main_thread():
        yield asked
        return

    def note(number: int, _: Any) -> None:
        asked.number = number
        signal.signal(signal.SIGINT, before[signal.SIGINT])  # a second one ends it at once
        _say(label, f"{signal.Signals(number).name}: leaving a checkpoint at the next step")

    before = {number: signal.signal(number, note) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if asked.number is not None:
        sys.exit(128 + asked.number)


class Keeper:
    """Writes a pack's checkpoints, every so many seconds or (None) never, and finds what it can go on from."""

    def __init__(
        self,
        recordings: Sequence[Recording],
        every_s: float | None,
        versions: Mapping[str, str],
        label: str,
        asked: Asked | None = None,
    ):
        self.recordings, self.every_s, self.versions, self.label = recordings, every_s, dict(versions), label
        self.asked = Asked() if asked is None else asked
        self.began = Clock()  # where this process took the run up
        self.resumed = [Resumed() for _ in recordings]
        self._written = time.monotonic()

    def due(self) -> bool:
        """Whether it is time for a checkpoint."""
        if self.every_s is None:
            return False
        return self.asked.number is not None or time.monotonic() - self._written >= self.every_s

    def keep(self, clock: Clock, num_envs: int, saved: Callable[[int], Arrays]) -> None:
        """Write the state `saved(m)` of each member m; raises Stopped if the run was asked to end.

        A member that another process has taken over is left to it.
        """
        for m, recording in enumerate(self.recordings):
            if recording.holds():
                about = {
                    "clock": asdict(clock),
                    "resumed": asdict(self.resumed[m]),
                    "versions": self.versions,
                    "curve": recording.curve(),
                }
                write(recording.folder, clock.step, saved(m) | {"about": _bytes(json.dumps(about).encode())})
        self._written = time.monotonic()
        if self.asked.number is not None:
            raise Stopped(self.asked.number, clock.step * num_envs)

    def resume(self, restore: Callable[[Sequence[Arrays], int], bool]) -> Clock:
        """Go on from the newest checkpoint that all members have whole; the clock at its start where there is none.

        `restore(saved, step)` takes it and returns whether the environments are as they were.
        """
        for step in sorted(set.intersection(*(steps(r.folder) for r in self.recordings)), reverse=True):
            try:
                saved = [read(r.folder, step) for r in self.recordings]
                about = [json.loads(s.pop("about").tobytes()) for s in saved]
                if any(a["versions"] != self.versions for a in about):
                    raise Unusable("it was made with other versions of Python or of a package")
                exact = restore(saved, step)
            except (Unusable, *DAMAGED) as error:
                what = " ".join(str(error).split()) or type(error).__name__
                _say(self.label, f"the checkpoint at vector step {step:,} is passed over: {what}")
                continue
            for m, (recording, a) in enumerate(zip(self.recordings, about, strict=True)):
                recording.resume(a["curve"])
                was = Resumed(**a["resumed"])
                self.resumed[m] = Resumed(was.resumes + 1, was.reseeded + (not exact))
            self.began = Clock(**about[0]["clock"])
            break
        return self.began


def together(recordings: Mapping[K, Recording]) -> list[dict[K, Recording]]:
    """The packs in which members go on: all in one, unless they have come to different steps."""
    found = {key: steps(recording.folder) for key, recording in recordings.items()}
    if set.intersection(*found.values()) or not any(found.values()):
        return [dict(recordings)]
    newest = {key: max(mine, default=0) for key, mine in found.items()}
    return [{key: r for key, r in recordings.items() if newest[key] == step} for step in sorted(set(newest.values()))]


def steps(folder: Path) -> set[int]:
    """The vector steps of a run's checkpoints."""
    return {int(path.stem) for path in (folder / "checkpoints").glob("*.npz")}


def write(folder: Path, step: int, arrays: Arrays) -> None:
    """Write a run's checkpoint, then remove all but the last two."""
    whole = arrays | {"names": np.array(sorted(arrays))}  # an archive that has lost an entry looks like any other
    write_atomically(_path(folder, step), lambda file: np.savez(file, **whole))  # type: ignore[arg-type]
    for old in sorted(steps(folder))[:-KEPT]:
        _path(folder, old).unlink(missing_ok=True)


def read(folder: Path, step: int) -> Arrays:
    """A run's checkpoint. Raises one of DAMAGED if the file is not whole."""
    with _path(folder, step).open("rb") as file, np.load(file, allow_pickle=False) as archive:
        arrays = dict(archive)
    if arrays.pop("names").tolist() != sorted(arrays):
        raise ValueError("it has lost a part")
    return arrays


def _say(label: str, what: str) -> None:
    print(f"{label}: {what}", file=sys.stderr, flush=True)


def _path(folder: Path, step: int) -> Path:
    return folder / "checkpoints" / f"{step:012d}.npz"


def _bytes(content: bytes) -> np.ndarray:
    return np.frombuffer(content, np.uint8)


def named(tree: Any, under: str) -> Arrays:
    """The leaves of a pytree by name, on the host; bytes and None are leaves too, the latter without a name."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(jax.device_get(tree))
    return {
        under + jax.tree_util.keystr(path): _bytes(leaf) if isinstance(leaf, bytes) else np.asarray(leaf)
        for path, leaf in leaves
    }


def rebuilt(like: Any, under: str, arrays: Arrays) -> Any:
    """The pytree of `named`, with the structure and the dtypes of `like` (any shapes). Raises Unusable."""
    leaves, structure = jax.tree_util.tree_flatten_with_path(like)
    names = [under + jax.tree_util.keystr(path) for path, _ in leaves]
    if set(names) != {name for name in arrays if name.startswith(under)}:
        raise Unusable("its parts are not those of this program")
    found = [arrays[name] for name in names]
    if any(a.dtype != leaf.dtype or a.ndim != leaf.ndim for a, (_, leaf) in zip(found, leaves, strict=True)):
        raise Unusable("its arrays are not those of this program")
    return jax.tree_util.tree_unflatten(structure, found)

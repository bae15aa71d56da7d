"""The sync door: upload what log=wandb log.wandb.mode=offline left in the study, a few runs at a time.

python -m rlscale.sync

W&B's own command does the uploading and marks each folder that is whole with a file `.synced`; what has the mark is
left out, so the same command goes on after any interruption.
"""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rlscale.door import door
from rlscale.progress import Meter, counted
from rlscale.store import Store
from rlscale.typed import Mistake, typed


@dataclass(frozen=True)
class Sync:
    """conf/sync.yaml."""

    workers: int
    give_up_after: int
    limit_s: float

    def __post_init__(self) -> None:
        for key, least in (("workers", 1), ("give_up_after", 0)):
            if getattr(self, key) < least:
                raise ValueError(f"{key}={getattr(self, key)}: give a whole number, {least} or more")
        if self.limit_s <= 0:
            raise ValueError(f"limit_s={self.limit_s:g}: give a number of seconds above 0")


class Failed(Exception):
    """A folder that was not uploaded, and why."""


def main(config: Any) -> None:
    """Upload every folder without a mark; exits with 1 if some failed."""
    from omegaconf import OmegaConf

    try:
        asked = typed(Sync, OmegaConf.to_container(config, resolve=True), "sync")  # type: ignore[arg-type]
    except Mistake as mistake:
        raise Mistake(str(mistake).removeprefix("sync.")) from None  # a door's own keys are typed without a prefix
    store = Store()
    home = store.root.resolve() / "wandb"
    if not home.is_dir():
        print(f"nothing to upload: there is no {home}")
        return
    with alone(home):
        runs, marked, busy = waiting(home, store)
        if busy:
            print(f"{counted(busy, 'folder')} of runs that are being trained left for later", file=sys.stderr)
        uploaded, failures, left = upload_all(asked, runs)
    print(f"{counted(uploaded, 'folder')} uploaded, {marked} were uploaded before")
    if failures:
        rest = f", {counted(left, 'run')} not tried" if left else ""
        head = f"{counted(len(failures), 'folder')} not uploaded{rest}; the same command tries again:"
        print("\n  ".join([head, *failures]), file=sys.stderr)
        sys.exit(1)


@contextmanager
def alone(home: Path) -> Iterator[None]:
    """Hold the folder against a second sync, which would upload the same rows again. Raises Mistake."""
    with (home / ".sync.lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Mistake(f"{home}: another rlscale.sync is uploading it; wait for that one to end") from None
        yield


def waiting(home: Path, store: Store) -> tuple[list[list[Path]], int, int]:
    """The files of each run that has some without a mark, by time; how many have one, how many are still written."""
    runs: dict[str, list[Path]] = {}
    marked = busy = 0
    for path in sorted(home.glob("offline-run-*/run-*.wandb"), key=lambda path: path.parent.name):
        run = path.stem.removeprefix("run-")
        if mark(path).exists():
            marked += 1
        elif store.held(run.partition("-")[0]):  # a pack's id begins with the run id of its first member
            busy += 1
        elif path.stat().st_size:  # else killed before its first row
            runs.setdefault(run, []).append(path)
    return list(runs.values()), marked, busy


def mark(path: Path) -> Path:
    return path.with_name(f"{path.name}.synced")


def upload_all(asked: Sync, runs: Sequence[Sequence[Path]]) -> tuple[int, list[str], int]:
    """How many folders were uploaded, a line for each that was not, and how many runs were not tried."""
    uploaded, tried, failures = 0, 0, list[str]()
    with ThreadPoolExecutor(asked.workers) as pool, Meter("sync") as meter:
        futures = [pool.submit(upload, files, asked.limit_s) for files in runs]
        try:
            for future in as_completed(futures):
                if future.cancelled():
                    continue
                done, failure = future.result()
                uploaded, tried = uploaded + done, tried + 1
                if failure:
                    failures.append(failure)
                    print(f"failed: {failure}", file=sys.stderr)
                if not uploaded and len(failures) == asked.give_up_after:  # not logged in, no network
                    for other in futures:
                        other.cancel()
                meter.update(tried / len(runs), f"{tried} of {len(runs)} runs, {len(failures)} failed")
        finally:  # a Ctrl-C, too, ends what has not begun
            pool.shutdown(wait=True, cancel_futures=True)
    return uploaded, failures, sum(future.cancelled() for future in futures)


def upload(files: Sequence[Path], limit_s: float) -> tuple[int, str]:
    """The folders of one run in their order, since each goes on where the one before ended, up to one that fails."""
    for done, path in enumerate(files):
        try:
            upload_one(path, limit_s)
        except Failed as failed:
            return done, f"{path.parent.name}: {failed}"
    return len(files), ""


def upload_one(path: Path, limit_s: float) -> None:
    """One folder by W&B's own command. Raises Failed with its last line."""
    size = path.stat().st_size
    command = [sys.executable, "-m", "wandb", "sync", str(path.parent)]
    # Its own log goes beside the folders, not into the working folder.
    environment = {**os.environ, "WANDB_DIR": str(path.parent.parent.parent), "WANDB_MODE": "online"}
    try:
        ended = subprocess.run(
            command,
            env=environment,
            stdin=subprocess.DEVNULL,  # it would ask for a key
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            timeout=limit_s,
        )
    except subprocess.TimeoutExpired:
        raise Failed(f"not done after limit_s={limit_s:g}") from None
    if not mark(path).exists():  # its exit status does not tell: it is 0 for some failures too
        said = [line.removeprefix("wandb: ").strip() for line in ended.stdout.splitlines()]
        raise Failed(next((line for line in reversed(said) if line), "it said nothing"))
    if path.stat().st_size != size:
        mark(path).unlink()
        raise Failed("it grew meanwhile, so it is not whole in W&B yet")


if __name__ == "__main__":
    door(main, "sync")

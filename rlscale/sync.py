"""The sync door: upload what log=wandb log.wandb.mode=offline left in the study, a few runs at a time; and a report.

python -m rlscale.sync
python -m rlscale.sync report=gym-r1 project=gym

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

    report: str | None
    project: str | None
    entity: str | None
    workers: int
    give_up_after: int
    limit_s: float

    def __post_init__(self) -> None:
        if self.report is not None and self.project is None:
            raise ValueError(f"report={self.report}: W&B keeps it in a project; name that as well, project=…")
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
    root = store.root.resolve()
    page = None if asked.report is None else root / "fits" / asked.report / "report.html"
    if page is not None and not page.is_file():
        raise Mistake(f"report={asked.report}: there is no {page}; write it, python -m analysis.report name=…")
    failures = upload_runs(asked, root / "wandb", store)
    if page is not None:
        try:
            upload_report(asked, page, root)
            print(f"{page} uploaded")
        except Failed as failed:
            failures.append(f"report {asked.report}: {failed}")
    if failures:
        print("\n  ".join(["not uploaded; the same command tries again:", *failures]), file=sys.stderr)
        sys.exit(1)


def upload_runs(asked: Sync, home: Path, store: Store) -> list[str]:
    """Every folder without a mark; returns a line for each that failed. Raises Mistake beside another sync."""
    if not home.is_dir():
        print(f"no runs to upload: there is no {home}")
        return []
    with alone(home):
        runs, marked, busy = waiting(home, store)
        if busy:
            print(f"{counted(busy, 'folder')} of runs that are being trained left for later", file=sys.stderr)
        uploaded, failures, left = upload_all(asked, runs)
    rest = f", {counted(left, 'run')} not tried, since the first all failed" if left else ""
    print(f"{counted(uploaded, 'folder')} uploaded, {marked} were uploaded before{rest}")
    return failures


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
    """One folder. Raises Failed."""
    size = path.stat().st_size
    _, last = wandb(["sync", str(path.parent)], path.parents[2], limit_s)
    if not mark(path).exists():  # the exit status does not tell: it is 0 for some failures too
        raise Failed(last)
    if path.stat().st_size != size:
        mark(path).unlink()
        raise Failed("it grew meanwhile, so it is not whole in W&B yet")


def upload_report(asked: Sync, page: Path, root: Path) -> None:
    """The page as an artifact; W&B makes a new version of it where its content is new. Raises Failed."""
    name = f"report-{asked.report}"
    where = "/".join(part for part in (asked.entity, asked.project, name) if part is not None)
    words = ["artifact", "put", "--type", "report", "--name", where, "--id", name, str(page)]
    status, last = wandb(words, root, asked.limit_s)
    if status:
        raise Failed(last)


def wandb(words: Sequence[str], root: Path, limit_s: float) -> tuple[int, str]:
    """W&B's own command: its exit status and its last line. Raises Failed if it takes too long."""
    # Its own log goes beside the folders, not into the working folder.
    environment = {**os.environ, "WANDB_DIR": str(root), "WANDB_MODE": "online"}
    try:
        ended = subprocess.run(
            [sys.executable, "-m", "wandb", *words],
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
    said = [line.removeprefix("wandb: ").strip() for line in ended.stdout.splitlines()]
    return ended.returncode, next((line for line in reversed(said) if line), "it said nothing")


if __name__ == "__main__":
    door(main, "sync")

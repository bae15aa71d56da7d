"""Where rows go beside the study: to W&B, where log=wandb asks for it. No run ever reads anything back from here.

W&B can be down, slow or not logged in, and a run must not notice: whatever it raises becomes one line for people, and
from then on the run goes on without it. The study holds everything that W&B is told.

Rows are never dropped or thinned out, since `analysis.ingest source=wandb` must find all of them: W&B's own client
keeps them in a process of its own, and `send_every_s` says how often that sends them on.
"""

from __future__ import annotations

import atexit
import functools
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any, Literal, NamedTuple

import psutil

from rlscale.spec import Member, RunSpec, identity, run_id
from rlscale.store import study_root

FORBIDDEN = "/\\#?%:"  # in the name of a W&B project
LONGEST_PROJECT, LONGEST_TAG, LONGEST_NAME = 128, 64, 128  # what W&B takes, in letters


@dataclass(frozen=True)
class Wandb:
    """The key `wandb` of conf/log/wandb.yaml."""

    mode: Literal["online", "offline", "disabled"]
    project: str
    entity: str | None
    per: Literal["member", "pack"]
    tags: tuple[str, ...]
    send_every_s: int
    patience_s: float

    def __post_init__(self) -> None:
        if not 0 < len(self.project) <= LONGEST_PROJECT or set(self.project) & set(FORBIDDEN):
            raise ValueError(
                f"project={self.project}: W&B takes 1 to {LONGEST_PROJECT} letters and none of {' '.join(FORBIDDEN)}; "
                "give such a name"
            )
        for tag in self.tags:
            if not 0 < len(tag) <= LONGEST_TAG:
                raise ValueError(f"tags=[{tag}]: W&B takes tags of 1 to {LONGEST_TAG} letters; give such a one")
        if self.send_every_s < 1:  # W&B's client counts whole seconds, and takes none for its own default
            raise ValueError(f"send_every_s={self.send_every_s}: give a whole number of seconds, 1 or more")
        if self.patience_s <= 0:
            raise ValueError(f"patience_s={self.patience_s:g}: give a number of seconds above 0")


class Part(NamedTuple):
    """One W&B run: its id, and the members in it by their index in the pack, with what goes before their keys."""

    id: str
    prefixes: Mapping[int, str]


class Sink:
    """The W&B runs of one pack; holds none where none is asked for, and none after a failure."""

    def __init__(
        self,
        asked: Wandb | None,
        spec: RunSpec,
        members: Sequence[Member],
        asked_by: Mapping[str, Any],
        label: str,
    ):
        self.label = label
        self.runs: list[tuple[Any, Mapping[int, str]]] = []
        self.watch: Watch | None = None
        if asked is None or asked.mode == "disabled":
            return
        self.watch = watching(asked.patience_s)
        with self._harmless():
            for part in parts(spec, members, asked.per):
                chosen = [members[index] for index in part.prefixes]
                self.watch.begin()  # anew: each may take as long as the first
                run = start(asked, spec, chosen, asked_by, part.id)
                self.runs.append((run, part.prefixes))
                run.define_metric("*", step_metric="env_step")
        atexit.register(self.watch.begin)  # after W&B's own, which waits for its process, and so called before it

    def rows(self, rows: Sequence[Mapping[str, Any] | None]) -> None:
        """Log one logging point: a row for each member, None for one whose rows do not count any more."""
        with self._harmless():
            for run, prefixes in self.runs:
                values: dict[str, Any] = {}
                for index, prefix in prefixes.items():
                    # The env step is the members' in common, and so without a prefix: it is the axis of every chart.
                    known = {name: value for name, value in (rows[index] or {}).items() if value is not None}
                    values |= {name if name == "env_step" else prefix + name: known[name] for name in known}
                if values:
                    run.log(values)

    def video(self, index: int, path: Path) -> None:
        """Log the film of a member's last evaluation."""
        with self._harmless():
            for run, prefixes in self.runs:
                if index in prefixes:
                    import wandb

                    run.log({f"{prefixes[index]}evaluation": wandb.Video(str(path), format="gif")})

    def finish(self, failed: bool = False) -> None:
        """Finish every run that is not finished yet, so that none swallows the next job's rows."""
        with self._harmless():
            self._finish(failed)

    def _finish(self, failed: bool) -> None:
        runs, self.runs = [run for run, _ in self.runs], []
        if runs:  # side by side, so that all together take no more than the patience of one
            with ThreadPoolExecutor(len(runs)) as pool:
                ends = [pool.submit(run.finish, exit_code=int(failed)) for run in runs]
            for end in ends:
                end.result()

    @contextmanager
    def _harmless(self) -> Iterator[None]:
        if self.watch is None:
            yield
            return
        self.watch.begin()
        try:
            yield
        except Exception as error:  # whatever W&B, its service or the network may raise
            what = " ".join(str(error).split()) or type(error).__name__
            print(
                f"{self.label}: W&B is given up, the run goes on and is recorded without it ({what})", file=sys.stderr
            )
            for end in (lambda: self._finish(failed=True), _teardown):  # one line has said it already
                self.watch.begin()
                with suppress(Exception):
                    end()
        finally:
            self.watch.end()


class Watch:
    """Kills W&B's own process once that keeps this one waiting for longer than `limit_s`; what waits then fails.

    W&B's client waits without end for a process that is there and does nothing: to take a row once the pipe to it is
    full, and to end when Python does.
    """

    def __init__(self, limit_s: float):
        self.limit_s = limit_s
        self.since: float | None = None  # when the call under way began
        self.never = threading.Event()  # to sleep by: a daemon thread ends with the process
        threading.Thread(target=self._look, daemon=True).start()

    def begin(self) -> None:
        self.since = time.monotonic()

    def end(self) -> None:
        self.since = None

    def _look(self) -> None:
        while not self.never.wait(self.limit_s / 10):
            since = self.since
            if since is not None and time.monotonic() - since > self.limit_s:
                for child in psutil.Process().children():
                    with suppress(psutil.Error):
                        if child.name() == "wandb-core":
                            child.kill()


@functools.cache  # one for each process, which outlives the packs that it trains
def watching(patience_s: float) -> Watch:
    return Watch(2 * patience_s)  # a process that answers is held to its patience by W&B itself


def _teardown() -> None:
    """End W&B's process; the next pack has one of its own."""
    import wandb

    wandb.teardown(exit_code=1)


def parts(spec: RunSpec, members: Sequence[Member], per: str) -> list[Part]:
    """The W&B runs of a pack. With `per` = pack one for each learning rate in it, so that a seed names a member.

    Ids follow from run ids, so that a member that is trained again goes to the run that it had. That of several
    begins with the first one's run id, by which `rlscale.sync` finds whether they are still being trained.
    """
    ids = [run_id(spec, member) for member in members]
    if per == "member":
        return [Part(run, {index: ""}) for index, run in enumerate(ids)]
    found = []
    for rate in dict.fromkeys(member.learning_rate for member in members):
        prefixes = {i: f"seed{member.seed}/" for i, member in enumerate(members) if member.learning_rate == rate}
        together = [ids[index] for index in prefixes]
        found.append(Part(f"{together[0]}-{sha256(' '.join(sorted(together)).encode()).hexdigest()[:8]}", prefixes))
    return found


def start(asked: Wandb, spec: RunSpec, members: Sequence[Member], asked_by: Mapping[str, Any], id: str) -> Any:
    """A W&B run under way for these members, which share their learning rate. Raises whatever W&B raises."""
    import wandb

    settings = wandb.Settings(
        silent=True,
        console="off",  # the terminal is the door's
        symlink=False,  # "the latest run" means nothing where many are made at once
        disable_git=True,
        disable_code=True,  # code and versions are in the record
        x_save_requirements=False,
        x_disable_stats=True,  # of a machine, and so not of a member
        x_file_stream_transmit_interval=asked.send_every_s,
        x_transaction_log_flush_interval=asked.send_every_s,
        init_timeout=asked.patience_s,
        finish_timeout=asked.patience_s,
        finish_timeout_raises=True,
        stop_fn=lambda: None,  # a click in W&B would interrupt the whole pack
    )
    wandb.setup(wandb.Settings(mode=asked.mode, silent=True))  # whatever WANDB_MODE says
    if asked.mode == "online" and not wandb.login(prompt=False):  # `init` would ask for a key at the terminal
        raise RuntimeError("not logged in: run `wandb login`, set WANDB_API_KEY, or log.wandb.mode=offline")
    folder = study_root().resolve()
    folder.mkdir(parents=True, exist_ok=True)
    seeds = ",".join(str(member.seed) for member in members)
    name = f"{spec.algorithm['name']} {spec.task} σ={spec.utd} B={spec.batch_size} η={members[0].learning_rate:g}"
    return wandb.init(
        mode=asked.mode,
        project=asked.project,
        entity=asked.entity,
        dir=folder,  # W&B makes its folder `wandb` in it
        id=id,
        name=f"{name} seed={seeds}"[:LONGEST_NAME],
        group=asked_by["sweep"],
        tags=asked.tags,
        config=described(spec, members, asked_by),
        resume="allow",
        reinit="create_new",  # the runs of a pack live side by side
        settings=settings,
    )


def described(spec: RunSpec, members: Sequence[Member], asked_by: Mapping[str, Any]) -> dict[str, Any]:
    """What a W&B run's config holds: the keys that conf/source/wandb.yaml reads, and all else that names the members.

    σ is text (``"1/3"``), since it is exact and a float would not be.
    """
    whole = identity(spec, members[0])
    own: dict[str, Any] = {"seed": members[0].seed, "run_id": run_id(spec, members[0])}
    if len(members) > 1:
        own = {"seeds": [m.seed for m in members], "run_ids": [run_id(spec, m) for m in members]}
    return {
        "task": spec.task,
        "utd": str(spec.utd),
        "batch_size": spec.batch_size,
        "learning_rate": members[0].learning_rate,
        **own,
        **{part: whole["spec"][part] for part in ("algorithm", "benchmark", "budget")},
        "spec_version": whole["spec_version"],
        "sweep": asked_by["sweep"],
        "hparams": asked_by["hparams"],
    }

"""W&B runs from the service: asked for patiently, by several threads, each history kept in the study once it is whole.

The history is read unsampled: `scan_history`, never `history(samples=…)`.
"""

from __future__ import annotations

import base64
import hashlib
import inspect
import json
import math
import random
import re
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote

import numpy as np

from analysis.sources.wandb_logged import Array, Logged, flat, table
from rlscale.store import study_root, write_atomically
from rlscale.typed import Mistake

T = TypeVar("T")
PAGE_ROWS = 1000  # of a history, with one request
LARGEST_PAGE = 2**31 - 1  # steps; the service counts them in 32 bits
LONGEST_WAIT_S = 60.0
PASSING = re.compile(  # what may be better in a moment; the package has no class of its own for it
    r"\bHTTP (429|408|5\d\d)\b|\b(429|408|5\d\d) (Client|Server) Error|rate.?limit|time.?out|timed out|respond in time"
    r"|connection|unreachable|unavailable|giving up|reset by peer|\bEOF\b|dial tcp",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Patience:
    """Bounded exponential back-off with jitter, shared by the threads: when one gives up, all stop."""

    tries: int
    wait_s: float
    stop: threading.Event = field(default_factory=threading.Event)

    def __call__(self, ask: Callable[[], T], what: str) -> T:
        """`ask()`, asked again while it fails for a passing reason. Raises Mistake in the end, other errors at once."""
        for tried in range(1, self.tries + 1):
            try:
                return ask()
            except Exception as error:
                if isinstance(error, ValueError) or not (isinstance(error, OSError) or PASSING.search(str(error))):
                    raise
                said = line(error)
            wait = min(LONGEST_WAIT_S, self.wait_s * 2 ** (tried - 1)) * random.uniform(0.5, 1.0)
            if tried == self.tries or self.stop.wait(wait):
                break
        self.stop.set()
        raise Mistake(
            f"{what}: W&B did not answer in {tried} tries ({said}); what was fetched is kept, so run the same command "
            "again later, or leave the run out with source.filters if it is always this one"
        )


def line(error: Exception) -> str:
    """An error's text on one line."""
    return " ".join(str(error).split())[:200] or type(error).__name__


def knows(call: Callable[..., Any], **options: Any) -> dict[str, Any]:
    """Those of the options that the installed version of the package takes."""
    return {key: value for key, value in options.items() if key in inspect.signature(call).parameters}


@dataclass(frozen=True)
class Service:
    """The runs of one project that carry one of `tags` (if any) and pass `filters` (MongoDB's words, as W&B takes)."""

    entity: str | None
    project: str
    tags: tuple[str, ...]
    filters: Mapping[str, Any]
    patience: Patience

    @property
    def path(self) -> str:
        return f"{self.entity}/{self.project}" if self.entity else self.project

    def runs(self) -> list[Any]:
        """wandb's own Run objects with their configs, oldest first. Raises Mistake if there are none."""
        parts: list[Mapping[str, Any]] = [{"tags": {"$in": list(self.tags)}}] if self.tags else []
        parts += [self.filters] if self.filters else []
        where = parts[0] if len(parts) == 1 else {"$and": parts} if parts else {}
        try:
            api = self.patience(connect, "source=wandb")
            # the package keeps the pages that it has, so asking again goes on from the last one
            more = knows(api.runs, lazy=False)
            runs = self.patience(lambda: list(api.runs(self.path, where, order="+created_at", **more)), self.path)
            among = 0 if runs else self.patience(lambda: len(api.runs(self.path)), self.path)
        except Mistake:
            raise
        except Exception as error:
            if not (of_wandb(error) or isinstance(error, ValueError)):
                raise
            if type(error).__name__ in ("UsageError", "AuthenticationError"):
                said = line(error).split(". Use")[0]
                raise Mistake(f"source=wandb: {said}; log in with `wandb login`, or set WANDB_API_KEY") from None
            raise Mistake(
                f"source.project={self.path}: W&B shows no such project ({line(error)}); check entity and project"
            ) from None
        if not runs:
            raise Mistake(
                f"source.tags=[{','.join(self.tags)}], source.filters={json.dumps(self.filters)}: none of the {among} "
                f"runs of {self.path} is meant; give others, or null for all"
            )
        return runs

    def logged(self, run: Any) -> Logged:
        """The run with its whole history: from the study if that is current, else from the service. For threads."""
        origin = f"{run.entity}/{run.project}/{run.id}"
        last = (getattr(run, "historyKeys", None) or {}).get("lastStep")
        rows = getattr(run, "historyLineCount", None)
        beat = None if run.state == "finished" else getattr(run, "heartbeatAt", None)  # a finished run stays as it is
        stamp = {"state": run.state, "rows": rows, "last_step": last, "heartbeat": beat}
        place = study_root() / "cache" / "wandb" / "/".join(quote(str(p), safe="") for p in (run.entity, run.project))
        path = place / f"{quote(run.id, safe='')}.history"
        history = recall(path, stamp)
        if history is None:
            history = table(self._rows(run, origin, rows, last))
            keep(path, stamp, history)
        came = max(map(len, history.values()), default=0)
        odd = (f"W&B counts {rows} rows of history and gave {came}",) if rows and came < rows else ()
        return Logged(origin, str(run.state), flat(dict(run.config)), history, odd)

    def _rows(self, run: Any, origin: str, rows: int | None, last: int | None) -> list[dict[str, Any]]:
        """The whole history, flat.

        A page is a range of steps: at the package's 1,000 a run logged every 1,000 steps gives one row a request. So
        pages are sized by rows, and if that gave too few (a server may sample a page that is full) by steps after all.
        """
        wide = math.ceil(PAGE_ROWS * (last + 1) / rows) if rows and last is not None else PAGE_ROWS
        more = knows(run.scan_history, use_cache=False)

        def scan(page: int) -> list[dict[str, Any]]:
            return [flat(row) for row in run.scan_history(page_size=page, **more)]

        came: list[dict[str, Any]] = []
        for page in (min(wide, LARGEST_PAGE), PAGE_ROWS) if wide > PAGE_ROWS else (PAGE_ROWS,):
            came = self.patience(partial(scan, page), origin)
            if len(came) >= (rows or 0):
                break
        return came


def connect() -> Any:
    """A `wandb.Api`. Its own retries go on for many minutes without a word, so they are turned down to one."""
    import wandb

    wandb.setup(settings=wandb.Settings(silent=True, x_graphql_retry_max=1))  # 0 would mean its default
    return wandb.Api(timeout=60)


def of_wandb(error: Exception) -> bool:
    return type(error).__module__.startswith("wandb")


def recall(path: Path, stamp: Mapping[str, Any]) -> dict[str, Array] | None:
    """The history kept under `path`, or None if there is none, it is damaged or it has another `stamp`."""
    try:
        digest, _, rest = path.read_text().partition("\n")
        if digest != hashlib.sha256(rest.encode()).hexdigest():
            return None
        head, _, body = rest.partition("\n")
        known = json.loads(head)
        columns = np.frombuffer(base64.b64decode(body)).reshape(len(known["keys"]), known["rows"])
        return dict(zip(known["keys"], columns, strict=True)) if known["stamp"] == stamp else None
    except (OSError, ValueError):
        return None


def keep(path: Path, stamp: Mapping[str, Any], history: Mapping[str, Array]) -> None:
    """Write a history whole or not at all: the SHA-256 of the rest; stamp and keys; the columns, float64 in base64."""
    columns = list(history.values())
    head = json.dumps({"stamp": stamp, "keys": list(history), "rows": len(columns[0]) if columns else 0})
    rest = f"{head}\n{base64.b64encode(np.array(columns, dtype=np.float64).tobytes()).decode()}"
    write_atomically(path, f"{hashlib.sha256(rest.encode()).hexdigest()}\n{rest}")

"""One engine at a time on this machine, whichever worker of pytest asks."""

from __future__ import annotations

import fcntl
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def alone() -> Iterator[None]:
    """Waits until no other process is inside; the kernel lets go for one that dies."""
    with (Path(tempfile.gettempdir()) / "rlscale-engines.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield

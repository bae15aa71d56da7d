"""How long a person waits for the help, and for the table of what a sweep of thousands of runs would do."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time

COMMANDS = {
    "--help": ("--help",),
    "dry=true, 1,920 runs in 48 jobs": ("-m", "sweep=gym-grid", "dry=true"),
}


def wait(words: tuple[str, ...]) -> float:
    """Seconds until `python -m rlscale.train` with these words has answered, in an empty study."""
    with tempfile.TemporaryDirectory() as study:
        started = time.perf_counter()
        command = [sys.executable, "-m", "rlscale.train", *words]
        subprocess.run(command, env=os.environ | {"RLSCALE_STUDY": study}, stdout=subprocess.DEVNULL, check=True)
        return time.perf_counter() - started


def measure(rounds: int) -> dict[str, list[float]]:
    """Seconds of each command, in turn; the first of all fills the disk's cache."""
    wait(COMMANDS["--help"])
    taken: dict[str, list[float]] = {name: [] for name in COMMANDS}
    for _ in range(rounds):
        for name, words in COMMANDS.items():
            taken[name].append(wait(words))
    return taken

"""A place to type the real command lines at."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

TINY = ("benchmark=toy", "budget=smoke", "algorithm.width=8", "algorithm.depth=1", "hparams.batch_size=16")
# Jobs of two members each, one for each σ that is added, long enough that one can be caught at work; and four of them.
JOBS = ("-m", *TINY, "budget.env_steps=1500", "budget.log_every=50", "seed=[0,1]")
SWEEP = (*JOBS, "utd=1/2,1,2,4", "hydra.launcher.workers=2")


class Desk:
    """A working folder and a study, and commands typed there."""

    def __init__(self, folder: Path, environment: Mapping[str, str]):
        self.here, self.study = folder / "here", folder / "study"
        self.here.mkdir(parents=True)
        self.environment = {**environment, "RLSCALE_STUDY": str(self.study)}

    def start(self, *words: str, module: str = "rlscale.train") -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", module, *words],
            cwd=self.here,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,  # so that it and its children can be killed as one
        )

    def train(self, *words: str, module: str = "rlscale.train") -> str:
        """The output of a command that succeeds; warnings of any library would be in it."""
        process = self.start(*words, module=module)
        out, err = process.communicate(timeout=600)
        assert process.returncode == 0, err
        assert "Warning" not in err and "Traceback" not in err, err
        return out + err

    def records(self) -> dict[str, dict[str, Any]]:
        return {p.parent.name: json.loads(p.read_text()) for p in sorted(self.study.glob("runs/*/record.json"))}

    def files(self) -> dict[str, int]:
        """All files of the study and here, with the times of their last change."""
        return {str(p): p.stat().st_mtime_ns for top in (self.study, self.here) for p in top.rglob("*") if p.is_file()}

    def results(self) -> dict[str, Any]:
        """What a record and a curve say, but for time and circumstance."""
        told = {}
        for run, record in self.records().items():
            for name in ("wall_s", "started", "finished", "git", "pack_size"):
                del record[name]
            with (self.study / "runs" / run / "curve.csv").open(newline="") as file:
                rows = [{k: v for k, v in row.items() if k != "wall_s"} for row in csv.DictReader(file)]
            told[run] = (record, rows)
        return told

    def outcome(self, *ratios: str) -> dict[str, Any]:
        """The results at these σ, but for who asked and how often a run was taken up again."""
        found = {run: told for run, told in self.results().items() if told[0]["spec"]["utd"] in ratios}
        for record, _ in found.values():
            del record["asked_by"], record["resumes"], record["reseeded"]
        return found

    def recorded_once(self) -> bool:
        """Whether nobody took up a run that was recorded: the claims log says."""
        logs = [path.read_text().splitlines() for path in self.study.glob("runs/*/claims.jsonl")]
        events = [[json.loads(line)["event"] for line in log] for log in logs]
        # a process may die between its record and this line of it
        return all("recorded" not in told[:-1] and "taken" in told for told in events)

    def at_work(self, since: float = 0.0) -> bool:
        """Whether a job has come to its training, after this time."""
        curves = list(self.study.glob("runs/*/curve.csv"))
        return any(path.stat().st_mtime > since and path.read_text().count("\n") > 2 for path in curves)


def until(what: Callable[[], Any], patience_s: float = 180) -> Any:
    """What `what` returns once that is true."""
    end = time.monotonic() + patience_s
    while not (found := what()):
        assert time.monotonic() < end, "it never came to that"
        time.sleep(0.1)
    return found

"""A place to type the real command lines at."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

TINY = ("benchmark=toy", "budget=smoke", "algorithm.width=8", "algorithm.depth=1", "hparams.batch_size=16")


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

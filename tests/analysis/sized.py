"""The files of a fit with model size, written from known laws: what analysis.plan and the page read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from analysis.allocate import Box
from analysis.emit import to_json, to_npz
from analysis.size_budget import size_budget
from analysis.size_fitted import BATCH, DATA
from analysis.size_laws import SizeBatchLaw, SizeDataLaw
from analysis.uncertainty import Floats

UTDS = ("1", "2", "4", "8")
WIDTHS = {256: 619208.0, 512: 2286792.0, 1024: 8767688.0, 2048: 34312392.0}  # the follow-up's h1-crawl
SPEC = {
    "algorithm": {"name": "sac", "discount": 0.99},
    "benchmark": {"name": "control", "num_envs": 1},
    "budget": {"log_every": 500, "warmup_steps": 500, "env_steps": 40000},
}


@dataclass(frozen=True)
class Sized:
    """`laws`: task (or "average") → threshold → law; `batch` a constant or each task's own; `widths`: what was run.

    `spread`: standard deviation of ln of every number in the draws. `delta` None: a fit without a budget.
    """

    laws: Mapping[str, Mapping[float, SizeDataLaw]]
    batch: float | Mapping[str, SizeBatchLaw]
    widths: Mapping[int, float]
    draws: int
    spread: float
    delta: float | None

    @property
    def trained(self) -> Box:
        return Box((1.0, 8.0), (min(self.widths.values()), max(self.widths.values())))

    def write(self, root: Path, name: str) -> None:
        """laws.json and laws_draws.npz under `root`/fits/`name`."""
        folder = root / "fits" / name
        folder.mkdir(parents=True)
        arrays = self.arrays()
        tasks = [t for t in self.laws if t != "average"]
        thresholds = sorted({t for levels in self.laws.values() for t in levels})
        result = {
            "schema": 1, "name": name, "size": True, "tasks": tasks,
            "provenance": {
                "compat": None, "spec": SPEC, "command": f"python -m analysis.laws name={name}",
                "select": dict.fromkeys(("algorithm", "benchmark", "tasks", "hparams", "sweep")),
            },
            "widths": {task: {str(w): n for w, n in self.widths.items()} for task in tasks},
            "data": [row for task in self.laws for row in self._rows(task)],
            "compute": {"formula": "10·N·B·σ·D", "batch": self._batch()},
            "budget": None if self.delta is None else {t: self.budget(t, arrays) for t in self.laws},
            "thresholds": thresholds, "fit_utds": list(UTDS), "dropped": [], "notes": [], "holdout": [],
        }  # fmt: skip
        (folder / "laws.json").write_text(to_json(result))
        (folder / "laws_draws.npz").write_bytes(to_npz(arrays))

    def arrays(self) -> dict[str, Floats]:
        rng = np.random.default_rng(0)
        found = {}
        for task, levels in self.laws.items():
            exact = np.array([[getattr(law, k) for k in DATA] for law in levels.values()])
            found[f"size/data/{task}"] = exact * np.exp(self.spread * rng.standard_normal((self.draws, *exact.shape)))
            if not isinstance(self.batch, float):
                row = np.array([getattr(self.batch[task], k) for k in BATCH])
                found[f"size/batch/{task}"] = row * np.exp(self.spread * rng.standard_normal((self.draws, 4)))
        return found

    def budget(self, task: str, arrays: Mapping[str, Floats]) -> dict[str, Any]:
        batch = self.batch if isinstance(self.batch, float) else self.batch[task]
        assert self.delta is not None
        return size_budget(
            self.laws[task], arrays[f"size/data/{task}"], batch, arrays.get(f"size/batch/{task}"), self.delta,
            self.trained, 4.0, 1,
        )  # fmt: skip

    def _rows(self, task: str) -> Sequence[Mapping[str, Any]]:
        rows = []
        for threshold, law in self.laws[task].items():
            points = [
                {"utd": utd, "width": width, "n_params": n, "batch_size": 256, "data": float(law(float(utd), n)),
                 "reached": True, "held_out": False}
                for utd in UTDS for width, n in self.widths.items()
            ]  # fmt: skip
            levels = {t: threshold for t in self.laws if t != "average"} if task == "average" else {task: threshold}
            rows.append({
                "threshold": threshold, "level": levels, "task": task, **asdict(law),
                "ci95": {k: [v * 0.9, v * 1.1] for k, v in asdict(law).items()}, "scatter": 0.05, "notes": [],
                "points": points,
            })  # fmt: skip
        return rows

    def _batch(self) -> dict[str, Any]:
        if isinstance(self.batch, float):
            return {"constant": self.batch}
        return {task: asdict(law) for task, law in self.batch.items()}


def levels(scale: float, alpha: float, beta: float) -> dict[float, SizeDataLaw]:
    """Four levels of a task: the higher, the more data and the more they gain by σ and N."""
    return {
        t: SizeDataLaw(scale * 1e5 * t / 400, 0.8 * (t / 400) ** 0.5, alpha, 1.2e6 * (t / 400) ** 0.7, beta)
        for t in (400.0, 500.0, 600.0, 700.0)
    }


LAWS = {"average": levels(1.0, 0.9, 0.7), "pendulum": levels(0.8, 0.9, 0.7), "cartpole_swingup": levels(1.6, 0.7, 0.9)}
BATCHES = {
    "average": SizeBatchLaw(2000.0, 0.4, 2e7, 0.5),
    "pendulum": SizeBatchLaw(1500.0, 0.4, 8e5, 1.5),
    "cartpole_swingup": SizeBatchLaw(54000.0, 0.48, 2.6e10, 0.55),
}
CONSTANT = Sized(LAWS, 256.0, WIDTHS, draws=40, spread=0.05, delta=1e11)
LAWFUL = Sized(LAWS, BATCHES, WIDTHS, draws=8, spread=0.05, delta=1e11)

"""A fit with model size as its files hold it: D(σ, N) of each level, B*(σ, N) and their joint draws, task by task."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from analysis.allocate import Box
from analysis.fitted import read_fit
from analysis.size_budget import drawn_batch, drawn_law, size_budget
from analysis.size_frontier import Price, SizeFrontier
from analysis.size_laws import SizeBatchLaw, SizeDataLaw
from analysis.uncertainty import Floats
from rlscale.typed import Mistake

AVERAGE = "average"
DATA, BATCH = ("c", "a", "alpha", "b", "beta"), ("a", "alpha", "b", "c")  # columns of the draws


@dataclass(frozen=True)
class Subject:
    """One task, or the average one. `laws` and `levels` (raw return; None for the average task) by threshold.

    `draws` [K, J, 5] in the order of `laws`; `batch_draws` [K, 4] or None where the batch size is constant.
    `trained`: the range of the settings that the laws were fitted on; `sizes`: width → N as measured.
    """

    task: str
    laws: Mapping[float, SizeDataLaw]
    levels: Mapping[float, float | None]
    draws: Floats
    batch: Price
    batch_draws: Floats | None
    trained: Box
    sizes: Mapping[int, float]

    @property
    def called(self) -> str:
        """Its name in a sentence."""
        return "the average task" if self.task == AVERAGE else self.task

    def budget(self, delta: float, extend: float, held: int) -> dict[str, Any]:
        """This subject's part of laws.json's `budget`."""
        return size_budget(
            self.laws, self.draws, self.batch, self.batch_draws, delta, self.trained, extend, held
        )  # fmt: skip

    def frontier(self, threshold: float, box: Box) -> SizeFrontier:
        """A level's laws, asked within `box`."""
        return SizeFrontier(self.laws[threshold], self.batch, box)

    def drawn(self, threshold: float, box: Box) -> list[SizeFrontier | None]:
        """The same in each draw; None where a draw has no law."""
        j = list(self.laws).index(threshold)
        found: list[SizeFrontier | None] = []
        for k, row in enumerate(self.draws[:, j]):
            law, batch = drawn_law(row), drawn_batch(self.batch, self.batch_draws, k)
            found.append(SizeFrontier(law, batch, box) if law is not None and batch is not None else None)
        return found


def subject(laws: Mapping[str, Any], arrays: Mapping[str, Floats], task: str) -> Subject:
    """`task` of a laws.json with "size": true and of the arrays beside it. Raises Mistake where it has no law."""
    rows = [row for row in laws["data"] if row["task"] == task]
    key = f"size/data/{task}"
    drawn = np.asarray(arrays[key] if key in arrays else np.empty((0, len(rows), len(DATA))))  # a column a row
    if len(rows) != drawn.shape[1]:
        raise Mistake(
            f"{task} has {len(rows)} laws and draws of {drawn.shape[1]}: laws.json and laws_draws.npz are of two fits; "
            "fit again with python -m analysis.laws"
        )
    known = [j for j, row in enumerate(rows) if all(row[name] is not None for name in DATA)]
    if not known:
        raise Mistake(f"{task} has no law at any level: lower its thresholds, or sweep it more widely")
    points = [p for j in known for p in rows[j]["points"] if not p["held_out"]]
    sigmas, sizes = ([float(Fraction(p["utd"])) for p in points], [float(p["n_params"]) for p in points])
    batch, batch_draws = _batch(laws["compute"]["batch"], arrays, task)
    widths = {int(p["width"]): float(p["n_params"]) for row in rows for p in row["points"] if p["width"] is not None}
    return Subject(
        task,
        {float(rows[j]["threshold"]): SizeDataLaw(**{name: float(rows[j][name]) for name in DATA}) for j in known},
        {float(rows[j]["threshold"]): (rows[j].get("level") or {}).get(task) for j in known},
        drawn[:, known], batch, batch_draws,
        Box((min(sigmas), max(sigmas)), (min(sizes), max(sizes))),
        {int(w): float(n) for w, n in laws["widths"].get(task, {}).items()} or widths,
    )  # fmt: skip


def budgets(
    laws: Mapping[str, Any], arrays: Mapping[str, Floats], delta: float | Mapping[str, float], extend: float, held: int
) -> dict[str, Any]:
    """laws.json's `budget`: a part for the average task and each task that has a law; see size_budget.

    `delta`: FLOPs of an env step, one for all or each subject's own.
    """
    found = {}
    for task in (AVERAGE, *laws["tasks"]):
        if any(row["task"] == task and all(row[name] is not None for name in DATA) for row in laws["data"]):
            price = delta if isinstance(delta, float | int) else delta[task]
            found[task] = subject(laws, arrays, task).budget(float(price), extend, held)
    return found


def _batch(part: Mapping[str, Any], arrays: Mapping[str, Floats], task: str) -> tuple[Price, Floats | None]:
    """Each subject has the law of its own name."""
    if "constant" in part:
        return float(part["constant"]), None
    if task not in part:
        raise Mistake(f"{task} has no batch size law in laws.json: fit again with python -m analysis.laws")
    return SizeBatchLaw(**{name: float(part[task][name]) for name in BATCH}), arrays.get(f"size/batch/{task}")


@dataclass(frozen=True)
class SizeFitted:
    """`laws` is laws.json; `subjects`: the average task where it has a law, then each task that has one."""

    name: str
    root: Path
    laws: Mapping[str, Any]
    subjects: Mapping[str, Subject]
    without: tuple[str, ...]

    def threshold(self, target: float) -> float:
        """The fit's own threshold that is `target`. Raises Mistake."""
        known = sorted({t for s in self.subjects.values() for t in s.laws})
        for threshold in known:
            if abs(threshold - target) < 1e-6 * max(1.0, abs(threshold)):
                return threshold
        listed = ", ".join(f"{t:g}" for t in known)
        raise Mistake(f"target={target:g}: there is no law for this level; choose one of {listed}")

    def delta(self, task: str) -> float | None:
        """What an env step of the subject was taken to cost by the fit, in FLOPs; None where it was not told."""
        part = (self.laws["budget"] or {}).get(task)
        return None if part is None else float(part["delta"])


def size_fitted(root: Path, name: str) -> SizeFitted:
    """The fit `name` of the study `root`. Raises Mistake where it has none, or none of its tasks has a law."""
    laws = read_fit(root, name, "laws")
    path, arrays = root / "fits" / name / "laws_draws.npz", {}
    if path.exists():  # a fit may be without a bootstrap, and then without intervals
        with np.load(path) as stored:
            arrays = {key: stored[key] for key in stored.files}
    subjects, without = {}, []
    present = {row["task"] for row in laws["data"]}
    for task in (AVERAGE, *laws["tasks"]):
        if task not in present:
            continue
        try:
            subjects[task] = subject(laws, arrays, task)
        except Mistake as mistake:
            without.append(str(mistake))
    if not subjects:
        raise Mistake(f"name={name}: no task has a law ({without[0] if without else 'there are none'})")
    return SizeFitted(name, root, laws, subjects, tuple(without))

"""The proposals table: batch size and learning rate at chosen σ for each variant, and the same in qscaled's columns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fractions import Fraction
from math import sqrt
from typing import Any

import pandas as pd

from rlscale.hparams import PowerLaw, read_law, round_batch_size, round_learning_rate

VARIANTS = ("shared", "separate", "baseline")
SCALES = (("", 1.0), (" x√2", sqrt(2)), (" x√0.5", sqrt(0.5)))


def middle(sigmas: Sequence[Fraction]) -> Fraction:
    """The σ nearest in log to the geometric middle of the grid (the smaller of two that are equally near)."""
    ordered = sorted(sigmas)
    target = sqrt(float(ordered[0]) * float(ordered[-1]))
    return min(ordered, key=lambda s: (round(max(float(s) / target, target / float(s)), 12), s))


def variant_laws(laws: Mapping[str, Mapping[str, Any]], base: pd.DataFrame) -> dict[str, dict[str, PowerLaw]]:
    """{variant: {batch_size, learning_rate}} from hparams.json's `laws` and the baseline pairs (exponent 0)."""
    result: dict[str, dict[str, PowerLaw]] = {}
    for variant in ("shared", "separate"):
        result[variant] = {q: read_law(law) for q, law in laws[variant].items()}
    result["baseline"] = {
        q: PowerLaw(0.0, {str(t): float(v) for t, v in zip(base["task"], base[q], strict=True)})
        for q in ("batch_size", "learning_rate")
    }
    return result


def proposals(variants: Mapping[str, Mapping[str, PowerLaw]], utds: Sequence[Fraction]) -> list[dict[str, Any]]:
    """hparams.json's `proposals`: variant, task, utd, learning_rate and batch_size as a job would round them."""
    return [
        {
            "variant": variant,
            "task": task,
            "utd": str(utd),
            "learning_rate": round_learning_rate(laws["learning_rate"](utd, task)),
            "batch_size": round_batch_size(laws["batch_size"](utd, task)),
        }
        for variant, laws in variants.items()
        for task in sorted(laws["batch_size"].tasks)
        for utd in utds
    ]


def qscaled_table(laws: Mapping[str, PowerLaw], utds: Sequence[Fraction]) -> pd.DataFrame:
    """The table that qscaled writes for a fitted law: neighbours are scaled from the unrounded prediction."""
    rows = []
    for task in sorted(laws["batch_size"].tasks):
        for utd in utds:
            rate, size = laws["learning_rate"](utd, task), laws["batch_size"](utd, task)
            row: dict[str, Any] = {"Environment": task, "UTD": _number(utd)}
            for scales in (SCALES[:1], SCALES[1:]):  # the law's own values come first, then the neighbours
                row |= {f"Learning Rate{word}": round_learning_rate(rate * scale) for word, scale in scales}
                row |= {f"Batch Size{word}": int(size * scale) for word, scale in scales}
            row |= {f"Batch Size{word}(rounded)": round_batch_size(size * scale) for word, scale in SCALES}
            rows.append(row)
    return pd.DataFrame(rows)


def qscaled_baseline(laws: Mapping[str, PowerLaw], utds: Sequence[Fraction], grid: Sequence[Fraction]) -> pd.DataFrame:
    """The table that qscaled writes for the baseline: the same pair at every σ, and whether that σ is new."""
    rows = [
        {
            "Environment": task,
            "UTD": _number(utd),
            "Learning Rate": round_learning_rate(laws["learning_rate"](utd, task)),
            "Batch Size": int(laws["batch_size"](utd, task)),
            "is_new_experiment": utd not in grid,
        }
        for task in sorted(laws["batch_size"].tasks)
        for utd in utds
    ]
    return pd.DataFrame(rows, columns=["Environment", "UTD", "Learning Rate", "Batch Size", "is_new_experiment"])


def _number(utd: Fraction) -> int | float:
    return int(utd) if utd.denominator == 1 else float(utd)

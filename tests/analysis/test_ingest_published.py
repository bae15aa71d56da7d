"""The authors' own zips through the sources: so many configurations, seeds and steps as they are known to hold."""

from __future__ import annotations

from collections import Counter
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest

from analysis.sources import Found
from analysis.sources.model_scaling import ModelScaling
from analysis.sources.qscaled import QScaled


def qscaled(published: Path, name: str) -> list[Found]:
    path = published / "qscaled" / f"{name}.zip"
    found, dropped = QScaled(str(path), None, "train_return", "auto", 5000, 1000).read(lambda items, _n, _label: items)
    assert dropped == []
    return found


def sized(published: Path, name: str, **more: Any) -> tuple[list[Found], list[tuple[str, str]]]:
    keys: dict[str, Any] = {"metric": None, "column": "eval_return", "step_column": "auto"}
    keys |= {"first_step": 25000, "step_every": 25000, "batch_size": None, "learning_rate": None, "n_params": None}
    path = published / "model_scaling" / f"{name}.zip"
    return ModelScaling(path=str(path), **(keys | more)).read(lambda items, _n, _label: items)


def seeds(found: list[Found]) -> dict[tuple[Any, ...], int]:
    """Seeds of each configuration."""
    return dict(Counter((f.task, f.utd, f.batch_size, f.learning_rate, *f.algorithm_fields.values()) for f in found))


@pytest.mark.slow
def test_dmc_sweep(published: Path) -> None:
    found = qscaled(published, "dmc_sweep")
    cells = seeds(found)
    assert len(cells) == 7 * 6 * 5 * 4 and set(cells.values()) == {10}
    assert {f.utd for f in found} == {1, 2, 3, 4, 5, 8}
    assert {f.batch_size for f in found} == {32, 64, 128, 256, 512}
    assert {f.learning_rate for f in found} == {1.5e-4, 3e-4, 6e-4, 1.2e-3}
    steps = [f.curve["env_step"] for f in found]
    assert {s.iloc[0] for s in steps} == {5000} and max(s.iloc[-1] for s in steps) == 1_004_000
    assert min(len(s) for s in steps) == 28


def test_dmc_baseline(published: Path) -> None:
    found = qscaled(published, "dmc_baseline_utd2")
    cells = seeds(found)
    assert len(cells) == 7 * 6 and set(cells.values()) == {10}
    assert {(f.batch_size, f.learning_rate) for f in found} == {(256, 3e-4)}
    assert {f.utd for f in found} == {Fraction(1, 4), Fraction(1, 2), 1, 2, 4, 8}
    assert max(f.curve["env_step"].iloc[-1] for f in found) == 1_725_000  # with gaps: only the step column knows


def test_gym_baseline(published: Path) -> None:
    found = qscaled(published, "gym_baseline_utd2")
    cells = seeds(found)
    assert len(cells) == 28 and sum(cells.values()) == 217 and min(cells.values()) == 3
    assert {f.curve["env_step"].iloc[0] for f in found} == {1, 1000}
    assert {f.curve["env_step"].iloc[-1] for f in found if f.utd == 16} == {499_001, 500_000, 999_001}


@pytest.mark.parametrize(
    ("name", "configurations", "fewest", "most"), [("fitted_bs", 71, 5, 67), ("interpolated_bs", 42, 3, 20)]
)
def test_sizes_at_the_fitted_batch(published: Path, name: str, configurations: int, fewest: int, most: int) -> None:
    found, dropped = sized(published, name)
    cells = seeds(found)
    assert len(cells) == configurations and min(cells.values()) == fewest and max(cells.values()) == most
    assert dropped == []
    losses = {"critic_loss", "validation_critic_loss", "separate_critic_loss", "sep_validation_critic_loss"}
    assert all(set(f.curve.columns) == {"env_step", "eval_return"} | losses for f in found)
    n_params = {(f.task[:2], f.algorithm_fields["width"]): f.algorithm_fields["n_params"] for f in found}
    if name == "fitted_bs":  # MODEL_SIZE.md: obs + act is 70 for the H1 tasks, 88 for humanoid-stand
        assert n_params["h1", 512] == 2286792 and n_params["hu", 512] == 2305224


@pytest.mark.slow
def test_the_older_runs_of_forty_tasks(published: Path) -> None:
    found, dropped = sized(published, "dmc_bro_ablations", batch_size=128, learning_rate=3e-4)
    cells = seeds(found)
    assert len(cells) == 25 * 40 and set(cells.values()) == {10} and dropped == []
    assert {f.algorithm_fields["size"] for f in found} == {"xs", "s", "sm", "m", "l"}
    assert Counter(len(f.curve) for f in found) == {40: 9900, 80: 100}

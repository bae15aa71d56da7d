"""Laws with model size as their files hold them: each task its own, and what the files do not hold is said."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from analysis.emit import to_json, to_npz
from analysis.size_fitted import budgets, size_fitted
from rlscale.typed import Mistake
from tests.analysis.sized import BATCHES, CONSTANT, LAWFUL, LAWS, Sized


def files(fit: Sized, root: Path) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """laws.json and the arrays, read back."""
    fit.write(root, "f")
    with np.load(root / "fits/f/laws_draws.npz") as arrays:
        return json.loads((root / "fits/f/laws.json").read_text()), dict(arrays)


def rewrite(root: Path, laws: dict[str, Any], arrays: dict[str, np.ndarray]) -> None:
    (root / "fits/f/laws.json").write_text(json.dumps(laws))
    (root / "fits/f/laws_draws.npz").write_bytes(to_npz(arrays))


def test_every_subject_has_its_own_laws_and_draws(tmp_path: Path) -> None:
    _, arrays = files(LAWFUL, tmp_path)
    fit = size_fitted(tmp_path, "f")
    assert list(fit.subjects) == ["average", "pendulum", "cartpole_swingup"] and not fit.without
    for task, one in fit.subjects.items():
        assert one.laws == LAWS[task] and one.batch == BATCHES[task]
        assert np.array_equal(one.draws, arrays[f"size/data/{task}"])
        assert one.batch_draws is not None and np.array_equal(one.batch_draws, arrays[f"size/batch/{task}"])
        assert one.trained == LAWFUL.trained and one.sizes == LAWFUL.widths
        drawn = one.drawn(600.0, one.trained)
        assert len(drawn) == 8 and drawn[3] is not None
        assert drawn[3].law.beta == arrays[f"size/data/{task}"][3, 2, 4]
        assert drawn[3].batch_size(2.0, 1e6) == pytest.approx(
            float(_law(arrays[f"size/batch/{task}"][3], 2.0, 1e6)), rel=1e-12
        )
    assert fit.delta("pendulum") == 1e11 and fit.subjects["average"].called == "the average task"


def _law(row: np.ndarray, sigma: float, n_params: float) -> float:
    a, alpha, b, c = row
    return float(a / (sigma**alpha * (1 + (b / n_params) ** c)))


def test_budgets_of_all_are_what_the_files_hold(tmp_path: Path) -> None:
    laws, arrays = files(CONSTANT, tmp_path)
    assert json.loads(to_json(budgets(laws, arrays, 1e11, 4.0, 1))) == laws["budget"]
    own = budgets(laws, arrays, {"average": 1e11, "pendulum": 2e12, "cartpole_swingup": 1e10}, 4.0, 1)
    assert {task: part["delta"] for task, part in own.items()}["pendulum"] == 2e12
    assert own["average"]["points"][0]["utd"] == laws["budget"]["average"]["points"][0]["utd"]
    assert own["pendulum"]["points"][0]["utd"] > laws["budget"]["pendulum"]["points"][0]["utd"]


def test_held_out_settings_are_no_part_of_the_trained_range(tmp_path: Path) -> None:
    laws, arrays = files(CONSTANT, tmp_path)
    for row in laws["data"]:
        for p in row["points"]:
            p["held_out"] = p["utd"] == "8" or p["width"] == 2048
    rewrite(tmp_path, laws, arrays)
    box = size_fitted(tmp_path, "f").subjects["pendulum"].trained
    assert box.sigma == (1.0, 4.0) and box.n_params == (619208.0, 8767688.0)


def test_levels_and_draws_without_a_law_are_left_out(tmp_path: Path) -> None:
    laws, arrays = files(CONSTANT, tmp_path)
    arrays["size/data/pendulum"][5] = np.nan
    row = next(r for r in laws["data"] if r["task"] == "pendulum" and r["threshold"] == 500.0)
    row["c"] = None
    rewrite(tmp_path, laws, arrays)
    one = size_fitted(tmp_path, "f").subjects["pendulum"]
    assert list(one.laws) == [400.0, 600.0, 700.0] and one.draws.shape == (40, 3, 5)
    drawn = one.drawn(600.0, one.trained)
    assert [k for k, frontier in enumerate(drawn) if frontier is None] == [5]
    assert drawn[0] is not None and drawn[0].law.c == arrays["size/data/pendulum"][0, 2, 0]
    assert "pendulum" in budgets(laws, arrays, 1e11, 4.0, 1)


def test_a_task_without_a_batch_size_law_borrows_none(tmp_path: Path) -> None:
    laws, arrays = files(LAWFUL, tmp_path)
    del laws["compute"]["batch"]["pendulum"]
    rewrite(tmp_path, laws, arrays)
    fit = size_fitted(tmp_path, "f")
    assert list(fit.subjects) == ["average", "cartpole_swingup"]
    assert fit.without == ("pendulum has no batch size law in laws.json: fit again with python -m analysis.laws",)


def test_a_fit_without_any_law_is_refused(tmp_path: Path) -> None:
    laws, arrays = files(CONSTANT, tmp_path)
    for row in laws["data"]:
        row["alpha"] = None
    rewrite(tmp_path, laws, arrays)
    with pytest.raises(Mistake, match="name=f: no task has a law"):
        size_fitted(tmp_path, "f")
    assert budgets(laws, arrays, 1e11, 4.0, 1) == {}

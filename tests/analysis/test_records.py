"""Reading a study: what counts, what is selected, what is left out and why."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from analysis.records import Select, common_spec, load
from rlscale.typed import Mistake
from tests.analysis.synthetic import write_run

ALL = Select(None, None, None, None, None)
STEPS = np.arange(100, 1001, 100)


def run(root: Path, seed: int = 0, hparams: str = "constant", sweep: str | None = None, **more: object) -> Path:
    asked = {"hparams": hparams, "sweep": sweep}
    return write_run(root, "pendulum", "1/4", 64, 1e-3, seed, STEPS, np.linspace(-1200, -200, 10), asked, 1000, **more)  # type: ignore[arg-type]


def test_a_run_becomes_one_tidy_row(tmp_path: Path) -> None:
    run(tmp_path)
    study = load(tmp_path, ALL)
    row = study.runs.iloc[0]
    assert (row["utd"], row["sigma"], row["batch_size"], row["learning_rate"], row["width"]) == (
        "1/4", 0.25, 64, 1e-3, 64,
    )  # fmt: skip
    assert (row["algorithm"], row["benchmark"], row["task"], row["status"], row["n_params"]) == (
        "sac", "control", "pendulum", "finished", 9218,
    )  # fmt: skip
    assert list(study.curves.columns) == ["env_step", "train_return", "eval_return", "run_id"]
    assert study.curves["train_return"].iloc[-1] == -200 and study.curves["eval_return"].isna().all()


def test_what_is_not_finished_or_not_readable_is_listed_not_used(tmp_path: Path) -> None:
    run(tmp_path)
    (tmp_path / "runs" / "half").mkdir()
    broken = run(tmp_path, seed=1)
    (broken / "record.json").write_text("{")
    bare = run(tmp_path, seed=2)
    (bare / "curve.csv").unlink()
    odd = run(tmp_path, seed=3, status="cancelled")
    study = load(tmp_path, ALL)
    assert len(study.runs) == 1
    reasons = dict(study.dropped.itertuples(index=False))
    assert "no record.json" in reasons["half"]
    assert "cannot be read" in reasons[broken.name] and "curve.csv" in reasons[bare.name]
    assert "cancelled" in reasons[odd.name]


def test_a_diverged_run_is_kept(tmp_path: Path) -> None:
    run(tmp_path, status="diverged")
    assert list(load(tmp_path, ALL).runs["status"]) == ["diverged"]


def test_selection_by_any_asker(tmp_path: Path) -> None:
    both, _ = run(tmp_path, seed=0), run(tmp_path, seed=1)
    fitted = {"sweep": "fitted/a", "hparams": "fitted/a", "overrides": []}
    (both / "asked_by.jsonl").write_text(json.dumps(fitted) + "\n")
    assert list(load(tmp_path, Select(None, None, None, "fitted/a", None)).runs["run_id"]) == [both.name]
    assert len(load(tmp_path, Select("sac", "control", ("pendulum",), "constant", None)).runs) == 2
    with pytest.raises(Mistake, match=r"select\.hparams=fited/a.*did you mean fitted/a"):
        load(tmp_path, Select(None, None, None, "fited/a", None))
    with pytest.raises(Mistake, match="matches all of these"):  # hparams and sweep must come from the same asker
        load(tmp_path, Select(None, None, None, "constant", "fitted/a"))


def test_an_empty_study_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(Mistake, match="run a sweep first"):
        load(tmp_path, ALL)


def test_runs_of_different_learners_are_not_one_fit(tmp_path: Path) -> None:
    run(tmp_path, seed=0)
    assert common_spec(load(tmp_path, ALL))["algorithm"] == {"name": "sac", "width": 64, "discount": 0.99, "layers": 2}
    run(tmp_path, seed=1, width=128)
    with pytest.raises(Mistake, match=r"algorithm\.width \(128 and 64\)"):
        common_spec(load(tmp_path, ALL))


def test_the_order_of_folders_does_not_matter(tmp_path: Path) -> None:
    for seed in range(4):
        run(tmp_path / "a", seed=seed)
    for seed in reversed(range(4)):
        run(tmp_path / "b", seed=seed)
    a, b = load(tmp_path / "a", ALL), load(tmp_path / "b", ALL)
    pd.testing.assert_frame_equal(a.runs, b.runs)
    pd.testing.assert_frame_equal(a.curves, b.curves)

"""The follow-up's published numbers from its published zips, by the commands that a user types."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

REPO = Path(__file__).resolve().parents[2]
SUITES = ("dmc", "dog_humanoid")  # of the golden files, and options of conf/size/model_scaling
SIZES = "source.n_params={xs: 550000, s: 1050000, sm: 2830000, m: 4920000, l: 26310000}"

pytestmark = pytest.mark.slow


def run(study: Path, door: str, *words: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", f"analysis.{door}", *words],
        cwd=REPO, env={**os.environ, "RLSCALE_STUDY": str(study)}, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


def laws(study: Path, name: str, *words: str) -> dict[str, Any]:
    run(study, "laws", f"name={name}", "metric=eval_return", *words)
    found: dict[str, Any] = json.loads((study / "fits" / name / "laws.json").read_text())
    return found


@pytest.fixture(scope="module")
def ablations(published: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    study = tmp_path_factory.mktemp("ablations")
    path = published / "model_scaling" / "dmc_bro_ablations.zip"
    about = ("source.benchmark=dmc", "source.algorithm=bro", "source.batch_size=128", "source.learning_rate=3e-4")
    run(study, "ingest", "source=model_scaling", f"source.path={path}", *about, SIZES)
    return study


@pytest.mark.parametrize("suite", SUITES)
def test_levels_crossings_and_averaged_fits_of_the_ablations(ablations: Path, published: Path, suite: str) -> None:
    """Every level and crossing of every task exactly; the 20 averaged fits to 1e-4; shared fits and lines of ms_06."""
    golden = {
        name: json.loads((published / "golden" / f"{name}.json").read_text())
        for name in (
            "ms_16_dmc_curves_to_crossings",
            "ms_04_dfit_averaged_20_thresholds",
            "ms_06_compute_optimal_line_dmc",
        )
    }
    case = golden["ms_16_dmc_curves_to_crossings"]["suites"][suite]
    tasks = sorted(case["J_min"])
    chosen = f"select.tasks=[{','.join(tasks)}]"
    found = laws(ablations, suite, chosen, f"size=model_scaling/{suite}", "compat=model_scaling")

    by_task: dict[str, list[Any]] = {}
    for row in found["data"]:
        by_task.setdefault(row["task"], []).append(row)
    assert sorted(by_task) == sorted([*tasks, "average"])
    assert {t: by_task[t][-1]["level"][t] for t in tasks} == case["expected_J_max"]
    assert {t: by_task[t][0]["level"][t] for t in tasks} == case["J_min"]
    for want in case["runs"]:
        mine = [
            next(p for p in row["points"] if p["utd"] == str(want["utd"]) and p["n_params"] == want["critic_params"])
            for row in by_task[want["env"]]
        ]
        assert [p["data"] for p in mine] == want["expected_crossings"]

    tolerance = golden["ms_04_dfit_averaged_20_thresholds"]["tolerance"]["predictions_rel"]
    averaged = golden["ms_04_dfit_averaged_20_thresholds"]["suites"][suite]
    for row, want in zip(by_task["average"], averaged["thresholds"], strict=True):
        points = {(float(p["utd"]), p["n_params"]): p for p in row["points"]}
        mine = [points[float(u), float(n)] for u, n in zip(averaged["utd"], averaged["critic_params"], strict=True)]
        np.testing.assert_allclose([p["data"] for p in mine], want["D"], rtol=4e-16)
        np.testing.assert_allclose([p["law"] for p in mine], want["expected_predictions"], rtol=tolerance)

    lines = {c["env"]: c["params"] for c in golden["ms_06_compute_optimal_line_dmc"]["cases"] if c["env"] in tasks}
    assert len(lines) == len(tasks)
    for task, theirs in lines.items():
        ours = by_task[task][-1]
        assert ours["beta"] / ours["alpha"] == pytest.approx(theirs["beta"] / theirs["alpha"], rel=1e-4)


def test_the_errors_of_the_law_where_it_was_not_fitted(published: Path, tmp_path: Path) -> None:
    """Fitted on fitted_bs, predicted on interpolated_bs: not worse than what the follow-up's text says of its own."""
    for name, split in (("fitted_bs", "fit"), ("interpolated_bs", "interpolate")):
        path = published / "model_scaling" / f"{name}.zip"
        about = ("source.benchmark=humanoid_bench", "source.algorithm=bro", "source.name=hb", f"split={split}")
        run(tmp_path, "ingest", "source=model_scaling", f"source.path={path}", *about)
    for words in (("compat=model_scaling",), ("bootstrap.draws=20",)):
        found = laws(tmp_path, words[0].split("=")[0], "size=model_scaling/humanoid_bench", *words)
        errors = found["errors"]
        print(words, {split: (e["mean"], e["tasks"]) for split, e in errors.items()})
        assert set(errors) == {"fit", "interpolate"} and len(errors["fit"]["tasks"]) == 4
        assert all(e["mean"] <= e["published"] for e in errors.values())
        assert {h["split"] for h in found["holdout"]} == {"interpolate"}
    reached = [h for h in found["holdout"] if h["reached"]]
    inside = [h["interval95"][0] <= h["observed"] <= h["interval95"][1] for h in reached]
    print(f"{np.mean(inside):.0%} of {len(inside)} measured values inside their intervals")
    assert np.mean(inside) > 0.85

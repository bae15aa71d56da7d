"""The first paper's published numbers, under compat=qscaled: from its golden inputs, and from its zips by the commands.

Elsewhere: tests/test_hparams.py has the paper's own tables (qs_10: Table 4 and 5 follow from Table 2; Table 6 in 26 of
28 cells; Table 7 is not a power law, only within 3 %), tests/analysis/test_curves.py the isotonic cases (qs_11).
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from analysis import compat_qscaled
from analysis.batch import BatchLaws
from analysis.best import Best
from analysis.compat_qscaled_fit import FORMS, fit, normalised
from analysis.compat_qscaled_laws import cheapest
from analysis.curves import Reference, crossings
from analysis.propose import qscaled_table
from analysis.records import Select, load
from analysis.uncertainty import Bootstrap
from rlscale.hparams import PowerLaw

REPO = Path(__file__).resolve().parents[2]
QUANTITIES = {"batch_size": "bs", "learning_rate": "lr"}
FITS = {"qscaled": "qs_04_fit_gym_baseline_head", "qscaled-5afa89e": "qs_04_fit_gym_baseline_paperform_5afa89e"}


@pytest.fixture(scope="module")
def golden(published: Path) -> Callable[[str], Any]:
    return lambda name: json.loads((published / "golden" / f"{name}.json").read_text())


@pytest.mark.parametrize("quantity", QUANTITIES.values())
def test_the_gym_grids_fits_from_its_best_values(golden: Callable[[str], Any], quantity: str) -> None:
    """qs_01, exact: one slope from all σ; the separate laws without their largest σ (B2)."""
    case = golden("qs_01_linear_fit_gym")
    sigma = case["utds"]
    rows = [(t, s, v, 1.0) for t, row in case["inputs"][quantity].items() for s, v in zip(sigma, row, strict=True)]
    table = pd.DataFrame(rows, columns=["task", "sigma", "value", "share"])
    best = Best(table, np.repeat(table["value"].to_numpy()[:, None], 3, axis=1), [])
    shared, separate, notes = compat_qscaled.power_laws(best, quantity)
    want = case["expected"][quantity]
    assert not notes and len(shared.tasks) == 4
    assert shared.slope == pytest.approx([want["shared_slope"]] * 4, rel=case["tolerance"])
    for law, kind in ((shared, "shared"), (separate, "separate")):
        intercepts = [want[f"{kind}_log10_intercept"][t] for t in law.tasks]
        assert law.log_intercept / np.log(10) == pytest.approx(intercepts, rel=case["tolerance"])
        np.testing.assert_allclose(law.log_intercept_draws, np.tile(law.log_intercept, (3, 1)), rtol=1e-12)
    assert separate.slope == pytest.approx([want["separate_slope"][t] for t in separate.tasks], rel=case["tolerance"])


@pytest.mark.parametrize("which", ["shared", "separate"])
def test_the_dmc_proposals_cell_by_cell(golden: Callable[[str], Any], which: str) -> None:
    """qs_02, exact in all 49 rows and 11 columns."""
    case = golden(f"qs_02_proposed_hparams_dmc_sweep_{which}_head")
    given, expected = case["inputs"], case["expected_rows"]
    laws = {
        q: PowerLaw(given[f"{k}_slope"], {t: 10**i for t, i in given[f"{k}_log10_intercept"].items()})
        for q, k in QUANTITIES.items()
    }
    utds = sorted({Fraction(str(r["UTD"])) for r in expected})
    rows = {(r["Environment"], float(r["UTD"])): r for r in qscaled_table(laws, utds).to_dict("records")}
    assert len(rows) == len(expected) == 49
    for want in expected:
        assert rows[want["Environment"], float(want["UTD"])] == want
    assert list(next(iter(rows.values()))) == list(expected[0])


@pytest.mark.parametrize(
    ("name", "only"),
    [
        *(pytest.param(name, (0, -1), id=f"{name}, lowest and highest") for name in FITS),
        *(pytest.param(name, None, id=f"{name}, all", marks=pytest.mark.slow) for name in FITS),
    ],
)
def test_the_data_fits_of_the_gym_baseline(golden: Callable[[str], Any], name: str, only: tuple[int, ...]) -> None:
    """qs_04, both versions: medians and averages to the last bit, parameters to the file's 2e-6."""
    case = golden(FITS[name])
    sigma = np.array(case["utds"])
    mean, medians, unit = normalised(np.array(case["D"], dtype=float), np.ones(len(sigma), dtype=bool))
    assert list(medians) == list(case["env_medians_over_utds_and_thresholds"].values()) and unit == case["M"]
    np.testing.assert_array_equal(mean, case["mean_normalised"])
    for j in only or range(len(case["expected"])):
        want = case["expected"][j]
        theta, loss, _ = fit(sigma, mean[:, j], FORMS[name])
        assert theta == pytest.approx([want[k] for k in "abc"], rel=case["tolerance"])
        assert loss == pytest.approx(want["loss"], rel=1e-9)
        d_min, beta, alpha = FORMS[name].d_min(theta)
        assert (d_min, beta, alpha) == pytest.approx((want["c"], want["beta_in_Dmin_form"], want["a"]), rel=2e-6)
        law = d_min * (1 + (beta / sigma) ** alpha)
        np.testing.assert_allclose(law, FORMS[name].value(theta, sigma), rtol=1e-9)


def test_the_dmc_budget_law(golden: Callable[[str], Any]) -> None:
    """qs_05, exact: the cheapest of 100 σ for each threshold, and the law through all but the two highest."""
    case = golden("qs_05_budget_dmc_head")
    tasks = tuple(case["bs_slope"])
    slope = np.array([case["bs_slope"][t] for t in tasks])
    intercept = np.log(10) * np.array([case["bs_log10_intercept"][t] for t in tasks])
    batch = BatchLaws(tasks, slope, intercept, slope[None], intercept[None], "the golden file", [])
    low, high = case["utd_range"]
    grid = np.logspace(np.log10(low), np.log10(high), case["n_grid"])
    theta = np.array(case["fits_abc"]).T[:, :, None]
    data = case["M"] * FORMS["qscaled"].value(theta, grid)
    found = cheapest(grid, data, data[:, None], batch, case["model_size"], case["delta"], case["holdout_top_k"])
    points = found["points"]
    for key, want in (("utd", "sigma_star"), ("budget", "F"), ("compute", "C"), ("data", "D")):
        np.testing.assert_allclose([p[key] for p in points], case[want], rtol=1e-11)
    assert found["exponent"] == pytest.approx(case["law_exponent"], rel=1e-10)
    assert found["coefficient"] == pytest.approx(case["law_coef"], rel=1e-9)
    held = [p for p in points if p["held_out"]]
    assert [p["predicted_utd"] for p in held] == pytest.approx(case["holdout_predicted"], rel=1e-9)
    assert [p["utd"] for p in held] == pytest.approx(case["holdout_actual"], rel=1e-11) and len(held) == 2


class Commands:
    """Runs the real command lines on one study."""

    def __init__(self, study: Path) -> None:
        self.study = study

    def __call__(self, name: str, *words: str) -> str:
        environment = os.environ | {"RLSCALE_STUDY": str(self.study), "PYTHONPATH": str(REPO)}
        command = [sys.executable, "-m", f"analysis.{name}", *words]
        done = subprocess.run(command, cwd=self.study, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def fit(self, name: str, part: str) -> Any:
        return json.loads((self.study / "fits" / name / f"{part}.json").read_text())


def ingested(root: Path, published: Path, name: str, benchmark: str, algorithm: str) -> Commands:
    run = Commands(root)
    path = f"source.path={published / 'qscaled' / f'{name}.zip'}"
    run("ingest", "source=qscaled", path, f"source.benchmark={benchmark}", f"source.algorithm={algorithm}")
    return run


@pytest.fixture(scope="module")
def gym_baseline(tmp_path_factory: pytest.TempPathFactory, published: Path) -> Commands:
    return ingested(tmp_path_factory.mktemp("gym"), published, "gym_baseline_utd2", "gym", "sac")


@pytest.fixture(scope="module")
def dmc_grid(tmp_path_factory: pytest.TempPathFactory, published: Path) -> Commands:
    return ingested(tmp_path_factory.mktemp("dmc"), published, "dmc_sweep", "dmc", "bro")


def reference_words(case: Any) -> list[str]:
    levels = ",".join(map(repr, case["thresholds"]))
    return [f"reference.thresholds=[{levels}]", *(f"reference.ceiling.{t}={v}" for t, v in case["max_returns"].items())]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "reference"), [("qscaled", "qscaled/gym_fitted"), ("qscaled-5afa89e", "qscaled/gym_sweep")]
)
def test_the_gym_baseline_by_the_commands(
    golden: Callable[[str], Any], gym_baseline: Commands, name: str, reference: str
) -> None:
    """Every published fit within 1e-4 from the zip itself; then the other doors work on what was written."""
    case = golden(FITS[name])
    fit_name = name.replace("qscaled", "g")
    gym_baseline("laws", f"name={fit_name}", f"compat={name}", f"reference={reference}", *reference_words(case))
    laws = gym_baseline.fit(fit_name, "laws")
    assert laws["compat"]["M"] == case["M"] and len(laws["data"]) == len(case["expected"])
    assert not laws["dropped"] and laws["provenance"]["command"].count("compat=")
    for row, theta, want in zip(laws["data"], laws["compat"]["fits"], case["expected"], strict=True):
        assert [theta[k] for k in "abc"] == pytest.approx([want[k] for k in "abc"], rel=1e-4)
        law = [row["d_min"] / case["M"], row["beta"], row["alpha"]]
        assert law == pytest.approx([want["c"], want["beta_in_Dmin_form"], want["a"]], rel=1e-4)
        assert all(low <= row[k] <= high for k, (low, high) in row["ci95"].items())
    said = gym_baseline("plan", f"name={fit_name}", f"target={case['thresholds'][-1]!r}", "data=8e5")
    assert "interpolated" in said
    gym_baseline("report", f"name={fit_name}")


@pytest.mark.slow
def test_the_gym_baselines_crossings_from_its_records(golden: Callable[[str], Any], gym_baseline: Commands) -> None:
    """qs_03, exact, all 28 × 10, by way of the records."""
    case = golden("qs_03_crossings_gym_baseline_utd2")
    ceiling = {task: float(value) for task, value in case["max_returns"].items()}
    reference = Reference("gym", {"default": 0.0}, ceiling, tuple(case["thresholds"]), 1.5e5, 4e9)
    study = load(gym_baseline.study, Select(None, None, None, None, None))
    found = crossings(study, reference, "train_return", Bootstrap(20, 0, False), lambda items, _n, _label: items)
    wanted = {(r["env"], float(r["utd"])): r for r in case["rows"]}
    assert len(found.cells) == len(wanted) == 28
    for cell, point, curve in zip(found.cells.itertuples(), found.point, found.curves, strict=True):
        want = wanted[cell.task, cell.sigma]
        np.testing.assert_array_equal(point, [np.inf if c is None else c for c in want["crossings"]])
        assert (cell.n_seeds, len(curve.steps)) == (want["n_seeds"], want["n_rows"])


@pytest.mark.slow
def test_the_dmc_grid_by_the_commands(golden: Callable[[str], Any], dmc_grid: Commands) -> None:
    """dmc_grid_fits: their bootstrap was unseeded, so slopes within 0.02 and every intercept within 4 %."""
    case = golden("dmc_grid_fits")
    dmc_grid("hparams", "name=d", "compat=qscaled", "utd=[1/4,1/2,1,2,4,8,16]")
    fitted = dmc_grid.fit("d", "hparams")
    for quantity, short in QUANTITIES.items():
        law = fitted["laws"]["shared"][quantity]
        assert law["exponent"] == pytest.approx(case[f"shared_{short}"]["slope"]["cheetah-run"], abs=0.02)
        for task, value in case[f"shared_{short}"]["log10_intercept"].items():
            assert law["intercept"][task] == pytest.approx(10**value, rel=0.04)
        apart = fitted["laws"]["separate"][quantity]
        for task, slope in case[f"separate_{short}"]["slope"].items():
            assert apart["exponent"][task] == pytest.approx(slope, abs=0.1)
            low, high = apart["exponent_ci95"][task]
            assert low < slope < high
    assert fitted["baseline"]["utd"] == "2" and fitted["provenance"]["average"] == "arithmetic"
    assert any("B5" in note for note in fitted["notes"])
    table = pd.read_csv(dmc_grid.study / "fits" / "d" / "proposals_shared.csv")
    published = {
        (r["Environment"], r["UTD"]): r for r in golden("qs_02_proposed_hparams_dmc_sweep_shared_head")["expected_rows"]
    }
    gaps = [
        row["Batch Size"] / published[row["Environment"], row["UTD"]]["Batch Size"] - 1 for _, row in table.iterrows()
    ]
    assert len(gaps) == 49 and max(map(abs, gaps)) < 0.08

"""Whole studies from known laws, through the doors as a person runs them: recovered, the same bytes again, honest."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from analysis.batch import fitted_laws
from analysis.blend import Blend
from analysis.curves import Reference, crossings
from analysis.records import Select, load
from analysis.show import tracked
from analysis.uncertainty import Bootstrap
from rlscale.hparams import round_batch_size, round_learning_rate
from tests.analysis.conftest import REPO, Done
from tests.analysis.synthetic import World, write_run

Door = Callable[..., Done]
LEVELS = ("reference.thresholds=[300,400,500,600,700]", "bootstrap.draws=50")
FITTED = ("1/4", "1/2", "1", "2", "4", "8")


@pytest.fixture(scope="module")
def fit(grid: Path, world: World, door: Door, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study taken through all four doors: grid, hparams, the emitted sweep's runs, laws, report."""
    root = tmp_path_factory.mktemp("fit")
    shutil.copytree(grid / "runs", root / "runs")
    done = door("hparams", root, "name=a", "select.hparams=constant", *LEVELS, f"utd=[{','.join(FITTED)}]")
    assert done.returncode == 0, done.stderr
    laws = fitted_laws(json.loads((root / "fits/a/hparams.json").read_text()), "shared")
    asked = {"hparams": "fitted/a", "sweep": "fitted/a"}
    for task in world.tasks:
        for utd in FITTED:
            batch = round_batch_size(laws["batch_size"](Fraction(utd), task))
            rate = round_learning_rate(laws["learning_rate"](Fraction(utd), task))
            World(seeds=6, env_steps=60000).write_cell(root, task, utd, batch, rate, asked)
    done = door("laws", root, "name=a", "select.hparams=fitted/a", *LEVELS, "holdout=[8]")
    assert done.returncode == 0, done.stderr
    done = door("report", root, "name=a")
    assert done.returncode == 0, done.stderr
    return root


def test_the_grid_laws_are_recovered_inside_their_intervals(fit: Path, world: World) -> None:
    laws = json.loads((fit / "fits/a/hparams.json").read_text())["laws"]["shared"]
    for quantity, (intercept, exponent) in (("batch_size", world.b), ("learning_rate", world.lr)):
        low, high = laws[quantity]["exponent_ci95"]
        assert low <= exponent <= high and high - low < 0.5
        for low, high in laws[quantity]["intercept_ci95"].values():
            assert low <= intercept <= high and high < 2 * low


def test_the_data_law_is_recovered_and_its_prediction_holds(fit: Path, world: World) -> None:
    laws = json.loads((fit / "fits/a/laws.json").read_text())
    assert laws["fit_utds"] == list(FITTED[:-1]) and [d["threshold"] for d in laws["data"]] == [300, 400, 500, 600, 700]
    top = laws["data"][-1]
    for name, truth in zip(("beta", "alpha"), world.data[1:], strict=True):
        low, high = top["ci95"][name]
        assert low <= truth <= high, name
    assert all(p["reached"] for p in top["points"]) and [p["held_out"] for p in top["points"]] == [False] * 5 + [True]
    held = laws["holdout"]
    assert len(held) == 5 and all(h["utd"] == "8" and h["extrapolation"] for h in held)
    inside = [h["interval95"][0] <= h["observed"] <= h["interval95"][1] for h in held]
    assert sum(inside) >= 4
    for h in held:
        assert h["signed_error"] == pytest.approx(h["predicted"] / h["observed"] - 1)
        assert abs(h["signed_error"]) < 0.15


@pytest.mark.slow
def test_the_budget_law_passes_through_its_optima(fit: Path) -> None:
    budget = json.loads((fit / "fits/a/laws.json").read_text())["budget"]
    assert [p["held_out"] for p in budget["points"]] == [False, False, False, True, True]
    for p in budget["points"]:
        assert p["budget"] == pytest.approx(p["compute"] + budget["delta"] * p["data"])
    x, y = (np.log([p[k] for p in budget["points"][:3]]) for k in ("budget", "utd"))
    exponent, intercept = np.polyfit(x, y, 1)
    assert budget["exponent"] == pytest.approx(exponent) and np.log(budget["coefficient"]) == pytest.approx(intercept)
    low, high = budget["exponent_ci95"]
    assert low <= budget["exponent"] <= high


def test_the_files_hold_what_the_design_promises(fit: Path) -> None:
    hparams = json.loads((fit / "fits/a/hparams.json").read_text())
    assert {"schema", "name", "provenance", "laws", "best", "proposals"} <= set(hparams)
    for variant in ("shared", "separate"):
        for quantity in ("learning_rate", "batch_size"):
            assert {"exponent", "exponent_ci95", "intercept"} <= set(hparams["laws"][variant][quantity])
    wanted = {"task", "utd", "learning_rate", "learning_rate_ci95", "batch_size", "batch_size_ci95", "reached"}
    assert all(wanted <= set(b) for b in hparams["best"]) and len(hparams["best"]) == 8
    assert {p["variant"] for p in hparams["proposals"]} == {"shared", "separate", "baseline"}
    assert len(hparams["proposals"]) == 3 * 2 * len(FITTED)
    laws = json.loads((fit / "fits/a/laws.json").read_text())
    assert {"schema", "name", "data", "compute", "budget", "holdout"} <= set(laws)
    assert {"threshold", "d_min", "beta", "alpha", "ci95", "points"} <= set(laws["data"][0])
    assert laws["compute"]["formula"] == "10·N·B(σ)·σ·D" and laws["compute"]["n_params"] == 9218
    report = (fit / "fits/a/report.html").read_text()
    assert report.count('role="img"') > 15 and "http" not in report and "<script" not in report
    for variant in ("shared", "separate", "baseline"):
        assert (fit / f"fits/a/proposals_{variant}.csv").read_text().startswith("Environment,UTD,Learning Rate")


def test_again_gives_the_same_bytes_and_another_fit_is_not_overwritten(fit: Path, door: Door, tmp_path: Path) -> None:
    """Also when the folders were made in the opposite order."""
    for run in sorted((fit / "runs").iterdir(), reverse=True):
        shutil.copytree(run, tmp_path / "runs" / run.name)
    words = ("name=a", "select.hparams=constant", *LEVELS, f"utd=[{','.join(FITTED)}]")
    assert door("hparams", tmp_path, *words).returncode == 0
    made = [p.relative_to(tmp_path) for p in tmp_path.rglob("*") if p.is_file() and "runs" not in p.parts]
    assert len(made) == 7
    before = {p: (tmp_path / p).read_bytes() for p in made}
    assert before == {p: (fit / p).read_bytes() for p in made}
    other = door("hparams", tmp_path, *words, "average=arithmetic")
    assert other.returncode == 2 and "replace=true" in other.stderr and other.stderr.count("\n") == 1
    assert before == {p: (tmp_path / p).read_bytes() for p in made}
    assert door("hparams", tmp_path, *words, "average=arithmetic", "replace=true").returncode == 0
    assert before != {p: (tmp_path / p).read_bytes() for p in made}


def test_plan_answers_with_an_interval_and_a_command(fit: Path, door: Door) -> None:
    laws = json.loads((fit / "fits/a/laws.json").read_text())
    top = laws["data"][-1]
    law = Blend.from_json(top)
    data = float(law(1.0))  # what σ = 1 takes
    done = door("plan", fit, "name=a", "target=700", f"data={data}")
    assert done.returncode == 0, done.stderr
    assert "utd=1 " in done.stdout and "sweep=fitted/a benchmark.task=pendulum" in done.stdout
    assert "interpolated" in done.stdout
    far = door("plan", fit, "name=a", "target=700", f"data={float(law(12.0))}")
    assert "extrapolated" in far.stdout
    for words, part in (
        (("target=700", "data=10"), "data=10: reaching 700 takes"),
        (("target=700", "compute=1"), "compute=1: reaching 700 takes at least"),
        (("budget=1",), "budget=1: the lowest level 300 alone costs"),
        (("target=650", "data=1e4"), "choose one of 300, 400, 500, 600, 700"),
        (("target=700",), "exactly one bound"),
        (("target=700", "data=1e4", "compute=1e9"), "exactly one bound"),
    ):
        done = door("plan", fit, "name=a", *words)
        assert done.returncode == 2 and part in done.stderr and done.stdout == "", (words, done.stderr)


def test_plan_budget_and_compute_are_numbers_not_options(fit: Path, door: Door) -> None:
    points = json.loads((fit / "fits/a/laws.json").read_text())["budget"]["points"]
    done = door("plan", fit, "name=a", f"budget={points[2]['budget'] * 1.001}")
    assert done.returncode == 0, done.stderr
    assert "return level" in done.stdout and "500" in done.stdout
    done = door("plan", fit, "name=a", "target=500", f"compute={points[2]['compute'] * 1.5}")
    assert done.returncode == 0, done.stderr


def test_too_few_sigmas_and_unknown_names_are_one_sentence(tmp_path: Path, door: Door) -> None:
    World(utds=("1", "2"), batch_sizes=(128, 256), learning_rates=(3e-4, 6e-4), seeds=2).write_grid(tmp_path)
    for name, words, part in (
        ("hparams", ("name=a", *LEVELS), "at least 3 levels of σ"),
        ("hparams", ("name=a", "select.sweep=gym-grid"), "they have none, so leave it out"),
        ("hparams", ("name=a", "metric=reward"), "error: metric=reward"),
        ("hparams", ("name=a", "bootstrap.draws=2"), "bootstrap.draws=2"),
        ("hparams", (), "name is not set"),
        ("laws", ("name=a", *LEVELS), "was run with 4 settings"),
        ("laws", ("name=a", *LEVELS, "extend=0.5"), "extend=0.5"),
        ("report", ("name=a",), "there is no"),
        ("plan", ("name=a", "target=700", "data=1"), "python -m analysis.laws"),
    ):
        done = door(name, tmp_path, *words)
        assert done.returncode == 2 and part in done.stderr, (words, done.stderr)
        assert done.stderr.count("\n") == 1
    assert sorted(p.name for p in tmp_path.iterdir()) == ["runs"]


@pytest.mark.slow
def test_the_real_command_line_fits_and_writes_only_into_the_study(tmp_path: Path) -> None:
    study, elsewhere = tmp_path / "study", tmp_path / "elsewhere"
    elsewhere.mkdir()
    World(utds=("1", "2", "4"), batch_sizes=(64, 128, 256), learning_rates=(3e-4, 6e-4), seeds=2).write_grid(study)
    environment = os.environ | {"RLSCALE_STUDY": str(study), "PYTHONPATH": str(REPO)}
    command = [sys.executable, "-m", "analysis.hparams", "name=a", *LEVELS, "replace=true"]
    done = subprocess.run(command, cwd=elsewhere, env=environment, capture_output=True, text=True)
    assert done.returncode == 0 and done.stderr == "", done.stderr
    wanted = f"python -m analysis.hparams name=a '{LEVELS[0]}' {LEVELS[1]}"
    assert json.loads((study / "fits/a/hparams.json").read_text())["provenance"]["command"] == wanted
    assert list(elsewhere.iterdir()) == []
    option = study / "conf" / "hparams" / "fitted" / "a.yaml"
    assert option.read_text().startswith(f"# Fitted by: {wanted}\n")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "words", "part"),
    [
        ("hparams", ("name=a", "metrik=x"), "metrik=x: there is no such key"),
        ("hparams", ("name=a", "reference=gmy"), "did you mean gym?"),
        ("plan", ("name=a", "compute=1e15", "tarjet=700"), "did you mean target?"),
        ("plan", ("name=a", "compute=1e15", "target=700"), "python -m analysis.laws"),
        ("laws", ("name=a",), "run a sweep first"),
    ],
)
def test_the_real_command_line(tmp_path: Path, name: str, words: tuple[str, ...], part: str) -> None:
    environment = os.environ | {"RLSCALE_STUDY": str(tmp_path / "study"), "PYTHONPATH": str(REPO)}
    command = [sys.executable, "-m", f"analysis.{name}"]
    done = subprocess.run([*command, *words], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 2 and part in done.stderr and done.stderr.count("\n") == 1, done.stderr
    assert list(tmp_path.iterdir()) == []
    shown = subprocess.run([*command, "--help"], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert shown.returncode == 0 and f"python -m analysis.{name} name=" in shown.stdout


def test_draws_depend_on_the_configuration_alone(tmp_path: Path, reference: Reference) -> None:
    """Neither another task in the study nor another seed of the bootstrap may leak in."""
    World(utds=("1",), batch_sizes=(128, 256), learning_rates=(3e-4, 6e-4)).write_grid(tmp_path)
    both = load(tmp_path, Select(None, None, None, None, None))
    one = load(tmp_path, Select(None, None, ("pendulum",), None, None))
    first = crossings(both, reference, "train_return", Bootstrap(20, 0, False), tracked)
    alone = crossings(one, reference, "train_return", Bootstrap(20, 0, False), tracked)
    kept = first.take(first.cells["task"] == "pendulum")
    np.testing.assert_array_equal(kept.draws, alone.draws)
    other = crossings(one, reference, "train_return", Bootstrap(20, 1, False), tracked)
    np.testing.assert_array_equal(other.point, alone.point)
    assert not np.array_equal(other.draws, alone.draws)


def test_a_configuration_that_diverged_at_once_counts_as_never_reaching(tmp_path: Path, reference: Reference) -> None:
    steps = np.arange(100, 1001, 100)
    asked = {"hparams": "constant", "sweep": None}
    for seed in range(2):
        good = np.linspace(-1250, -150, 10)
        write_run(tmp_path, "pendulum", "1", 64, 1e-3, seed, steps, good, asked, 1000)
    bad = np.full(10, np.nan)
    write_run(tmp_path, "pendulum", "1", 64, 1e-3, 2, steps, bad, asked, 1000, status="diverged")
    found = crossings(
        load(tmp_path, Select(None, None, None, None, None)),
        reference,
        "train_return",
        Bootstrap(20, 0, False),
        tracked,
    )
    assert found.cells["n_seeds"].item() == 3 and found.cells["n_diverged"].item() == 1
    assert np.isinf(found.point[0, -1]) and np.isfinite(found.point[0, 0])  # a third of the mean is the floor

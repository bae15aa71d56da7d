"""Studies of several model sizes through the doors: known laws are found again, each task its own."""

from __future__ import annotations

import json
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from analysis.records import Select, common_spec, load
from rlscale.hparams import Laws
from tests.analysis.conftest import Done
from tests.analysis.synthetic import SizeWorld, critic_size, write_run

Door = Callable[..., Done]
FEW = "bootstrap.draws=20"
LEVELS = "reference.thresholds=[500,700]"  # each costs a fit for every task and draw


@pytest.fixture(scope="module")
def world() -> SizeWorld:
    return SizeWorld()


@pytest.fixture(scope="module")
def grid(tmp_path_factory: pytest.TempPathFactory, world: SizeWorld, door: Door) -> Path:
    """A study with the grid of `world` and its fit `size`; read only."""
    root = tmp_path_factory.mktemp("sized")
    world.write_grid(root)
    done = door("hparams", root, "name=size", "select.sweep=grid", FEW)
    assert done.returncode == 0, done.stderr
    return root


@pytest.fixture(scope="module")
def fitted(tmp_path_factory: pytest.TempPathFactory, world: SizeWorld) -> Path:
    """A study with the fitted sweep of `world`; read only but for its fits."""
    root = tmp_path_factory.mktemp("fitted")
    world.write_fitted(root)
    return root


def read(root: Path, file: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((root / "fits" / "size" / file).read_text())
    return found


def test_each_task_gets_its_own_batch_law(grid: Path, world: SizeWorld) -> None:
    """(The public proposals used one task's law for two others.)"""
    found = read(grid, "hparams.json")
    assert found["size"] is True and found["widths"]["pendulum"] == {str(w): critic_size(w) for w in world.widths}
    for row in found["proposals"]:
        if row["variant"] == "baseline":
            continue
        want = world.batch_law(row["task"], row["utd"], row["width"])
        assert row["batch_size"] == pytest.approx(want, rel=0.35, abs=9), row  # the grid has steps of 2
        assert row["learning_rate"] == 3e-4
    by_task = {t: [r["batch_size"] for r in found["proposals"] if r["task"] == t] for t in world.data}
    assert by_task["pendulum"] != by_task["cartpole_swingup"]
    shared = found["laws"]["shared"]["batch_size"]
    assert shared["a"]["pendulum"] > 1.5 * shared["a"]["cartpole_swingup"]
    low, high = shared["alpha_ci95"]
    assert low < 0.4 < high


def test_an_emitted_option_is_evaluated_at_the_jobs_own_size(grid: Path, world: SizeWorld, hydra: None) -> None:
    from hydra import compose
    from hydra.core.hydra_config import HydraConfig
    from omegaconf import OmegaConf

    from rlscale.job import job_from

    found = read(grid, "hparams.json")
    text = (grid / "conf" / "hparams" / "fitted" / "size.yaml").read_text()
    made: Any = OmegaConf.to_container(OmegaConf.create(text))
    option = Laws(made["variant"], made["variants"])
    for row in found["proposals"]:
        laws = Laws(row["variant"], option.variants)
        utd, n = Fraction(row["utd"]), row["n_params"]
        assert laws.batch(utd, row["task"], lambda n=n: n) == row["batch_size"]
        assert laws.rates(utd, row["task"], lambda n=n: n) == (row["learning_rate"],)
    words = ["benchmark=control", "benchmark.task=pendulum", "utd=2"]
    sizes = {}
    for width in (16, 128):
        config = compose("train", [*words, f"algorithm.width={width}"], return_hydra_config=True)
        HydraConfig.instance().set_config(config)
        data: Any = OmegaConf.to_container(config)
        data.pop("hydra")
        job = job_from({**data, "hparams": made}, {}, [])
        n = job.learner().n_params["critic"]
        assert job.spec.batch_size == option.batch(Fraction(2), "pendulum", lambda n=n: n)
        sizes[width] = job.spec.batch_size
    assert sizes[128] > sizes[16]


def test_the_emitted_sweep_asks_for_the_widths(grid: Path) -> None:
    text = (grid / "conf" / "sweep" / "fitted" / "size.yaml").read_text()
    assert 'algorithm.width: "128,64,32,16"' in text and "hparams: fitted/size" in text
    assert "32 jobs, 128 runs: 2 tasks × 4 σ × 4 widths, 4 seeds in each job" in text


@pytest.mark.slow
def test_the_data_law_is_found_again(fitted: Path, world: SizeWorld, door: Door) -> None:
    done = door("laws", fitted, "name=size", FEW, LEVELS)
    assert done.returncode == 0, done.stderr
    found = read(fitted, "laws.json")
    assert found["size"] is True and found["fit_utds"] == ["1/2", "1", "2", "4"]
    rows = [r for r in found["data"] if r["threshold"] == 700.0]
    assert {r["task"] for r in rows} == {"pendulum", "cartpole_swingup", "average"}
    for row in rows:
        for point in row["points"] if row["task"] != "average" else ():
            want = world.data_law(row["task"], point["utd"], point["width"])
            assert point["law"] == pytest.approx(want, rel=0.12) and point["reached"]
            assert point["batch_size"] == pytest.approx(
                world.batch_law(row["task"], point["utd"], point["width"]), abs=8.1
            )
    assert found["errors"]["fit"]["mean"] < 0.1 and list(found["errors"]) == ["fit"]
    for task, law in found["compute"]["batch"].items():
        if task != "average":
            assert law["alpha"] == pytest.approx(0.4, abs=0.05)
    with np.load(fitted / "fits" / "size" / "laws_draws.npz") as draws:
        assert draws["size/data/pendulum"].shape == (20, len(found["thresholds"]), 5)
        spread = np.log(draws["size/data/pendulum"][:, -1, 0]).std()
        assert 0 < spread < 1
    again = door("laws", fitted, "name=size", FEW, LEVELS)
    assert again.returncode == 0 and read(fitted, "laws.json") == found  # the same bytes, or it would have refused


@pytest.mark.slow
def test_other_splits_are_predicted_and_not_fitted(fitted: Path, door: Door, tmp_path: Path) -> None:
    SizeWorld().write_fitted(tmp_path)
    beyond = SizeWorld(utds=("8",), widths=(256,))
    beyond.write_fitted(tmp_path, split="extrapolate")
    done = door("laws", tmp_path, "name=size", FEW, LEVELS, "holdout=[4]")
    assert done.returncode == 0, done.stderr
    found = read(tmp_path, "laws.json")
    assert set(found["errors"]) == {"fit", "extrapolate"} and found["errors"]["extrapolate"]["published"] == 0.18
    assert found["fit_utds"] == ["1/2", "1", "2"]
    held = {(h["utd"], h["width"]) for h in found["holdout"]}
    assert ("8", 256) in held and ("4", 16) in held and len(held) == 5
    for h in found["holdout"]:
        assert abs(h["signed_error"]) < 0.4
    assert "8" in done.stdout and "extrapolate" in done.stdout


@pytest.mark.slow
def test_runs_of_another_split_are_never_fitted(fitted: Path, door: Door, tmp_path: Path) -> None:
    """Not even at a (σ, N) that was fitted too, where they are faster than what was fitted."""
    SizeWorld().write_fitted(tmp_path)
    fast = SizeWorld(utds=("1",), widths=(32,), data={"pendulum": (400.0, 1.0, 0.8, 600.0, 1.0)})
    fast.write_cell(tmp_path, "pendulum", "1", 32, 512, {"hparams": "constant", "sweep": None, "split": "baseline"})
    assert door("laws", tmp_path, "name=size", FEW, LEVELS).returncode == 0
    assert door("laws", fitted, "name=alone", FEW, LEVELS).returncode == 0
    found, alone = read(tmp_path, "laws.json"), json.loads((fitted / "fits" / "alone" / "laws.json").read_text())
    assert found["data"] == alone["data"]
    assert {(h["split"], h["utd"], h["width"]) for h in found["holdout"]} == {("baseline", "1", 32)}


@pytest.mark.parametrize("name", ["hparams", "laws"])
def test_there_must_be_something_to_fit(name: str, door: Door, tmp_path: Path) -> None:
    SizeWorld(utds=("1",), widths=(16, 32)).write_fitted(tmp_path, split="extrapolate")
    done = door(name, tmp_path, "name=size", FEW)
    assert done.returncode == 2 and "no selected run is" in done.stderr and "split=fit" in done.stderr
    assert not (tmp_path / "fits").exists()


@pytest.mark.slow
def test_a_ratio_that_is_only_predicted_is_not_proposed(
    grid: Path, world: SizeWorld, door: Door, tmp_path: Path
) -> None:
    world.write_grid(tmp_path)
    SizeWorld(utds=("8", "16", "32"), widths=(16,)).write_fitted(tmp_path, split="extrapolate")
    assert door("hparams", tmp_path, "name=size", FEW).returncode == 0
    found, alone = read(tmp_path, "hparams.json"), read(grid, "hparams.json")
    assert [found[part] for part in ("laws", "baseline", "proposals")] == [
        alone[part] for part in ("laws", "baseline", "proposals")
    ]


@pytest.mark.slow
def test_larger_sizes_can_be_held_out(fitted: Path, door: Door) -> None:
    done = door("laws", fitted, "name=small", FEW, LEVELS, f"size.fit_up_to={critic_size(64)}")
    assert done.returncode == 0, done.stderr
    found = json.loads((fitted / "fits" / "small" / "laws.json").read_text())
    assert {h["width"] for h in found["holdout"]} == {128} and len(found["holdout"]) == 2 * 4 * len(found["thresholds"])
    assert found["errors"]["extrapolate"]["mean"] < 0.2


MISTAKES = {
    "compat=qscaled": "compat=qscaled: the selected runs differ in model size",
    "holdout=most_data": "holdout=most_data: with several model sizes list σ",
    "holdout=[16]": "holdout=16: no selected run has this σ",
    "size.levels={rule: best}": "size.levels.rule=best: there is no such rule; choose one of",
    "size.resets=-1": "size.resets=-1: give gradient steps above 0, logged, or null",
}


@pytest.mark.parametrize("word", MISTAKES)
def test_mistakes(fitted: Path, door: Door, word: str) -> None:
    done = door("laws", fitted, "name=other", FEW, LEVELS, word)
    assert done.returncode == 2 and MISTAKES[word] in done.stderr
    assert not (fitted / "fits" / "other").exists()


def test_one_size_has_no_law_in_it(tmp_path: Path, door: Door) -> None:
    write_run(tmp_path, "pendulum", "1", 64, 3e-4, 0, np.array([500.0, 1000.0]), np.array([-900.0, -300.0]), {}, 1000)
    done = door("laws", tmp_path, "name=size", "compat=model_scaling")
    assert done.returncode == 2 and "have one model size" in done.stderr


def test_runs_may_differ_in_what_makes_the_size_and_in_nothing_else(fitted: Path) -> None:
    everything = Select(None, None, None, None, None)
    spec = common_spec(load(fitted, everything))
    assert "width" not in spec["algorithm"] and spec["algorithm"]["name"] == "sac"

"""Studies as they come: ragged, thin, broken. Through the door: a fit where one is possible, otherwise one sentence."""

from __future__ import annotations

import json
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.analysis.conftest import Done
from tests.analysis.synthetic import World, raw, write_run

Door = Callable[..., Done]
WORDS = ("name=a", "reference.thresholds=[300,500,700]", "bootstrap.draws=20")
ASKED = {"hparams": "constant", "sweep": None}
UTDS = ("1/2", "1", "2", "4")


def study(
    root: Path, utds: tuple[str, ...] = UTDS, tasks: tuple[str, ...] = ("pendulum", "cartpole_swingup"), seeds: int = 3,
    change: Callable[[str, str, int, np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]] | None = None,
) -> None:  # fmt: skip
    """One setting for each (task, σ), D_700 as in `World`; `change` (task, utd, seed, steps, value) spoils a run."""
    world = World()
    rng = np.random.default_rng(0)
    for task in tasks:
        for utd in utds:
            data = world.data_law(utd) * (30.0 if task == "cartpole_swingup" else 3.0)  # ten times the scale
            for seed in range(seeds):
                steps = 1000.0 * np.arange(1, 501)
                mine = data * np.exp(0.05 * rng.standard_normal())
                value = np.minimum(1000.0, 700.0 * (steps / mine) ** (1 / 1.5)) + 10 * rng.standard_normal(500)
                if change is not None:
                    steps, value = change(task, utd, seed, steps, value)
                write_run(root, task, utd, 128, 3e-4, seed, steps, raw(task, value), ASKED, 500_000, log_every=1000)


def laws(root: Path, door: Door, *words: str) -> dict[str, Any]:
    done = door("laws", root, *WORDS, *words)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads((root / "fits/a/laws.json").read_text())
    return found


def close(found: dict[str, Any], share: float = 0.25) -> None:
    """The law at σ = 2 over the law at σ = 1/2 as it truly is, within `share`."""
    top = found["data"][-1]
    at = {p["utd"]: p["law"] for p in top["points"]}
    world = World()
    assert at["1/2"] / at["2"] == pytest.approx(world.data_law("1/2") / world.data_law("2"), rel=share)
    assert all(low <= p["law"] <= high for p in top["points"] for low, high in [p["law_ci95"]])


def spoil_rows(_task: str, _utd: str, seed: int, steps: np.ndarray, value: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """NaN rows, a step twice, steps in the wrong order, a seed that ends early, a seed with steps of its own."""
    if seed == 0:
        value = np.where(np.arange(500) % 7 == 3, np.nan, value)
    elif seed == 1:
        steps, value = np.insert(steps, 5, steps[5])[::-1], np.insert(value, 5, value[5])[::-1]
    else:
        steps, value = steps[:450] + 1, value[:450]
    return steps, value


def test_spoilt_rows_still_make_a_fit(tmp_path: Path, door: Door) -> None:
    study(tmp_path, change=spoil_rows)
    close(laws(tmp_path, door))


@pytest.mark.parametrize(("tasks", "seeds"), [(("pendulum",), 3), (("pendulum", "cartpole_swingup"), 1)])
def test_one_task_or_one_seed_is_enough(tmp_path: Path, door: Door, tasks: tuple[str, ...], seeds: int) -> None:
    study(tmp_path, tasks=tasks, seeds=seeds)
    close(laws(tmp_path, door))


def test_budgets_that_end_before_the_level_are_bounds(tmp_path: Path, door: Door) -> None:
    """At the smallest σ nothing reaches 700: no point there, and the law is not pulled down to where the runs ended."""

    def short(_task: str, utd: str, _seed: int, steps: np.ndarray, value: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return (steps[:20], value[:20]) if utd == "1/2" else (steps, value)

    study(tmp_path, utds=(*UTDS, "8"), change=short)
    found = laws(tmp_path, door)
    first = found["data"][-1]["points"][0]
    assert not first["reached"] and first["law"] > first["data"]
    close(found, 0.35)


def test_a_ragged_grid_says_what_it_leaves_out(tmp_path: Path, door: Door) -> None:
    study(tmp_path)
    study(tmp_path, utds=("8",), tasks=("pendulum",))
    found = laws(tmp_path, door)
    assert any("σ=8" in d["what"] and "pendulum only" in d["reason"] for d in found["dropped"])
    assert [Fraction(u) for u in found["fit_utds"]] == [Fraction(u) for u in UTDS]


def test_what_cannot_be_fitted_is_one_sentence(tmp_path: Path, door: Door) -> None:
    study(tmp_path / "one", utds=("1",))
    study(tmp_path / "low", change=lambda _t, _u, _s, steps, value: (steps, 0.2 * value))
    study(tmp_path / "nothing", change=lambda _t, _u, _s, steps, value: (steps, np.full(len(value), np.nan)))
    for name, part in (("one", "at least 3 levels of σ"), ("low", "is reached at 3 σ"), ("nothing", "has a value")):
        done = door("laws", tmp_path / name, *WORDS)
        assert done.returncode == 2 and part in done.stderr and done.stderr.count("\n") == 1, (name, done.stderr)
        assert not (tmp_path / name / "fits").exists()
    done = door("laws", tmp_path / "one", *WORDS, "law=shifted_pwoer")
    assert done.returncode == 2 and "did you mean shifted_power" in done.stderr


OTHERS = ("shifted_power", "inverse", "plateau", "log_quadratic", "power")


@pytest.mark.parametrize("law", ["shifted_prior", *(pytest.param(law, marks=pytest.mark.slow) for law in OTHERS)])
def test_each_law_can_be_asked_for(tmp_path: Path, door: Door, law: str) -> None:
    study(tmp_path)
    found = laws(tmp_path, door, f"law={law}", "average=arithmetic", "interpolate=true", "holdout=[4]")
    assert [m["law"] for m in found["data"][0]["members"]] == [law] and len(found["holdout"]) == 3


def test_hold_outs_by_a_word(tmp_path: Path, door: Door) -> None:
    study(tmp_path, utds=(*UTDS, "8"))
    for word, held in (("most_data", ["1/2", "1"]), ("most_compute", ["4", "8"])):
        found = laws(tmp_path, door, f"holdout={word}", "replace=true")
        assert sorted({h["utd"] for h in found["holdout"]}, key=Fraction) == held
        assert len(found["tasks"]) == 6 and {t["task"] for t in found["tasks"]} == {"pendulum", "cartpole_swingup"}
    done = door("laws", tmp_path, *WORDS, "holdout=most_dta", "replace=true")
    assert done.returncode == 2 and "did you mean most_data" in done.stderr

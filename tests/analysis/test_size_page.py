"""The page of a fit with model size: every figure for every task, what is missing said, the same bytes again."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from analysis.figures import size
from analysis.size_fitted import size_fitted
from tests.analysis.conftest import Done
from tests.analysis.sized import CONSTANT, LAWFUL, LAWS
from tests.analysis.test_report import Page

Door = Callable[..., Done]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("page")
    CONSTANT.write(root, "c")
    LAWFUL.write(root, "l")
    return root


def written(door: Door, root: Path, name: str) -> Page:
    done = door("report", root, f"name={name}")
    assert done.returncode == 0, done.stderr
    return Page((root / "fits" / name / "report.html").read_text())


def changed(root: Path, name: str, change: Callable[[dict[str, Any]], None]) -> None:
    path = root / "fits" / name / "laws.json"
    laws = json.loads(path.read_text())
    change(laws)
    path.write_text(json.dumps(laws))


def test_every_task_has_its_figures(door: Door, root: Path) -> None:
    page = written(door, root, "c")
    assert not page.faults and not page.open
    chapters = re.findall(r"<h2>(.*?)</h2>", page.text)
    assert chapters == [
        "Laws", "Predicted and obtained", "The average task", "pendulum", "cartpole_swingup", "What was left out",
        "How to reproduce",
    ]  # fmt: skip
    assert len(page.all("figure")) == 3 * (4 + 1 + 4)  # levels, map, budget laws
    ids = [attrs["id"] for _, attrs in page.tags if attrs.get("id")]
    assert len(ids) == len(set(ids))
    assert "whatever the bound" in page.words and "Batch size against" not in page.words
    assert "D*(F) is nearly F/δ, whatever the runs" in page.words and "No setting was held out" in page.words


@pytest.mark.slow
def test_a_law_of_the_batch_size_is_drawn_and_the_line_is_not(door: Door, root: Path) -> None:
    page = written(door, root, "l")
    assert len(page.all("figure")) == 3 * (4 + 1 + 4 + 1)
    assert "Batch size against model size" in page.words and "whatever the bound" not in page.words
    assert "54000" in page.words or "5.4e+04" in page.words  # cartpole_swingup's own law


@pytest.mark.slow
def test_what_is_not_there_is_left_out_or_said(door: Door, tmp_path: Path) -> None:
    replace(CONSTANT, delta=None).write(tmp_path, "bare")
    page = written(door, tmp_path, "bare")
    assert len(page.all("figure")) == 3 * (4 + 1) and "a star a level" not in page.words
    one = {task: {400.0: levels[400.0]} for task, levels in LAWS.items()}
    replace(CONSTANT, laws=one).write(tmp_path, "one")
    page = written(door, tmp_path, "one")
    assert written(door, tmp_path, "one").text == page.text  # the same bytes again
    assert len(page.all("figure")) == 3 * (1 + 1 + 4) and "one threshold has a law" in page.words
    assert "R²" not in page.words


@pytest.mark.slow
def test_held_out_missed_and_unfitted_settings_are_marked(door: Door, tmp_path: Path) -> None:
    CONSTANT.write(tmp_path, "marked")

    def change(laws: dict[str, Any]) -> None:
        laws["data"][0]["points"][0] |= {"held_out": True}
        laws["data"][0]["points"][1] |= {"reached": False}
        laws["data"][0]["points"][2] |= {"reached": False, "data": None}
        for row in laws["data"]:
            if row["task"] == "pendulum":
                row.update(dict.fromkeys(("c", "a", "alpha", "b", "beta")))
        unseen = {"task": "cartpole_swingup", "threshold": 400.0, "utd": "1", "width": 64, "n_params": 9090.0}
        unseen |= {"split": "interpolate", "predicted": 5.5, "interval95": [4, 6], "at_least": 9.0}
        unseen |= {"observed": 5.0, "reached": True, "signed_error": 0.1}
        missed = unseen | {"observed": None, "reached": False, "signed_error": None}
        laws["holdout"] = [unseen, missed | {"split": "extrapolate"}]
        laws["errors"] = {"interpolate": {"tasks": {"cartpole_swingup": 0.1}, "mean": 0.1, "published": 0.149}}

    changed(tmp_path, "marked", change)
    page = written(door, tmp_path, "marked")
    assert "held out of the law" in page.words and "not reached within" in page.words
    assert "pendulum has no law at any level" in page.words
    assert "Settings that no fit saw" in page.words and "[4, 6]" in page.words and "> 9" in page.words
    assert "1 of 1 measured values lie inside their 95 % intervals" in page.words and "14.9%" in page.words
    assert "Predicted against measured" in page.words


def test_many_levels_are_thinned_and_both_ends_kept(tmp_path: Path) -> None:
    levels = {float(t): replace(LAWS["pendulum"][400.0], c=1e3 * t) for t in range(100, 600, 25)}
    replace(CONSTANT, laws={"pendulum": levels}).write(tmp_path, "many")
    fit = size_fitted(tmp_path, "many")
    plate = size.data(fit.subjects["pendulum"], [r for r in fit.laws["data"] if r["task"] == "pendulum"])
    titles = [p.title for p in plate.panels]
    assert len(titles) == size.MOST and titles[0] == "J = 100" and titles[-1] == "J = 575"
    assert "6 of 20 levels are shown" in plate.caption


def test_the_map_shows_the_trained_range_and_what_lies_outside_it(tmp_path: Path) -> None:
    far = {"pendulum": {400.0: replace(LAWS["pendulum"][400.0], a=1e3), 500.0: LAWS["pendulum"][500.0]}}
    replace(CONSTANT, laws=far).write(tmp_path, "far")
    fit = size_fitted(tmp_path, "far")
    plate = size.best_settings(fit.subjects["pendulum"], fit.laws["budget"]["pendulum"])
    assert "1 of 2 stars lie outside what was trained" in plate.caption
    assert [k.label for k in plate.keys][:2] == ["equal data", "trained range"]
    assert np.isfinite([p["utd"] for p in fit.laws["budget"]["pendulum"]["points"]]).all()

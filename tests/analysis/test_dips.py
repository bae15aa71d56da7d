"""Rows that count: the resets as logged or inferred, and each task's last step."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from analysis.dips import counted, logged_resets
from analysis.records import Select, Study, load
from tests.analysis.synthetic import critic_size, raw, write_run

STEPS = np.arange(1000.0, 11000.0, 1000.0)
# falls from 400 at the reset after 4,000 steps and is back at 8,000
RETURNS = np.array([100.0, 200.0, 300.0, 400.0, 50.0, 100.0, 300.0, 500.0, 600.0, 700.0])


@pytest.fixture
def study(tmp_path: Path) -> Study:
    """Two sizes of one task: the larger has the dip."""
    for width, values in ((16, np.sort(RETURNS)), (32, RETURNS)):
        write_run(
            tmp_path, "pendulum", "1/2", 64, 3e-4, 0, STEPS, raw("pendulum", values), {}, 10_000,
            width=width, critic=critic_size(width),
        )  # fmt: skip
    return load(tmp_path, Select(None, None, None, None, None), optional=("reset",))


def steps_left(study: Study, width: int) -> list[int]:
    run = study.runs.loc[study.runs["width"] == width, "run_id"].iloc[0]
    return list(study.curves.loc[study.curves["run_id"] == run, "env_step"])


def test_inferred_resets(study: Study) -> None:
    found = counted(study, "train_return", 2250, None)  # gradient steps: env step 4,500 and 9,000 at σ = 1/2
    assert steps_left(found, 32) == [1000, 2000, 3000, 4000, 8000, 9000, 10000]
    assert steps_left(found, 16) == list(STEPS)


def test_logged_resets(study: Study) -> None:
    reset = np.where(study.curves["env_step"] == 5000, 1.0, 0.0)
    found = counted(replace(study, curves=study.curves.assign(reset=reset)), "train_return", "logged", None)
    assert steps_left(found, 32) == [1000, 2000, 3000, 4000, 8000, 9000, 10000]
    nothing = counted(study, "train_return", "logged", None)
    assert len(nothing.curves) == 20  # nobody logged one
    assert list(logged_resets(STEPS[:3], np.array([0.0, 2.0, np.nan]))) == [1500.0]


def test_no_resets_and_last_steps(study: Study) -> None:
    assert len(counted(study, "train_return", None, None).curves) == 20
    assert steps_left(counted(study, "train_return", None, {"pendulum": 3500.0}), 32) == [1000, 2000, 3000]
    assert steps_left(counted(study, "train_return", None, {"other": 1.0, "default": 2000.0}), 16) == [1000, 2000]
    assert len(counted(study, "train_return", None, {"other": 1.0}).curves) == 20

"""The hyperparameter law with an offset (D.2, D.3): recovered where there is one, and what a job makes of it."""

from __future__ import annotations

import json
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml

from analysis import emit
from analysis.batch import fitted_laws
from analysis.best import Best
from analysis.fits import power_laws
from analysis.offset import as_json, fit, offset_laws, value
from analysis.propose import proposals
from analysis.uncertainty import Bootstrap
from rlscale.hparams import Laws, OffsetLaw, PowerLaw
from rlscale.typed import typed
from tests.analysis.conftest import Done

SIGMA = np.array([0.25, 0.5, 1, 2, 4, 8, 16])


def best_of(truth: dict[str, tuple[float, float]], exponent: float, noise: float, sigma: np.ndarray = SIGMA) -> Best:
    rng = np.random.default_rng(0)
    rows = [(t, str(s), s, o + i * s**exponent) for t, (o, i) in truth.items() for s in sigma]
    table = pd.DataFrame(rows, columns=["task", "utd", "sigma", "value"])
    return Best(table, table["value"].to_numpy()[:, None] * np.exp(noise * rng.standard_normal((len(rows), 30))), [])


def test_an_offset_is_recovered_together_and_apart() -> None:
    truth = {"a": (50.0, 300.0), "b": (80.0, 150.0)}
    shared, separate, notes = offset_laws(best_of(truth, -0.8, 0.02), Bootstrap(30, 0, False), "batch_size")
    for law in (shared, separate):
        assert law.slope == pytest.approx([-0.8, -0.8], abs=1e-3)
        for t, (offset, intercept) in enumerate(truth.values()):
            entry = as_json(law, shared=law is shared)
            task = law.tasks[t]
            assert entry["offset"][task] == pytest.approx(offset, rel=1e-3)
            assert entry["intercept"][task] == pytest.approx(intercept, rel=1e-3)
            low, high = entry["offset_ci95"][task]
            assert 0.7 * offset < low < offset < high < 1.3 * offset
    assert len(notes) == 1 and "the offset law is off by 0%" in notes[0]


def test_without_an_offset_it_is_the_power_law_and_three_sigmas_leave_none_of_its_own() -> None:
    best = best_of({"a": (0.0, 300.0)}, -0.5, 0.0, SIGMA[:3])
    shared, separate, notes = offset_laws(best, Bootstrap(30, 0, False), "batch_size")
    plain, _, _ = power_laws(best, Bootstrap(30, 0, False), "batch_size")
    sigma = np.array([0.25, 1.0, 8.0])
    theta = np.array([shared.slope[0], shared.log_offset[0], shared.log_intercept[0]])
    fitted = value(theta, np.log(sigma), np.zeros(3, dtype=int))
    assert np.exp(fitted) == pytest.approx(plain.value(sigma)[0], rel=2e-3)
    assert separate.slope[0] == shared.slope[0] and "a has 3 σ" in notes[0] and len(notes) == 1
    np.testing.assert_array_equal(separate.log_offset_draws, shared.log_offset_draws)


def test_the_fit_is_at_a_minimum() -> None:
    rng = np.random.default_rng(1)
    x, member = np.tile(np.log(SIGMA), 2), np.repeat([0, 1], 7)
    y = np.log(np.array([50.0, 20.0])[member] + 300 * np.exp(-0.7 * x)) + 0.1 * rng.standard_normal(14)
    theta = fit(x, y, member)
    best, *near = (
        float(np.sum((value(theta + step, x, member) - y) ** 2))
        for step in np.concatenate([np.zeros((1, 5)), np.eye(5), -np.eye(5)]) * 1e-3
    )
    assert min(near) >= best - 1e-10


def test_a_job_evaluates_the_emitted_offset_law() -> None:
    law = OffsetLaw(-0.5, {"a": 300.0}, {"a": 40.0})
    rate = PowerLaw(-0.3, {"a": 1e-3})
    text = emit.hparams_option([], "shared", {"shared": {"batch_size": law, "learning_rate": rate}})
    read = yaml.safe_load(text)
    read.pop("_target_")
    option = typed(Laws, read, "hparams")
    assert option.batch(Fraction(4), "a") == 192  # 40 + 300 / 2 = 190, rounded to 16
    assert option.rates(Fraction(1), "a") == (1e-3,)
    assert proposals({"shared": {"batch_size": law, "learning_rate": rate}}, [Fraction(4)])[0]["batch_size"] == 192


@pytest.mark.slow
def test_the_door_fits_writes_and_reads_offset_laws(grid: Path, door: Callable[..., Done], tmp_path: Path) -> None:
    (tmp_path / "runs").symlink_to(grid / "runs")
    words = ("name=a", "reference.thresholds=[300,500]", "bootstrap.draws=20", "law=offset")
    done = door("hparams", tmp_path, *words, "compat=qscaled")
    assert done.returncode == 2 and "law=offset: compat=qscaled" in done.stderr
    done = door("hparams", tmp_path, *words)
    assert done.returncode == 0, done.stderr
    assert "value(σ) = offset + intercept · σ^exponent" in done.stdout
    assert "the offset law is off by" in done.stdout
    laws = fitted_laws(json.loads((tmp_path / "fits/a/hparams.json").read_text()), "shared")
    assert all(type(law) is OffsetLaw for law in laws.values())
    option = yaml.safe_load((tmp_path / "conf/hparams/fitted/a.yaml").read_text())
    assert {"exponent", "intercept", "offset"} == set(option["variants"]["separate"]["learning_rate"])
    assert {"exponent", "intercept"} == set(option["variants"]["baseline"]["learning_rate"])

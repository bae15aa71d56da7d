"""compat=qscaled: each choice of the public code by hand, what is refused, and the doors with their file formats."""

from __future__ import annotations

import json
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from analysis import compat_qscaled, compat_qscaled_laws
from analysis.batch import BatchLaws
from analysis.compat_qscaled_laws import parts
from analysis.compat_qscaled_rows import keep_rows, middle_settings, without_resets
from analysis.correlation import correlation
from analysis.curves import Crossings, Curve, Reference
from analysis.records import Select, load
from rlscale.typed import Mistake
from tests.analysis.conftest import Done
from tests.analysis.synthetic import World, write_run

CELLS = ["task", "utd", "sigma", "batch_size", "learning_rate", "n_seeds", "n_diverged", "t_max"]
EVERY = Select(None, None, None, None, None)


def crossed(cells: list[tuple[str, str, int, float]], draws: np.ndarray, thresholds: tuple[float, ...]) -> Crossings:
    """Crossings with draws [n, K, J] and the first draw as the point."""
    rows = [(t, u, float(Fraction(u)), b, lr, 5, 0, 1e6) for t, u, b, lr in cells]
    curves = [Curve(np.arange(2.0), np.zeros((2, 1)))] * len(rows)
    return Crossings(
        pd.DataFrame(rows, columns=CELLS),
        np.array(thresholds),
        draws[:, 0].astype(float),
        draws.astype(float),
        curves,
        [],
    )


def test_who_never_reaches_the_level_votes_for_the_smallest_value() -> None:
    """B5. Two learning rates × two batch sizes; the second learning rate never reaches the level."""
    cells = [("a", "1", b, lr) for lr in (1e-4, 1e-3) for b in (64, 256)]
    inf = np.inf
    draws = np.array([[9, 9, 9, 5], [5, 5, 5, 5], [inf] * 4, [inf] * 4])[:, :, None]
    best = compat_qscaled.best(crossed(cells, draws, (700.0,)), "batch_size", "last")
    row = best.table.iloc[0]
    # group 1e-4 picks 256, 256, 256 and, in the tie, the smaller; group 1e-3 has four votes for 64 that nobody earned
    assert list(best.draws[0]) == [160, 160, 160, 64] and row["value"] == 136
    assert row["share"] == 0.5 and not row["reached"] and row["at_low"] == 5 / 8


def test_resamples_are_plain_counts() -> None:
    weights = compat_qscaled.Resamples(5000, 0, tasks=False).weights(4, "a")
    assert weights.shape == (5000, 4) and set(np.unique(weights * 4)) == {0, 1, 2, 3, 4}
    np.testing.assert_array_equal(weights.sum(axis=1), 1)
    assert weights.var() == pytest.approx(0.25 * 0.75 / 4, rel=0.05)


def test_a_separate_law_leaves_out_the_largest_sigma_and_says_which_votes_are_empty() -> None:
    """B2."""
    table = pd.DataFrame(
        [("a", u, s, v, w, 700.0) for u, s, v, w in (("1", 1.0, 4e-4, 1), ("2", 2.0, 2e-4, 1), ("4", 4.0, 9.0, 0.75))],
        columns=["task", "utd", "sigma", "value", "share", "threshold"],
    )
    best = compat_qscaled.Best(table, np.repeat(table["value"].to_numpy()[:, None], 30, axis=1), [])
    shared, separate, notes = compat_qscaled.power_laws(best, "learning_rate")
    assert separate.slope[0] == pytest.approx(-1) and separate.log_intercept[0] == pytest.approx(np.log(4e-4))
    assert shared.slope[0] > 1
    assert len(notes) == 1 and "σ=4 25% of the votes" in notes[0] and "(B5)" in notes[0]


def test_the_baseline_is_the_first_of_the_fastest_and_its_sigma_the_middle_of_what_is_predicted() -> None:
    cells = [("a", "2", 64, 1e-4), ("a", "2", 64, 1e-3), ("a", "2", 256, 1e-4), ("b", "2", 64, 1e-4)]
    draws = np.array([[9.0], [5], [5], [np.inf]])[:, :, None]
    pairs = compat_qscaled.baseline(crossed(cells, draws, (700.0,)), "2", "last")
    assert pairs.values.tolist() == [["a", 64, 1e-3]]  # nothing of b reached the level: no row, where that code fails
    powers = [Fraction(2) ** k for k in range(-2, 11)]
    assert compat_qscaled.middle([Fraction(u) for u in (1, 2, 4, 8)], powers) == 8
    assert compat_qscaled.middle([Fraction(u) for u in (1, 2, 4, 8)], powers[:7]) == 2


def test_the_middle_setting_of_each_task_and_sigma_stands_for_it() -> None:
    star = [(64, 2e-4), (91, 2e-4), (45, 2e-4), (64, 1e-4), (64, 4e-4)]
    cells = [("a", "1", b, lr) for b, lr in star] + [("b", "1", 64, 1e-4), ("b", "1", 128, 2e-4), ("b", "1", 32, 4e-4)]
    kept, dropped = middle_settings(crossed(cells, np.ones((8, 2, 1)), (700.0,)))
    assert kept.cells[["task", "batch_size", "learning_rate"]].values.tolist() == [["a", 64, 2e-4]]
    assert len(dropped) == 7 and sum("no other is" in why for _, why in dropped) == 3  # b has no run at both middles


def test_rows_after_a_reset_are_left_out_until_the_return_is_back() -> None:
    """B3, by hand: resets at 40 and 80; one row is passed over at the start of each stretch."""
    steps = np.arange(10.0, 121, 10)
    mean = np.array([1.0, 2, 3, 8, 1, 4, 6, 9, 0, 0, 1, 2])
    kept = keep_rows(steps, mean, np.full(12, 1.0), 40)
    # before the first reset all but one; then from 6 + 1 >= 8 - 1 on; after the second never again
    assert list(steps[kept]) == [20, 30, 40, 70, 80]
    assert keep_rows(steps, mean, np.full(12, 1.0), 500).all()


def test_resets_are_counted_in_gradient_steps(tmp_path: Path) -> None:
    steps = np.arange(100, 1001, 100)
    asked = {"hparams": "constant", "sweep": None}
    dip = np.array([-1250.0, -900, -600, -300, -1200, -1000, -250, -200, -180, -160])
    for utd in ("1", "2"):
        for seed in range(2):
            write_run(tmp_path, "pendulum", utd, 64, 1e-3, seed, steps, dip + seed, asked, 1000)
    study = load(tmp_path, EVERY)
    left = without_resets(study, "train_return", 900.0)
    rows = left.curves.merge(study.runs[["run_id", "utd"]]).groupby("utd")["env_step"].apply(lambda s: sorted(set(s)))
    assert rows["1"] == [200, 300, 400, 500, 600, 700, 800, 900]  # a reset at 900: the one row after it is passed over
    assert rows["2"] == [200, 300, 400, 700, 800, 900]  # at 450 and 900
    assert len(left.curves) == 2 * (8 + 6) and len(study.curves) == 40


def averaged(curve: Callable[[float], float], utds: tuple[str, ...], thresholds: tuple[float, ...]) -> Crossings:
    """Two tasks, the second half as fast, D = 1e4 · curve(σ) · J/500 without noise."""
    cells = [(t, u, 64, 1e-3) for t in "ab" for u in utds]
    data = [[[1e4 * (1 + (t == "b")) * curve(float(Fraction(u))) * j / 500 for j in thresholds]] for t, u, *_ in cells]
    return crossed(cells, np.repeat(np.array(data), 20, axis=1), thresholds)


BATCH = BatchLaws(
    ("a", "b"), np.zeros(2), np.log([64.0, 64.0]), np.zeros((20, 2)), np.log(np.full((20, 2), 64.0)), "-", []
)
REFERENCE = Reference("r", {"default": 0.0}, {"default": 1.0}, (500.0, 600.0), 1e4, 1e7)
UTDS = ("1/4", "1/2", "1", "2", "4", "8")


def laws_of(data: Crossings, holdout: tuple[Fraction, ...] = ()) -> tuple[dict, dict]:
    return parts("qscaled", data, holdout, BATCH, REFERENCE, 1e4, 0, lambda items, _n, _label: items)


def test_the_fit_is_written_in_the_houses_form_and_predicts_what_was_held_out() -> None:
    result, arrays = laws_of(averaged(lambda s: 1 + (0.8 / s) ** 1.2, UTDS, (500.0, 600.0)), (Fraction(8),))
    for row, factor in zip(result["data"], (1.0, 1.2), strict=True):
        assert row["beta"] == pytest.approx(0.8, rel=1e-3) and row["alpha"] == pytest.approx(1.2, rel=1e-3)
        assert row["d_min"] == pytest.approx(1.5e4 * factor, rel=1e-3)  # M is the median of medians 1 and 2
        assert [p["held_out"] for p in row["points"]] == [False] * 5 + [True]
    assert arrays["data"].shape == (2, 20, 3)
    np.testing.assert_allclose(
        arrays["data"][1, 3], [result["data"][1][k] for k in ("d_min", "beta", "alpha")], rtol=1e-3
    )
    assert len(result["holdout"]) == 2 and all(abs(h["signed_error"]) < 1e-3 for h in result["holdout"])
    assert result["fit_utds"] == list(UTDS[:-1]) and result["compat"]["name"] == "qscaled"
    for p in result["budget"]["points"]:
        assert p["budget"] == pytest.approx(p["compute"] + 1e7 * p["data"])


def test_a_fit_without_a_lower_limit_is_listed_and_not_written_as_a_law(monkeypatch: pytest.MonkeyPatch) -> None:
    """B8: nothing keeps a and c above 0."""
    ends = iter([(np.array(abc), 0.01, 1.0) for abc in ((0.5, 1.0, -0.1), (0.5, 1.0, 0.4), (-0.5, 1.0, 0.4))])
    monkeypatch.setattr(compat_qscaled_laws, "fit", lambda x, y, form: next(ends))
    monkeypatch.setattr(compat_qscaled_laws, "refine", lambda start, x, y, form: (start, 0.01))
    result, arrays = laws_of(averaged(lambda s: 3 - np.log(s), UTDS, (500.0, 600.0)))
    assert [row["threshold"] for row in result["data"]] == [600] and arrays["data"].shape == (1, 20, 3)
    assert [d["what"] for d in result["dropped"]] == ["the law of J=500"] and "c=-0.1" in result["dropped"][0]["reason"]
    assert [p["threshold"] for p in result["budget"]["points"]] == [500, 600]  # σ*(F) needs no d_min
    with pytest.raises(Mistake, match="no threshold's fit falls to a d_min above 0"):
        laws_of(averaged(lambda s: 3 - np.log(s), UTDS, (500.0,)))


def test_one_setting_that_never_reaches_a_level_is_refused_with_the_levels_that_are_left() -> None:
    """B7: that code then returns [0.4, 0, 0.4] for every threshold."""
    data = averaged(lambda s: 1 + 1 / s, UTDS, (500.0, 600.0))
    data.point[3, 1] = np.inf
    with pytest.raises(Mistake, match=r"a does not reach 600 .* reference.thresholds=\[500\]"):
        laws_of(data)
    with pytest.raises(Mistake, match=r"holdout=\[16\]"):
        laws_of(data, (Fraction(16),))


def test_correlation_of_the_best_values() -> None:
    rng = np.random.default_rng(0)
    keys = [(t, u) for t in "ab" for u in ("1", "2", "4", "8")]
    sigma = np.array([float(u) for _, u in keys])
    common = rng.normal(size=(8, 40))
    found = {}
    for q, sign in (("batch_size", 1), ("learning_rate", -1)):
        draws = np.exp(sign * common - 0.5 * np.log(sigma)[:, None] * 3)
        table = pd.DataFrame(keys, columns=["task", "utd"]).assign(sigma=sigma, value=draws[:, 0])
        found[q] = compat_qscaled.Best(table, draws, [])
    result = correlation(found)
    assert result["points"] == 8 and result["given_sigma"]["r"] == pytest.approx(-1)  # opposite about their laws …
    a, b = (np.log(found[q].table["value"]) for q in found)
    assert (
        result["measured"]["r"] == pytest.approx(np.corrcoef(a, b)[0, 1]) and result["measured"]["r"] > 0
    )  # … alike in σ
    one = {q: compat_qscaled.Best(best.table.iloc[:2], best.draws[:2], []) for q, best in found.items()}
    assert correlation(one) == {"points": 2, "measured": None, "given_sigma": None}
    flat = found | {
        "batch_size": compat_qscaled.Best(found["batch_size"].table.assign(value=64.0), np.full((8, 40), 64.0), [])
    }
    assert correlation(flat)["measured"] is None


LEVELS = ("reference.thresholds=[300,500]", "bootstrap.draws=20", "compat=qscaled")


@pytest.mark.slow
def test_the_hparams_door_under_compat(grid: Path, world: World, door: Callable[..., Done], tmp_path: Path) -> None:
    (tmp_path / "runs").symlink_to(grid / "runs")
    done = door("hparams", tmp_path, "name=a", *LEVELS)
    assert done.returncode == 0, done.stderr
    fitted = json.loads((tmp_path / "fits/a/hparams.json").read_text())
    assert fitted["provenance"]["compat"] == "qscaled" and fitted["provenance"]["average"] == "arithmetic"
    assert fitted["laws"]["shared"]["batch_size"]["exponent"] == pytest.approx(world.b[1], abs=0.15)
    assert fitted["correlation"]["points"] == 8 and "correlation of ln B* and ln η*" in done.stdout
    before = sorted(p for p in tmp_path.rglob("*") if "runs" not in p.parts)
    for words, part in (
        (("threshold=reachable",), "threshold=reachable: compat=qscaled decides at one level"),
        (("compat=qscale",), "compat=qscale: there is no such choice"),
    ):
        done = door("hparams", tmp_path, "name=b", *LEVELS, *words)
        assert done.returncode == 2 and part in done.stderr and done.stderr.count("\n") == 1, done.stderr
    done = door("laws", tmp_path, "name=b", "resets=1e6", *LEVELS[:2])
    assert done.returncode == 2 and "resets=1e+06" in done.stderr
    assert before == sorted(p for p in tmp_path.rglob("*") if "runs" not in p.parts)


@pytest.mark.slow
def test_laws_plan_and_report_under_compat(grid: Path, door: Callable[..., Done], tmp_path: Path) -> None:
    (tmp_path / "runs").symlink_to(grid / "runs")
    assert door("hparams", tmp_path, "name=a", *LEVELS).returncode == 0
    done = door("laws", tmp_path, "name=a", *LEVELS, "reference.thresholds=[500]")
    assert done.returncode == 0, done.stderr
    laws = json.loads((tmp_path / "fits/a/laws.json").read_text())
    assert laws["compute"]["batch_size"]["source"] == "hparams.json, shared"
    assert {"schema", "name", "data", "compute", "budget", "holdout", "notes", "dropped"} <= set(laws)
    assert len(laws["dropped"]) == 2 * 4 * 15  # of 16 settings of each task and σ the middle one stands
    assert door("report", tmp_path, "name=a").returncode == 0
    top = laws["data"][0]
    done = door("plan", tmp_path, "name=a", "target=500", f"data={top['points'][1]['data']}")
    assert done.returncode == 0 and "interpolated" in done.stdout, done.stderr

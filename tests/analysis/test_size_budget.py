"""The cheapest settings of each level and power laws through them, beside what says little and what says nothing."""

from __future__ import annotations

from collections.abc import Callable
from math import exp, log
from typing import Any

import numpy as np
import pytest

from analysis.allocate import Box
from analysis.size_budget import power_law, r2, size_budget, widened
from analysis.size_laws import SizeBatchLaw, SizeDataLaw
from analysis.uncertainty import Floats
from tests.analysis.sized import BATCHES, LAWS, WIDTHS

TRAINED = Box((1.0, 8.0), (min(WIDTHS.values()), max(WIDTHS.values())))
NAMES = ("utd", "n_params", "data", "compute")


def rows(laws: dict[float, SizeDataLaw]) -> Floats:
    return np.array([[v.c, v.a, v.alpha, v.b, v.beta] for v in laws.values()])


def budget(laws: dict[float, SizeDataLaw], **given: Any) -> dict[str, Any]:
    drawn = np.stack([rows(laws) * f for f in (0.98, 1.0, 1.03)])
    chosen = {
        "draws": drawn, "batch": 256.0, "batch_draws": None, "delta": 1e11, "trained": TRAINED, "extend": 4.0,
        "held": 1,
    } | given  # fmt: skip
    return size_budget(laws, **chosen)


def test_every_optimum_is_the_cheapest_of_its_level_and_says_where_it_lies() -> None:
    for batch in (256.0, BATCHES["pendulum"]):
        found = budget(LAWS["pendulum"], batch=batch)
        for p in found["points"]:
            law = LAWS["pendulum"][p["threshold"]]
            sigma, n = np.meshgrid(np.geomspace(0.25, 32, 400), np.geomspace(6e5 / 4, 3.4e7 * 4, 400))
            size = batch(sigma, n) if isinstance(batch, SizeBatchLaw) else batch
            data = law(sigma, n)
            least = ((10 * size * sigma * n + 1e11) * data).min()
            assert p["budget"] <= least * (1 + 1e-12) and p["budget"] == pytest.approx(least, rel=1e-3)
            assert p["budget"] == pytest.approx(p["compute"] + 1e11 * p["data"])
            assert p["data_share"] == pytest.approx(1e11 * p["data"] / p["budget"])
            assert p["inside"] == TRAINED.holds(p["utd"], p["n_params"])
            outside = [part["side"] is not None for part in p["beyond"].values()]
            assert p["inside"] == (not any(outside))
            assert p["utd_ci95"][0] <= p["utd"] <= p["utd_ci95"][1] and p["draws"] == 3
    assert [p["held_out"] for p in found["points"]] == [False, False, False, True]


@pytest.mark.parametrize("name", ["ms_06_compute_optimal_line_dmc.json"])
def test_optima_lie_on_the_golden_lines(golden: Callable[[str], Any], name: str) -> None:
    for case in golden(name)["cases"]:
        law, want = SizeDataLaw(**case["params"]), case["expected"]
        for delta in (1e9, 1e11, 1e13):
            found = budget({1.0: law, 2.0: law}, delta=delta, extend=np.inf)
            for p in found["points"]:
                line = want["slope"] * log(p["n_params"]) + want["intercept"]
                assert log(p["utd"]) == pytest.approx(line, abs=1e-12)


def test_the_follow_ups_power_laws_are_polyfit_on_all_but_the_last_five_levels(golden: Callable[[str], Any]) -> None:
    """METHOD B's recipe on its own twenty fits: unbounded, B = 256, R² over all levels; δ·D is 72–90 % of F."""
    for suite in golden("ms_04_dfit_averaged_20_thresholds.json")["suites"].values():
        laws = {
            float(t["idx"]): SizeDataLaw(**{k: t["expected_params"][k] for k in ("c", "a", "alpha", "b", "beta")})
            for t in suite["thresholds"]
        }
        found = budget(laws, extend=np.inf, held=5)
        total = np.log([p["budget"] for p in found["points"]])
        for name in NAMES:
            y = np.log([p[name] for p in found["points"]])
            slope, intercept = np.polyfit(total[:-5], y[:-5], 1)
            law = found["laws"][name]
            assert law["exponent"] == pytest.approx(slope, rel=1e-9)
            assert law["coefficient"] == pytest.approx(exp(intercept), rel=1e-7)
            residual = y - (slope * total + intercept)
            assert law["r2_all"] == pytest.approx(1 - (residual**2).sum() / ((y - y.mean()) ** 2).sum(), rel=1e-9)
            held, fitted = y[-5:], y[:-5]
            want = 1 - (residual[-5:] ** 2).sum() / ((held - held.mean()) ** 2).sum()
            assert law["r2_held_out"] == pytest.approx(want, rel=1e-9)
            assert law["error_constant"] == pytest.approx(np.sqrt(((held - fitted.mean()) ** 2).mean()))
        assert found["laws"]["data"]["r2_all"] > 0.97 and found["laws"]["utd"]["r2_all"] < 0.5
        shares = [p["data_share"] for p in found["points"]]
        assert 0.7 < min(shares) and max(shares) < 0.91
        assert sum("nearly F/δ" in note for note in found["notes"]) == 1
        assert any("no better than a constant" in note for note in found["notes"])


def test_data_that_follow_the_budget_by_definition_are_seen_through() -> None:
    """Where δ is everything, D*(F) is exact and so is the constant share: nothing was learnt from the runs."""
    found = budget(LAWS["pendulum"], delta=1e18)
    assert found["laws"]["data"]["r2"] > 0.999
    assert found["laws"]["data"]["error_share"] < 0.01 < found["laws"]["data"]["error_constant"]


def test_a_box_without_the_optimum_is_filled_to_its_end_and_that_is_said() -> None:
    narrow = Box((0.1, 0.15), (1e5, 2e5))
    found = budget(LAWS["pendulum"], trained=narrow, extend=1.0)
    assert all(p["at_end"] == ["utd", "n_params"] and p["inside"] for p in found["points"])
    assert sum("is an end of the range searched" in note for note in found["notes"]) == 2
    wide = budget(LAWS["pendulum"], trained=narrow, extend=1e3)
    assert all(not p["at_end"] and p["beyond"]["n_params"]["side"] == "above" for p in wide["points"])
    factor = wide["points"][0]["beyond"]["n_params"]["factor"]
    assert factor == pytest.approx(wide["points"][0]["n_params"] / 2e5) and factor > 1


def test_draws_without_a_law_are_left_out() -> None:
    drawn = np.stack([rows(LAWS["pendulum"])] * 4)
    drawn[0, 1] = np.nan
    found = budget(LAWS["pendulum"], draws=drawn)
    assert [p["draws"] for p in found["points"]] == [4, 3, 4, 4]
    assert found["laws"]["utd"]["ci95"]["exponent"] == pytest.approx([found["laws"]["utd"]["exponent"]] * 2, rel=0.3)
    priced = np.array([[1500.0, 0.4, 8e5, 1.5]] * 4)
    priced[3] = np.nan
    found = budget(LAWS["pendulum"], draws=drawn, batch=BATCHES["pendulum"], batch_draws=priced)
    assert [p["draws"] for p in found["points"]] == [3, 2, 3, 3]


def test_levels_in_any_order_and_one_alone() -> None:
    turned = dict(reversed(LAWS["pendulum"].items()))
    assert budget(turned)["points"] == budget(LAWS["pendulum"])["points"]
    one = budget({400.0: LAWS["pendulum"][400.0]})
    assert one["laws"] == {} and one["notes"] == ["one threshold has a law: power laws in F need two"]


def test_without_bounds_there_must_be_an_optimum() -> None:
    for given in ({"delta": 0.0}, {"batch": BATCHES["pendulum"]}):
        with pytest.raises(ValueError, match="without bounds"):
            budget(LAWS["pendulum"], extend=np.inf, **given)
    assert widened(TRAINED, 2.0).sigma == (0.5, 16.0)


def test_power_laws_leave_out_what_is_missing() -> None:
    x = np.array([[1e3, 1e4, 1e5, 1e6], [1e3, 1e3, 1e3, np.nan]])
    coefficient, exponent = power_law(x, 3.0 * x**0.5)
    assert (coefficient[0], exponent[0]) == pytest.approx((3.0, 0.5))
    assert np.isnan(exponent[1])  # one budget only
    y = np.array([1.0, 2.0, 4.0])
    assert r2(y, y) == 1.0 and r2(y, np.full(3, y.mean())) == 0.0
    assert np.isnan(r2(y[:1], y[:1])) and np.isnan(r2(np.ones(3), y))

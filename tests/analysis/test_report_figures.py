"""What the report's figures are made of: colours, ticks, staircases, savings, measures of training."""

from __future__ import annotations

import itertools

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from analysis.compare import average_task, constant, savings
from analysis.curves import Crossings, Curve
from analysis.figures import palette
from analysis.figures.canvas import SMALL, canvas, log_ticks, panel, raised, short, styled, themed
from analysis.figures.curves import corners
from analysis.figures.training import training
from analysis.training import Columns, one_run

COLUMNS = Columns(
    ("critic_loss",), ("validation_critic_loss",), "critic_norm", "grad_norm_small", "grad_norm_big", (64, 1024)
)


def test_every_colour_stands_out_on_its_paper() -> None:
    papers = palette.PAPER, palette.PAIRS[palette.PAPER]
    quiet = {palette.PAPER, palette.GRID}
    for light, dark in palette.PAIRS.items():
        if light not in quiet:
            for colour, paper in zip((light, dark), papers, strict=True):
                least = 4.5 if light in (palette.INK, palette.FAINT, palette.ACCENT, palette.ALARM) else 3.0
                assert palette.contrast(colour, paper) >= least, (colour, paper)


@pytest.mark.parametrize("ramp", ["sigma", "level", "size"])
def test_an_ordered_ramp_gets_lighter_step_by_step_and_its_ends_differ(ramp: str) -> None:
    for count in range(2, 10):
        light = palette.ordered(count, ramp)
        assert len(set(light)) == count and set(light) <= set(palette.PAIRS)
        for shown in (light, [palette.PAIRS[c] for c in light]):
            steps = [palette.luminance(c) for c in shown]
            assert steps[-1] > steps[0]
    assert len(palette.ordered(1, ramp)) == 1


def test_contrast_is_that_of_the_guideline() -> None:
    assert palette.contrast("#000000", "#ffffff") == pytest.approx(21.0)
    assert palette.contrast("#777777", "#ffffff") == pytest.approx(4.48, abs=0.01)


@styled
def drawn(colour: str) -> str:
    fig, ax = canvas(SMALL)
    ax.plot([1, 2], [0.00031, 0.00052], color=colour)
    ax.set_yticks([0.00031, 0.00052])
    return panel(fig, "title", "words").svg


def test_a_drawing_takes_colours_and_font_from_the_page_and_keeps_its_numbers() -> None:
    svg = drawn(palette.ACCENT)
    assert f"var(--c{palette.ACCENT[1:]})" in svg and "#24" not in svg and "DejaVu" not in svg
    assert "0.00031" in svg and "<style" not in svg and "http" not in svg and "<metadata" not in svg
    assert svg == drawn(palette.ACCENT)


def test_a_colour_without_a_dark_twin_is_refused() -> None:
    with pytest.raises(KeyError):
        themed('<svg><path style="fill: #123456"/></svg>')


@given(st.floats(-6, 14), st.floats(0.05, 6))
def test_log_ticks_are_round_few_and_inside(start: float, decades: float) -> None:
    low, high = 10.0**start, 10.0 ** (start + decades)
    ticks = log_ticks(low, high, 3)
    assert len(ticks) <= 7 and all(low <= t <= high for t in ticks) and ticks == sorted(set(ticks))
    assert len(ticks) >= 2 or decades < 0.2


@pytest.mark.parametrize(
    ("value", "text"),
    [(250, "250"), (30_000, "30k"), (1.2e6, "1.2M"), (3e15, "3×10¹⁵"), (1e10, "10¹⁰"), (0.0003, "0.0003"),
     (0.00015, "0.00015"),
     (2e-6, "2×10⁻⁶"), (0.5, "0.5"), (1, "1")],
)  # fmt: skip
def test_numbers_on_axes_are_short(value: float, text: str) -> None:
    assert short(value) == text


def test_powers_are_raised_and_never_minus_nought() -> None:
    assert raised(-0.47) == "⁻⁰·⁴⁷" and raised(-1e-14) == "⁰·⁰⁰"


@given(st.lists(st.integers(0, 3), min_size=2, max_size=30))
def test_a_staircase_keeps_its_shape_without_its_inner_points(rises: list[int]) -> None:
    rising = np.cumsum(rises).astype(float)
    steps = np.arange(len(rising), dtype=float)
    x, y = corners(steps, rising)
    assert np.array_equal(y[np.searchsorted(x, steps, side="right") - 1], rising)
    assert len(x) <= len(np.unique(rising)) + 1


def cells(batch: dict[str, int], data: dict[tuple[str, str], float]) -> Crossings:
    """One level, data[task, σ], the same in all 20 draws."""
    rows = [
        {"task": t, "utd": u, "sigma": float(u), "batch_size": batch[t], "learning_rate": 3e-4, "n_seeds": 2,
         "n_diverged": 0, "t_max": 9e9}
        for t, u in data
    ]  # fmt: skip
    point = np.array(list(data.values()))[:, None]
    empty = Curve(np.empty(0), np.empty((0, 2)))
    return Crossings(
        pd.DataFrame(rows), np.array([700.0]), point, np.repeat(point[:, None], 20, axis=1), [empty] * len(rows), []
    )


def test_a_saving_is_a_geometric_mean_over_the_tasks_that_reach_it_both_ways() -> None:
    base = cells({"a": 128, "b": 256}, {("a", "1"): 200.0, ("b", "1"): 50.0, ("a", "2"): 300.0, ("b", "2"): np.inf})
    fitted = cells({"a": 64, "b": 64}, {("a", "1"): 100.0, ("b", "1"): 100.0, ("a", "2"): 100.0, ("b", "2"): 100.0})
    one, two = savings(base, fitted, 700.0)
    assert (one.utd, one.ratio, one.missed, one.interval) == ("1", pytest.approx(1.0), (), pytest.approx([1.0, 1.0]))
    assert (two.ratio, two.missed, dict(two.tasks)) == (pytest.approx(3.0), ("b",), {"a": pytest.approx(3.0)})
    chosen = constant(base, [{"task": "a", "batch_size": 128, "learning_rate": 3e-4}])
    assert list(chosen.cells["task"]) == ["a", "a"]
    cost, data = average_task(base, {"threshold": 700.0, "scale": {"a": 2.0, "b": 0.5}}, 1e6)
    assert data == pytest.approx([100.0]) and cost == pytest.approx([10 * 1e6 * 192 * 1 * 100.0])


def test_what_a_run_logged_is_summed_up_and_what_it_did_not_is_not_invented() -> None:
    losses = {"critic_loss": [9.0] * 20 + [2.0] * 20, "validation_critic_loss": [1.0] * 20 + [3.0] * 20}
    part = pd.DataFrame({"env_step": range(40), **losses})
    found = one_run(part, COLUMNS)
    assert 1.0 < found["overfitting"] < 1.5 and np.isnan(found["critic_norm"]) and np.isnan(found["critical_batch"])
    sizes = {"grad_norm_small": 64, "grad_norm_big": 1024}
    norms = {name: np.full(40, np.sqrt(3.0 + 600.0 / b)) for name, b in sizes.items()}
    found = one_run(part.assign(critic_norm=7.0, **norms), COLUMNS)
    assert found["critic_norm"] == 7.0 and found["critical_batch"] == pytest.approx(200.0)


def test_training_is_drawn_as_far_as_it_was_logged() -> None:
    rows = [
        {"task": t, "utd": u, "sigma": float(u), "overfitting": 1 + float(u), "critic_norm": 10 * float(u),
         "critical_batch": np.nan}
        for t, u in itertools.product(("a", "b"), ("1", "2", "4"))
    ]  # fmt: skip
    table = pd.DataFrame(rows)
    plate = training(table, {})
    assert plate is not None and [p.title for p in plate.panels] == ["Overfitting", "Critic parameter norm"]
    table["critical_batch"] = np.geomspace(50, 500, 6)
    plate = training(table, {(t, u): 64.0 * float(u) for t in "ab" for u in ("1", "2", "4")})
    assert plate is not None and len(plate.panels) == 4 and "r = " in plate.panels[-1].title
    assert training(table.assign(overfitting=np.nan, critic_norm=np.nan, critical_batch=np.nan), {}) is None

"""Column 0: an env step or a seed? Told by the numbers, never guessed."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from analysis.sources.steps import layout, looks
from rlscale.typed import Mistake
from tests.analysis.archives import returns, stepped

Arrays = dict[str, np.ndarray]


def told(arrays: Arrays, asked: str = "auto") -> str:
    return layout(arrays, asked, 5000, 1000, "x.zip").column  # type: ignore[arg-type]


def test_plain_cases() -> None:
    assert told({"a": stepped(), "b": stepped(5, random=1)}) == "first"
    assert told({"a": returns(), "b": returns(5, random=1)}) == "none"


@pytest.mark.parametrize(
    "steps",
    [
        [1, 1000, 2001, 3001, 4000, 5001],  # jitter of one, as in the Gym runs
        [5000, 7000, 8000, 9000, 13000, 14000],  # gaps where not every seed logged
        [0, 25000, 50000, 75000],
        np.cumsum(np.tile([990, 12, 1700], 10)).tolist(),  # at the ends of episodes
    ],
)
def test_steps_as_they_come(steps: list[int]) -> None:
    assert looks(np.column_stack([steps, returns(len(steps))])) == "first"


@pytest.mark.parametrize(
    ("column", "why"),
    [
        (np.arange(12) * 80.0, "a return that rises like a ruler, but not beyond those beside it"),
        (np.arange(12) * 1.0, "small whole numbers"),
        (np.zeros(12), "never rises"),
        (np.linspace(0.1, 900.3, 12), "a straight line of fractions"),
        (np.where(np.arange(12) < 6, 0.0, 1.0), "a success, once"),
    ],
)
def test_what_may_be_a_return_is_not_taken_for_a_step(column: np.ndarray, why: str) -> None:
    beside = np.column_stack([column, returns(12)])
    assert looks(beside) is None, why
    with pytest.raises(Mistake, match=r"column 0 of odd\.npy .* source\.step_column=first or source\.step_column=none"):
        told({"odd.npy": beside})
    # with others that speak clearly it is a return like theirs
    assert told({"odd.npy": beside, "clear.npy": returns(60, random=5)}) == "none"


def test_columns_that_are_all_alike_say_nothing() -> None:
    ruler = 1000.0 * np.arange(1, 9)
    assert looks(np.column_stack([ruler, ruler, ruler])) is None
    assert looks(ruler[:, None]) is None  # one column: a step without a seed, or a seed


@pytest.mark.parametrize(
    "harm",
    [
        lambda a: np.vstack([a[:4], a[3:]]),  # a step twice
        lambda a: np.vstack([a[:8], a[4:]]),  # a run resumed from an earlier step
        lambda a: a[::-1],  # backwards
        lambda a: np.where(np.arange(len(a))[:, None] == 2, np.nan, a),  # a row of NaN
        lambda a: a[:1],  # one row
    ],
)
def test_a_harmed_step_column_is_never_read_as_a_seed(harm: object) -> None:
    harmed = harm(stepped())  # type: ignore[operator]
    assert looks(harmed) is None
    assert told({"a": stepped(random=3), "b": harmed}) == "first"  # its steps are those of the others
    with pytest.raises(Mistake, match="cannot be told"):
        told({"b": harmed})
    with pytest.raises(Mistake, match="cannot be told"):
        told({"a": returns(), "b": harmed})
    assert told({"b": harmed}, "first") == "first"


def test_two_layouts_in_one_archive_are_refused() -> None:
    with pytest.raises(Mistake, match=r"x\.zip: column 0 is the env step in a and a seed in b"):
        told({"a": stepped(), "b": returns()})


def test_what_was_said_is_held_to() -> None:
    with pytest.raises(Mistake, match=r"x\.zip: a: column 0 is not whole env steps"):
        told({"a": returns()}, "first")
    with pytest.raises(Mistake, match="one column cannot be"):
        told({"a": returns(seeds=1)}, "first")
    steps, seeds = layout({}, "none", 5000, 1000, "x.zip").split(returns(3, 2))
    assert steps.tolist() == [5000, 6000, 7000] and seeds.shape == (3, 2)


@given(st.integers(0, 10**6), st.integers(3, 60), st.integers(1, 12), st.sampled_from([1, 10, 1000]))
def test_noisy_returns_are_never_a_step_column(seed: int, rows: int, seeds: int, unit: int) -> None:
    """Also where they are whole numbers, as in finger-spin."""
    rng = np.random.default_rng(seed)
    rising = np.sort(rng.integers(0, 1000 // unit, (rows, seeds)), axis=0) * unit
    noisy = np.where(rng.random((rows, seeds)) < 0.3, 0, rising).astype(float)
    assert looks(noisy) != "first" or (np.diff(noisy[:, 0]) > 0).all()
    if rows > 8:  # in a few rows a seed may happen to rise like a counter
        assert looks(np.column_stack([1000 * np.arange(1, rows + 1), noisy])) == "first"

"""typed: what is accepted, what it becomes, and that every mistake is a sentence with key, value and mend."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlscale.typed import Mistake, absent_at, convert, described, nearest, typed


@dataclass(frozen=True)
class Thing:
    width: int
    rate: float
    utd: Fraction
    name: str
    flag: bool
    mode: Literal["once", "always"]
    layers: tuple[int, ...]
    every: int | None
    exponent: float | Mapping[str, float]
    anything: Any

    def __post_init__(self) -> None:
        if self.width <= 0:
            raise ValueError(f"width={self.width}: give a positive number")


GOOD: dict[str, Any] = {
    "width": 256,
    "rate": 3e-4,
    "utd": "1/4",
    "name": "sac",
    "flag": True,
    "mode": "once",
    "layers": [256, 256],
    "every": None,
    "exponent": -0.3,
    "anything": [1],
}


def test_values_become_the_fields_types() -> None:
    thing = typed(Thing, GOOD, "thing")
    assert thing == Thing(256, 3e-4, Fraction(1, 4), "sac", True, "once", (256, 256), None, -0.3, [1])
    assert typed(Thing, GOOD | {"exponent": {"Ant-v4": -0.3}}, "thing").exponent == {"Ant-v4": -0.3}


@pytest.mark.parametrize(
    ("hint", "spellings", "value"),
    [
        (int, [1000000, 1e6, "1e6", "1000000"], 1000000),
        (float, [3e-4, "3e-4", "0.0003", "3.0e-4"], 0.0003),
        (float, [1, 1.0, "1", "1e0"], 1.0),
        (Fraction, [0.25, "0.25", "1/4", "2/8", "25e-2"], Fraction(1, 4)),
        (Fraction, [2, 2.0, "2", "2/1"], Fraction(2)),
        (int | None, [5, "5", 5.0], 5),
    ],
)
def test_one_number_however_spelt(hint: Any, spellings: list[Any], value: Any) -> None:
    for spelling in spellings:
        got = convert(spelling, hint, "key")
        assert got == value
        assert type(got) is type(value)


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_a_float_survives_its_text(x: float) -> None:
    assert convert(repr(x), float, "key") == x


@given(st.fractions())
def test_a_fraction_survives_its_text(x: Fraction) -> None:
    assert convert(str(x), Fraction, "key") == x


@pytest.mark.parametrize(
    ("key", "value", "mend"),
    [
        ("width", 2.5, "256"),
        ("width", "wide", "256"),
        ("width", True, "256"),
        ("width", None, "256"),
        ("width", -1, "positive"),
        ("width", float("inf"), "256"),
        ("rate", "fast", "3e-4"),
        ("rate", False, "3e-4"),
        ("rate", [1e-3], "3e-4"),
        ("utd", "1/0", "1/4"),
        ("utd", "a/b", "1/4"),
        ("name", 3, "word"),
        ("flag", "yes", "true or false"),
        ("flag", 1, "true or false"),
        ("mode", "onse", "did you mean once?"),
        ("mode", "zzz", "choose one of always, once"),
        ("layers", 256, "[256]"),
        ("every", "often", "256"),
    ],
)
def test_a_wrong_value_is_one_sentence(key: str, value: Any, mend: str) -> None:
    with pytest.raises(Mistake) as caught:
        typed(Thing, GOOD | {key: value}, "thing")
    said = str(caught.value)
    assert said.startswith(f"thing.{key}={value}: ")
    assert mend in said
    assert "\n" not in said


def test_a_misspelt_key_names_the_nearest() -> None:
    with pytest.raises(Mistake, match=r"thing\.witdh=64: there is no such key; did you mean width\?"):
        typed(Thing, GOOD | {"witdh": 64}, "thing")


def test_an_unknown_key_lists_all_keys() -> None:
    with pytest.raises(Mistake) as caught:
        typed(Thing, GOOD | {"qqq": 64}, "thing")
    assert all(key in str(caught.value) for key in GOOD)


@pytest.mark.parametrize("key", GOOD)
def test_every_key_is_needed(key: str) -> None:
    with pytest.raises(Mistake, match=rf"thing\.{key} is not set"):
        typed(Thing, {k: v for k, v in GOOD.items() if k != key}, "thing")


def test_nearest() -> None:
    assert nearest("HalfCheeta-v4", ["HalfCheetah-v4", "Ant-v4"]) == "did you mean HalfCheetah-v4?"
    assert nearest("x", ["b", "a"]) == "choose one of a, b"


def test_a_field_that_came_later_is_described_only_away_from_its_old_value() -> None:
    @dataclass(frozen=True)
    class Grown:
        name: str
        backend: str = field(metadata=absent_at("python"))

    assert described(Grown("gym", "python")) == {"name": "gym"}
    assert described(Grown("gym", "envpool")) == {"name": "gym", "backend": "envpool"}
    with pytest.raises(Mistake, match=r"^benchmark\.backend is not set"):  # a record may lack it, a config may not
        typed(Grown, {"name": "gym"}, "benchmark")

"""hparams: constants, laws and tables, and that the shipped options hold the published numbers."""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from omegaconf import OmegaConf

from rlscale.hparams import Constant, Laws, PowerLaw, round_batch_size, round_learning_rate
from rlscale.typed import Mistake, typed

CONF = Path(__file__).resolve().parent.parent / "conf" / "hparams"
SHIPPED = sorted(str(p.relative_to(CONF).with_suffix("")) for p in CONF.rglob("*.yaml"))

ratios = st.fractions(min_value=Fraction(1, 64), max_value=64, max_denominator=64)


def option(name: str, **overrides: Any) -> Any:
    """The shipped option conf/hparams/<name>.yaml as its dataclass, as a door would build it."""
    values: Any = OmegaConf.to_container(OmegaConf.load(CONF / f"{name}.yaml"), resolve=True)
    module, _, cls = values.pop("_target_").rpartition(".")
    return typed(getattr(importlib.import_module(module), cls), values | overrides, "hparams")


def tasks(laws: Laws, variant: str) -> set[str]:
    """The tasks of one variant; both quantities must know the same ones."""
    known = [set(q.get("table") or q["intercept"]) for q in laws.variants[variant].values()]
    assert known[0] == known[1]
    return known[0]


# Constants


def test_a_constant_ignores_the_ratio_and_the_task() -> None:
    constant = Constant(256, 3e-4)
    assert constant.batch(Fraction(1, 4), "a") == constant.batch(Fraction(16), "b") == 256
    assert constant.rates(Fraction(1, 4), "a") == (3e-4,)


def test_learning_rates_in_brackets_are_members() -> None:
    assert Constant(256, ["1e-4", 3e-4]).rates(Fraction(1), "a") == (1e-4, 3e-4)


@pytest.mark.parametrize(
    ("constant", "key", "value", "mend"),
    [
        (Constant([128, 256], 3e-4), "batch_size", "[128,256]", "-m hparams.batch_size=128,256"),
        (Constant("big", 3e-4), "batch_size", "big", "256"),
        (Constant(2.5, 3e-4), "batch_size", "2.5", "256"),
        (Constant(256, "fast"), "learning_rate", "fast", "3e-4"),
        (Constant(256, [1e-4, "fast"]), "learning_rate", "fast", "3e-4"),
    ],
)
def test_a_wrong_constant_is_one_sentence(constant: Constant, key: str, value: str, mend: str) -> None:
    ask: Callable[[Fraction, str], Any] = constant.batch if key == "batch_size" else constant.rates
    with pytest.raises(Mistake) as caught:
        ask(Fraction(1), "a")
    assert str(caught.value).startswith(f"hparams.{key}={value}: ")
    assert mend in str(caught.value)


# Laws


@given(st.floats(-1.5, 1.5), st.floats(1e-5, 1e4), ratios, ratios)
def test_a_power_law_is_a_line_in_logarithms(exponent: float, intercept: float, a: Fraction, b: Fraction) -> None:
    law = PowerLaw(exponent, {"t": intercept})
    assert law(1, "t") == intercept
    assert law(a * b, "t") * intercept == pytest.approx(law(a, "t") * law(b, "t"), rel=1e-9)


@given(st.floats(0.01, 1.5), st.floats(1e-5, 1e4), ratios, ratios)
def test_a_falling_law_falls(exponent: float, intercept: float, a: Fraction, b: Fraction) -> None:
    assume(a < b)
    law = PowerLaw({"t": -exponent}, {"t": intercept})
    assert law(a, "t") > law(b, "t")


@given(st.floats(0.1, 1e5))
def test_a_batch_size_is_a_multiple_of_16(value: float) -> None:
    rounded = round_batch_size(value)
    assert rounded % 16 == 0
    assert rounded >= 16
    assert abs(rounded - value) < 9 or rounded == 16
    assert round_batch_size(rounded) == rounded


@given(st.floats(1e-6, 1.0))
def test_a_learning_rate_has_three_digits(value: float) -> None:
    rounded = round_learning_rate(value)
    assert rounded == pytest.approx(value, rel=0.0051)
    assert round_learning_rate(rounded) == rounded
    assert f"{rounded:.2e}" == f"{value:.2e}"


def test_halves_round_to_even_after_truncation() -> None:
    assert [round_batch_size(x) for x in (24.0, 40.0, 24.9, 1.0)] == [32, 32, 32, 16]


LAWS = Laws(
    "law",
    {
        "law": {
            "batch_size": {"exponent": -0.5, "intercept": {"Ant-v4": 400}},
            "learning_rate": {"exponent": {"Ant-v4": 0}, "intercept": {"Ant-v4": 1e-3}},
        },
        "table": {
            "batch_size": {"table": {"Ant-v4": {"1/4": 800, 1: 400, 0.5: 560}}},
            "learning_rate": {"table": {"Ant-v4": {"1": 1e-3}}},
        },
    },
)


def test_laws_evaluate_the_chosen_variant() -> None:
    assert LAWS.batch(Fraction(4), "Ant-v4") == 192  # 200 is 12.5 sixteens, and halves go to even
    assert LAWS.rates(Fraction(4), "Ant-v4") == (1e-3,)
    table = Laws("table", LAWS.variants)
    assert [table.batch(u, "Ant-v4") for u in (Fraction(1, 4), Fraction(1, 2), Fraction(1))] == [800, 560, 400]


@pytest.mark.parametrize(
    ("variant", "utd", "task", "key", "value", "mend"),
    [
        ("tabel", 1, "Ant-v4", "hparams.variant", "tabel", "did you mean table?"),
        ("law", 1, "Ant-v5", "benchmark.task", "Ant-v5", "did you mean Ant-v4?"),
        ("law", 1, "Pendulum-v1", "benchmark.task", "Pendulum-v1", "hparams=constant"),
        ("table", 2, "Ant-v4", "utd", "2", "σ = 1/4, 1/2, 1 only"),
    ],
)
def test_a_wrong_choice_is_one_sentence(variant: str, utd: int, task: str, key: str, value: str, mend: str) -> None:
    with pytest.raises(Mistake) as caught:
        Laws(variant, LAWS.variants).batch(Fraction(utd), task)
    assert str(caught.value).startswith(f"{key}={value}: ")
    assert mend in str(caught.value)


def test_a_misspelt_key_inside_a_law_is_an_error() -> None:
    laws = Laws("law", {"law": {"batch_size": {"exponant": -0.5, "intercept": {"t": 1}}}})
    with pytest.raises(Mistake, match=r"hparams\.variants\.law\.batch_size\.exponant=.*did you mean exponent\?"):
        laws.batch(Fraction(1), "t")


# The shipped options


@pytest.mark.parametrize("name", SHIPPED)
def test_every_shipped_option_works_for_every_task(name: str) -> None:
    laws = option(name)
    if isinstance(laws, Constant):
        assert laws.batch(Fraction(1), "any") > 0
        assert all(rate > 0 for rate in laws.rates(Fraction(1), "any"))
        return
    assert laws.variant in laws.variants
    for variant in laws.variants:
        chosen = option(name, variant=variant)
        for task in tasks(chosen, variant):
            assert chosen.batch(Fraction(1), task) % 16 == 0
            assert 1e-5 < chosen.rates(Fraction(1), task)[0] < 1e-2


@pytest.mark.parametrize("name", [n for n in SHIPPED if n != "constant"])
def test_every_shipped_table_says_its_ratios_as_text(name: str) -> None:
    """To YAML a bare 1/4 is text and a bare 1 a number: all are quoted, so a key is the ratio as people write it."""
    for variant in option(name).variants.values():
        for quantity in variant.values():
            for row in quantity.get("table", {}).values():
                assert all(isinstance(utd, str) and str(Fraction(utd)) == utd for utd in row)


def paper_table(published: Path, number: str) -> dict[tuple[str, Fraction], float]:
    table = json.loads((published / "golden" / "qs_10_paper_tables.json").read_text())["tables"][number]
    return {(task, Fraction(u)): v for task, row in table["v"].items() for u, v in zip(table["utd"], row, strict=True)}


@pytest.mark.parametrize(
    ("name", "batches", "rates"), [("paper/dmc", "T4", "T5"), ("paper/gym", "T6", "T7")], ids=["dmc", "gym"]
)
def test_the_papers_tables_are_exact(published: Path, name: str, batches: str, rates: str) -> None:
    hparams = option(name, variant="table")
    for (task, utd), value in paper_table(published, batches).items():
        assert hparams.batch(utd, task) == value
    for (task, utd), value in paper_table(published, rates).items():
        assert hparams.rates(utd, task) == (value,)


@pytest.mark.parametrize(
    ("name", "number", "derived", "right", "of"),
    [
        ("paper/dmc", "T4", {"dog-stand"}, 36, 36),
        ("paper/dmc", "T4", set(), 42, 42),
        ("paper/gym", "T6", set(), 26, 28),
    ],
)
def test_the_papers_laws_give_its_batch_sizes(
    published: Path, name: str, number: str, derived: set[str], right: int, of: int
) -> None:
    hparams = option(name)
    cells = {k: v for k, v in paper_table(published, number).items() if k[0] not in derived}
    off = {(task, utd): hparams.batch(utd, task) - v for (task, utd), v in cells.items()}
    assert len(cells) == of
    assert sum(gap == 0 for gap in off.values()) == right
    assert max(abs(gap) for gap in off.values()) <= 16  # the others differ by one step of the rounding


@pytest.mark.parametrize(("name", "number", "within"), [("paper/dmc", "T5", 0.005), ("paper/gym", "T7", 0.03)])
def test_the_papers_laws_give_its_learning_rates(published: Path, name: str, number: str, within: float) -> None:
    hparams = option(name)
    for (task, utd), value in paper_table(published, number).items():
        assert hparams.rates(utd, task)[0] == pytest.approx(value, rel=within)


def test_table_2_is_in_the_laws(published: Path) -> None:
    table = json.loads((published / "golden" / "qs_10_paper_tables.json").read_text())["tables"]["T2"]
    for suite in ("dmc", "gym"):
        law = option(f"paper/{suite}").variants["law"]
        for task, (rate, batch, _) in table[suite].items():
            assert law["learning_rate"]["intercept"][task] == rate
            assert law["batch_size"]["intercept"][task] == batch


@pytest.mark.parametrize("kind", ["shared", "separate"])
def test_qscaled_gym_is_its_fit(published: Path, kind: str) -> None:
    fits = json.loads((published / "golden" / "qs_01_linear_fit_gym.json").read_text())["expected"]
    variant = option("qscaled/gym").variants[kind]
    for short, name in (("bs", "batch_size"), ("lr", "learning_rate")):
        assert variant[name]["exponent"] == fits[short][f"{kind}_slope"]
        for task, value in fits[short][f"{kind}_log10_intercept"].items():
            assert variant[name]["intercept"][task] == pytest.approx(10**value, rel=1e-14)


@pytest.mark.parametrize(("kind", "table"), [("shared", "table"), ("separate", "table_separate")])
def test_qscaled_dmc_is_its_fit_and_its_proposals(published: Path, kind: str, table: str) -> None:
    golden = json.loads((published / "golden" / f"qs_02_proposed_hparams_dmc_sweep_{kind}_head.json").read_text())
    law, proposed = (option("qscaled/dmc", variant=v) for v in (kind, table))
    for short, name in (("bs", "batch_size"), ("lr", "learning_rate")):
        entry = law.variants[kind][name]
        for task, value in golden["inputs"][f"{short}_log10_intercept"].items():
            assert entry["intercept"][task] == pytest.approx(10**value, rel=1e-14)
        for task, value in golden["inputs"][f"{short}_slope"].items():
            assert (entry["exponent"][task] if kind == "separate" else entry["exponent"]) == value
    assert len(golden["expected_rows"]) == 49
    for row in golden["expected_rows"]:
        utd, task = Fraction(row["UTD"]), row["Environment"]
        assert law.batch(utd, task) == proposed.batch(utd, task) == row["Batch Size(rounded)"]
        assert law.rates(utd, task) == proposed.rates(utd, task) == (row["Learning Rate"],)

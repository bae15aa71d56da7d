"""spec: a run is named by what it is, not by how that was written."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, fields, replace
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlscale import spec as spec_module
from rlscale.spec import Budget, Member, RunSpec, canonical_json, identity, plain, run_id
from rlscale.typed import Mistake, convert, typed

BUDGET = Budget(env_steps=400, warmup_steps=100, log_every=100, eval_every=200, eval_episodes=1, replay_capacity=None)
SPEC = RunSpec(
    algorithm={"name": "sac", "widths": (256, 256), "discount": 0.99, "actor_updates": "per_update"},
    benchmark={"name": "gym", "task": "Ant-v4", "num_envs": 1},
    utd=Fraction(1, 4),
    batch_size=256,
    budget=BUDGET,
)
MEMBER = Member(seed=0, learning_rate=3e-4)


def spelt(utd: Any, batch_size: Any, learning_rate: Any, seed: Any, budget: Mapping[str, Any]) -> str:
    """The run_id of a run whose values arrive as a person or YAML wrote them."""
    spec = RunSpec(
        algorithm=SPEC.algorithm,
        benchmark=SPEC.benchmark,
        utd=convert(utd, Fraction, "utd"),
        batch_size=convert(batch_size, int, "batch_size"),
        budget=typed(Budget, budget, "budget"),
    )
    return run_id(spec, typed(Member, {"seed": seed, "learning_rate": learning_rate}, "member"))


def test_the_name_ignores_spelling() -> None:
    budget = asdict(BUDGET)
    other = dict(reversed(list(budget.items()))) | {"env_steps": "4e2", "log_every": 100.0}
    names = {
        spelt(utd, batch_size, learning_rate, seed, b)
        for utd in ("1/4", "2/8", 0.25, "0.25")
        for batch_size in (256, "256", 256.0, "2.56e2")
        for learning_rate in (3e-4, 0.0003, "3e-4", "0.0003")
        for seed in (0, "0", 0.0)
        for b in (budget, other)
    }
    assert names == {run_id(SPEC, MEMBER)}


def test_the_name_ignores_the_order_of_keys_and_the_kind_of_number() -> None:
    backwards = replace(
        SPEC,
        algorithm=dict(reversed(list(SPEC.algorithm.items()))),
        benchmark=dict(reversed(list({**SPEC.benchmark, "num_envs": 1.0}.items()))),
    )
    assert run_id(backwards, MEMBER) == run_id(SPEC, MEMBER)
    assert run_id(SPEC, Member(0, 1)) == run_id(SPEC, Member(0, 1.0))


def changes() -> Iterator[tuple[str, RunSpec, Member]]:
    """(name of a field, the run with that field changed), over every field there is."""
    other: dict[str, Any] = {"utd": Fraction(1, 2), "batch_size": 512}
    for field in fields(RunSpec):
        value = getattr(SPEC, field.name)
        if isinstance(value, Mapping):
            for key, old in value.items():
                new = old + 1 if isinstance(old, int | float) else (*old, 256) if isinstance(old, tuple) else old + "x"
                yield f"{field.name}.{key}", replace(SPEC, **{field.name: {**value, key: new}}), MEMBER
            yield f"{field.name}+", replace(SPEC, **{field.name: {**value, "another": 1}}), MEMBER
        elif not isinstance(value, Budget):
            yield field.name, replace(SPEC, **{field.name: other[field.name]}), MEMBER
    budgets = {
        "env_steps": 500,
        "warmup_steps": 50,
        "log_every": 50,
        "eval_every": None,
        "eval_episodes": 2,
        "replay_capacity": 400,
    }
    for field in fields(Budget):
        yield f"budget.{field.name}", replace(SPEC, budget=replace(BUDGET, **{field.name: budgets[field.name]})), MEMBER
    members = {"seed": 1, "learning_rate": 1e-3}
    for field in fields(Member):
        yield f"member.{field.name}", SPEC, replace(MEMBER, **{field.name: members[field.name]})


def test_the_name_sees_every_field() -> None:
    names = {"unchanged": run_id(SPEC, MEMBER)} | {what: run_id(s, m) for what, s, m in changes()}
    same = [(a, b) for a in names for b in names if a < b and names[a] == names[b]]
    assert not same
    assert len(names) == 1 + 4 + 3 + 2 + 2 + len(fields(Budget)) + len(fields(Member))  # a new field cannot hide


def test_the_name_sees_the_version(monkeypatch: pytest.MonkeyPatch) -> None:
    before = run_id(SPEC, MEMBER)
    monkeypatch.setattr(spec_module, "SPEC_VERSION", spec_module.SPEC_VERSION + 1)
    assert run_id(SPEC, MEMBER) != before


def test_the_name_never_changes_by_itself() -> None:
    """If this fails, every recorded run would be run again: was that meant? Then raise SPEC_VERSION."""
    assert run_id(SPEC, MEMBER) == "65fc9c54ad20fa58"


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@given(JSON)
def test_canonical_json_is_one_text_for_one_value(value: Any) -> None:
    text = canonical_json(plain(value))
    assert canonical_json(plain(json.loads(text))) == text
    assert plain(json.loads(text)) == plain(value)


def test_booleans_are_not_numbers_in_a_name() -> None:
    on, one = ({**SPEC.algorithm, "flag": v} for v in (True, 1))
    assert run_id(replace(SPEC, algorithm=on), MEMBER) != run_id(replace(SPEC, algorithm=one), MEMBER)


def test_the_identity_is_plain_json() -> None:
    found = identity(SPEC, MEMBER)
    assert json.loads(json.dumps(found)) == found
    assert found["spec"]["utd"] == "1/4"
    assert found["member"] == {"seed": 0, "learning_rate": 3e-4}
    assert SPEC.task == "Ant-v4"


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_number_that_is_none_cannot_be_part_of_a_name(value: float) -> None:
    with pytest.raises(ValueError, match="cannot be part of a spec"):
        plain({"x": value})


def test_an_object_cannot_be_part_of_a_name() -> None:
    with pytest.raises(TypeError, match="object cannot be part of a spec"):
        plain({"x": object()})


@pytest.mark.parametrize(
    ("key", "value", "mend"),
    [
        ("env_steps", 0, "positive"),
        ("warmup_steps", 0, "above 0"),
        ("warmup_steps", 400, "below env_steps=400"),
        ("log_every", 0, "positive"),
        ("eval_every", 150, "multiple of log_every=100"),
        ("eval_every", -100, "or null"),
        ("eval_episodes", 0, "eval_every=null"),
        ("replay_capacity", 0, "null to keep all"),
    ],
)
def test_a_budget_says_what_is_wrong(key: str, value: int, mend: str) -> None:
    with pytest.raises(Mistake) as caught:
        typed(Budget, asdict(BUDGET) | {key: value}, "budget")
    assert str(caught.value).startswith(f"budget.{key}={value}: ")
    assert mend in str(caught.value)


@pytest.mark.parametrize(
    ("key", "value", "mend"),
    [
        ("seed", -1, "from 0 to"),
        ("seed", 2**31, "from 0 to"),
        ("learning_rate", 0, "positive"),
        ("learning_rate", "inf", "a number"),
        ("learning_rate", "nan", "a number"),
    ],
)
def test_a_member_says_what_is_wrong(key: str, value: Any, mend: str) -> None:
    with pytest.raises(Mistake) as caught:
        typed(Member, {"seed": 0, "learning_rate": 3e-4} | {key: value}, "member")
    assert str(caught.value).startswith(f"member.{key}=")
    assert mend in str(caught.value)


@pytest.mark.parametrize(("key", "value"), [("utd", Fraction(0)), ("utd", Fraction(-1, 4)), ("batch_size", 0)])
def test_a_spec_says_what_is_wrong(key: str, value: Any) -> None:
    with pytest.raises(ValueError, match=f"^{key}={value}: .*; give|^{key}={value}: give"):
        replace(SPEC, **{key: value})

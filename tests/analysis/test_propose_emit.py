"""What is written, byte for byte, and never over another fit."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import yaml

from analysis import emit
from analysis.answer import constant_words
from rlscale.hparams import Laws, PowerLaw
from rlscale.typed import Mistake, typed


def test_the_emitted_option_gives_a_job_the_same_law() -> None:
    rate, size = (
        PowerLaw(-1 / 3, {"a-v4": 3e-4, "b": 1e-5}),
        PowerLaw({"a-v4": -0.1, "b": 0.2}, {"a-v4": 400.0, "b": 64.0}),
    )
    laws = {"shared": {"batch_size": size, "learning_rate": rate}, "separate": {"batch_size": size}}
    read = yaml.safe_load(emit.hparams_option(["a comment"], "shared", laws))  # plain YAML 1.1, stricter than Hydra's
    assert read.pop("_target_") == "rlscale.hparams.Laws"
    option = typed(Laws, read, "hparams")
    assert option.rates(Fraction(8), "a-v4") == (1.5e-4,)
    assert option.variants["shared"]["learning_rate"] == {"exponent": -1 / 3, "intercept": {"a-v4": 3e-4, "b": 1e-5}}
    assert Laws("separate", option.variants).batch(Fraction(1, 4), "a-v4") == 464


def test_the_emitted_sweep_begins_with_the_package_and_repeats_the_learner() -> None:
    spec = {
        "algorithm": {"name": "sac", "width": 64, "rate": 1e-5, "on": True, "word": "no", "sizes": [1, 2]},
        "benchmark": {"name": "gym", "num_envs": 1, "backend": "envpool"},
        "budget": {"env_steps": 1000, "eval_every": None},
    }
    text = emit.sweep_option(["why"], "x", spec, [0, 1], ["a", "b"], [Fraction(1, 4), Fraction(2)])
    assert text.startswith("# @package _global_\n# why\n")
    read = yaml.safe_load(text)
    assert read["defaults"] == [
        {"override /algorithm": "sac"}, {"override /benchmark": "gym"}, {"override /hparams": "fitted/x"}, "_self_",
    ]  # fmt: skip
    assert read["algorithm"] == {"width": 64, "rate": 1e-5, "on": True, "word": "no", "sizes": [1, 2]}
    assert (
        read["benchmark"] == {"num_envs": 1, "backend": "envpool"}
        and read["budget"] == spec["budget"]
        and read["seed"] == [0, 1]
    )
    assert read["hydra"]["sweeper"]["params"] == {"utd": "2,1/4", "benchmark.task": "a,b"}


def test_a_proposed_command_names_every_field_of_the_runs() -> None:
    spec = {"benchmark": {"name": "dmc", "task": "walker-walk", "backend": "envpool"}, "algorithm": {}, "budget": {}}
    words = constant_words({"provenance": {"spec": spec}}, ["utd=2"], 64, 1e-3, ())
    assert words[0] == "benchmark=dmc" and "benchmark.backend=envpool" in words and "utd=2" in words


def test_nothing_is_overwritten_in_silence_and_all_is_written_or_none(tmp_path: Path) -> None:
    a, b = tmp_path / "x" / "a.json", tmp_path / "b.json"
    emit.write({a: "1\n"}, replace=False)
    emit.write({a: "1\n"}, replace=False)  # the same content is fine
    with pytest.raises(Mistake, match="replace=true"):
        emit.write({b: "2\n", a: "3\n"}, replace=False)
    assert a.read_text() == "1\n" and not b.exists()
    emit.write({b: "2\n", a: "3\n"}, replace=True)
    assert a.read_text() == "3\n" and sorted(p.name for p in tmp_path.rglob("*")) == ["a.json", "b.json", "x"]


def test_json_and_npz_are_the_same_bytes_for_the_same_values() -> None:
    assert emit.to_json({"a": float("nan"), "b": np.float64(0.1), "c": Fraction(1, 4)}) == (
        '{\n "a": null,\n "b": 0.1,\n "c": "1/4"\n}\n'
    )
    arrays = {"b": np.arange(3.0), "a/c": np.array(["x"])}
    assert emit.to_npz(arrays) == emit.to_npz(dict(reversed(arrays.items())))


@pytest.mark.parametrize("name", ["../x", "", "a b", "fitted/x", "-x"])
def test_a_name_is_a_file_name(name: str) -> None:
    with pytest.raises(Mistake, match="name="):
        emit.check_name(name)

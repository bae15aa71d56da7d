"""The second paper's three layouts: metrics joined to curves, sizes told, what does not fit together kept apart."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from analysis.records import Select, load
from analysis.sources import Found
from analysis.sources.model_scaling import ModelScaling
from rlscale.typed import Mistake
from tests.analysis.archives import npy, returns, stepped, zip_of
from tests.analysis.conftest import Done

REST = "hard_False_1000_targnoise_none_0_sep_False_w512p1_nstep_1_usenstep_False"
BRO = "fit/w512p2305224/utd_2/h1-crawl-v0/{metric}/bs_112_lr_0.0003_" + REST + ".npy"


def read(path: Path, **more: Any) -> tuple[list[Found], list[tuple[str, str]]]:
    keys: dict[str, Any] = {"metric": None, "column": "eval_return", "step_column": "auto"}
    keys |= {"first_step": 25000, "step_every": 25000, "batch_size": None, "learning_rate": None, "n_params": None}
    return ModelScaling(path=str(path), **(keys | more)).read(lambda items, _n, _label: items)


def test_the_metrics_of_a_configuration_become_one_curve(tmp_path: Path) -> None:
    value, loss = stepped(8, 3, every=25000), stepped(8, 3, 1, every=25000)
    value[5:, 2] = np.nan  # seed 1 stopped early
    loss[:2, 1:] = np.nan  # no update yet
    never = np.column_stack([loss[:, 0], np.full((8, 3), np.nan)])
    files = {"return": value, "critic_loss": loss, "separate_critic_loss": never, "a🦕b": loss}
    found, dropped = read(zip_of(tmp_path / "a.zip", {BRO.format(metric=m): npy(a) for m, a in files.items()}))
    assert [f.seed for f in found] == [0, 1, 2] and dropped == []
    first = found[0]
    assert (first.task, first.utd, first.batch_size, first.learning_rate) == ("h1-crawl-v0", Fraction(2), 112, 3e-4)
    assert dict(first.algorithm_fields) == {"width": 512, "n_params": 2305224}
    assert set(first.curve.columns) == {"env_step", "eval_return", "critic_loss", "separate_critic_loss", "a/b"}
    np.testing.assert_array_equal(first.curve["critic_loss"], loss[:, 1])
    assert found[1].curve["eval_return"].notna().sum() == 5


def test_width_and_size_reach_the_records(tmp_path: Path, door: Callable[..., Done]) -> None:
    path = zip_of(tmp_path / "fit.zip", {BRO.format(metric=m): npy(stepped()) for m in ("return", "critic_loss")})
    words = ("source=model_scaling", f"source.path={path}", "source.benchmark=humanoid_bench", "source.algorithm=bro")
    assert door("ingest", tmp_path, *words).returncode == 0
    study = load(tmp_path, Select("bro", None, None, None, "fit"), ("critic_loss",))
    assert set(study.runs["width"]) == {512} and set(study.runs["n_params"]) == {2305224.0}
    assert study.curves["critic_loss"].notna().all() and study.curves["train_return"].isna().all()


def test_what_is_switched_on_tells_configurations_apart(tmp_path: Path) -> None:
    on = {
        "sep_False_w512p1": {}, "sep_True_w1024p7": {"passive_width": 1024},
        "sep_True_w2048p9": {"passive_width": 2048},
    }  # fmt: skip
    files = {BRO.format(metric="return").replace("sep_False_w512p1", word): npy(stepped()) for word in on}
    files[BRO.format(metric="return").replace("hard_False_1000", "hard_True_500")] = npy(stepped())
    files[BRO.format(metric="return").replace("targnoise_none_0", "targnoise_my_kind_0.1")] = npy(stepped())
    files[BRO.format(metric="return").replace("nstep_1_usenstep_False", "nstep_3_usenstep_True")] = npy(stepped())
    files[BRO.format(metric="return").replace(REST, "something_new_1")] = npy(stepped())
    found, _ = read(zip_of(tmp_path / "a.zip", files))
    fields = [dict(f.algorithm_fields) for f in found if f.seed == 0]
    base = {"width": 512, "n_params": 2305224}
    expected = [base | extra for extra in on.values()]
    expected += [base | {"hard_target_every": 500}, base | {"target_noise": "my_kind", "target_noise_scale": 0.1}]
    expected += [base | {"n_step": 3}, base | {"variant": "something_new_1"}]
    assert sorted(map(repr, fields)) == sorted(map(repr, expected))


def test_a_metric_on_other_steps_is_left_out_and_said(tmp_path: Path) -> None:
    files = {"return": stepped(8), "critic_loss": stepped(9), "val_loss": stepped(8, 4)}
    found, dropped = read(zip_of(tmp_path / "a.zip", {BRO.format(metric=m): npy(a) for m, a in files.items()}))
    assert len(found) == 3 and list(found[0].curve.columns) == ["env_step", "eval_return"]
    assert len(dropped) == 2 and all("its steps or seeds are not those of" in why for _, why in dropped)


def test_simbav2_needs_its_learning_rate(tmp_path: Path) -> None:
    names = {
        f"s/w{w}/utd_4/h1-stand-v0/{m}/bs_256.npy": stepped(50, 2, w, 20000)
        for w in (128, 256)
        for m in ("avg_return", "critic_loss")
    }
    path = zip_of(tmp_path / "s.zip", {name: npy(array) for name, array in names.items()})
    with pytest.raises(Mistake, match=r"source\.learning_rate is not set and s\.zip: .* does not tell it"):
        read(path)
    found, _ = read(path, learning_rate=1e-4)
    assert [(f.algorithm_fields["width"], f.batch_size, f.seed) for f in found] == [
        (128, 256, 0), (128, 256, 1), (256, 256, 0), (256, 256, 1),
    ]  # fmt: skip


def test_the_older_runs_need_b_and_their_rows_are_steps(tmp_path: Path) -> None:
    files = {
        f"ablations_rr/rr{u}_{s}/{t}.npy": npy(returns(40, 10, u))
        for u in (1, 15)
        for s in ("xs", "sm")
        for t in ("dog-run", "b-v2")
    }
    path = zip_of(tmp_path / "old.zip", files | {"ablations_rr/.DS_Store": b"x"})
    with pytest.raises(Mistake, match=r"source\.batch_size is not set"):
        read(path, learning_rate=3e-4)
    found, dropped = read(path, learning_rate=3e-4, batch_size=128)
    assert len(found) == 80 and dropped == []
    assert {(str(f.utd), f.algorithm_fields["size"], f.task) for f in found} == {
        (u, s, t) for u in ("1", "15") for s in ("xs", "sm") for t in ("dog-run", "b-v2")
    }
    assert found[0].curve["env_step"].tolist() == [25000 * (k + 1) for k in range(40)]


@pytest.mark.parametrize(
    ("files", "more", "said"),
    [
        ({"utd_1/a/r/bs_32_lr_3e-4.npy": stepped()}, {}, "is not named as model_scaling names its arrays"),
        ({BRO.format(metric=m): stepped() for m in ("loss", "norm")}, {}, "holds loss, norm; say which"),
        ({BRO.format(metric=m): stepped() for m in ("return", "avg_return")}, {}, "say which"),
        ({BRO.format(metric="return"): stepped()}, {"metric": "retrun"}, "did you mean return"),
        (
            {BRO.format(metric=m): stepped() for m in ("return", "eval_return")},
            {"metric": "return"},
            "has a metric eval_return beside return",
        ),
        ({BRO.format(metric="return").replace("w512p", f"w{w}p"): stepped() for w in ("512", "0512")}, {}, "are one"),
        ({BRO.format(metric="return"): returns()}, {"step_column": "first"}, "not whole env steps"),
        ({}, {}, "holds no .npy array"),
    ],
)  # fmt: skip
def test_a_refusal_names_the_file(
    tmp_path: Path, files: dict[str, np.ndarray], more: dict[str, Any], said: str
) -> None:
    path = zip_of(tmp_path / "bad.zip", {name: npy(array) for name, array in files.items()})
    with pytest.raises(Mistake, match=said) as error:
        read(path, **more)
    assert "bad.zip" in str(error.value)

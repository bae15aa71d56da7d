"""Diagnostics from the command line to the record."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from rlscale.spec import run_id
from rlscale.store import Store
from rlscale.train import execute
from tests.conf.test_options import job

pytestmark = pytest.mark.usefixtures("hydra", "quick_compiles")
SMALL = ("benchmark=toy", "budget=smoke", "budget.env_steps=200", "algorithm.width=8", "hparams.batch_size=16")


@pytest.mark.slow
def test_a_record_tells_of_its_diagnostics_and_is_not_made_again_for_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("RLSCALE_STUDY", str(tmp_path))
    (tmp_path / "conf").mkdir()
    first = job(*SMALL, "diagnostics=[validation,newest_td]", "log.every_s=1000", "compute.platform=cpu")
    execute(first)
    store = Store()
    folder = tmp_path / "runs" / run_id(first.spec, first.members[0])
    record = json.loads((folder / "record.json").read_text())
    assert record["diagnostics"] == {
        "validation": {"every": 10}, "newest_td": {"every": 10, "newest": 16}, "since_env_step": 0,
    }  # fmt: skip
    header, *_, last = (folder / "curve.csv").read_text().splitlines()
    values = dict(zip(header.split(","), last.split(","), strict=True))
    looks = ["replay_critic_loss", "validation_critic_loss", "newest_critic_loss", "critic_norm", "actor_norm"]
    assert list(values)[-5:] == looks and all(float(values[name]) > 0 for name in looks)
    curve = (folder / "curve.csv").read_bytes()
    capsys.readouterr()
    again = job(*SMALL, "diagnostics=[gradient_noise]", "compute.platform=cpu")
    execute(again)
    said = [line for line in capsys.readouterr().err.splitlines() if "recorded already" in line]
    assert said == [f"{again.label}: 1 run recorded already, not run again for diagnostics"]
    assert (folder / "curve.csv").read_bytes() == curve and not again.missing(store)

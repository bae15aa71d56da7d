"""The whole size axis for real, on the quickstart's task: sweep → laws → plan → emitted sweep, by the command lines."""

from __future__ import annotations

import json
import shlex
from fractions import Fraction
from typing import Any

import pytest

from tests.smoke.desk import Desk

# one process for all jobs: that of a size and batch size is compiled once for every σ
SWEEP = ("-m", "sweep=quickstart-size", "hydra/launcher=basic", "budget.env_steps=2400")
PACK = ("seed=[0,1]", "hparams.batch_size=32,64")
# So short a run learns little, at first less than nothing: with this floor every setting reaches a level.
LEVELS = ("reference=control", "reference.floor.pendulum=-1800", "reference.thresholds=[20,100,200]")


@pytest.mark.slow
def test_three_widths_and_three_ratios(desk: Desk) -> None:
    def fit(door: str, *words: str) -> dict[str, Any]:
        desk.train("name=size", *words, module=f"analysis.{door}")
        found: dict[str, Any] = json.loads((desk.study / "fits" / "size" / f"{door}.json").read_text())
        return found

    desk.train(*SWEEP, *PACK)
    grid = desk.records()
    assert len(grid) == 3 * 3 * 2 * 2
    assert all(r["utd_realised"] == r["spec"]["utd"] for r in grid.values())
    sizes = {r["spec"]["algorithm"]["width"]: r["n_params"]["critic"] for r in grid.values()}
    assert sizes.keys() == {16, 32, 64} and len(set(sizes.values())) == 3

    proposed = fit("hparams", "select.sweep=quickstart-size", *LEVELS, "threshold=reachable", "bootstrap.draws=20")
    assert proposed["widths"] == {"pendulum": {str(w): n for w, n in sizes.items()}}
    desk.train("-m", "sweep=fitted/size", "hydra/launcher=basic", "seed=[0,1]")
    new = [r for name, r in desk.records().items() if name not in grid] + list(grid.values())
    asked = {
        (row["utd"], row["width"]): row["batch_size"] for row in proposed["proposals"] if row["variant"] == "shared"
    }
    for (utd, width), batch in asked.items():
        mine = [r for r in new if r["spec"]["utd"] == utd and r["spec"]["algorithm"]["width"] == width]
        assert batch in {r["spec"]["batch_size"] for r in mine}  # each job evaluated the law at its own σ and N

    laws = fit("laws", "select.hparams=fitted/size", *LEVELS, "bootstrap.draws=20")
    rows = [row for row in laws["data"] if row["task"] == "pendulum"]
    assert rows and all(len(row["points"]) == 9 for row in rows)
    assert laws["budget"]["pendulum"]["points"]

    target = rows[0]["threshold"]
    out = desk.train("name=size", f"target={target:g}", "compute=1e15", "json=true", module="analysis.plan")
    answer = json.loads(out[out.index("{") : out.rindex("}") + 1])
    run = answer["answers"]["pendulum"]["run"]
    assert run["width"] % 16 == 0 and Fraction(run["utd"]) > 0 and run["batch_size"] % 16 == 0
    words = shlex.split(run["tasks"][0]["command"])
    assert words[:3] == ["python", "-m", "rlscale.train"]
    before = desk.records()
    desk.train(*words[3:], "seed=7")
    (done,) = [r for name, r in desk.records().items() if name not in before]
    assert done["spec"]["algorithm"]["width"] == run["width"] and done["spec"]["batch_size"] == run["batch_size"]
    assert done["utd_realised"] == run["utd"]

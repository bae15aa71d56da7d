"""log=wandb where W&B fails, is not there, or is played by a stand-in for its service."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.smoke.desk import Desk
from tests.smoke.wandb_desk import COLUMNS, OFFLINE, curve, desk_without_wandb, ends, same
from tests.smoke.wandb_service import Service, serving

pytestmark = pytest.mark.slow


@pytest.fixture
def desk(tmp_path: Path, request: pytest.FixtureRequest) -> Desk:
    return desk_without_wandb(tmp_path, request)


@pytest.fixture
def service(desk: Desk) -> Iterator[Service]:
    with serving() as here:
        desk.environment |= {"WANDB_BASE_URL": here.url, "WANDB_API_KEY": "x" * 40}
        yield here


# A W&B that fails

BROKEN = """
import os
BROKEN = os.environ["BROKEN"]
def fail(what):
    if what == BROKEN:
        raise OSError(what + " is\\nbroken")
fail("import")
class Run:
    def define_metric(self, *args, **more): pass
    def log(self, row): fail("log")
    def finish(self, exit_code): fail("finish")
def Settings(**more): return more
def setup(settings): fail("setup")
def init(**more):
    fail("init")
    return Run()
"""


@pytest.mark.parametrize("what", ["import", "init", "log", "finish"])
def test_a_wandb_that_raises_costs_one_line(desk: Desk, what: str) -> None:
    package = desk.here.parent / "first" / "wandb.py"
    package.parent.mkdir()
    package.write_text(BROKEN)
    desk.environment["BROKEN"] = what
    said = desk.train(*OFFLINE, "seed=[0,1]")
    assert re.fullmatch(rf"sac track .*: W&B is given up, the run .* \({what} is broken\)\n", said)
    assert [record["status"] for record in desk.records().values()] == ["finished"] * 2
    assert all(len(curve(desk.study, run)) == 4 for run in desk.records())


def test_online_without_a_login_costs_one_line(desk: Desk) -> None:
    said = desk.train(*OFFLINE, "log.wandb.mode=online")
    assert said.count("\n") == 1 and "not logged in: run `wandb login`" in said
    assert len(desk.records()) == 1


def test_online_without_a_network_costs_one_line(desk: Desk) -> None:
    desk.environment["WANDB_API_KEY"] = "x" * 40
    said = desk.train(*OFFLINE, "log.wandb.mode=online", "log.wandb.patience_s=2")
    assert said.count("\n") == 1 and "W&B is given up" in said
    assert len(desk.records()) == 1


# A stand-in for the service


def history(run: dict[str, Any]) -> list[dict[str, float | None]]:
    """The rows of a run at the service as `curve` gives those of the study; of an env step told twice the later."""
    rows = {row["env_step"]: row for row in run["history"] if "train_return" in row or "critic_loss" in row}
    values = [{name: rows[step].get(name) for name in COLUMNS} for step in sorted(rows)]
    return [{name: None if value is None else float(value) for name, value in row.items()} for row in values]


def test_online_is_what_the_study_holds(desk: Desk, service: Service) -> None:
    said = desk.train("-m", *OFFLINE, "log.wandb.mode=online", "utd=1/4,2", "seed=[0,1]", "hydra/launcher=basic")
    assert said == ""
    assert set(service.runs) == set(desk.records()) and len(service.runs) == 4
    for run, record in desk.records().items():
        there = service.runs[run]
        assert there["exit"] == 0 and there["config"]["utd"] == record["spec"]["utd"]
        assert there["config"]["seed"] == record["member"]["seed"]
        assert same(history(there), curve(desk.study, run))


def test_what_is_uploaded_is_what_the_study_holds(desk: Desk, service: Service) -> None:
    """A run trained again after a crash goes to the run that it had, and ends with all of its rows."""
    words = (*OFFLINE, "seed=[0,1]", "utd=1/2")
    desk.train(*words)
    again = sorted(desk.records())[0]
    (desk.study / "runs" / again / "record.json").unlink()
    desk.train(*words)
    assert [len(codes) for codes in ends(desk).values()].count(2) == 1
    assert "3 folders uploaded, 0 were uploaded before" in desk.train(module="rlscale.sync")
    assert list(desk.here.iterdir()) == []
    for run in desk.records():
        assert same(history(service.runs[run]), curve(desk.study, run))
    before = json.dumps(service.runs, sort_keys=True)
    assert "0 folders uploaded, 3 were uploaded before" in desk.train(module="rlscale.sync")
    assert json.dumps(service.runs, sort_keys=True) == before


def test_a_service_lost_in_the_middle_costs_one_line(desk: Desk) -> None:
    words = (*OFFLINE, "log.wandb.mode=online", "log.wandb.patience_s=3", "log.wandb.send_every_s=1")
    with serving() as here:
        desk.environment |= {"WANDB_BASE_URL": here.url, "WANDB_API_KEY": "x" * 40}
        process = desk.start(*words, "budget.env_steps=12000", "budget.log_every=100")
        patience = time.monotonic() + 120
        while not any(run["history"] for run in here.runs.values()):
            assert process.poll() is None and time.monotonic() < patience
            time.sleep(0.01)
        here.lost = True
    err = process.communicate(timeout=120)[1]
    assert process.returncode == 0 and "W&B is given up" in err and "Traceback" not in err, err
    [run] = desk.records()
    assert [row["env_step"] for row in curve(desk.study, run)] == [100.0 * i for i in range(1, 121)]

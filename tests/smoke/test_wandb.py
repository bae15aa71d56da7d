"""log=wandb offline, through the real command lines and the real wandb package."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import psutil
import pytest

from tests.smoke.desk import TINY, Desk
from tests.smoke.wandb_desk import OFFLINE, curve, desk_without_wandb, ends, folders, read_back, rows_of

SEEDS = r'source.seeds="seed(?P<seed>\d+)/(?P<metric>.+)"'
pytestmark = pytest.mark.slow


@pytest.fixture
def desk(tmp_path: Path, request: pytest.FixtureRequest) -> Desk:
    return desk_without_wandb(tmp_path, request)


@pytest.mark.parametrize("launcher", ["basic", "local"])
def test_a_sweep_leaves_a_folder_for_each_member(desk: Desk, launcher: str) -> None:
    sweep = ("-m", *OFFLINE, "utd=1/4,2", "seed=[0,3]", "hparams.learning_rate=[1e-3,3e-4]")
    said = desk.train(*sweep, f"hydra/launcher={launcher}", "log.wandb.tags=[grid]")
    assert said == ""
    assert ends(desk) == {run: [0] for run in desk.records()} and len(desk.records()) == 8
    assert list(desk.here.iterdir()) == []
    read_back(desk, "source.tags=[grid]")
    desk.train(*sweep)
    assert len(folders(desk)) == 8  # what is recorded is not run again


def test_a_pack_is_one_run_for_each_learning_rate(desk: Desk) -> None:
    desk.train(*OFFLINE, "log.wandb.per=pack", "utd=1/3", "seed=[5,2]", "hparams.learning_rate=[1e-3,3e-4]")
    assert list(ends(desk).values()) == [[0], [0]] and len(desk.records()) == 4
    read_back(desk, SEEDS)


REUSE = """
import sys
from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from omegaconf import OmegaConf, open_dict
import launchers, rlscale.loop
from rlscale.door import CONF, scratch
from rlscale.train import main
launchers.discover()
OmegaConf.register_new_resolver("rlscale_scratch", scratch, use_cache=True)
whole = rlscale.loop.run
def broken(job, *attached):
    rows = whole(job, *attached)
    yield next(rows)
    yield next(rows)
    raise RuntimeError("in the middle")
with initialize_config_dir(str(CONF), version_base="1.3"):
    for turn, seed in enumerate((0, 1, 2, 1)):
        config = compose("train", [*sys.argv[1:], f"seed={seed}"], return_hydra_config=True)
        HydraConfig.instance().set_config(config)
        with open_dict(config):
            config.pop("hydra")
        rlscale.loop.run = broken if turn == 1 else whole
        try:
            main(config)
        except RuntimeError as error:
            print(error)
"""


def test_one_process_for_many_jobs_of_which_one_fails(desk: Desk) -> None:
    """As joblib and Hydra's basic launcher use a process again; the failed member is trained once more at the end."""
    script = desk.here.parent / "first" / "reuse.py"
    script.parent.mkdir()
    script.write_text(REUSE)
    (desk.study / "conf").mkdir(parents=True)  # of which Hydra would warn
    assert desk.train(*OFFLINE, "utd=1/2", module="reuse") == "in the middle\n"
    by_seed = {record["member"]["seed"]: run for run, record in desk.records().items()}
    assert ends(desk) == {by_seed[0]: [0], by_seed[1]: [1, 0], by_seed[2]: [0]}
    read_back(desk)


def test_killed_and_trained_again_is_one_run(desk: Desk) -> None:
    words = (*OFFLINE, "log.wandb.send_every_s=1", "budget.env_steps=8000", "budget.log_every=100")
    process = desk.start(*words)
    patience = time.monotonic() + 240
    while not any(map(rows_of, folders(desk))):
        assert process.poll() is None and time.monotonic() < patience, "it ended before it could be killed"
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    desk.train(*words)
    assert list(ends(desk).values()) == [[None, 0]]
    first, second = map(rows_of, folders(desk))
    assert 0 < first < second == 80
    read_back(desk)


@pytest.mark.parametrize("rows", [40, 1200], ids=["few rows", "more than the pipe takes"])
def test_a_process_of_wandb_that_hangs_costs_one_line(desk: Desk, rows: int) -> None:
    """W&B's client would wait for it without end: to take a row, or when Python exits."""
    lengths = ("log.wandb.patience_s=1", f"budget.env_steps={5 * rows}", "budget.log_every=5", "budget.eval_every=null")
    process = desk.start(*OFFLINE, *lengths)
    patience = time.monotonic() + 240
    while not folders(desk):
        assert process.poll() is None and time.monotonic() < patience, "it ended before W&B could be frozen"
        time.sleep(0.01)
    [core] = [child for child in psutil.Process(process.pid).children() if child.name() == "wandb-core"]
    core.suspend()
    err = process.communicate(timeout=240)[1]
    assert process.returncode == 0 and err.count("\n") == 1 and "W&B is given up" in err, err
    [run] = desk.records()
    assert len(curve(desk.study, run)) == rows and not core.is_running()


def test_later_rows_in_a_later_folder_go_on_with_the_run(desk: Desk) -> None:
    """As a run resumed in the middle logs: what came before is in the folder before, and rows of both count once."""
    script = desk.here.parent / "first" / "two.py"
    script.parent.mkdir()
    script.write_text("""
import csv, json, sys
from fractions import Fraction
from pathlib import Path
from rlscale.sinks import Sink, Wandb
from rlscale.spec import Budget, Member, RunSpec
[folder] = Path(sys.argv[1]).glob("runs/*/")
told = json.loads((folder / "spec.json").read_text())
body = told["spec"] | {"utd": Fraction(told["spec"]["utd"]), "budget": Budget(**told["spec"]["budget"])}
rows = list(csv.DictReader((folder / "curve.csv").open()))
rows = [{k: float(v) if v else None for k, v in row.items()} for row in rows]
asked = Wandb("offline", "p", None, "member", (), 15, 60.0)
wrong = [row | {"train_return": 1e9} for row in rows]
for part in ([*rows[:2], wrong[2]], rows[2:]):
    sink = Sink(asked, RunSpec(**body), [Member(**told["member"])], {"sweep": None, "hparams": None}, "")
    for row in part:
        sink.rows([row])
    sink.finish()
""")
    desk.train(*TINY, "log=none")
    desk.train(str(desk.study), module="two")
    assert list(ends(desk).values()) == [[0, 0]]
    read_back(desk)


def test_disabled_leaves_nothing(desk: Desk) -> None:
    assert desk.train(*OFFLINE, "log.wandb.mode=disabled") == ""
    assert len(desk.records()) == 1 and not (desk.study / "wandb").exists()
    assert list(desk.here.iterdir()) == []


def test_a_video_is_a_medium_and_no_row_of_the_curve(desk: Desk) -> None:
    script = desk.here.parent / "first" / "filmed.py"
    script.parent.mkdir()
    script.write_text("""
import rlscale.sinks, rlscale.train
from pathlib import Path
from PIL import Image
finish = rlscale.sinks.Sink.finish
def film_first(sink, failed=False):
    gif = Path("evaluation.gif")
    frames = [Image.new("RGB", (32, 32), (40 * i, 0, 0)) for i in range(4)]
    frames[0].save(gif, save_all=True, append_images=frames[1:])
    sink.video(1, gif)
    finish(sink, failed)
rlscale.sinks.Sink.finish = film_first
from rlscale.door import door
import launchers
launchers.discover()
door(rlscale.train.main, "train")
""")
    desk.train(*OFFLINE, "seed=[0,1]", module="filmed")
    media = [path for path in (desk.study / "wandb").rglob("*.gif")]
    assert len(media) == 1 and media[0].read_bytes()[:3] == b"GIF"
    [filmed] = [run for run, record in desk.records().items() if record["member"]["seed"] == 1]
    assert filmed in str(media[0])
    read_back(desk)


def test_its_keys_without_log_wandb_are_one_sentence(desk: Desk) -> None:
    process = desk.start(*TINY, "log.wandb.mode=offline")
    out, err = process.communicate(timeout=60)
    what = "log.wandb.mode=offline: log.wandb has no keys with the chosen option of log; choose another, log=…"
    assert (process.returncode, out, err) == (2, "", f"error: {what}\n")
    assert not desk.study.exists() and list(desk.here.iterdir()) == []

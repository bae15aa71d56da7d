"""What W&B is told of a pack, and that nothing it does reaches the run. A stand-in plays wandb; the real one is in
tests/smoke/test_wandb.py."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hydra import compose
from omegaconf import OmegaConf

from rlscale.job import job_from
from rlscale.sinks import Sink, Wandb, Watch, parts
from rlscale.spec import Budget, Member, RunSpec, run_id
from rlscale.typed import Mistake

BUDGET = Budget(400, 100, 100, None, 1, None)
SPEC = RunSpec({"name": "sac", "width": 8}, {"name": "toy", "task": "track"}, Fraction(1, 3), 16, BUDGET)
MEMBERS = [Member(seed, rate) for rate in (1e-3, 3e-4) for seed in (4, 7)]
ASKED_BY = {"sweep": "grid", "hparams": "constant", "overrides": ["utd=1/3"]}


def asked(**changes: Any) -> Wandb:
    values = {"mode": "offline", "project": "p", "entity": None, "per": "member", "tags": ("a",)}
    return Wandb(**{**values, "send_every_s": 15, "patience_s": 60.0, **changes})  # type: ignore[arg-type]


class Standin:
    """In the place of the package; raises where it is told to."""

    def __init__(self) -> None:
        self.runs: list[StandinRun] = []
        self.fail = ""  # setup, login, init, define_metric, log or finish
        self.after = 0  # calls of it that are fine
        self.logged_in = True
        self.teardowns = 0
        self.Settings = lambda **values: SimpleNamespace(**values)
        self.Video = lambda path, format: (path, format)

    def called(self, what: str) -> None:
        if self.fail == what:
            self.after -= 1
            if self.after < 0:
                raise OSError(f"{what} is\nbroken")

    def teardown(self, exit_code: int) -> None:
        self.teardowns += 1

    def setup(self, settings: Any) -> None:
        self.called("setup")

    def login(self, prompt: bool) -> bool:
        assert not prompt, "a person would be asked in the middle of a sweep"
        self.called("login")
        return self.logged_in

    def init(self, **values: Any) -> StandinRun:
        self.called("init")
        self.runs.append(StandinRun(self, values))
        return self.runs[-1]


class StandinRun:
    def __init__(self, package: Standin, values: dict[str, Any]) -> None:
        self.package, self.values = package, values
        self.rows: list[dict[str, Any]] = []
        self.ended: list[int] = []

    def define_metric(self, name: str, step_metric: str) -> None:
        self.package.called("define_metric")

    def log(self, row: dict[str, Any]) -> None:
        self.package.called("log")
        self.rows.append(row)

    def finish(self, exit_code: int) -> None:
        self.ended.append(exit_code)
        self.package.called("finish")


@pytest.fixture
def wandb(monkeypatch: pytest.MonkeyPatch, study: Path) -> Standin:
    package = Standin()
    monkeypatch.setitem(sys.modules, "wandb", package)  # type: ignore[arg-type]
    return package


@pytest.fixture
def sink(wandb: Standin) -> Callable[..., Sink]:
    return lambda members=MEMBERS, **changes: Sink(asked(**changes), SPEC, members, ASKED_BY, "the pack")


def row(step: int, **more: Any) -> dict[str, Any]:
    return {"env_step": step, "updates": step // 3, "train_return": step / 7, "eval_return": None} | more


# What is told


def test_a_run_for_each_member(sink: Callable[..., Sink], wandb: Standin, study: Path) -> None:
    made = sink()
    made.rows([row(100, critic_loss=float(k)) for k in range(4)])
    made.rows([row(200), None, row(200, eval_return=1.5), row(200)])
    made.finish()
    ids = [run_id(SPEC, member) for member in MEMBERS]
    assert [run.values["id"] for run in wandb.runs] == ids
    for k, (run, member) in enumerate(zip(wandb.runs, MEMBERS, strict=True)):
        first = {"env_step": 100, "updates": 33, "train_return": 100 / 7, "critic_loss": float(k)}
        assert run.rows[0] == first  # nothing is told of what was not measured
        assert len(run.rows) == (1 if k == 1 else 2)  # rows of a run that diverged do not count
        config = run.values["config"]
        assert {key: config[key] for key in ("task", "utd", "batch_size", "learning_rate", "seed", "run_id")} == {
            "task": "track",
            "utd": "1/3",
            "batch_size": 16,
            "learning_rate": member.learning_rate,
            "seed": member.seed,
            "run_id": ids[k],
        }
        assert config["algorithm"] == {"name": "sac", "width": 8} and config["budget"]["env_steps"] == 400
        assert run.values["group"] == "grid" and run.values["tags"] == ("a",) and run.values["dir"] == study.resolve()
        assert run.ended == [0]
    assert wandb.runs[2].rows[1]["eval_return"] == 1.5


def test_a_run_for_each_learning_rate_of_a_pack(sink: Callable[..., Sink], wandb: Standin) -> None:
    made = sink(per="pack")
    made.rows([row(100, train_return=float(k)) for k in range(4)])
    made.rows([None, row(200), None, None])
    made.finish(failed=True)
    fast, slow = wandb.runs
    assert [run.values["config"]["learning_rate"] for run in (fast, slow)] == [1e-3, 3e-4]
    assert fast.values["config"]["seeds"] == [4, 7] and "seed" not in fast.values["config"]
    assert fast.values["config"]["run_ids"] == [run_id(SPEC, member) for member in MEMBERS[:2]]
    assert fast.rows == [
        {"env_step": 100, "seed4/updates": 33, "seed4/train_return": 0.0, "seed7/updates": 33, "seed7/train_return": 1},
        {"env_step": 200, "seed7/updates": 66, "seed7/train_return": 200 / 7},
    ]
    assert len(slow.rows) == 1 and slow.rows[0]["seed4/train_return"] == 2.0  # none for a row that no member has
    assert fast.ended == slow.ended == [1]


def test_a_packs_id_follows_from_those_of_its_members() -> None:
    [one, other] = parts(SPEC, MEMBERS, "pack")
    assert one.id.startswith(run_id(SPEC, MEMBERS[0]) + "-") and one.id != other.id
    assert parts(SPEC, MEMBERS[:2], "pack") == [one]
    assert parts(SPEC, MEMBERS[:1], "pack")[0].id != one.id  # what is left of a pack is another run
    assert len({part.id for part in parts(SPEC, MEMBERS, "member")}) == 4


def test_a_video_goes_to_its_members_run(sink: Callable[..., Sink], wandb: Standin) -> None:
    for per, key in (("member", "evaluation"), ("pack", "seed7/evaluation")):
        wandb.runs.clear()
        made = sink(per=per)
        made.video(1, Path("a/evaluation.gif"))
        assert [run.rows for run in wandb.runs if run.rows] == [[{key: ("a/evaluation.gif", "gif")}]]
        assert wandb.runs[1 if per == "member" else 0].rows
        made.finish()


def test_rows_are_sent_as_often_as_asked(sink: Callable[..., Sink], wandb: Standin) -> None:
    sink(send_every_s=3, patience_s=9.0)
    settings = wandb.runs[0].values["settings"]
    assert settings.x_file_stream_transmit_interval == settings.x_transaction_log_flush_interval == 3
    assert settings.init_timeout == settings.finish_timeout == 9.0


# What never reaches the run


@pytest.mark.parametrize("what", [None, asked(mode="disabled")], ids=["not asked for", "disabled"])
def test_wandb_is_not_touched_unless_asked_for(
    what: Wandb | None, study: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)  # importing it is an error
    made = Sink(what, SPEC, MEMBERS, ASKED_BY, "the pack")
    made.rows([row(100)] * 4)
    made.video(0, Path("a.gif"))
    made.finish()
    assert capsys.readouterr().err == "" and not study.exists()


@pytest.mark.parametrize("per", ["member", "pack"])
@pytest.mark.parametrize(
    ("fail", "after"),
    [("setup", 0), ("login", 0), ("init", 0), ("init", 1), ("define_metric", 1), ("log", 0), ("log", 3), ("finish", 0)],
)
def test_whatever_fails_is_one_line(
    fail: str,
    after: int,
    per: str,
    sink: Callable[..., Sink],
    wandb: Standin,
    capsys: pytest.CaptureFixture[str],
) -> None:
    wandb.fail, wandb.after = fail, after
    made = sink(per=per, mode="online")
    for step in (100, 200, 300):
        made.rows([row(step)] * 4)
    told = sum(len(run.rows) for run in wandb.runs)
    made.video(0, Path("a.gif"))
    made.finish()
    made.finish(failed=True)
    said = capsys.readouterr().err
    assert said == f"the pack: W&B is given up, the run goes on and is recorded without it ({fail} is broken)\n"
    if fail != "finish":
        assert told == (after if fail == "log" else 0)
    assert all(run.ended == [int(fail != "finish")] for run in wandb.runs)  # each that began was finished, once
    assert wandb.teardowns == 1


def test_without_a_login_it_is_said_and_nobody_is_asked(
    sink: Callable[..., Sink], wandb: Standin, capsys: pytest.CaptureFixture[str]
) -> None:
    wandb.logged_in = False
    sink(mode="offline").finish()
    assert len(wandb.runs) == 4 and capsys.readouterr().err == ""
    sink(mode="online").finish()
    assert len(wandb.runs) == 4 and "not logged in: run `wandb login`" in capsys.readouterr().err


def test_an_interrupt_is_no_failure_of_wandb(sink: Callable[..., Sink], wandb: Standin) -> None:
    made = sink()
    wandb.runs[0].log = lambda row: (_ for _ in ()).throw(KeyboardInterrupt)  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt):
        made.rows([row(100)] * 4)
    made.finish(failed=True)
    assert all(run.ended == [1] for run in wandb.runs)


@pytest.mark.slow
def test_what_hangs_is_killed_and_nothing_else(tmp_path: Path) -> None:
    names, sleep = ("wandb-core", "other"), shutil.which("sleep")
    assert sleep is not None
    ours, other = (subprocess.Popen([shutil.copy(sleep, tmp_path / name), "60"]) for name in names)
    watch = Watch(0.3)
    try:
        for _ in range(5):  # no call of these takes long
            watch.begin()
            time.sleep(0.1)
        watch.end()
        time.sleep(0.5)
        assert ours.poll() is None
        watch.begin()
        assert ours.wait(timeout=30) == -signal.SIGKILL and other.poll() is None
    finally:
        watch.end()
        ours.kill()
        other.kill()
        ours.wait(), other.wait()


# Mistakes, before anything starts


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("mode=ofline", "log.wandb.mode=ofline: there is no such choice; did you mean offline?"),
        ("per=seed", "log.wandb.per=seed: there is no such choice; choose one of member, pack"),
        ("project=a/b", r"log.wandb.project=a/b: W&B takes 1 to 128 letters and none of / \ # ? % :; give such a name"),
        ("project=''", "log.wandb.project=: W&B takes 1 to 128 letters"),
        ("tags=x", "log.wandb.tags=x: write it as a list, [x]"),
        (f"tags=[{65 * 'x'}]", "W&B takes tags of 1 to 64 letters"),
        ("send_every_s=0", "log.wandb.send_every_s=0: give a whole number of seconds, 1 or more"),
        ("send_every_s=0.5", "log.wandb.send_every_s=0.5: this is not a whole number"),
        ("patience_s=0", "log.wandb.patience_s=0: give a number of seconds above 0"),
        ("patience_s=long", "log.wandb.patience_s=long: this is not a number"),
    ],
)
@pytest.mark.usefixtures("hydra")
def test_a_mistake_is_one_sentence(words: str, said: str) -> None:
    config = compose("train", ["benchmark=toy", "log=wandb", f"log.wandb.{words}"])
    with pytest.raises(Mistake) as caught:
        job_from(OmegaConf.to_container(config, resolve=True), {}, [])  # type: ignore[arg-type]
    assert said in str(caught.value)

"""`analysis.plan` on a study from known laws: answers, commands that run, and the next runs as a sweep that runs."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hydra import compose, initialize_config_dir
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf, open_dict

from rlscale.door import CONF, scratch
from rlscale.job import Job, job_from
from rlscale.spec import plain
from tests.analysis.conftest import REPO, Done
from tests.analysis.synthetic import World

Door = Callable[..., Done]
LEVELS = ("reference.thresholds=[300,500,700]", "bootstrap.draws=100")
GRID = World(utds=("1/2", "1", "2"), batch_sizes=(64, 128, 256), learning_rates=(3e-4, 1e-3), seeds=2, log_every=500)
SWEEP = World(seeds=3, log_every=500)
FITTED = ("1/2", "1", "2", "4")
LEARNER = ("algorithm=sac", "benchmark=control", "algorithm.width=64", "budget.eval_every=null", "budget.log_every=500")


@contextmanager
def hydra(root: Path) -> Iterator[None]:
    """What rlscale.door sets up around a job, on the study `root`."""
    OmegaConf.register_new_resolver("rlscale_scratch", scratch, use_cache=True, replace=True)
    GlobalHydra.instance().clear()
    (root / "conf").mkdir(exist_ok=True)
    with pytest.MonkeyPatch.context() as patch, initialize_config_dir(str(CONF), version_base="1.3"):
        patch.setenv("RLSCALE_STUDY", str(root))
        yield
    GlobalHydra.instance().clear()


def composed(root: Path, words: list[str]) -> tuple[dict[str, Any], Any]:
    with hydra(root):
        config = compose("train", words, return_hydra_config=True)
        HydraConfig.instance().set_config(config)
        with open_dict(config):
            part = config.pop("hydra")
        data: dict[str, Any] = OmegaConf.to_container(config, resolve=True)  # type: ignore[assignment]
        return data, part


def job(root: Path, words: list[str]) -> Job:
    data, part = composed(root, words)
    return job_from(data, part.runtime.choices, words)


def jobs(root: Path, sweep: str) -> list[Job]:
    """The jobs of a sweep, as Hydra's sweeper deals them out."""
    params = [f"{k}={v}" for k, v in composed(root, [f"sweep={sweep}"])[1].sweeper.params.items()]
    dealt = BasicSweeper.split_arguments(OverridesParser.create().parse_overrides(params), None)
    return [job(root, [f"sweep={sweep}", *words]) for batch in dealt for words in batch]


def real(root: Path) -> None:
    """Give the runs of `root` the spec of a learner that exists, so that what is emitted can be composed."""
    spec = plain(asdict(job(root, [*LEARNER, "budget.env_steps=40000", "budget.warmup_steps=500"]).spec))
    for path in (root / "runs").glob("*/record.json"):
        record = json.loads(path.read_text())
        mine = record["spec"]
        mine["algorithm"], mine["budget"] = spec["algorithm"], spec["budget"]
        mine["benchmark"] = spec["benchmark"] | {"task": mine["benchmark"]["task"]}
        path.write_text(json.dumps(record))


@pytest.fixture(scope="module")
def fit(door: Door, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study with the fits `a` (laws of hparams too) and `b` (of the same runs, without)."""
    root = tmp_path_factory.mktemp("plan")
    GRID.write_grid(root)
    real(root)
    done = door("hparams", root, "name=a", "select.hparams=constant", *LEVELS, f"utd=[{','.join(FITTED)}]")
    assert done.returncode == 0, done.stderr
    proposals = json.loads((root / "fits/a/hparams.json").read_text())["proposals"]
    for p in (p for p in proposals if p["variant"] == "shared"):
        SWEEP.write_cell(
            root, p["task"], p["utd"], p["batch_size"], p["learning_rate"], {"hparams": "fitted/a", "sweep": None}
        )
    real(root)
    for name in ("a", "b"):
        done = door("laws", root, f"name={name}", "select.hparams=fitted/a", *LEVELS)
        assert done.returncode == 0, done.stderr
    return root


@pytest.fixture
def study(fit: Path, tmp_path: Path) -> Path:
    """A copy to write into."""
    shutil.copytree(fit, tmp_path / "study")
    return tmp_path / "study"


def asked(door: Door, root: Path, *words: str) -> dict[str, Any]:
    done = door("plan", root, *words, "json=true")
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


QUESTIONS = (("target=700", "data=9e3"), ("target=700", "compute=3e11"), ("budget=3e11", "delta=2e7"))


@pytest.mark.parametrize("question", QUESTIONS)
def test_an_answer_is_whole_and_adds_up(fit: Path, door: Door, question: tuple[str, ...]) -> None:
    found = asked(door, fit, "name=a", *question)
    for key in ("utd", "data", "compute", "budget", "batch_size", "learning_rate"):
        low, high = found[f"{key}_ci95"]
        assert low <= found[key] * 1.02 and found[key] * 0.98 <= high, key
    assert found["budget"] == pytest.approx(found["compute"] + found["delta"] * found["data"])
    laws = json.loads((fit / "fits/a/laws.json").read_text())
    per_step = 10 * laws["compute"]["n_params"] * found["utd"] * found["batch_size"]
    assert found["compute"] == pytest.approx(per_step * found["data"], rel=1e-9)
    key, limit = question[-1 if found["bound"] != "budget" else 0].split("=")
    assert found[key] <= float(limit) * (1 + 1e-9)
    assert found["run"][key if key != "budget" else "data"] <= found[key if key != "budget" else "data"] * 1.05
    text = door("plan", fit, "name=a", *question).stdout
    assert text.startswith(f"question: {found['question']}\n") and "how sure\n" in text and "to run it" in text
    assert text == door("plan", fit, "name=a", *question).stdout


def test_the_command_keeps_the_bound_that_was_asked_for(fit: Path, door: Door) -> None:
    for key, limit in (("data", 9e3), ("data", 8.4e3), ("compute", 3e11), ("compute", 3.6e11)):
        run = asked(door, fit, "name=a", "target=700", f"{key}={limit}")["run"]
        assert run[key] <= limit * 1.002


@pytest.mark.parametrize("name", ["a", pytest.param("b", marks=pytest.mark.slow)])
def test_the_printed_commands_are_the_jobs_that_the_answer_means(fit: Path, door: Door, name: str) -> None:
    """With a law of hparams by its name, without one by every field of the runs' spec; the learner is the runs' own."""
    words = (f"name={name}", "target=500", "compute=2e11")
    found, text = asked(door, fit, *words), door("plan", fit, *words).stdout
    lines = [line.strip() for line in text.splitlines() if line.startswith("  python -m rlscale.train ")]
    assert lines == [task["command"] for task in found["run"]["tasks"]] and len(lines) == 2
    records = [json.loads(p.read_text()) for p in (fit / "runs").glob("*/record.json")]
    for line, task in zip(lines, found["run"]["tasks"], strict=True):
        made = job(fit, shlex.split(line)[3:])
        assert made.spec.task == task["task"] and str(made.spec.utd) == found["run"]["utd"]
        assert made.spec.batch_size == task["batch_size"]
        assert made.members[0].learning_rate == task["learning_rate"]
        assert plain(made.spec.algorithm) == records[0]["spec"]["algorithm"]
        assert vars(made.spec.budget) == records[0]["spec"]["budget"] | {"env_steps": task["env_steps"]}
        assert task["env_steps"] % 500 == 0 and task["env_steps"] > made.spec.budget.warmup_steps


def test_an_extrapolated_answer_says_by_how_much(fit: Path, door: Door) -> None:
    near = asked(door, fit, "name=a", "target=700", "compute=3e11")
    far = asked(door, fit, "name=a", "target=700", "compute=6e11")
    assert (near["extrapolation"]["factor"], near["extrapolation"]["side"]) == (1.0, None)
    assert near["extrapolation"]["error"] == near["extrapolation"]["error_at_end"]
    assert far["utd"] == pytest.approx(4 * far["extrapolation"]["factor"]) and far["extrapolation"]["side"] == "above"
    assert far["extrapolation"]["error"] > far["extrapolation"]["error_at_end"] > 0
    text = door("plan", fit, "name=a", "target=700", "compute=6e11").stdout
    assert f"a factor {far['extrapolation']['factor']:.2g} above what was fitted" in text and "interpolated" not in text
    end = door("plan", fit, "name=a", "target=700", "compute=1e13", "extend=1").stdout
    assert "an end of the range that was searched" in end and "more compute would save no data" in end


def test_a_budget_says_how_sure_the_level_is_and_what_the_next_would_take(fit: Path, door: Door) -> None:
    found = asked(door, fit, "name=a", "budget=3e11", "delta=2e7")
    more = found["next_level"]
    assert found["level"] < 700 and more["budget"] > 3e11
    again = asked(door, fit, "name=a", f"budget={more['budget'] * 1.0001}", "delta=2e7")
    assert again["level"] == more["level"] and again["level_ci95"][0] <= again["level"] <= again["level_ci95"][1]
    assert 0.2 < again["level_share"] < 0.8  # a budget that just buys the level is as likely too small as too large


def test_delta_measured_is_the_number_that_the_clock_gives(study: Path, door: Door) -> None:
    refused = door("plan", study, "name=a", "budget=3e11", "delta=measured")
    assert refused.returncode == 2 and "delta=measured: none of the" in refused.stderr
    for path in (study / "runs").glob("*/record.json"):
        record = json.loads(path.read_text())
        flops = record["updates"] * record["spec"]["batch_size"] * 10 * 9218
        record |= {"pack_size": 1, "wall_s": 1e-3 * record["transitions"] + flops / 2e10}
        record["flops_per_update"] = 10 * 9218 * record["spec"]["batch_size"]
        path.write_text(json.dumps(record))
    measured = asked(door, study, "name=a", "budget=3e11", "delta=measured")
    assert measured["delta"] == pytest.approx(2e7) and measured["measured_delta"]["error"] < 1e-6
    given = asked(door, study, "name=a", "budget=3e11", "delta=2e7")
    assert measured["utd"] == pytest.approx(given["utd"], rel=1e-6)
    assert "measured on 24 runs" in door("plan", study, "name=a", "budget=3e11", "delta=measured").stdout


@pytest.mark.parametrize("name", ["a", pytest.param("b", marks=pytest.mark.slow)])
def test_the_next_runs_are_a_sweep_whose_jobs_are_the_rows(study: Path, door: Door, name: str) -> None:
    found = asked(door, study, f"name={name}", "target=700", "compute=3e11", "next=6")
    rows = found["next"]
    option = study / "conf/sweep/fitted" / f"{name}-next.yaml"
    assert found["sweep"] == f"fitted/{name}-next" and option.read_text().startswith("# @package _global_\n")
    made = jobs(study, found["sweep"])
    assert len(made) == len(rows) and sum(len(r["seeds"]) for r in rows) == 6
    for each, row in zip(made, rows, strict=True):
        assert (each.spec.task, str(each.spec.utd), each.spec.batch_size) == (
            row["task"], row["utd"], row["batch_size"],
        )  # fmt: skip
        assert [m.seed for m in each.members] == row["seeds"] and each.spec.budget.env_steps == row["env_steps"]
        assert {m.learning_rate for m in each.members} == {row["learning_rate"]}
        assert each.asked_by["hparams"] == ("fitted/a" if name == "a" else "fitted/b-next")
        assert row["cost"] > 0 and row["reason"] in option.read_text()
    shares = [r["share"] for r in rows if r["task"] == "pendulum"]
    assert all(0 <= s <= 1 for s in shares) and 0 < sum(shares) <= 1
    beyond = [r for r in rows if not Fraction(1, 2) <= Fraction(r["utd"]) <= 4]
    assert {r["task"] for r in beyond} == {"pendulum", "cartpole_swingup"} and "check" in beyond[0]["reason"]
    recorded = [json.loads(p.read_text()) for p in (study / "runs").glob("*/record.json")]
    specs = [(plain(asdict(e.spec)), plain(asdict(m))) for e in made for m in e.members]
    assert not any((r["spec"], r["member"]) in specs for r in recorded)  # all of it is new


def test_neighbours_of_b_are_proposed_where_its_law_is_what_is_uncertain(study: Path, door: Door) -> None:
    """With a law of B that has draws, ×√2 and ×√½ of it at one σ; where B is taken as given, never."""
    words = ("target=700", "data=9e3", "next=14")
    rows = [r for r in asked(door, study, "name=a", *words)["next"] if r["neighbour"]]
    laws = json.loads((study / "fits/a/hparams.json").read_text())["laws"]["shared"]["batch_size"]
    assert rows
    for task, utd in {(r["task"], r["utd"]) for r in rows}:
        sizes = {r["batch_size"] for r in rows if (r["task"], r["utd"]) == (task, utd)}
        law = laws["intercept"][task] * float(Fraction(utd)) ** laws["exponent"]
        assert len(sizes) == 2 and max(sizes) / law == pytest.approx(2**0.5, rel=0.1)
        assert min(sizes) / law == pytest.approx(0.5**0.5, rel=0.1) and all(size % 16 == 0 for size in sizes)
    assert "then:    fit B* again" in door("plan", study, "name=a", *words).stdout
    assert not any(r["neighbour"] for r in asked(door, study, "name=b", *words)["next"])


def test_next_is_the_same_again_and_never_overwrites_silently(study: Path, door: Door) -> None:
    words = ("name=a", "target=700", "compute=3e11")
    option = study / "conf/sweep/fitted/a-next.yaml"
    first = door("plan", study, *words, "next=6")
    assert first.returncode == 0 and "python -m rlscale.train -m sweep=fitted/a-next" in first.stdout
    before = option.read_bytes()
    assert door("plan", study, *words, "next=6").stdout == first.stdout and option.read_bytes() == before
    other = door("plan", study, *words, "next=8")
    assert other.returncode == 2 and "replace=true" in other.stderr and option.read_bytes() == before
    assert other.stdout == ""
    assert door("plan", study, *words, "next=8", "replace=true").returncode == 0 and option.read_bytes() != before


def test_the_new_runs_are_fitted_together_with_the_old_ones(study: Path, door: Door) -> None:
    """The line after `then:` is the command that does it; the check point is one of the fitted σ then."""
    done = door("plan", study, "name=a", "target=700", "compute=3e11", "next=12")
    found = asked(door, study, "name=a", "target=700", "compute=3e11", "next=12", "replace=true")
    for row in found["next"]:
        world = World(seeds=max(row["seeds"]) + 1, log_every=500, env_steps=row["env_steps"])
        world.write_cell(
            study, row["task"], row["utd"], row["batch_size"], row["learning_rate"],
            {"hparams": "fitted/a", "sweep": "fitted/a-next"},
        )  # fmt: skip
    real(study)
    then = [line for line in done.stdout.splitlines() if line.startswith("then:")][-1]
    assert "python -m analysis.laws" in then and then.endswith(" replace=true")
    again = door("laws", study, "name=a", "select.hparams=fitted/a", *LEVELS, "replace=true")
    assert again.returncode == 0, again.stderr
    fitted = json.loads((study / "fits/a/laws.json").read_text())["fit_utds"]
    assert {r["utd"] for r in found["next"]} <= set(fitted) and len(fitted) > len(FITTED)


@pytest.mark.parametrize(
    ("words", "part"),
    [
        (("target=700",), "give exactly one bound"),
        (("target=700", "data=1e4", "compute=1e9"), "give exactly one bound"),
        (("data=1e4",), "target is not set"),
        (("target=700", "budget=1e12"), "target=700: with budget="),
        (("target=650", "data=1e4"), "target=650: there is no law for this level; choose one of 300, 500, 700"),
        (("target=700", "data=-1"), "data=-1: a bound is above 0"),
        (("target=700", "data=10"), "data=10: reaching 700 takes at least"),
        (("target=700", "compute=1"), "compute=1: reaching 700 takes at least"),
        (("budget=1",), "budget=1: the lowest level 300 alone costs"),
        (("budget=1e12", "delta=fast"), "delta=fast"),
        (("budget=1e12", "delta=-1"), "delta=-1: an env step costs no less than 0 FLOPs"),
        (("target=700", "data=1e4", "next=0"), "next=0: give how many runs"),
        (("target=700", "data=1e4", "next=1"), "next=1: a σ counts only where all 2 tasks were run"),
        (("target=700", "data=1e4", "extend=0.5"), "extend=0.5: give a factor of 1 or more"),
        (("target=700", "data=1e4", "json=maybe"), "json=maybe"),
    ],
)
def test_a_mistake_is_one_sentence_and_nothing_is_written(
    fit: Path, door: Door, words: tuple[str, ...], part: str
) -> None:
    before = sorted(fit.rglob("*"))
    done = door("plan", fit, "name=a", *words)
    assert done.returncode == 2 and part in done.stderr, done.stderr
    assert done.stderr.count("\n") == 1 and done.stdout == "" and sorted(fit.rglob("*")) == before


def test_without_its_runs_a_fit_still_answers_but_proposes_nothing(study: Path, door: Door) -> None:
    shutil.rmtree(study / "runs")
    assert "python -m rlscale.train sweep=fitted/a" in door("plan", study, "name=a", "target=700", "data=9e3").stdout
    without = door("plan", study, "name=b", "target=700", "data=9e3")
    assert without.returncode == 0 and "pendulum: the fit knows no learning rate" in without.stdout
    refused = door("plan", study, "name=a", "target=700", "data=9e3", "next=4")
    assert refused.returncode == 2 and refused.stderr.count("\n") == 1


@pytest.mark.slow
@pytest.mark.parametrize("name", ["a", "b"])
def test_what_is_printed_runs_as_it_stands(study: Path, name: str) -> None:
    """In processes of their own, with dry=true: the commands of the answer, and the sweep of the next runs."""
    environment = os.environ | {"RLSCALE_STUDY": str(study), "PYTHONPATH": str(REPO)}

    def run(line: str) -> str:
        done = subprocess.run(
            [sys.executable, *shlex.split(line)[1:]], cwd=study, env=environment, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    said = run(f"python -m analysis.plan name={name} target=700 compute=3e11 next=6").splitlines()
    commands = [line.strip() for line in said if line.startswith("  python -m rlscale.train ")]
    assert len(commands) == 2
    for line in commands:
        assert "1 job, " in run(f"{line} dry=true")
    sweep = next(line for line in said if line.startswith("next: ")).split(maxsplit=1)[1]
    assert "6 runs, 0 recorded, 6 to run" in run(f"{sweep} dry=true")
    assert not np.any([p.name == "multirun" for p in study.iterdir()])

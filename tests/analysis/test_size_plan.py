"""`analysis.plan` on laws with model size: every task's answer from its own laws, intervals, flags, and commands."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from math import log
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from analysis.allocate import Allocator, Box
from analysis.size_frontier import SizeFrontier
from analysis.size_laws import SizeDataLaw
from tests.analysis.conftest import Done
from tests.analysis.sized import BATCHES, CONSTANT, LAWFUL, LAWS, WIDTHS, Sized
from tests.analysis.synthetic import write_run
from tests.analysis.test_plan import job

Door = Callable[..., Done]
TASKS = ("average", "pendulum", "cartpole_swingup")
WIDE = Box((0.25, 32.0), (619208.0 / 4, 34312392.0 * 4))  # what extend=4 searches


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The fits `c` (B = 256) and `l` (B*(σ, N)), and one run of each task at a learning rate of its own."""
    root = tmp_path_factory.mktemp("sized")
    CONSTANT.write(root, "c")
    LAWFUL.write(root, "l")
    steps = np.arange(500, 40001, 500)
    for task, rate in (("pendulum", 3e-4), ("cartpole_swingup", 1e-3)):
        asked = {"hparams": "constant", "sweep": None}
        write_run(root, task, "1", 256, rate, 0, steps, np.zeros(len(steps)), asked, 40000)
    return root


def asked(door: Door, root: Path, *words: str) -> dict[str, Any]:
    done = door("plan", root, *words, "json=true")
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def said(door: Door, root: Path, *words: str) -> str:
    done = door("plan", root, *words)
    assert done.returncode == 2 and not done.stdout
    assert done.stderr.count("\n") == 1
    return done.stderr


@pytest.mark.parametrize("bound", ["data=3e5", "compute=5e15", "budget=5e16"])
def test_a_constant_batch_size_is_answered_in_closed_form(door: Door, study: Path, bound: str) -> None:
    kind, limit = bound.split("=")
    words = () if kind == "budget" else ("target=600",)
    found = asked(door, study, "name=c", bound, *words)
    assert list(found["answers"]) == list(TASKS) and not found["unanswered"] and found["size"] is True
    for task, a in found["answers"].items():
        known = Allocator(LAWS[task][a["level"]], 256.0)
        ask, amount = {
            "data": (known.least_compute, float(limit)), "compute": (known.least_data, float(limit)),
            "budget": (known.cheapest, 1e11),
        }[kind]  # fmt: skip
        best = ask(amount)
        assert best is not None
        got = (a["utd"], a["n_params"], a["data"], a["compute"])
        assert got == pytest.approx((best.sigma, best.n_params, best.data, best.compute), rel=1e-9)
        assert log(a["utd"]) == pytest.approx(log(known.line().sigma(a["n_params"])), abs=1e-9)
        assert a["budget"] == pytest.approx(a["compute"] + 1e11 * a["data"])
        assert a["data_share"] == pytest.approx(1e11 * a["data"] / a["budget"])
        assert a["answered"] == a["draws"] == 40
        for name in ("utd", "n_params"):
            low, high = a[f"{name}_ci95"]
            assert low < a[name] < high and high / low < 10
        assert kind == "budget" or a[f"{kind}_ci95"] == pytest.approx([float(limit)] * 2, rel=1e-6)
        assert a["return"] == (None if task == "average" else a["level"])


def test_the_highest_level_that_a_budget_buys(door: Door, study: Path) -> None:
    found = asked(door, study, "name=c", "budget=5e16")["answers"]
    for task, a in found.items():
        costs = {}
        for level, law in LAWS[task].items():
            best = Allocator(law, 256.0).cheapest(1e11)
            assert best is not None
            costs[level] = best.compute + 1e11 * best.data
        assert a["level"] == max(level for level, f in costs.items() if f <= 5e16)
        above = [level for level in costs if level > a["level"]]
        more = {"level": above[0], "budget": pytest.approx(costs[above[0]])} if above else None
        assert a["next_level"] == more and 0.5 < a["level_share"] <= 1.0
    assert {a["level"] for a in found.values()} == {700.0, 500.0}


@pytest.mark.parametrize(
    "bound", ["data=3e5", *(pytest.param(b, marks=pytest.mark.slow) for b in ("compute=5e15", "budget=5e16"))]
)
def test_each_task_is_priced_by_its_own_batch_size_law(door: Door, study: Path, bound: str) -> None:
    kind, limit = bound.split("=")
    words = () if kind == "budget" else ("target=600",)
    for task, a in asked(door, study, "name=l", bound, *words)["answers"].items():
        frontier = SizeFrontier(LAWS[task][a["level"]], BATCHES[task], WIDE)
        sigma, n = np.meshgrid(np.geomspace(*WIDE.sigma, 400), np.geomspace(*WIDE.n_params, 400))
        data = frontier.law(sigma, n)
        compute = 10 * n * BATCHES[task](sigma, n) * sigma * data
        value = {"data": compute, "compute": data, "budget": compute + 1e11 * data}[kind]
        kept = {"data": data, "compute": compute, "budget": value}[kind] <= float(limit)
        assert a[{"data": "compute", "compute": "data"}.get(kind, kind)] <= value[kept].min() * (1 + 1e-9)
        assert a["batch_size"] == pytest.approx(float(BATCHES[task](a["utd"], a["n_params"])))
        for row in a["run"]["tasks"]:  # the average task's run too: as many laws as tasks
            want = BATCHES[row["task"]](float(Fraction(a["run"]["utd"])), row["n_params"])
            assert abs(row["batch_size"] - want) <= 8 and row["batch_size"] % 16 == 0


def test_what_lies_outside_is_said_and_the_box_holds(door: Door, study: Path) -> None:
    wide = asked(door, study, "name=c", "target=600", "data=3e5")["answers"]["cartpole_swingup"]
    assert wide["extrapolation"]["utd"]["side"] == "above"
    assert wide["extrapolation"]["utd"]["factor"] == pytest.approx(wide["utd"] / 8.0)
    assert wide["extrapolation"]["n_params"] == {"factor": 1.0, "side": None} and wide["at_end"] == []
    boxed = asked(door, study, "name=c", "target=600", "data=3.3e5", "extend=1")["answers"]["cartpole_swingup"]
    assert boxed["utd"] == pytest.approx(8.0) and boxed["at_end"] == ["utd"]
    free = Allocator(LAWS["cartpole_swingup"][600.0], 256.0).least_compute(3.3e5)
    assert free is not None and free.sigma > 8.0 and boxed["compute"] > free.compute * 1.0001
    assert boxed["extrapolation"]["utd"]["side"] is None
    assert boxed["run"]["utd"] == "8" and boxed["run"]["keeps"]
    told = door("plan", study, "name=c", "target=600", "data=3e5").stdout
    assert "cartpole_swingup: extrapolated: σ is a factor 2 above what was fitted" in told
    told = door("plan", study, "name=c", "target=600", "data=3.3e5", "extend=1").stdout
    assert "cartpole_swingup: σ is an end of the range that was searched" in told


def test_commands_train_what_was_rounded(door: Door, study: Path) -> None:
    found = asked(door, study, "name=l", "target=600", "data=4e5")["answers"]
    assert len(found["average"]["run"]["tasks"]) == 2
    for a in found.values():
        run = a["run"]
        assert run["width"] % 16 == 0 and run["data"] <= 4e5 * (1 + 1e-9) and run["keeps"]
        assert run["compute_ratio"] == pytest.approx(run["compute"] / a["compute"])
        for row in run["tasks"]:
            start, *words = row["command"].split(" ", 3)[2:]
            assert start == "rlscale.train"
            spec = job(study, shlex.split(words[0])).spec
            assert spec.algorithm["name"] == "sac" and spec.algorithm["width"] == run["width"]
            assert spec.benchmark["task"] == row["task"] and spec.utd == Fraction(run["utd"])
            assert spec.batch_size == row["batch_size"] and spec.budget.env_steps == row["env_steps"]
            data = float(LAWS[row["task"]][600.0](float(spec.utd), row["n_params"]))
            assert data <= row["env_steps"] < data + 500
            assert row["learning_rate"] == {"pendulum": 3e-4, "cartpole_swingup": 1e-3}[row["task"]]
            assert f"hparams.learning_rate={row['learning_rate']!r}" in words[0]


def test_golden_lines_pass_through_the_door(door: Door, tmp_path: Path, golden: Callable[[str], Any]) -> None:
    cases = golden("ms_06_compute_optimal_line_dmc.json")["cases"]
    laws = {case["env"]: {1.0: SizeDataLaw(**case["params"])} for case in cases}
    Sized(laws, 256.0, WIDTHS, draws=2, spread=0.01, delta=1e11).write(tmp_path, "dmc")
    found = asked(door, tmp_path, "name=dmc", "budget=1e19", "extend=1e6")["answers"]
    for case in cases:
        line, a = case["expected"], found[case["env"]]
        assert log(a["utd"]) == pytest.approx(line["slope"] * log(a["n_params"]) + line["intercept"], abs=1e-12)


def test_a_task_that_cannot_keep_the_bound_stands_beside_those_that_can(door: Door, study: Path) -> None:
    found = asked(door, study, "name=c", "target=700", "data=2.5e5", "extend=1")
    assert list(found["answers"]) == ["pendulum"] or "cartpole_swingup" in found["unanswered"]
    for sentence in found["unanswered"].values():
        assert "takes at least" in sentence
    told = door("plan", study, "name=c", "target=700", "data=2.5e5", "extend=1").stdout
    assert "cartpole_swingup: no answer (data=250000: reaching 700 takes at least" in told


def test_a_delta_of_ones_own_and_none_at_all(door: Door, study: Path, tmp_path: Path) -> None:
    cheap = asked(door, study, "name=c", "budget=5e16", "delta=1e10")["answers"]["pendulum"]
    assert cheap["delta"] == 1e10 and cheap["utd"] < 2.5
    replace(CONSTANT, delta=None).write(tmp_path, "n")
    found = asked(door, tmp_path, "name=n", "target=600", "data=3e5")["answers"]["pendulum"]
    assert found["budget"] is None and found["data_share"] is None and found["delta"] is None
    assert found["run"]["tasks"][0]["command"] is None  # and this study has no runs to tell η
    assert "delta is not set and the fit has none" in said(door, tmp_path, "name=n", "budget=5e16")


def test_without_three_widths_there_is_a_size_but_no_width(door: Door, tmp_path: Path) -> None:
    two = {w: WIDTHS[w] for w in (256, 1024)}
    replace(CONSTANT, widths=two).write(tmp_path, "two")
    found = asked(door, tmp_path, "name=two", "target=600", "data=3e5")["answers"]["pendulum"]
    assert found["width"] is None and found["run"] is None and found["n_params"] > 0
    assert "three measured widths of pendulum and there are 2 (256, 1024)" in found["no_run"]
    told = door("plan", tmp_path, "name=two", "target=600", "data=3e5").stdout
    assert "no width to type" in told and "rounded to" not in told


@pytest.mark.parametrize(
    ("words", "mend"),
    [
        (("target=650", "data=3e5"), "choose one of 400, 500, 600, 700"),
        (("target=600", "data=1e3"), "data=1000: reaching 600 takes at least"),
        (("target=600", "compute=1e9"), "compute=1e+09: reaching 600 takes at least"),
        (("budget=1e10",), "the cheapest level of the average task, 400, alone costs"),
        (("target=600", "data=3e5", "next=4"), "next=4: laws with model size do not propose runs"),
        (("target=600", "data=3e5", "delta=measured"), "delta=measured: runs of several model sizes"),
    ],
)
def test_mistakes_are_one_sentence(door: Door, study: Path, words: tuple[str, ...], mend: str) -> None:
    assert mend in said(door, study, "name=c", *words)


@pytest.mark.slow
def test_bounds_that_a_refusal_names_can_be_kept(door: Door, study: Path) -> None:
    for words, key in ((("target=600", "data=1e3"), "least "), (("target=600", "compute=1e9"), "least ")):
        told = said(door, study, "name=c", *words)
        bound = told.split(key)[1].split(" ")[0]
        kind = words[1].split("=")[0]
        assert "average" in asked(door, study, "name=c", "target=600", f"{kind}={bound}")["answers"]


@pytest.mark.slow
def test_a_fit_without_a_bootstrap_is_answered_without_intervals(door: Door, tmp_path: Path) -> None:
    CONSTANT.write(tmp_path, "plain")
    (tmp_path / "fits/plain/laws_draws.npz").unlink()
    for words in (("target=600", "data=3e5"), ("budget=5e16",)):
        found = asked(door, tmp_path, "name=plain", *words)["answers"]["pendulum"]
        assert found["draws"] == 0 and found["utd_ci95"] == [None, None] and found["utd"] > 1
        assert door("plan", tmp_path, "name=plain", *words).returncode == 0
    assert found["level_share"] is None and found["run"]["width"] > 0
    path = tmp_path / "fits/plain/laws.json"
    path.write_text(path.read_text().replace('"ci95"', '"other"'))
    assert door("report", tmp_path, "name=plain").returncode == 0


def test_files_of_two_fits_are_refused(door: Door, tmp_path: Path) -> None:
    CONSTANT.write(tmp_path, "mixed")
    short = {task: {t: law for t, law in levels.items() if t < 700} for task, levels in LAWS.items()}
    replace(CONSTANT, laws=short).write(tmp_path, "other")
    draws = tmp_path / "fits/other/laws_draws.npz"
    draws.replace(tmp_path / "fits/mixed/laws_draws.npz")
    assert "are of two fits" in said(door, tmp_path, "name=mixed", "target=600", "data=3e5")

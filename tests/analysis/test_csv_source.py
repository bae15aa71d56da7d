"""Tables of three kinds, read by a mapping of columns; what the mapping leaves open is asked for, never guessed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from analysis.records import Select, load
from tests.analysis.conftest import CONF, Done

Door = Callable[..., Done]
ABOUT = ("source.benchmark=gym", "source.algorithm=sac")
SET = ("source.values.utd=1/2", "source.values.batch_size=256", "source.values.learning_rate=1e-3")


def curves(root: Path, *metrics: str) -> dict[tuple[Any, ...], np.ndarray]:
    """(task, σ, B, η, seed) → [T, (step, train, eval, metrics)]."""
    study = load(root, Select(None, None, None, None, None), metrics)
    names = ["env_step", "train_return", "eval_return", *metrics]
    parts = {run_id: part[names].to_numpy(dtype=float) for run_id, part in study.curves.groupby("run_id")}
    columns = ["task", "utd", "batch_size", "learning_rate", "seed"]
    return {tuple(row): parts[run_id] for run_id, *row in study.runs[["run_id", *columns]].itertuples(index=False)}


def test_one_long_table_of_many_runs(tmp_path: Path, door: Door) -> None:
    rows = [",exp_name,env_name,seed,metric,env_step,value"]
    for i, (task, seed, step) in enumerate((t, s, k) for t in ("a", "b") for s in (0, 1) for k in (1, 2, 3)):
        rows += [
            f"{i},simba,{task},{seed},avg_return,{step * 1e4},{i / 3!r}",
            f"{i},simba,{task},{seed},success,{step}0000,",
        ]
    (tmp_path / "simbaV2_utd2.csv").write_text("\n".join(rows) + "\n")
    words = ("source=csv/simbav2", f"source.path={tmp_path / 'simbaV2_utd2.csv'}", *ABOUT, *SET[1:])
    done = door("ingest", tmp_path / "s", *words)
    assert done.returncode == 0, done.stderr
    found = curves(tmp_path / "s")
    assert set(found) == {(t, "2", 256, 1e-3, s) for t in ("a", "b") for s in (0, 1)}
    np.testing.assert_array_equal(found["a", "2", 256, 1e-3, 1][:, [0, 2]], [[1e4, 3 / 3], [2e4, 4 / 3], [3e4, 5 / 3]])
    done = door("ingest", tmp_path / "s", *words, "source.runs.seed=null", "source.values.seed=0", "source.name=x")
    assert done.returncode == 2 and "name what tells its runs apart in source.runs" in done.stderr


def test_one_table_for_each_run_named_by_its_folder(tmp_path: Path, door: Door) -> None:
    for seed in (1, 2):
        folder = tmp_path / "runs" / f"Hopper-v4__sac_continuous_action__{seed}__1700000000"
        folder.mkdir(parents=True)
        rows = [
            "global_step,charts/episodic_return,losses/qf_loss",
            "120,10,",
            "900,20,0.5",
            "1000,30,1.5",
            "1001,50,",
            "3999,70,2",
        ]
        (folder / "progress.csv").write_text("\n".join(rows) + "\n")
    words = ("source=csv/cleanrl", f"source.path={tmp_path / 'runs'}", *ABOUT, *SET)
    done = door("ingest", tmp_path / "s", *words, "+source.curve.critic_loss=losses/qf_loss", "+source.values.width=64")
    assert done.returncode == 0, done.stderr
    found = curves(tmp_path / "s", "critic_loss")
    assert set(found) == {("Hopper-v4", "1/2", 256, 1e-3, 1), ("Hopper-v4", "1/2", 256, 1e-3, 2)}
    for table in found.values():  # means over the episodes of each 1000 steps, at their end
        np.testing.assert_array_equal(table[:, [0, 1, 3]], [[1000, 20, 1], [2000, 50, np.nan], [4000, 70, 2]])
    assert set(load(tmp_path / "s", Select(None, None, None, None, "runs")).runs["width"]) == {64}


def test_progress_of_stable_baselines(tmp_path: Path, door: Door) -> None:
    folder = tmp_path / "sac" / "Hopper-v4_3"
    folder.mkdir(parents=True)
    text = "rollout/ep_rew_mean,time/total_timesteps,eval/mean_reward\n11.5,4000,\n,5000,99.0\n12.5,8000,\n"
    (folder / "progress.csv").write_text("\ufeff" + text)
    (folder / "0.monitor.csv").write_text(
        '#{"t_start": 1.0, "env_id": "Hopper-v4"}\nr,l,t\n10.0,600,0.1\n30.0,300,0.2\n50.0,1100,0.3\n'
    )
    done = door("ingest", tmp_path / "a", "source=csv/sb3", f"source.path={tmp_path / 'sac'}", *ABOUT, *SET)
    assert done.returncode == 0, done.stderr
    (table,) = curves(tmp_path / "a").values()
    np.testing.assert_array_equal(table, [[4000, 11.5, np.nan], [5000, np.nan, 99], [8000, 12.5, np.nan]])
    done = door("ingest", tmp_path / "b", "source=csv/sb3_monitor", f"source.path={tmp_path / 'sac'}", *ABOUT, *SET)
    assert done.returncode == 0, done.stderr
    ((key, table),) = curves(tmp_path / "b").items()
    assert key == ("Hopper-v4", "1/2", 256, 1e-3, 3)
    np.testing.assert_array_equal(table[:, :2], [[1000, 20], [2000, 50]])
    (folder / "progress.csv").write_text("rollout/ep_rew_mean,time/total_timesteps\n11.5,4000\n")
    done = door("ingest", tmp_path / "c", "source=csv/sb3", f"source.path={tmp_path / 'sac'}", *ABOUT, *SET)
    assert done.returncode == 0 and "there is no eval/mean_reward" in done.stdout


@pytest.mark.parametrize(
    ("text", "words", "said"),
    [
        ("step,ret\n1000,5\n", (), "source.values.utd is not set and neither source.runs.utd nor source.pattern"),
        ("step,ret\n1000,5\n", ("source.values.utd=1", "source.runs.utd=sigma"), "t.csv: there is no column sigma"),
        ("step,ret,sigma\n1000,5,2\n", ("source.values.utd=1", "source.runs.utd=sigma"), "utd is told twice, 1 and 2"),
        ("step,ret,sigma\n1000,5,\n", ("source.runs.utd=sigma",), "source.runs.utd=sigma: this column is empty"),
        ("step,ret,sigma\n1000,5,x\n", ("source.runs.utd=sigma",), "t.csv: utd=x: this is not a fraction"),
        ("step,ret,sigma\n1000,5,0\n", ("source.runs.utd=sigma",), "utd=0, batch_size=256: both must be above 0"),
        ("stop,ret\n1000,5\n", (), "there is no column step; did you mean stop?"),
        ("step,ret\n1000,five\n", (), "t.csv: this is not a table of the columns asked for"),
        ("step,ret\n1000.5,5\n", ("source.values.utd=1",), "step is not whole env steps"),
        ("step,ret\n-5,5\n", ("source.values.utd=1",), "step is not whole env steps"),
        ("step,ret\n1000,\n", ("source.values.utd=1",), "no return was logged"),
        ("", (), "t.csv: this is not a table"),
        ("step,ret\n1,2,3\n\"", (), "t.csv: this is not a table"),
        ("step,ret\n1000,5\n", ("source.pattern='(x'",), "this is no regular expression"),
        ("step,ret\n1000,5\n", ("source.pattern='(?P<utd>x)'",), "t.csv does not match"),
        ("step,ret\n1000,5\n", ("source.curve.train_return=null",), "curve must name the columns"),
        ("step,ret\n1000,5\n", ("source.metric=m",), "a long table needs both"),
        ("step,ret\n1000,5\n", ("source.every=0",), "source.every=0"),
    ],
)  # fmt: skip
def test_what_cannot_be_told_is_a_sentence(
    tmp_path: Path, door: Door, text: str, words: tuple[str, ...], said: str
) -> None:
    path = tmp_path / "t.csv"
    path.write_text(text)
    known = (
        "source.values.task=a",
        "source.values.seed=0",
        *SET[1:],
        "source.curve.env_step=step",
        "source.curve.train_return=ret",
    )
    done = door("ingest", tmp_path / "s", "source=csv", f"source.path={path}", *ABOUT, *known, *words)
    assert done.returncode == 2 and said in done.stderr, done.stderr
    assert len(done.stderr.strip().splitlines()) == 1 and not (tmp_path / "s").exists()


def test_bytes_that_are_no_table(tmp_path: Path, door: Door) -> None:
    path = tmp_path / "t.csv"
    known = (
        "source.values.task=a",
        "source.values.seed=0",
        *SET,
        "source.curve.env_step=step",
        "source.curve.train_return=ret",
    )
    rng = np.random.default_rng(0)
    for size in (1, 10, 1000):
        path.write_bytes(rng.bytes(size))
        done = door("ingest", tmp_path / "s", "source=csv", f"source.path={path}", *ABOUT, *known)
        assert done.returncode == 2 and "t.csv" in done.stderr


def test_a_mapping_of_ones_own_is_an_option(tmp_path: Path, door: Door) -> None:
    home = tmp_path / "s" / "conf" / "source"
    home.mkdir(parents=True)
    text = (CONF / "source" / "csv.yaml").read_text().replace("env_step: null", "env_step: step")
    (home / "mine.yaml").write_text(text.replace("train_return: null", "train_return: ret"))
    (tmp_path / "t.csv").write_text("step,ret\n1000,5\n2000,6\n")
    known = ("source.values.task=a", "source.values.seed=0", *SET)
    done = door("ingest", tmp_path / "s", "source=mine", f"source.path={tmp_path / 't.csv'}", *ABOUT, *known)
    assert done.returncode == 0, done.stderr
    np.testing.assert_array_equal(curves(tmp_path / "s")["a", "1/2", 256, 1e-3, 0][:, :2], [[1000, 5], [2000, 6]])

"""source=wandb from files that a real `wandb.init(mode="offline")` wrote."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from analysis.sources import Found
from rlscale.typed import Mistake
from tests.analysis.wandb_project import read

pytestmark = pytest.mark.usefixtures("study")


WRITE = """
import sys, wandb
folder = sys.argv[1]
settings = wandb.Settings(silent=True, x_disable_stats=True, x_disable_meta=True, console="off")
for seed in (0, 1):
    config = {"task": "Hopper-v4", "utd": 0.25, "batch_size": 256, "agent": {"critic_lr": 3e-4}, "seed": seed}
    if seed:
        config["notes"] = "x" * 100_000  # a record longer than a block of the file
    run = wandb.init(mode="offline", project="p", entity="e", dir=folder, config=config, settings=settings,
                     id=f"r{seed}", tags=["grid", f"t{seed}"])
    run.config.update({"late": {"width": 64}})
    for i in range(150):
        run.log({"env_step": 1000 * i, "train_return": float("nan") if i == 7 else i / 3, "loss": {"critic": -i},
                 "word": "x", "flag": True})
    run.finish(exit_code=seed)
"""


@pytest.fixture(scope="session")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two offline runs as the installed wandb package writes them."""
    folder = tmp_path_factory.mktemp("offline")
    env = {k: v for k, v in os.environ.items() if not k.startswith("WANDB_")}
    subprocess.run([sys.executable, "-c", WRITE, str(folder)], check=True, env=env, cwd=folder)
    return folder


@pytest.fixture
def folder(written: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of them, and no network that would answer."""
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    shutil.copytree(written, tmp_path / "copy", symlinks=True)
    return tmp_path / "copy"


def read_files(folder: Path, **changes: Any) -> tuple[list[Found], list[tuple[str, str]]]:
    return read(
        **{"project": None, "folder": str(folder), "config__learning_rate": "agent.critic_lr",
           "config__algorithm": {"width": "late.width"}, "history__metrics": {"loss": "loss.critic"}, **changes}
    )  # fmt: skip


def files(folder: Path) -> list[Path]:
    return sorted(folder.rglob("offline-run-*/run-*.wandb"), key=lambda path: path.name)


def test_offline_runs_are_read_whole(folder: Path) -> None:
    found, dropped = read_files(folder)
    assert not dropped
    assert [(one.seed, one.origin) for one in found] == [(0, "r0"), (1, "r1")]
    for one in found:
        assert (one.task, one.utd, one.batch_size, one.learning_rate) == ("Hopper-v4", Fraction(1, 4), 256, 3e-4)
        assert one.algorithm_fields == {"width": 64}
        assert one.curve["env_step"].tolist() == [1000 * i for i in range(150)]
        want = np.arange(150) / 3
        want[7] = np.nan
        assert np.array_equal(one.curve["train_return"], want, equal_nan=True)
        assert one.curve["loss"].tolist() == [-i for i in range(150)]


def test_offline_tags_states_and_the_folder_of_an_online_run(folder: Path) -> None:
    assert [one.seed for one in read_files(folder, tags=["t1"])[0]] == [1]
    assert read_files(folder, states=["finished"])[1] == [
        ("r1", "its state is failed, not one of source.states=[finished]")
    ]
    at = files(folder)[0].parent
    at.rename(at.with_name(at.name.removeprefix("offline-")))
    assert [one.seed for one in read_files(folder)[0]] == [0, 1]
    with pytest.raises(Mistake, match=r"no run-\*.wandb is in it"):
        read_files(folder / "wandb" / "nothing" if (folder / "wandb" / "nothing").mkdir() else folder / "wandb/nothing")


def test_a_resumed_offline_run_is_one_run(folder: Path) -> None:
    first, second = files(folder)
    second.rename(second.with_name(first.name))
    [one], dropped = read_files(folder)
    assert one.seed == 1 and len(one.curve) == 150
    assert [what for what, _ in dropped] == ["r0"]  # steps that came twice are said


def test_a_file_cut_anywhere_is_a_crashed_run_or_none(folder: Path) -> None:
    first, _ = files(folder)
    whole = first.read_bytes()
    last = 150
    for end in [*range(3, len(whole) - 60, 7931), *range(len(whole) - 60, len(whole) - 1, 11)]:
        first.write_bytes(whole[:end])
        found, dropped = read_files(folder, states=["crashed", "failed"])
        rows = [len(one.curve) for one in found if one.seed == 0]
        assert len(rows) + len([what for what, _ in dropped if what == "r0"]) == 1
        if rows:
            last = rows[0]
    first.write_bytes(whole[:-1])
    assert last == 150 and not read_files(folder, states=["crashed", "failed"])[1]


def test_a_run_killed_before_it_wrote_anything_does_not_hide_the_next_try(folder: Path) -> None:
    first, second = files(folder)
    empty = first.parent.with_name("offline-run-20000101_000000-r1") / second.name
    empty.parent.mkdir()
    empty.touch()
    found, dropped = read_files(folder)
    assert sorted((one.seed, len(one.curve)) for one in found) == [(0, 150), (1, 150)] and not dropped


def test_a_damaged_file_is_dropped_and_said(folder: Path) -> None:
    first, _ = files(folder)
    whole = first.read_bytes()
    for at in range(0, len(whole) // 32768 * 32768, 4973):
        broken = bytearray(whole)
        broken[at] ^= 0x5A
        first.write_bytes(broken)
        found, [(what, why)] = read_files(folder)
        assert [one.seed for one in found] == [1]
        assert what == "r0" and ("is damaged at byte" in why or "does not begin as" in why)


def test_a_wandb_without_the_record_type_is_said(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "wandb.proto.wandb_internal_pb2", None)
    with pytest.raises(Mistake, match=r"none of 2 can be used; r0: .*has no wandb.proto.wandb_internal_pb2; install"):
        read_files(folder)

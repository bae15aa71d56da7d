"""hydra/launcher=slurm without a Slurm: what it submits, how it reads the queue, and what cannot be asked for."""

from __future__ import annotations

import pickle
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

import launchers
from launchers.planned import Order
from rlscale.typed import Mistake

launchers.discover()
from hydra_plugins import rlscale_slurm  # noqa: E402  found once the folder is on the path

# Slurm's commands as files: what was asked is noted in `calls`, and squeue's answer is in `queue`.
SLURM = {
    "sbatch": """n=$(ls "$HERE"/batch.* 2>/dev/null | wc -l); cp "$1" "$HERE/batch.$n"
echo "Submitted batch job $((7 + n))\"""",
    "squeue": 'cat "$HERE/queue"',
    "scontrol": "echo 'MaxArraySize            = 3'",
    "scancel": "exit 0",
    "srun": "exit 1",
}


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name, does in SLURM.items():
        path = tmp_path / "bin" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(f'#!/bin/sh\nHERE={tmp_path}\necho {name} "$@" >> {tmp_path}/calls\n{does}\n')
        path.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:/usr/bin:/bin")
    monkeypatch.setattr(rlscale_slurm, "GONE_S", 0.0)
    (tmp_path / "queue").touch()
    return tmp_path


def launcher(root: Path, **options: Any) -> Any:
    """With the shipped options but for these."""
    shipped = OmegaConf.to_container(OmegaConf.load(root / "conf" / "hydra" / "launcher" / "slurm.yaml"))
    assert isinstance(shipped, dict)
    del shipped["_target_"]
    return rlscale_slurm.Slurm(**shipped | options)


@pytest.fixture
def queue(cluster: Path, root: Path) -> Callable[..., Any]:
    """The engine, with so many jobs submitted."""

    def submitted(jobs: int, **options: Any) -> Any:
        made = launcher(root, **options)
        made._check()
        assert made._lacks() is None
        engine = made._engine([], cluster / "log")
        engine.start({n: Order(("true", str(n)), cluster / "log" / f"{n}.log") for n in range(jobs)})
        return engine

    return submitted


def directives(script: Path) -> set[str]:
    return {line.removeprefix("#SBATCH ") for line in script.read_text().splitlines() if line.startswith("#SBATCH")}


def result(engine: Any, number: int, outcome: tuple[str, Any]) -> None:
    """As submitit leaves it when a job has ended."""
    engine.jobs[number].paths.result_pickle.write_bytes(pickle.dumps(outcome))


def test_what_is_asked_of_slurm(queue: Callable[..., Any], cluster: Path) -> None:
    queue(
        2, array_parallelism=5, partition="short", timeout_min=30, signal_s=45, cpus_per_task=2, mem="9G", gres="gpu:1",
        directives={"account": "ours"}, setup=["module load cuda"], requeue=0,
    )  # fmt: skip
    said = {"--array=0-1%2", "--partition=short", "--time=30", "--signal=USR2@45", "--cpus-per-task=2", "--mem=9G"}
    assert said | {"--gres=gpu:1", "--account=ours", "--export=ALL", "--no-requeue"} <= directives(cluster / "batch.0")
    assert "module load cuda" in (cluster / "batch.0").read_text().splitlines()
    queue(1, partition=None, mem=None)
    other = directives(cluster / "batch.1")
    assert "--requeue" in other and not [x for x in other if re.match("--(array|partition|mem|gres)", x)]


def test_a_long_array_is_cut_to_what_slurm_takes(queue: Callable[..., Any], cluster: Path) -> None:
    """MaxArraySize=3 is one more than the most tasks; together they keep to the jobs at once."""
    engine = queue(5, array_parallelism=4)
    arrays = [[d for d in directives(cluster / f"batch.{n}") if d.startswith("--array")] for n in range(3)]
    assert arrays == [["--array=0-1%1"], ["--array=0-1%1"], []]
    assert [job.job_id for job in engine.jobs.values()] == ["7_0", "7_1", "8_0", "8_1", "9"]


def test_how_jobs_end(queue: Callable[..., Any], cluster: Path) -> None:
    engine = queue(5, requeue=1)
    (cluster / "queue").write_text("7_0 COMPLETED\n7_1 RUNNING\n8_0 FAILED\n8_1 CANCELLED\n9 PENDING\n")
    for n in (2, 3):
        (cluster / "log" / f"{n}.log").write_text("the command\nstep 10\n")
    result(engine, 0, ("success", 0))
    result(engine, 2, ("success", 1))
    assert dict(engine.ended()) == {0: None, 2: "step 10"}  # what has ended without a result is given some time
    assert dict(engine.ended()) == {3: "ended by Slurm (CANCELLED); its last line: step 10"}
    assert set(engine.jobs) == {1, 4} and list(engine.begun()) == [1]
    result(engine, 1, ("error", "job not requeued because: timed-out too many times"))
    [(number, cause)] = engine.ended()
    assert number == 1 and cause.startswith("reached its time limit of 240 min 2 times; its last line:")


def test_what_slurm_ended_itself_is_submitted_again(queue: Callable[..., Any], cluster: Path) -> None:
    engine = queue(1, requeue=1)
    for number, ended in (("7", 0), ("8", 1)):  # the second time is one too many
        (cluster / "queue").write_text(f"{number} NODE_FAIL\n")
        causes = [cause for _ in range(3) for _, cause in engine.ended()]
        assert len(causes) == ended
    assert causes == ["ended by Slurm (NODE_FAIL); its last line: it said nothing"]


def test_while_slurm_does_not_answer_nothing_is_lost(queue: Callable[..., Any], cluster: Path) -> None:
    engine = queue(2)
    (cluster / "bin" / "squeue").write_text("#!/bin/sh\nexit 1\n")
    assert [end for _ in range(3) for end in engine.ended()] == []
    assert len(engine.jobs) == 2


def test_jobs_that_wait_are_taken_back(queue: Callable[..., Any], cluster: Path) -> None:
    engine = queue(2)
    (cluster / "queue").write_text("7_0 RUNNING\n7_1 PENDING\n")
    assert list(engine.ended()) == []
    (cluster / "queue").write_text("7_0 RUNNING\n7_1 CANCELLED\n")
    assert engine.withdraw() == [1] and list(engine.jobs) == [0]
    assert "scancel --state=PENDING 7" in (cluster / "calls").read_text()


@pytest.mark.parametrize("wait", [True, False])
def test_leaving_cancels_what_is_left_unless_it_is_to_go_on(
    queue: Callable[..., Any], cluster: Path, wait: bool
) -> None:
    with queue(3, wait=wait):
        pass
    assert ("scancel 7 8\n" in (cluster / "calls").read_text()) == wait


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"array_parallelism": 0}, "hydra.launcher.array_parallelism=0: give a whole number, 1 or more"),
        ({"timeout_min": None}, "hydra.launcher.timeout_min=null: give a whole number, 1 or more"),
        ({"timeout_min": 1}, "hydra.launcher.signal_s=90: this is not before the time limit, timeout_min=1"),
        ({"wait": "yes"}, "hydra.launcher.wait=yes: give true or false"),
        ({"directives": "account=ours"}, "hydra.launcher.directives=account=ours: give names and values"),
        ({"setup": "module load cuda"}, 'hydra.launcher.setup=module load cuda: write it as a list, ["module'),
        ({"on_error": "halt"}, "hydra.launcher.on_error=halt: there is no such way"),
    ],
)
def test_mistakes_are_sentences(root: Path, options: dict[str, Any], said: str) -> None:
    with pytest.raises(Mistake, match=re.escape(said)):
        launcher(root, **options)._check()


def test_a_refused_job_is_a_sentence(
    queue: Callable[..., Any], cluster: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (cluster / "bin" / "sbatch").write_text("#!/bin/sh\necho 'sbatch: error: invalid partition: x' >&2\nexit 1\n")
    with pytest.raises(Mistake, match=re.escape("hydra/launcher=slurm: sbatch refuses (invalid partition: x); change")):
        queue(2, partition="x")
    assert not (cluster / "log").exists() and capfd.readouterr().err == ""


def test_a_machine_without_slurm_is_a_sentence(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    assert "this machine has no sbatch; run the command on a login node" in launcher(root)._lacks()

"""The status door: every member is in one state, totals add up, and nothing is written or trained."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from rlscale import status
from rlscale.spec import run_id
from rlscale.status import Looked, go_on, look, report, shown, totals, whole
from rlscale.store import Recording, Store

pytestmark = pytest.mark.usefixtures("hydra")
ROW = {"env_step": 0, "updates": 0, "wall_s": 0.0, "train_return": None, "train_episodes": 0}
ROW |= {"eval_return": None, "eval_episodes": 0}


def jobs(*grid: str, watch: str = "false") -> list[Looked]:
    """As a sweep over σ asks for them."""
    from hydra import compose
    from hydra.core.hydra_config import HydraConfig
    from omegaconf import OmegaConf

    made = []
    for utd in grid or ("1", "2"):
        words = ["benchmark=toy", "budget=smoke", f"utd={utd}", "seed=[0,1,2]", f"watch={watch}"]
        config = compose("status", words, return_hydra_config=True)
        HydraConfig.instance().set_config(config)
        made.append(status.typed_job(OmegaConf.masked_copy(config, [str(key) for key in config if key != "hydra"])))
    return made


@pytest.fixture
def store(study: Path) -> Store:
    return Store()


def claimed(store: Store, job: Looked, index: int) -> Recording:
    recording = store.claim(job.spec, job.members[index])
    assert recording is not None
    return recording


def text(asked: Sequence[Looked]) -> list[str]:
    """The report's lines."""
    from rich.console import Console

    console = Console(width=200, highlight=False)
    with console.capture() as capture:
        console.print(report(look(Store(), asked)))
    return [" ".join(line.split()) for line in capture.get().splitlines()]


def test_every_member_is_in_one_state(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["status", "-m", "benchmark=toy", "seed=[0,1,2]", "watch=false"])
    one, two = asked = jobs()
    length = one.spec.budget.env_steps
    done = claimed(store, one, 0)
    record = {"status": "finished", "asked_by": {}, "wall_s": 8.0, "pack_size": 1}
    done.finish(record)
    diverged = claimed(store, one, 1)
    diverged.finish(record | {"status": "diverged"})
    training = claimed(store, one, 2)
    training.row(ROW | {"env_step": length // 4})
    broken = claimed(store, two, 0)
    broken.fail(ValueError("no such\n  thing"))
    broken.release()
    interrupted = claimed(store, two, 1)
    interrupted.row(ROW | {"env_step": length // 2})
    interrupted.release()
    try:
        seen = look(store, asked)
        assert [[(s.word, s.share) for s in states] for states in seen.states] == [
            [("recorded", 1.0), ("recorded", 1.0), ("training", 0.25)],
            [("failed", 0.0), ("interrupted", 0.5), ("waiting", 0.0)],
        ]
        # two records of 8 s tell what a member takes, at σ = 1
        assert seen.left_s[0] == pytest.approx(8.0 * 0.75)
        assert seen.left_s[1] == pytest.approx(8.0 * 2.5 * two.nominal_seconds() / one.nominal_seconds())
        lines = text(asked)
        assert lines[0] == "job done left runs"
        assert lines[1].startswith(f"{one.label} 75% 6 s 2 recorded, 1 training")
        assert lines[2].startswith(f"{two.label} 17% ") and lines[2].endswith("1 failed, 1 interrupted, 1 waiting")
        assert lines[3:5] == [f"recorded: {one.label}: diverged", f"failed: {two.label}: ValueError: no such thing"]
        assert lines[5].startswith("2 jobs, 6 runs: 2 recorded, 1 training, 1 failed, 1 interrupted, 1 waiting; ")
        assert "; 1 process at work, ETA " in lines[5] and lines[5].endswith("(going by 2 recorded runs)")
        assert lines[6] == "go on: python -m rlscale.train -m benchmark=toy 'seed=[0,1,2]'"
    finally:
        training.release()


def test_a_failure_is_told_until_the_run_is_taken_up_again(store: Store) -> None:
    (job, *_) = jobs()
    run = run_id(job.spec, job.members[0])
    recording = claimed(store, job, 0)
    recording.fail(MemoryError())
    recording.release()
    assert store.failure(run) == "MemoryError"
    recording = claimed(store, job, 0)
    assert store.failure(run) is None
    recording.finish({})
    recording.fail(ValueError("of another member of the pack"))
    assert store.failure(run) is None


def test_looking_at_what_is_whole(store: Store) -> None:
    asked = jobs("1", watch="true")
    for i in range(3):
        claimed(store, asked[0], i).finish({"status": "finished", "asked_by": {}, "wall_s": 8.0, "pack_size": 1})
    assert whole(look(store, asked))
    assert shown(asked) == "1 job, 3 runs: 3 recorded"  # watched, too, it ends at once


def test_watched_it_says_when_something_changed(
    store: Store, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Plain lines where the output is not a terminal, and an end when all is recorded."""
    asked, looks = jobs("1", watch="true"), iter(range(100))

    def meanwhile(_: float) -> None:
        """At every second look one more run is recorded."""
        if next(looks) % 2:
            member = asked[0].missing(store)[0]
            record = {"status": "finished", "asked_by": {}, "wall_s": 8.0, "pack_size": 1}
            claimed(store, asked[0], asked[0].members.index(member)).finish(record)

    monkeypatch.setattr(status.time, "sleep", meanwhile)
    assert shown(asked) == "1 job, 3 runs: 3 recorded"
    assert next(looks) == 6
    assert [line.split(";")[0] for line in capsys.readouterr().out.splitlines()] == [
        "1 job, 3 runs: 3 waiting",
        "1 job, 3 runs: 1 recorded, 2 waiting",
        "1 job, 3 runs: 2 recorded, 1 waiting",
    ]


def test_it_looks_and_touches_nothing(study: Path, store: Store) -> None:
    before = sorted(p for p in study.rglob("*"))
    totals(look(store, jobs()))
    assert sorted(p for p in study.rglob("*")) == before


def test_its_config_is_that_of_train(root: Path) -> None:
    """The same choices and keys, and `watch`: every command line that trains can be looked at."""
    import yaml

    train, looked = (yaml.safe_load((root / "conf" / f"{name}.yaml").read_text()) for name in ("train", "status"))
    assert looked.pop("watch") is False
    for config in (train, looked):
        del config["hydra"]["help"]
    assert train == looked


def test_the_command_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["status.py", "-m", "seed=0,1", "hparams.batch_size=[1, 2]", "watch=true"])
    assert go_on() == "python -m rlscale.train -m seed=0,1 'hparams.batch_size=[1, 2]'"

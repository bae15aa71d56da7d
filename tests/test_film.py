"""Videos of the last evaluation: what is filmed, that filming changes nothing, and what is refused before a run."""

from __future__ import annotations

import os
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlscale.cadence import schedule
from rlscale.cycle import Run
from rlscale.diagnostics.asked import Diagnostics
from rlscale.film import FRAMES, Film
from rlscale.job import Checkpoint, Compute, Job, Log, job_from
from rlscale.loop import run
from rlscale.sinks import Sink
from rlscale.spec import Budget, Member, RunSpec, run_id
from rlscale.train import execute
from rlscale.typed import Mistake
from rlscale.types import Algorithm, EnvSpec, FilmedEnv, HostEnv, Hyper, Step, TrainState
from tests.films import pictures

pytestmark = pytest.mark.usefixtures("quick_compiles")

MEMBERS = (Member(3, 1e-3), Member(4, 1e-3))
BUDGET = Budget(env_steps=70, warmup_steps=10, log_every=10, eval_every=20, eval_episodes=2, replay_capacity=64)


@dataclass(frozen=True)
class Walk:
    """A stand-in for a simulator: its picture is one colour, of which red counts the steps and green is the seed."""

    name: str
    task: str
    num_envs: int
    limit: int  # copy 0's episode ends at this step, the others' two steps later
    breaks: bool  # the camera, in mid-episode

    def spec(self) -> EnvSpec:
        return EnvSpec(1, 1, 2 * FRAMES)

    def make(self, seed: int) -> HostEnv:
        return WalkEnv(self, seed)

    def filmed(self, seed: int) -> FilmedEnv:
        return WalkEnv(self, seed)


class WalkEnv:
    def __init__(self, task: Walk, seed: int):
        self.task, self.count, self.limits = task, 0, task.limit + 2 * (np.arange(task.num_envs) > 0)
        self.rng, self.green = np.random.default_rng(seed), seed % 200

    def reset(self) -> Any:
        return self.rng.normal(size=(self.task.num_envs, 1)).astype(np.float32)

    def step(self, action: Any) -> Step:
        self.count += 1
        over, noise = self.count % self.limits == 0, self.rng.normal(size=(self.task.num_envs, 1)).astype(np.float32)
        return Step(noise, noise[:, 0] + action[:, 0], np.zeros_like(over), over, noise)

    def frame(self) -> np.ndarray:
        if self.task.breaks and self.count > 2:
            raise RuntimeError("the camera fell")
        return np.full((480, 600, 3), (self.count * 20, self.green, 0), np.uint8)

    def close(self) -> None:
        pass


WALK = Walk("walk", "walk", 1, 9, breaks=False)


@dataclass(frozen=True)
class Drift:
    """The smallest learner: an action that follows what is observed and what was learned."""

    name: str

    def make(self, env: EnvSpec, utd: Fraction, batch_size: int) -> Algorithm:
        def init(key: Any, hyper: Hyper) -> TrainState:
            return TrainState(jax.random.normal(key), (), (), hyper, key, jnp.int32(0))

        def act(state: TrainState, obs: Any, key: Any, explore: bool) -> Any:
            return jnp.tanh(obs + state.params)

        def update(state: TrainState, batch: Any) -> Any:
            value = state.params + state.hyper.learning_rate * batch.reward.mean()
            return state.replace(params=value, updates=state.updates + 1), {"value": value}

        return Algorithm(init, act, update, {"critic": 1, "actor": 1, "total": 2}, 1.0)


def job(benchmark: Any = WALK, video: bool = True, progress: bool = False, **budget: Any) -> Job:
    spec = RunSpec(asdict(Drift("drift")), asdict(benchmark), Fraction(1), 8, replace(BUDGET, **budget))
    compute, log = Compute("cpu", "auto", "loop", False), Log(progress, 10.0, video, None)
    return Job(
        *(spec, MEMBERS, Drift("drift"), benchmark, compute, Checkpoint(None), log),
        *(Diagnostics(None, None, None, None), {"sweep": None}, False),
    )


def rows(films: list[Film]) -> list[list[dict[str, Any]]]:
    asked, env = job(), WALK.spec()
    learner = asked.algorithm.make(env, Fraction(1), 8)
    cadence = schedule(Fraction(1), 1, BUDGET.env_steps, BUDGET.warmup_steps)
    work = Run(learner, WALK, MEMBERS, cadence, BUDGET, 8, "loop", "device")
    return [[{k: v for k, v in row.items() if k != "wall_s"} for row in pack] for pack in run(work, films)]


# What is filmed


def test_the_first_episode_of_each_member_is_filmed_once() -> None:
    """Of the last evaluation only, every second step since an episode may last twice as long as a film; 5 of 9."""
    films = [Film(WALK.spec().episode_steps) for _ in MEMBERS]
    with_films, without = rows(films), rows([])
    assert with_films == without  # bit for bit: returns of the evaluations and all that was learned after them
    assert [row["eval_return"] is not None for row, _ in without] == [False, True] * 3 + [False]
    last_step = 60
    for member, film in zip(MEMBERS, films, strict=True):
        seen = pictures(film.gif())
        assert [picture.shape for picture in seen] == [(240, 300, 3)] * 5  # 480 × 600 made to fit
        assert all((picture == picture[0, 0]).all() for picture in seen)
        red, green = np.array([picture[0, 0, :2] for picture in seen], int).T
        assert red.tolist() == [0, 40, 80, 120, 160]
        seed = int(np.random.SeedSequence((member.seed, last_step)).generate_state(1)[0])
        assert set(green) == {seed % 200}


@pytest.mark.parametrize(("episode_steps", "filmed"), [(1000, 250), (1001, 201), (250, 250), (251, 126), (7, 7)])
def test_a_film_is_never_long(episode_steps: int, filmed: int) -> None:
    """Every fourth step of 1000, every fifth of 1001, each step of an episode that is short."""
    film, env = Film(episode_steps), WalkEnv(WALK, 0)
    env.frame = lambda: np.full((2, 2, 3), env.count % 256, np.uint8)  # type: ignore[method-assign]
    for _ in range(episode_steps):
        film.look(env)
        env.count += 1
    assert len(film.frames) == len(pictures(film.gif())) == filmed <= FRAMES


# Through the door


def test_a_video_lies_beside_the_record(study: Path, capfd: pytest.CaptureFixture[str]) -> None:
    execute(job())
    folders = [study / "runs" / run_id(job().spec, member) for member in MEMBERS]
    assert [len(pictures(folder / "evaluation.gif")) for folder in folders] == [5, 5]
    assert (folders[0] / "evaluation.gif").read_bytes() != (folders[1] / "evaluation.gif").read_bytes()
    held = {path.name for path in folders[0].iterdir()}
    assert held == {"spec.json", "curve.csv", "claims.jsonl", "record.json", "evaluation.gif"}
    first = [(folder / "evaluation.gif").read_bytes() for folder in folders]
    for folder in folders:
        (folder / "record.json").unlink()
    execute(job())
    assert [(folder / "evaluation.gif").read_bytes() for folder in folders] == first  # the same bytes again
    assert capfd.readouterr().err == ""


def test_what_is_recorded_is_not_run_again_for_a_video(study: Path, capfd: pytest.CaptureFixture[str]) -> None:
    execute(job(video=False))
    assert not list(study.rglob("*.gif"))
    before = {path: path.stat().st_mtime_ns for path in study.rglob("*") if path.is_file()}
    capfd.readouterr()
    execute(job(progress=True))
    assert capfd.readouterr().err == "drift walk σ=1 B=8 ×2: 2 runs recorded already, not run again for a video\n"
    assert {path: path.stat().st_mtime_ns for path in study.rglob("*") if path.is_file()} == before


def test_a_crash_leaves_no_video_and_no_record(study: Path) -> None:
    with pytest.raises(RuntimeError, match="the camera fell"):
        execute(job(replace(WALK, breaks=True)))
    left = {path.name for path in study.rglob("*") if path.is_file()}
    assert left == {".lock", "spec.json", "curve.csv", "claims.jsonl", "failure.json"}


@pytest.mark.parametrize("breaks", [False, True])
def test_the_sink_is_told_of_rows_videos_and_the_end(
    study: Path, monkeypatch: pytest.MonkeyPatch, breaks: bool
) -> None:
    told: list[Any] = []

    class Noted(Sink):
        def rows(self, rows: Any) -> None:
            told.append([row["env_step"] for row in rows])

        def video(self, index: int, path: Path) -> None:
            told.append((path.parent.name, len(pictures(path))))

        def finish(self, failed: bool = False) -> None:
            told.append((failed, len(list(study.rglob("record.json")))))

    monkeypatch.setattr("rlscale.train.Sink", Noted)
    with pytest.raises(RuntimeError, match="the camera fell") if breaks else nullcontext():
        execute(job(replace(WALK, breaks=breaks)))
    rows = [[10 * i] * 2 for i in range(1, 8)]
    videos = [(run_id(job().spec, member), 5) for member in MEMBERS]
    ended = [*rows, *videos, (False, 2), (True, 2)]  # once the records are there; the second says no more
    assert told == ([*rows[:5], (True, 0)] if breaks else ended)


def test_a_camera_that_does_not_work_is_known_before_the_run(study: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MUJOCO_GL", "osmesa")
    monkeypatch.setattr(WalkEnv, "frame", lambda self: 1 / 0)
    with pytest.raises(Mistake, match=r"^log\.video=true: no picture of walk can .* MUJOCO_GL=osmesa \(division by"):
        execute(job())
    assert not study.exists()


# What is refused, and what is chosen


def composed(study: Path, *overrides: str) -> Job:
    """The typed job of a command line."""
    from hydra import compose, initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra
    from omegaconf import OmegaConf, open_dict

    from rlscale.door import CONF

    GlobalHydra.instance().clear()
    OmegaConf.register_new_resolver("rlscale_scratch", lambda: str(study), replace=True)
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = compose("train", [*overrides, "hydra.searchpath=[]"])
    with open_dict(config):
        data: Any = OmegaConf.to_container(config, resolve=True)
    return job_from(data, {}, overrides)


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        (
            ["benchmark=toy"],
            r"benchmark=toy has no pictures; gym and dmc .*, humanoid_bench and franka \(engine=c\) have",
        ),
        (["benchmark=gym", "benchmark.backend=envpool"], r"=gym has no pictures; gym and dmc \(backend=python\), "),
        (["benchmark=control"], r"benchmark=control has no pictures; gym"),
        (["budget.eval_every=null"], r"this budget has none; set budget\.eval_every to at most 1000000"),
        (["budget=smoke", "budget.eval_every=500"], r"this budget has none; set budget\.eval_every to at most 400"),
    ],
)
def test_what_cannot_be_filmed_is_a_mistake(
    study: Path, monkeypatch: pytest.MonkeyPatch, overrides: list[str], sentence: str
) -> None:
    monkeypatch.setenv("MUJOCO_GL", "glfw")
    with pytest.raises(Mistake, match=rf"^log\.video=true: .*{sentence}"):
        composed(study, "log.video=true", *overrides)
    composed(study, "log.video=false", *overrides)


def test_a_video_is_not_part_of_a_runs_identity(study: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MUJOCO_GL", "glfw")
    plain, filmed = (composed(study, f"log.video={on}") for on in ("false", "true"))
    assert filmed.log.video and not plain.log.video
    assert run_id(plain.spec, plain.members[0]) == run_id(filmed.spec, filmed.members[0])


@pytest.mark.parametrize(
    ("mine", "libraries", "chosen", "mend"),
    [
        (None, ["EGL", "OSMesa"], "egl", None),
        (None, ["OSMesa"], "osmesa", None),
        ("osmesa", ["EGL", "OSMesa"], "osmesa", None),
        ("glfw", ["EGL"], "glfw", None),
        ("osmesa", ["EGL"], None, "with MUJOCO_GL=osmesa; unset it"),
        ("disable", ["EGL"], None, "with MUJOCO_GL=disable; unset it"),
        ("egl", [], None, "with MUJOCO_GL=egl; run apt-get install libegl1 "),
        (None, [], None, "no library to draw with; run apt-get install libegl1 "),
    ],
)
def test_how_to_draw_is_chosen_by_what_is_there(
    monkeypatch: pytest.MonkeyPatch, mine: str | None, libraries: list[str], chosen: str | None, mend: str | None
) -> None:
    monkeypatch.setenv("MUJOCO_GL", mine or "")
    if mine is None:
        monkeypatch.delenv("MUJOCO_GL")
    monkeypatch.setattr("rlscale.job.find_library", lambda name: name if name in libraries else None)
    Log(True, 10.0, video=False, wandb=None).prepare()
    assert os.environ.get("MUJOCO_GL") == mine
    if mend is not None:
        with pytest.raises(Mistake, match=rf"^log\.video=true: .*{mend}"):
            Log(True, 10.0, video=True, wandb=None).prepare()
        assert os.environ.get("MUJOCO_GL") == mine
    else:
        Log(True, 10.0, video=True, wandb=None).prepare()
        assert os.environ["MUJOCO_GL"] == chosen

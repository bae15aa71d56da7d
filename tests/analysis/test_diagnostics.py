"""What diagnostics logged is read back as what it was made from: vertices, slopes, noise scales; and drawn."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from analysis.critic_losses import late, quadratic, vertex
from analysis.sources.model_scaling import SLASH
from tests.analysis.archives import npy, zip_of
from tests.analysis.conftest import Done

Door = Callable[..., Done]
STEPS = np.arange(25_000, 1_000_001, 25_000)
MEMBER = (
    "side/w{w}p{p}/utd_2/{task}/{metric}/bs_{b}_lr_0.0003_hard_False_1000_targnoise_none_0_"
    "sep_{sep}_w{own}p{p}_nstep_1_usenstep_False.npy"
)
SLOPES = {"h1-crawl-v0": (-0.55, -0.33), "h1-pole-v0": (-0.27, -0.11)}  # by the main width, by the passive one
VERTICES = {256: 300.0, 512: 520.0, 1024: 900.0}


def curve(level: float, seeds: int, random: int) -> np.ndarray:
    """A loss that is at `level` from 720k to 800k steps, and elsewhere not; seeds scatter evenly about it."""
    rng = np.random.default_rng(random)
    inside = (STEPS >= 720_000) & (STEPS <= 800_000)
    values = np.where(inside, level, 50.0)[:, None] * (1 + 0.05 * rng.standard_normal((1, seeds)))
    values *= level / values[inside].mean() if level else 1.0
    return np.column_stack([STEPS, values])


def member(metric: str, task: str, w: int, b: int, own: int | None) -> str:
    words = {"metric": metric.replace("/", SLASH), "task": task, "w": w, "p": w * 9, "b": b}
    return MEMBER.format(**words, sep=own is not None, own=own or 512)


def side() -> dict[str, bytes]:
    """Every pair of widths; at one of them two batch sizes that differ about the law, and a seed that stopped early."""
    files = {}
    for t, (task, (by_main, by_own)) in enumerate(SLOPES.items()):
        for w in (512, 1024, 2048):
            for own in (512, 1024, 2048):
                level = 3.0 * (w / 512) ** by_main * (own / 512) ** by_own
                for b, factor in ((512, 1.2), (1024, 0.8)) if w == own else ((1024, 1.0),):
                    losses = curve(level * factor, 3, 9 * t + w + own)
                    stopped = np.column_stack([losses, np.where(STEPS < 500_000, 7.0, np.nan)])
                    for metric, array in (
                        ("return", stopped),
                        ("sep_validation_critic_loss", stopped),
                        ("validation_critic_loss", stopped),
                    ):
                        files[member(metric, task, w, b, own)] = npy(array)
    return files


def overfitted() -> dict[str, bytes]:
    """σ, width and B with a parabola of known vertex in the last tenth of each run; training losses have none."""
    files = {}
    for w, at in VERTICES.items():
        for b in (64, 128, 256, 512, 1024, 2048):
            level = np.exp(0.1 * np.log(b / at) ** 2 + 1.0)
            late_part = STEPS >= 900_000
            validation = np.column_stack([STEPS, *(np.where(late_part, level * f, 9.0) for f in (0.9, 1.1))])
            training = np.column_stack([STEPS, *(np.full(len(STEPS), (b / 64) ** -0.2) for _ in range(2))])
            for metric, array in (
                ("return", validation), ("validation_critic_loss", validation), ("critic_loss", training)
            ):  # fmt: skip
                files[member(metric, "h1-crawl-v0", w, b, None)] = npy(array)
    return files


def ingested(tmp_path: Path, door: Door, files: Mapping[str, bytes], name: str) -> Path:
    path = zip_of(tmp_path / f"{name}.zip", files)
    about = ("source=model_scaling", "source.benchmark=humanoid_bench", "source.algorithm=bro")
    done = door("ingest", tmp_path / "study", *about, f"source.path={path}")
    assert done.returncode == 0, done.stderr
    return tmp_path / "study"


def found(study: Path, name: str) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads((study / "fits" / name / "diagnostics.json").read_text())
    return loaded


def test_the_slopes_of_passive_critics_come_back(tmp_path: Path, door: Door) -> None:
    study = ingested(tmp_path, door, side(), "side_critic")
    done = door("diagnostics", study, "name=side", "select.sweep=side_critic")
    assert done.returncode == 0, done.stderr
    rows = {row["task"]: row for row in found(study, "side")["passive"]}
    assert set(rows) == set(SLOPES)
    for task, slopes in SLOPES.items():
        for which, slope in zip(("main", "passive"), slopes, strict=True):
            assert rows[task][which]["average"] == pytest.approx(slope, abs=1e-9)
            assert list(rows[task][which]["slopes"]) == ["512", "1024", "2048"]
            low, high = rows[task][which]["average_ci95"]
            assert low < slope < high
        assert f"{slopes[0]:.3g}" in done.stdout and f"{slopes[1]:.3g}" in done.stdout
    assert door("report", study, "name=side").returncode == 0
    page = (study / "fits/side/report.html").read_text()
    assert page.count("<svg role") == 4 and "main width: slope −0.55" in page and "passive width: slope −0.11" in page


def test_the_vertices_are_the_largest_batches(tmp_path: Path, door: Door) -> None:
    study = ingested(tmp_path, door, overfitted(), "grid")
    assert door("diagnostics", study, "name=grid").returncode == 0
    said = found(study, "grid")
    assert [row["width"] for row in said["overfitting"]] == list(VERTICES)
    for row in said["overfitting"]:
        assert row["validation"]["vertex"] == pytest.approx(VERTICES[row["width"]], rel=1e-6)
        assert row["training"]["vertex"] is None  # it falls all the way
        low, high = row["validation"]["vertex_ci95"]
        assert low < row["validation"]["vertex"] < high
    line = np.polyfit(np.log(list(VERTICES)), np.log(list(VERTICES.values())), 1)
    assert said["largest_batch"][0]["exponent"] == pytest.approx(line[0], rel=1e-6)
    assert door("report", study, "name=grid").returncode == 0
    page = (study / "fits/grid/report.html").read_text()
    assert page.count("<svg role") == 3 and "width 512: 520" in page


def test_this_projects_own_columns_are_read(tmp_path: Path, door: Door) -> None:
    """Several passive critics beside one learner, each with a column; and the noise scale over training."""
    files = {name: array for name, array in overfitted().items() if "/bs_512_" in name}
    study = ingested(tmp_path, door, files, "mine")
    for path in sorted((study / "runs").glob("*/curve.csv")):
        table = pd.read_csv(path)
        main = json.loads(path.with_name("spec.json").read_text())["spec"]["algorithm"]["width"]
        for own in (128, 512):
            table[f"passive_validation_critic_loss_w{own}"] = 2.0 * (main / 256) ** -0.4 * (own / 256) ** -0.2
        table["noise_scale"] = np.where(table.index % 2, 30.0, 44.0)
        table.to_csv(path, index=False)
    assert door("diagnostics", study, "name=mine", "window=2").returncode == 0
    said = found(study, "mine")
    (row,) = said["passive"]
    assert (row["main"]["average"], row["passive"]["average"]) == (pytest.approx(-0.4), pytest.approx(-0.2))
    assert [(c["width"], c["passive_width"]) for c in row["cells"][:3]] == [(256, 128), (256, 512), (512, 128)]
    assert len(said["noise"]) == 3 and all(n["noise_scale"][1:] == [37.0] * 39 for n in said["noise"])
    assert door("report", study, "name=mine").returncode == 0
    page = (study / "fits/mine/report.html").read_text()
    assert "Noise scale of the critic" in page and "slope −0.40" in page


def test_only_an_inner_least_is_a_vertex() -> None:
    batches = np.array([64.0, 128.0, 256.0, 512.0])
    for at, factor, inside in ((180.0, 1, True), (180.0, -1, False), (30.0, 1, False), (900.0, 1, False)):
        q = quadratic(batches, np.exp(factor * 0.3 * np.log(batches / at) ** 2))
        assert np.isfinite(vertex(q, batches)) == inside
        if inside:
            assert vertex(q, batches) == pytest.approx(at)


def test_late_is_the_last_share_of_what_any_seed_logged() -> None:
    at = np.arange(1.0, 101.0)
    short, long = (at[:50], np.full(50, 100.0)), (at, np.where(at >= 90, 3.0, 8.0))
    gap = (at, np.where(at >= 95, 5.0, np.nan))
    value, seeds = late([short, long, gap], 0.1, None)
    assert value == pytest.approx((4 * 3.0 + 6 * 4.0) / 10)  # rows 91 … 94 have one seed, 95 … 100 two
    assert seeds.tolist() == [3.0, 5.0]
    assert late([short, long, gap], 0.1, 50.0)[0] == pytest.approx(54.0)
    assert np.isnan(late([(at, np.full(100, np.nan))], 0.1, None)[0])


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("share=0",), "share=0.0: give the share of a run that counts"),
        (
            ("columns.validation=[val]", "columns.training=[]", "columns.passive_validation=[]"),
            "logged val, noise_scale;",
        ),
        (("select.sweep=gird",), "did you mean grid"),
        (("bootstrap.draws=3",), "draws=3"),
    ],
)  # fmt: skip
def test_mistakes(tmp_path: Path, door: Door, words: tuple[str, ...], said: str) -> None:
    files = {name: array for name, array in overfitted().items() if "/w256p" in name}
    study = ingested(tmp_path, door, files, "grid")
    done = door("diagnostics", study, "name=x", *words)
    assert done.returncode == 2 and said in done.stderr and not (study / "fits").exists()

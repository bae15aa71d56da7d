"""The page about a fit: whole, self-contained, honest about what is absent, the same bytes again."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from analysis.figures.palette import PAIRS
from analysis.page.parts import table
from tests.analysis.conftest import Done
from tests.analysis.synthetic import World

Door = Callable[..., Done]
LEVELS = ("reference.thresholds=[300,500,700]", "bootstrap.draws=20")
VOID = {"meta", "br"}
CHAPTERS = [
    "Predicted and obtained", "What was run", "Best batch size and learning rate", "Data and compute",
    "What compute buys", "Best σ for a budget", "Against constant settings", "Learning curves", "Inside training",
    "What was left out", "Notes of the fit", "Checklist", "How to reproduce",
]  # fmt: skip


class Page(HTMLParser):
    """What a test asks of a page; `faults` are tags that do not close each other."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.text, self.tags, self.open, self.faults, self.words = text, [], [], [], ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        if not self.open or self.open.pop() != tag:
            self.faults.append(f"</{tag}> at {self.getpos()}")

    def handle_data(self, data: str) -> None:
        self.words += data

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attrs for name, attrs in self.tags if name == tag]


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory, door: Door) -> Path:
    """A small grid with both fits and their report."""
    root = tmp_path_factory.mktemp("report")
    small = World(
        utds=("1/2", "1", "2", "4"), batch_sizes=(64, 128, 256), learning_rates=(3e-4, 6e-4), seeds=3,
        env_steps=24000, log_every=400,
    )  # fmt: skip
    small.write_grid(root)
    for name, words in (("hparams", ()), ("laws", ("holdout=[4]",)), ("report", None)):
        done = door(name, root, "name=a", *(() if words is None else (*LEVELS, *words)))
        assert done.returncode == 0, done.stderr
    return root


@pytest.fixture(scope="module")
def page(study: Path) -> Page:
    return Page((study / "fits/a/report.html").read_text())


def copied(study: Path, to: Path) -> Path:
    """The study without its runs' folder copied: the page is made anew beside the same runs."""
    shutil.copytree(study / "fits", to / "fits")
    (to / "runs").symlink_to(study / "runs")
    return to / "fits" / "a"


def test_it_is_one_whole_page(page: Page) -> None:
    assert not page.faults and not page.open
    assert len(page.all("h1")) == 1 and page.all("html") == [{"lang": "en"}] and page.text.startswith("<!doctype html>")
    assert [t for t in re.findall(r"<h2>([^<]*)</h2>", page.text)] == CHAPTERS
    levels = [int(tag[1]) for tag, _ in page.tags if re.fullmatch(r"h[1-6]", tag)]
    assert all(b - a <= 1 for a, b in pairwise(levels))
    assert len(page.text) < 1_000_000


def test_it_needs_nothing_from_outside(page: Page) -> None:
    assert not {tag for tag, _ in page.tags} & {"script", "img", "link", "iframe", "object", "embed", "base"}
    assert not re.search(r"https?:|//[a-z]|@import|\bsrc=|url\((?!#)", page.text)
    assert all(str(a["href"]).startswith("#") for a in page.all("a") + page.all("use"))


def test_every_reference_inside_it_resolves_and_ids_are_unique(page: Page) -> None:
    ids = [attrs["id"] for _, attrs in page.tags if "id" in attrs]
    assert len(ids) == len(set(ids))
    wanted = set(re.findall(r'(?:url\(|href=")#([^)"]+)', page.text))
    assert wanted and wanted <= set(ids)


def test_every_colour_is_defined_for_light_and_for_dark(page: Page) -> None:
    style, rest = page.text.split("</style>", 1)
    used = set(re.findall(r"var\((--[a-z0-9]+)\)", page.text))
    light, dark = style.split("prefers-color-scheme:dark")
    for name in used:
        assert f"{name}:" in light and f"{name}:" in dark, name
    assert not re.search(r"(fill|stroke): #", rest)
    assert {f"--c{colour[1:]}" for colour in PAIRS} >= {name for name in used if name.startswith("--c")}


def test_it_can_be_read_without_seeing_it(page: Page) -> None:
    figures = [a for a in page.all("svg") if a.get("role") == "img"]
    assert len(figures) == len(page.all("figure")) > 15
    assert all(len(a["aria-label"] or "") > 20 for a in figures)
    assert all(a.get("aria-hidden") == "true" for a in page.all("svg") if a.get("role") != "img")
    assert all(a.get("scope") == "col" for a in page.all("th")) and page.all("th")


def test_the_numbers_of_the_fit_stand_in_it(page: Page, study: Path) -> None:
    laws = json.loads((study / "fits/a/laws.json").read_text())
    hparams = json.loads((study / "fits/a/hparams.json").read_text())
    for h in laws["holdout"]:
        assert f"{h['predicted']:,.0f}" in page.words and f"{h['signed_error']:+.1%}".replace("-", "−") in page.words
    exponent = hparams["laws"]["shared"]["batch_size"]["exponent"]
    assert f"{exponent:.2f}".replace("-", "−") in page.words
    assert laws["provenance"]["command"] in page.words and laws["provenance"]["runs_sha256"] in page.words
    for dropped in laws["dropped"]:
        assert dropped["what"] in page.words and dropped["reason"] in page.words
    assert "not those that this fit was made from" not in page.words
    assert re.search(r"0\.000\d", page.words)  # ticks of the learning rate keep their digits


@pytest.mark.slow
def test_the_same_fit_gives_the_same_bytes(study: Path, door: Door, tmp_path: Path) -> None:
    folder = copied(study, tmp_path)
    assert door("report", tmp_path, "name=a").returncode == 0
    assert (folder / "report.html").read_bytes() == (study / "fits/a/report.html").read_bytes()


def bare_laws(laws: dict[str, Any]) -> None:
    """Only what the house's page on file formats promises, and the law without its further forms."""
    for key in ("dropped", "notes", "scatter", "drift", "left_out_error", "holdout"):
        laws.pop(key, None)
    laws["budget"] = {}
    for row in laws["data"]:
        for key in ("members", "at_bound", "starts_agree", "loss"):
            row.pop(key, None)
        for point in row["points"]:
            point.pop("law", None), point.pop("law_ci95", None)


def bare_hparams(hparams: dict[str, Any]) -> None:
    for key in ("dropped", "notes", "baseline", "proposals"):
        hparams.pop(key, None)
    for row in hparams["best"]:
        for key in ("share", "at_grid_end", "threshold", "batch_size_ci95", "learning_rate_ci95"):
            row.pop(key, None)
    for pair in hparams["laws"].values():
        for law in pair.values():
            law.pop("intercept_ci95", None)


@pytest.mark.slow
def test_absent_keys_and_draws_are_no_hindrance_and_other_runs_are_told(
    study: Path, door: Door, tmp_path: Path
) -> None:
    folder = copied(study, tmp_path)
    for name, strip in (("laws", bare_laws), ("hparams", bare_hparams)):
        fit = json.loads((folder / f"{name}.json").read_text())
        strip(fit)
        fit["provenance"]["runs_sha256"] = "0" * 64
        (folder / f"{name}.json").write_text(json.dumps(fit))
        (folder / f"{name}_draws.npz").unlink()
    done = door("report", tmp_path, "name=a")
    assert done.returncode == 0, done.stderr
    page = Page((folder / "report.html").read_text())
    assert not page.faults and "no σ was held out" in page.words and "Best σ for a budget" not in page.words
    assert "not those that this fit was made from" in page.words


@pytest.mark.slow
def test_a_grid_alone_is_enough_and_what_its_runs_logged_is_drawn(study: Path, door: Door, tmp_path: Path) -> None:
    folder = copied(study, tmp_path)
    for path in folder.glob("laws*"):
        path.unlink()
    done = door("report", tmp_path, "name=a", "columns.fresh_loss=[critic_loss]", "columns.critic_norm=critic_loss")
    assert done.returncode == 0, done.stderr
    page = Page((folder / "report.html").read_text())
    assert not page.faults and "Best batch size and learning rate" in page.words
    assert "Data and compute" not in page.words
    assert "Critic parameter norm" in page.words and "did not log them" not in page.words


def test_laws_alone_are_enough_also_where_their_runs_are_not(study: Path, door: Door, tmp_path: Path) -> None:
    shutil.copytree(study / "fits", tmp_path / "fits")
    for path in (tmp_path / "fits/a").glob("hparams*"):
        path.unlink()
    assert door("report", tmp_path, "name=a").returncode == 0
    page = Page((tmp_path / "fits/a/report.html").read_text())
    assert not page.faults and "The runs could not be read here" in page.words and "Data and compute" in page.words


def test_a_wrong_pair_of_batches_is_one_sentence(study: Path, door: Door) -> None:
    done = door("report", study, "name=a", "columns.batches=[64,64]")
    assert done.returncode == 2 and "columns.batches=[64, 64]" in done.stderr and done.stderr.count("\n") == 1


def test_what_people_typed_is_never_markup() -> None:
    made = table('<i>&"', ["<b>"], [["<script>alert(1)</script>"], [1.5]])
    assert "<script>" not in made and "<b>" not in made and "<i>" not in made and "&lt;script&gt;" in made

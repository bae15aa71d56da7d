"""The page in a real browser: on a desk in light and in dark, and on a phone, where nothing may stick out."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from matplotlib.image import imread

from tests.analysis.conftest import Done
from tests.analysis.synthetic import World

BROWSER = next(
    (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None
)
pytestmark = [pytest.mark.slow, pytest.mark.skipif(BROWSER is None, reason="no Chromium is installed")]
# a headless window is never narrower than 500 pixels, so a phone is a frame of its width in a page
FRAME = """<body style="margin:0"><iframe src="{page}" style="border:0;width:{width}px;height:{height}px"></iframe>
<script>onload = () => {{
  const inner = document.querySelector("iframe").contentDocument, root = inner.documentElement;
  const shown = e => e.getClientRects().length && !e.closest(".wide");
  const wide = [...inner.querySelectorAll("body *")]
    .filter(e => shown(e) && e.getBoundingClientRect().right > {width} + 1);
  const small = [...inner.querySelectorAll("figure svg text")].filter(shown)
    .map(e => e.getBoundingClientRect()).filter(r => Math.max(r.width, r.height) < 8);
  document.title = JSON.stringify({{width: root.scrollWidth, wide: wide.map(e => e.outerHTML.slice(0, 80)).slice(0, 5),
    small: small.length, figures: inner.querySelectorAll("figure svg").length,
    background: inner.defaultView.getComputedStyle(inner.body).backgroundColor}});
}};</script>"""


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory, door: Callable[..., Done]) -> Path:
    """Seven σ, eight levels and a long name: as much as one page has to bear."""
    root = tmp_path_factory.mktemp("browser")
    utds = ("1/4", "1/2", "1", "2", "4", "8", "16")
    World(utds=utds, batch_sizes=(64, 128, 256), learning_rates=(3e-4, 6e-4), seeds=3, log_every=400).write_grid(root)
    levels = ("reference.thresholds=[100,200,300,400,500,600,700,800]", "bootstrap.draws=40")
    for name, words in (("hparams", levels), ("laws", (*levels, "holdout=[8,16]")), ("report", ())):
        done = door(name, root, "name=a-rather-long-name.of-a-fit_2026", *words)
        assert done.returncode == 0, done.stderr
    return root / "fits/a-rather-long-name.of-a-fit_2026/report.html"


def browse(report: Path, tmp: Path, width: int, height: int, dark: bool, *more: str) -> str:
    """Chromium's answer for the page in a frame of this width."""
    frame = tmp / "frame.html"
    frame.write_text(FRAME.format(page=report.resolve().as_uri(), width=width, height=height))
    command = [
        str(BROWSER), "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars",
        "--allow-file-access-from-files", "--virtual-time-budget=10000",
        f"--user-data-dir={tmp / 'profile'}", f"--window-size={max(width, 500)},{height}",
        f"--blink-settings=preferredColorScheme={0 if dark else 1}", *more, frame.resolve().as_uri(),
    ]  # fmt: skip
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout


@pytest.mark.parametrize(("width", "dark"), [(1280, False), (1280, True), (390, False), (320, True)])
def test_it_fits_and_can_be_read(report: Path, tmp_path: Path, width: int, dark: bool) -> None:
    said = browse(report, tmp_path, width, 900, dark, "--dump-dom")
    title = re.search(r"<title>(.*?)</title>", said)
    assert title, said[:500]
    found = json.loads(title[1].replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&"))
    assert found["width"] <= width and found["wide"] == [] and found["small"] == 0 and found["figures"] > 20
    assert found["background"] == ("rgb(20, 23, 26)" if dark else "rgb(255, 255, 255)")


@pytest.mark.parametrize(
    ("name", "width", "dark"), [("light", 1280, False), ("dark", 1280, True), ("phone", 390, False)]
)
def test_it_is_painted(report: Path, tmp_path: Path, name: str, width: int, dark: bool) -> None:
    shot = tmp_path / f"{name}.png"
    browse(report, tmp_path, width, 6000, dark, f"--screenshot={shot}")
    pixels = imread(shot)[:, :width, :3]
    assert (pixels.mean() < 0.3) if dark else (pixels.mean() > 0.8)
    bands = [pixels[y : y + 600].std() for y in range(0, 6000, 600)]
    assert min(bands) > 0.02  # ink on every stretch of it

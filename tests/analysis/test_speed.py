"""The bootstrap of the published grid, K = 1,000 at eight levels, with every fit: at most 15 s on two cores."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from analysis.best import best
from analysis.curves import Reference, crossings
from analysis.fits import power_laws
from analysis.records import Select, load
from analysis.uncertainty import Bootstrap
from tests.calibration import same


@pytest.mark.slow
def test_the_grid_of_the_paper(tmp_path: Path, published: Path, door: Callable[..., Any]) -> None:
    where = f"source.path={published / 'qscaled' / 'dmc_sweep.zip'}"
    door("ingest", tmp_path, "source=qscaled", where, "source.benchmark=dmc", "source.algorithm=bro")
    read = load(tmp_path, Select(None, None, None, None, None))
    levels = tuple(100.0 * n for n in range(1, 9))
    reference = Reference("dmc", {"default": 0.0}, {"default": 1000.0}, levels, 4.92e6, 1e10)
    bootstrap = Bootstrap(1000, 0, False)
    wall, cpu = time.perf_counter(), time.process_time()
    crossed = crossings(read, reference, "train_return", bootstrap, same)
    slopes = {}
    for quantity in ("batch_size", "learning_rate"):
        found = best(crossed, quantity, "last", "geometric", bootstrap)
        slopes[quantity] = power_laws(found, bootstrap, quantity)[0].slope[0]
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    print(
        f"\n{len(crossed.cells)} configurations, K = 1,000, 8 levels, all fits: {wall:.1f} s, {cpu:.1f} s of one core"
    )
    assert len(crossed.cells) == 840 and cpu < 15  # of cores, so that a busy machine is no failure
    assert slopes["batch_size"] == pytest.approx(-0.488, abs=0.06)
    assert slopes["learning_rate"] == pytest.approx(-0.320, abs=0.06)

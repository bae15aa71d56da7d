"""The bootstrap of the published grid, K = 1,000 at eight levels, with every fit: at most 15 s on two cores."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from analysis import ingest
from analysis.best import best
from analysis.curves import Reference, crossings
from analysis.fits import power_laws
from analysis.records import Select, load
from analysis.uncertainty import Bootstrap
from rlscale.store import study_root
from tests.analysis.conftest import CONF
from tests.calibration import same


@pytest.mark.slow
def test_the_grid_of_the_paper(study: Path, published: Path) -> None:
    from hydra import compose, initialize_config_dir

    words = [f"source.path={published / 'qscaled' / 'dmc_sweep.zip'}", "source.benchmark=dmc", "source.algorithm=bro"]
    with initialize_config_dir(str(CONF), version_base="1.3"):
        ingest.main(compose("analysis/ingest", ["source=qscaled", *words]))
    read = load(study_root(), Select(None, None, None, None, None))
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

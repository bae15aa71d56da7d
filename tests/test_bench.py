"""`make bench` runs and prints what it should; no speed is judged here, where other tests share the cores."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.bench import ours
from tests.bench.report import Measured
from tests.bench.timing import Point, Round, Spent


def test_the_ceiling_is_the_rate_of_products_over_that_of_sbx() -> None:
    rounds = {
        "gemm": [Round(10, Spent(wall=1.0, cpu=0.5), flops=4e9)],  # 8 GFLOP per CPU-second
        "update": [Round(20, Spent(wall=1.0, cpu=0.7), flops=2e9)],  # 0.1 GFLOP each: 80 updates, were it nothing else
        "sbx": [Round(4, Spent(wall=1.0, cpu=0.8), flops=0.0)],  # 5 env steps of 8 updates
    }
    assert Measured(Point(8, 8, 8), {}, rounds).ceiling() == pytest.approx(80 / 40)


@pytest.mark.slow
@pytest.mark.parametrize("executor", ["host", "device"])
def test_our_side_of_the_bench_trains(executor: str) -> None:
    """Without the other library too: the executors are driven as the loop drives them."""
    work = ours.makers((1,))(Point(8, 8, 1))[f"{executor}/1"]()  # raises unless updates were made and are finite
    work.run(work.whole)


@pytest.mark.slow
def test_the_quick_bench_of_the_start_times_both_commands(root: Path) -> None:
    command = [sys.executable, "-m", "tests.bench", "start", "--quick"]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    (bare, dry) = re.findall(r"^(?:pass|FAIL)  .* answers in ([\d.]+) s; target", done.stdout, re.MULTILINE)
    assert 0.1 < float(bare) < float(dry)


@pytest.mark.slow
def test_the_quick_bench_of_jobs_sees_one_core_for_each(root: Path) -> None:
    command = [sys.executable, "-m", "tests.bench", "jobs", "--quick"]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    rows = re.findall(r"^ +(\d+) \| +[\d.]+ s \| +(\d+) \| +(\d+)$", done.stdout, re.MULTILINE)
    assert len(rows) == 2 and all(int(threads) > 0 and int(cores) == 1 for _, threads, cores in rows)
    assert len(re.findall(r"^(?:pass|FAIL)  4 jobs at once", done.stdout, re.MULTILINE)) == 1


@pytest.mark.slow
def test_the_quick_bench_of_bro_prints_its_share_of_peak(root: Path) -> None:
    command = [sys.executable, "-m", "tests.bench", "bro", "--quick"]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    (row,) = re.findall(r"^ +512 +128 +2 \| .*$", done.stdout, re.MULTILINE)
    shares = [int(share) for share in re.findall(r"(\d+)%", row)]
    assert len(shares) == 2 and all(0 < share < 130 for share in shares)
    assert len(re.findall(r"^(?:pass|FAIL)  BRO's updates", done.stdout, re.MULTILINE)) == 1


@pytest.mark.slow
def test_the_quick_bench_of_brax_prints_both_ratios(root: Path) -> None:
    """Ours is driven as the loop drives it, Brax's own trainer makes the steps that it is asked for."""
    command = [sys.executable, "-m", "tests.bench", "brax", "--quick"]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=1200)
    assert done.returncode == 0, done.stderr
    (row,) = re.findall(r"^inverted_pendulum +64 \| .*$", done.stdout, re.MULTILINE)
    ratios = [float(ratio) for ratio in re.findall(r" (\d+\.\d\d) \|", row)]
    assert len(ratios) == 2 and all(0.05 < ratio < 20 for ratio in ratios)
    assert len(re.findall(r"^(?:pass|FAIL)  .*(?:wrappers|trainer), per CPU-second", done.stdout, re.MULTILINE)) == 2


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("sbx") is None, reason="needs the bench extra: pip install -e '.[bench]'")
def test_the_quick_bench_prints_both_executors_and_a_verdict_for_each_target(root: Path) -> None:
    command = [sys.executable, "-m", "tests.bench", "sac", "--quick"]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    rows = re.findall(r"^ +64 +64 +1 +([18]) \| .*$", done.stdout, re.MULTILINE)
    assert rows == ["1", "8", "1", "8"]  # host, then device
    for row in re.findall(r"^ +64 .*$", done.stdout, re.MULTILINE):
        assert sum(float(share) for share in re.findall(r"([\d.]+)%", row)) == pytest.approx(100, abs=0.3)
    judged = re.findall(r"^(?:pass|FAIL)  (.*)$", done.stdout, re.MULTILINE)
    assert sum("against sbx" in line for line in judged) == 1
    assert sum("steps-with-updates" in line for line in judged) == 2

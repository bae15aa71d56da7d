"""What is timed of BRO at width 512: the real loop on the host, the update alone, and the machine's own matrix product.

A unit of `loop` is one env step with its σ updates, of `update` one update, of `gemm` one product.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from fractions import Fraction
from typing import Any

from omegaconf import OmegaConf

from rlscale.benchmarks.dmc import DMCPython
from rlscale.job import component
from rlscale.types import Algorithm
from tests.bench.ours import CONF, gemm, host_loop, updates
from tests.bench.timing import Maker, Point, Work

CHEETAH = DMCPython("dmc", "cheetah-run", 1, 1, "python")


def makers() -> Callable[[Point], Mapping[str, Maker]]:
    """All works of a point; its width is the critic's."""
    return lambda point: {"loop": lambda: _loop(point), "update": lambda: _update(point), "gemm": gemm}


def _algorithm(point: Point) -> Algorithm:
    fields: Any = OmegaConf.to_container(OmegaConf.load(CONF / "algorithm" / "bro.yaml"))
    made: Algorithm = component(fields | {"width": point.width}, "algorithm").make(
        CHEETAH.spec(), Fraction(point.utd), point.batch_size
    )
    return made


def _loop(point: Point) -> Work:
    algorithm = _algorithm(point)
    return host_loop(algorithm, CHEETAH, point, 1)._replace(flops=algorithm.flops_per_update * point.utd)


def _update(point: Point) -> Work:
    return updates(_algorithm(point), CHEETAH.spec(), point.batch_size)

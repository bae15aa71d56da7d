"""Parameters of the critic, layer by layer."""

from __future__ import annotations

import pytest

from analysis.model_size import BroNet


@pytest.mark.parametrize(("inputs", "width", "depth", "quantiles"), [(70, 512, 2, 100), (24, 16, 3, 1)])
def test_the_count_is_that_of_the_layers(inputs: int, width: int, depth: int, quantiles: int) -> None:
    norm = 2 * width
    first = inputs * width + width + norm
    block = 2 * (width * width + width + norm)
    head = width * quantiles + quantiles
    net = BroNet(inputs, depth, quantiles)
    assert net.parameters(width) == 2 * (first + depth * block + head)
    assert net.width(net.parameters(width)) == pytest.approx(width, rel=1e-12)

"""Parameters of the critic, layer by layer."""

from __future__ import annotations

import pytest

from analysis.model_size import BroNet, quadratic
from rlscale.typed import Mistake


@pytest.mark.parametrize(("inputs", "width", "depth", "quantiles"), [(70, 512, 2, 100), (24, 16, 3, 1)])
def test_the_count_is_that_of_the_layers(inputs: int, width: int, depth: int, quantiles: int) -> None:
    norm = 2 * width
    first = inputs * width + width + norm
    block = 2 * (width * width + width + norm)
    head = width * quantiles + quantiles
    net = BroNet(inputs, depth, quantiles)
    assert net.parameters(width) == 2 * (first + depth * block + head)
    assert net.width(net.parameters(width)) == pytest.approx(width, rel=1e-12)


def test_three_widths_give_every_other() -> None:
    """SimbaV2's published counts at 51 observations and 19 actions, the largest from the three smallest."""
    counts = {128: 604362, 256: 2322634, 512: 9101514, 1024: 36028618, 2048: 143360202}
    size = quadratic({w: counts[w] for w in (128, 256, 512)}, "h1-crawl")
    assert {w: size.parameters(w) for w in counts} == counts
    for width, count in counts.items():
        assert size.width(count) == pytest.approx(width, rel=1e-12)
    assert size.width(-1e9) == 0.0
    net = BroNet(70, depth=2, quantiles=100)
    ours = quadratic({w: net.parameters(w) for w in (256, 368, 512, 1024, 2048)}, "h1-crawl")
    assert ours.parameters(4096) == net.parameters(4096) and ours.width(1e7) == pytest.approx(net.width(1e7))


@pytest.mark.parametrize(
    ("measured", "words"),
    [
        ({256: 619208, 512: 2286792}, r"three measured widths of walk and there are 2 \(256, 512\)"),
        ({}, r"there are 0 \(none\)"),
        ({128: 550000, 256: 1050000, 512: 4920000, 1024: 26310000}, "not those of one network"),  # blocks differ
        ({128: 5e5, 256: 4e5, 512: 3e5}, "not those of one network"),
    ],
)
def test_widths_that_tell_no_network_are_refused(measured: dict[int, float], words: str) -> None:
    with pytest.raises(Mistake, match=words) as found:
        quadratic(measured, "walk")
    assert str(found.value).count(". ") == 0

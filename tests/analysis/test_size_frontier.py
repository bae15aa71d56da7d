"""The best (σ, N) in a box: no brute-force search beats it, whatever B*(σ, N), and it is exact where that is known."""

from __future__ import annotations

import numpy as np
import pytest

from analysis.allocate import Allocator, Box
from analysis.size_frontier import SizeFrontier, argmin_square
from analysis.size_laws import SizeBatchLaw, SizeDataLaw
from analysis.uncertainty import Floats


def some(count: int, seed: int) -> list[tuple[SizeDataLaw, SizeBatchLaw, Box, np.random.Generator]]:
    """Random laws and boxes, some saturated and some far from it."""
    found = []
    for k in range(count):
        rng = np.random.default_rng([seed, k])
        ten = [10.0 ** rng.uniform(*ends) for ends in ((3, 7), (-2, 1.5), (4, 8), (2, 4), (4, 10), (-1, 1), (5, 7))]
        exponents = [rng.uniform(0.1, 4), rng.uniform(0.1, 4), rng.uniform(-0.3, 1.2), rng.uniform(0.1, 3)]
        law = SizeDataLaw(ten[0], ten[1], exponents[0], ten[2], exponents[1])
        batch = SizeBatchLaw(ten[3], exponents[2], ten[4], exponents[3])
        found.append((law, batch, Box((ten[5], 16 * ten[5]), (ten[6], 200 * ten[6])), rng))
    return found


def brute(frontier: SizeFrontier) -> tuple[Floats, Floats]:
    """(data, compute) of 241 × 241 settings of the box, ends included."""
    sigma, n_params = np.meshgrid(np.geomspace(*frontier.box.sigma, 241), np.geomspace(*frontier.box.n_params, 241))
    data = frontier.law(sigma, n_params)
    return data, 10.0 * n_params * frontier.batch_size(sigma, n_params) * sigma * data


def beaten(frontier: SizeFrontier, rng: np.random.Generator, compute_bound: bool) -> None:
    """Brute force finds nothing better for a budget, a data bound and a compute bound, and bounds are kept."""
    data, compute = brute(frontier)
    delta = 10.0 ** rng.uniform(4, 15)
    best = frontier.cheapest(delta)
    assert frontier.box.holds(best.sigma, best.n_params)
    assert best.compute + delta * best.data <= (compute + delta * data).min() * (1 + 1e-12)
    bound = float(data.min() * (data.max() / data.min()) ** rng.uniform(0, 1))
    found = frontier.within_data(bound)
    assert found is not None and frontier.box.holds(found.sigma, found.n_params)
    assert found.data <= bound * (1 + 1e-9) and found.compute <= compute[data <= bound].min() * (1 + 1e-9)
    if compute_bound:
        bound = float(compute.min() * (compute.max() / compute.min()) ** rng.uniform(0, 1))
        found = frontier.within_compute(bound)
        assert found is not None and frontier.box.holds(found.sigma, found.n_params)
        assert found.compute <= bound * (1 + 1e-7) and found.data <= data[compute <= bound].min() * (1 + 1e-9)


def test_brute_force_finds_nothing_better() -> None:
    for law, batch, box, rng in some(10, 0):
        beaten(SizeFrontier(law, batch, box), rng, compute_bound=True)
        beaten(SizeFrontier(law, 256.0, box), rng, compute_bound=True)


@pytest.mark.slow
def test_brute_force_finds_nothing_better_on_a_thousand_laws() -> None:
    for k, (law, batch, box, rng) in enumerate(some(1000, 1)):
        beaten(SizeFrontier(law, batch, box), rng, compute_bound=k % 5 == 0)
        beaten(SizeFrontier(law, 256.0, box), rng, compute_bound=k % 5 == 0)


def test_the_search_finds_what_the_closed_form_knows() -> None:
    """A law of the batch size that is in truth constant takes the other road to the same place."""
    for law, _, _, rng in some(15, 2):
        delta = 10.0 ** rng.uniform(8, 13)
        best = Allocator(law, 256.0).cheapest(delta)
        assert best is not None
        low, high = 10.0 ** rng.uniform(-2, -0.1, 2), 10.0 ** rng.uniform(0.1, 2, 2)
        box = Box((best.sigma * low[0], best.sigma * high[0]), (best.n_params * low[1], best.n_params * high[1]))
        searched = SizeFrontier(law, SizeBatchLaw(256.0, 0.0, 1e-200, 1.0), box)
        found = searched.cheapest(delta)
        assert found.compute + delta * found.data == pytest.approx(best.compute + delta * best.data, rel=1e-12)
        cheap, few = searched.within_data(best.data), searched.within_compute(best.compute)
        assert cheap is not None and cheap.compute == pytest.approx(best.compute, rel=1e-6)
        assert few is not None and few.data == pytest.approx(best.data, rel=1e-7)
        if best.data > 1.1 * law.c:  # else the law is flat there and other settings cost the same
            for one in (found, cheap, few):
                assert (one.sigma, one.n_params) == pytest.approx((best.sigma, best.n_params), rel=1e-4)


def test_what_cannot_be_kept() -> None:
    law, box = SizeDataLaw(1e5, 1.0, 0.8, 1e6, 0.9), Box((1.0, 8.0), (1e6, 1e8))
    for batch in (256.0, SizeBatchLaw(1000.0, 0.4, 1e7, 0.5)):
        frontier = SizeFrontier(law, batch, box)
        far, cheap = frontier.least_data(), frontier.cheapest(0.0)
        assert (far.sigma, far.n_params) == (8.0, 1e8)
        assert frontier.within_data(far.data * 0.999) is None and frontier.within_data(far.data * 1.001) is not None
        assert frontier.within_compute(cheap.compute * 0.999) is None
        assert frontier.within_compute(far.compute) == far  # with compute to spare: as few data as there are
        near = frontier.within_compute(cheap.compute * 1.000001)
        assert near is not None and near.data <= cheap.data


def test_ends_of_the_box_are_named() -> None:
    frontier = SizeFrontier(SizeDataLaw(1e5, 1.0, 0.8, 1e6, 0.9), 256.0, Box((1.0, 8.0), (1e6, 1e8)))
    assert frontier.ends(frontier.at(2.0, 1e7)) == []
    assert frontier.ends(frontier.at(1.0, 1e7)) == ["utd"]
    assert frontier.ends(frontier.least_data()) == ["utd", "n_params"]


def test_a_narrow_valley_across_the_grid_is_followed_to_its_end() -> None:
    """Six thousand times steeper across than along, and curved: more than any law of the two kinds is."""

    def valley(u: Floats, v: Floats) -> Floats:
        return np.asarray(300.0 * (v - 0.9 * u + 0.03 - 0.2 * u**2) ** 2 + 0.05 * (u - 0.777) ** 2)

    u, v = argmin_square(valley)
    assert (u, v) == pytest.approx((0.777, 0.9 * 0.777 - 0.03 + 0.2 * 0.777**2), abs=1e-6)


def test_a_cost_that_is_nowhere_finite_is_refused() -> None:
    with pytest.raises(ValueError, match="finite nowhere"):
        argmin_square(lambda u, v: np.full((u.size, v.size), np.nan))

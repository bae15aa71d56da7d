"""Temporal-difference arithmetic against plain loops; the quantile loss is tested with BRO, its only user."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest

from rlscale.td import moments, project

pytestmark = pytest.mark.usefixtures("quick_compiles")


def slow_project(probabilities: np.ndarray, atoms: np.ndarray, support: np.ndarray) -> np.ndarray:
    """One row, atom by atom: to the neighbours below and above, or to the one that it is on."""
    out, spacing = np.zeros(len(support)), (support[-1] - support[0]) / (len(support) - 1)
    for p, atom in zip(probabilities, atoms, strict=True):
        place = (min(max(atom, support[0]), support[-1]) - support[0]) / spacing
        low, high = int(np.floor(place)), int(np.ceil(place))
        if low == high:
            out[low] += p
        else:
            out[low] += p * (high - place)
            out[high] += p * (place - low)
    return out


@pytest.mark.parametrize(("bound", "count"), [(2.0, 9), (5.0, 101), (1.0, 2)])
def test_a_projected_distribution(bound: float, count: int) -> None:
    """Sums to one, keeps the mean of what lies inside, moves what lies outside to the ends."""
    support, rng = np.linspace(-bound, bound, count), np.random.default_rng(count)
    p = rng.dirichlet(np.ones(count), 8)
    atoms = rng.normal(0, bound, (8, 1)) + 0.9 * support  # some of it outside
    atoms[0] = support  # on the atoms themselves
    atoms[1] = 0.9 * support
    atoms[2] = 0.317 * bound  # the end of an episode: all at the reward
    atoms[3] = 3 * bound + support  # all above
    atoms[4] = -3 * bound + support  # all below
    expected = np.stack([slow_project(*row, support) for row in zip(p, atoms, strict=True)])
    out = np.asarray(project(*(jnp.asarray(x, jnp.float32) for x in (p, atoms, support))))
    np.testing.assert_allclose(out, expected, atol=2e-5)
    np.testing.assert_allclose(out.sum(1), 1, atol=1e-5)
    for row in (0, 1, 2):
        assert out[row] @ support == pytest.approx(p[row] @ atoms[row], abs=2e-5 * bound)
    assert (np.count_nonzero(out[2]), out[3, -1], out[4, 0]) == (2, pytest.approx(1), pytest.approx(1))


@pytest.mark.parametrize("shape", [(1, 3), (4, 3), (4,)], ids=str)
def test_moments_are_of_all_rows(shape: tuple[int, ...]) -> None:
    rng = np.random.default_rng(0)
    rows = [np.float32(rng.normal(-100 if n < 30 else 100, 30, shape)) for n in range(60)]
    mean, variance = jnp.full(shape[1:], 7.0), jnp.full(shape[1:], 7.0)  # forgotten at the first step
    for n, row in enumerate(rows):
        mean, variance = moments(jnp.float32(n), mean, variance, row)
    every = np.concatenate(rows).astype(np.float64)
    np.testing.assert_allclose(mean, every.mean(0), rtol=1e-4, atol=1e-3)
    np.testing.assert_allclose(variance, every.var(0), rtol=1e-4)

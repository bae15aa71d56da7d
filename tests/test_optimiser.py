"""Adam against the library's."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from rlscale.optimiser import adam
from rlscale.packing import SMALL

pytestmark = pytest.mark.usefixtures("quick_compiles")


def test_adam_is_the_librarys() -> None:
    """Steps of both on the same gradients, in a tree with leaves of either kind, zeros among them."""
    rng = np.random.default_rng(0)
    shapes = {"wide": (128, 256), "layers": [(3,), (), (5, 2)], "another": (SMALL,)}
    tree = partial(jax.tree.map, is_leaf=lambda x: isinstance(x, tuple))
    params = tree(jnp.zeros, shapes)
    assert {jnp.size(leaf) < SMALL for leaf in jax.tree.leaves(params)} == {True, False}
    ours, theirs = adam(b1=0.8, b2=0.99, eps=1e-3), optax.scale_by_adam(b1=0.8, b2=0.99, eps=1e-3)
    a, b = ours.init(params), theirs.init(params)
    for size in (1.0, 0.1, 1e-2, 1e-3, 10.0):
        gradient = tree(lambda shape: jnp.float32(rng.normal(size=shape) * rng.integers(0, 2, shape)), shapes)
        gradient = jax.tree.map(lambda g, size=size: size * g, gradient)
        (direction, a), (expected, b) = ours.update(gradient, a), theirs.update(gradient, b)
        jax.tree.map(partial(np.testing.assert_allclose, rtol=2e-6), direction, expected)

"""Trees of arrays through their packing and back."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from rlscale.packing import SMALL, pack, unpack

ARRAYS = npst.arrays(
    st.sampled_from([np.float32, np.int32, np.uint32, np.bool_]),
    npst.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4),
)
TREES = st.recursive(
    ARRAYS | st.none(), lambda t: st.lists(t, max_size=3) | st.dictionaries(st.text("ab"), t), max_leaves=6
)


def the_same(a: Any, b: Any) -> None:
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        assert (x.dtype, x.shape) == (y.dtype, y.shape)
        np.testing.assert_array_equal(x, y)


@given(TREES)
def test_what_was_packed_is_unpacked(tree: Any) -> None:
    packed = pack(tree)
    assert not packed.large and len(packed.small) == len({x.dtype for x in jax.tree.leaves(tree)})
    the_same(unpack(packed), tree)


@pytest.mark.parametrize("members", [False, True], ids=["one", "members"])
def test_large_arrays_stay_as_they_are(members: bool) -> None:
    """Between small ones, of one member and of several under vmap, whose shapes are each member's own."""
    shapes = [(3,), (SMALL,), (), (SMALL - 1,), (2, SMALL)]
    tree = [jnp.arange(3 * np.prod(s, dtype=int), dtype=jnp.float32).reshape(3, *s) for s in shapes]
    tree = tree if members else [x[1] for x in tree]
    every = jax.vmap if members else (lambda function: function)
    packed = jax.jit(every(pack))(tree)
    assert [x.shape[members:] for x in packed.large] == [(SMALL,), (2, SMALL)]
    assert packed.small["float32"].shape[members:] == (3 + 1 + SMALL - 1,)
    the_same(jax.jit(every(unpack))(packed), tree)

"""Small arrays laid end to end, so that a program has few to deal with.

On a CPU a compiled function takes some microseconds for each array that it hands out, whatever its size, and another
kernel for each that it computes; a learner is some sixty arrays, most of a few hundred numbers.
"""

from __future__ import annotations

import functools
import math
from collections import Counter
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from rlscale.types import Array

SMALL = 2**14  # arrays of fewer numbers are packed: a larger one would take longer to copy than its packing spares


@functools.partial(
    jax.tree_util.register_dataclass, data_fields=["large", "small"], meta_fields=["structure", "leaves"]
)
@dataclass(frozen=True)
class Packed:
    """A tree of arrays: the large ones as they are; of the small ones a vector for each type of number."""

    large: list[Array]
    small: dict[str, Array]
    structure: Any  # of the tree
    leaves: tuple[tuple[str, tuple[int, ...]], ...]  # type and shape of each of its arrays


def pack(tree: Any) -> Packed:
    """The tree of one member, packed."""
    arrays, structure = jax.tree.flatten(tree)
    small: dict[str, list[Array]] = {}
    for array in arrays:
        if jnp.size(array) < SMALL:
            small.setdefault(str(array.dtype), []).append(jnp.ravel(array))
    return Packed(
        large=[array for array in arrays if jnp.size(array) >= SMALL],
        small={name: jnp.concatenate(vectors) for name, vectors in small.items()},
        structure=structure,
        leaves=tuple((str(array.dtype), jnp.shape(array)) for array in arrays),
    )


def unpack(packed: Packed) -> Any:
    """The tree that was packed."""
    large, taken, arrays = iter(packed.large), Counter[str](), []
    for name, shape in packed.leaves:
        size = math.prod(shape)
        if size >= SMALL:
            arrays.append(next(large))
        else:
            start = taken[name]
            arrays.append(packed.small[name][start : start + size].reshape(shape))
            taken[name] += size
    return jax.tree.unflatten(packed.structure, arrays)

"""How the parts of a cycle are compiled."""

from __future__ import annotations

import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlscale.cycle import compiler_options

WIDTH = 48


def descended(options: dict[str, Any]) -> tuple[str, Any]:
    """Some steps of a two-layer network's descent, as a learner's weights go through it: the program, and its end."""

    def loss(weights: Any, x: Any) -> Any:
        return jnp.sum((jnp.tanh(x @ weights[0]) @ weights[1]) ** 2)

    def steps(count: Any, weights: Any, x: Any) -> Any:
        def step(_: Any, weights: Any) -> Any:
            return jax.tree.map(lambda w, g: w - 0.01 * g, weights, jax.grad(loss)(weights, x))

        return jax.lax.fori_loop(0, count, step, weights)

    rng = np.random.default_rng(0)
    weights = list(jnp.asarray(rng.normal(size=(2, WIDTH, WIDTH)) / WIDTH, jnp.float32))
    x = jnp.asarray(rng.normal(size=(8, WIDTH)), jnp.float32)
    compiled = jax.jit(steps, donate_argnums=1, compiler_options=options).lower(np.int32(5), weights, x).compile()
    return compiled.as_text(), compiled(np.int32(5), weights, x)


def copies(program: str) -> int:
    return len(re.findall(rf"= f32\[{WIDTH},{WIDTH}\]\S* copy\(", program))


def test_the_compilers_options_spare_copies_of_weights_and_change_no_result() -> None:
    if not compiler_options():
        pytest.skip("this jaxlib's CPU compiler has none of the options")
    (plain, expected), (ours, result) = descended({}), descended(compiler_options())
    assert copies(ours) < copies(plain)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-7), result, expected)

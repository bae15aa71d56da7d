"""The parts of networks that are written by hand, against the library's."""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlscale.networks import LayerNorm, product

pytestmark = pytest.mark.usefixtures("quick_compiles")


def both(x: Any, seed: int) -> tuple[Any, Any]:
    """Value and slopes by x and by the parameters of a random function of the norm: ours, and flax's."""
    rng = np.random.default_rng(seed)
    weights = rng.normal(size=x.shape).astype(np.float32)
    params = {"params": dict(zip(("scale", "bias"), rng.normal(size=(2, x.shape[-1])).astype(np.float32), strict=True))}

    def of(module: Any) -> Any:
        def loss(x: Any, params: Any) -> Any:
            y = module.apply(params, x)
            return jnp.sum(weights * jnp.sin(y)), y

        return jax.jit(jax.grad(loss, argnums=(0, 1), has_aux=True))(x, params)

    return of(LayerNorm()), of(nn.LayerNorm(use_fast_variance=False))


@pytest.mark.parametrize("shape", [(7,), (2, 3, 33)], ids=str)
def test_layer_norm_and_its_gradient_are_flaxs(shape: tuple[int, ...]) -> None:
    x = np.random.default_rng(0).normal(30.0, 3.0, shape).astype(np.float32)
    ours, theirs = both(x, seed=1)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-5, atol=2e-5), ours, theirs)


def test_layer_norm_of_a_constant_row_is_finite() -> None:
    (slopes, y), _ = both(np.full((2, 16), 3.0, np.float32), seed=2)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves((slopes, y)))


def test_layer_norm_of_members_is_that_of_each() -> None:
    x = np.random.default_rng(3).normal(size=(4, 6, 20)).astype(np.float32)
    params = LayerNorm().init(jax.random.key(0), x[0])
    assert jax.tree.structure(params) == jax.tree.structure(nn.LayerNorm().init(jax.random.key(0), x[0]))
    together = jax.vmap(lambda x: LayerNorm().apply(params, x))(x)
    np.testing.assert_allclose(together, np.stack([LayerNorm().apply(params, row) for row in x]), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    ("x", "width"),
    [((6, 32), 3), ((2, 3, 16), 4), ((6, 8), 8), ((4, 3), 16), ((5, 1), 4), ((9,), 1), ((128, 128), 40)],
    ids=str,
)
def test_a_product_and_its_gradient(x: tuple[int, ...], width: int) -> None:
    """Of few and many inputs, narrow and wide kernels, small and large batches and none: that of the plain product."""
    rng = np.random.default_rng(0)
    rows, kernel, weights = (
        rng.normal(size=shape).astype(np.float32) for shape in (x, (x[-1], width), (*x[:-1], width))
    )

    def of(multiply: Any) -> Any:
        return jax.jit(jax.value_and_grad(lambda *a: jnp.sum(weights * jnp.sin(multiply(*a))), argnums=(0, 1)))

    ours, plain = of(product)(rows, kernel), of(jnp.matmul)(rows, kernel)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5), ours, plain)


@pytest.mark.parametrize("n", [3, 32])
def test_members_products_are_those_of_each(n: int) -> None:
    rng = np.random.default_rng(1)
    rows, kernels = (rng.normal(size=shape).astype(np.float32) for shape in ((4, 6, n), (4, n, 3)))
    slopes = jax.grad(lambda kernel, x: jnp.sum(jnp.sin(product(x, kernel))))
    together = jax.vmap(slopes)(kernels, rows)
    each = np.stack([slopes(kernel, x) for kernel, x in zip(kernels, rows, strict=True)])
    np.testing.assert_allclose(together, each, rtol=1e-5, atol=1e-5)

"""Features and weights of length 1, and their slopes."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlscale.hypersphere import Scale, SphereNet, on_sphere, unit

pytestmark = pytest.mark.usefixtures("quick_compiles")


def kernels(params: Any) -> list[Any]:
    return [leaf for path, leaf in jax.tree_util.tree_leaves_with_path(params) if path[-1].key == "kernel"]


def test_a_unit_vector_and_its_slope() -> None:
    x = np.random.default_rng(0).normal(0, 5, (3, 7)).astype(np.float32)
    np.testing.assert_allclose(unit(x), x / np.linalg.norm(x, axis=1, keepdims=True), rtol=1e-5)
    weights = np.random.default_rng(1).normal(size=(3, 7)).astype(np.float32)
    slope = jax.grad(lambda x: (weights * unit(x)).sum())(x)
    of = x.astype(np.float64)
    length = np.linalg.norm(of, axis=1, keepdims=True)
    by_hand = (weights - of * (weights * of).sum(1, keepdims=True) / length**2) / length
    np.testing.assert_allclose(slope, by_hand, rtol=1e-3, atol=1e-5)
    assert not np.any(unit(jnp.zeros(4))) and np.isfinite(jax.grad(lambda x: unit(x).sum())(jnp.zeros(4))).all()


@pytest.mark.parametrize("blocks", [0, 2])
def test_features_and_first_weights_have_length_one(blocks: int) -> None:
    net, x = SphereNet(16, blocks), np.random.default_rng(0).normal(0, 100, (5, 3)).astype(np.float32)
    params = net.init(jax.random.key(0), x)
    np.testing.assert_allclose(np.linalg.norm(net.apply(params, x), axis=-1), 1, atol=1e-5)  # type: ignore[arg-type]
    assert [k.shape for k in kernels(params)] == [(4, 16), *[(16, 64), (64, 16)] * blocks]
    for kernel in kernels(params):
        np.testing.assert_allclose(np.linalg.norm(kernel, axis=0), 1, atol=1e-6)


def test_the_length_of_the_input_makes_a_difference() -> None:
    net, x = SphereNet(16, 1), jnp.ones((1, 3))
    params = net.init(jax.random.key(0), x)
    near, far = (net.apply(params, times * x) for times in (1.0, 2.0))
    assert np.abs(near - far).max() > 1e-2  # type: ignore[operator]


def test_the_projection_is_of_kernels_only() -> None:
    rng = np.random.default_rng(0)
    layer = {"kernel": rng.normal(size=(3, 5)), "bias": rng.normal(size=5), "factor": rng.normal(size=(5,))}
    params = {"params": {"Net_0": jax.tree.map(np.float32, layer), "Net_1": {"kernel": np.float32([[2], [0], [-1.5]])}}}
    back = on_sphere(params)["params"]
    np.testing.assert_allclose(
        back["Net_0"].pop("kernel"), layer["kernel"] / np.linalg.norm(layer["kernel"], axis=0), rtol=1e-5
    )
    np.testing.assert_allclose(back["Net_1"]["kernel"], [[0.8], [0], [-0.6]], rtol=1e-6)
    for name, leaf in back["Net_0"].items():
        np.testing.assert_array_equal(leaf, params["params"]["Net_0"][name])


def test_a_scale_starts_at_its_value_and_moves_by_its_unit() -> None:
    scale, x = Scale(0.5, 0.1), jnp.ones(4)
    params = scale.init(jax.random.key(0), x)
    np.testing.assert_allclose(scale.apply(params, x), 0.5, rtol=1e-6)  # type: ignore[arg-type]
    moved = jax.tree.map(lambda p: p + 0.01, params)
    np.testing.assert_allclose(scale.apply(moved, x), 0.55, rtol=1e-6)  # type: ignore[arg-type]

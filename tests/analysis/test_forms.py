"""The registry of data laws and the fit through all thresholds: gradients, known truths, censoring, draws at once."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from analysis.blend import Blend, Draws
from analysis.forms import FORMS
from analysis.joint import fit_joint

X = np.log([0.25, 0.5, 1, 2, 4, 8])
NONE = np.zeros((1, 2, 6), dtype=bool)
every = pytest.mark.parametrize("name", FORMS)


def shifted(d_min: float, beta: float, alpha: float) -> np.ndarray:
    return np.log(d_min * (1 + (beta / np.exp(X)) ** alpha))


@every
@given(st.floats(-1.5, 1.5), st.floats(-1.5, 1.5), st.floats(-3, 3))
def test_gradients(name: str, own: float, shared: float, x: float) -> None:
    shape, h = FORMS[name].shape, 1e-5

    def at(a: float, b: float) -> float:
        return float(shape(np.array(a), np.array(b), np.array(x))[0])

    _, by_own, by_shared = shape(np.array(own), np.array(shared), np.array(x))
    if FORMS[name].own is not None:
        assert (at(own + h, shared) - at(own - h, shared)) / (2 * h) == pytest.approx(float(by_own), abs=1e-5)
    if FORMS[name].shared is not None:
        assert (at(own, shared + h) - at(own, shared - h)) / (2 * h) == pytest.approx(float(by_shared), abs=1e-5)


@every
def test_each_form_is_found_again(name: str) -> None:
    form = FORMS[name]
    shared = 0.0 if name == "shifted_prior" else 0.2  # where the prior does not pull
    truth = np.array([[10.0, 0.3, shared], [10.8, 0.5, shared]]) * [1, form.own is not None, form.shared is not None]
    y = form.log_data(truth[:, None, :], X)[None]
    found = fit_joint(form, X, y, NONE, 5)
    assert found.loss[0] < 1e-9 and found.stalled == 0 and not any(found.at_bound)
    np.testing.assert_allclose(found.theta[0], truth, atol=2e-3)


def test_all_draws_at_once_find_what_each_finds_alone() -> None:
    rng = np.random.default_rng(0)
    y = np.stack([shifted(2e4, 1.1, 0.8), shifted(4e4, 1.5, 0.8)]) + 0.08 * rng.standard_normal((12, 2, 6))
    censored = np.zeros(y.shape, dtype=bool)
    censored[6:, 1, 0] = True
    for name in ("shifted_power", "log_quadratic", "plateau"):
        together = fit_joint(FORMS[name], X, y, censored)
        for k in range(12):
            alone = fit_joint(FORMS[name], X, y[k : k + 1], censored[k : k + 1], 5)
            assert together.loss[k] <= alone.loss[0] * 1.05 + 1e-9, (name, k)


def test_a_censored_point_is_a_lower_bound_not_a_value() -> None:
    y = np.stack([shifted(2e4, 1.1, 0.8)] * 2)[None]
    censored = NONE.copy()
    censored[0, :, 0] = True
    y[0, :, 0] += np.log(0.6)  # the runs ended at 60 % of what the level takes
    form = FORMS["shifted_power"]
    bound, value = fit_joint(form, X, y, censored, 5), fit_joint(form, X, y, NONE, 5)
    assert bound.loss[0] < 1e-9 and np.exp(bound.theta[0, 0, 2]) == pytest.approx(0.8, rel=1e-2)
    assert form.log_data(value.theta[0, 0], X[0]) < form.log_data(bound.theta[0, 0], X[0]) - 0.15
    y[0, :, 0] += np.log(4)  # and ones that ended beyond the law push it up
    assert form.log_data(fit_joint(form, X, y, censored, 5).theta[0, 0], X[0]) > y[0, 0, 0] - np.log(2.4) + 0.2


def test_flat_data_are_reported_as_not_identified() -> None:
    flat = np.full((1, 2, 6), np.log(3e4))
    assert any(fit_joint(FORMS["shifted_power"], X, flat, NONE, 5).at_bound)


def test_a_blend_is_the_weighted_mean_in_logs_and_survives_its_json() -> None:
    theta = np.array([[10.0, 0.1, -0.2], [11.0, 0.5, 0.0]])
    blend = Blend(("shifted_power", "power"), np.array([0.25, 0.75]), theta)
    each = [FORMS[n].log_data(t, X) for n, t in zip(blend.names, theta, strict=True)]
    np.testing.assert_allclose(np.log(blend(np.exp(X))), 0.25 * each[0] + 0.75 * each[1])
    again = Blend.from_json({"members": blend.as_json()})
    np.testing.assert_allclose(again(np.exp(X)), blend(np.exp(X)))


def test_draws_bend_only_beyond_their_ends() -> None:
    theta = np.array([[[10.0, 0.5, 0.0]], [[10.0, 0.3, 0.4]]])
    drawn = Draws(("power", "shifted_power"), np.array([0, 1]), theta, np.array([[0.1, 0.2], [0.0, -0.3]]), 0.5, 4.0)
    straight = np.stack([FORMS[n].log_data(theta[k, 0], X) for k, n in enumerate(drawn.names)])
    beyond = np.stack([np.maximum(0, np.log(0.5) - X), np.maximum(0, X - np.log(4.0))])
    np.testing.assert_allclose(drawn.log_data(0, X) - straight, drawn.bend @ beyond, atol=1e-12)
    again = Draws.from_arrays(drawn.arrays())
    np.testing.assert_array_equal(again.log_data(0, X), drawn.log_data(0, X))
    np.testing.assert_allclose(np.log(drawn.one(1, 0)(np.exp(X))), drawn.log_data(0, X)[1])

"""The laws with model size are found again; exponents are shared in real units; what is not known is said."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from analysis import model_scaling
from analysis.size_fits import Points, fit_size_batch, fit_size_data
from analysis.size_laws import SizeBatchLaw, SizeDataLaw
from rlscale.typed import Mistake

SIGMA, SIZES = [1.0, 2.0, 4.0, 8.0], [1.8e5, 6.2e5, 2.3e6, 8.8e6, 3.4e7]
DATA_LAW = SizeDataLaw(c=3e5, a=1.2, alpha=0.9, b=7e5, beta=1.1)
BATCH_LAW = SizeBatchLaw(a=1600.0, alpha=0.4, b=9e5, c=1.3)


def points(law: SizeDataLaw | SizeBatchLaw, noise: float = 0.0, seed: int = 0, sizes: list[float] = SIZES) -> Points:
    sigma, n_params = (x.ravel() for x in np.meshgrid(SIGMA, sizes))
    value = law(sigma, n_params) * np.exp(noise * np.random.default_rng(seed).standard_normal(sigma.size))
    return Points(sigma, n_params, value, np.zeros(sigma.size, dtype=bool))


@settings(max_examples=12)
@given(
    st.floats(1e4, 1e7), st.floats(0.3, 3), st.floats(0.3, 2), st.floats(2e5, 5e6), st.floats(0.3, 2)
)  # fmt: skip
def test_the_data_law_is_found_again(c: float, a: float, alpha: float, b: float, beta: float) -> None:
    truth = SizeDataLaw(c, a, alpha, b, beta)
    fit = fit_size_data({"one": points(truth)})
    assert fit.loss < 1e-12
    found = fit.laws["one"]
    assert list(vars(found).values()) == pytest.approx(list(vars(truth).values()), rel=1e-2)


def test_the_batch_law_is_found_again() -> None:
    fit = fit_size_batch({"one": points(BATCH_LAW)})
    assert list(vars(fit.laws["one"]).values()) == pytest.approx(list(vars(BATCH_LAW).values()), rel=1e-4)
    assert fit.agree > 0.5 and fit.loss < 1e-12 and not fit.notes
    sigma, n_params, batch = _columns(BATCH_LAW)
    np.testing.assert_allclose(model_scaling.fit_batch(sigma, n_params, batch)(sigma, n_params), batch, rtol=1e-3)


def _columns(law: SizeDataLaw | SizeBatchLaw) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    p = points(law)
    return p.sigma, p.n_params, p.value


def test_a_batch_size_that_rises_with_sigma_is_followed() -> None:
    truth = SizeBatchLaw(1600.0, -0.05, 9e5, 1.3)
    assert fit_size_batch({"one": points(truth)}).laws["one"].alpha == pytest.approx(-0.05, abs=1e-4)


def two_tasks(noise: float) -> Mapping[str, Points]:
    other = SizeDataLaw(c=9e4, a=2.5, alpha=0.9, b=2e6, beta=1.1)
    return {"narrow": points(DATA_LAW, noise, 1, SIZES[:3]), "wide": points(other, noise, 2)}


def test_exponents_are_shared_in_real_units_whatever_the_grids() -> None:
    laws = fit_size_data(two_tasks(0.0)).laws
    for law in laws.values():
        assert (law.alpha, law.beta) == pytest.approx((0.9, 1.1), rel=1e-4)
    noisy = fit_size_data(two_tasks(0.1)).laws
    assert noisy["narrow"].beta == noisy["wide"].beta and noisy["narrow"].alpha == noisy["wide"].alpha
    tasks = {task: (p.sigma, p.n_params, p.value) for task, p in two_tasks(0.1).items()}
    recipe = model_scaling.fit_data_shared(tasks)
    assert abs(np.log(recipe["narrow"].beta / recipe["wide"].beta)) > 0.1  # shared in rescaled coordinates only


def test_the_order_of_points_does_not_matter() -> None:
    one = points(DATA_LAW, 0.1)
    order = np.random.default_rng(3).permutation(one.value.size)
    shuffled = Points(one.sigma[order], one.n_params[order], one.value[order], one.censored[order])
    a, b = fit_size_data({"t": one}), fit_size_data({"t": shuffled})
    assert list(vars(a.laws["t"]).values()) == pytest.approx(list(vars(b.laws["t"]).values()), rel=1e-5)


def test_the_default_never_ends_above_the_recipe() -> None:
    for seed in range(5):
        p = points(DATA_LAW, 0.2, seed)
        recipe = model_scaling.fit_data(p.sigma, p.n_params, p.value)
        theirs = float((np.log(recipe(p.sigma, p.n_params) / p.value) ** 2).sum())
        assert fit_size_data({"t": p}).loss <= theirs * (1 + 1e-6)


def test_a_censored_point_is_a_lower_bound() -> None:
    whole = points(DATA_LAW)
    low = whole.sigma * whole.n_params <= 4e5
    value = np.where(low, 0.5 * whole.value, whole.value)  # these runs ended at half of what the level takes
    found = fit_size_data({"t": Points(whole.sigma, whole.n_params, value, low)}).laws["t"]
    assert low.sum() == 2
    np.testing.assert_allclose(found(whole.sigma, whole.n_params), whole.value, rtol=1e-2)
    wrong = fit_size_data({"t": Points(whole.sigma, whole.n_params, value, np.zeros_like(low))}).laws["t"]
    assert wrong(1.0, SIZES[0]) < 0.8 * DATA_LAW(1.0, SIZES[0])


def test_what_the_points_do_not_tell_is_said() -> None:
    flat = Points(*_columns(DATA_LAW)[:2], np.full(20, 3e5), np.zeros(20, dtype=bool))
    assert any("bound" in note for note in fit_size_data({"t": flat}).notes)
    power = points(SizeBatchLaw(1e7, 0.4, 1e12, 0.6))  # every N far below b: only a/b^c is known
    assert any(note.startswith("b ") for note in fit_size_batch({"t": power}).notes)
    sigma, n_params = np.array([1.0, 2, 4, 1, 2]), np.array(SIZES)
    few = fit_size_data({"t": Points(sigma, n_params, DATA_LAW(sigma, n_params), np.zeros(5, dtype=bool))})
    assert any("nothing to measure the scatter" in note for note in few.notes) and np.isnan(few.scatter)


@pytest.mark.slow
def test_standard_errors_are_those_of_repeated_studies() -> None:
    fits = [fit_size_data({"t": points(DATA_LAW, 0.02, seed)}) for seed in range(20)]
    spread = np.std([f.laws["t"].alpha for f in fits])
    assert np.mean([f.standard_errors["alpha"] for f in fits]) == pytest.approx(spread, rel=0.35)
    assert np.mean([f.scatter for f in fits]) == pytest.approx(0.02, rel=0.1)


@pytest.mark.parametrize(("column", "symbol"), [("sigma", "σ"), ("n_params", "N")])
def test_too_few_levels_are_a_mistake(column: str, symbol: str) -> None:
    p = vars(points(DATA_LAW)).copy()
    levels = sorted(set(p[column]))[:2]
    keep = np.isin(p[column], levels)
    with pytest.raises(Mistake, match=rf"at least 3 levels of {symbol}.*leave 2"):
        fit_size_data({"t": Points(**{k: v[keep] for k, v in p.items()})})
    with pytest.raises(Mistake, match=f"3 levels of {symbol}"):
        model_scaling.fit_data(*(p[k][keep] for k in ("sigma", "n_params", "value")))


def test_a_level_that_is_reached_before_the_first_step_is_a_mistake() -> None:
    sigma, n_params, data = _columns(DATA_LAW)
    none = np.where(np.arange(20) == 3, 0.0, data)
    with pytest.raises(Mistake, match="walk has a value of 0"):
        fit_size_data({"walk": Points(sigma, n_params, none, np.zeros(20, dtype=bool))})
    with pytest.raises(Mistake, match="a value of 0"):
        model_scaling.fit_data(sigma, n_params, none)


@settings(max_examples=6)
@given(st.lists(st.floats(4, 6), min_size=9, max_size=20), st.integers(0, 3), st.integers(0, 2**32 - 1))
def test_any_points_give_a_law_and_no_warning(logs: list[float], hidden: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    cells = np.array([(s, n) for s in SIGMA for n in SIZES])[rng.permutation(20)[: len(logs)]]
    p = Points(*cells.T, 10.0 ** np.array(logs), np.arange(len(logs)) < hidden)
    try:
        laws = [fit_size_data({"t": p}).laws["t"], fit_size_batch({"t": p}).laws["t"]]
        laws.append(model_scaling.fit_data(p.sigma, p.n_params, p.value))
    except Mistake as mistake:
        assert "levels of" in str(mistake)
        return
    for law in laws:
        assert np.isfinite(law(p.sigma, p.n_params)).all()


def test_a_task_without_values_is_a_mistake() -> None:
    p = points(DATA_LAW)
    hidden = Points(p.sigma, p.n_params, p.value, np.arange(20) >= 2)
    with pytest.raises(Mistake, match=r"settings of hidden .* there are 2"):
        fit_size_data({"seen": p, "hidden": hidden})


def test_what_was_never_reached_is_left_out_by_the_recipe() -> None:
    sigma, n_params, data = _columns(DATA_LAW)
    holes = np.where(np.arange(20) % 7 == 0, np.inf, data)
    kept = np.isfinite(holes)
    assert model_scaling.fit_data(sigma, n_params, holes) == model_scaling.fit_data(
        sigma[kept], n_params[kept], data[kept]
    )


def test_batch_sizes_round_halves_to_even_and_not_below_16() -> None:
    assert model_scaling.rounded_batch([1, 24, 40, 87.9, 104.5]).tolist() == [16, 32, 32, 80, 112]


def test_the_average_task_weighs_tasks_by_their_own_median() -> None:
    data = np.array([[[1.0], [2.0], [4.0]], [[100.0], [300.0], [np.nan]]])  # medians 2 and 200
    np.testing.assert_allclose(model_scaling.average(data)[:, 0], [101 * 0.5, 101 * 1.25, 101 * 2.0])
    with_none = np.concatenate([data, np.full((1, 3, 1), np.nan)])
    np.testing.assert_array_equal(model_scaling.average(with_none), model_scaling.average(data))

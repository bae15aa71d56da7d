"""The cheapest σ of each level, and the budget law σ*(F) through them, with intervals (METHOD A4, eq 4.5)."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from typing import Any

import numpy as np

from analysis.batch import BatchLaws
from analysis.budget import Frontier, budget_law, optima_draws
from analysis.curves import Reference
from analysis.data import Laws
from analysis.uncertainty import Bootstrap, Floats, interval


def budget_part(
    laws: Laws, frontiers: list[Frontier], batch: BatchLaws, reference: Reference, held: int, bootstrap: Bootstrap
) -> tuple[dict[str, Any], list[str]]:
    """laws.json's `budget`: the cheapest σ of each threshold, and σ*(F) through all but the `held` highest (4.5).

    Where D bends between two σ that were run cannot be told from them: a cheapest σ is known no better than their
    distance, and draws that vary less than a uniform error of that width are given the variance that is missing.
    """
    delta, count = reference.delta, len(laws.levels)
    optima = [f.cheapest(delta) for f in frontiers]
    budgets = np.array([p.compute + delta * p.data for p in optima])
    sigma = np.array([p.sigma for p in optima])
    frontier = frontiers[0]
    ends = frontier.low, frontier.high
    draws = np.stack(
        [
            optima_draws(_of(laws, j), batch.log_intercept_draws, batch.slope_draws, frontier.n_params, delta, ends)
            for j in range(count)
        ],
        axis=1,
    )  # [K, J, 2]
    fitted = np.log([float(Fraction(u)) for u in laws.fit_utds])
    step = (fitted.max() - fitted.min()) / (len(fitted) - 1)
    missing = np.sqrt(np.maximum(0.0, step**2 / 12 - np.log(draws[..., 0]).var(axis=0)))  # [J]
    shift = missing * bootstrap.stream("cheapest").standard_normal((len(draws), 1))  # one a draw, for all thresholds
    draws[..., 0] = np.clip(draws[..., 0] * np.exp(shift), *ends)
    used = max(2, count - held)
    coefficient = exponent = float("nan")
    spans: dict[str, Any] = {"coefficient_ci95": None, "exponent_ci95": None}
    notes: list[str] = []
    predicted, predicted_spans = np.full(count, np.nan), [[float("nan")] * 2] * count
    if count >= 2:
        coefficient, exponent = map(float, budget_law(budgets[:used], sigma[:used]))
        coefficients, exponents = budget_law(draws[:, :used, 1], draws[:, :used, 0])
        spans = {"coefficient_ci95": interval(coefficients), "exponent_ci95": interval(exponents)}
        predicted = coefficient * budgets**exponent
        predicted_spans = [interval(coefficients * f**exponents) for f in budgets]
        if used < 3:
            notes.append("σ*(F) passes through two budgets only: list more thresholds to test it")
        if used > count - held:
            notes.append(f"{count} thresholds have a law: {count - used} budgets could be held out instead of {held}")
    else:
        notes.append("one threshold has a law: σ*(F) needs two")
    if stuck := [f"{v.points.threshold:g}" for v, p in zip(laws.levels, optima, strict=True) if p.at_end]:
        notes.append(
            f"the cheapest σ at J = {', '.join(stuck)} is an end of the range that was searched, not an optimum"
        )
    points = [
        {
            "threshold": v.points.threshold, "budget": budgets[i], "utd": p.sigma, "utd_ci95": interval(draws[:, i, 0]),
            "data": p.data, "compute": p.compute, "held_out": i >= used, "at_end": p.at_end,
            "data_share": delta * p.data / budgets[i],
            "predicted_utd": predicted[i], "predicted_utd_ci95": predicted_spans[i],
        }
        for i, (v, p) in enumerate(zip(laws.levels, optima, strict=True))
    ]  # fmt: skip
    return {"delta": delta, "coefficient": coefficient, "exponent": exponent, **spans, "points": points}, notes


def _of(laws: Laws, j: int) -> Callable[[Floats], Floats]:
    """Threshold j's ln D in each draw."""
    return lambda x: laws.draws.log_data(j, x)

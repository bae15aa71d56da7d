"""The cheapest (σ, N) of each level, and power laws in the budget through them, with what could fool a reader beside.

Against F = C + δ·D, the power laws of D* and C* look exact: δ·D is most of F, so D* ∝ F nearly by definition. So R² is
given on the levels that were held out too, with the error there of a constant and, for D* and C*, of a constant share.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from analysis.allocate import Box, Setting
from analysis.size_frontier import Price, SizeFrontier
from analysis.size_laws import SizeBatchLaw, SizeDataLaw
from analysis.uncertainty import Floats, interval

NAMES = ("utd", "n_params", "data", "compute")  # of a setting, in the order of Setting's fields
UNBOUNDED = Box((0.0, np.inf), (0.0, np.inf))


def widened(trained: Box, extend: float) -> Box:
    """The box with each end a factor `extend` further out; with inf, all there is."""
    if np.isinf(extend):
        return UNBOUNDED
    (s, t), (m, n) = trained.sigma, trained.n_params
    return Box((s / extend, t * extend), (m / extend, n * extend))


def size_budget(
    laws: Mapping[float, SizeDataLaw], draws: Floats, batch: Price, batch_draws: Floats | None, delta: float,
    trained: Box, extend: float, held: int,
) -> dict[str, Any]:  # fmt: skip
    """laws.json's `budget` for one task, or for the average one.

    `laws`: by threshold. `draws` [K, J, 5]: c, a, alpha, b, beta of each, NaN where a draw has no law; `batch_draws`
    [K, 4]: a, alpha, b, c, or None where the batch size is constant. `delta`: FLOPs that one env step costs.
    `trained`: what was measured; settings are searched for a factor `extend` around it (inf: without bounds, as the
    follow-up does). The `held` highest levels are left out of the power laws. Raises ValueError if delta ≤ 0 and
    `extend` is inf: then the cheapest setting may be none.
    """
    if np.isinf(extend) and (delta <= 0 or isinstance(batch, SizeBatchLaw)):
        raise ValueError("without bounds there is a cheapest setting only for delta > 0 and a constant batch size")
    order = sorted(laws)
    place = {threshold: j for j, threshold in enumerate(laws)}
    box = widened(trained, extend)
    frontiers = [SizeFrontier(laws[t], batch, box) for t in order]
    optima = [f.cheapest(delta) for f in frontiers]
    drawn = optima_draws(draws[:, [place[t] for t in order]], batch, batch_draws, delta, box)  # [K, J, 4]
    values = np.array([_numbers(p) for p in optima]).reshape(-1, len(NAMES))  # [J, 4]
    budgets, budget_draws = _budget(values, delta), _budget(drawn, delta)
    used = max(2, len(order) - held)
    powers = {
        name: _power(name, budgets, values[:, i], budget_draws, drawn[:, :, i], used, delta)
        for i, name in enumerate(NAMES)
        if len(order) >= 2
    }
    points = []
    for j, (threshold, frontier, p) in enumerate(zip(order, frontiers, optima, strict=True)):
        spans = {f"{name}_ci95": interval(drawn[:, j, i]) for i, name in enumerate(NAMES)}
        points.append({
            "threshold": threshold, "budget": budgets[j], "budget_ci95": interval(budget_draws[:, j]),
            **dict(zip(NAMES, _numbers(p), strict=True)), **spans,
            "batch_size": float(frontier.batch_size(p.sigma, p.n_params)),
            "data_share": delta * p.data / budgets[j],
            "inside": trained.holds(p.sigma, p.n_params), "beyond": beyond(trained, p), "at_end": frontier.ends(p),
            "held_out": j >= used, "draws": int(np.isfinite(drawn[:, j, 0]).sum()),
        })  # fmt: skip
    return {
        "delta": delta, "extend": extend if np.isfinite(extend) else None,
        "trained": {"utd": list(trained.sigma), "n_params": list(trained.n_params)},
        "points": points, "laws": powers, "notes": _notes(points, powers, used, len(order) - held),
    }  # fmt: skip


def optima_draws(draws: Floats, batch: Price, batch_draws: Floats | None, delta: float, box: Box) -> Floats:
    """σ, N, D and C of the cheapest setting in each draw [K, J, 4]; NaN where a draw has no law."""
    found = np.full((*draws.shape[:2], len(NAMES)), np.nan)
    for k in range(len(draws)):
        price = drawn_batch(batch, batch_draws, k)
        for j in range(draws.shape[1]):
            law = drawn_law(draws[k, j])
            if law is not None and price is not None:
                found[k, j] = _numbers(SizeFrontier(law, price, box).cheapest(delta))
    return found


def drawn_law(row: Floats) -> SizeDataLaw | None:
    """The law of one draw, c, a, alpha, b, beta; None where it has none."""
    return SizeDataLaw(*map(float, row)) if np.isfinite(row).all() and (row > 0).all() else None


def drawn_batch(batch: Price, rows: Floats | None, k: int) -> Price | None:
    """The batch size in draw k: a, alpha, b, c of `rows`, or the constant itself; None where the draw has no law."""
    if rows is None:
        return batch
    return SizeBatchLaw(*map(float, rows[k])) if np.isfinite(rows[k]).all() else None


def beyond(trained: Box, setting: Setting) -> dict[str, Any]:
    """By what factor σ and N lie outside what was measured, and on which side; 1 and None inside."""
    found = {}
    for name, x, (low, high) in (
        ("utd", setting.sigma, trained.sigma),
        ("n_params", setting.n_params, trained.n_params),
    ):
        side = "above" if x > high * (1 + 1e-9) else "below" if x < low * (1 - 1e-9) else None
        found[name] = {"factor": max(x / high, low / x) if side else 1.0, "side": side}
    return found


def power_law(budgets: Floats, values: Floats) -> tuple[Any, Any]:
    """value = coefficient · F^exponent through [..., J] by least squares in logs; pairs that are not finite left out.

    NaN where fewer than two different budgets are left.
    """
    seen = np.isfinite(budgets) & np.isfinite(values)
    x, y = np.log(np.where(seen, budgets, 1.0)), np.log(np.where(seen, values, 1.0))
    count = np.maximum(seen.sum(axis=-1), 1)
    mean_x, mean_y = ((z * seen).sum(axis=-1) / count for z in (x, y))
    dx = (x - mean_x[..., None]) * seen
    spread = np.asarray((dx**2).sum(axis=-1))
    exponent = (dx * y).sum(axis=-1) / np.where((spread > 0) & (count > 1), spread, np.nan)
    with np.errstate(over="ignore"):  # budgets that hardly differ give any exponent
        return np.exp(mean_y - exponent * mean_x), exponent


def _power(
    name: str, budgets: Floats, values: Floats, budget_draws: Floats, value_draws: Floats, used: int, delta: float
) -> dict[str, Any]:
    """One quantity's power law, and its errors of ln value beside those of simpler predictors."""
    coefficient, exponent = map(float, power_law(budgets[:used], values[:used]))
    coefficients, exponents = power_law(budget_draws[:, :used], value_draws[:, :used])
    y, predicted = np.log(values), np.log(coefficient) + exponent * np.log(budgets)
    with np.errstate(over="ignore", invalid="ignore"):  # a draw whose budgets hardly differ may have any exponent
        lines = [coefficients * f**exponents for f in budgets]
    fitted, held = slice(0, used), slice(used, None)
    rivals = {"constant": np.full_like(y, y[fitted].mean())}
    if name in ("data", "compute"):
        share = values[fitted] / budgets[fitted]
        rivals["share"] = np.log(budgets * share.mean())
    return {
        "coefficient": coefficient, "exponent": exponent,
        "ci95": {"coefficient": interval(coefficients), "exponent": interval(exponents)},
        "r2": r2(y[fitted], predicted[fitted]), "r2_held_out": r2(y[held], predicted[held]), "r2_all": r2(y, predicted),
        "error_held_out": _rms(y[held] - predicted[held]),
        **{f"error_{rival}": _rms(y[held] - guess[held]) for rival, guess in rivals.items()},
        "predicted": [float(v) for v in np.exp(predicted)],
        "predicted_ci95": [interval(np.asarray(line)) for line in lines],
    }  # fmt: skip


def r2(y: Floats, predicted: Floats) -> float:
    """1 − squared error over squared distance from the mean; NaN for fewer than two values, or values all alike."""
    spread = float(((y - y.mean()) ** 2).sum()) if len(y) > 1 else 0.0
    return 1.0 - float(((y - predicted) ** 2).sum()) / spread if spread > 0 else float("nan")


def _rms(error: Floats) -> float:
    return float(np.sqrt((error**2).mean())) if len(error) else float("nan")


def _notes(
    points: Sequence[Mapping[str, Any]], powers: Mapping[str, Mapping[str, Any]], used: int, wanted: int
) -> list[str]:
    notes = []
    if not powers:
        return ["one threshold has a law: power laws in F need two"]
    if used < 3:
        notes.append("the power laws in F pass through two budgets only: list more thresholds to test them")
    if used > wanted:
        notes.append(f"{len(points)} thresholds have a law, so {len(points) - used} budgets are held out")
    for name, what in (("utd", "σ"), ("n_params", "N")):
        if stuck := [f"{p['threshold']:g}" for p in points if name in p["at_end"]]:
            notes.append(
                f"the cheapest {what} at J = {', '.join(stuck)} is an end of the range searched, not an optimum"
            )
        if used < len(points) and powers[name]["error_held_out"] >= powers[name]["error_constant"]:
            notes.append(f"{what}*(F) predicts the held-out levels no better than a constant does: do not rely on it")
    shares = [p["data_share"] for p in points]
    if min(shares) > 0.5:
        notes.append(
            f"δ·D is {min(shares):.0%} to {max(shares):.0%} of F at the optima: D*(F) is nearly F/δ whatever the runs"
        )
    return notes


def _numbers(p: Setting) -> tuple[float, float, float, float]:
    return p.sigma, p.n_params, p.data, p.compute


def _budget(values: Floats, delta: float) -> Floats:
    return np.asarray(values[..., 3] + delta * values[..., 2])

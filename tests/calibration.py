"""Do the 95 % intervals hold the truth 95 times of 100? Simulated studies from known laws, as a table.

python -m tests.calibration             200 studies of each kind (some minutes on one core)
python -m tests.calibration 40          fewer

A study has 4 to 7 tasks, 5 to 7 fitted σ, 3 to 10 seeds and budgets that leave some cells short of the higher levels.
Its law is drawn from several kinds, two of which no form of the registry can follow, every task bends away from it,
and single cells scatter. What is counted: σ kept out of the fit, one inside the fitted range and one a factor 2 beyond
it, against what is measured there; the cheapest σ of each level, and σ*(F) at two budgets above all fitted ones,
against the truth; and the slopes of B*(σ) and η*(σ) from simulated grids.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
import pandas as pd

from analysis.batch import BatchLaws
from analysis.best import best
from analysis.budget import Frontier, argmin_log, compute
from analysis.cheapest import budget_part
from analysis.crossing import first_reached
from analysis.curves import CELL, Crossings, Curve, Reference
from analysis.data import fit_laws, predictions
from analysis.fits import power_laws
from analysis.uncertainty import Bootstrap, Floats, interval

LEVELS = np.array([300.0, 400.0, 500.0, 600.0, 700.0])
ROWS = 160  # logging points of a curve
N_PARAMS, DRAWS = 1e5, 200
KINDS = ("shifted power", "power", "log-quadratic", "plateau", "rebound", "two bends")
Log = Callable[[Floats, float], Floats]  # (ln σ, J) → ln D


def same(items: Iterable[Any], _count: int, _label: str) -> Iterable[Any]:
    return items


def true_law(kind: str, rng: np.random.Generator) -> Log:
    """ln D of the average task. The parameters move slowly with the level, as the published ones do."""
    beta, alpha, turn = rng.uniform(-0.7, 0.9), rng.uniform(0.6, 1.3), rng.uniform(0.0, 2.0)
    curve, tilt, rise = rng.uniform(0.03, 0.12), rng.uniform(-0.3, 0.5), rng.uniform(1.0, 2.0)

    def law(x: Floats, level: float) -> Floats:
        step = (level - 500.0) / 400.0
        bend = beta + tilt * step
        base = np.log(5e4) + rise * step
        if kind == "shifted power":
            return np.asarray(base + np.logaddexp(0.0, alpha * (bend - x)))
        if kind == "power":
            return np.asarray(base - 0.6 * alpha * x)
        if kind == "log-quadratic":
            return np.asarray(base - 0.45 * alpha * x + curve * x**2)
        if kind == "plateau":
            return np.asarray(base - alpha * np.minimum(x, bend + 0.7))
        if kind == "rebound":
            return np.asarray(base + np.log1p(np.exp(bend - x) + np.exp(x - bend - turn - 1.5)))
        return np.asarray(base + 0.5 * np.logaddexp(0, 2 * alpha * (bend - x)) + 0.2 * np.logaddexp(0, -x - 0.5))

    return law


@dataclass(frozen=True)
class Simulated:
    """A study's crossings, its held-out σ (inside, beyond) and the truth."""

    crossed: Crossings
    holdout: tuple[Fraction, Fraction]
    law: Log
    ends: tuple[float, float]


def data_study(kind: str, rng: np.random.Generator, bootstrap: Bootstrap) -> Simulated:
    """Curves of every (task, σ), and their crossings by the ordinary way."""
    law = true_law(kind, rng)
    tasks, seeds, fitted = rng.integers(4, 8), int(rng.integers(3, 11)), int(rng.integers(5, 8))
    utds = [Fraction(2) ** int(e) for e in np.arange(fitted + 2) - 2]
    x = np.log(np.array([float(u) for u in utds]))
    centre = x.mean()
    scatter, wobble, timing = rng.uniform(0.0, 0.06), rng.uniform(0.0, 0.08), rng.uniform(0.1, 0.3)
    rows, points, draws, curves = [], [], [], []
    for t in range(tasks):
        scale, lean, bow = rng.normal(0, 1.0), wobble * rng.standard_normal(), 0.5 * wobble * rng.standard_normal()
        for u, s in zip(utds, x, strict=True):
            off = scale + lean * (s - centre) + bow * ((s - centre) ** 2 - 1) + scatter * rng.standard_normal()
            need = np.array([law(np.array(s), level) + off for level in LEVELS]).ravel()
            short = rng.uniform(0.85, 1.1) if rng.random() < 0.06 else rng.uniform(1.3, 3.0)
            steps = np.ceil(np.exp(need[-1]) * short / ROWS) * np.arange(1, ROWS + 1)
            knots = np.concatenate([[need[0] - 3.0], need, [need[-1] + 1.2]])
            late = timing * rng.standard_normal(seeds)
            value = np.interp(np.log(steps)[:, None] - late, knots, np.concatenate([[0.0], LEVELS, [900.0]]))
            value = value + 40.0 * rng.standard_normal(value.shape)
            weights = bootstrap.weights(seeds, f"{t}/{u}")
            points.append(first_reached(steps, value, np.ones((1, seeds)), LEVELS, False)[0])
            draws.append(first_reached(steps, value, weights, LEVELS, False))
            rows.append((f"task{t}", str(u), float(u), 256, 3e-4, seeds, 0, steps[-1]))
            curves.append(Curve(steps, value))
    cells = pd.DataFrame(rows, columns=[*CELL, "n_seeds", "n_diverged", "t_max"])
    crossed = Crossings(cells, LEVELS, np.stack(points), np.stack(draws), curves, [])
    held = utds[int(rng.integers(2, fitted - 1))], utds[-1]
    return Simulated(crossed, held, law, (float(utds[0]), float(utds[-2])))


def data_row(kind: str, seed: int, law: str) -> dict[str, list[tuple[bool, float]]]:
    """What one study counts: name → [(inside, width of the interval in ln)]."""
    rng, bootstrap = np.random.default_rng([seed, KINDS.index(kind)]), Bootstrap(DRAWS, seed, False)
    made = data_study(kind, rng, bootstrap)
    laws = fit_laws(made.crossed, made.holdout, bootstrap, same, law, "geometric")
    found: dict[str, list[tuple[bool, float]]] = {"D inside": [], "D beyond": [], "σ* of J": [], "σ*(F)": []}
    for row in predictions(laws, made.holdout, bootstrap):
        low, high = row["interval95"]
        inside = low <= row["observed"] <= high if row["reached"] else high >= row["at_least"]
        name = "D beyond" if row["extrapolation"] else "D inside"
        found[name].append((inside, float(np.log(high / low))))
    slope, log_b = -0.4, np.log(256.0)
    one, every = np.ones(1), np.ones((DRAWS, 1))
    batch = BatchLaws(("all",), slope * one, log_b * one, slope * every, log_b * every, "given", [])
    ends = made.ends[0] / 1.5, made.ends[1] * 1.5
    # δ such that the truth has its optimum somewhere in the middle of the fitted σ
    aim = float(np.exp(rng.uniform(*np.log([made.ends[0] * 2, made.ends[1] / 2]))))
    delta = float(10 * N_PARAMS * 256 * aim**0.6)
    reference = Reference("simulated", {}, {}, tuple(LEVELS), N_PARAMS, delta)
    frontiers = [Frontier(v.law, batch.mean, N_PARAMS, *ends) for v in laws.levels]
    budget, _ = budget_part(laws, frontiers, batch, reference, 2, bootstrap)
    truth = {}
    for point in budget["points"]:
        level = point["threshold"]

        def data(sigma: Floats, level: float = level) -> Floats:
            return np.exp(made.law(np.log(sigma), level))

        def cost(sigma: Floats, data: Callable[[Floats], Floats] = data) -> Floats:
            return np.asarray(compute(N_PARAMS, 256 * sigma**slope, sigma, data(sigma)) + delta * data(sigma))

        best_sigma = argmin_log(cost, ends[0] * one, ends[1] * one)
        truth[level] = float(best_sigma[0])
        low, high = point["utd_ci95"]
        found["σ* of J"].append((low / 1.001 <= truth[level] <= high * 1.001, float(np.log(high / low))))
        if point["held_out"]:
            low, high = point["predicted_utd_ci95"]
            found["σ*(F)"].append((low / 1.001 <= truth[level] <= high * 1.001, float(np.log(high / low))))
    return found


def slope_row(seed: int) -> dict[str, list[tuple[bool, float]]]:
    """One simulated grid: are the shared slopes of B*(σ) and η*(σ) inside their intervals?"""
    rng, bootstrap = np.random.default_rng([seed, 99]), Bootstrap(DRAWS, seed, False)
    tasks, seeds, levels = int(rng.integers(4, 8)), int(rng.integers(3, 11)), int(rng.integers(5, 8))
    truth = {"batch_size": rng.uniform(-0.6, 0.0), "learning_rate": rng.uniform(-0.5, 0.1)}
    sizes, rates = np.array([32, 64, 128, 256, 512]), np.array([1.5e-4, 3e-4, 6e-4, 1.2e-3])
    noise, bowl, own = rng.uniform(0.1, 0.3), rng.uniform(0.05, 0.15), rng.uniform(0.0, 0.2)
    step, rows, points, draws = 1000.0, [], [], []
    for t in range(tasks):
        b0, r0, d0 = np.exp(rng.normal(np.log(128), 0.3)), np.exp(rng.normal(np.log(4e-4), 0.3)), rng.normal(11.0, 0.8)
        for u in (1, 2, 4, 8, 3, 5, 6)[:levels]:
            sigma = float(u)
            # what is best scatters about the law from task to task and σ to σ; the grid is chosen about its middle
            b = b0 * (sigma / 3) ** truth["batch_size"] * np.exp(own * rng.standard_normal())
            r = r0 * (sigma / 3) ** truth["learning_rate"] * np.exp(own * rng.standard_normal())
            for size in sizes:
                for rate in rates:
                    off = np.log2(size / b) ** 2 + np.log2(rate / r) ** 2
                    need = d0 + np.log1p(1 / sigma) + bowl * off + noise * rng.standard_normal(seeds)
                    weights = bootstrap.weights(seeds, f"{t}/{u}/{size}/{rate}")
                    limit = np.exp(d0 + np.log1p(1 / sigma) + 1.0)
                    data = np.ceil(np.exp(np.append(weights @ need, need.mean())) / step) * step
                    data = np.where(data > limit, np.inf, data)
                    rows.append((f"task{t}", str(u), sigma, int(size), rate, seeds, 0, limit))
                    draws.append(data[:-1, None])
                    points.append(data[-1:])
    cells = pd.DataFrame(rows, columns=[*CELL, "n_seeds", "n_diverged", "t_max"])
    curves = [Curve(np.arange(2.0), np.zeros((2, 1)))] * len(rows)
    crossed = Crossings(cells, np.array([700.0]), np.stack(points), np.stack(draws), curves, [])
    found = {}
    for quantity, name in (("batch_size", "slope of B*"), ("learning_rate", "slope of η*")):
        shared, _, _ = power_laws(best(crossed, quantity, "last", "geometric", bootstrap), bootstrap, quantity)
        low, high = interval(shared.slope_draws[:, 0])
        found[name] = [(low <= truth[quantity] <= high, high - low)]
    return found


def table(studies: int, law: str = "auto") -> pd.DataFrame:
    """Coverage and median width of each quantity, over all studies and by the kind of truth."""
    rows: list[tuple[str, str, int, bool, float]] = []
    for i in range(studies):
        kind = KINDS[i % len(KINDS)]
        for name, counted in data_row(kind, i, law).items():
            rows += [(name, kind, i, inside, width) for inside, width in counted]
        for name, counted in slope_row(i).items():
            rows += [(name, "power", i, inside, width) for inside, width in counted]
    return pd.DataFrame(rows, columns=["quantity", "truth", "study", "inside", "width"])


def summary(counted: pd.DataFrame) -> pd.DataFrame:
    """Coverage (each study counts once, whatever the number of its levels), and the median width."""
    per_study = counted.groupby(["quantity", "study"], sort=False)["inside"].mean().groupby("quantity", sort=False)
    result = per_study.agg(["mean", "count"]).rename(columns={"mean": "coverage", "count": "studies"})
    result["median width"] = counted.groupby("quantity", sort=False)["width"].median()
    return result


def main(words: list[str]) -> int:
    counted = table(int(words[0]) if words else 200, words[1] if len(words) > 1 else "auto")
    print(summary(counted).to_string(float_format="{:.3f}".format))
    print("\nby the law that is true\n")
    by = counted.pivot_table(index="truth", columns="quantity", values="inside", sort=False)
    print(by.to_string(float_format="{:.3f}".format))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""B*(σ, N) and η*(σ, N) per task through the best settings of a grid, with draws, and what they propose."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
import pandas as pd

from analysis import model_scaling
from analysis.best import Best
from analysis.curves import Crossings
from analysis.size_fits import Points, draw_size_batch, fit_size_batch
from analysis.size_laws import SizeBatchLaw
from analysis.uncertainty import Bootstrap, Floats, excess_scatter, interval
from rlscale.hparams import PowerLaw, SizeLaw, SizePowerLaw, round_batch_size, round_learning_rate
from rlscale.typed import Mistake

BATCH = ("a", "alpha", "b", "c")  # of a SizeBatchLaw, in the order of its fields
Law = SizeLaw | PowerLaw


@dataclass(frozen=True)
class SizeFits:
    """One variant: laws with their intervals as JSON, and draws by name."""

    batch: SizeLaw
    rate: SizePowerLaw
    ci95: Mapping[str, Mapping[str, Any]]
    draws: Mapping[str, Floats]

    def as_json(self) -> dict[str, Any]:
        return {
            "batch_size": {**vars(self.batch), **self.ci95["batch_size"]},
            "learning_rate": {**vars(self.rate), **self.ci95["learning_rate"]},
        }


def fits(found: Mapping[str, Best], public: bool, bootstrap: Bootstrap) -> tuple[dict[str, SizeFits], list[str]]:
    """The variants `shared` (exponents common to all tasks) and `separate`, and notes. Raises Mistake.

    With `public` B* is the follow-up's own recipe, task by task in both variants.
    """
    tasks, drawn = points(found["batch_size"])
    variants, notes = {}, []
    for variant in ("shared", "separate"):
        groups = [list(tasks)] if variant == "shared" and not public else [[task] for task in tasks]
        laws: dict[str, SizeBatchLaw] = {}
        arrays: dict[str, Floats] = {}
        for group in groups:
            mine = {t: tasks[t] for t in group}
            if public:
                laws |= {t: model_scaling.fit_batch(p.sigma, p.n_params, p.value) for t, p in mine.items()}
                arrays |= {t: np.full((bootstrap.draws, len(BATCH)), np.nan) for t in group}
                continue
            fit = fit_size_batch(mine)
            noisy = {}
            for t, p in mine.items():
                gap = np.log(p.value / fit.laws[t](p.sigma, p.n_params))
                spread = excess_scatter(gap, np.log(drawn[t].value).var(axis=1), len(gap) - len(BATCH))
                noise = bootstrap.stream(f"size/batch/{t}").standard_normal(drawn[t].value.shape)
                noisy[t] = Points(
                    p.sigma, p.n_params, drawn[t].value * np.exp(np.sqrt(spread) * noise), drawn[t].censored
                )
            draws = draw_size_batch(fit, mine, noisy)
            laws |= fit.laws
            arrays |= dict(zip(group, draws, strict=True))
            notes += [f"B*(σ, N), {variant}: {note}" for note in fit.notes if variant == "shared" or len(tasks) > 1]
        exponents: dict[str, Any] = {k: {t: float(getattr(law, k)) for t, law in laws.items()} for k in ("alpha", "c")}
        ci95: dict[str, Any] = {
            f"{name}_ci95": {t: interval(arrays[t][:, i]) for t in tasks} for i, name in enumerate(BATCH)
        }
        if variant == "shared" and not public:
            first = next(iter(tasks))
            exponents = {k: v[first] for k, v in exponents.items()}
            ci95 |= {f"{k}_ci95": ci95[f"{k}_ci95"][first] for k in exponents}
        batch = SizeLaw(
            {t: float(law.a) for t, law in laws.items()}, exponents["alpha"],
            {t: float(law.b) for t, law in laws.items()}, exponents["c"],
        )  # fmt: skip
        rate, rate_ci95 = _rates(found["learning_rate"], variant == "shared")
        variants[variant] = SizeFits(
            batch, rate, {"batch_size": ci95, "learning_rate": rate_ci95},
            {f"size/batch/{t}": array for t, array in arrays.items()},
        )  # fmt: skip
    return variants, notes


def points(found: Best) -> tuple[dict[str, Points], dict[str, Points]]:
    """Best values per task [n], and their draws [n, K]."""
    tasks, drawn = {}, {}
    for task, at in found.table.groupby("task", sort=True):
        sigma, n_params = at["sigma"].to_numpy(float), at["n_params"].to_numpy(float)
        values, none = found.draws[at.index], np.zeros(len(at), dtype=bool)
        tasks[str(task)] = Points(sigma, n_params, at["value"].to_numpy(float), none)
        drawn[str(task)] = Points(sigma, n_params, values, np.zeros(values.shape, dtype=bool))
    return tasks, drawn


def _rates(found: Best, shared: bool) -> tuple[SizePowerLaw, dict[str, Any]]:
    """ln η = intercept[task] + exponent · ln σ + size_exponent · ln N by least squares; constant where it was."""
    table, tasks = found.table, sorted(found.table["task"].unique())
    if np.ptp(np.log(table["value"])) < 1e-9:  # one value was run
        value = {t: float(table["value"].iloc[0]) for t in tasks}
        same = {t: [v, v] for t, v in value.items()}
        return SizePowerLaw(0.0, value, 0.0), {"exponent_ci95": [0.0, 0.0], "intercept_ci95": same}
    groups = [tasks] if shared else [[task] for task in tasks]
    slopes, levels, spans = {}, {}, {}
    for group in groups:
        at = table.index[table["task"].isin(group)]
        rows = table.loc[at]
        columns = [np.log(rows["sigma"].to_numpy(float)), np.log(rows["n_params"].to_numpy(float))]
        design = np.column_stack([*columns, *((rows["task"] == t).to_numpy(float) for t in group)])
        y = np.log(np.column_stack([rows["value"].to_numpy(float), found.draws[at]]))
        solved = np.linalg.lstsq(design, y, rcond=None)[0]  # [2 + T, 1 + K]
        for i, task in enumerate(group):
            slopes[task], levels[task] = solved[:2, 0], float(np.exp(solved[2 + i, 0]))
            spans[task] = [interval(solved[0, 1:]), interval(solved[1, 1:]), interval(np.exp(solved[2 + i, 1:]))]
    first = tasks[0]
    by_sigma, by_size = ({t: float(slopes[t][i]) for t in tasks} for i in (0, 1))
    ci95: dict[str, Any] = {
        k: {t: spans[t][i] for t in tasks} for i, k in enumerate(("exponent", "size_exponent", "intercept"))
    }
    if shared:
        ci95 |= {k: ci95[k][first] for k in ("exponent", "size_exponent")}
    law = SizePowerLaw(by_sigma[first] if shared else by_sigma, levels, by_size[first] if shared else by_size)
    return law, {f"{k}_ci95": v for k, v in ci95.items()}


def baseline(crossed: Crossings, utd: str) -> pd.DataFrame:
    """The measured pair with the fewest env steps at one σ and the middle size, per task, at the highest level.

    Columns task, batch_size, learning_rate.
    """
    rows = []
    for task, at in crossed.cells[crossed.cells["utd"] == utd].groupby("task", sort=True):
        sizes = np.unique(at["n_params"])
        mine = at[at["n_params"] == sizes[(len(sizes) - 1) // 2]]
        data = crossed.point[mine.index, -1]
        if np.isfinite(data).any():
            winner = mine.iloc[int(data.argmin())]
            rows.append((task, int(winner["batch_size"]), float(winner["learning_rate"])))
    return pd.DataFrame(rows, columns=["task", "batch_size", "learning_rate"])


def widths_of(crossed: Crossings) -> dict[str, dict[int, float]]:
    """N by width, per task. Raises Mistake where a width does not tell the size, so that no sweep could ask for it."""
    found: dict[str, dict[int, float]] = {}
    for task, at in crossed.cells.groupby("task", sort=True):
        pairs = at[["width", "n_params"]].drop_duplicates()
        if pairs["width"].isna().any() or pairs["width"].duplicated().any():
            raise Mistake(
                f"{task} was run at sizes that its widths do not tell, and a fitted sweep can only ask for widths: "
                "select runs that differ in algorithm.width alone"
            )
        found[str(task)] = {int(w): float(n) for w, n in sorted(pairs.itertuples(index=False))}
    return found


def proposals(
    variants: Mapping[str, Mapping[str, Law]], utds: Sequence[Fraction], widths: Mapping[str, Mapping[int, float]]
) -> list[dict[str, Any]]:
    """hparams.json's `proposals`: as a job at this task, σ and width would round them."""
    return [
        {
            "variant": variant, "task": task, "utd": str(utd), "width": width, "n_params": n,
            "learning_rate": round_learning_rate(_at(laws["learning_rate"], utd, task, n)),
            "batch_size": round_batch_size(_at(laws["batch_size"], utd, task, n)),
        }
        for variant, laws in variants.items()
        for task in sorted(laws["batch_size"].tasks)
        for utd in utds
        for width, n in widths[task].items()
    ]  # fmt: skip


def _at(law: Law, utd: Fraction, task: str, n_params: float) -> float:
    return law(utd, task, n_params) if isinstance(law, SizeLaw | SizePowerLaw) else law(utd, task)

"""A fit as its files hold it: the laws of each threshold, their joint draws, and the settings to run at any σ."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from analysis.batch import fitted_laws
from analysis.blend import Blend, Draws
from analysis.budget import Frontier
from analysis.uncertainty import Floats
from rlscale.hparams import PowerLaw
from rlscale.typed import Mistake


@dataclass(frozen=True)
class Settings:
    """B(σ) and η(σ) per task; `rate` is None where the fit knows no learning rate.

    `rate_draws`: ln intercept and slope of η in each draw, [K, T] each, or None. `variant`: which law of the option
    hparams=fitted/<name> they are, or None where they only follow what the runs used.
    """

    batch: PowerLaw
    rate: PowerLaw | None
    rate_draws: tuple[Floats, Floats] | None
    variant: str | None


@dataclass(frozen=True)
class Fitted:
    """`laws` is laws.json; `batch_draws`: ln intercept and slope of B in each draw, [K, T] each."""

    name: str
    root: Path
    laws: Mapping[str, Any]
    draws: Draws
    batch_draws: tuple[Floats, Floats]
    settings: Settings

    @property
    def thresholds(self) -> list[float]:
        return [float(d["threshold"]) for d in self.laws["data"]]

    @property
    def tasks(self) -> tuple[str, ...]:
        return tuple(self.laws["compute"]["batch_size"]["intercept"])

    @property
    def delta(self) -> float:
        return float(self.laws["budget"]["delta"])

    def scale(self, j: int) -> Mapping[str, float]:
        """Each task's data over the average task's at threshold j."""
        found: Mapping[str, float] = self.laws["data"][j]["scale"]
        return found

    def level(self, target: float) -> int:
        """Which of the fit's thresholds is `target`. Raises Mistake."""
        for j, threshold in enumerate(self.thresholds):
            if abs(threshold - target) < 1e-6 * max(1.0, abs(threshold)):
                return j
        known = ", ".join(f"{t:g}" for t in self.thresholds)
        raise Mistake(f"target={target:g}: there is no law for this level; choose one of {known}")

    def mean_batch(self, x: Floats) -> Floats:
        """B̄ over tasks in each draw: x = ln σ [n] or [K, n] → [K, n]."""
        return _mean(self.batch_draws, x)

    def curves(self, j: int, sigma: Floats) -> tuple[Floats, Floats]:
        """D and C of threshold j in each draw at sigma [n] or [K, n]: [K, n] each (4.1, 4.2)."""
        x = np.log(sigma)
        data = np.exp(self.draws.log_data(j, x))
        return data, 10.0 * float(self.laws["compute"]["n_params"]) * self.mean_batch(x) * sigma * data

    def cost(self, utd: Fraction, task: str, env_steps: float, delta: float, factor: float) -> float:
        """C + delta·D in FLOPs of one run of `task` over `env_steps` with `factor` times the law's batch size."""
        batch = factor * self.settings.batch(utd, task)
        return (10.0 * float(self.laws["compute"]["n_params"]) * batch * float(utd) + delta) * env_steps


def _mean(law: tuple[Floats, Floats], x: Floats) -> Floats:
    intercept, slope = law
    terms = (np.exp(intercept[:, t, None] + slope[:, t, None] * x) for t in range(intercept.shape[1]))
    return np.asarray(sum(terms) / intercept.shape[1])


def fitted(root: Path, name: str) -> Fitted:
    """The fit `name` of the study `root`. Raises Mistake naming the command that makes it."""
    laws = read_fit(root, name, "laws")
    folder = root / "fits" / name
    with np.load(folder / "laws_draws.npz") as arrays:
        draws = Draws.from_arrays(arrays)
        batch = arrays["batch_log_intercept"], arrays["batch_slope"]
    return Fitted(name, root, laws, draws, batch, _settings(folder, laws, len(draws.member)))


def read_fit(root: Path, name: str, part: str) -> dict[str, Any]:
    """study/fits/<name>/<part>.json. Raises Mistake naming the command that makes it."""
    path = root / "fits" / name / f"{part}.json"
    if not path.exists():
        known = sorted(p.parent.name for p in (root / "fits").glob(f"*/{part}.json"))
        have = f"there is {', '.join(known)}" if known else f"no fit in {root} has one yet"
        raise Mistake(f"name={name}: there is no {path}; {have}; python -m analysis.{part} name={name} … makes it")
    loaded: dict[str, Any] = json.loads(path.read_text())
    return loaded


def frontiers(laws: Mapping[str, Any], extend: float) -> list[Frontier]:
    """One Frontier for each threshold of a laws.json, in its order."""
    low, high = span(laws)
    law = PowerLaw(laws["compute"]["batch_size"]["exponent"], laws["compute"]["batch_size"]["intercept"])
    intercept = np.array([np.log(law.intercept[t]) for t in law.intercept])[None]
    slope = np.array([law.exponent[t] if isinstance(law.exponent, Mapping) else law.exponent for t in law.intercept])

    def batch(sigma: Floats) -> Floats:
        return np.asarray(_mean((intercept, slope[None]), np.log(sigma))[0])

    n_params = float(laws["compute"]["n_params"])
    return [Frontier(Blend.from_json(d), batch, n_params, low / extend, high * extend) for d in laws["data"]]


def span(laws: Mapping[str, Any]) -> tuple[float, float]:
    """The least and the largest σ that the laws were fitted on."""
    sigmas = [float(Fraction(u)) for u in laws["fit_utds"]]
    return min(sigmas), max(sigmas)


def _settings(folder: Path, laws: Mapping[str, Any], count: int) -> Settings:
    """The hparams.json law that the runs followed, or what they used themselves."""
    batch, variant = laws["compute"]["batch_size"], str(laws["provenance"]["variant"])
    own = PowerLaw(batch["exponent"], batch["intercept"])
    if not str(batch["source"]).startswith("hparams.json") or not (folder / "hparams.json").exists():
        return Settings(own, None, None, None)
    both = fitted_laws(json.loads((folder / "hparams.json").read_text()), variant)
    if not set(own.intercept) <= set(both["learning_rate"].tasks):
        return Settings(own, None, None, None)
    path, drawn = folder / "hparams_draws.npz", None
    if path.exists():
        with np.load(path) as arrays:
            key = f"{variant}/learning_rate"
            if f"{key}/slope" in arrays and len(arrays[f"{key}/slope"]) == count:
                columns = [list(arrays["learning_rate/tasks"]).index(t) for t in own.intercept]
                drawn = arrays[f"{key}/log_intercept"][:, columns], arrays[f"{key}/slope"][:, columns]
    return Settings(both["batch_size"], both["learning_rate"], drawn, variant)

"""One law, or the weighted average of several, for one threshold; and its draws, each with the error it may have."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from analysis.forms import FORMS
from analysis.uncertainty import Floats


@dataclass(frozen=True)
class Blend:
    """D(σ) = exp(Σ weight · ln D of each form): `names` [F], `weights` [F] that sum to 1, `theta` [F, 3]."""

    names: tuple[str, ...]
    weights: Floats
    theta: Floats

    def __call__(self, sigma: Any) -> Any:
        x = np.log(np.asarray(sigma, dtype=float))
        return np.exp(sum(w * FORMS[f].log_data(t, x) for f, w, t in self.members()))

    def members(self) -> list[tuple[str, float, Floats]]:
        return list(zip(self.names, self.weights, self.theta, strict=True))

    def as_json(self) -> list[dict[str, Any]]:
        return [
            {"law": f, "weight": w, "formula": FORMS[f].formula, "theta": list(t), "parameters": FORMS[f].report(*t)}
            for f, w, t in self.members()
        ]

    @staticmethod
    def from_json(row: Mapping[str, Any]) -> Blend:
        """From a row of laws.json's `data`; one without `members` is the shifted power law alone (4.1)."""
        if "members" not in row:
            theta = np.log([[row[name] for name in ("d_min", "beta", "alpha")]])
            return Blend(("shifted_power",), np.ones(1), theta)
        rows = row["members"]
        names = tuple(str(r["law"]) for r in rows)
        return Blend(names, np.array([r["weight"] for r in rows]), np.array([r["theta"] for r in rows]))


@dataclass(frozen=True)
class Draws:
    """K draws of all thresholds' laws: draw k follows the form `names[member[k]]` with `theta[k]`.

    `member` [K], `theta` [K, J, 3]. `bend` [K, 2]: how much more steeply ln D rises per unit of ln σ below `low` and
    above `high`, the ends of the fitted σ, than the form says: its error there, which grows with the distance.
    """

    names: tuple[str, ...]
    member: NDArray[np.int_]
    theta: Floats
    bend: Floats
    low: float
    high: float

    def log_data(self, j: int, x: Floats) -> Floats:
        """ln D of threshold number j in each draw: x = ln σ [n] or [K, n] → [K, n]."""
        x = np.broadcast_to(x, (len(self.member), np.shape(x)[-1]))
        value = np.empty(x.shape)
        for i, name in enumerate(self.names):
            at = self.member == i
            value[at] = FORMS[name].log_data(self.theta[at, j][:, None, :], x[at])
        below, above = np.maximum(0.0, np.log(self.low) - x), np.maximum(0.0, x - np.log(self.high))
        return np.asarray(value + self.bend[:, :1] * below + self.bend[:, 1:] * above)

    def arrays(self) -> dict[str, np.ndarray]:
        """As laws_draws.npz holds them."""
        return {
            "forms": np.array(self.names), "form": self.member, "theta": self.theta, "bend": self.bend,
            "ends": np.array([self.low, self.high]),
        }  # fmt: skip

    @staticmethod
    def from_arrays(arrays: Mapping[str, np.ndarray]) -> Draws:
        if "forms" not in arrays:  # the shifted power law alone: `data` [J, K, 3] of (d_min, beta, alpha)
            theta = np.log(arrays["data"].transpose(1, 0, 2))
            count = len(theta)
            return Draws(("shifted_power",), np.zeros(count, dtype=int), theta, np.zeros((count, 2)), 1.0, 1.0)
        low, high = map(float, arrays["ends"])
        return Draws(tuple(map(str, arrays["forms"])), arrays["form"], arrays["theta"], arrays["bend"], low, high)

    def one(self, k: int, j: int) -> DrawnLaw:
        """Threshold j's law in draw k."""
        return DrawnLaw(self.names[int(self.member[k])], self.theta[k, j], self.bend[k], self.low, self.high)


@dataclass(frozen=True)
class DrawnLaw:
    """One draw of one threshold's law."""

    name: str
    theta: Floats
    bend: Floats
    low: float
    high: float

    def __call__(self, sigma: Any) -> Any:
        x = np.log(np.asarray(sigma, dtype=float))
        below, above = np.maximum(0.0, np.log(self.low) - x), np.maximum(0.0, x - np.log(self.high))
        return np.exp(FORMS[self.name].log_data(self.theta, x) + self.bend[0] * below + self.bend[1] * above)

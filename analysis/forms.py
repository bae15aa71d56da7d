"""The registry of data laws: forms of ln D(σ) = level + shape(own, shared; ln σ), with their gradients (METHOD C).

Each threshold J has its own `level` and `own` parameter; `shared` is one number for all thresholds of a fit, because
the curves that the thresholds cut are the same and three parameters on five σ are not identified one by one. A row of
parameters is (level, own, shared); what a form does not use is 0.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from analysis.uncertainty import Floats

Shape = Callable[[Floats, Floats, Floats], tuple[Floats, Floats, Floats]]  # (own, shared, x) → value, ∂own, ∂shared
ALPHA = (0.05, 5.0)  # bounds of an exponent
REACH = 1e3  # a bend may lie this factor outside the measured σ
SHARP = 6.0  # of the plateau's knee, per unit of ln σ: it turns within a factor 1.5 in σ


@dataclass(frozen=True)
class Form:
    """One law. `own` and `shared` map the ends of the measured ln σ to the bounds of that parameter (None: not used).

    `pull` = (centre, weight) adds weight²·(shared − centre)² to the squared error: a prior. `report` turns a row of
    parameters into what a person reads.
    """

    name: str
    formula: str
    shape: Shape
    own: Callable[[float, float], tuple[float, float]] | None
    shared: Callable[[float, float], tuple[float, float]] | None
    pull: tuple[float, float] | None
    report: Callable[[float, float, float], Mapping[str, float]]

    def log_data(self, theta: Floats, x: Floats) -> Floats:
        """ln D at x = ln σ: theta [..., 3] and x broadcast against its leading axes."""
        return np.asarray(theta[..., 0] + self.shape(theta[..., 1], theta[..., 2], x)[0])

    @property
    def count(self) -> int:
        """Parameters of each threshold, besides the shared one."""
        return 1 + (self.own is not None)


def _zero(own: Floats, _shared: Floats, x: Floats) -> tuple[Floats, Floats, Floats]:
    nought = np.zeros(np.broadcast(own, x).shape)
    return nought, nought, nought


def _line(own: Floats, _shared: Floats, x: Floats) -> tuple[Floats, Floats, Floats]:
    value = -own * x
    return value, -x + 0.0 * value, 0.0 * value


def _shifted(own: Floats, shared: Floats, x: Floats) -> tuple[Floats, Floats, Floats]:
    alpha = np.exp(shared)
    u = alpha * (own - x)
    weight = 0.5 * (1.0 + np.tanh(0.5 * u))
    return np.logaddexp(0.0, u), alpha * weight, u * weight


def _inverse(own: Floats, shared: Floats, x: Floats) -> tuple[Floats, Floats, Floats]:
    return _shifted(own, 0.0 * shared, x)


def _quadratic(own: Floats, shared: Floats, x: Floats) -> tuple[Floats, Floats, Floats]:
    value = -own * x + shared * x**2
    return value, -x + 0.0 * value, x**2 + 0.0 * value


def _plateau(own: Floats, shared: Floats, x: Floats) -> tuple[Floats, Floats, Floats]:
    u = SHARP * (shared - x)
    bent = shared - np.logaddexp(0.0, u) / SHARP  # a smooth min(x, shared)
    after = 0.5 * (1.0 - np.tanh(0.5 * u))
    return -own * bent, -bent + 0.0 * own, -own * after


def _bend(low: float, high: float) -> tuple[float, float]:
    return low - float(np.log(REACH)), high + float(np.log(REACH))


def _slope(_low: float, _high: float) -> tuple[float, float]:
    return -ALPHA[1], ALPHA[1]


def _power(_low: float, _high: float) -> tuple[float, float]:
    return float(np.log(ALPHA[0])), float(np.log(ALPHA[1]))


def _curvature(_low: float, _high: float) -> tuple[float, float]:
    return -2.0, 2.0


def _knee(low: float, high: float) -> tuple[float, float]:
    return low, high + 1.0


def _shifted_report(level: float, own: float, shared: float) -> Mapping[str, float]:
    return {"d_min": float(np.exp(level)), "beta": float(np.exp(own)), "alpha": float(np.exp(shared))}


FORMS = {
    form.name: form
    for form in (
        Form("constant", "d", _zero, None, None, None, lambda a, b, c: {"d": float(np.exp(a))}),
        Form("power", "d·σ^(−alpha)", _line, _slope, None, None,
             lambda a, b, c: {"d": float(np.exp(a)), "alpha": b}),
        Form("inverse", "d_min·(1 + beta/σ)", _inverse, _bend, None, None,
             lambda a, b, c: {"d_min": float(np.exp(a)), "beta": float(np.exp(b))}),
        Form("shifted_power", "d_min·(1 + (beta/σ)^alpha)", _shifted, _bend, _power, None, _shifted_report),
        # ln alpha ~ N(0, 0.25) against a scatter of ln D of 0.05: the published exponents lie at 0.7 to 1.4
        Form("shifted_prior", "d_min·(1 + (beta/σ)^alpha), ln alpha ~ N(0, 0.25)", _shifted, _bend, _power, (0.0, 0.2),
             _shifted_report),
        Form("log_quadratic", "d·σ^(−alpha + curvature·ln σ)", _quadratic, _slope, _curvature, None,
             lambda a, b, c: {"d": float(np.exp(a)), "alpha": b, "curvature": c}),
        Form("plateau", "d·min(σ, knee)^(−alpha), the knee smoothed", _plateau, _slope, _knee, None,
             lambda a, b, c: {"d": float(np.exp(a)), "alpha": b, "knee": float(np.exp(c))}),
    )
}  # fmt: skip

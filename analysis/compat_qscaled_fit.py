"""`compat=qscaled`: how the papers' public code normalises data and fits D(σ) to them, in both of its versions.

Numbers B7, B8 are defects of that code as QSCALED.md §1.16 lists them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.optimize import minimize

from analysis.uncertainty import Floats
from rlscale.typed import Mistake

STARTS = np.mgrid[-2:2:0.8, 0:1:0.2, -2:2:0.8].reshape(3, -1).T  # [125, 3]: a, b, c
TINY = 1e-12  # keeps the start b = 0 from dividing by nothing
Loss = Callable[[Floats, Floats, Floats], tuple[float, Floats]]  # (a, b, c), σ [n], normalised D [n] → loss, gradient


def head_value(theta: Any, x: Any) -> Any:
    a, b, c = theta
    return c + (x / (b + TINY)) ** -a


def head_loss(theta: Floats, x: Floats, y: Floats) -> tuple[float, Floats]:
    """Mean squared error, so that the σ with most data weigh most (the paper says squared error of logarithms)."""
    a, b, c = theta
    ratio = x / (b + TINY)
    power = ratio**-a
    error = c + power - y
    slope = error * power
    gradient = [-(slope @ np.log(ratio)), slope.sum() * a / (b + TINY), error.sum()]
    return float(error @ error) / len(x), 2.0 / len(x) * np.array(gradient)


def paper_value(theta: Any, x: Any) -> Any:
    a, b, c = theta
    return c * (1.0 + (x / b) ** -a)


def paper_loss(theta: Floats, x: Floats, y: Floats) -> tuple[float, Floats]:
    """Mean squared error of logarithms, as in the paper."""
    a, b, c = theta
    power = (x / b) ** -a
    error = np.log(c * (1.0 + power)) - np.log(y)
    share = error * power / (1.0 + power)
    gradient = [-(share @ np.log(x / b)), share.sum() * a / b, error.sum() / c]
    return float(error @ error) / len(x), 2.0 / len(x) * np.array(gradient)


@dataclass(frozen=True)
class Form:
    """How one version of the code writes and fits D/M; `d_min` maps (a, b, c) to (d_min/M, beta, alpha)."""

    text: str
    value: Callable[[Any, Any], Any]
    loss: Loss
    steps: int

    def d_min(self, theta: Floats) -> Floats:
        """[..., 3] → [..., 3]; NaN where a ≤ 0 or c ≤ 0: such a fit does not fall towards a limit above 0."""
        a, b, c = np.moveaxis(np.asarray(theta, dtype=float), -1, 0)
        with np.errstate(all="ignore"):
            beta = b if self.value is paper_value else (b + TINY) * c ** (-1.0 / a)
        fine = (c > 0) & (a > 0) & np.isfinite(beta) & (beta > 0)
        return np.where(fine[..., None], np.stack([c, beta, a], axis=-1), np.nan)


FORMS = {
    "qscaled": Form("M·(c + (σ/b)^−a)", head_value, head_loss, 15000),
    # the version of February 2025, with the paper's form and loss
    "qscaled-5afa89e": Form("M·c·(1 + (σ/b)^−a)", paper_value, paper_loss, 100),
}


def fit(x: Floats, y: Floats, form: Form) -> tuple[Floats, float, float]:
    """((a, b, c), loss, share of starts that agree) at σ x [n] and normalised data y [n].

    All 125 grid points are refined by L-BFGS-B without bounds at its default tolerances, and the least loss wins. That
    a, b or c may come out negative is B8. The gradient is exact where theirs is numerical: 4 times faster, same fit.
    """
    with np.errstate(all="ignore"):
        ends = [refine(start, x, y, form) for start in STARTS]
    losses = np.array([loss for _, loss in ends])
    if not np.isfinite(losses).any():
        raise Mistake("compat=qscaled: no start of its fit ends at a finite loss; leave compat out")
    winner = int(np.nanargmin(losses))
    return ends[winner][0], float(losses[winner]), float(np.mean(losses <= losses[winner] + 1e-6))


def refine(start: Floats, x: Floats, y: Floats, form: Form) -> tuple[Floats, float]:
    end = minimize(form.loss, start, args=(x, y), jac=True, method="L-BFGS-B", options={"maxiter": form.steps})
    return np.asarray(end.x), float(end.fun)


def normalised(data: Floats, train: Any) -> tuple[Floats, Floats, Any]:
    """data [E, n, J, ...] → (mean over tasks of data / median [n, J, ...], medians [E, ...], their median M [...]).

    The median is over the σ in `train` and all thresholds together, so that a threshold more or less changes every fit.
    """
    medians = np.median(data[:, train].reshape(len(data), -1, *data.shape[3:]), axis=1)
    return np.mean(data / medians[:, None, None], axis=0), medians, np.median(medians, axis=0)

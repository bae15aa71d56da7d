"""The laws with model size N beside σ: data D_J(σ, N) and batch size B*(σ, N) (METHOD B; the follow-up's 7.1, 6.1)."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from analysis.uncertainty import Floats

AVERAGE = "average"  # the task that stands for all, in the place of a task's name


@dataclass(frozen=True)
class SizeDataLaw:
    """D_J(σ, N) = c · (1 + (a/σ)^alpha + (b/N)^beta) in env steps; c is the least data that any σ and N can reach."""

    c: float
    a: float
    alpha: float
    b: float
    beta: float

    def __call__(self, sigma: Any, n_params: Any) -> Any:
        return self.c * (1.0 + (self.a / sigma) ** self.alpha + (self.b / n_params) ** self.beta)


@dataclass(frozen=True)
class SizeBatchLaw:
    """B*(σ, N) = a / (σ^alpha · (1 + (b/N)^c)): falls with σ, rises with N, saturates at a · σ^−alpha.

    In the follow-up's letters (6.1) a_B = a, b_B = b^c, alpha_B = alpha, beta_B = c. Where every measured N is far
    below b the law is a power of N and only a/b^c is known: compare predictions, never coefficients.
    """

    a: float
    alpha: float
    b: float
    c: float

    def __call__(self, sigma: Any, n_params: Any) -> Any:
        return self.a / (sigma**self.alpha * (1.0 + (self.b / n_params) ** self.c))


@dataclass(frozen=True)
class LogLinear:
    """value(σ, N) = exp(intercept) · σ^by_sigma · N^by_size: what a law with a curve in it has to beat."""

    intercept: float
    by_sigma: float
    by_size: float

    def __call__(self, sigma: Any, n_params: Any) -> Any:
        return np.exp(self.intercept + self.by_sigma * np.log(sigma) + self.by_size * np.log(n_params))


def fit_log_linear(sigma: Floats, n_params: Floats, value: Floats) -> LogLinear:
    """Least squares of ln value on ln σ and ln N, all [n] and positive."""
    design = np.column_stack([np.ones(len(value)), np.log(sigma), np.log(n_params)])
    intercept, by_sigma, by_size = np.linalg.lstsq(design, np.log(value), rcond=None)[0]
    return LogLinear(float(intercept), float(by_sigma), float(by_size))


DATA = tuple(field.name for field in fields(SizeDataLaw))  # c, a, alpha, b, beta: the order of draws everywhere
BATCH = tuple(field.name for field in fields(SizeBatchLaw))  # a, alpha, b, c

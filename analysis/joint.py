"""A form of the data law through all thresholds at once: least squares of ln D for many bootstrap draws together."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from analysis.forms import Form
from analysis.uncertainty import Floats

Mask = NDArray[np.bool_]
OWN_GRID, SHARED_GRID, STARTS, STEPS = 49, 25, 5, 100
TIGHT = 1e-3  # a parameter this near one of its bounds is held by it, not by the data


@dataclass(frozen=True)
class Joint:
    """theta [K, J, 3], loss [K]: the sum of squared errors of ln D over thresholds and σ (and the prior's term).

    `agree`: the share of the starts that ended within 1e-6 of the best loss; `stalled`: draws that were still
    improving when the steps ran out; `at_bound` [J]: names of the first draw's parameters that ended at a bound.
    """

    theta: Floats
    loss: Floats
    agree: float
    stalled: int
    at_bound: tuple[tuple[str, ...], ...]


def fit_joint(form: Form, x: Floats, y: Floats, censored: Mask, starts: int = 1) -> Joint:
    """x = ln σ [n]; y = ln D [K, J, n]; censored [K, J, n]: y is then a bound that D exceeds, and counts only where
    the law falls below it.

    A grid over (shared, own) with the best level for each; from its `starts` best shared values, those of all draws at
    once, Levenberg–Marquardt with the analytic Jacobian. The shared parameter is eliminated by its Schur complement.
    """
    count, levels, _ = y.shape
    bounds = _bounds(form, x, y)
    tops = _grid(form, x, y, censored, bounds, starts)  # [K, starts, J, 3]
    many = tops.shape[1]
    flat = tops.reshape(count * many, levels, 3)
    theta, loss, moving = _descend(form, x, np.repeat(y, many, axis=0), np.repeat(censored, many, axis=0), flat, bounds)
    theta, loss, moving = theta.reshape(tops.shape), loss.reshape(count, many), moving.reshape(count, many)
    rows, best = np.arange(count), loss.argmin(axis=1)
    agree = float(np.mean(loss[0] <= loss[0].min() + 1e-6))
    end = theta[rows, best]
    names = [
        tuple(
            name
            for name, used, i in (("own", form.own, 1), ("shared", form.shared, 2))
            if used is not None and np.min(np.abs(end[0, j, i] - bounds[i])) < TIGHT
        )
        for j in range(levels)
    ]
    return Joint(end, loss[rows, best], agree, int(moving[rows, best].sum()), tuple(names))


def _bounds(form: Form, x: Floats, y: Floats) -> Floats:
    """[3, 2]: of the level, the own and the shared parameter."""
    ends = float(x.min()), float(x.max())
    level = (-np.inf, np.inf)
    return np.array([level, *(b(*ends) if b is not None else (0.0, 0.0) for b in (form.own, form.shared))])


def _grid(form: Form, x: Floats, y: Floats, censored: Mask, bounds: Floats, starts: int) -> Floats:
    """The best parameters of each draw for its `starts` best shared values: [K, starts, J, 3]."""
    own = np.linspace(bounds[1, 0], bounds[1, 1], OWN_GRID if form.own is not None else 1)
    shared = np.linspace(bounds[2, 0], bounds[2, 1], SHARED_GRID if form.shared is not None else 1)
    shape = form.shape(own[None, :, None], shared[:, None, None], x)[0]  # [S, O, n]
    table = np.broadcast_to(shape, (len(shared), len(own), len(x))).reshape(-1, len(x))
    result = np.empty((len(y), min(starts, len(shared)), y.shape[1], 3))
    for low in range(0, len(y), 64):
        part = slice(low, low + 64)
        seen = (~censored[part]).astype(float).reshape(-1, len(x))  # a bound pulls only later, in the descent
        value = y[part].reshape(-1, len(x)) * seen
        mass = np.maximum(seen.sum(axis=1, keepdims=True), 1.0)
        first = value.sum(axis=1, keepdims=True) - seen @ table.T  # [k·J, S·O]
        loss = (value * value).sum(axis=1, keepdims=True) - 2.0 * value @ table.T + seen @ (table * table).T
        loss = (loss - first**2 / mass).reshape(-1, y.shape[1], len(shared), len(own))
        at = loss.argmin(axis=3)  # [k, J, S]
        total = np.take_along_axis(loss, at[..., None], axis=3)[..., 0].sum(axis=1)  # [k, S]
        if form.pull is not None:
            total = total + (form.pull[1] * (shared - form.pull[0])) ** 2
        top = np.argsort(total, axis=1, kind="stable")[:, : result.shape[1]]  # [k, starts]
        own_at = np.take_along_axis(at, top[:, None, :], axis=2).transpose(0, 2, 1)  # [k, starts, J]
        level = (first / mass).reshape(loss.shape)
        rows = np.arange(len(top))[:, None, None], np.arange(y.shape[1])[None, None, :]
        result[part, ..., 0] = level[rows[0], rows[1], top[:, :, None], own_at]
        result[part, ..., 1] = own[own_at]
        result[part, ..., 2] = shared[top][:, :, None]
    return result


def _descend(
    form: Form, x: Floats, y: Floats, censored: Mask, theta: Floats, bounds: Floats
) -> tuple[Floats, Floats, Mask]:
    """From theta [K, J, 3] to the nearest minimum: (theta, loss [K], still moving [K])."""
    theta = theta.copy()
    damping = np.full(len(y), 1e-3)
    moving = np.ones(len(y), dtype=bool)
    loss = _loss(form, x, y, censored, theta)
    for _ in range(STEPS):
        at = np.flatnonzero(moving)
        if at.size == 0:
            break
        trial = theta[at] + _step(form, x, y[at], censored[at], theta[at], damping[at], bounds)
        trial[..., 1:] = np.clip(trial[..., 1:], bounds[1:, 0], bounds[1:, 1])
        new = _loss(form, x, y[at], censored[at], trial)
        better = new <= loss[at]
        gain = loss[at] - new
        theta[at[better]], loss[at[better]] = trial[better], new[better]
        damping[at] = np.clip(np.where(better, damping[at] / 5, damping[at] * 5), 1e-12, 1e10)
        done = (better & (gain <= 1e-12 + 1e-10 * new)) | (damping[at] >= 1e10)
        moving[at[done]] = False
    return theta, loss, moving


def _residual(form: Form, x: Floats, y: Floats, censored: Mask, theta: Floats) -> tuple[Floats, Floats, Floats, Floats]:
    """Residuals of ln D [K, J, n] with ∂level, ∂own, ∂shared; all 0 where a bound lies below the law."""
    value, own, shared = form.shape(theta[..., 1:2], theta[..., 2:3], x)
    residual = theta[..., 0:1] + value - y
    live = (~(censored & (residual > 0))).astype(float)
    return residual * live, live, own * live, shared * live


def _loss(form: Form, x: Floats, y: Floats, censored: Mask, theta: Floats) -> Floats:
    value = form.shape(theta[..., 1:2], theta[..., 2:3], x)[0]
    residual = theta[..., 0:1] + value - y
    residual = np.where(censored & (residual > 0), 0.0, residual)
    loss: Floats = np.einsum("kjn,kjn->k", residual, residual)
    if form.pull is not None:
        loss = loss + (form.pull[1] * (theta[:, 0, 2] - form.pull[0])) ** 2
    return loss


def _step(form: Form, x: Floats, y: Floats, censored: Mask, theta: Floats, damping: Floats, bounds: Floats) -> Floats:
    """The damped Gauss–Newton step [K, J, 3]; its last column is the same for all thresholds of a draw.

    A parameter that sits at a bound and is pushed outwards is held there, else the others' step would be wrong.
    """
    r, one, own, shared = _residual(form, x, y, censored, theta)
    more = (1.0 + damping)[:, None]
    tiny = 1e-12
    own_pull = (own * r).sum(-1)
    held = ((theta[..., 1] <= bounds[1, 0]) & (own_pull > 0)) | ((theta[..., 1] >= bounds[1, 1]) & (own_pull < 0))
    own = np.where(held[..., None], 0.0, own)
    aa, bb = (one * one).sum(-1) * more + tiny, (own * own).sum(-1) * more + tiny
    ab, ga, gb = (one * own).sum(-1), (one * r).sum(-1), (own * r).sum(-1)
    ac, bc = (one * shared).sum(-1), (own * shared).sum(-1)
    det = aa * bb - ab**2 + tiny**2

    def solve(a: Floats, b: Floats) -> tuple[Floats, Floats]:
        return (bb * a - ab * b) / det, (aa * b - ab * a) / det

    cc, gc = (shared * shared).sum((-1, -2)), (shared * r).sum((-1, -2))
    if form.pull is not None:
        cc, gc = cc + form.pull[1] ** 2, gc + form.pull[1] ** 2 * (theta[:, 0, 2] - form.pull[0])
    ua, ub = solve(ac, bc)
    schur = cc * (1.0 + damping) - (ac * ua + bc * ub).sum(-1)
    pull = gc - (ga * ua + gb * ub).sum(-1)
    common = theta[:, 0, 2]
    stuck = ((common <= bounds[2, 0]) & (pull > 0)) | ((common >= bounds[2, 1]) & (pull < 0))
    usable = (schur > tiny) & ~stuck & (form.shared is not None)
    move = np.where(usable, -pull / np.where(usable, schur, 1.0), 0.0)[:, None]
    va, vb = solve(ga, gb)
    return np.stack([-va - ua * move, -vb - ub * move, np.broadcast_to(move, ga.shape)], axis=-1)

"""n-step returns, summed when a transition is added: what the replay keeps are ordinary transitions over n steps.

A window holds the last n − 1 vector steps. Each new one completes the transition that began n − 1 steps ago; it ends
early where its episode ended, truly or by time-out, so no return crosses a reset.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from rlscale import replay
from rlscale.types import Array, EnvSpec, Transition


class Window(NamedTuple):
    """The steps whose transitions are not complete yet, oldest first."""

    rows: Transition  # [n − 1, E, ...]
    over: Array  # [n − 1, E] bool: the episode ended, truly or by time-out


def init(n: int, num_envs: int, env: EnvSpec, backend: Any = jnp) -> Window:
    """An empty window; `backend` is ``jax.numpy`` or ``numpy``. What the first n − 1 pushes complete is void."""
    rows = replay.init((n - 1) * num_envs, env, backend)
    shaped = Transition(*(x.reshape(n - 1, num_envs, *x.shape[1:]) for x in rows))
    return Window(shaped, backend.zeros((n - 1, num_envs), bool))


def push(window: Window, rows: Transition, over: Any, discount: float) -> tuple[Window, Transition]:
    """Add a vector step [E, ...]; returns the transitions that it completes, from the window's oldest step.

    With m ≤ n the steps until the episode ended, the completed reward is Σ_{k<m} γ^k r_k, its successor the m-th
    step's, and its discount γ^(m−1) times the m-th's (so that the learner's own γ makes γ^m), by recursion from the
    newest step back.
    """
    xp: Any = np if isinstance(rows.reward, np.ndarray) else jnp
    steps = Transition(*(xp.concatenate([old, new[None]]) for old, new in zip(window.rows, rows, strict=True)))
    ends = xp.concatenate([window.over, over[None]])
    tail = rows
    for k in reversed(range(len(ends) - 1)):
        own = Transition(*(x[k] for x in steps))
        tail = Transition(
            own.obs,
            own.action,
            xp.where(ends[k], own.reward, own.reward + np.float32(discount) * tail.reward),
            xp.where(ends[k], own.discount, np.float32(discount) * tail.discount),
            xp.where(ends[k][:, None], own.next_obs, tail.next_obs),
        )
    return Window(*jax.tree.map(lambda x: x[1:], (steps, ends))), tail

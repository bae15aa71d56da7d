"""Diagnostics change nothing of what they look at, and what they say is what can be computed by hand."""

from __future__ import annotations

import functools
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rlscale.cycle import Run
from rlscale.diagnostics.asked import Diagnostics, GradientNoise, NewestTD, PassiveCritic, Validation
from rlscale.diagnostics.observed import Watch
from rlscale.types import Resets
from tests.contract.runs import MEMBERS, TASKS, Asked, real, work
from tests.test_checkpoint import END, Done, trained

pytestmark = pytest.mark.usefixtures("quick_compiles")

ALL = Diagnostics(Validation(3), PassiveCritic((4, 8)), GradientNoise(2, (4, 32)), NewestTD(2, 5))
NOTHING = Diagnostics(None, None, None, None)
EACH = {name: replace(NOTHING, **{name: getattr(ALL, name)}) for name in ALL.names}
PACK = Asked("toy", "sac", MEMBERS[:2], Fraction(3, 2), num_envs=2, env_steps=120, eval_every=40)
FIELDS: dict[str, dict[str, Any]] = {
    "sac": {"depth": 1},
    "bro": {"actor_blocks": 0, "blocks": 0, "quantiles": 5},
    "pql": {"lag": 1},
    "simbav2": {"atoms": 11, "blocks": 0, "actor_blocks": 0},
}


def job(asked: Asked) -> Run:
    """A run with resets, of the narrow learner."""
    made = learner(asked.learner, asked.task, asked.num_envs)
    return work(asked, algorithm=made._replace(resets=Resets(every_updates=30)))


@functools.cache
def learner(name: str, task: str, num_envs: int, **fields: Any) -> Any:
    return real(name, TASKS[task].spec()._replace(num_envs=num_envs), **FIELDS[name], **fields)


def watch(asked: Asked, diagnostics: Diagnostics) -> Watch:
    widths = diagnostics.passive_critic.widths if diagnostics.passive_critic else ()
    return Watch(diagnostics, {w: learner(asked.learner, asked.task, asked.num_envs, width=w) for w in widths}, "test")


def rows(done: Done) -> list[list[dict[str, str]]]:
    return [[dict(zip(table[0], row, strict=True)) for row in table[1:]] for table in done.curves]


def assert_unmoved(plain: Done, observed: Done) -> None:
    """Every column and every array of the state that the run has without diagnostics, bit for bit."""
    for a, b in zip(rows(plain), rows(observed), strict=True):
        assert a == [{name: row[name] for name in a[0]} for row in b]
    for one, other in zip(plain.states, observed.states, strict=True):
        assert set(one) == {name for name in other if not name.startswith("diagnostics")}
        for name in one:
            np.testing.assert_array_equal(one[name], other[name], err_msg=name)


WAYS = {
    "sac": PACK,
    "sac, vmap": PACK._replace(pack="vmap"),
    "sac, device": PACK._replace(task="control"),
    "bro": PACK._replace(learner="bro"),
    "pql, device": PACK._replace(learner="pql", task="control"),
    "simbav2": PACK._replace(learner="simbav2"),
}


@pytest.mark.parametrize("way", [pytest.param(w, marks=[pytest.mark.slow] * (w != "sac")) for w in WAYS])
def test_looking_changes_nothing(way: str, tmp_path: Path) -> None:
    asked = WAYS[way]
    diagnostics = replace(ALL, passive_critic=None) if asked.learner == "pql" else ALL
    plain = trained(job(asked), tmp_path / "plain", END, END)
    observed = trained(job(asked), tmp_path / "observed", END, END, watch=watch(asked, diagnostics))
    assert_unmoved(plain, observed)
    for table in rows(observed):
        new = [name for name in table[0] if name not in rows(plain)[0][0]]
        assert set(new) > {"validation_critic_loss", "replay_critic_loss", "newest_critic_loss", "grad_norm_small"}
        assert all(row[name] for row in table[1:] for name in new if name != "noise_scale")

"""What a run is: RunSpec (shared by the members of a pack) and Member, their canonical JSON, and the run_id.

A run is named by what it is. The id is a hash of the typed spec, so it does not depend on how a value was spelt, on
the order of keys, on the date, the job number, the machine, or on which other members ran in the same process.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from fractions import Fraction
from functools import cached_property
from typing import Any

SPLITS = ("fit", "interpolate", "extrapolate", "baseline")  # what a sweep's runs are for
SPEC_VERSION = 1  # part of every run_id: raise it when the same spec would no longer give the same run


@dataclass(frozen=True)
class Budget:
    """How long a run is and when it is looked at. All lengths in env steps: transitions that the agent saw."""

    env_steps: int
    warmup_steps: int
    log_every: int
    eval_every: int | None
    eval_episodes: int
    replay_capacity: int | None

    def __post_init__(self) -> None:
        if self.env_steps <= 0:
            raise ValueError(f"env_steps={self.env_steps}: a run needs at least one step; give a positive number")
        if not 0 < self.warmup_steps < self.env_steps:
            raise ValueError(
                f"warmup_steps={self.warmup_steps}: give a number above 0 and below env_steps={self.env_steps}"
            )
        if self.log_every <= 0:
            raise ValueError(f"log_every={self.log_every}: give a positive number of env steps")
        if self.eval_every is not None and (self.eval_every <= 0 or self.eval_every % self.log_every):
            raise ValueError(f"eval_every={self.eval_every}: give a multiple of log_every={self.log_every}, or null")
        if self.eval_every is not None and self.eval_episodes <= 0:
            raise ValueError(f"eval_episodes={self.eval_episodes}: give a positive number, or eval_every=null")
        if self.replay_capacity is not None and self.replay_capacity <= 0:
            raise ValueError(f"replay_capacity={self.replay_capacity}: give a positive number, or null to keep all")

    def evaluations(self, env_step: int) -> int:
        """How many evaluations are due up to `env_step`."""
        return 0 if self.eval_every is None else env_step // self.eval_every


@dataclass(frozen=True)
class RunSpec:
    """What the members of a pack share: everything that is a shape or control flow.

    `algorithm` and `benchmark` are plain mappings with a ``name`` and the typed fields of that algorithm or suite.
    """

    algorithm: Mapping[str, Any]
    benchmark: Mapping[str, Any]
    utd: Fraction
    batch_size: int
    budget: Budget

    def __post_init__(self) -> None:
        if self.utd <= 0:
            raise ValueError(f"utd={self.utd}: the updates-to-data ratio must be above 0; give one such as 1/4 or 2")
        if self.batch_size <= 0:
            raise ValueError(f"batch_size={self.batch_size}: give a positive whole number")

    @property
    def task(self) -> str:
        return str(self.benchmark["task"])

    @cached_property  # every member asks
    def shared(self) -> dict[str, Any]:
        """As plain JSON data: what the identities of all members have in common."""
        own = {
            "algorithm": dict(self.algorithm),
            "benchmark": dict(self.benchmark),
            "utd": Fraction(self.utd),
            "batch_size": self.batch_size,
            "budget": asdict(self.budget),
        }
        result: dict[str, Any] = plain(own)
        return result


@dataclass(frozen=True)
class Member:
    """What members of one pack may differ in: numbers in the state."""

    seed: int
    learning_rate: float

    def __post_init__(self) -> None:
        if not 0 <= self.seed < 2**31:
            raise ValueError(f"seed={self.seed}: give a whole number from 0 to {2**31 - 1}")
        if not 0 < self.learning_rate < float("inf"):
            raise ValueError(f"learning_rate={self.learning_rate}: give a positive number such as 3e-4")


def plain(value: Any) -> Any:
    """`value` as JSON data in which equal numbers look equal: 1.0 is 1, a Fraction is text such as ``"1/4"``."""
    if isinstance(value, Fraction):
        return str(value)
    if isinstance(value, float):
        if value != value or value in (float("inf"), float("-inf")):
            raise ValueError(f"{value} cannot be part of a spec")
        return int(value) if value.is_integer() else value
    if isinstance(value, Mapping):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [plain(v) for v in value]
    if value is None or isinstance(value, bool | int | str):
        return value
    raise TypeError(f"{type(value).__name__} cannot be part of a spec")


def identity(spec: RunSpec, member: Member) -> dict[str, Any]:
    """The hashed part of a record: ``{spec_version, spec, member}`` as plain JSON data."""
    return {"spec_version": SPEC_VERSION, "spec": spec.shared, "member": plain(asdict(member))}


def canonical_json(value: Any) -> str:
    """One text for one value: sorted keys, no spaces, shortest round-trip floats."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)


def run_id(spec: RunSpec, member: Member) -> str:
    """16 hex digits (64 bits) of the SHA-256 of the canonical identity."""
    return hashlib.sha256(canonical_json(identity(spec, member)).encode()).hexdigest()[:16]

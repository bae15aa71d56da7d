"""Which diagnostics are asked for: the options of conf/diagnostics, typed."""

from __future__ import annotations

from dataclasses import dataclass, fields


def check_every(every: int) -> None:
    if every < 1:
        raise ValueError(f"every={every}: give a whole number of vector steps, 1 or more")


@dataclass(frozen=True)
class Validation:
    """conf/diagnostics/validation.yaml."""

    every: int  # vector steps

    def __post_init__(self) -> None:
        check_every(self.every)


@dataclass(frozen=True)
class PassiveCritic:
    """conf/diagnostics/passive_critic.yaml."""

    widths: tuple[int, ...]

    def __post_init__(self) -> None:
        if not self.widths or min(self.widths) < 1 or len(set(self.widths)) < len(self.widths):
            raise ValueError(f"widths={list(self.widths)}: give one width or several, each above 0 and once")


@dataclass(frozen=True)
class GradientNoise:
    """conf/diagnostics/gradient_noise.yaml."""

    every: int  # vector steps
    batches: tuple[int, ...]

    def __post_init__(self) -> None:
        check_every(self.every)
        if len(self.batches) != 2 or not 0 < self.batches[0] < self.batches[1]:
            raise ValueError(f"batches={list(self.batches)}: give two batch sizes, the smaller first")


@dataclass(frozen=True)
class NewestTD:
    """conf/diagnostics/newest_td.yaml."""

    every: int  # vector steps
    newest: int  # transitions

    def __post_init__(self) -> None:
        check_every(self.every)
        if self.newest < 1:
            raise ValueError(f"newest={self.newest}: give a number of transitions, 1 or more")


@dataclass(frozen=True)
class Diagnostics:
    """What is attached to a run; never part of its identity."""

    validation: Validation | None
    passive_critic: PassiveCritic | None
    gradient_noise: GradientNoise | None
    newest_td: NewestTD | None

    @property
    def names(self) -> list[str]:
        """Of what is attached."""
        return [field.name for field in fields(self) if getattr(self, field.name) is not None]

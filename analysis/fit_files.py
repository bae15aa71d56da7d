"""What a fit left behind, as read from study/fits/<name>/."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from analysis.blend import Draws
from analysis.uncertainty import Floats


@dataclass(frozen=True)
class Fit:
    """hparams.json and laws.json, at least one of them, and their bootstrap draws where they were kept."""

    hparams: Mapping[str, Any] | None
    laws: Mapping[str, Any] | None
    hparams_draws: Mapping[str, Floats] | None
    laws_draws: Draws | None

    @property
    def parts(self) -> dict[str, Mapping[str, Any]]:
        """What there is, by the name of the door that made it."""
        return {name: one for name, one in (("hparams", self.hparams), ("laws", self.laws)) if one is not None}

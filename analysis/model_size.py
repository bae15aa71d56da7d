"""How many parameters a critic of a width has, and back: numbers only, so that planning needs no network."""

from __future__ import annotations

from dataclasses import dataclass
from math import sqrt

HEADS = 2  # N counts both critics


@dataclass(frozen=True)
class BroNet:
    """The follow-up's double critic: a dense layer, `depth` residual blocks of two, a head of `quantiles` outputs.

    `inputs` = observation + action dimensions. Every dense layer but the head is followed by a layer norm, and all
    have biases. N is what the follow-up's laws mean by model size: both critics, no actor, no targets.
    """

    inputs: int
    depth: int
    quantiles: int

    def parameters(self, width: int) -> int:
        """N at this width: 2·(2·depth·w² + w·(inputs + 3 + 6·depth + quantiles) + quantiles)."""
        return HEADS * (2 * self.depth * width**2 + width * self._per_unit + self.quantiles)

    def width(self, n_params: float) -> float:
        """The width, not rounded, with `n_params` parameters: the positive root of the quadratic above."""
        square, rest = 2 * self.depth, self.quantiles - n_params / HEADS
        return (sqrt(self._per_unit**2 - 4 * square * rest) - self._per_unit) / (2 * square)

    @property
    def _per_unit(self) -> int:
        return self.inputs + 3 + 6 * self.depth + self.quantiles

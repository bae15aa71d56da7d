"""How many parameters a critic of a width has, and back: numbers only, so that planning needs no network."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from itertools import combinations
from math import sqrt

from rlscale.typed import Mistake

HEADS = 2  # N counts both critics
EXACT = 1e-6  # a measured N this far from the quadratic, relatively, is of another network


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


@dataclass(frozen=True)
class Quadratic:
    """N = square·w² + linear·w + constant: every network of dense layers of one width w, whatever its learner."""

    square: Fraction
    linear: Fraction
    constant: Fraction

    def parameters(self, width: int) -> float:
        """N at this width."""
        return float((self.square * width + self.linear) * width + self.constant)

    def width(self, n_params: float) -> float:
        """The width, not rounded, with `n_params` parameters; 0 where even a width of 0 has more."""
        a, b, c = float(self.square), float(self.linear), float(self.constant) - n_params
        return max(0.0, 2.0 * -c / (b + sqrt(max(0.0, b * b - 4.0 * a * c))))


def quadratic(measured: Mapping[int, float], task: str) -> Quadratic:
    """N(w) through what was measured, {width: N}; exact, so that other widths of the same network are too.

    Raises Mistake for fewer than three widths, and where no one quadratic holds them all.
    """
    if len(measured) < 3:
        have = ", ".join(map(str, sorted(measured))) or "none"
        raise Mistake(
            f"the width that has N parameters needs three measured widths of {task} and there are {len(measured)} "
            f"({have}): sweep another algorithm.width"
        )
    widths = sorted(measured)
    nodes = [Fraction(w) for w in (widths[0], widths[len(widths) // 2], widths[-1])]
    values = [Fraction(measured[int(w)]) for w in nodes]
    # Newton's divided differences
    first, second = ((values[i + 1] - values[i]) / (nodes[i + 1] - nodes[i]) for i in range(2))
    square = (second - first) / (nodes[2] - nodes[0])
    linear = first - square * (nodes[0] + nodes[1])
    constant = values[0] - (square * nodes[0] + linear) * nodes[0]
    found = Quadratic(square, linear, constant)
    wrong = [w for w in widths if abs(found.parameters(w) / measured[w] - 1.0) > EXACT]
    rises = all(found.parameters(b) > found.parameters(a) for a, b in combinations(widths, 2))
    if wrong or not rises or square < 0 or linear < 0:
        raise Mistake(
            f"the parameters of {task} at widths {', '.join(map(str, widths))} are not those of one network "
            "(they are no rising quadratic in the width): select runs of one algorithm"
        )
    return found

"""Colours with a meaning, each as a pair for light and for dark paper. Figures are drawn in the light ones.

The ordered ramps are perceptually uniform and safe for colour-blind eyes; what of them would vanish on the paper is
darkened (or lightened) until it stands out 3 : 1, as WCAG 2.1 (1.4.11) asks of graphics.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib import colormaps
from matplotlib.colors import to_hex, to_rgb

PAPER, INK, FAINT, GRID = "#ffffff", "#1f2429", "#68707a", "#e4e7eb"
ACCENT, ALARM = "#2464b4", "#b3372c"
PAIRS = {PAPER: "#14171a", INK: "#e8eaed", FAINT: "#9aa2ac", GRID: "#2c3137", ACCENT: "#6ea8ee", ALARM: "#f08a7e"}
# Okabe and Ito's, deepened for white paper and as they are (or lighter) for black
TASKS = ["#0068a8", "#c0560a", "#00805c", "#b0458c", "#8a6d00", "#4a5058", "#8f2323", "#5d49b8"]
TASKS_DARK = ["#56b4e9", "#f0924a", "#2fc39a", "#e08fc0", "#e6c84a", "#c3c9d0", "#e77f7f", "#a99bf0"]
STEPS = 120  # a ramp has so many colours to choose from
RAMPS = {
    "sigma": ("plasma", (0.0, 0.86), (0.22, 1.0)), "level": ("viridis", (0.02, 0.86), (0.3, 1.0)),
    "size": ("cividis", (0.0, 0.8), (0.35, 1.0)),
}  # fmt: skip
CONTRAST = 3.0


def ordered(count: int, ramp: str) -> list[str]:
    """`count` colours in order, for light paper; `ramp`: sigma, level or size, never to be confused."""
    places = np.linspace(0, STEPS - 1, count).round().astype(int) if count > 1 else [STEPS // 3]
    return [LIGHT[ramp][i] for i in places]


def tasks(names: Sequence[str]) -> dict[str, str]:
    """A colour for each task; after eight they repeat, so marks must differ too."""
    return {name: TASKS[i % len(TASKS)] for i, name in enumerate(names)}


def luminance(colour: str) -> float:
    """Relative luminance of WCAG 2.1."""
    channel = np.array(to_rgb(colour))
    linear = np.where(channel <= 0.04045, channel / 12.92, ((channel + 0.055) / 1.055) ** 2.4)
    return float(linear @ [0.2126, 0.7152, 0.0722])


def contrast(one: str, other: str) -> float:
    """Contrast ratio of WCAG 2.1, 1 to 21."""
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


def _readable(colour: str, paper: str, towards: float) -> str:
    """`colour`, mixed with black (`towards` 0) or white (1) until it stands out from `paper`."""
    rgb = np.array(to_rgb(colour))
    for share in np.linspace(0, 0.9, 46):
        mixed = to_hex((1 - share) * rgb + share * towards)
        if contrast(mixed, paper) >= CONTRAST:
            return mixed
    raise ValueError(f"{colour} cannot be told from {paper}")


def _ramp(name: str, ends: tuple[float, float], paper: str, towards: float) -> list[str]:
    return [_readable(to_hex(colormaps[name](x)), paper, towards) for x in np.linspace(*ends, STEPS)]


LIGHT = {ramp: _ramp(name, light, PAPER, 0.0) for ramp, (name, light, _) in RAMPS.items()}
for _ramp_name, (_map, _, _dark) in RAMPS.items():
    PAIRS |= dict(zip(LIGHT[_ramp_name], _ramp(_map, _dark, PAIRS[PAPER], 1.0), strict=True))
PAIRS |= dict(zip(TASKS, TASKS_DARK, strict=True))

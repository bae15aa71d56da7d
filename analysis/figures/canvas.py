"""One panel: axes of a fixed shape, drawn by matplotlib, turned into SVG that takes its colours and font from the page.

Panels have no title, legend or frame of their own: the page sets those as text around them, so that they wrap, can be
read aloud and stay legible on a phone, where panels stand one below the other.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import wraps
from typing import Any, Literal, ParamSpec, TypeVar

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from analysis.figures.palette import FAINT, GRID, INK, PAIRS, PAPER

STYLE: Any = {
    "font.size": 10, "font.family": "DejaVu Sans", "axes.labelsize": 10, "xtick.labelsize": 9.5, "ytick.labelsize": 9.5,
    "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True, "axes.axisbelow": True,
    "grid.color": GRID, "grid.linewidth": 0.8, "axes.edgecolor": FAINT, "axes.linewidth": 0.8, "axes.labelcolor": INK,
    "text.color": INK, "xtick.color": FAINT, "ytick.color": FAINT, "xtick.labelcolor": INK, "ytick.labelcolor": INK,
    "xtick.major.size": 3, "ytick.major.size": 0, "axes.facecolor": "none", "figure.facecolor": "none",
    "savefig.facecolor": "none", "lines.linewidth": 1.6, "svg.fonttype": "none", "svg.hashsalt": "rlscale",
    "path.simplify": True, "path.simplify_threshold": 0.3,
}  # fmt: skip
SMALL, LARGE = (300.0, 215.0), (360.0, 262.0)  # points; on a page a point is about a pixel
MARGINS = {"left": 56.0, "right": 10.0, "top": 9.0, "bottom": 40.0}  # points, the same for all, so that panels align
SUPERSCRIPT = str.maketrans("0123456789-.", "⁰¹²³⁴⁵⁶⁷⁸⁹⁻·")
P = ParamSpec("P")
R = TypeVar("R")
Shape = Literal[
    "line", "dash", "thin", "band", "block", "dot", "ring", "square", "rhomb", "up", "down", "plus", "star", "cross",
    "diamond",
]  # fmt: skip
MARKS: dict[Shape, str] = {  # to tell tasks apart where colours repeat
    "dot": "o", "square": "s", "rhomb": "D", "up": "^", "down": "v", "plus": "P", "star": "*", "cross": "X"
}  # fmt: skip


@dataclass(frozen=True)
class Key:
    """One entry of a legend."""

    label: str
    colour: str
    shape: Shape


@dataclass(frozen=True)
class Panel:
    """One picture: `title` above it, `alt` for those who cannot see it, `svg` with CSS variables for colours."""

    title: str
    alt: str
    svg: str


@dataclass(frozen=True)
class Plate:
    """Panels that belong together, the legend they share, and what to know when reading them. `large`: few and big."""

    panels: Sequence[Panel]
    keys: Sequence[Key]
    caption: str
    large: bool


def styled(draw: Callable[P, R]) -> Callable[P, R]:
    """Runs the function with the house's settings of matplotlib, and leaves the reader's own alone."""

    @wraps(draw)
    def inside(*args: P.args, **kwargs: P.kwargs) -> R:
        with matplotlib.rc_context(STYLE):
            return draw(*args, **kwargs)

    return inside


def canvas(size: tuple[float, float]) -> tuple[Figure, Axes]:
    """An empty panel of `size` points."""
    fig = Figure(figsize=(size[0] / 72, size[1] / 72))
    left, bottom = MARGINS["left"] / size[0], MARGINS["bottom"] / size[1]
    width, height = 1 - left - MARGINS["right"] / size[0], 1 - bottom - MARGINS["top"] / size[1]
    ax = fig.add_axes((left, bottom, width, height))
    ax.yaxis.set_label_coords(-46.0 / (width * size[0]), 0.5)  # the same place whatever the ticks say
    return fig, ax


def panel(fig: Figure, title: str, alt: str) -> Panel:
    """The finished figure as a Panel."""
    buffer = io.StringIO()
    fig.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    return Panel(title, alt, themed(buffer.getvalue()))


def themed(svg: str) -> str:
    """matplotlib's SVG as part of a page: colours become CSS variables, fonts the page's; no ids but those in use.

    Raises KeyError for a colour that has no dark variant.
    """
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>|<!--.*?-->", "", svg, flags=re.S)
    svg = re.sub(r' (width|height)="[\d.]+pt"', "", svg, count=2)
    svg = re.sub(r' xmlns(:\w+)?="[^"]*"| version="[^"]*"', "", svg)
    svg = re.sub(r"(?<=: )#[0-9a-f]{6}\b", lambda found: f"var({variable(found[0])})", svg)
    svg = re.sub(
        r"font: ([\d.]+)px [^;\"]*|font-family: [^;\"]*", lambda f: f"font-size: {f[1]}px" if f[1] else "", svg
    )
    svg = re.sub(r"<[^>]*>", lambda tag: re.sub(r"(\.\d\d)\d+", r"\1", tag[0]), svg)  # not in text: 0.0003 is a tick
    svg = svg.replace("xlink:href", "href")
    used = set(re.findall(r'(?:url\(|href=")#([^)"]+)', svg))
    svg = re.sub(r' id="([^"]+)"', lambda found: found[0] if found[1] in used else "", svg)
    svg = re.sub(r"<defs>\s*</defs>", "", svg)
    return re.sub(r"\s*\n\s*", "\n", svg).strip()


def variable(colour: str) -> str:
    """The CSS variable of a colour of the palette."""
    PAIRS[colour]  # a colour without a dark twin must not pass
    return f"--c{colour[1:]}"


def whisker(
    ax: Axes, x: float, y: float, ends: Sequence[Any] | None, colour: str, filled: bool, mark: str = "o"
) -> None:
    """A point and its interval; hollow unless `filled`. Ends that are not known are left out."""
    if ends is not None and all(e is not None and np.isfinite(e) for e in ends):
        ax.plot(
            [x, x], [min(ends[0], y), max(ends[1], y)], color=colour, linewidth=1.1, solid_capstyle="butt", zorder=3
        )
    ax.plot(x, y, mark, color=colour, mfc=colour if filled else PAPER, mec=colour, ms=5, mew=1.2, zorder=4)


def sigma_axis(ax: Axes, utds: Sequence[str]) -> None:
    """A log axis of σ with ticks at those that were run, as they were typed; every second where they would collide."""
    exact = sorted({Fraction(u) for u in utds})
    ax.set_xscale("log")
    ax.set_xlabel("σ, updates per env step")
    shown: list[Fraction] = []
    for u in exact:
        if not shown or np.log(float(u / shown[-1])) > np.log(float(exact[-1] / exact[0])) / 11:
            shown.append(u)
    ax.xaxis.set_major_locator(FixedLocator([float(u) for u in shown]))
    ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: str(min(shown, key=lambda u: abs(float(u) - value)))))
    ax.xaxis.set_minor_locator(NullLocator())


def log_axis(ax: Axes, which: Literal["x", "y"]) -> None:
    """A log axis with three to seven ticks in numbers a person reads at once: 250, 30k, 1.2M, 3×10¹⁵."""
    (ax.set_yscale if which == "y" else ax.set_xscale)("log")
    axis = ax.yaxis if which == "y" else ax.xaxis
    low, high = ax.get_ylim() if which == "y" else ax.get_xlim()
    axis.set_major_locator(FixedLocator(log_ticks(low, high, 3 if which == "x" else 4)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: short(value)))
    axis.set_minor_locator(NullLocator())


def log_ticks(low: float, high: float, least: int) -> list[float]:
    """At least `least` round numbers in [low, high], or as many as a fine choice gives, and at most seven."""
    powers = 10.0 ** np.arange(np.floor(np.log10(low)), np.ceil(np.log10(high)) + 1)
    ticks: list[float] = []
    for steps in (
        (1,),
        (1, 3),
        (1, 2, 5),
        (1, 1.5, 2, 3, 5, 7),
        (1, 1.2, 1.4, 1.6, 1.8, 2, 2.5, 3, 3.5, 4, 5, 6, 7, 8, 9),
    ):
        ticks = [float(p * s) for p in powers for s in steps if low <= p * s <= high]
        if len(ticks) >= least:
            break
    return ticks[:: -(-len(ticks) // 7)] if ticks else []


def short(value: float) -> str:
    """Two or three digits and a letter, or a power of ten."""
    if value >= 1e9 or 0 < value < 1e-5:
        mantissa, power = f"{value:.1e}".split("e")
        raised = "10" + str(int(power)).translate(SUPERSCRIPT)
        return raised if float(mantissa) == 1 else f"{float(mantissa):g}×{raised}"
    for size, letter in ((1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:.3g}{letter}"
    return np.format_float_positional(float(f"{value:.3g}"), trim="-")


def raised(exponent: float) -> str:
    """A power as Unicode superscript: −0.47 → ⁻⁰·⁴⁷."""
    return f"{exponent:z.2f}".translate(SUPERSCRIPT)


def mark(index: int) -> tuple[Shape, str]:
    """(shape of the legend's symbol, matplotlib's marker) of task number `index`."""
    return list(MARKS.items())[index % len(MARKS)]

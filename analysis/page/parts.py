"""The pieces that a page is made of: text made safe, tables, plates of figures."""

from __future__ import annotations

import html
import re
from collections.abc import Iterable, Sequence
from typing import Any

from analysis import show
from analysis.figures.canvas import Key, Panel, Plate, variable

SYMBOLS = {
    "line": '<path d="M1 6H21" stroke="{c}" stroke-width="2.4"/>',
    "dash": '<path d="M1 6H21" stroke="{c}" stroke-width="2" stroke-dasharray="5 3"/>',
    "thin": '<path d="M4 6H18" stroke="{c}" stroke-width="1.4"/>',
    "dot": '<circle cx="11" cy="6" r="4" fill="{c}"/>',
    "ring": '<circle cx="11" cy="6" r="3.6" fill="none" stroke="{c}" stroke-width="1.7"/>',
    "band": '<path d="M1 6H21" stroke="{c}" stroke-width="11" opacity=".2"/>'
    '<path d="M1 6H21" stroke="{c}" stroke-width="2"/>',
    "up": '<path d="M11 1L16 10.5H6Z" fill="{c}"/>',
    "square": '<rect x="7" y="2" width="8" height="8" fill="{c}"/>',
    "rhomb": '<path d="M11 1l5 5-5 5-5-5z" fill="{c}"/>',
    "down": '<path d="M11 11L16 1.5H6Z" fill="{c}"/>',
    "plus": '<path d="M9.2 1.5h3.6v2.7h2.7v3.6h-2.7v2.7H9.2V7.8H6.5V4.2h2.7z" fill="{c}"/>',
    "star": '<path d="M11 0l1.6 4.2 4.5.2-3.5 2.8 1.2 4.4L11 9.1l-3.8 2.5 1.2-4.4-3.5-2.8 4.5-.2z" fill="{c}"/>',
    "cross": '<path d="M7 2l8 8M15 2l-8 8" stroke="{c}" stroke-width="1.6"/>',
    "diamond": '<path d="M11 1l5 5-5 5-5-5z" fill="none" stroke="{c}" stroke-width="1.7"/>',
    "block": '<rect x="4" y="0" width="14" height="12" fill="{c}" opacity=".9"/>',
}

LONG = 6  # notes are shown at once


def esc(text: Any) -> str:
    return html.escape(str(text))


def anchor(title: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-")


def section(title: str, body: Iterable[str]) -> str:
    """A chapter; nothing where `body` is empty."""
    inner = "\n".join(body)
    return f'<section id="{anchor(title)}"><h2>{esc(title)}</h2>\n{inner}\n</section>' if inner else ""


def para(text: str, kind: str = "") -> str:
    """A paragraph of ready HTML."""
    return f'<p class="{kind}">{text}</p>' if kind else f"<p>{text}</p>"


def table(caption: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """A table in a box of its own that scrolls; columns of numbers stand to the right."""
    numeric = [all(not isinstance(r[i], str) or bare(r[i]) for r in rows) for i in range(len(columns))]
    head = "".join(
        f'<th scope="col"{_class("n" if n else "")}>{esc(c)}</th>' for c, n in zip(columns, numeric, strict=True)
    )
    lines = "".join(
        "<tr>" + "".join(cell(value, n) for value, n in zip(row, numeric, strict=True)) + "</tr>\n" for row in rows
    )
    return (
        f'<p class="title" aria-hidden="true">{esc(caption)}</p>'
        f'<div class="wide" tabindex="0" role="region" aria-label="{esc(caption)}"><table aria-label="{esc(caption)}">'
        f"<thead><tr>{head}</tr></thead><tbody>\n{lines}</tbody></table></div>"
    )


def cell(value: Any, numeric: bool) -> str:
    text = value if isinstance(value, str) else show.number(value)
    kind = "n" if numeric else "long" if len(text) > 48 else ""
    if text in ("yes", "no") and isinstance(value, str):
        return f'<td><span class="{text}">{text}</span></td>'
    return f"<td{_class(kind)}>{esc(text)}</td>"


def bare(text: str) -> bool:
    """Whether a cell's text is a number, an interval or nothing, and so belongs to the right."""
    return re.fullmatch(r"[-+−<>≥ ]*[\d.,/e+%–∞-]*|–|\[.*\]", text) is not None


def _class(kind: str) -> str:
    return f' class="{kind}"' if kind else ""


def facts(rows: Sequence[Sequence[str]]) -> str:
    """Names and values, one below the other on a phone."""
    listed = "".join(f"<dt>{esc(name)}</dt><dd>{esc(value)}</dd>" for name, value in rows)
    return f'<dl class="facts">{listed}</dl>'


def fold(caption: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """A table behind its caption, opened by a click; nothing where it has no rows."""
    if not rows:
        return ""
    return f"<details><summary>{esc(caption)} ({len(rows)})</summary>{table(caption, columns, rows)}</details>"


def notes(lines: Sequence[str]) -> str:
    """A list; of a long one the tail is behind a click."""

    def listed(some: Sequence[str]) -> str:
        return f'<ul class="notes">{"".join(f"<li>{esc(line)}</li>" for line in some)}</ul>' if some else ""

    if len(lines) <= LONG:
        return listed(lines)
    return f"{listed(lines[:LONG])}<details><summary>{len(lines) - LONG} more</summary>{listed(lines[LONG:])}</details>"


class Figures:
    """Turns plates into HTML and counts them: ids in one page must differ, though every SVG was drawn alone."""

    def __init__(self) -> None:
        self.count = 0

    def plate(self, plate: Plate | None, title: str = "") -> str:
        """A heading, the legend, the panels and the caption; nothing where there is no plate."""
        if plate is None or not plate.panels:
            return ""
        head = f"<h3>{esc(title)}</h3>" if title else ""
        keys = f'<ul class="keys">{"".join(key(k) for k in plate.keys)}</ul>' if plate.keys else ""
        panels = "\n".join(self.panel(p) for p in plate.panels)
        caption = para(esc(plate.caption), "caption faint") if plate.caption else ""
        kind = "plate large" if plate.large else "plate"
        return f'{head}<div class="{kind}">{keys}<div class="panels">\n{panels}\n</div>{caption}</div>'

    def panel(self, one: Panel) -> str:
        self.count += 1
        mark = f"f{self.count}-"
        svg = re.sub(r'( id="|url\(#|href="#)', lambda found: found[1] + mark, one.svg)
        svg = svg.replace("<svg", f'<svg role="img" aria-label="{esc(one.alt)}"', 1)
        return f"<figure><figcaption>{esc(one.title)}</figcaption>{svg}</figure>"


def key(one: Key) -> str:
    drawn = SYMBOLS[one.shape].format(c=f"var({variable(one.colour)})")
    return f'<li><svg viewBox="0 0 22 12" aria-hidden="true">{drawn}</svg>{esc(one.label)}</li>'


def exponent(value: float | None) -> str:
    return "" if value is None else f"<sup>{value:z.2f}</sup>".replace("-", "−")


def span(pair: Sequence[Any] | None, digits: str = "") -> str:
    """An interval in brackets; `digits` is a format such as ".2f"."""
    if pair is None or any(p is None for p in pair):
        return ""
    low, high = (format(p, digits).replace("-", "−") if digits else show.number(float(p)) for p in pair)
    return f'<span class="faint span">[{low}, {high}]</span>'

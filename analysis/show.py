"""What a person sees at a terminal: tables, numbers with intervals, and progress with an ETA."""

from __future__ import annotations

import math
import os
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

RICH_FROM = 2.0  # seconds of work left before a progress line is worth showing


def table(title: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """Print a table: with rules on a terminal, in plain aligned columns into a pipe or file."""
    text = [[cell if isinstance(cell, str) else number(cell) for cell in row] for row in rows]
    if sys.stdout.isatty():
        from rich.console import Console
        from rich.table import Table
        from rich.text import Text

        drawn = Table(title=title, title_justify="left", title_style="bold")
        for column in columns:
            drawn.add_column(column)
        for row in text:
            drawn.add_row(*map(Text, row))
        Console().print(drawn)
        return
    widths = [max(map(len, column)) for column in zip(columns, *text, strict=True)]
    say(title)
    for row in [list(columns), *text]:
        say("  " + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def say(text: str = "") -> None:
    try:
        print(text, flush=True)
    except BrokenPipeError:  # the reader has left (… | head): what was asked for is done, the rest need not be said
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def number(value: Any) -> str:
    """Three significant digits, plain where that is short: 0.3, 1250, 1.2e+09; "–" for what is not known."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int | str):
        return str(value)
    value = float(value)
    if math.isinf(value):
        return "∞"
    if 999.5 <= abs(value) < 1e7:
        return f"{value:,.0f}"
    return f"{value:.3g}"


def span(pair: Sequence[Any] | None) -> str:
    """An interval as ``[low, high]``."""
    return "–" if pair is None else f"[{number(pair[0])}, {number(pair[1])}]"


def tracked(items: Iterable[Any], total: int, label: str) -> Iterator[Any]:
    """The items, with a line on stderr (items done, ETA) while there is more than a moment of work left."""
    started = shown = time.monotonic()
    visible = False
    for done, item in enumerate(items):
        now = time.monotonic()
        if done and now - shown > 0.5:
            left = (now - started) / done * (total - done)
            if visible or left > RICH_FROM:
                visible, shown = True, now
                end = "\r" if sys.stderr.isatty() else "\n"
                print(f"{label}: {done}/{total}, {left:.0f} s left   ", end=end, file=sys.stderr, flush=True)
        yield item
    if visible and sys.stderr.isatty():
        print(" " * 60, end="\r", file=sys.stderr, flush=True)

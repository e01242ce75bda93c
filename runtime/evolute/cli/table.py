"""Tables in the terminal: aligned text, a line a row, and nothing in it that a terminal would obey.

ID                                FUNCTION    STATE    NOTE
kg2…                              mail:send   failed   ValueError: no such mailbox
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Sequence
from datetime import UTC, datetime

import click

GAP = "  "
CELL_CHARACTERS_MIN = 20


def show_table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """The last column may be long: in a terminal it is cut to its width."""
    lines = [[_plain(cell) for cell in row] for row in (headings, *rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    room = None
    if sys.stdout.isatty():
        used = sum(widths[:-1]) + len(GAP) * (len(widths) - 1)
        room = max(shutil.get_terminal_size().columns - used, CELL_CHARACTERS_MIN)
    for line in lines:
        *cells, last = line
        if room is not None and len(last) > room:
            last = last[: room - 1] + "…"
        padded = [cell.ljust(width) for cell, width in zip(cells, widths, strict=False)]
        click.echo(GAP.join([*padded, last]).rstrip())


def show_fields(fields: Sequence[tuple[str, str]]) -> None:
    """One field a line; the lines of a long one stand below each other."""
    width = max((len(name) for name, _ in fields), default=0)
    for name, text in fields:
        first, *more = text.splitlines() or [""]
        click.echo(f"{name.ljust(width)}{GAP}{_plain(first)}".rstrip())
        for line in more:
            click.echo(f"{' ' * width}{GAP}{_plain(line)}".rstrip())


def shown_time(ms: float | None) -> str:
    """In UTC, as the server tells times; `-` for none."""
    return "-" if ms is None else datetime.fromtimestamp(ms / 1000, UTC).strftime("%Y-%m-%d %H:%M:%S")


def first_line(text: str | None) -> str:
    lines = (text or "").strip().splitlines()
    return lines[0] if lines else ""


def _plain(text: str) -> str:
    """Errors and keys are users' texts, and may hold what moves a cursor or changes a colour."""
    return (
        text
        if text.isprintable()
        else "".join(one if one.isprintable() else "\N{REPLACEMENT CHARACTER}" for one in text)
    )

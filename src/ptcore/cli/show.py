"""How results are shown: rich tables on a terminal, plain aligned text in a pipe, JSON for programs."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

Justify = Literal["left", "right"]
GAP = 3  # between two columns
NAME_WIDTH = 32  # a first column of names as long stays whole
NARROW = 110  # in a narrower window long columns share one
PIPE_WIDTH = 400  # of notes in a pipe; tables are as wide as their cells: programs read lines


def number(value: object) -> str:
    """Return a figure as people read it: thousands apart, few decimals, '-' for none."""
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:,.4g}"
    return str(value)


def console() -> Console:
    """Return the console of standard output."""
    screen = Console()
    return screen if screen.is_terminal else Console(width=PIPE_WIDTH, color_system=None)


def is_narrow() -> bool:
    """Return whether the window is too narrow for tables with two columns of sentences."""
    return console().width < NARROW


def on_terminal() -> bool:
    """Return whether people read what is printed, in lines as wide as the window."""
    return console().is_terminal


def table(
    title: str, columns: Sequence[str], rows: Iterable[Sequence[object]], *, keys: int = 1
) -> None:
    """Print one table; columns with figures in them stand to the right.

    On a terminal sentences are folded; a table without any that is wider than the window goes on below, with
    its first `keys` columns again. In a pipe nothing is folded.
    """
    cells = [list(row) for row in rows]
    if not console().is_terminal:
        _plain(title, columns, cells)
        return
    widths = _widths(columns, [[number(cell) for cell in row] for row in cells])
    wide = sum(widths) > console().width
    if wide and max(widths) <= NAME_WIDTH + GAP:
        split_table(title, columns, cells, keys=keys)
        return
    shown = _titled(title)
    for n, (column, figures) in enumerate(zip(columns, _figures(columns, cells), strict=True)):
        whole = n == 0 and widths[0] <= NAME_WIDTH + GAP
        justify: Justify = "right" if figures else "left"
        shown.add_column(column, justify=justify, no_wrap=whole, overflow="fold")
    for row in cells:
        shown.add_row(*(Text(number(cell)) for cell in row))
    console().print(shown)


def _widths(columns: Sequence[str], cells: Sequence[Sequence[str]]) -> list[int]:
    """Return how wide each column is, with the gap to the next."""
    return [
        GAP + max(len(text) for text in (column, *(row[n] for row in cells)))
        for n, column in enumerate(columns)
    ]


def _figures(columns: Sequence[str], cells: Sequence[Sequence[object]]) -> list[bool]:
    return [any(isinstance(row[n], int | float) for row in cells) for n in range(len(columns))]


def _titled(title: str | None) -> Table:
    """Return an empty table below its title, which may be wider than it."""
    if title is not None:
        console().print(Text(title, style="bold"))
    return Table(box=SIMPLE_HEAD, padding=(0, 1), pad_edge=False)


def _plain(title: str, columns: Sequence[str], cells: Sequence[Sequence[object]]) -> None:
    widths = _widths(columns, [[number(cell) for cell in row] for row in cells])
    screen = Console(width=sum(widths) + len(title), color_system=None)
    screen.print(Text(title))
    shown = Table(box=None, pad_edge=False)
    for column, figures in zip(columns, _figures(columns, cells), strict=True):
        shown.add_column(column, justify="right" if figures else "left", no_wrap=True)
    for row in cells:
        shown.add_row(*(Text(number(cell)) for cell in row))
    with screen.capture() as lines:
        screen.print(shown)
    for line in lines.get().splitlines():
        print(line.rstrip())


def split_table(
    title: str, columns: Sequence[str], rows: Iterable[Sequence[object]], *, keys: int = 1
) -> None:
    """Print a table that never wraps: columns that do not fit the window go to a table of their own below,
    with the first `keys` columns again."""
    values = [list(row) for row in rows]
    cells = [[number(cell) for cell in row] for row in values]
    figures = _figures(columns, values)
    widths = _widths(columns, cells)
    screen = console()
    at = keys
    while at < len(columns):
        end, room = at + 1, screen.width - sum(widths[:keys]) - widths[at]
        while end < len(columns) and widths[end] <= room:
            room -= widths[end]
            end += 1
        shown = _titled(title if at == keys else None)
        for n in (*range(keys), *range(at, end)):
            justify: Justify = "right" if figures[n] else "left"
            shown.add_column(columns[n], justify=justify, no_wrap=True)
        for row in cells:
            shown.add_row(*map(Text, [*row[:keys], *row[at:end]]))
        screen.print(shown)
        at = end


def note(text: str) -> None:
    """Print a sentence below a table."""
    console().print(Text(text))


def as_json(result: Mapping[str, Any]) -> None:
    """Print a result for programs."""
    print(json.dumps(result, indent=2))

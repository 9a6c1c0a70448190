"""How results are shown: rich tables on a terminal, plain aligned text in a pipe, JSON for programs."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

GAP = 3  # between two columns
NAME_WIDTH = 32  # a first column of names as long stays whole
NARROW = 110  # in a narrower window long columns share one
PIPE_WIDTH = 400  # wide enough that nothing is folded: programs read lines


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


def table(title: str, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Print one table; columns with figures in them stand to the right."""
    screen = console()
    cells = [list(row) for row in rows]
    if screen.is_terminal:
        shown = Table(title=title, title_justify="left", title_style="bold", box=SIMPLE_HEAD)
    else:
        screen.print(Text(title))
        shown = Table(box=None, pad_edge=False)
    for n, column in enumerate(columns):
        figures = any(isinstance(row[n], int | float) for row in cells)
        shown.add_column(
            column,
            justify="right" if figures else "left",
            no_wrap=not screen.is_terminal
            or (n == 0 and all(len(number(row[0])) <= NAME_WIDTH for row in cells)),
            overflow="fold",
        )
    for row in cells:
        shown.add_row(*(Text(number(cell)) for cell in row))
    if screen.is_terminal:
        screen.print(shown)
        return
    with screen.capture() as lines:
        screen.print(shown)
    for line in lines.get().splitlines():
        print(line.rstrip())


def split_table(title: str, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Print a table that never wraps: columns that do not fit the window go to a table of their own below,
    with the first column again."""
    cells = [[number(cell) for cell in row] for row in rows]
    widths = [
        GAP + max(len(column), *(len(row[n]) for row in cells), 0) if cells else len(column)
        for n, column in enumerate(columns)
    ]
    screen = console()
    at = 1
    while at < len(columns):
        end, room = at + 1, screen.width - widths[0] - widths[at]
        while end < len(columns) and widths[end] <= room:
            room -= widths[end]
            end += 1
        shown = Table(
            title=title if at == 1 else None,
            title_justify="left",
            title_style="bold",
            box=SIMPLE_HEAD,
            padding=(0, 1),
            pad_edge=False,
        )
        shown.add_column(columns[0], no_wrap=True)
        for column in columns[at:end]:
            shown.add_column(column, justify="right", no_wrap=True)
        for row in cells:
            shown.add_row(*map(Text, [row[0], *row[at:end]]))
        screen.print(shown)
        at = end


def note(text: str) -> None:
    """Print a sentence below a table."""
    console().print(Text(text))


def as_json(result: Mapping[str, Any]) -> None:
    """Print a result for programs."""
    print(json.dumps(result, indent=2))

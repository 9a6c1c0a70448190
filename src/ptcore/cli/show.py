"""How results are shown: rich tables on a terminal, plain aligned text in a pipe, JSON for programs."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

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


def table(title: str, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Print one table; columns with figures in them stand to the right."""
    screen = console()
    cells = [list(row) for row in rows]
    if screen.is_terminal:
        shown = Table(title=title, title_justify="left", box=SIMPLE_HEAD)
    else:
        screen.print(Text(title))
        shown = Table(box=None, pad_edge=False)
    for n, column in enumerate(columns):
        figures = any(isinstance(row[n], int | float) for row in cells)
        shown.add_column(
            column,
            justify="right" if figures else "left",
            no_wrap=not screen.is_terminal,
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


def note(text: str) -> None:
    """Print a sentence below a table."""
    console().print(Text(text))


def as_json(result: Mapping[str, Any]) -> None:
    """Print a result for programs."""
    print(json.dumps(result, indent=2))

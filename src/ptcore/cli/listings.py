"""How long listings are shown and kept: aligned lines, JSON, or a file of columns.

Lines are written in pieces as they are made, with the same text on a terminal and in a pipe, so that a
listing of a million rows needs no more memory than one of ten.
"""

from __future__ import annotations

import csv
import importlib
import io
import json
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import Any

import click
import numpy as np
import numpy.typing as npt

from ptcore.table.listing import Columns
from ptcore.units import ALL_ONES, SIZE_SUFFIXES, format_size

Rows = npt.NDArray[Any]
PIECE = 4096
# Columns of every listing that hold addresses: shown as hexadecimal numbers.
ADDRESSES = {"first", "last", "va", "pa", "old_pa", "new_pa", "repeat_of", "entry_address", "other"}
ADDRESSES |= {"root", "below"}
ENDINGS = (".parquet", ".csv")
OUTPUT = click.option(
    "--output",
    type=click.Path(dir_okay=False),
    help="Write the rows to a file instead: FILE.parquet or FILE.csv.",
)


def hexadecimal(number: int) -> str:
    """Return an address as it is written; '-' for the number that says there is none."""
    return "-" if number == ALL_ONES else f"{number:#x}"


@lru_cache(maxsize=4096)
def size_text(size: int) -> str:
    """Return a size as people read it, exact where that is short."""
    exact = format_size(size)
    if len(exact) <= 5:
        return exact
    shift = max(n for n in range(len(SIZE_SUFFIXES) + 1) if size >> 10 * n)
    return f"{size / (1 << 10 * shift):.4g}{SIZE_SUFFIXES[shift - 1] if shift else ''}"


@lru_cache(maxsize=4096)
def sizes_text(sizes: int) -> str:
    """Return or-ed page sizes, smallest first: '4K+2M'."""
    return "+".join(format_size(1 << n) for n in range(sizes.bit_length()) if sizes >> n & 1)


def dicts(rows: Rows, names: Mapping[str, Callable[[Any], object]] | None = None) -> Iterator[Any]:
    """Yield rows as dicts for programs: addresses as text, None for none; `names` says more columns."""
    columns = rows.dtype.names or ()
    shown = dict(names or {})
    for start in range(0, len(rows), PIECE):
        for values in rows[start : start + PIECE].tolist():
            yield {
                name: shown[name](value)
                if name in shown
                else (None if value == ALL_ONES else f"{value:#x}")
                if name in ADDRESSES
                else value
                for name, value in zip(columns, values, strict=True)
            }


def print_json(fields: Mapping[str, object], name: str, entries: Iterable[object]) -> None:
    """Print an object with `fields` and a list of `entries` under `name`, entry by entry."""
    head = json.dumps(dict(fields), indent=2)[:-1].rstrip()
    click.echo(f"{head}{',' if fields else ''}\n  {json.dumps(name)}: [", nl=False)
    comma = ""
    iterator = iter(entries)
    while piece := list(islice(iterator, PIECE)):
        click.echo(comma + ",".join(f"\n    {json.dumps(entry)}" for entry in piece), nl=False)
        comma = ","
    click.echo("\n  ]\n}")


def print_object(fields: Mapping[str, object]) -> None:
    """Print one JSON object."""
    click.echo(json.dumps(dict(fields), indent=2))


def print_lines(
    columns: Sequence[str], lines: Iterable[Sequence[str]], right: Sequence[str] = ()
) -> None:
    """Print aligned columns under a heading, piece by piece; those in `right` stand to the right."""
    widths = [len(column) for column in columns]
    to_right = [column in right for column in columns]
    iterator = iter(lines)
    heading: list[Sequence[str]] = [columns]
    while piece := list(islice(iterator, PIECE)) or heading:
        widths = [max(width, *(len(line[n]) for line in piece)) for n, width in enumerate(widths)]
        form = "  ".join(
            f"{{:{'>' if to_right[n] else '<'}{width}}}" for n, width in enumerate(widths)
        )
        out = [
            form.format(*line).rstrip()
            for line in (*heading, *(piece if piece is not heading else ()))
        ]
        heading = []
        click.echo("\n".join(out))


def arrow(module: str = "pyarrow") -> Any:
    """Return a module of pyarrow; a usage error says how to get it."""
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError:
        raise click.UsageError(
            "Parquet needs the package 'pyarrow': pip install 'ptcore[parquet]'"
        ) from None


def check_output(path: str | None) -> None:
    """Refuse a file of rows that cannot be written, before any work is done."""
    if path is None:
        return
    if Path(path).suffix not in ENDINGS:
        raise click.UsageError(f"--output: {path} ends in none of {', '.join(ENDINGS)}")
    if Path(path).suffix == ".parquet":
        arrow()


def write_rows(
    rows: Rows, path: str, names: Mapping[str, Callable[[Any], object]] | None = None
) -> None:
    """Write rows to a file of columns: Parquet as the array has them, CSV as people read them."""
    from ptcore.machine.ledger_files import whole_file  # imported when it is needed

    with whole_file(path) as part:
        if Path(path).suffix == ".parquet":
            table = arrow().table(Columns(np.asarray(rows)))
            arrow("pyarrow.parquet").write_table(table, part)
        else:
            text = io.TextIOWrapper(part, encoding="utf-8", newline="")
            lines = csv.writer(text, lineterminator="\n")
            lines.writerow(rows.dtype.names or ())
            lines.writerows(entry.values() for entry in dicts(rows, names))
            text.detach()
    click.echo(f"ptcore: {len(rows):,} rows in {path}", err=True)


def to_terminal() -> bool:
    """Whether standard output is a terminal."""
    return sys.stdout.isatty()

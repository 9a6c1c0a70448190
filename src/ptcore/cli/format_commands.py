"""The verbs that show formats: `ptcore formats` and `ptcore decode`."""

from __future__ import annotations

from dataclasses import asdict

import click

from ptcore import formats
from ptcore.cli import show
from ptcore.cli.ends import says_errors
from ptcore.cli.image_options import JSON, PARAMETER, parameters_of
from ptcore.formats import explain
from ptcore.formats.schema import Format
from ptcore.units import format_size


def _made(name: str, parameters: tuple[str, ...]) -> Format:
    """Return the format `name` with parameters given as 'key=value'."""
    return formats.get(name, **parameters_of(parameters))


def _number(text: str) -> int:
    try:
        return int(text, 0)
    except ValueError:
        raise click.BadParameter(f"{text!r} is no number (0x... is hexadecimal)") from None


def list_formats(json_: bool) -> None:
    """Print every format with its size of addresses and pages."""
    rows = []
    for name in formats.names():
        fmt = formats.get(name)
        sizes = [format_size(size) for size in fmt.page_sizes]
        shown = sizes if len(sizes) <= 6 else [*sizes[:2], "...", sizes[-1]]
        rows.append(
            {
                "format": name,
                "what": fmt.title,
                "levels": len(fmt.levels),
                "input bits": fmt.input_bits,
                "output bits": fmt.physical_bits,
                "item bytes": fmt.entry_bytes,
                "pages": " ".join(shown),
            }
        )
    if json_:
        show.as_json({"formats": rows, "presets": formats.presets()})
    else:
        show.table("Formats", list(rows[0]), [list(row.values()) for row in rows])
        click.echo("\npresets, to read as other tools do: " + ", ".join(formats.presets()))


def draw_format(fmt: Format, json_: bool) -> None:
    """Print every word of a format, most significant bit first."""
    words = explain.drawing(fmt)
    if json_:
        show.as_json(
            {
                "format": fmt.name,
                "title": fmt.title,
                "citations": [asdict(citation) for citation in fmt.citations],
                "words": [{"word": title, "fields": rows} for title, rows in words],
            }
        )
        return
    show.note(f"{fmt.name}: {fmt.title}")
    for title, rows in words:
        show.note("")
        show.table(title, ["bits", "name", "meaning"], rows)
    show.note("")
    for refusal in fmt.refusals:
        show.note(f"Refused: {refusal.rule}.")
    for citation in fmt.citations:
        show.note(f"Source: {citation.document}, {citation.section!r}.")


@click.command("formats")
@click.argument("name", required=False)
@PARAMETER
@JSON
@says_errors
def formats_command(name: str | None, parameters: tuple[str, ...], json_: bool) -> None:
    """List all formats, or draw the entries of NAME bit by bit."""
    if name is None:
        list_formats(json_)
    else:
        draw_format(_made(name, parameters), json_)


@click.command("decode")
@click.argument("name")
@click.argument("level")
@click.argument("entry")
@PARAMETER
@JSON
@says_errors
def decode_command(
    name: str, level: str, entry: str, parameters: tuple[str, ...], json_: bool
) -> None:
    """Explain one ENTRY of the format NAME at LEVEL (0 is the last, or the vendor's name)."""
    fmt = _made(name, parameters)
    number = _number(entry)
    found = explain.explain(fmt, level, number)
    if json_:
        show.as_json(asdict(found) | {"status": found.status.name})
        return
    n = explain.level_number(fmt, level)
    what = f"{fmt.name}, {fmt.levels[n].name} (level {n}), {number:#x}: {found.kind}"
    if found.output is not None:
        what += f" -> {found.output:#x}"
    if found.page_size is not None:
        what += f", {format_size(found.page_size)} page"
    if found.rights is not None:
        what += f", rights {found.rights}"
    if found.fields:
        rows = [(f.bits, f.name, f"{f.value:#x}", f.meaning) for f in found.fields]
        show.table(what, ["bits", "name", "value", "meaning"], rows)
    else:
        show.note(what)
    if found.rule:
        show.note(f"{found.status.name}: {found.rule}")

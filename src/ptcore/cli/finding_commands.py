"""The verbs that look for something: `ptcore check` and `ptcore roots`."""

from __future__ import annotations

import sys
from collections import Counter
from dataclasses import asdict
from typing import Any

import click

from ptcore.cli.ends import FOUND, says_errors
from ptcore.cli.group import ptcore
from ptcore.cli.image_options import (
    FORM,
    IMAGE,
    JSON,
    NUMBER,
    PARAMETER,
    PRESENCE,
    choose,
    image_options,
    parameters_of,
)
from ptcore.cli.listings import OUTPUT, check_output, dicts, print_json, write_rows
from ptcore.cli.places import opened
from ptcore.cli.progress import progress_bar
from ptcore.table.check import Finding, check
from ptcore.table.roots import Roots, find_roots
from ptcore.table.rows import Rule

RULES = {rule.name.lower(): rule for rule in Rule}


@ptcore.command("check")
@IMAGE
@image_options
@click.option(
    "--ignore",
    multiple=True,
    type=click.Choice(list(RULES)),
    help="A rule to leave out; may be given several times.",
)
@OUTPUT
@JSON
@says_errors
def check_command(
    image: str, ignore: tuple[str, ...], output: str | None, json_: bool, **given: Any
) -> None:
    """Look for what tables should not have; exit 1 if anything is found.

    Reserved bits, tables outside memory, loops, pages both writable and executable, user pages in the
    kernel's half, aliases of other memory types or of executable pages, tables that user mode may write.
    """
    check_output(output)
    chosen = choose(image, given)
    ignored = [RULES[name] for name in ignore]
    found = [check(space).without(*ignored) for space in chosen.spaces]
    if output is not None:
        chosen.only("--output")
        write_rows(found[0].rows, output, {"rule": lambda value: Rule(value).name})
    elif json_:
        entries = (_as_json(n, finding) for n, each in enumerate(found) for finding in each)
        print_json({"tables": list(chosen.said)}, "findings", entries)
    else:
        chosen.tell()
        counts = Counter[str]()
        for each in found:
            for finding in each:
                counts[finding.rule.name.lower()] += 1
                click.echo(f"{finding.rule.name.lower()}  {finding.text}")
        said = ", ".join(f"{n:,} {name}" for name, n in counts.items())
        total = sum(counts.values())
        many = "finding" if total == 1 else "findings"
        click.echo(f"{total:,} {many}: {said}" if counts else "nothing found")
    if any(found):
        sys.exit(FOUND)


def _as_json(space: int, finding: Finding) -> dict[str, Any]:
    entry = asdict(finding) | {"tables": space, "rule": finding.rule.name.lower()}
    for name in ("first", "last", "entry", "entry_address", "other"):
        entry[name] = f"{entry[name]:#x}"
    return entry


@ptcore.command("roots")
@IMAGE
@click.option(
    "--format", "names", metavar="NAME", required=True, multiple=True,
    help="The format to look for (ptcore formats lists them); may be given several times.",
)  # fmt: skip
@PARAMETER
@PRESENCE
@click.option("--physical-bits", type=NUMBER, help="The CPU's physical address width.")
@click.option("--least", default=0.5, show_default=True, help="The lowest score to list.")
@click.option(
    "--all", "all_", is_flag=True, help="List those too that are other candidates' tables."
)
@FORM
@OUTPUT
@JSON
@says_errors
def roots_command(
    image: str,
    names: tuple[str, ...],
    parameters: tuple[str, ...],
    presence: str | None,
    physical_bits: int | None,
    least: float,
    all_: bool,
    form: str | None,
    output: str | None,
    json_: bool,
) -> None:
    """Look for root tables in an IMAGE of which nothing is known: candidates, best first, with evidence.

    Exit 1 if there is none.
    """
    from ptcore import formats

    check_output(output)
    if output is not None and len(names) > 1:
        raise click.UsageError("--output takes one format")
    memory = opened(image, form)
    found = {}
    for name in names:
        fmt = formats.get(name, **parameters_of(parameters, presence))
        with progress_bar(name) as move:
            found[name] = find_roots(
                memory, fmt, physical_bits=physical_bits, least=least, progress=move
            )
    if output is not None:
        write_rows(found[names[0]].rows, output)
    elif json_:
        entries = (
            {"format": name, **row, "evidence": list(words)}
            for name, roots in found.items()
            for row, words in zip(dicts(roots.rows), roots.evidence, strict=True)
        )
        print_json({"looked_at": {n: r.looked_at for n, r in found.items()}}, "roots", entries)
    else:
        for name, roots in found.items():
            _show_roots(name, roots, all_)
    if not any(len(roots) for roots in found.values()):
        sys.exit(FOUND)


def _show_roots(name: str, roots: Roots, all_: bool) -> None:
    below = roots.rows["below"] != 0
    shown = [root for root, under in zip(roots, below, strict=True) if all_ or not under]
    for n, root in enumerate(shown, 1):
        click.echo(f"{n}. {name}, root {root.root:#x}, score {root.score:.3f}")
        for sentence in root.evidence:
            click.echo(f"   {sentence}")
    hidden = len(roots) - len(shown)
    more = f"; {hidden:,} that other candidates point to (--all lists them)" if hidden else ""
    click.echo(
        f"{len(shown):,} candidates of {roots.looked_at:,} places{more}; "
        f"{roots.implausible:,} looked like roots but their tables did not (--least)"
    )

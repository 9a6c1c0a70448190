"""The verbs of the command line. Each calls one public function and shows what it returns."""

from __future__ import annotations

import click

from ptcore import strategies as known_strategies
from ptcore.cli import show
from ptcore.cli.compare_commands import compare
from ptcore.cli.ends import says_errors
from ptcore.cli.format_commands import decode_command, formats_command
from ptcore.cli.group import ptcore
from ptcore.cli.image_options import JSON, NUMBER
from ptcore.cli.interop_commands import gdb_command, volatility_command
from ptcore.cli.progress import progress_bar
from ptcore.cli.tlb_commands import convert_command, presets_command, tlb_command
from ptcore.cli.validate_commands import validate
from ptcore.machine import Ledger
from ptcore.study.story import story
from ptcore.workloads.scenarios import SCENARIOS

ptcore.add_command(compare)
ptcore.add_command(formats_command)
ptcore.add_command(decode_command)
ptcore.add_command(gdb_command)
ptcore.add_command(tlb_command)
ptcore.add_command(presets_command)
ptcore.add_command(convert_command)
ptcore.add_command(validate)
ptcore.add_command(volatility_command)


@ptcore.command()
@click.argument("ledger", type=click.Path(exists=True))
@click.option(
    "--pa",
    type=NUMBER,
    help="A physical address of the page; default: one that was exposed longest.",
)
@says_errors
def explain(ledger: str, pa: int | None) -> None:
    """Tell one page's life in words, from a LEDGER (file or folder) that compare --ledgers saved."""
    with progress_bar("explaining") as move:
        lines = story(Ledger.load(ledger), pa, progress=move)
    click.echo("\n".join(lines))


@ptcore.command()
@JSON
def scenarios(json_: bool) -> None:
    """List the made-up workloads that `compare` takes by name."""
    if json_:
        show.as_json({s.name: s.sentence for s in SCENARIOS.values()})
    else:
        rows = [(s.name, s.sentence) for s in SCENARIOS.values()]
        show.table("Scenarios", ["scenario", "what it is"], rows)


@ptcore.command()
@JSON
def strategies(json_: bool) -> None:
    """List the strategies, and whose policy each is."""
    known = known_strategies.known()
    if json_:
        show.as_json({k.name: {"what": k.sentence, "provenance": k.provenance} for k in known})
    else:
        show.table(
            "Strategies",
            ["strategy", "provenance", "what it does"],
            [(k.name, k.provenance, k.sentence) for k in known],
        )

"""The verb that puts ptcore into gdb: `ptcore gdb`."""

from __future__ import annotations

import click

from ptcore.cli import show
from ptcore.cli.ends import says_errors
from ptcore.interop import gdb


@click.command("gdb")
@click.option(
    "--install",
    "folder",
    required=True,
    type=click.Path(file_okay=False),
    metavar="DIR",
    help="The folder to write the command file into; it is made if need be.",
)
@says_errors
def gdb_command(folder: str) -> None:
    """Give gdb, attached to QEMU, the commands `ptcore walk`, `maps` and `translate`, by a file in DIR.

    gdb's own Python needs neither ptcore nor NumPy: they run beside it.
    """
    path = gdb.install(folder)
    show.note(f"{path} is written; in gdb: source {path}")

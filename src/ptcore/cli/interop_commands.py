"""The verbs that put ptcore into other tools: `ptcore volatility` and `ptcore gdb`."""

from __future__ import annotations

import click

from ptcore.cli import show
from ptcore.cli.ends import says_errors
from ptcore.interop import gdb, volatility

INSTALL = click.option(
    "--install",
    "folder",
    required=True,
    type=click.Path(file_okay=False),
    metavar="DIR",
    help="The folder to write the file into; it is made if need be.",
)


@click.command("volatility")
@INSTALL
@says_errors
def volatility_command(folder: str) -> None:
    """Let volatility3 read page tables with ptcore, by a plugin of two lines in DIR.

    volatility3 itself is not edited: run `vol --plugin-dirs DIR ...` as ever.
    """
    path = volatility.install(folder)
    version = volatility.volatility_version()
    show.note(f"{path} is written; from now on: vol --plugin-dirs {path.parent} -f IMAGE ...")
    if version is None:
        show.note("No volatility3 is installed beside ptcore: pip install volatility3")
    else:
        show.note(f"volatility3 {version} is installed beside ptcore.")


@click.command("gdb")
@INSTALL
@says_errors
def gdb_command(folder: str) -> None:
    """Give gdb, attached to QEMU, the commands `ptcore walk`, `maps` and `translate`, by a file in DIR.

    gdb's own Python needs neither ptcore nor NumPy: they run beside it.
    """
    path = gdb.install(folder)
    show.note(f"{path} is written; in gdb: source {path}")

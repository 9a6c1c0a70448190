"""The verbs that put ptcore into other tools: `ptcore volatility`."""

from __future__ import annotations

import click

from ptcore.cli import show
from ptcore.cli.ends import says_errors
from ptcore.interop import volatility


@click.command("volatility")
@click.option(
    "--install",
    "folder",
    required=True,
    type=click.Path(file_okay=False),
    metavar="DIR",
    help="The folder to write the plugin into; it is made if need be.",
)
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

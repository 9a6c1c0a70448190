"""Floor 8: the `ptcore` command: arguments, one public call, print."""

from __future__ import annotations

import sys


def main() -> None:
    """Run the command line; say what to install when its packages are not there."""
    try:
        from ptcore.cli.group import ptcore, quiet_pipe

        quiet_pipe()  # of this process alone: whoever calls a verb in theirs keeps their signals
        ptcore()
    except ModuleNotFoundError as error:
        if error.name not in ("click", "rich"):
            raise
        sys.exit(f"the ptcore command needs the package {error.name!r}: pip install 'ptcore[cli]'")

"""ptcore in gdb: `ptcore walk`, `ptcore maps` and `ptcore translate` on a machine that gdb is attached to.

gdb's Python needs neither ptcore nor NumPy: `commands.py` runs in gdb, reads registers and memory through
gdb's own connection, and talks to a process that runs ptcore (`process.py`).
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

COMMANDS = Path(__file__).with_name("commands.py")
FILE = "ptcore-gdb.py"


def command_file(python: str | None = None) -> str:
    """Return the text of a file that gdb's `source` takes.

    `python`: the interpreter that ptcore is run with, by default this one.
    """
    return (
        "# Gives gdb the commands `ptcore walk`, `ptcore maps` and `ptcore translate`: source this file.\n"
        f"PTCORE_PYTHON = {python or sys.executable!r}\n"
        f"with open({str(COMMANDS)!r}) as file:\n"
        "    exec(compile(file.read(), file.name, 'exec'))\n"
    )


def install(folder: str | os.PathLike[str], python: str | None = None) -> Path:
    """Write the command file into `folder`, which is made if need be, and return its path.

    Raises OSError as writing does.
    """
    path = Path(folder) / FILE
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(command_file(python))
    return path.resolve()


__all__ = ["COMMANDS", "command_file", "install"]

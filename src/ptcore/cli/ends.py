"""How a command ends when something is wrong or it was interrupted: one line on standard error."""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import wraps
from typing import ParamSpec

import click

from ptcore.errors import PtcoreError

FOUND = 1
FAILED = 2
INTERRUPTED = 130  # 128 and SIGINT's number, as shells say it
P = ParamSpec("P")


def says_errors(command: Callable[P, None]) -> Callable[P, None]:
    """Turn what ptcore raises on purpose, and files that cannot be read, into one line and exit 2; Ctrl-C
    into one line and exit 130."""

    @wraps(command)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> None:
        try:
            command(*args, **kwargs)
        except KeyboardInterrupt:
            click.echo("ptcore: interrupted; no file was written half", err=True)
            sys.exit(INTERRUPTED)
        except OSError as error:
            where = "" if error.filename is None else f"{error.filename}: "
            click.echo(f"ptcore: {where}{error.strerror or error}", err=True)
            sys.exit(FAILED)
        except PtcoreError as error:
            click.echo(f"ptcore: {error}", err=True)
            sys.exit(FAILED)

    return wrapped

"""The verbs of the command line. Each calls one public function and shows what it returns."""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import wraps
from typing import ParamSpec

import click

from ptcore.errors import PtcoreError

FAILED = 2
P = ParamSpec("P")


def says_errors(command: Callable[P, None]) -> Callable[P, None]:
    """Turn what ptcore raises on purpose, and files that cannot be read, into one line and exit 2."""

    @wraps(command)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> None:
        try:
            command(*args, **kwargs)
        except (PtcoreError, OSError) as error:
            click.echo(f"ptcore: {error}", err=True)
            sys.exit(FAILED)

    return wrapped


def quiet_pipe() -> None:
    """End without a traceback when the reader of a pipe has gone."""
    import signal

    signal.signal(signal.SIGPIPE, signal.SIG_DFL)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="ptcore")
def ptcore() -> None:
    """Page tables that you can compute with."""
    quiet_pipe()

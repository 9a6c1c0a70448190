"""How a command ends when something is wrong or it was interrupted: one line on standard error."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from threading import current_thread, main_thread
from types import FrameType
from typing import ParamSpec

import click

from ptcore.errors import PtcoreError

FOUND = 1
FAILED = 2
INTERRUPTED = 130  # 128 and SIGINT's number, as shells say it
ENDINGS = ("SIGTERM", "SIGHUP")
P = ParamSpec("P")


@contextmanager
def ends_in_order() -> Iterator[None]:
    """Leave as by sys.exit where the process is told to end, so that what is temporary is taken away."""

    def leave(number: int, frame: FrameType | None) -> None:
        sys.exit(128 + number)

    known = [getattr(signal, name) for name in ENDINGS if hasattr(signal, name)]
    before = {}
    if current_thread() is main_thread():  # no other may
        asked = [n for n in known if signal.getsignal(n) == signal.SIG_DFL]  # nohup's stay ignored
        before = {number: signal.signal(number, leave) for number in asked}
    try:
        yield
    finally:
        for number, was in before.items():
            signal.signal(number, was)


def says_errors(command: Callable[P, None]) -> Callable[P, None]:
    """Turn what ptcore raises on purpose, and files that cannot be read, into one line and exit 2; Ctrl-C
    into one line and exit 130."""

    @wraps(command)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> None:
        try:
            with ends_in_order():
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

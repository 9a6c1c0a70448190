"""Progress of long work: a bar on standard error, and only on a terminal."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def progress_bar(title: str) -> Iterator[Callable[[str, int, int], None]]:
    """Yield a function of (what, done, total); the bar is on standard error, and only on a terminal."""
    if not sys.stderr.isatty():
        yield lambda what, done, total: None
        return
    from ptcore.cli.progress_columns import bar

    with bar() as shown:
        task = shown.add_task(title, total=None)

        def move(what: str, done: int, total: int) -> None:
            shown.update(task, description=f"{title}: {what}", completed=done, total=total)

        yield move

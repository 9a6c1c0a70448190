"""The columns of a progress bar; rich is imported with them, so only for a bar that is shown."""

from __future__ import annotations

from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeRemainingColumn,
)
from rich.text import Text

BESIDE = (
    67  # cells of all columns but the first: a bar of 20, millions of millions, rate, time left
)
LEAST = 16


class _What(ProgressColumn):
    """What is being done; in a narrow window its end, which tells most."""

    def render(self, task: Task) -> Text:
        """Return the description, as long as the others leave room for."""
        room = max(LEAST, Console(stderr=True).width - BESIDE)
        said = task.description
        return Text(said if len(said) <= room else "…" + said[1 - room :], no_wrap=True)


class _HowMuch(ProgressColumn):
    """How many are done of how many."""

    def render(self, task: Task) -> Text:
        """Return both, whole; nothing before there is a total."""
        known = task.total is not None
        return Text(f"{task.completed:,.0f}/{task.total:,.0f}" if known else "", no_wrap=True)


class _Rate(ProgressColumn):
    """How many are done a second."""

    def render(self, task: Task) -> Text:
        """Return the rate, or nothing before there is one."""
        speed = task.finished_speed or task.speed
        return Text(
            "" if speed is None else f"{speed:,.3g}/s" if speed < 100 else f"{speed:,.0f}/s",
            no_wrap=True,
        )


def bar() -> Progress:
    """Return the bar: what, how much of how much, how fast, how long still; on standard error."""
    return Progress(
        _What(),
        BarColumn(bar_width=20),
        _HowMuch(),
        _Rate(),
        TextColumn("left"),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        transient=True,
    )

"""What an IMAGE on the command line is: a file, or a machine that runs."""

from __future__ import annotations

from typing import Any

import click

from ptcore.memory import Image, open_image

# As ptcore.live.named takes it; importing that for every file would cost more than opening one.
MACHINE = "qemu:"


class ImagePlace(click.Path):
    """A file that exists, or the name of a machine: qemu:qmp=PLACE, qemu:gdb=PLACE, or both."""

    name = "image"

    def __init__(self) -> None:
        super().__init__(exists=True, dir_okay=False)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return a name of a machine as it is, a file's as click.Path does."""
        if isinstance(value, str) and value.startswith(MACHINE):
            return value
        return super().convert(value, param, ctx)


def opened(place: str, form: str | None) -> Image:
    """Return the memory of an IMAGE. A machine stands still until the command ends."""
    if not place.startswith(MACHINE):
        return open_image(place, form=form)
    if form is not None:
        raise click.UsageError("--form is of files; a machine says itself what it is")
    from ptcore.live import named

    context = click.get_current_context()
    machine = context.with_resource(named(place))
    return context.with_resource(machine.paused())

"""Images of machines' memory: one module per foreign form, told apart by content.

Each module of a form has `FORM`, its name; `matches(file)`, whether the content is of this form; and
`read(file)`, which returns the Image. The modules are found, not registered.
"""

from __future__ import annotations

import importlib
import os
import pkgutil
from difflib import get_close_matches
from functools import cache
from types import ModuleType

from ptcore.errors import ImageError
from ptcore.memory.images import raw
from ptcore.memory.images.image import Cpu, Image
from ptcore.memory.images.mapped_file import MappedFile


@cache
def _rooms() -> dict[str, ModuleType]:
    found = {}
    for module in pkgutil.iter_modules(__path__):
        room = importlib.import_module(f"{__name__}.{module.name}")
        if hasattr(room, "FORM"):
            found[room.FORM] = room
    return found


def forms() -> tuple[str, ...]:
    """Return the names of the forms that `open_image` reads."""
    return tuple(sorted(_rooms()))


def open_image(path: str | os.PathLike[str], *, form: str | None = None) -> Image:
    """Return the memory in a file, mapped read-only; what is not touched costs nothing.

    `form`: one of `forms()`, or None to tell by the content, "raw" if nothing else matches. Physical
    addresses that the file does not hold do not exist: a walk that gets there ends with BUS, a read
    raises OutOfRange. Raises OSError as open does; ImageError for a file that is truncated or damaged
    (it names the offset and the field), for an unknown form (it names the nearest), and for a form
    that needs a package which is not there (it says which). Cost: the headers of the file, never its
    memory; the address space of this process that the file's size asks for.
    """
    rooms = _rooms()
    if form is not None and form not in rooms:
        near = get_close_matches(form, rooms, n=3, cutoff=0.3) or sorted(rooms)
        raise ImageError(f"no form {form!r} is known; nearest: {', '.join(near)}")
    file = MappedFile(path)
    if form is None:
        form = next((name for name in rooms if rooms[name].matches(file)), raw.FORM)
    image: Image = rooms[form].read(file)
    return image if image.form else image.describe(form, file.path)


__all__ = ["Cpu", "Image", "forms", "open_image"]

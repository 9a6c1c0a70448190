"""Raw memory: byte n of the file is byte n of physical memory."""

from __future__ import annotations

from ptcore.memory.images.image import Extent, Image, mapped_image
from ptcore.memory.images.mapped_file import MappedFile

FORM = "raw"


def matches(file: MappedFile) -> bool:
    """Nothing tells a raw file by its content: it is what no other form claims."""
    return False


def read(file: MappedFile) -> Image:
    """Return the whole file from address 0 on."""
    return mapped_image(file, [Extent(0, file.size, 0)])

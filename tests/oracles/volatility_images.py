"""Images full of what volatility3's layers treat in their own way, and layers over them."""

from __future__ import annotations

import random
import struct
from pathlib import Path
from typing import Any

from volatility3.framework import contexts
from volatility3.framework.layers import intel, lime, physical

from ptcore.interop import volatility_layers as ours

PAGE = 4096
P, PS, PROT_NONE, PAT_LARGE = 1, 1 << 7, 1 << 8, 1 << 12
TRANSITION, PROTOTYPE, SWAP = 1 << 11, 1 << 10, 1 << 7
TABLES = 3  # of each level
FRAMES = 64  # of memory, tables included
FIRST_DATA = 24

NAMES = [
    *("Intel", "IntelPAE", "Intel32e", "Intel5Level"),
    *("LinuxIntel", "LinuxIntelPAE", "LinuxIntel32e", "LinuxIntel5Level"),
    *("WindowsIntel", "WindowsIntelPAE", "WindowsIntel32e", "WindowsIntel5Level"),
]
BY_VOLATILITY: dict[str, type] = {
    "Intel5Level": ours.FiveLevels,
    "LinuxIntel5Level": ours.LinuxFiveLevels,
    "WindowsIntel5Level": ours.WindowsFiveLevels,
}


def stock_class(name: str) -> type:
    """volatility3's own code; with five levels, its walk over one more row of `_structure`."""
    found: type = BY_VOLATILITY.get(name) or getattr(intel, name)
    return found


def swapped(kind: type) -> int:
    """The item of a page that Windows has in its page file, number 0."""
    wide = kind._entry_format == "<Q"  # type: ignore[attr-defined]
    return SWAP | 5 << 12 | (3 << 33 if wide else 0)


def item(rng: random.Random, kind: type, level: int, below: list[int]) -> int:
    """An item as some kernel, or an accident, may have left it; `below`: tables to point to."""
    layer: Any = kind
    structure = layer._structure
    large = structure[len(structure) - 1 - level][2]
    wide = layer._entry_format == "<Q"
    flags = rng.choice((0, 1 << 6, 0x66, 0x1E)) | (rng.choice((0, 1 << 63)) if wide else 0)
    frame = rng.choice((rng.randrange(FRAMES), rng.randrange(FRAMES), FRAMES + 3)) * PAGE
    draw = rng.random()
    if draw < 0.08:
        return rng.choice((0, PROTOTYPE | TRANSITION, 1 << 5, PS, swapped(kind)))
    absent = rng.choice((P, P, P, P, PROT_NONE, TRANSITION, TRANSITION | PROTOTYPE))
    if level and not (large and draw < 0.3):
        return rng.choice((*below, *below, *below, frame)) | absent | flags & ~PS
    if level:
        shift = 22 if not wide else 12 + 9 * level
        # Bits below the address of a large page, sometimes; and its PAT bit.
        odd = rng.choice((0, 0, 1 << 13, 5 << 14, PAT_LARGE, 3 << 12))
        return rng.randrange(2) << shift | odd | PS | absent | flags
    if absent == PROT_NONE and rng.random() < 0.7:
        return (~frame & (1 << layer._maxphyaddr) - 1 & ~0xFFF) | PROT_NONE | flags
    return frame | absent | flags


def table(rng: random.Random, kind: type, level: int, below: list[int]) -> bytes:
    layer: Any = kind
    count = PAGE // struct.calcsize(layer._entry_format)
    items = [0] * count
    draw = rng.random()
    if (
        draw < 0.15 and level < len(layer._structure) - 1
    ):  # a table of equal items, which volatility3 takes for none
        items = [item(rng, kind, level, below)] * count
    else:
        for _ in range(5 if level else 40):
            at = rng.randrange(count) if level < len(layer._structure) - 1 else rng.randrange(8)
            for index in range(at, min(at + rng.choice((1, 1, 3)), count)):
                items[index] = item(rng, kind, level, below)
        start = rng.randrange(count - 21)
        if not level:  # some neighbours that merge
            items[start : start + 20] = [(FIRST_DATA + n) * PAGE | 3 for n in range(20)]
            items[start + 20] = swapped(kind)  # what follows them is in swap
    return struct.pack(f"<{count}{layer._entry_format[1]}", *items)


def image(rng: random.Random, name: str) -> tuple[bytes, int]:
    """Memory of FRAMES pages and the root in it; PAE's may lie anywhere in a page."""
    kind: Any = stock_class(name)
    levels = len(kind._structure)
    memory = bytearray(rng.randbytes(FRAMES * PAGE))
    frames = [PAGE * (1 + TABLES * n) for n in range(levels)]
    for level in range(levels):
        below = [frames[level - 1] + PAGE * n for n in range(TABLES)] if level else []
        for n in range(TABLES):
            at = frames[level] + PAGE * n
            memory[at : at + PAGE] = table(rng, kind, level, below)
    root = frames[-1]
    if "PAE" in name and rng.random() < 0.5:
        root += 32 * rng.randrange(1, 40)
        items = [item(rng, kind, levels - 1, [frames[-2]]) | P for _ in range(4)]
        memory[root : root + 32] = struct.pack("<4Q", *items)
    return bytes(memory), root


def lime_image(memory: bytes, pieces: list[tuple[int, int]]) -> bytes:
    """The memory as LiME writes it: a 32-byte header before each piece of (first, end)."""
    found = b""
    for first, end in pieces:
        found += struct.pack("<IIQQQ", 0x4C694D45, 1, first, end - 1, 0) + memory[first:end]
    return found


def context_over(memory: bytes, path: Path | None, form: str) -> contexts.Context:
    """A context with a layer called "memory" over the bytes, of the form buffer, file or lime."""
    context = contexts.Context()
    if form == "buffer":
        context.add_layer(physical.BufferDataLayer(context, "memory", "memory", memory))
        return context
    assert path is not None
    context.config["file.location"] = path.as_uri()
    name = "memory" if form == "file" else "file"
    if form == "file":
        context.config["memory.location"] = path.as_uri()
    context.add_layer(physical.FileLayer(context, name, name))
    if form == "lime":
        context.config["memory.base_layer"] = "file"
        context.add_layer(lime.LimeLayer(context, "memory", "memory"))
    return context


def add_layer(context: contexts.Context, kind: type, name: str, root: int) -> Any:
    context.config[f"{name}.memory_layer"] = "memory"
    context.config[f"{name}.page_map_offset"] = root
    made = kind(context, name, name)
    context.add_layer(made)
    return made

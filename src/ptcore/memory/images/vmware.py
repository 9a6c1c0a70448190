"""VMware: the .vmem of a suspended machine or a snapshot, with the regions of its .vmss or .vmsn.

The .vmem has no header, so it is told by its name. The file beside it (.vmss, .vmsn) is read as volatility3
(layers/vmware.py) and rekall do: groups of tags; `regionPPN`, `regionPageNum` and `regionSize` of the group
`memory` place runs of pages, `CR64` or `CR` of the group `cpu` are the control registers. Without it the
layout is taken to be the plain one: up to 3 GiB the file is memory as it lies, and what is more begins at
4 GiB, behind the hole for devices.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path

from ptcore.formats import notes
from ptcore.memory.images.image import Cpu, Extent, Image, mapped_image
from ptcore.memory.images.mapped_file import MappedFile

FORM = "vmem"
SUFFIX = ".vmem"
BESIDE = (".vmss", ".vmsn")
PAGE_BYTES = 4096
HOLE, BEHIND_HOLE = 3 << 30, 4 << 30
# The first byte of the magic holds the version; the others are of these three kinds.
MAGICS = (b"\xd0\xbe\xd2\xbe", b"\xd1\xba\xd1\xba", b"\xd2\xbe\xd2\xbe", b"\xd3\xbe\xd3\xbe")
HEADER, GROUP = "<4sII", "<64sQQ"
LONG_VALUES = (62, 63)
Tags = dict[tuple[str, tuple[int, ...]], int]


def matches(file: MappedFile) -> bool:
    """Whether the file's name says so: there is no header."""
    return file.suffix == SUFFIX


def read(file: MappedFile) -> Image:
    """Return the regions that the file beside this one lists, or the plain layout."""
    for suffix in BESIDE:
        path = Path(file.path).with_suffix(suffix)
        if path.is_file():
            state = MappedFile(path)
            groups = groups_of(state)
            memory = tags_of(state, groups, "memory")
            extents = list(_regions(state, memory)) or list(_plain(file))
            cpus = _cpus(tags_of(state, groups, "cpu") if "cpu" in groups else {})
            details = {
                "regions": f"of {path.name}" if memory.get(("regionsCount", ())) else "plain"
            }
            return mapped_image(file, extents).describe(FORM, file.path, cpus, details)
    details = {"regions": "plain: no .vmss or .vmsn lies beside the file"}
    return mapped_image(file, _plain(file)).describe(FORM, file.path, (), details)


def _plain(file: MappedFile) -> Iterator[Extent]:
    yield Extent(0, min(file.size, HOLE), 0)
    if file.size > HOLE:
        yield Extent(BEHIND_HOLE, file.size - HOLE, HOLE)


def groups_of(state: MappedFile) -> dict[str, int]:
    """Return the offset of each group's tags. ImageError names what is wrong."""
    magic, _, count = struct.unpack(HEADER, state.part(0, struct.calcsize(HEADER), "header"))
    if magic not in MAGICS:
        raise state.wrong(0, "magic", f"{magic!r} is none of VMware's")
    size = struct.calcsize(GROUP)
    table = state.part(struct.calcsize(HEADER), count * size, f"groups (count {count})")
    found = {}
    for n in range(count):
        name, at, _ = struct.unpack_from(GROUP, table, n * size)
        found[name.split(b"\0")[0].decode("latin-1")] = at
    if "memory" not in found:
        raise state.wrong(8, "groups", "none of them is named memory")
    return found


def tags_of(state: MappedFile, groups: dict[str, int], group: str) -> Tags:
    """Return the numbers of a group, by (name, indices); longer values are passed over."""
    at = groups[group]
    wide = state.number("<B", 0, "magic") & 15 != 0
    found: Tags = {}
    while True:
        flags, name_bytes = state.values("<BB", at, f"tag of group {group}")
        if not flags and not name_bytes:
            return found
        name = bytes(state.part(at + 2, name_bytes, "name of a tag")).decode("latin-1")
        count, size = flags >> 6, flags & 63
        at += 2 + name_bytes
        indices = state.values(f"<{count}I", at, f"indices of {name}")
        at += 4 * count
        if size in LONG_VALUES:
            length = state.number("<Q" if wide else "<I", at, f"size of {name}")
            width = 8 if wide else 4
            # The size on disk, the size in memory, and 2 bytes that say how much padding follows.
            padding = state.number("<H", at + 2 * width, f"padding of {name}")
            at += 2 * width + 2 + padding + length
            continue
        text = state.part(at, size, f"value of {name}")
        found[name, indices] = int.from_bytes(text, "little")
        at += size


def _regions(state: MappedFile, memory: Tags) -> Iterator[Extent]:
    for n in range(memory.get(("regionsCount", ()), 0)):
        names = [("regionPPN", (n,)), ("regionPageNum", (n,)), ("regionSize", (n,))]
        if not all(name in memory for name in names):
            raise state.wrong(0, f"region {n} of group memory", "one of its tags is missing")
        page, place, pages = (memory[name] for name in names)
        yield Extent(page * PAGE_BYTES, pages * PAGE_BYTES, place * PAGE_BYTES)


def _cpus(tags: Tags) -> Iterator[Cpu]:
    numbers = sorted({i[0] for name, i in tags if name in ("CR", "CR64") and len(i) == 2})
    for number in numbers:
        registers = {}
        for n in range(5):
            found = tags.get(("CR64", (number, n)), tags.get(("CR", (number, n))))
            if found is not None:
                registers[f"cr{n}"] = found
        yield Cpu(*notes.of_controls(registers))

"""What can go wrong, as values and as exceptions.

A batch reports a `Status` per item; a single translation raises the one exception class that
belongs to that status. `fault_class` is total over the failing statuses.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Any


class Status(IntEnum):
    """How the translation of one address ended. The values are those of status arrays (uint8)."""

    OK = 0
    NOT_PRESENT = 1
    """An item on the path is empty."""
    RESERVED_BITS = 2
    """An item has a bit set that the format reserves, or is neither table nor leaf."""
    PERMISSION = 3
    """The leaf was reached, but the rights along the path do not allow the access."""
    PROTECTION_KEY = 4
    """The page's protection key forbids the access."""
    NOT_CANONICAL = 5
    """The address lies outside the format's legal addresses; nothing was read."""
    ACCESS_FLAG = 6
    """The leaf's access flag is clear and the format leaves setting it to software."""
    ADDRESS_SIZE = 7
    """An item points beyond the output address size."""
    MISCONFIGURED = 8
    """The item's combination of bits is one that the hardware reports as a misconfiguration."""
    BUS = 9
    """A table lies outside the memory (not the same as absent: the item does point somewhere)."""


class PtcoreError(Exception):
    """Whatever ptcore raises on purpose is one of these."""


class FormatError(PtcoreError, ValueError):
    """A format's declaration contradicts itself, or a request cannot be said in the format.

    The message names the level and the bits. Unknown format names list the nearest known ones.
    """


class AddressError(PtcoreError, ValueError):
    """An address or a size cannot be what was asked for: the caller's mistake, not a table's."""


class Misaligned(AddressError):
    """An address or a length is no multiple of the page size in use. Align it, or pick a page size."""


class OutOfRange(AddressError):
    """An address or a length goes beyond what the format or the memory can hold."""


class Fault(PtcoreError, LookupError):
    """A translation ended without an address.

    Attributes: `status`; `va` (the address asked for); `stage` (1 or 2); `level` (0 = the level
    whose items can only be leaves; None if nothing was read) and `level_name` (the vendor's);
    `entry` and `entry_address` (the item that ended the walk; None if nothing was read); `path`
    (the items read, root first); `ipa`, the intermediate address of a fault of stage 2; `code`, the
    error code that a CPU would push with the fault, where the format has one.
    """

    status: Status

    def __init__(
        self,
        message: str,
        *,
        va: int = 0,
        stage: int = 1,
        level: int | None = None,
        level_name: str | None = None,
        entry: int | None = None,
        entry_address: int | None = None,
        path: tuple[Any, ...] = (),
        code: int | None = None,
        ipa: int | None = None,
    ) -> None:
        super().__init__(message)
        self.code = code
        self.ipa = ipa
        self.va = va
        self.stage = stage
        self.level = level
        self.level_name = level_name
        self.entry = entry
        self.entry_address = entry_address
        self.path = path


class NotPresent(Fault):
    """The walk met an empty item: nothing is mapped there. Map it, or check the root."""

    status = Status.NOT_PRESENT


class ReservedBits(Fault):
    """The walk met an item with reserved bits set. Check the physical width and the format."""

    status = Status.RESERVED_BITS


class PermissionDenied(Fault):
    """The page is mapped, but not for this kind of access. `walk` shows which level withholds it."""

    status = Status.PERMISSION


class ProtectionKeyDenied(Fault):
    """The page is mapped and its rights allow the access, but its protection key does not."""

    status = Status.PROTECTION_KEY


class NotCanonical(Fault, AddressError):
    """The address is not one that the format translates (bits above the top level are wrong)."""

    status = Status.NOT_CANONICAL


class AccessFlag(Fault):
    """The leaf's access flag is clear and software must set it first."""

    status = Status.ACCESS_FLAG


class AddressSize(Fault):
    """An item points beyond the output address size in force."""

    status = Status.ADDRESS_SIZE


class Misconfigured(Fault):
    """An item holds a combination of bits that the hardware reports as a misconfiguration."""

    status = Status.MISCONFIGURED


class BusError(Fault):
    """A table of the walk lies outside the memory. The image is truncated, or the root is wrong."""

    status = Status.BUS


_FAULTS: dict[Status, type[Fault]] = {
    cls.status: cls
    for cls in (
        NotPresent,
        ReservedBits,
        PermissionDenied,
        ProtectionKeyDenied,
        NotCanonical,
        AccessFlag,
        AddressSize,
        Misconfigured,
        BusError,
    )
}


def fault_class(status: Status) -> type[Fault]:
    """Return the exception class of a failing status. Raises KeyError for Status.OK."""
    return _FAULTS[status]


class MapError(PtcoreError):
    """An edit of a table, or of an address space, is not possible as asked; nothing was changed."""


class AlreadyMapped(MapError):
    """Something is mapped there already. `existing` is the first leaf in the way (va, pa, size)."""

    def __init__(self, message: str, existing: tuple[int, int, int] | None = None) -> None:
        super().__init__(message)
        self.existing = existing


class NotMapped(MapError):
    """Nothing is mapped at `va`. Pass missing_ok=True where holes are expected."""

    def __init__(self, message: str, va: int | None = None) -> None:
        super().__init__(message)
        self.va = va


class InsideLargerLeaf(MapError):
    """The span covers only a part of a larger leaf. `split` it first. `leaf` is (va, pa, size)."""

    def __init__(self, message: str, leaf: tuple[int, int, int] | None = None) -> None:
        super().__init__(message)
        self.leaf = leaf


class NotUniform(MapError):
    """The small leaves there do not make one large leaf: holes, other addresses or other rights."""


class MalformedTable(MapError):
    """An edit met an item that is reserved, or a table outside the memory; edits trust no such item."""


class NoFrame(MapError):
    """The frame allocator has no frame left for a table or a page."""


class NoAddressSpace(MapError):
    """An address allocator has no free span that fits."""


class NotAllocated(MapError):
    """Something was given back that is not allocated: freed twice, or never handed out."""


class InvalidationOwed(PtcoreError):
    """Something was freed while a cache may still hold its translation."""


class ImageError(PtcoreError):
    """A memory image is truncated or damaged. The message names the offset and the field."""


class TraceError(PtcoreError):
    """A trace cannot be read. `line` is the 1-based number of the line at fault, if there is one;
    `offset` that of the record's first byte (of a compressed trace: after decompression)."""

    def __init__(self, message: str, line: int | None = None, offset: int | None = None) -> None:
        place = f"line {line}: " if line is not None else ""
        place += f"offset {offset}: " if offset is not None else ""
        super().__init__(place + message)
        self.line = line
        self.offset = offset

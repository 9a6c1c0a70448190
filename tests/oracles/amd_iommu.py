"""A naive reading of AMD's I/O page tables for host translations, one rule of the manual at a time.

This is a judge, not an implementation: slow, dumb, written from the rules of the manual, and it
imports nothing of the library that it judges. The manual is the AMD I/O Virtualization Technology
(IOMMU) Specification, 48882. Its parts are cited by title, and told in other words:

HOST   "I/O Page Tables for Host Translations", with the figures "I/O Page Translation Entry
       (PTE)", "I/O Page Directory Entry (PDE)" and the table "Page Table Level Parameters"
SIZE   the table "Example Page Size Encodings" of the same section
DTE    "Device Table Entry Format"
FAULT  "IO_PAGE_FAULT Event"

Linux calls these tables v1. The machine logs one IO_PAGE_FAULT for every refusal (for a table
outside memory PAGE_TAB_HARDWARE_ERROR). The outcomes here say which it was, `Result.rule` more:

not_canonical  the address has bits above those that the starting level translates
bus            the entry lies outside memory
not_present    PR=0 (rule None), or the address has bits set that the walk skips (RULE_SKIPPED)
reserved_bits  a reserved bit of a present entry
misconfigured  an illegal next level, or a page size that the level cannot hold
ok             a translation, whose rights `allowed` judges

Entries are named by the level of their table: "L1" maps 4 KiB by default.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

Read = Callable[[int, int], "int | None"]

OUTCOMES = ("ok", "not_present", "reserved_bits", "misconfigured", "not_canonical", "bus")

# HOST, "Page Table Level Parameters": the bits of the address that index the table of a level. The
# last bit is also the logarithm of the level's default page size.
INDEX_BITS = {6: (63, 57), 5: (56, 48), 4: (47, 39), 3: (38, 30), 2: (29, 21), 1: (20, 12)}

# HOST, the figures of PTE and PDE: bit positions.
PR = 0
A, D = 5, 6
NEXT_HIGH, NEXT_LOW = 11, 9
U, FC, IR, IW = 59, 60, 61, 62

NEXT_DEFAULT_SIZE = 0
NEXT_ENCODED_SIZE = 7

RULE_PTE_BITS = "bits 58:52 of a PTE"
RULE_PDE_BITS = "bits 60:52 of a PDE"
RULE_NEXT_LEVEL = "next level is not below the level"
RULE_LEVEL_6 = "level 6 maps no page"
RULE_SIZE = "page size outside the level's range"
RULE_SKIPPED = "address bits of skipped levels"


@dataclass(frozen=True)
class Rights:
    """What the device table entry and all entries of one translation together permit."""

    read: bool
    write: bool


@dataclass(frozen=True)
class Result:
    """What one walk found. What describes a translation is there with "ok" only.

    `page_size` is the default size of the level, which one entry stands for; `entry_size` is the
    size of the page, which several equal entries repeat if it is larger.
    """

    outcome: str
    path: tuple[tuple[str, int, int], ...]
    rule: str | None = None
    bus_address: int | None = None
    pa: int | None = None
    page_size: int | None = None
    entry_size: int | None = None
    rights: Rights | None = None
    force_coherent: bool | None = None
    untranslated: bool | None = None
    accessed: bool | None = None
    dirty: bool | None = None


@dataclass(frozen=True)
class Config:
    """The device table entry: its Mode field, which is the starting level, and its IR and IW."""

    levels: int = 4
    ir: bool = True
    iw: bool = True


def bits(value: int, high: int, low: int) -> int:
    """Return bits high:low of value, in the manual's notation, shifted down to bit 0."""
    return (value >> low) % (1 << (high - low + 1))


def bit(value: int, position: int) -> int:
    """Return one bit of value."""
    return bits(value, position, position)


def next_level(entry: int) -> int:
    """Return the Next Level field."""
    return bits(entry, NEXT_HIGH, NEXT_LOW)


def is_pte(entry: int) -> bool:
    """Say whether a present entry maps a page (else: it is a PDE)."""
    # HOST: the Next Level field of a PTE is 000b (the page has the level's default size) or 111b
    # (the size is encoded in the address); that of a PDE is the level of the next table.
    return next_level(entry) in (NEXT_DEFAULT_SIZE, NEXT_ENCODED_SIZE)


def encoded_size(entry: int) -> int:
    """Return the size of the page of an entry whose Next Level field is 7."""
    # SIZE: the lowest bit of the address field, from bit 12 upward, that is 0 says the size: bit 12
    # is 0 for 8 KiB, bits 13:12 are 01b for 16 KiB, and so on. All bits below it are 1. Address
    # bits 63:52 are zero-extended.
    address = bits(entry, 51, 12) << 12
    position = 12
    while bit(address, position) == 1:
        position += 1
    return 1 << (position + 1)


def broken_rule(level: int, entry: int) -> tuple[str, str] | None:
    """Return (outcome, rule) for the first rule that a present entry breaks, or None."""
    if is_pte(entry):
        # HOST, figure of the PTE: bits 58:52 are reserved; 4:1, 8:7 and 63 are ignored.
        if bits(entry, 58, 52) != 0:
            return "reserved_bits", RULE_PTE_BITS
        # HOST, "Page Table Level Parameters": level 6 has no default page size; its entries
        # reference tables only.
        if level == 6:
            return "misconfigured", RULE_LEVEL_6
        if next_level(entry) == NEXT_ENCODED_SIZE:
            # HOST: an encoded size is larger than the default size of its level and smaller than
            # the default size of the level above.
            size = encoded_size(entry)
            smallest, largest = 1 << INDEX_BITS[level][1], 1 << INDEX_BITS[level + 1][1]
            if not smallest < size < largest:
                return "misconfigured", RULE_SIZE
        return None
    # HOST, figure of the PDE: bits 60:52 are reserved; 4:1, 8:6 and 63 are ignored.
    if bits(entry, 60, 52) != 0:
        return "reserved_bits", RULE_PDE_BITS
    # HOST: the Next Level field of a PDE is less than the level of the table that the PDE is in.
    if next_level(entry) >= level:
        return "misconfigured", RULE_NEXT_LEVEL
    return None


def skips_set_bits(level: int, entry: int, iova: int) -> bool:
    """Say whether a PDE skips levels for whose bits the address is not zero."""
    # HOST: a PDE may skip levels; the bits of the address that index the skipped tables must all
    # be zero, else the IOMMU reports an IO_PAGE_FAULT.
    return any(
        bits(iova, *INDEX_BITS[skipped]) != 0 for skipped in range(next_level(entry) + 1, level)
    )


def leaf_result(level: int, path: list[tuple[str, int, int]], iova: int, config: Config) -> Result:
    """Describe the translation whose last entry is a PTE of a level."""
    leaf = path[-1][2]
    page_size = 1 << INDEX_BITS[level][1]
    entry_size = encoded_size(leaf) if next_level(leaf) == NEXT_ENCODED_SIZE else page_size
    entries = [entry for _, _, entry in path]
    # HOST: the address bits above the page size are from the PTE, those below from the address
    # that is translated.
    base = (bits(leaf, 51, 12) << 12) // entry_size * entry_size
    return Result(
        outcome="ok",
        path=tuple(path),
        pa=base + iova % entry_size,
        page_size=page_size,
        entry_size=entry_size,
        # HOST and DTE: IR and IW of all entries and of the device table entry are ANDed.
        rights=Rights(
            read=bool(config.ir) and all(bit(entry, IR) == 1 for entry in entries),
            write=bool(config.iw) and all(bit(entry, IW) == 1 for entry in entries),
        ),
        # HOST: FC, the page is accessed coherently whatever the request says. U, what an ATS
        # translation response says in its untranslated-access-only bit. Both are bits of the PTE.
        force_coherent=bit(leaf, FC) == 1,
        untranslated=bit(leaf, U) == 1,
        # HOST, "Host Access Support" and "Host Dirty Support": ignored where not supported.
        accessed=bit(leaf, A) == 1,
        dirty=bit(leaf, D) == 1,
    )


def walk(read: Read, root: int, iova: int, **config: int) -> Result:
    """Translate one address of a device. `root` is the page table root pointer of the DTE."""
    have = Config(**config)  # type: ignore[arg-type]
    # HOST: a starting level below 6 translates bits up to the highest that index its table; bits of
    # the address above are treated like those of skipped levels: they must be zero.
    if iova >> (INDEX_BITS[have.levels][0] + 1) != 0:
        return Result("not_canonical", ())
    path: list[tuple[str, int, int]] = []
    source, level = root, have.levels
    while True:
        # HOST: a table has 512 entries of 8 bytes and begins at the address in bits 51:12. The
        # table of level 6 is indexed by 7 bits only.
        address = (bits(source, 51, 12) << 12) + (bits(iova, *INDEX_BITS[level]) << 3)
        entry = read(address, 8)
        if entry is None:
            return Result("bus", tuple(path), bus_address=address)
        path.append((f"L{level}", address, entry))
        # HOST, figure "I/O Page Table Entry Not Present": PR=0, the other bits are ignored.
        if bit(entry, PR) == 0:
            return Result("not_present", tuple(path))
        broken = broken_rule(level, entry)
        if broken is not None:
            return Result(broken[0], tuple(path), broken[1])
        if is_pte(entry):
            return leaf_result(level, path, iova, have)
        if skips_set_bits(level, entry, iova):
            return Result("not_present", tuple(path), RULE_SKIPPED)
        source, level = entry, next_level(entry)


def allowed(result: Result, access: str, user: bool = False) -> bool:
    """Say whether the rights of a translation allow an access: "r", "w" or "x".

    Host tables know neither users nor fetches: a fetch is a read.
    """
    del user
    assert result.outcome == "ok"
    assert result.rights is not None
    return {"r": result.rights.read, "w": result.rights.write, "x": result.rights.read}[access]

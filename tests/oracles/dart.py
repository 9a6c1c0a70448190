"""A naive reading of the page tables of Apple's DART, one line of its drivers at a time.

This is a judge, not an implementation: slow, dumb, and it imports nothing of the library that it
judges. Apple has published no manual. What is known stands in drivers, which are cited by the names
of their parts:

PGT    Linux, drivers/iommu/io-pgtable-dart.c: the formats APPLE_DART ("v1", 36-bit output) and
       APPLE_DART2 ("v2", 42-bit output), each with pages of 4 or 16 KiB
M1N1   m1n1, proxyclient/m1n1/hw: dart8020.py (classes PTE_T8020, R_ERROR), dart8110.py (PTE)
BSD    NetBSD, arch/arm/apple/apple_dart.c: the unit of the subpage fields

The machine's error register says why it refuses (M1N1, R_ERROR). The outcomes here:

not_canonical  the address is wider than the tables translate
bus            the entry lies outside memory (PTE_READ_FAULT)
not_present    no TTBR for the address (NO_TTBR), or an entry without the valid bit (NO_PMD, NO_PTE)
ok             a translation, whose rights and subpage `allowed` judges (READ_FAULT, WRITE_FAULT,
               SUBPAGE_PROT)

No bit is known to be reserved. The last table is "L2", as in the drivers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

Read = Callable[[int, int], "int | None"]

OUTCOMES = ("ok", "not_present", "not_canonical", "bus")

KIB = 1024
ENTRY_SIZE = 8

# PGT: APPLE_DART_PTE_VALID; APPLE_DART_PTE_SUBPAGE_START is bits 63:52, ..._END bits 51:40.
VALID = 0
START_HIGH, START_LOW = 63, 52
END_HIGH, END_LOW = 51, 40
SUBPAGES = 4096

# PGT: APPLE_DART1_PTE_PROT_NO_READ, _NO_WRITE, _SP_DIS; APPLE_DART2_PTE_PROT_NO_READ, _NO_WRITE,
# _NO_CACHE.
NO_READ = {1: 8, 2: 3}
NO_WRITE = {1: 7, 2: 2}
SP_DIS = 1
NO_CACHE = 1

# PGT, DART_MAX_TABLES: up to 4 tables at the top, each with its TTBR.
MAX_TTBRS = 4


@dataclass(frozen=True)
class Rights:
    """What the entry of the page permits, before its subpage fields are asked."""

    read: bool
    write: bool


@dataclass(frozen=True)
class Result:
    """What one walk found. What describes a translation is there with "ok" only.

    `subpage` is the first and the last byte of the page that may be accessed; `in_subpage` says
    whether the address that was translated lies between them.
    """

    outcome: str
    path: tuple[tuple[str, int, int], ...]
    bus_address: int | None = None
    pa: int | None = None
    page_size: int | None = None
    rights: Rights | None = None
    subpage: tuple[int, int] | None = None
    in_subpage: bool | None = None
    cacheable: bool | None = None


@dataclass(frozen=True)
class Config:
    """The format, the size of the pages and of the tables, and the tables below the TTBR."""

    version: int = 1
    page_size: int = 16 * KIB
    levels: int = 2


def bits(value: int, high: int, low: int) -> int:
    """Return bits high:low of value, shifted down to bit 0."""
    return (value >> low) % (1 << (high - low + 1))


def bit(value: int, position: int) -> int:
    """Return one bit of value."""
    return bits(value, position, position)


def log2(value: int) -> int:
    """Return the logarithm of a power of two."""
    assert value > 0
    assert value & (value - 1) == 0
    return value.bit_length() - 1


def output_address(entry: int, config: Config) -> int:
    """Return the address of the page or the table that an entry names."""
    # PGT, iopte_to_paddr: APPLE_DART1_PADDR_MASK is bits 35:12, where the address has them.
    # APPLE_DART2_PADDR_MASK is bits 37:10, then shifted left by APPLE_DART2_PADDR_SHIFT, 4: bits
    # 41:14 of the address.
    fields = {1: bits(entry, 35, 12) << 12, 2: bits(entry, 37, 10) << 14}
    address = fields[config.version]
    # M1N1: PTE_T8020's OFFSET begins at bit 14 where pages have 16 KiB. Pages and tables lie at
    # multiples of their size.
    return address // config.page_size * config.page_size


def subpage_of(entry: int, config: Config) -> tuple[int, int]:
    """Return the first and the last byte of the page that may be accessed."""
    # PGT: with APPLE_DART1_PTE_PROT_SP_DIS there is no subpage protection. Format 2 has another
    # meaning for this bit.
    if config.version == 1 and bit(entry, SP_DIS) == 1:
        return 0, config.page_size - 1
    # PGT, dart_init_pte: "subpage protection: always allow access to the entire page" is start 0
    # and end 0xfff, so the end is the last unit that is allowed, and 4096 units are a page. BSD:
    # a unit of a 16-KiB page is bits 13:2 of the offset, 4 bytes.
    unit = config.page_size // SUBPAGES
    first = bits(entry, START_HIGH, START_LOW) * unit
    last = bits(entry, END_HIGH, END_LOW) * unit + unit - 1
    return first, last


def leaf_result(path: list[tuple[str, int, int]], iova: int, config: Config) -> Result:
    """Describe the translation whose last entry maps a page."""
    leaf = path[-1][2]
    offset = iova % config.page_size
    first, last = subpage_of(leaf, config)
    return Result(
        outcome="ok",
        path=tuple(path),
        pa=output_address(leaf, config) + offset,
        page_size=config.page_size,
        # PGT, dart_prot_to_pte: a set bit denies. dart_install_table writes an address and the
        # valid bit only: the entries of tables deny nothing.
        rights=Rights(
            read=bit(leaf, NO_READ[config.version]) == 0,
            write=bit(leaf, NO_WRITE[config.version]) == 0,
        ),
        subpage=(first, last),
        in_subpage=first <= offset <= last,
        # PGT, dart_prot_to_pte: without IOMMU_CACHE, NO_CACHE is set; format 2 only.
        cacheable=None if config.version == 1 else bit(leaf, NO_CACHE) == 0,
    )


def walk(read: Read, root: int | Sequence[int | None], iova: int, **config: int) -> Result:
    """Translate one address of a device.

    `root` is the address in the TTBR, or the addresses in up to 4 of them, None if not valid.
    """
    have = Config(**config)
    ttbrs = [root] if isinstance(root, int) else list(root)
    assert 1 <= len(ttbrs) <= MAX_TTBRS
    # PGT, dart_alloc_pgtable: bits_per_level is the logarithm of the entries of a table, which is
    # as large as a page.
    page_bits = log2(have.page_size)
    index_bits = log2(have.page_size // ENTRY_SIZE)
    # PGT, dart_get_last: the bits above those of all tables number the TTBR; "if (tbl >= (1 <<
    # data->tbl_bits)) return NULL".
    table = iova >> (page_bits + index_bits * have.levels)
    if table >= len(ttbrs):
        return Result("not_canonical", ())
    source = ttbrs[table]
    if source is None:
        return Result("not_present", ())
    path: list[tuple[str, int, int]] = []
    for below in reversed(range(have.levels)):
        # PGT, dart_get_index: each table takes bits_per_level bits, the last those just above the
        # offset in the page.
        low = page_bits + index_bits * below
        address = source + bits(iova, low + index_bits - 1, low) * ENTRY_SIZE
        entry = read(address, ENTRY_SIZE)
        if entry is None:
            return Result("bus", tuple(path), bus_address=address)
        path.append((f"L{2 - below}", address, entry))
        # PGT: APPLE_DART_PTE_VALID "marks PTE as valid".
        if bit(entry, VALID) == 0:
            return Result("not_present", tuple(path))
        source = output_address(entry, have)
    return leaf_result(path, iova, have)


def allowed(result: Result, access: str, user: bool = False) -> bool:
    """Say whether the entry of a translation allows an access: "r", "w" or "x".

    DART knows neither users nor fetches: a fetch is a read.
    """
    del user
    assert result.outcome == "ok"
    assert result.rights is not None
    permitted = result.rights.write if access == "w" else result.rights.read
    return permitted and result.in_subpage is True

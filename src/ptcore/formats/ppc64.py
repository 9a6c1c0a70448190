"""64-bit Power, radix tables: big-endian items, with pages of 4K or 64K at the lowest level.

Power ISA version 3.0, Book III, chapter "Storage Control", "Radix Tree Translation": "Page Directory
Entry", "Page Table Entry", "Encoded Access Authority". The geometry, whose sizes each directory item
repeats in NLS, is that of Linux (arch/powerpc/include/asm/book3s/64/radix-4k.h and radix-64k.h): 52 bits;
an item with another NLS is reserved here. Levels have Linux's names.

An effective address has its quadrant in bits 63:62, which choose the table: give `PageTable` tag_bits=2.
"""

from __future__ import annotations

from ptcore.formats.schema import (
    AddressRule,
    Bits,
    Citation,
    Format,
    Level,
    Lookup,
    Match,
    Role,
    Word,
    require,
)

MANUAL = "Power ISA version 3.0, Book III"
CITATIONS = (
    Citation(MANUAL, "Radix Tree Translation"),
    Citation(MANUAL, "Encoded Access Authority"),
    Citation("Linux arch/powerpc/include/asm/book3s/64/radix-64k.h", "RADIX_PGD_INDEX_SIZE"),
)
# Index bits of each level, from the lowest upwards: RADIX_PTE_INDEX_SIZE to RADIX_PGD_INDEX_SIZE.
GEOMETRY = {"4K": (12, (9, 9, 9, 13)), "64K": (16, (5, 9, 9, 13))}
NAMES = ("PTE", "PMD", "PUD", "PGD")
# "Storage Attributes": ATT
MEMORY_TYPES = ("normal", "SAO", "non-idempotent", "tolerant")
# A page that can be stored to can be loaded from as well.
ACCESS = Lookup(("Read", "Read/Write"), "rw", ("", "rw", "r", "rw"))


def _table(next_bits: int) -> Word:
    return (
        Bits(63, 63, "V", Role.KIND),
        Bits(62, 62, "L", Role.KIND, value=0),
        Bits(61, 60, "reserved", Role.IGNORED),
        Bits(59, 8, "NLB", Role.OUTPUT),
        Bits(7, 5, "reserved", Role.IGNORED),
        Bits(4, 0, "NLS", Role.KIND, value=next_bits),
    )


def _leaf(shift: int) -> Word:
    below = (Bits(shift - 1, 12, "ignored", Role.IGNORED),) if shift > 12 else ()
    return (
        Bits(63, 63, "V", Role.KIND),
        Bits(62, 62, "L", Role.KIND),
        Bits(61, 61, "software", Role.SOFTWARE, to=3),
        Bits(60, 57, "reserved", Role.IGNORED),
        Bits(56, shift, "RPN", Role.OUTPUT),
        *below,
        Bits(11, 9, "software", Role.SOFTWARE, to=0),
        Bits(8, 8, "R", Role.ACCESSED),
        Bits(7, 7, "C", Role.DIRTY),
        Bits(6, 6, "reserved", Role.IGNORED),
        Bits(5, 4, "ATT", Role.MEMORY_TYPE),
        Bits(3, 3, "privilege", Role.USER, value=0),
        Bits(2, 2, "Read", Role.RIGHTS),
        Bits(1, 1, "Read/Write", Role.RIGHTS),
        Bits(0, 0, "Execute", Role.EXECUTE),
    )


def ppc64_radix(*, granule: str = "64K") -> Format:
    """Return Linux's four levels over 52 bits; pages of the `granule` (4K, 64K), 2M, 1G and 512G."""
    require(granule in GEOMETRY, f"the granule is 4K or 64K, not {granule!r}")
    page, bits = GEOMETRY[granule]
    shifts = tuple(page + sum(bits[:n]) for n in range(len(bits)))
    return Format(
        name="ppc64_radix",
        title=f"64-bit Power radix, {granule}",
        citations=CITATIONS,
        levels=tuple(
            Level(
                NAMES[n],
                shift=shifts[n],
                bits=bits[n],
                table=_table(bits[n - 1]) if n else None,
                leaf=_leaf(shifts[n]),
            )
            for n in range(len(bits))
        ),
        empty=Match(1 << 63, 0),
        input_bits=52,
        address_rule=AddressRule.ZERO_EXTENDED,
        physical_bits=60,  # what NLB holds; RPN holds 57
        byte_order="big",
        memory_types=MEMORY_TYPES,
        # Linux arch/powerpc/include/asm/book3s/64/pgtable.h, pgprot_noncached(): _PAGE_NON_IDEMPOTENT
        device_memory="non-idempotent",
        parameters={"granule": granule},
        lookups=(ACCESS,),
    )


FORMATS = (ppc64_radix,)
TEST_CONFIGURATIONS: tuple[tuple[str, dict[str, object]], ...] = (
    ("ppc64_radix", {}),
    ("ppc64_radix", {"granule": "4K"}),
)

"""AMD IOMMU version 1 page tables, 1 to 6 levels. (Its version 2 tables are those of x86-64.)

AMD I/O Virtualization Technology (IOMMU) Specification (publication 48882), "I/O Page Tables for Host
Translations": "I/O Page Translation Entry (PTE), PR=1", "I/O Page Directory Entry (PDE), PR=1", "Page Size
Encodings" and "Level skipping".

The manual numbers levels from 1, here they start at 0. A table item says in NextLevel where it points: to
the next level, or further down (the skipped address bits must then be 0). A leaf has NextLevel 0, or 7:
then the lowest 0 among the address bits tells its size, any power of two, and it stands in as many equal
items as it is long. Read and write are limited by every level.
"""

from __future__ import annotations

from ptcore.formats.schema import (
    AddressRule,
    Bits,
    Citation,
    Denial,
    Format,
    Level,
    Match,
    Role,
    Shape,
    Word,
    require,
)

CITATIONS = (
    Citation("AMD IOMMU Specification (48882)", "I/O Page Tables for Host Translations"),
    Citation("AMD IOMMU Specification (48882)", "Page Size Encodings"),
)
# The number of a page's memory type: bit 0 is FC (force coherent), bit 1 is U (untranslated attribute).
MEMORY_TYPES = ("default", "FC", "U", "U+FC")
NAMES = ("level 1", "level 2", "level 3", "level 4", "level 5", "level 6")
SIZED = 7  # NextLevel of a leaf whose address bits tell its size
HIGHEST_LEAF = 4  # "Page Table Level Parameters": level 6 has no pages
ADDRESS_BITS = 52
_LEAF_ONLY = (
    Bits(60, 60, "FC", Role.MEMORY_TYPE, to=0),
    Bits(59, 59, "U", Role.MEMORY_TYPE, to=1),
)


def _ends(next_level: int, address: Word) -> Word:
    leaf = next_level in (0, SIZED)
    return (
        Bits(63, 63, "ignored", Role.IGNORED),
        Bits(62, 62, "IW", Role.WRITE),
        Bits(61, 61, "IR", Role.READ),
        *(_LEAF_ONLY if leaf else (Bits(60, 59, "reserved", Role.RESERVED),)),
        Bits(58, 52, "reserved", Role.RESERVED),
        *address,
        Bits(11, 9, "NextLevel", Role.KIND, value=next_level),
        Bits(8, 7, "ignored", Role.IGNORED),
        Bits(6, 6, "D", Role.DIRTY) if leaf else Bits(6, 6, "ignored", Role.IGNORED),
        Bits(5, 5, "A", Role.ACCESSED),
        Bits(4, 1, "ignored", Role.SOFTWARE if leaf else Role.IGNORED),
        Bits(0, 0, "PR", Role.KIND),
    )


def _table(next_level: int) -> Word:
    return _ends(next_level, (Bits(51, 12, "address", Role.OUTPUT),))


def _plain(shift: int) -> Word:
    # Linux drivers/iommu/generic_pt/fmt/amdv1.h, amdv1pt_item_oa(): with NextLevel 0 the address bits
    # below the size of the page are no part of the address.
    below = (Bits(shift - 1, 12, "ignored", Role.IGNORED),) if shift > 12 else ()
    return _ends(0, (Bits(51, shift, "address", Role.OUTPUT), *below))


def _sized(size_lg2: int) -> Word:
    """Return a leaf of any size from 8 KiB up: a 0 below its address, and ones below that."""
    ones = size_lg2 - 13
    address: Word = ()
    address += (Bits(51, size_lg2, "address", Role.OUTPUT),) if size_lg2 < ADDRESS_BITS else ()
    address += (Bits(size_lg2 - 1, size_lg2 - 1, "size (0)", Role.KIND, value=0),)
    ones_field = Bits(size_lg2 - 2, 12, "size (1)", Role.KIND, value=(1 << ones) - 1)
    return _ends(SIZED, address + ((ones_field,) if ones else ()))


def _level(n: int, bits: int, hole_512g: bool) -> Level:
    shift = 12 + 9 * n
    leaves = n <= HIGHEST_LEAF
    hole = n == 3 and hole_512g
    # An entry of 2**53 bytes and more would leave no bit that says its size.
    most = min(bits - 1, 8, ADDRESS_BITS - shift)
    return Level(
        NAMES[n],
        shift=shift,
        bits=bits,
        table=_table(n) if n else None,
        leaf=_plain(shift) if leaves and not hole else None,
        # An encoded size is larger than the level's own.
        shapes=tuple(Shape(_sized(shift + k), items_lg2=k, copies=True) for k in range(1, most + 1))
        if leaves
        else (),
        skips=tuple((m - 1, _table(m)) for m in range(1, n)),
    )


def amd_iommu_v1(*, levels: int = 4, hole_512g: bool = True) -> Format:
    """Return tables of 1 to 6 levels (the Mode of the device table entry).

    `hole_512g`: no page of exactly 512 GiB, which hardware is known to mishandle (Linux
    drivers/iommu/generic_pt/fmt/amdv1.h, amdv1pt_possible_sizes()).
    """
    require(1 <= levels <= 6, f"amd_iommu_v1 has 1 to 6 levels, not {levels}")
    return Format(
        name="amd_iommu_v1",
        title=f"AMD IOMMU v1, {levels} levels",
        citations=CITATIONS,
        # 64 address bits leave seven for the index of level 6.
        levels=tuple(_level(n, 7 if n == 5 else 9, hole_512g) for n in range(levels)),
        empty=Match(1, 0),
        input_bits=min(12 + 9 * levels, 64),
        address_rule=AddressRule.ZERO_EXTENDED,
        physical_bits=52,
        memory_types=MEMORY_TYPES,
        parameters={"levels": levels, "hole_512g": hole_512g},
        # No bit is about execution: a fetch is a read.
        denials=(Denial("x", user=None, lacking="r"),),
    )


FORMATS = (amd_iommu_v1,)
TEST_CONFIGURATIONS: tuple[tuple[str, dict[str, object]], ...] = (
    ("amd_iommu_v1", {}),
    ("amd_iommu_v1", {"levels": 1}),
    ("amd_iommu_v1", {"levels": 3}),
    ("amd_iommu_v1", {"levels": 5, "hole_512g": False}),
    ("amd_iommu_v1", {"levels": 6}),
)

"""Apple DART, the IOMMU of Apple's systems on chip: versions 1 and 2, 4K and 16K granules.

There is no public manual. Linux drivers/iommu/io-pgtable-dart.c, the definitions APPLE_DART_PTE_*,
APPLE_DART1_* and APPLE_DART2_*; Asahi Linux documentation, "HW:DART". Leaves are at level 0 only, and a
table item has only its valid bit and an address. Version 1 grants access to a part of a page unless SP_DIS
is set; version 2 always does. Only leaves that grant the whole page are read here. Two to three levels lie
in memory; up to four TTBR registers hold the roots, so that each covers one region of the input addresses.
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
    Citation("Linux drivers/iommu/io-pgtable-dart.c", "APPLE_DART_PTE definitions"),
    Citation("Asahi Linux documentation", "HW:DART"),
)
GRANULES = {"4K": 12, "16K": 14}
WHOLE_PAGE = 0xFFF  # the last sub-page
_VALID = Bits(0, 0, "valid", Role.KIND)
_SUBPAGES = (
    Bits(63, 52, "sub-page start", Role.KIND, value=0),
    Bits(51, 40, "sub-page end", Role.KIND, value=WHOLE_PAGE),
)


def _v1_leaf(granule: int, upper: Word, sp_dis: int) -> Word:
    below = (Bits(granule - 1, 12, "ignored", Role.IGNORED),) if granule > 12 else ()
    return (
        *upper,
        Bits(39, 36, "ignored", Role.IGNORED),
        Bits(35, granule, "address", Role.OUTPUT),
        *below,
        Bits(11, 9, "ignored", Role.SOFTWARE),
        Bits(8, 8, "no read", Role.READ, value=0),
        Bits(7, 7, "no write", Role.WRITE, value=0),
        Bits(6, 2, "ignored", Role.IGNORED),
        Bits(1, 1, "SP_DIS", Role.KIND, value=sp_dis),
        _VALID,
    )


def _format(
    name: str, title: str, granule: str, levels: int, words: tuple[Word, Word], extra: Word | None
) -> Format:
    require(granule in GRANULES, f"{name}: the granule is 4K or 16K, not {granule!r}")
    require(2 <= levels <= 3, f"{name} has 2 or 3 levels in memory, not {levels}")
    shift = GRANULES[granule]
    bits = shift - 3
    table, leaf = words
    return Format(
        name=name,
        title=title,
        citations=CITATIONS,
        levels=tuple(
            Level(
                f"L{levels - n}",
                shift=shift + bits * n,
                bits=bits,
                table=table if n else None,
                leaf=None if n else leaf,
                shapes=(Shape(extra, mappable=False),) if extra and not n else (),
            )
            for n in range(levels)
        ),
        empty=Match(1, 0),
        input_bits=shift + bits * levels,
        address_rule=AddressRule.ZERO_EXTENDED,
        physical_bits=36 if name == "dart_v1" else 42,
        memory_types=("default",) if name == "dart_v1" else ("cached", "no cache"),
        parameters={"granule": granule, "levels": levels},
        # No bit is about execution: a fetch is a read.
        denials=(Denial("x", user=None, lacking="r"),),
    )


def dart_v1(*, granule: str = "16K", levels: int = 2) -> Format:
    """Return DART version 1 (t8020, t8103): 36-bit output addresses."""
    shift = GRANULES.get(granule, 14)
    below = (Bits(shift - 1, 12, "ignored", Role.IGNORED),) if shift > 12 else ()
    table = (
        Bits(63, 36, "ignored", Role.IGNORED),
        Bits(35, shift, "address", Role.OUTPUT),
        *below,
        Bits(11, 1, "ignored", Role.IGNORED),
        _VALID,
    )
    whole = _v1_leaf(shift, (Bits(63, 40, "sub-pages", Role.IGNORED),), 1)
    partial = _v1_leaf(shift, _SUBPAGES, 0)
    return _format("dart_v1", f"Apple DART v1, {granule}", granule, levels, (table, whole), partial)


def dart_v2(*, granule: str = "16K", levels: int = 2) -> Format:
    """Return DART version 2 (t6000 and later): 42-bit output addresses, stored shifted right by 4.

    APPLE_DART2_PADDR_MASK is bits 37:10, address bits 41:14: pages of 4K could not be told apart.
    """
    require(granule == "16K", "dart_v2 holds address bits 41:14, so its granule is 16K")
    address = (
        Bits(37, 10, "address", Role.OUTPUT, to=14),
        Bits(9, 8, "ignored", Role.IGNORED),
    )
    table = (
        Bits(63, 38, "ignored", Role.IGNORED),
        *address,
        Bits(7, 1, "ignored", Role.IGNORED),
        _VALID,
    )
    leaf = (
        *_SUBPAGES,
        Bits(39, 38, "ignored", Role.IGNORED),
        *address,
        Bits(7, 4, "ignored", Role.SOFTWARE),
        Bits(3, 3, "no read", Role.READ, value=0),
        Bits(2, 2, "no write", Role.WRITE, value=0),
        Bits(1, 1, "no cache", Role.MEMORY_TYPE),
        _VALID,
    )
    return _format("dart_v2", f"Apple DART v2, {granule}", granule, levels, (table, leaf), None)


FORMATS = (dart_v1, dart_v2)
TEST_CONFIGURATIONS: tuple[tuple[str, dict[str, object]], ...] = (
    ("dart_v1", {}),
    ("dart_v1", {"granule": "4K", "levels": 3}),
    ("dart_v2", {}),
    ("dart_v2", {"levels": 3}),
)

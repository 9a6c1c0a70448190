"""LoongArch64: tables that LDDIR and LDPTE walk, with pages of 4K, 16K and 64K.

LoongArch Reference Manual, volume 1, "Multi-level Page Table Structure Supported by Page Walking", "Page
Walk Controller for Lower Half Address Space", "TLB Refill Exception Entry Low-order Bits". The geometry is
what PWCL and PWCH say; here that of Linux (arch/loongarch/Kconfig, "PGTABLE_LEVEL").

A directory item has no valid bit: it is an address, and Linux lets what maps nothing point to a table of
invalid items. H, bit 6, makes it a huge page, whose G is bit 12. A store where D = 0 raises a Page
Modification exception, so D is the right to write. PLV 3 is for users; PLV 1 and 2 are read as for the
kernel alone, and RPLV (this privilege level and no other) is not judged.
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
    Status,
    Word,
    require,
)

MANUAL = "LoongArch Reference Manual, volume 1"
CITATIONS = (
    Citation(MANUAL, "Multi-level Page Table Structure Supported by Page Walking"),
    Citation(MANUAL, "TLB Refill Exception Entry Low-order Bits"),
    Citation("Linux arch/loongarch/include/asm/pgtable-bits.h", "Page table bits"),
)
GRANULES = {"4K": 12, "16K": 14, "64K": 16}
NAMES = ("PT", "Dir1", "Dir2", "Dir3")
# "Memory Access Types"
MEMORY_TYPES = ("SUC", "CC", "WUC", "reserved")
PHYSICAL_BITS = 48  # "CPUCFG": PALEN; the address field of an item ends there
PLV = Lookup(("PLV",), "u", ("", "", "", "u"))


def _table(granule: int) -> Word:
    return (
        Bits(63, 48, "ignored", Role.IGNORED),
        Bits(47, granule, "address", Role.OUTPUT),
        Bits(granule - 1, 7, "ignored", Role.IGNORED),
        Bits(6, 6, "H", Role.KIND, value=0),
        Bits(5, 0, "ignored", Role.IGNORED),
    )


def _leaf(address: Word, bit_6: Bits) -> Word:
    return (
        Bits(63, 63, "RPLV", Role.IGNORED),
        Bits(62, 62, "NX", Role.EXECUTE, value=0),
        Bits(61, 61, "NR", Role.READ, value=0),
        Bits(60, 48, "ignored", Role.SOFTWARE, to=3),
        *address,
        Bits(11, 9, "ignored", Role.SOFTWARE, to=0),
        Bits(8, 8, "W", Role.IGNORED),
        Bits(7, 7, "P", Role.IGNORED),
        bit_6,
        Bits(5, 4, "MAT", Role.MEMORY_TYPE),
        Bits(3, 2, "PLV", Role.RIGHTS),
        Bits(1, 1, "D", Role.WRITE),
        Bits(0, 0, "V", Role.KIND),
    )


def _small(granule: int) -> Word:
    below = (Bits(granule - 1, 12, "ignored", Role.IGNORED),) if granule > 12 else ()
    address = (Bits(47, granule, "address", Role.OUTPUT), *below)
    return _leaf(address, Bits(6, 6, "G", Role.GLOBAL))


def _huge(shift: int) -> Word:
    address = (
        Bits(47, shift, "address", Role.OUTPUT),
        Bits(shift - 1, 13, "ignored", Role.IGNORED),
        Bits(12, 12, "G", Role.GLOBAL),
    )
    return _leaf(address, Bits(6, 6, "H", Role.KIND))


def loongarch64(*, granule: str = "16K", levels: int = 3, upper: bool = False) -> Format:
    """Return tables of `levels` levels (2 to 4) with pages of 4K, 16K or 64K.

    `upper`: the tables of PGDH, for addresses whose upper bits are all 1.
    """
    require(granule in GRANULES, f"the granule is 4K, 16K or 64K, not {granule!r}")
    require(2 <= levels <= 4, f"loongarch64 has 2 to 4 levels here, not {levels}")
    page = GRANULES[granule]
    bits = page - 3
    require(
        page + bits * levels <= PHYSICAL_BITS,
        f"{levels} levels of {granule} index more than {PHYSICAL_BITS} bits; one level less would work",
    )
    return Format(
        name="loongarch64",
        title=f"LoongArch64, {granule}, {levels} levels, {'PGDH' if upper else 'PGDL'}",
        citations=CITATIONS,
        levels=tuple(
            Level(
                NAMES[n],
                shift=page + bits * n,
                bits=bits,
                table=_table(page) if n else None,
                leaf=_huge(page + bits * n) if n else _small(page),
            )
            for n in range(levels)
        ),
        empty=Match(mask=(1 << 64) - 1, value=0),
        input_bits=page + bits * levels,
        address_rule=AddressRule.UPPER_ONLY if upper else AddressRule.ZERO_EXTENDED,
        physical_bits=PHYSICAL_BITS,
        memory_types=MEMORY_TYPES,
        device_memory="SUC",  # Linux arch/loongarch/include/asm/io.h, ioremap(): _CACHE_SUC
        parameters={"granule": granule, "levels": levels, "upper": upper},
        lookups=(PLV,),
        unknown_is=Status.NOT_PRESENT,
    )


FORMATS = (loongarch64,)
TEST_CONFIGURATIONS: tuple[tuple[str, dict[str, object]], ...] = (
    ("loongarch64", {}),
    ("loongarch64", {"granule": "4K", "levels": 4, "upper": True}),
    ("loongarch64", {"granule": "64K", "levels": 2}),
)

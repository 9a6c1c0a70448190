"""Intel VT-d second-stage paging, 3, 4 and 5 levels.

Intel Virtualization Technology for Directed I/O, Architecture Specification (D51397), "Second-Stage
Translation" and "Second-Stage Paging Entries": the tables "SS-PML5E", "SS-PML4E", "SS-PDPE", "SS-PDE",
"SS-PTE" and those of 1-GByte and 2-MByte pages. An item is not present where it grants neither read nor
write. First-stage tables are those of x86-64 (`x86_64_4level`, `x86_64_5level`).
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
    Word,
)

CITATIONS = (
    Citation("Intel VT-d specification (D51397)", "Second-Stage Translation"),
    Citation("Intel VT-d specification (D51397)", "Second-Stage Paging Entries"),
)
# The number of a page's memory type is its SNP bit.
MEMORY_TYPES = ("default", "snooped")
_RIGHTS = (
    Bits(2, 2, "X (ignored)", Role.IGNORED),
    Bits(1, 1, "W", Role.WRITE),
    Bits(0, 0, "R", Role.READ),
)


def _table(bit_7: Bits, ad: bool) -> Word:
    return (
        Bits(63, 63, "ignored", Role.IGNORED),
        Bits(62, 62, "reserved", Role.RESERVED),
        Bits(61, 52, "ignored", Role.IGNORED),
        Bits(51, 12, "address", Role.OUTPUT),
        Bits(11, 11, "reserved", Role.RESERVED),
        Bits(10, 9, "ignored", Role.IGNORED),
        Bits(8, 8, "A", Role.ACCESSED) if ad else Bits(8, 8, "ignored", Role.IGNORED),
        bit_7,
        Bits(6, 3, "ignored", Role.IGNORED),
        *_RIGHTS,
    )


def _leaf(address: Word, bit_7: Bits, ad: bool) -> Word:
    return (
        Bits(63, 63, "ignored", Role.IGNORED),
        Bits(62, 62, "TM", Role.RESERVED),
        Bits(61, 52, "ignored", Role.SOFTWARE),
        *address,
        Bits(11, 11, "SNP", Role.MEMORY_TYPE),
        Bits(10, 10, "ignored", Role.IGNORED),
        Bits(9, 9, "D", Role.DIRTY) if ad else Bits(9, 9, "ignored", Role.IGNORED),
        Bits(8, 8, "A", Role.ACCESSED) if ad else Bits(8, 8, "ignored", Role.IGNORED),
        bit_7,
        Bits(6, 3, "ignored", Role.IGNORED),
        *_RIGHTS,
    )


def _large(shift: int) -> Word:
    return (
        Bits(51, shift, "address", Role.OUTPUT),
        Bits(shift - 1, 12, "reserved", Role.RESERVED),
    )


def vtd_ss(levels: int, *, ad: bool = False, pages_1g: bool = True) -> Format:
    """Return second-stage paging with `levels` levels.

    `ad`: SSADE of the PASID-table entry, accessed and dirty flags; `pages_1g`: bit 1 of SSLPS.
    """
    pointer = _table(Bits(7, 7, "PS", Role.KIND, value=0), ad)
    top = _table(Bits(7, 7, "reserved", Role.RESERVED), ad)
    page = Bits(7, 7, "PS", Role.KIND, value=1)
    small = _leaf((Bits(51, 12, "address", Role.OUTPUT),), Bits(7, 7, "ignored", Role.IGNORED), ad)
    every_level = (
        Level("SS-PT", shift=12, bits=9, leaf=small),
        Level("SS-PD", shift=21, bits=9, table=pointer, leaf=_leaf(_large(21), page, ad)),
        Level(
            "SS-PDP",
            shift=30,
            bits=9,
            table=pointer,
            leaf=_leaf(_large(30), page, ad) if pages_1g else None,
        ),
        Level("SS-PML4", shift=39, bits=9, table=top),
        Level("SS-PML5", shift=48, bits=9, table=top),
    )
    return Format(
        name=f"vtd_ss_{levels}level",
        title=f"Intel VT-d second stage, {levels}-level",
        citations=CITATIONS,
        levels=every_level[:levels],
        empty=Match(0b11, 0),
        input_bits=12 + 9 * levels,
        address_rule=AddressRule.ZERO_EXTENDED,
        physical_bits=52,
        memory_types=MEMORY_TYPES,
        parameters={"ad": ad, "pages_1g": pages_1g},
        compiled=levels == 4,
        # "Access Rights": X is ignored here, a request to execute is a read.
        denials=(Denial("x", user=None, lacking="r"),),
    )


def vtd_ss_3level(*, ad: bool = False, pages_1g: bool = True) -> Format:
    """Return the 3-level second stage: 39-bit addresses. The parameters are those of `vtd_ss`."""
    return vtd_ss(3, ad=ad, pages_1g=pages_1g)


def vtd_ss_4level(*, ad: bool = False, pages_1g: bool = True) -> Format:
    """Return the 4-level second stage: 48-bit addresses. The parameters are those of `vtd_ss`."""
    return vtd_ss(4, ad=ad, pages_1g=pages_1g)


def vtd_ss_5level(*, ad: bool = False, pages_1g: bool = True) -> Format:
    """Return the 5-level second stage: 57-bit addresses. The parameters are those of `vtd_ss`."""
    return vtd_ss(5, ad=ad, pages_1g=pages_1g)


FORMATS = (vtd_ss_3level, vtd_ss_4level, vtd_ss_5level)
TEST_CONFIGURATIONS: tuple[tuple[str, dict[str, object]], ...] = (
    ("vtd_ss_3level", {}),
    ("vtd_ss_4level", {"ad": True}),
    ("vtd_ss_5level", {"pages_1g": False}),
)

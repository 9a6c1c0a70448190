"""Intel EPT: the second stage of VMX, 4- and 5-level.

Intel SDM vol. 3C (order number 326019), chapter "VMX Support for Address Translation": "EPT Translation
Mechanism" with the tables "Format of an EPT PML4 Entry (PML4E) that References an EPT Page-Directory-
Pointer Table" and its siblings; "EPT Misconfigurations"; "EPT Violations"; "Accessed and Dirty Flags for
EPT"; "Mode-Based Execute Control".

An item is not present where it grants nothing. Reserved bits and refused combinations are EPT
misconfigurations.
"""

from __future__ import annotations

from ptcore.formats.schema import (
    AddressRule,
    Bits,
    Citation,
    Format,
    Level,
    Match,
    Refusal,
    Role,
    Status,
    Word,
)

CITATIONS = (
    Citation("Intel SDM vol. 3C (326019)", "EPT Translation Mechanism"),
    Citation("Intel SDM vol. 3C (326019)", "EPT Misconfigurations"),
    Citation("Intel SDM vol. 3C (326019)", "Accessed and Dirty Flags for EPT"),
)
# "EPT Misconfigurations": types 2, 3 and 7 are reserved. Bit 3 of the number is "ignore PAT".
MEMORY_TYPES = ("UC", "WC", "reserved", "reserved", "WT", "WP", "WB")
_TYPE = "EPT memory type"
_WRITE_ONLY = "write (or write and execute) without read"


_RIGHTS = (
    Bits(2, 2, "X", Role.EXECUTE),
    Bits(1, 1, "W", Role.WRITE),
    Bits(0, 0, "R", Role.READ),
)


def _user_execute(mbec: bool) -> Bits:
    # "Mode-Based Execute Control": bit 10 is execute for user-mode addresses, bit 2 for supervisor.
    return Bits(10, 10, "XU", Role.USER_EXECUTE) if mbec else Bits(10, 10, "ignored", Role.IGNORED)


def _table(bit_7: Bits, ad: bool, mbec: bool) -> Word:
    return (
        Bits(63, 52, "ignored", Role.IGNORED),
        Bits(51, 12, "address", Role.OUTPUT),
        Bits(11, 11, "ignored", Role.IGNORED),
        _user_execute(mbec),
        Bits(9, 9, "ignored", Role.IGNORED),
        Bits(8, 8, "A", Role.ACCESSED) if ad else Bits(8, 8, "ignored", Role.IGNORED),
        bit_7,
        Bits(6, 3, "reserved", Role.RESERVED),
        *_RIGHTS,
    )


def _leaf(address: Word, bit_7: Bits, ad: bool, mbec: bool) -> Word:
    return (
        Bits(63, 63, "suppress #VE", Role.IGNORED),
        Bits(62, 61, "ignored", Role.IGNORED),
        Bits(60, 60, "supervisor shadow stack", Role.IGNORED),
        Bits(59, 59, "ignored", Role.IGNORED),
        Bits(58, 58, "paging-write access", Role.IGNORED),
        Bits(57, 57, "verify guest paging", Role.IGNORED),
        Bits(56, 52, "ignored", Role.SOFTWARE, to=0),
        *address,
        Bits(11, 11, "ignored", Role.SOFTWARE, to=5),
        _user_execute(mbec),
        Bits(9, 9, "D", Role.DIRTY) if ad else Bits(9, 9, "ignored", Role.IGNORED),
        Bits(8, 8, "A", Role.ACCESSED) if ad else Bits(8, 8, "ignored", Role.IGNORED),
        bit_7,
        Bits(6, 6, "ignore PAT", Role.MEMORY_TYPE, to=3),
        Bits(5, 3, _TYPE, Role.MEMORY_TYPE, to=0),
        *_RIGHTS,
    )


def _large(shift: int) -> Word:
    return (
        Bits(51, shift, "address", Role.OUTPUT),
        Bits(shift - 1, 12, "reserved", Role.RESERVED),
    )


def _refusals(execute_only: bool) -> tuple[Refusal, ...]:
    refused: tuple[Refusal, ...] = (Refusal((("R", 0), ("W", 1)), _WRITE_ONLY, "add 'r'"),)
    refused += tuple(
        Refusal((("R", 0), (name, 1)), "execute without read (no execute-only support)", "add 'r'")
        for name in ("X", "XU")
        if not execute_only
    )
    return refused + tuple(
        Refusal(((_TYPE, number),), f"memory type {number}", "use 0, 1, 4, 5 or 6")
        for number in (2, 3, 7)
    )


def ept(
    levels: int = 4,
    *,
    execute_only: bool = True,
    mbec: bool = False,
    pages_1g: bool = True,
    ad: bool = False,
) -> Format:
    """Return EPT with `levels` levels.

    `execute_only`, `pages_1g`: bits 0 and 17 of IA32_VMX_EPT_VPID_CAP; `mbec`: mode-based execute
    control; `ad`: bit 6 of EPTP, accessed and dirty flags (guest tables are then read as if written).
    """
    pointer = _table(Bits(7, 7, "page", Role.KIND, value=0), ad, mbec)
    top = _table(Bits(7, 7, "reserved", Role.RESERVED), ad, mbec)
    page = Bits(7, 7, "page", Role.KIND, value=1)
    small = _leaf(
        (Bits(51, 12, "address", Role.OUTPUT),), Bits(7, 7, "ignored", Role.IGNORED), ad, mbec
    )
    every_level = (
        Level("EPT PT", shift=12, bits=9, leaf=small),
        Level("EPT PD", shift=21, bits=9, table=pointer, leaf=_leaf(_large(21), page, ad, mbec)),
        Level(
            "EPT PDPT",
            shift=30,
            bits=9,
            table=pointer,
            leaf=_leaf(_large(30), page, ad, mbec) if pages_1g else None,
        ),
        Level("EPT PML4", shift=39, bits=9, table=top),
        Level("EPT PML5", shift=48, bits=9, table=top),
    )
    return Format(
        name=f"ept_{levels}level",
        title=f"Intel EPT, {levels}-level",
        citations=CITATIONS,
        levels=every_level[:levels],
        # "If bits 2:0 of an EPT paging-structure entry are 0, the entry is not present"; with mode-based
        # execute control bit 10 as well.
        empty=Match(0b111 | (mbec << 10), 0),
        input_bits=12 + 9 * levels,
        address_rule=AddressRule.ZERO_EXTENDED,
        physical_bits=52,
        memory_types=MEMORY_TYPES,
        parameters={"execute_only": execute_only, "mbec": mbec, "pages_1g": pages_1g, "ad": ad},
        refusals=_refusals(execute_only),
        reserved_is=Status.MISCONFIGURED,
        unknown_is=Status.MISCONFIGURED,
        beyond_is=Status.MISCONFIGURED,
        table_access="w" if ad else "r",
        compiled=levels == 4,
    )


def ept_4level(
    *,
    execute_only: bool = True,
    mbec: bool = False,
    pages_1g: bool = True,
    ad: bool = False,
) -> Format:
    """Return 4-level EPT: 48-bit guest physical addresses. The parameters are those of `ept`."""
    return ept(4, execute_only=execute_only, mbec=mbec, pages_1g=pages_1g, ad=ad)


def ept_5level(
    *,
    execute_only: bool = True,
    mbec: bool = False,
    pages_1g: bool = True,
    ad: bool = False,
) -> Format:
    """Return 5-level EPT: 57-bit guest physical addresses. The parameters are those of `ept`."""
    return ept(5, execute_only=execute_only, mbec=mbec, pages_1g=pages_1g, ad=ad)


FORMATS = (ept_4level, ept_5level)
TEST_CONFIGURATIONS: tuple[tuple[str, dict[str, object]], ...] = (
    ("ept_4level", {}),
    ("ept_4level", {"mbec": True, "ad": True}),
    ("ept_4level", {"execute_only": False, "pages_1g": False}),
    ("ept_5level", {}),
)

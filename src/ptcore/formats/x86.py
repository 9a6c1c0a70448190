"""x86-64 paging: 4-level and 5-level.

Vendor names and levels: PT (PTE) = 0, PD (PDE) = 1, PDPT (PDPTE) = 2, PML4 (PML4E) = 3, PML5 (PML5E) = 4.

Intel SDM vol. 3A (order number 253668), chapter "Paging": "4-Level Paging and 5-Level Paging", with the
tables "Format of a Page-Table Entry that Maps a 4-KByte Page" and its siblings for each level; "Access
Rights"; "Protection Keys"; "Paging and Memory Typing". AMD APM vol. 2 (publication 24593), "Long-Mode
Page Translation" and "Page-Translation-Table Entry Fields" (agrees, but for the encryption bit).

Bit 11 of a table item ("R", restart of HLAT paging) and bit 11 of a leaf are ignored in ordinary paging.
"""

from __future__ import annotations

from ptcore.formats.schema import AddressRule, Bits, Citation, Format, Level, Match, Role, Word

# Intel SDM vol. 3A, "Enumeration of Paging Features by CPUID": MAXPHYADDR is at most 52.
PHYSICAL_BITS = 52

# Intel SDM vol. 3A, "IA32_PAT MSR", "Memory Type That Can Be Encoded With PAT" and "Table: Memory Type
# Setting of PAT Entries Following a Power-up or Reset": PA0..PA7.
PAT_AFTER_RESET = ("WB", "WT", "UC-", "UC", "WB", "WT", "UC-", "UC")

CITATIONS = (
    Citation("Intel SDM vol. 3A (253668)", "4-Level Paging and 5-Level Paging"),
    Citation("Intel SDM vol. 3A (253668)", "Access Rights"),
    Citation("Intel SDM vol. 3A (253668)", "Paging and Memory Typing"),
    Citation("AMD APM vol. 2 (24593)", "Long-Mode Page Translation"),
)

_PRESENT = Bits(0, 0, "P", Role.KIND, value=1)
_WRITE = Bits(1, 1, "R/W", Role.WRITE)
_USER = Bits(2, 2, "U/S", Role.USER)
_ACCESSED = Bits(5, 5, "A", Role.ACCESSED)
_NO_EXECUTE = Bits(63, 63, "XD", Role.EXECUTE, value=0)
# "If IA32_EFER.NXE = 1, execute-disable ...; otherwise, reserved (must be 0)"
_NXE_CLEAR = Bits(63, 63, "XD", Role.RESERVED)


def _table(no_execute: Bits, page_size_bit: Bits) -> Word:
    return (
        no_execute,
        Bits(62, 52, "ignored", Role.IGNORED),
        Bits(51, 12, "address", Role.OUTPUT),
        Bits(11, 11, "R", Role.IGNORED),
        Bits(10, 8, "ignored", Role.IGNORED),
        page_size_bit,
        Bits(6, 6, "ignored", Role.IGNORED),
        _ACCESSED,
        # The memory type with which the table itself is read.
        Bits(4, 4, "PCD", Role.IGNORED),
        Bits(3, 3, "PWT", Role.IGNORED),
        _USER,
        _WRITE,
        _PRESENT,
    )


def _leaf(no_execute: Bits, address: Word, bit_7: Bits) -> Word:
    return (
        no_execute,
        Bits(62, 59, "key", Role.PROTECTION_KEY),
        Bits(58, 52, "ignored", Role.SOFTWARE, to=3),
        *address,
        Bits(11, 9, "ignored", Role.SOFTWARE, to=0),
        Bits(8, 8, "G", Role.GLOBAL),
        bit_7,
        Bits(6, 6, "D", Role.DIRTY),
        _ACCESSED,
        Bits(4, 4, "PCD", Role.MEMORY_TYPE, to=1),
        Bits(3, 3, "PWT", Role.MEMORY_TYPE, to=0),
        _USER,
        _WRITE,
        _PRESENT,
    )


def _large_leaf(no_execute: Bits, shift: int) -> Word:
    # In a large leaf bit 12 is PAT, and the bits between it and the address must be 0.
    address = (
        Bits(51, shift, "address", Role.OUTPUT),
        Bits(shift - 1, 13, "reserved", Role.RESERVED),
        Bits(12, 12, "PAT", Role.MEMORY_TYPE, to=2),
    )
    return _leaf(no_execute, address, Bits(7, 7, "PS", Role.KIND, value=1))


def x86_64(levels: int = 4, *, nx: bool = True, pages_1g: bool = True) -> Format:
    """Return 4- or 5-level paging.

    `nx`: IA32_EFER.NXE; with nx=False bit 63 is reserved. `pages_1g`: whether the CPU has 1-GByte
    pages (CPUID.80000001H:EDX.Page1GB); without them PS is reserved in a PDPTE.
    """
    no_execute = _NO_EXECUTE if nx else _NXE_CLEAR
    pointer = _table(no_execute, Bits(7, 7, "PS", Role.KIND, value=0))
    # "Reserved (must be 0)" in a PML4E and a PML5E: PS = 1 there is neither table nor leaf.
    top = _table(no_execute, Bits(7, 7, "reserved", Role.RESERVED))
    small = _leaf(
        no_execute,
        (Bits(51, 12, "address", Role.OUTPUT),),
        Bits(7, 7, "PAT", Role.MEMORY_TYPE, to=2),
    )
    every_level = (
        Level("PT", shift=12, bits=9, leaf=small),
        Level("PD", shift=21, bits=9, table=pointer, leaf=_large_leaf(no_execute, 21)),
        Level(
            "PDPT",
            shift=30,
            bits=9,
            table=pointer,
            leaf=_large_leaf(no_execute, 30) if pages_1g else None,
        ),
        Level("PML4", shift=39, bits=9, table=top),
        Level("PML5", shift=48, bits=9, table=top),
    )
    return Format(
        name=f"x86_64_{levels}level",
        title=f"x86-64 {levels}-level paging",
        citations=CITATIONS,
        levels=every_level[:levels],
        empty=Match(mask=1, value=0),
        input_bits=12 + 9 * levels,
        # Intel SDM vol. 1 (253665), "Canonical Addressing"
        address_rule=AddressRule.SIGN_EXTENDED,
        physical_bits=PHYSICAL_BITS,
        memory_types=PAT_AFTER_RESET,
        parameters={"nx": nx, "pages_1g": pages_1g},
    )


def x86_64_4level(*, nx: bool = True, pages_1g: bool = True) -> Format:
    """Return 4-level paging: 48-bit addresses."""
    return x86_64(4, nx=nx, pages_1g=pages_1g)


def x86_64_5level(*, nx: bool = True, pages_1g: bool = True) -> Format:
    """Return 5-level paging: 57-bit addresses."""
    return x86_64(5, nx=nx, pages_1g=pages_1g)


FORMATS = (x86_64_4level, x86_64_5level)
TEST_CONFIGURATIONS: tuple[tuple[str, dict[str, bool]], ...] = (
    ("x86_64_4level", {}),
    ("x86_64_4level", {"nx": False}),
    ("x86_64_4level", {"pages_1g": False}),
    ("x86_64_5level", {}),
    ("x86_64_5level", {"nx": False, "pages_1g": False}),
)

"""RISC-V: Sv32, Sv39, Sv48, Sv57, and the G-stage of the hypervisor extension (Sv32x4 ... Sv57x4).

The RISC-V Instruction Set Manual, volume II: Privileged Architecture (20211203 and later), "Sv32: Page-Based
32-bit Virtual-Memory Systems", "Sv39: Page-Based 39-bit Virtual-Memory System" and its siblings, "Virtual
Address Translation Process", "Svnapot", "Svpbmt", "Svadu"; chapter "Hypervisor Extension", "Guest Physical
Address Translation". The manual numbers levels as here: 0 is the last.

Not said by the tables, so parameters: SUM and MXR of sstatus, whether hardware sets A and D (`svadu`).
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
    Refusal,
    Role,
    Shape,
    Waiver,
    Word,
)

CITATIONS = (
    Citation("RISC-V Privileged Architecture", "Sv39: Page-Based 39-bit Virtual-Memory System"),
    Citation("RISC-V Privileged Architecture", "Virtual Address Translation Process"),
    Citation("RISC-V Privileged Architecture", "Svnapot: NAPOT Translation Contiguity"),
    Citation("RISC-V Privileged Architecture", "Svpbmt: Page-Based Memory Types"),
)
G_STAGE = Citation("RISC-V Privileged Architecture", "Guest Physical Address Translation")

# "Svpbmt": 0 PMA, 1 NC, 2 IO; 3 is reserved.
MEMORY_TYPES = ("PMA", "NC", "IO")
REFUSALS = (
    # "Writable pages must also be marked readable; the contrary combinations are reserved"
    Refusal((("R", 0), ("W", 1)), "write without read", "add 'r'"),
    Refusal(
        (("R", 0), ("W", 0), ("X", 0)), "a leaf with no right: R = W = X = 0 points to a table"
    ),
    Refusal((("PBMT", 3),), "PBMT = 3"),
)
COMPILED = ("sv39", "sv48")
_VALID = Bits(0, 0, "V", Role.KIND)
# A leaf has R or X; W without R is reserved, X with it or not.
_LEAF_WHEN = (Match(0b11, 0b11), Match(0b1111, 0b1001))


def _flags(g_stage: bool) -> Word:
    """Return bits 9:0 of a leaf."""
    return (
        Bits(9, 8, "RSW", Role.SOFTWARE),
        Bits(7, 7, "D", Role.DIRTY),
        Bits(6, 6, "A", Role.ACCESSED),
        # "Guest Physical Address Translation": G is ignored there, and all accesses are user accesses,
        # so that U must be 1.
        Bits(5, 5, "G", Role.IGNORED) if g_stage else Bits(5, 5, "G", Role.GLOBAL),
        Bits(4, 4, "U", Role.KIND) if g_stage else Bits(4, 4, "U", Role.USER),
        Bits(3, 3, "X", Role.EXECUTE),
        Bits(2, 2, "W", Role.WRITE),
        Bits(1, 1, "R", Role.READ),
        _VALID,
    )


# "Any level of PTE may be a leaf"; in a pointer D, A and U must be 0, and R = W = X = 0 makes it one.
_POINTER_FLAGS = (
    Bits(9, 8, "RSW", Role.IGNORED),
    Bits(7, 6, "D, A", Role.RESERVED),
    Bits(5, 5, "G", Role.IGNORED),
    Bits(4, 4, "U", Role.RESERVED),
    Bits(3, 1, "XWR", Role.KIND, value=0),
    _VALID,
)


def _ppn(high: int, level_shift: int) -> Word:
    """Return the physical page number of a leaf: what lies below its own size must be 0."""
    low = level_shift - 2  # PPN is at bits 10 and up, address bits at 12 and up
    misaligned = (Bits(low - 1, 10, "PPN (misaligned)", Role.RESERVED),) if low > 10 else ()
    return (Bits(high, low, "PPN", Role.OUTPUT, to=level_shift), *misaligned)


def _upper(svnapot: bool, svpbmt: bool, leaf: bool, napot: Bits) -> Word:
    """Return bits 63:54."""
    memory_type = Bits(62, 61, "PBMT", Role.MEMORY_TYPE)
    return (
        napot if leaf and svnapot else Bits(63, 63, "N", Role.RESERVED),
        memory_type if leaf and svpbmt else Bits(62, 61, "PBMT", Role.RESERVED),
        Bits(60, 54, "reserved", Role.RESERVED),
    )


def _wide_level(n: int, bits: int, features: tuple[bool, bool, bool]) -> Level:
    """Return level `n` of the 64-bit schemes; `features`: Svnapot, Svpbmt, whether it is a G-stage."""
    svnapot, svpbmt, g_stage = features
    shift = 12 + 9 * n
    pointer = (
        *_upper(svnapot, svpbmt, False, _VALID),
        Bits(53, 10, "PPN", Role.OUTPUT, to=12),
        *_POINTER_FLAGS,
    )
    # Svnapot has one size, 64 KiB at level 0: N = 1 and the low bits of PPN 1000.
    one_page = Bits(63, 63, "N", Role.KIND, value=0) if n == 0 else Bits(63, 63, "N", Role.RESERVED)
    leaf = (
        *_upper(svnapot, svpbmt, True, one_page),
        *_ppn(53, shift),
        *_flags(g_stage),
    )
    napot = (
        *_upper(svnapot, svpbmt, True, Bits(63, 63, "N", Role.KIND, value=1)),
        Bits(53, 14, "PPN", Role.OUTPUT, to=16),
        Bits(13, 10, "PPN (64 KiB)", Role.KIND, value=0b1000),
        *_flags(g_stage),
    )
    return Level(
        f"L{n}",
        shift=shift,
        bits=bits,
        table=pointer if n else None,
        leaf=leaf,
        leaf_when=_LEAF_WHEN,
        shapes=(Shape(napot, items_lg2=4, copies=True),) if svnapot and n == 0 else (),
    )


def _narrow_level(n: int, bits: int, g_stage: bool) -> Level:
    """Return level `n` of Sv32."""
    shift = 12 + 10 * n
    return Level(
        f"L{n}",
        shift=shift,
        bits=bits,
        table=(Bits(31, 10, "PPN", Role.OUTPUT, to=12), *_POINTER_FLAGS) if n else None,
        leaf=(*_ppn(31, shift), *_flags(g_stage)),
        leaf_when=_LEAF_WHEN,
    )


def _format(
    name: str,
    title: str,
    levels: tuple[Level, ...],
    *,
    g_stage: bool,
    sum_: bool,
    mxr: bool,
    svadu: bool,
    narrow: bool,
    svpbmt: bool = False,
) -> Format:
    input_bits = levels[-1].shift + levels[-1].bits
    # "Supervisor Status Register": S-mode may not access U pages unless SUM = 1, and never fetches from
    # them; MXR = 1 makes executable pages readable.
    outside: tuple[Denial, ...] = (Denial("x", user=False, having="u"),)
    outside += () if sum_ else (Denial("rw", user=False, having="u"),)
    readable = (Waiver("r", user=False, having="x"), Waiver("r", user=True, having="xu"))
    return Format(
        name=name,
        title=title,
        citations=(*CITATIONS, G_STAGE) if g_stage else CITATIONS,
        levels=levels,
        empty=Match(mask=1, value=0),
        input_bits=input_bits,
        address_bits=32 if narrow and not g_stage else 64,
        address_rule=AddressRule.ZERO_EXTENDED if g_stage or narrow else AddressRule.SIGN_EXTENDED,
        physical_bits=34 if narrow else 56,
        entry_bytes=4 if narrow else 8,
        memory_types=MEMORY_TYPES,
        # Linux arch/riscv/include/asm/pgtable.h, _PAGE_IOREMAP: with Svpbmt _PAGE_IO
        device_memory="IO" if svpbmt else "",
        refusals=REFUSALS,
        denials=() if g_stage else outside,
        waivers=readable if mxr else (),
        accessed_required=not svadu,
        dirty_required=not svadu,
        table_access="ru" if g_stage else "r",
        compiled=name in COMPILED,
    )


def _wide(
    name: str,
    count: int,
    *,
    g_stage: bool = False,
    svnapot: bool,
    svpbmt: bool,
    svadu: bool,
    sum_: bool = False,
    mxr: bool = False,
) -> Format:
    extensions = (svnapot, svpbmt, g_stage)
    # "x4": the root has two more index bits, so it is four pages, 16 KiB.
    levels = tuple(
        _wide_level(n, 9 + 2 * (g_stage and n == count - 1), extensions) for n in range(count)
    )
    stage = "G-stage" if g_stage else "S-stage"
    return _format(
        name,
        f"RISC-V {name.capitalize()}, {stage}",
        levels,
        g_stage=g_stage,
        sum_=sum_,
        mxr=mxr,
        svadu=svadu,
        narrow=False,
        svpbmt=svpbmt,
    )


def sv32(*, sum_: bool = False, mxr: bool = False, svadu: bool = False) -> Format:
    """Return Sv32: two levels of 4-byte items, 34-bit physical addresses."""
    levels = (_narrow_level(0, 10, False), _narrow_level(1, 10, False))
    return _format(
        "sv32",
        "RISC-V Sv32, S-stage",
        levels,
        g_stage=False,
        sum_=sum_,
        mxr=mxr,
        svadu=svadu,
        narrow=True,
    )


def sv39(
    *,
    sum_: bool = False,
    mxr: bool = False,
    svadu: bool = False,
    svnapot: bool = True,
    svpbmt: bool = True,
) -> Format:
    """Return Sv39. `sum_`, `mxr`: sstatus; `svadu`: hardware sets A and D, else clear ones fault;
    `svnapot`, `svpbmt`: whether the CPU has them, else their bits are reserved."""
    return _wide("sv39", 3, sum_=sum_, mxr=mxr, svadu=svadu, svnapot=svnapot, svpbmt=svpbmt)


def sv48(
    *,
    sum_: bool = False,
    mxr: bool = False,
    svadu: bool = False,
    svnapot: bool = True,
    svpbmt: bool = True,
) -> Format:
    """Return Sv48; the parameters are those of `sv39`."""
    return _wide("sv48", 4, sum_=sum_, mxr=mxr, svadu=svadu, svnapot=svnapot, svpbmt=svpbmt)


def sv57(
    *,
    sum_: bool = False,
    mxr: bool = False,
    svadu: bool = False,
    svnapot: bool = True,
    svpbmt: bool = True,
) -> Format:
    """Return Sv57; the parameters are those of `sv39`."""
    return _wide("sv57", 5, sum_=sum_, mxr=mxr, svadu=svadu, svnapot=svnapot, svpbmt=svpbmt)


def sv32x4(*, svadu: bool = False) -> Format:
    """Return the G-stage Sv32x4: 34-bit guest physical addresses, a 16 KiB root."""
    levels = (_narrow_level(0, 10, True), _narrow_level(1, 12, True))
    return _format(
        "sv32x4",
        "RISC-V Sv32x4, G-stage",
        levels,
        g_stage=True,
        sum_=False,
        mxr=False,
        svadu=svadu,
        narrow=True,
    )


def sv39x4(*, svadu: bool = False, svnapot: bool = True, svpbmt: bool = True) -> Format:
    """Return the G-stage Sv39x4: 41-bit guest physical addresses, a 16 KiB root."""
    return _wide("sv39x4", 3, g_stage=True, svadu=svadu, svnapot=svnapot, svpbmt=svpbmt)


def sv48x4(*, svadu: bool = False, svnapot: bool = True, svpbmt: bool = True) -> Format:
    """Return the G-stage Sv48x4: 50-bit guest physical addresses, a 16 KiB root."""
    return _wide("sv48x4", 4, g_stage=True, svadu=svadu, svnapot=svnapot, svpbmt=svpbmt)


def sv57x4(*, svadu: bool = False, svnapot: bool = True, svpbmt: bool = True) -> Format:
    """Return the G-stage Sv57x4: 59-bit guest physical addresses, a 16 KiB root."""
    return _wide("sv57x4", 5, g_stage=True, svadu=svadu, svnapot=svnapot, svpbmt=svpbmt)


FORMATS = (sv32, sv39, sv48, sv57, sv32x4, sv39x4, sv48x4, sv57x4)
TEST_CONFIGURATIONS: tuple[tuple[str, dict[str, object]], ...] = (
    ("sv32", {}),
    ("sv32", {"svadu": True, "sum_": True, "mxr": True}),
    ("sv39", {}),
    ("sv39", {"svnapot": False, "svpbmt": False, "svadu": True}),
    ("sv48", {}),
    ("sv57", {"sum_": True}),
    ("sv32x4", {}),
    ("sv39x4", {}),
    ("sv48x4", {"svadu": True}),
    ("sv57x4", {}),
)

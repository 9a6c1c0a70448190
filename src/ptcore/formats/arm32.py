"""AArch32: short descriptors (VMSAv7, VMSAv8-32) and long descriptors (LPAE).

Arm Architecture Reference Manual ARMv7-A and ARMv7-R edition (DDI 0406), chapter "Virtual Memory System
Architecture (VMSA)": "Short-descriptor translation table format", "Long-descriptor translation table format",
"Access permissions", "Execute-never restrictions on instruction fetching"; the same in DDI 0487, part G.

Short descriptors: large pages and supersections stand in 16 equal items. Rights are those of a Client domain;
the domain itself is not looked at.
"""

from __future__ import annotations

from ptcore.formats.schema import (
    AddressRule,
    Bits,
    Citation,
    Denial,
    Format,
    Level,
    Lookup,
    Match,
    Role,
    Shape,
    Status,
    Word,
    require,
)

DOCUMENT = "Arm Architecture Reference Manual ARMv7-A (DDI 0406)"
SHORT_CITATIONS = (
    Citation(DOCUMENT, "Short-descriptor translation table format"),
    Citation(DOCUMENT, "Access permissions"),
)
LONG_CITATIONS = (
    Citation(DOCUMENT, "Long-descriptor translation table format"),
    Citation(DOCUMENT, "Access permissions"),
)

# "VMSAv7 AP[2:1] and AP[2:0] access permissions model": PL1 and user; 100 is reserved and grants nothing.
AP = Lookup(("AP[2]", "AP[1:0]"), "rwuW", ("", "rw", "rwu", "rwuW", "", "r", "ru", "ru"))
# With SCTLR.AFE = 1, "VMSAv7 AP[2:1] access permissions model"; AP[0] is then the Access flag.
AP_AFE = Lookup(("AP[2]", "AP[1]"), "rwuW", ("rw", "rwuW", "r", "ru"))
XN = Lookup(("XN",), "xX", ("xX", ""))
# "Execute-never restrictions": an instruction can only be fetched from what can be read.
FETCH_NEEDS_READ = (Denial("x", user=True, lacking="u"), Denial("x", user=False, lacking="r"))


def _never_written(wxn: bool, uwxn: bool) -> tuple[Denial, ...]:
    # "Execute-never restrictions": with WXN what can be written is not executed; with UWXN PL1 does not
    # execute what PL0 can write.
    both = (Denial("x", user=False, having="w"), Denial("x", user=True, having="uw"))
    return (both if wxn else ()) + ((Denial("x", user=False, having="uw"),) if uwxn else ())


def _texcb(tex_low: int, c: int = 3) -> tuple[Bits, Bits, Bits]:
    return (
        Bits(tex_low + 2, tex_low, "TEX", Role.MEMORY_TYPE, to=2),
        Bits(c, c, "C", Role.MEMORY_TYPE, to=1),
        Bits(c - 1, c - 1, "B", Role.MEMORY_TYPE, to=0),
    )


def _ap10(low: int, afe: bool) -> Word:
    """Return AP[1:0], whose lower bit is at `low`."""
    return (
        (
            Bits(low + 1, low + 1, "AP[1]", Role.RIGHTS),
            Bits(low, low, "AP[0] (Access flag)", Role.ACCESSED),
        )
        if afe
        else (Bits(low + 1, low, "AP[1:0]", Role.RIGHTS),)
    )


def _small_page(afe: bool) -> Word:
    tex, c, b = _texcb(6)
    return (
        Bits(31, 12, "address", Role.OUTPUT),
        Bits(11, 11, "nG", Role.GLOBAL, value=0),
        Bits(10, 10, "S", Role.SOFTWARE),
        Bits(9, 9, "AP[2]", Role.RIGHTS),
        tex,
        *_ap10(4, afe),
        c,
        b,
        Bits(1, 1, "small", Role.KIND),
        Bits(0, 0, "XN", Role.RIGHTS),
    )


def _large_page(afe: bool) -> Word:
    tex, c, b = _texcb(12)
    return (
        Bits(31, 16, "address", Role.OUTPUT),
        Bits(15, 15, "XN", Role.RIGHTS),
        tex,
        Bits(11, 11, "nG", Role.GLOBAL, value=0),
        Bits(10, 10, "S", Role.SOFTWARE),
        Bits(9, 9, "AP[2]", Role.RIGHTS),
        Bits(8, 6, "SBZ", Role.IGNORED),
        *_ap10(4, afe),
        c,
        b,
        Bits(1, 0, "large", Role.KIND, value=0b01),
    )


def _section(address: Word, domain: Bits, super_: int, afe: bool, pxn: bool) -> Word:
    tex, c, b = _texcb(12)
    return (
        *address,
        Bits(19, 19, "NS", Role.IGNORED),
        Bits(18, 18, "supersection", Role.KIND, value=super_),
        Bits(17, 17, "nG", Role.GLOBAL, value=0),
        Bits(16, 16, "S", Role.SOFTWARE),
        Bits(15, 15, "AP[2]", Role.RIGHTS),
        tex,
        *_ap10(10, afe),
        Bits(9, 9, "implementation defined", Role.IGNORED),
        domain,
        Bits(4, 4, "XN", Role.RIGHTS),
        c,
        b,
        Bits(1, 1, "section", Role.KIND),
        Bits(0, 0, "PXN", Role.EXECUTE, value=0)
        if pxn
        else Bits(0, 0, "reserved", Role.KIND, value=0),
    )


def arm_short(*, n: int = 0, afe: bool = False, pxn: bool = True, extended: bool = True) -> Format:
    """Return short descriptors: 1M sections and 4K pages, 16M supersections and 64K large pages.

    `n`: TTBCR.N: TTBR0 then translates the lowest 2**(32 - n) bytes only, with a smaller root. `afe`:
    SCTLR.AFE; `pxn`, `extended`: whether the CPU has PXN and addresses of 40 bits in supersections.
    """
    require(0 <= n <= 7, f"TTBCR.N is 0 to 7, not {n}")
    pointer = (
        Bits(31, 10, "address", Role.OUTPUT),
        Bits(9, 9, "implementation defined", Role.IGNORED),
        Bits(8, 5, "Domain", Role.IGNORED),
        Bits(4, 4, "SBZ", Role.IGNORED),
        Bits(3, 3, "NS", Role.IGNORED),
        Bits(2, 2, "PXN", Role.EXECUTE, value=0) if pxn else Bits(2, 2, "SBZ", Role.IGNORED),
        Bits(1, 0, "page table", Role.KIND, value=0b01),
    )
    section = _section(
        (Bits(31, 20, "address", Role.OUTPUT),), Bits(8, 5, "Domain", Role.IGNORED), 0, afe, pxn
    )
    # "the extended base address": PA[35:32] and PA[39:36].
    supersection = _section(
        (
            Bits(31, 24, "address", Role.OUTPUT),
            Bits(23, 20, "address[35:32]", Role.OUTPUT, to=32)
            if extended
            else Bits(23, 20, "SBZ", Role.IGNORED),
        ),
        Bits(8, 5, "address[39:36]", Role.OUTPUT, to=36)
        if extended
        else Bits(8, 5, "Domain", Role.IGNORED),
        1,
        afe,
        pxn,
    )
    return Format(
        name="arm_short",
        title="AArch32 short descriptors",
        citations=SHORT_CITATIONS,
        levels=(
            Level(
                "L2",
                shift=12,
                bits=8,
                leaf=_small_page(afe),
                shapes=(Shape(_large_page(afe), items_lg2=4, copies=True),),
            ),
            Level(
                "L1",
                shift=20,
                bits=12 - n,
                table=pointer,
                leaf=section,
                shapes=(Shape(supersection, items_lg2=4, copies=True),),
            ),
        ),
        empty=Match(0b11, 0),
        input_bits=32 - n,
        address_bits=32,
        address_rule=AddressRule.ZERO_EXTENDED,
        physical_bits=40 if extended else 32,
        entry_bytes=4,
        parameters={"n": n, "afe": afe, "pxn": pxn, "extended": extended},
        lookups=(AP_AFE if afe else AP, XN),
        denials=FETCH_NEEDS_READ,
        unknown_is=Status.NOT_PRESENT,
        accessed_required=afe,
    )


def _long_leaf(shift: int, page: bool, contiguous: int | None) -> Word:
    below = (Bits(shift - 1, 12, "RES0", Role.IGNORED),) if shift > 12 else ()
    return (
        Bits(63, 59, "ignored", Role.IGNORED),
        Bits(58, 55, "software", Role.SOFTWARE),
        Bits(54, 54, "XN", Role.RIGHTS),
        Bits(53, 53, "PXN", Role.EXECUTE, value=0),
        Bits(52, 52, "Contiguous", Role.IGNORED)
        if contiguous is None
        else Bits(52, 52, "Contiguous", Role.KIND, value=contiguous),
        Bits(51, 40, "RES0", Role.IGNORED),
        Bits(39, shift, "address", Role.OUTPUT),
        *below,
        Bits(11, 11, "nG", Role.GLOBAL, value=0),
        Bits(10, 10, "AF", Role.ACCESSED),
        Bits(9, 8, "SH", Role.MEMORY_TYPE, to=3),
        Bits(7, 7, "AP[2]", Role.WRITE, value=0),
        Bits(6, 6, "AP[1]", Role.USER),
        Bits(5, 5, "NS", Role.IGNORED),
        Bits(4, 2, "AttrIndx", Role.MEMORY_TYPE, to=0),
        Bits(1, 0, "type", Role.KIND, value=0b11 if page else 0b01),
    )


_XN_TABLE = Lookup(("XNTable",), "xX", ("xX", ""))
_LONG_TABLE = (
    Bits(63, 63, "NSTable", Role.IGNORED),
    Bits(62, 62, "APTable[1]", Role.WRITE, value=0),
    Bits(61, 61, "APTable[0]", Role.USER, value=0),
    Bits(60, 60, "XNTable", Role.RIGHTS),
    Bits(59, 59, "PXNTable", Role.EXECUTE, value=0),
    Bits(58, 52, "ignored", Role.IGNORED),
    Bits(51, 40, "RES0", Role.IGNORED),
    Bits(39, 12, "address", Role.OUTPUT),
    Bits(11, 2, "ignored", Role.IGNORED),
    Bits(1, 0, "type", Role.KIND, value=0b11),
)


def _long_level(n: int, bits: int) -> Level:
    shift = 12 + 9 * n
    return Level(
        ("L3", "L2", "L1")[n],
        shift=shift,
        bits=bits,
        table=_LONG_TABLE if n else None,
        leaf=_long_leaf(shift, n == 0, 0 if bits >= 4 else None),
        shapes=(Shape(_long_leaf(shift, n == 0, 1), items_lg2=4),) if bits >= 4 else (),
    )


def arm_lpae(*, tsz: int = 0, upper: bool = False, wxn: bool = False, uwxn: bool = False) -> Format:
    """Return long descriptors, stage 1 of PL1&0: 32 - `tsz` address bits, 40-bit physical addresses.

    `tsz`: TTBCR.T0SZ or T1SZ, 0 to 7; `upper`: the half of TTBR1; `wxn`, `uwxn`: SCTLR.WXN, SCTLR.UWXN.
    """
    require(0 <= tsz <= 7, f"T0SZ and T1SZ are 0 to 7, not {tsz}")
    bits = 32 - tsz
    count = 3 if bits > 30 else 2
    return Format(
        name="arm_lpae",
        title=f"AArch32 long descriptors (LPAE), {bits}-bit",
        citations=LONG_CITATIONS,
        levels=tuple(
            _long_level(n, 9 if n < count - 1 else bits - 12 - 9 * n) for n in range(count)
        ),
        empty=Match(mask=1, value=0),
        input_bits=bits,
        address_bits=32,
        address_rule=AddressRule.UPPER_ONLY if upper else AddressRule.ZERO_EXTENDED,
        physical_bits=40,
        parameters={"tsz": tsz, "upper": upper},
        root_align=max(32, 8 << (bits - 12 - 9 * (count - 1))),
        lookups=(XN, _XN_TABLE),
        denials=FETCH_NEEDS_READ + _never_written(wxn, uwxn),
        reserved_is=Status.NOT_PRESENT,
        unknown_is=Status.NOT_PRESENT,
        beyond_is=Status.ADDRESS_SIZE,
        accessed_required=True,
    )


FORMATS = (arm_short, arm_lpae)
TEST_CONFIGURATIONS: tuple[tuple[str, dict[str, object]], ...] = (
    ("arm_short", {}),
    ("arm_short", {"n": 3}),
    ("arm_short", {"afe": True, "pxn": False, "extended": False}),
    ("arm_lpae", {}),
    ("arm_lpae", {"tsz": 3, "upper": True}),
)

"""AArch64 (VMSAv8-64): stage 1 and stage 2, granules of 4K, 16K and 64K.

Arm Architecture Reference Manual for A-profile (DDI 0487), chapter "The AArch64 Virtual Memory System
Architecture": "Translation table descriptor formats" (table, block and page descriptors; stage 1 and stage 2
attribute fields), "Translation granules", "The Contiguous bit", "Permission attributes" (AP, UXN, PXN, XN,
hierarchical control), "Hardware management of the Access flag and dirty state", "Stage 2 access permissions",
"Concatenated translation tables".

Vendor names: L3 = 0, L2 = 1, L1 = 2, L0 = 3, L-1 = 4. RES0 bits do not fault, so they are ignored here. A
descriptor that is neither table nor leaf is invalid (a Translation fault); an address beyond the output
address size is an Address size fault. Parameters say what the registers do: TCR_ELx, SCTLR_ELx, PSTATE.PAN.
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
    Mark,
    Match,
    Role,
    Shape,
    Status,
    Word,
    require,
)

DOCUMENT = "Arm Architecture Reference Manual (DDI 0487)"
CITATIONS = (
    Citation(DOCUMENT, "Translation table descriptor formats"),
    Citation(DOCUMENT, "The Contiguous bit"),
    Citation(DOCUMENT, "Permission attributes"),
    Citation(DOCUMENT, "Support levels for changing table or block size"),
)
STAGE_2_CITATIONS = (
    *CITATIONS,
    Citation(DOCUMENT, "Stage 2 access permissions"),
    Citation(DOCUMENT, "Concatenated translation tables"),
)

GRANULES = {"4K": 12, "16K": 14, "64K": 16}
NAMES = ("L3", "L2", "L1", "L0", "L-1")
COMPILED = ("aarch64_4k_48",)
REGIMES = ("el1", "el2", "el2_0", "el3")
"""EL1&0, EL2, EL2&0, EL3: those of two privilege levels have AP[1], UXN and PXN."""

# "The Contiguous bit": how many entries, as a power of two, by granule and level from L3 upwards.
CONTIGUOUS = {"4K": (4, 4, 4), "16K": (7, 5), "64K": (5, 5)}
# The levels that can hold blocks: L3 (pages), L2, L1 with 4K; one more where addresses have 52 bits.
LEAF_LEVELS = {"4K": 3, "16K": 2, "64K": 2}

# "Stage 2 memory region type and Cacheability attributes" without FWB: MemAttr[3:0].
IOREMAP = "DEVICE-NGNRE"  # Linux arch/arm64/include/asm/io.h, ioremap(): PROT_DEVICE_nGnRE
MEMORY_TYPES_S2 = (
    "DEVICE-NGNRNE",
    "DEVICE-NGNRE",
    "DEVICE-NGRE",
    "DEVICE-GRE",
    "RESERVED",
    "NC",
    "O-NC I-WT",
    "O-NC I-WB",
    "RESERVED",
    "O-WT I-NC",
    "WT",
    "O-WT I-WB",
    "RESERVED",
    "O-WB I-NC",
    "O-WB I-WT",
    "WB",
)
# With HCR_EL2.FWB = 1: bit 3 is RES0; 1:0 choose what becomes of the type of stage 1.
MEMORY_TYPES_FWB = (
    "DEVICE-NGNRNE",
    "DEVICE-NGNRE",
    "DEVICE-NGRE",
    "DEVICE-GRE",
    "RESERVED",
    "NC",
    "FORCE-WB",
    "STAGE-1",
)

# FEAT_XNX: XN[1:0] = 00 all, 01 EL0 only, 10 none, 11 EL1 only.
XNX = Lookup(("XN[1:0]",), "xX", ("xX", "X", "", "x"))
XN = Lookup(("XN",), "xX", ("xX", ""))
# With hardware dirty state management a page with DBM = 1 can be written, whatever AP[2] (S2AP[1]) says.
DBM_S1 = Lookup(("DBM", "AP[2]"), "w", ("w", "", "w", "w"))
DBM_S2 = Lookup(("DBM", "S2AP[1]"), "w", ("", "w", "w", "w"))


def _ignored(high: int, low: int, name: str = "RES0") -> Word:
    return (Bits(high, low, name, Role.IGNORED),) if high >= low else ()


def _address(granule: str, shift: int, wide: str) -> tuple[Word, Word, Word]:
    """Return bits 50:10 that hold an address: above the attributes, and bits 9:8 of LPA2.

    `wide`: "" for 48-bit addresses; "lpa" (64K: bits 51:48 at 15:12); "lpa2" (4K, 16K: bits 49:48 in
    place, 51:50 at 9:8).
    """
    top = 49 if wide == "lpa2" else 47
    upper = (*_ignored(50, top + 1), Bits(top, shift, "address", Role.OUTPUT))
    lower = (
        (*_ignored(shift - 1, 16), Bits(15, 12, "address[51:48]", Role.OUTPUT, to=48))
        if wide == "lpa"
        else _ignored(shift - 1, 12)
    )
    share = (Bits(9, 8, "address[51:50]", Role.OUTPUT, to=50),) if wide == "lpa2" else ()
    return upper, lower, share


def _table(granule: str, wide: str, stage: int, two_levels: bool, hpd: bool) -> Word:
    upper, lower, share = _address(granule, GRANULES[granule], wide)
    # "Hierarchical control of data access permissions" and of instruction fetching: stage 1 only, and
    # off with TCR_ELx.HPD. APTable[0], UXNTable and PXNTable need two privilege levels.
    limits = (
        (
            Bits(63, 63, "NSTable", Role.IGNORED),
            Bits(62, 62, "APTable[1]", Role.WRITE, value=0),
            Bits(61, 61, "APTable[0]", Role.USER if two_levels else Role.IGNORED, value=0),
            Bits(60, 60, "UXNTable", Role.USER_EXECUTE, value=0)
            if two_levels
            else Bits(60, 60, "XNTable", Role.EXECUTE, value=0),
            Bits(59, 59, "PXNTable", Role.EXECUTE, value=0)
            if two_levels
            else Bits(59, 59, "RES0", Role.IGNORED),
        )
        if stage == 1 and not hpd
        else _ignored(63, 59, "ignored")
    )
    return (
        *limits,
        *_ignored(58, 51, "ignored"),
        *upper,
        *lower,
        *_ignored(11, 10, "ignored"),
        *(share or _ignored(9, 8, "ignored")),
        *_ignored(7, 2, "ignored"),
        Bits(1, 0, "type", Role.KIND, value=0b11),
    )


def _execute_1(two_levels: bool) -> Word:
    return (
        (
            Bits(54, 54, "UXN", Role.USER_EXECUTE, value=0),
            Bits(53, 53, "PXN", Role.EXECUTE, value=0),
        )
        if two_levels
        else (Bits(54, 54, "XN", Role.EXECUTE, value=0), Bits(53, 53, "RES0", Role.IGNORED))
    )


def _leaf_1(
    granule: str, shift: int, wide: str, page: bool, contiguous: Word, features: tuple[bool, bool]
) -> Word:
    """Return a stage 1 block or page descriptor; `features`: two privilege levels, hardware DBM."""
    two_levels, dbm = features
    upper, lower, share = _address(granule, shift, wide)
    return (
        *_ignored(63, 59, "ignored"),
        Bits(58, 55, "software", Role.SOFTWARE),
        *_execute_1(two_levels),
        *contiguous,
        Bits(51, 51, "DBM", Role.RIGHTS if dbm else Role.IGNORED),
        *upper,
        *lower,
        Bits(11, 11, "nG", Role.GLOBAL, value=0)
        if two_levels
        else Bits(11, 11, "RES0", Role.IGNORED),
        Bits(10, 10, "AF", Role.ACCESSED),
        *(share or (Bits(9, 8, "SH", Role.MEMORY_TYPE, to=3),)),
        Bits(7, 7, "AP[2]", Role.RIGHTS) if dbm else Bits(7, 7, "AP[2]", Role.WRITE, value=0),
        Bits(6, 6, "AP[1]", Role.USER if two_levels else Role.IGNORED),
        Bits(5, 5, "NS", Role.IGNORED),
        Bits(4, 2, "AttrIndx", Role.MEMORY_TYPE, to=0),
        Bits(1, 0, "type", Role.KIND, value=0b11 if page else 0b01),
    )


def _leaf_2(
    granule: str, shift: int, wide: str, page: bool, contiguous: Word, features: tuple[bool, bool]
) -> Word:
    """Return a stage 2 block or page descriptor; `features`: FEAT_XNX, hardware DBM."""
    xnx, dbm = features
    upper, lower, share = _address(granule, shift, wide)
    execute = (
        (Bits(54, 53, "XN[1:0]", Role.RIGHTS),)
        if xnx
        else (Bits(54, 54, "XN", Role.RIGHTS), Bits(53, 53, "RES0", Role.IGNORED))
    )
    return (
        *_ignored(63, 59, "ignored"),
        Bits(58, 55, "software", Role.SOFTWARE),
        *execute,
        *contiguous,
        Bits(51, 51, "DBM", Role.RIGHTS if dbm else Role.IGNORED),
        *upper,
        *lower,
        Bits(11, 11, "FnXS", Role.IGNORED),
        Bits(10, 10, "AF", Role.ACCESSED),
        *(share or (Bits(9, 8, "SH", Role.MEMORY_TYPE, to=4),)),
        Bits(7, 7, "S2AP[1]", Role.RIGHTS if dbm else Role.WRITE),
        Bits(6, 6, "S2AP[0]", Role.READ),
        Bits(5, 2, "MemAttr", Role.MEMORY_TYPE, to=0),
        Bits(1, 0, "type", Role.KIND, value=0b11 if page else 0b01),
    )


def _level(
    granule: str, n: int, index_bits: int, wide: str, stage: int, features: tuple[bool, bool, bool]
) -> Level:
    """Return the level `n` steps above pages; `features`: the leaf's two, and HPD."""
    first, dbm, hpd = features
    page_shift = GRANULES[granule]
    shift = page_shift + n * (page_shift - 3)
    leaf_levels = LEAF_LEVELS[granule] + (wide != "")
    runs = CONTIGUOUS[granule][n] if n < len(CONTIGUOUS[granule]) else 0
    runs = runs if runs <= index_bits else 0
    make = _leaf_1 if stage == 1 else _leaf_2
    words = tuple(
        make(
            granule,
            shift,
            wide,
            n == 0,
            (Bits(52, 52, "Contiguous", Role.KIND, value=value),)
            if runs
            else (Bits(52, 52, "Contiguous", Role.IGNORED),),
            (first, dbm),
        )
        for value in (0, 1)
    )
    return Level(
        NAMES[n],
        shift=shift,
        bits=index_bits,
        table=_table(granule, wide, stage, stage == 1 and first, hpd) if n else None,
        leaf=words[0] if n < leaf_levels else None,
        shapes=(Shape(words[1], items_lg2=runs),) if runs and n < leaf_levels else (),
    )


def _levels(
    granule: str,
    input_bits: int,
    count: int,
    wide: str,
    stage: int,
    features: tuple[bool, bool, bool],
) -> tuple[Level, ...]:
    page_shift = GRANULES[granule]
    each = page_shift - 3
    return tuple(
        _level(
            granule,
            n,
            each if n < count - 1 else input_bits - page_shift - n * each,
            wide,
            stage,
            features,
        )
        for n in range(count)
    )


def _need_levels(granule: str, input_bits: int) -> int:
    page_shift = GRANULES[granule]
    return -(-(input_bits - page_shift) // (page_shift - 3))


def _denials(two_levels: bool, pan: bool, epan: bool, wxn: bool) -> tuple[Denial, ...]:
    # EL0 has no part in the regimes of one privilege level.
    rules: tuple[Denial, ...] = () if two_levels else (Denial("rwx", user=True),)
    # "Instruction execution permissions": what EL0 can write EL1 does not execute.
    rules += (Denial("x", user=False, having="uw"),) if two_levels else ()
    # PSTATE.PAN: EL1 does not touch data that EL0 can.
    rules += (Denial("rw", user=False, having="u"),) if pan and two_levels else ()
    # SCTLR_ELx.EPAN: nor what EL0 can execute.
    rules += (Denial("rw", user=False, having="X"),) if pan and epan and two_levels else ()
    # SCTLR_ELx.WXN: what can be written is not executed.
    rules += (Denial("x", user=False, having="w"),) if wxn else ()
    return rules + ((Denial("x", user=True, having="uw"),) if wxn and two_levels else ())


def aarch64(
    granule: str = "4K",
    va_bits: int = 48,
    *,
    name: str,
    upper: bool = False,
    wide: str = "",
    regime: str = "el1",
    hardware_af: bool = False,
    hardware_dbm: bool = False,
    hpd: bool = False,
    pan: bool = False,
    epan: bool = False,
    wxn: bool = False,
    memory_types: tuple[str, ...] = (),
    bbm_level: int = 0,
) -> Format:
    """Return a stage 1 format.

    `granule`: TGx; `va_bits`: 64 - TxSZ; `upper`: the half of TTBR1; `wide`: "" (48-bit output
    addresses), "lpa" (64K) or "lpa2" (4K, 16K; TCR_ELx.DS = 1); `regime`: el1 (EL1&0), el2, el2_0
    (EL2&0), el3; `hardware_af`, `hardware_dbm`: TCR_ELx.HA and HD; `hpd`: hierarchical attributes are
    off; `pan`, `epan`, `wxn`; `memory_types`: names of MAIR's eight attributes. `bbm_level`:
    ID_AA64MMFR2_EL1.BBM; below 2 a leaf in use needs break-before-make ("Support levels for changing
    table or block size").
    """
    require(granule in GRANULES, f"the granule is 4K, 16K or 64K, not {granule!r}")
    require(regime in REGIMES, f"the regime is one of {', '.join(REGIMES)}, not {regime!r}")
    require(
        wide in ("", "lpa" if granule == "64K" else "lpa2"), f"{granule} tables have no {wide!r}"
    )
    most = 52 if wide or granule == "64K" else 48
    least = 17 if granule == "64K" else 16  # TxSZ up to 48 with FEAT_TTST, 47 with 64K
    require(
        least <= va_bits <= most and not 48 < va_bits < 49,
        f"va_bits is {least} to {most} with a granule of {granule}, not {va_bits}",
    )
    require(
        not upper or regime in ("el1", "el2_0"), f"regime {regime} has no TTBR1, so no upper half"
    )
    two_levels = regime in ("el1", "el2_0")
    features = (two_levels, hardware_dbm, hpd)
    count = _need_levels(granule, va_bits)
    return Format(
        name=name,
        title=f"AArch64 stage 1, {granule}, {va_bits}-bit, {'TTBR1' if upper else 'TTBR0'}, {regime}",
        citations=CITATIONS,
        levels=_levels(granule, va_bits, count, wide, 1, features),
        empty=Match(mask=1, value=0),
        input_bits=va_bits,
        address_rule=AddressRule.UPPER_ONLY if upper else AddressRule.ZERO_EXTENDED,
        physical_bits=52 if wide else 48,
        memory_types=memory_types,
        device_memory=IOREMAP if IOREMAP in memory_types else "",
        parameters={"va_bits": va_bits, "upper": upper, "regime": regime},
        # "Alignment of the translation table base": to its size, but at least to 64 bytes.
        root_align=max(
            64, 8 << (va_bits - GRANULES[granule] - (count - 1) * (GRANULES[granule] - 3))
        ),
        lookups=(DBM_S1,) if hardware_dbm else (),
        dirty=Mark((("DBM", 1), ("AP[2]", 0)), flip="AP[2]") if hardware_dbm else None,
        denials=_denials(two_levels, pan, epan, wxn),
        reserved_is=Status.NOT_PRESENT,
        unknown_is=Status.NOT_PRESENT,
        beyond_is=Status.ADDRESS_SIZE,
        accessed_required=not hardware_af,
        break_before_make=bbm_level < 2,
        compiled=name in COMPILED,
    )


def aarch64_s2(
    granule: str,
    ipa_bits: int,
    *,
    name: str,
    start_level: int | None = None,
    wide: str = "",
    xnx: bool = True,
    fwb: bool = False,
    hardware_af: bool = False,
    hardware_dbm: bool = False,
) -> Format:
    """Return a stage 2 format.

    `ipa_bits`: 64 - VTCR_EL2.T0SZ; `start_level`: the level that the walk starts at, as the manual
    numbers it (None: with as few concatenated tables as can be); up to 16 tables may stand side by
    side there. `xnx`: FEAT_XNX; `fwb`: HCR_EL2.FWB; `hardware_af`, `hardware_dbm`: VTCR_EL2.HA, HD.
    """
    require(granule in GRANULES, f"the granule is 4K, 16K or 64K, not {granule!r}")
    require(
        wide in ("", "lpa" if granule == "64K" else "lpa2"), f"{granule} tables have no {wide!r}"
    )
    require(16 < ipa_bits <= (52 if wide else 48), f"{ipa_bits} is no size of a stage 2 input")
    page_shift = GRANULES[granule]
    each = page_shift - 3
    count = _need_levels(granule, ipa_bits) if start_level is None else 4 - start_level
    top_bits = ipa_bits - page_shift - (count - 1) * each
    require(
        1 <= count <= 5 and 1 <= top_bits <= each + 4,
        f"a walk of {ipa_bits} bits cannot start at level {start_level} with a granule of {granule}: "
        f"level {4 - _need_levels(granule, ipa_bits)} would work",
    )
    return Format(
        name=name,
        title=f"AArch64 stage 2, {granule}, {ipa_bits}-bit",
        citations=STAGE_2_CITATIONS,
        levels=_levels(granule, ipa_bits, count, wide, 2, (xnx, hardware_dbm, True)),
        empty=Match(mask=1, value=0),
        input_bits=ipa_bits,
        address_rule=AddressRule.ZERO_EXTENDED,
        physical_bits=52 if wide else 48,
        memory_types=MEMORY_TYPES_FWB if fwb else MEMORY_TYPES_S2,
        parameters={"ipa_bits": ipa_bits, "start_level": 4 - count},
        root_align=max(64, 8 << top_bits),
        lookups=(XNX if xnx else XN, *((DBM_S2,) if hardware_dbm else ())),
        dirty=Mark((("DBM", 1), ("S2AP[1]", 1)), flip="S2AP[1]") if hardware_dbm else None,
        reserved_is=Status.NOT_PRESENT,
        unknown_is=Status.NOT_PRESENT,
        beyond_is=Status.ADDRESS_SIZE,
        accessed_required=not hardware_af,
    )


def aarch64_4k_39(**parameters: object) -> Format:
    """Return 4K granule, 39-bit addresses (three levels); parameters as `aarch64`."""
    return aarch64("4K", 39, name="aarch64_4k_39", **parameters)  # type: ignore[arg-type]


def aarch64_4k_48(**parameters: object) -> Format:
    """Return 4K granule, 48-bit addresses unless `va_bits` is given; parameters as `aarch64`."""
    return aarch64(**{"granule": "4K", "va_bits": 48, "name": "aarch64_4k_48", **parameters})  # type: ignore[arg-type]


def aarch64_4k_52_lpa2(**parameters: object) -> Format:
    """Return 4K granule with LPA2: 52-bit addresses, five levels; parameters as `aarch64`."""
    fixed = {"granule": "4K", "va_bits": 52, "name": "aarch64_4k_52_lpa2", "wide": "lpa2"}
    return aarch64(**{**fixed, **parameters})  # type: ignore[arg-type]


def aarch64_16k_47(**parameters: object) -> Format:
    """Return 16K granule, 47-bit addresses (three levels); parameters as `aarch64`."""
    return aarch64(**{"granule": "16K", "va_bits": 47, "name": "aarch64_16k_47", **parameters})  # type: ignore[arg-type]


def aarch64_16k_48(**parameters: object) -> Format:
    """Return 16K granule, 48-bit addresses (a top table of two items); parameters as `aarch64`."""
    return aarch64(**{"granule": "16K", "va_bits": 48, "name": "aarch64_16k_48", **parameters})  # type: ignore[arg-type]


def aarch64_16k_52_lpa2(**parameters: object) -> Format:
    """Return 16K granule with LPA2: 52-bit addresses; parameters as `aarch64`."""
    fixed = {"granule": "16K", "va_bits": 52, "name": "aarch64_16k_52_lpa2", "wide": "lpa2"}
    return aarch64(**{**fixed, **parameters})  # type: ignore[arg-type]


def aarch64_64k_42(**parameters: object) -> Format:
    """Return 64K granule, 42-bit addresses (two levels); parameters as `aarch64`."""
    return aarch64(**{"granule": "64K", "va_bits": 42, "name": "aarch64_64k_42", **parameters})  # type: ignore[arg-type]


def aarch64_64k_48(**parameters: object) -> Format:
    """Return 64K granule, 48-bit addresses; parameters as `aarch64`."""
    return aarch64(**{"granule": "64K", "va_bits": 48, "name": "aarch64_64k_48", **parameters})  # type: ignore[arg-type]


def aarch64_64k_52(**parameters: object) -> Format:
    """Return 64K granule with LVA and LPA: 52-bit addresses on both sides; parameters as `aarch64`."""
    fixed = {"granule": "64K", "va_bits": 52, "name": "aarch64_64k_52", "wide": "lpa"}
    return aarch64(**{**fixed, **parameters})  # type: ignore[arg-type]


def aarch64_s2_4k(**parameters: object) -> Format:
    """Return stage 2, 4K granule, 40-bit input from level 1 (two tables); parameters as `aarch64_s2`."""
    fixed = {"granule": "4K", "ipa_bits": 40, "name": "aarch64_s2_4k"}
    start = {"start_level": 1} if "ipa_bits" not in parameters else {}
    return aarch64_s2(**{**fixed, **start, **parameters})  # type: ignore[arg-type]


def aarch64_s2_16k(**parameters: object) -> Format:
    """Return stage 2, 16K granule, 40-bit input; parameters as `aarch64_s2`."""
    fixed = {"granule": "16K", "ipa_bits": 40, "name": "aarch64_s2_16k"}
    return aarch64_s2(**{**fixed, **parameters})  # type: ignore[arg-type]


def aarch64_s2_64k(**parameters: object) -> Format:
    """Return stage 2, 64K granule, 42-bit input; parameters as `aarch64_s2`."""
    fixed = {"granule": "64K", "ipa_bits": 42, "name": "aarch64_s2_64k"}
    return aarch64_s2(**{**fixed, **parameters})  # type: ignore[arg-type]


FORMATS = (
    aarch64_4k_39,
    aarch64_4k_48,
    aarch64_4k_52_lpa2,
    aarch64_16k_47,
    aarch64_16k_48,
    aarch64_16k_52_lpa2,
    aarch64_64k_42,
    aarch64_64k_48,
    aarch64_64k_52,
    aarch64_s2_4k,
    aarch64_s2_16k,
    aarch64_s2_64k,
)
TEST_CONFIGURATIONS: tuple[tuple[str, dict[str, object]], ...] = (
    ("aarch64_4k_39", {}),
    ("aarch64_4k_48", {}),
    ("aarch64_4k_48", {"upper": True, "hardware_af": True, "hardware_dbm": True}),
    ("aarch64_4k_48", {"va_bits": 36, "regime": "el2"}),
    ("aarch64_4k_48", {"va_bits": 16}),
    ("aarch64_4k_48", {"va_bits": 25, "upper": True, "hpd": True, "pan": True, "wxn": True}),
    ("aarch64_4k_52_lpa2", {}),
    ("aarch64_16k_47", {}),
    ("aarch64_16k_48", {"upper": True}),
    ("aarch64_16k_52_lpa2", {}),
    ("aarch64_64k_42", {}),
    ("aarch64_64k_48", {"regime": "el3"}),
    ("aarch64_64k_52", {}),
    ("aarch64_s2_4k", {}),
    ("aarch64_s2_4k", {"ipa_bits": 48, "xnx": False, "hardware_dbm": True}),
    ("aarch64_s2_4k", {"ipa_bits": 43, "start_level": 1, "fwb": True}),
    ("aarch64_s2_4k", {"ipa_bits": 52, "wide": "lpa2"}),
    ("aarch64_s2_16k", {}),
    ("aarch64_s2_64k", {}),
)

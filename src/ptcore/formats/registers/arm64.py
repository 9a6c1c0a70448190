"""AArch64: TTBR0/1, TCR, SCTLR and MAIR of EL1, EL2 and EL3; VTTBR, VTCR and HCR of stage 2.

Arm Architecture Reference Manual (DDI 0487), chapter "AArch64 System Register Descriptions": TCR_EL1,
TCR_EL2, TCR_EL3, SCTLR_EL1, TTBR0_EL1, TTBR1_EL1, MAIR_EL1, VTCR_EL2, VTTBR_EL2, HCR_EL2, ID_AA64MMFR0_EL1,
ID_AA64MMFR1_EL1.
"""

from __future__ import annotations

from dataclasses import dataclass

from ptcore import formats
from ptcore.formats.registers import Part, Plan, Register, field, refuse_if

ARCHITECTURES = ("aarch64", "arm64")
# TG0 and TG1 number the granules differently.
TG0 = {0: "4K", 1: "64K", 2: "16K"}
TG1 = {1: "16K", 2: "4K", 3: "64K"}
SIZES = (32, 36, 40, 42, 44, 48, 52)  # IPS, PS
# "MAIR_EL1": the names of the attributes that systems use; others are shown by number.
MAIR_NAMES = {0x00: "DEVICE-NGNRNE", 0x04: "DEVICE-NGNRE", 0x08: "DEVICE-NGRE", 0x0C: "DEVICE-GRE"}
MAIR_NAMES |= {0x44: "NC", 0xBB: "WT", 0xFF: "WB", 0xF0: "WB-TAGGED"}
# Bits of a TCR: (EL1 for TTBR0, EL1 for TTBR1, EL2 and EL3).
FIELDS: dict[str, tuple[tuple[int, int] | None, ...]] = {
    "size": ((5, 0), (21, 16), (5, 0)),
    "granule": ((15, 14), (31, 30), (15, 14)),
    "output": ((34, 32), (34, 32), (18, 16)),
    "disable": ((7, 7), (23, 23), None),
    "tbi": ((37, 37), (38, 38), (20, 20)),
    "ha": ((39, 39), (39, 39), (21, 21)),
    "hd": ((40, 40), (40, 40), (22, 22)),
    "hpd": ((41, 41), (42, 42), (24, 24)),
    "ds": ((59, 59), (59, 59), (32, 32)),
}


_NAMES = {"4K": "aarch64_4k_48", "16K": "aarch64_16k_48", "64K": "aarch64_64k_48"}
REGISTERS = (
    Register("ttbr0_el1", "where the tables of the lower half begin", "ttbr0", root=True),
    Register("ttbr1_el1", "where the tables of the upper half begin", "ttbr1", root=True),
    Register("tcr_el1", "granules and sizes of both halves", "tcr"),
    Register("sctlr_el1", "stage 1 on (M), WXN, EPAN", "sctlr", rare=True),
    Register("mair_el1", "what the memory types are", "mair"),
    Register("pan", "PSTATE.PAN", rare=True),
    Register("hcr_el2", "second stage on (VM), E2H, FWB"),
    Register(
        "vttbr_el2", "where the second stage begins; alone with vtcr: that stage only", "vttbr"
    ),
    Register("vtcr_el2", "granule and size of the second stage", "vtcr"),
    Register("id_aa64mmfr0_el1", "the physical address width (PARange)", rare=True),
    Register("id_aa64mmfr1_el1", "HAFDBS, XNX", rare=True),
    *(
        Register(
            f"{name}_{level}",
            f"as {name}_el1, of {level.upper()}",
            rare=True,
            root=name[:4] == "ttbr",
        )
        for level in ("el2", "el3")
        for name in ("ttbr0", "ttbr1", "tcr", "sctlr", "mair")
        if (name, level) != ("ttbr1", "el3")
    ),
)
# Linux with 4 KiB pages and 48-bit addresses: TCR_EL1 T0SZ = T1SZ = 16, TG0 = 4K, TG1 = 4K, IPS = 48 bits.
_USUAL_TCR = 16 | 16 << 16 | 2 << 30 | 5 << 32
USUAL = {name: {"tcr_el1": _USUAL_TCR} for name in ARCHITECTURES}
_OTHERS = {"hcr_el2", "vttbr_el2", "vtcr_el2", "id_aa64mmfr0_el1", "id_aa64mmfr1_el1"}


@dataclass(frozen=True, slots=True)
class _Regime:
    """One translation regime: the exception level whose registers it has, and whether it has two halves."""

    level: str
    name: str
    halves: bool


def decode(architecture: str, **registers: int) -> Plan:
    """Return the address space of the registers of one exception level.

    EL1's goes through stage 2 if HCR_EL2.VM = 1; EL2's is EL2&0 if HCR_EL2.E2H = 1. `pan`: PSTATE.PAN.
    """
    pan = bool(registers.pop("pan", 0))
    regime = _regime(registers)
    # "HCR_EL2.VM": the second stage is one of EL1&0.
    stage2 = _stage_2(registers) if regime is None or regime.level == "el1" else None
    if regime is None:
        refuse_if(stage2 is None, f"{architecture}: ttbr0_el1, ttbr1_el1 or vttbr_el2 is wanted")
        return Plan(parts=(), stage2=stage2)
    level = regime.level
    known = {f"{name}_{level}" for name in ("ttbr0", "ttbr1", "tcr", "sctlr", "mair")} | _OTHERS
    unknown = set(registers) - known
    refuse_if(
        bool(unknown), f"{architecture}: {', '.join(sorted(unknown))} is not known with {level}"
    )
    refuse_if(f"tcr_{level}" not in registers, f"{architecture}: tcr_{level} is wanted")
    sctlr = registers.get(f"sctlr_{level}", 1)
    refuse_if(not sctlr & 1, f"SCTLR_{level.upper()}.M = 0: stage 1 is off, addresses are physical")
    rights = {"pan": pan, "epan": bool(field(sctlr, 57, 57)), "wxn": bool(field(sctlr, 19, 19))}
    parts = [_half(registers, regime, upper, rights) for upper in (False, True)]
    refuse_if(parts == [None, None], "TCR disables the walks of both halves (EPD0 = EPD1 = 1)")
    a1 = field(registers[f"tcr_{level}"], 22, 22) if regime.halves else 0
    tagged = registers.get(f"ttbr{a1}_{level}", 0)
    return Plan(
        parts=tuple(part for part in parts if part is not None),
        stage2=stage2,
        asid=field(tagged, 63, 48) if regime.halves else None,
        vmid=field(registers.get("vttbr_el2", 0), 63, 48) if stage2 else None,
    )


def _regime(registers: dict[str, int]) -> _Regime | None:
    level = next((el for el in ("el1", "el2", "el3") if f"ttbr0_{el}" in registers), None)
    level = level or next((el for el in ("el1", "el2") if f"ttbr1_{el}" in registers), None)
    if level is None:
        return None
    # "HCR_EL2.E2H": EL2 then hosts EL0 as well, and TCR_EL2 is laid out as TCR_EL1.
    hosted = level == "el2" and bool(field(registers.get("hcr_el2", 0), 34, 34))
    return _Regime(level, "el2_0" if hosted else level, level == "el1" or hosted)


def _output_bits(registers: dict[str, int], size: int, name: str) -> int:
    """Return the output address size: what TCR or VTCR asks for, but no more than the CPU has."""
    refuse_if(size >= len(SIZES), f"{name} = {size} is reserved")
    # "ID_AA64MMFR0_EL1", PARange.
    most = field(registers.get("id_aa64mmfr0_el1", len(SIZES) - 1), 3, 0)
    return min(SIZES[size], SIZES[min(most, len(SIZES) - 1)])


def _managed(registers: dict[str, int], ha: int, hd: int) -> dict[str, bool]:
    """Return whether hardware manages the Access flag and dirty state: asked for, and implemented."""
    # "ID_AA64MMFR1_EL1", HAFDBS: 1 the Access flag, 2 and more dirty state too.
    most = field(registers.get("id_aa64mmfr1_el1", 2), 3, 0)
    flag = bool(ha) and most >= 1
    return {"hardware_af": flag, "hardware_dbm": flag and bool(hd) and most >= 2}


def _half(
    registers: dict[str, int], regime: _Regime, upper: bool, rights: dict[str, bool]
) -> Part | None:
    level = regime.level
    name = f"ttbr{int(upper)}_{level}"
    tcr = registers[f"tcr_{level}"]
    column = int(upper) if regime.halves else 2
    places = {key: at[column] for key, at in FIELDS.items()}
    fields = {key: field(tcr, *at) if at else 0 for key, at in places.items()}
    if name not in registers or fields["disable"] or (upper and not regime.halves):
        return None
    granule = (TG1 if upper else TG0).get(fields["granule"])
    refuse_if(
        granule is None, f"TCR_{level.upper()}.TG{int(upper)} = {fields['granule']} is reserved"
    )
    output_bits = _output_bits(registers, fields["output"], f"TCR_{level.upper()}: output size")
    refuse_if(bool(fields["ds"]) and granule == "64K", "TCR.DS = 1 is of 4K and 16K granules")
    wide = "lpa2" if fields["ds"] else "lpa" if granule == "64K" and output_bits == 52 else ""
    mair = registers.get(f"mair_{level}")
    attributes = () if mair is None else mair.to_bytes(8, "little")
    fmt = formats.get(
        _NAMES[granule or ""],
        va_bits=64 - fields["size"],
        upper=upper,
        wide=wide,
        regime=regime.name,
        hpd=bool(fields["hpd"]),
        memory_types=tuple(MAIR_NAMES.get(a, f"{a:#04x}") for a in attributes),
        **_managed(registers, fields["ha"], fields["hd"]),
        **rights,
    )
    refuse_if(output_bits > fmt.physical_bits, "52-bit outputs need a 64K granule, or TCR.DS = 1")
    return Part(
        fmt,
        _root(registers[name], wide, fmt.root_align or 64),
        output_bits,
        tag_bits=8 if fields["tbi"] else 0,
    )


def _root(ttbr: int, wide: str, align: int) -> int:
    # "BADDR": with 52-bit addresses bits 5:2 hold address bits 51:48; bit 0 is CnP.
    high = field(ttbr, 5, 2) << 48 if wide else 0
    low = field(ttbr, 47, 1) << 1 & ~0x3F if wide else field(ttbr, 47, 1) << 1
    refuse_if(
        low % align != 0, f"TTBR {ttbr:#x}: the table's address is no multiple of {align} bytes"
    )
    return high | low


def _stage_2(registers: dict[str, int]) -> Part | None:
    hcr = registers.get("hcr_el2", 1 if "vttbr_el2" in registers else 0)
    if not hcr & 1:
        return None
    refuse_if(
        "vttbr_el2" not in registers or "vtcr_el2" not in registers,
        "HCR_EL2.VM = 1 needs vttbr_el2 and vtcr_el2",
    )
    vtcr = registers["vtcr_el2"]
    granule = TG0.get(field(vtcr, 15, 14))
    refuse_if(granule is None, "VTCR_EL2.TG0 = 3 is reserved")
    output_bits = _output_bits(registers, field(vtcr, 18, 16), "VTCR_EL2.PS")
    ds = field(vtcr, 32, 32)
    wide = "lpa2" if ds else "lpa" if granule == "64K" and output_bits == 52 else ""
    # "SL0": the start level; its numbering depends on the granule.
    sl0 = field(vtcr, 7, 6)
    start = (2, 1, 0, 3)[sl0] if granule == "4K" else (3, 2, 1, 0)[sl0]
    start = -1 if granule == "4K" and field(vtcr, 33, 33) else start
    name = f"aarch64_s2_{str(granule).lower()}"
    fmt = formats.get(
        name,
        ipa_bits=64 - field(vtcr, 5, 0),
        start_level=start,
        wide=wide,
        fwb=bool(field(hcr, 46, 46)),
        # "ID_AA64MMFR1_EL1", XNX.
        xnx=bool(field(registers.get("id_aa64mmfr1_el1", 1 << 28), 31, 28)),
        **_managed(registers, field(vtcr, 21, 21), field(vtcr, 22, 22)),
    )
    vttbr = field(registers["vttbr_el2"], 47, 0)
    return Part(fmt, _root(vttbr, wide, fmt.root_align or 64), min(output_bits, fmt.physical_bits))

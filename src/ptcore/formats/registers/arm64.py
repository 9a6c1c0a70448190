"""AArch64: TTBR0/1, TCR, SCTLR and MAIR of EL1, EL2 and EL3; VTTBR, VTCR and HCR of stage 2.

Arm Architecture Reference Manual (DDI 0487), chapter "AArch64 System Register Descriptions": TCR_EL1,
TCR_EL2, TCR_EL3, SCTLR_EL1, TTBR0_EL1, TTBR1_EL1, MAIR_EL1, VTCR_EL2, VTTBR_EL2, HCR_EL2.
"""

from __future__ import annotations

from ptcore import formats
from ptcore.formats.registers import Part, Plan, field, refuse_if
from ptcore.formats.schema import Format

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


def decode(architecture: str, **registers: int) -> Plan:
    """Return the address space of the registers of one exception level, and its stage 2 if HCR_EL2.VM."""
    level = next((el for el in ("el1", "el2", "el3") if f"ttbr0_{el}" in registers), None)
    if level is None and "ttbr1_el1" in registers:
        level = "el1"
    stage2 = _stage_2(registers)
    pan = bool(registers.pop("pan", 0))
    if level is None:
        refuse_if(stage2 is None, f"{architecture}: ttbr0_el1, ttbr1_el1 or vttbr_el2 is wanted")
        return Plan(parts=(), stage2=stage2)
    known = {f"{name}_{level}" for name in ("ttbr0", "ttbr1", "tcr", "sctlr", "mair")}
    unknown = set(registers) - known - {"hcr_el2", "vttbr_el2", "vtcr_el2"}
    refuse_if(
        bool(unknown), f"{architecture}: {', '.join(sorted(unknown))} is not known with {level}"
    )
    refuse_if(f"tcr_{level}" not in registers, f"{architecture}: tcr_{level} is wanted")
    sctlr = registers.get(f"sctlr_{level}", 1)
    refuse_if(not sctlr & 1, f"SCTLR_{level.upper()}.M = 0: stage 1 is off, addresses are physical")
    parts = [
        part
        for upper in (False, True)
        if (part := _half(registers, level, upper, pan, bool(field(sctlr, 19, 19)))) is not None
    ]
    refuse_if(not parts, "TCR disables the walks of both halves (EPD0 = EPD1 = 1)")
    a1 = field(registers[f"tcr_{level}"], 22, 22) if level == "el1" else 0
    tagged = registers.get(f"ttbr{a1}_{level}", 0)
    return Plan(
        parts=tuple(parts),
        stage2=stage2,
        asid=field(tagged, 63, 48) if level == "el1" else None,
        vmid=field(registers.get("vttbr_el2", 0), 63, 48) if stage2 else None,
    )


def _half(registers: dict[str, int], level: str, upper: bool, pan: bool, wxn: bool) -> Part | None:
    name = f"ttbr{int(upper)}_{level}"
    tcr = registers[f"tcr_{level}"]
    column = int(upper) if level == "el1" else 2
    places = {key: at[column] for key, at in FIELDS.items()}
    fields = {key: field(tcr, *at) if at else 0 for key, at in places.items()}
    if name not in registers or fields["disable"] or (upper and level != "el1"):
        return None
    granule = (TG1 if upper else TG0).get(fields["granule"])
    refuse_if(
        granule is None, f"TCR_{level.upper()}.TG{int(upper)} = {fields['granule']} is reserved"
    )
    refuse_if(fields["output"] >= len(SIZES), f"TCR output size {fields['output']} is reserved")
    output_bits = SIZES[fields["output"]]
    refuse_if(bool(fields["ds"]) and granule == "64K", "TCR.DS = 1 is of 4K and 16K granules")
    va_bits = 64 - fields["size"]
    wide = "lpa2" if fields["ds"] else "lpa" if granule == "64K" and output_bits == 52 else ""
    fmt = _stage_1(granule or "", va_bits, upper, wide, level, fields, pan, wxn, registers)
    refuse_if(output_bits > fmt.physical_bits, "52-bit outputs need a 64K granule, or TCR.DS = 1")
    return Part(
        fmt,
        _root(registers[name], wide, fmt.root_align or 64),
        output_bits,
        tag_bits=8 if fields["tbi"] else 0,
    )


def _stage_1(
    granule: str,
    va_bits: int,
    upper: bool,
    wide: str,
    level: str,
    fields: dict[str, int],
    pan: bool,
    wxn: bool,
    registers: dict[str, int],
) -> Format:
    names = {"4K": "aarch64_4k_48", "16K": "aarch64_16k_48", "64K": "aarch64_64k_48"}
    mair = registers.get(f"mair_{level}")
    attributes = () if mair is None else mair.to_bytes(8, "little")
    return formats.get(
        names[granule],
        va_bits=va_bits,
        upper=upper,
        wide=wide,
        regime=level,
        hardware_af=bool(fields["ha"]),
        hardware_dbm=bool(fields["hd"]),
        hpd=bool(fields["hpd"]),
        pan=pan,
        wxn=wxn,
        memory_types=tuple(MAIR_NAMES.get(a, f"{a:#04x}") for a in attributes),
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
    output = field(vtcr, 18, 16)
    refuse_if(output >= len(SIZES), f"VTCR_EL2.PS = {output} is reserved")
    ds = field(vtcr, 32, 32)
    wide = "lpa2" if ds else "lpa" if granule == "64K" and SIZES[output] == 52 else ""
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
        hardware_af=bool(field(vtcr, 21, 21)),
        hardware_dbm=bool(field(vtcr, 22, 22)),
    )
    vttbr = field(registers["vttbr_el2"], 47, 0)
    return Part(fmt, _root(vttbr, wide, fmt.root_align or 64), SIZES[output])

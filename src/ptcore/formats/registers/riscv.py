"""RISC-V: satp, vsatp, hgatp, sstatus (vsstatus).

RISC-V Privileged Architecture, "Supervisor Address Translation and Protection (satp) Register", "Supervisor
Status (sstatus) Register", chapter "Hypervisor Extension": "Hypervisor Guest Address Translation and
Protection Register (hgatp)" and "Virtual Supervisor Address Translation and Protection Register (vsatp)".
"""

from __future__ import annotations

from ptcore import formats
from ptcore.formats.registers import Part, Plan, Register, field, refuse_if

ARCHITECTURES = ("riscv64", "riscv32")
MODES = {8: "sv39", 9: "sv48", 10: "sv57"}
SUM, MXR = 18, 19
REGISTERS = (
    Register("satp", "where the tables begin, and their mode", root=True, instead="vsatp"),
    Register("vsatp", "that of a guest", root=True, instead="satp"),
    Register("hgatp", "the second stage; alone: that stage only", root=True, second=True),
    Register("sstatus", "SUM and MXR"),
    Register("adue", "1: the CPU sets the A and D bits", rare=True),
    Register("physical_bits", "the CPU's physical address width"),
)
USUAL: dict[str, dict[str, int]] = {}


def decode(
    architecture: str,
    *,
    satp: int | None = None,
    vsatp: int | None = None,
    hgatp: int | None = None,
    sstatus: int = 0,
    adue: int = 0,
    physical_bits: int | None = None,
) -> Plan:
    """Return the address space of satp, or of vsatp and hgatp; `adue`: hardware sets A and D."""
    refuse_if(satp is not None and vsatp is not None, "satp and vsatp: give the one in force")
    wide = architecture == "riscv64"
    first = vsatp if vsatp is not None else satp
    refuse_if(first is None and hgatp is None, f"{architecture}: satp, vsatp or hgatp is wanted")
    rights = {"sum_": bool(sstatus >> SUM & 1), "mxr": bool(sstatus >> MXR & 1)}
    parts: tuple[Part, ...] = ()
    asid = None
    if first is not None:
        mode, asid, root = _fields(first, wide)
        refuse_if(
            not mode and (vsatp is None or hgatp is None),
            "satp.MODE = 0 (Bare): addresses are physical",
        )
        parts = (Part(_format(mode, wide, "", adue, rights), root, physical_bits),) if mode else ()
    stage2 = None
    vmid = None
    if hgatp is not None:
        mode, _, root = _fields(hgatp, wide)
        refuse_if(
            root & 0x3FFF != 0, f"hgatp {hgatp:#x}: the 16 KiB root is not aligned to its size"
        )
        vmid = field(hgatp, 57, 44) if wide else field(hgatp, 28, 22)
        stage2 = Part(_format(mode, wide, "x4", adue, {}), root, physical_bits) if mode else None
    return Plan(parts=parts, stage2=stage2, asid=asid, vmid=vmid)


def _fields(register: int, wide: bool) -> tuple[int, int, int]:
    """Return MODE, ASID and the root's address."""
    if wide:
        return field(register, 63, 60), field(register, 59, 44), field(register, 43, 0) << 12
    return field(register, 31, 31), field(register, 30, 22), field(register, 21, 0) << 12


def _format(
    mode: int, wide: bool, stage: str, adue: int, rights: dict[str, bool]
) -> formats.Format:
    known = MODES if wide else {1: "sv32"}
    refuse_if(mode not in known, f"MODE = {mode} is reserved; {sorted(known)} are paged modes")
    return formats.get(known[mode] + stage, svadu=bool(adue), **rights)

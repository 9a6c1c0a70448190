"""AArch64: the registers of the exception level that the CPU translates with.

QEMU 7.2 target/arm/gdbstub.c (arm_gen_dynamic_sysreg_xml: system registers by name), gdb-xml/aarch64-core.xml
(`cpsr`). The monitor prints no system registers. Arm ARM (DDI 0487), "HCR_EL2": with E2H = TGE = 1 EL0 is
translated by the registers of EL2; "SPSR_EL1" (PSTATE as cpsr shows it: EL in 3:2, PAN in 22).
"""

from __future__ import annotations

from ptcore.formats.debuggers import Debugged, Registers, renamed

_LEVEL, _PAN = 2, 22
_VM, _TGE, _E2H = 0, 27, 34
# What both execution states have is under the name of the 32-bit one.
_SHARED = {"sctlr": "sctlr_el1"}


def _settle(registers: Registers) -> Registers:
    state = registers.get("cpsr", 0)
    hypervisor = registers.get("hcr_el2", 0)
    hosted = bool(hypervisor >> _E2H & 1 and hypervisor >> _TGE & 1)
    level = state >> _LEVEL & 3
    level = 2 if level == 0 and hosted else max(level, 1)
    names = [f"{name}_el{level}" for name in ("ttbr0", "ttbr1", "tcr", "mair", "sctlr")]
    names += ["id_aa64mmfr0_el1", "id_aa64mmfr1_el1"]
    if level == 2 and not hypervisor >> _E2H & 1:
        names.remove("ttbr1_el2")
    if level == 2:
        names.append("hcr_el2")
    if level == 1 and hypervisor >> _VM & 1:
        names += ["hcr_el2", "vttbr_el2", "vtcr_el2"]
    every = renamed(registers, _SHARED) | registers
    found = renamed(every, {name: name for name in names})
    return found | {"pan": state >> _PAN & 1} if found else {}


DEBUGGED = Debugged(
    name="aarch64",
    targets=frozenset({"aarch64"}),
    descriptions=frozenset({"aarch64"}),
    printed=r"\b(?P<name>PSTATE)=(?P<value>[0-9a-f]{8})",
    settle=_settle,
)

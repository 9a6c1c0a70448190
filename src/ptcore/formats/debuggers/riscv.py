"""RISC-V: satp and sstatus.

QEMU 7.2 target/riscv/gdbstub.c (the CSRs by name, and `priv`), target/riscv/cpu.c (riscv_cpu_dump_state).
RISC-V Privileged Architecture, "Supervisor Status (sstatus) Register": "The sstatus register is a subset of
the mstatus register". A hypervisor's guest is not told apart: these are the registers of HS-mode.
"""

from __future__ import annotations

from ptcore.formats.debuggers import Debugged, Registers, renamed


def _settle(registers: Registers) -> Registers:
    found = renamed(registers, {"mstatus": "sstatus"})
    return found | renamed(registers, {"satp": "satp", "sstatus": "sstatus"})


DEBUGGED = Debugged(
    name="riscv64",
    targets=frozenset({"riscv64"}),
    descriptions=frozenset({"riscv:rv64"}),
    printed=r"^ (?P<name>[a-z]\w+) +(?P<value>[0-9a-f]{8,16})$",
    settle=_settle,
)

"""RISC-V: NT_PRSTATUS of Linux and QEMU. No note holds satp.

RISC-V ELF psABI, "File Header" (EM_RISCV = 243). Linux arch/riscv/include/uapi/asm/ptrace.h (`struct
user_regs_struct`), include/linux/elfcore.h (`struct elf_prstatus`: the registers begin at 112, of 32-bit at
72). QEMU target/riscv/arch_dump.c (`struct riscv64_elf_prstatus`).
"""

from __future__ import annotations

from collections.abc import Mapping

from ptcore.formats.notes import Block, Registers

MACHINES = {(243, 64): "riscv64", (243, 32): "riscv32"}
UNAMES = {"riscv64": 243, "riscv32": 243}
_NAMES = "pc ra sp gp tp t0 t1 t2 s0 s1 a0 a1 a2 a3 a4 a5 a6 a7 s2 s3 s4 s5 s6 s7 s8 s9 s10 s11 t3 t4 t5 t6"
THREAD = {
    "riscv64": Block(112, 8, tuple(_NAMES.split())),
    "riscv32": Block(72, 4, tuple(_NAMES.split())),
}

# "Supervisor Address Translation and Protection (satp) Register": MODE in 63:60, by the bits of an address.
MODES = {39: 8, 48: 9, 57: 10}


def _linux(numbers: Mapping[str, int]) -> Registers:
    """Return what swapper_pg_dir is reached with (Linux arch/riscv/kernel/vmcore_info.c)."""
    if "NUMBER(satp)" in numbers:
        return {"satp": numbers["NUMBER(satp)"]}
    names = ("SYMBOL(swapper_pg_dir)", "NUMBER(va_kernel_pa_offset)", "NUMBER(VA_BITS)")
    if not all(name in numbers for name in names) or numbers[names[2]] not in MODES:
        return {}
    root, offset, bits = (numbers[name] for name in names)
    return {"satp": MODES[bits] << 60 | (root - offset & (1 << 64) - 1) >> 12}


KERNEL = {"riscv64": _linux}

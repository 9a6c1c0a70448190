"""RISC-V: NT_PRSTATUS of Linux and QEMU. No note holds satp.

RISC-V ELF psABI, "File Header" (EM_RISCV = 243). Linux arch/riscv/include/uapi/asm/ptrace.h (`struct
user_regs_struct`), include/linux/elfcore.h (`struct elf_prstatus`: the registers begin at 112, of 32-bit at
72). QEMU target/riscv/arch_dump.c (`struct riscv64_elf_prstatus`).
"""

from __future__ import annotations

from ptcore.formats.notes import Block

MACHINES = {(243, 64): "riscv64", (243, 32): "riscv32"}
UNAMES = {"riscv64": 243, "riscv32": 243}
_NAMES = "pc ra sp gp tp t0 t1 t2 s0 s1 a0 a1 a2 a3 a4 a5 a6 a7 s2 s3 s4 s5 s6 s7 s8 s9 s10 s11 t3 t4 t5 t6"
THREAD = {
    "riscv64": Block(112, 8, tuple(_NAMES.split())),
    "riscv32": Block(72, 4, tuple(_NAMES.split())),
}

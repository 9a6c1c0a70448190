"""AArch64: NT_PRSTATUS of Linux and QEMU. No note holds TTBR0, TTBR1 or TCR.

ELF for the Arm 64-bit Architecture, "ELF header" (EM_AARCH64 = 183). Linux
arch/arm64/include/uapi/asm/ptrace.h (`struct user_pt_regs`), include/linux/elfcore.h (`struct
elf_prstatus`: the registers begin at 112). QEMU target/arm/arch_dump.c (`struct aarch64_elf_prstatus`).
Microsoft, "PE Format", "Machine Types" (IMAGE_FILE_MACHINE_ARM64).
"""

from __future__ import annotations

from ptcore.formats.notes import Block, Windows

MACHINES = {(183, 64): "aarch64"}
UNAMES = {"aarch64": 183}
WINDOWS = {0xAA64: Windows("aarch64")}
THREAD = {"aarch64": Block(112, 8, (*(f"x{n}" for n in range(31)), "sp", "pc", "pstate"))}

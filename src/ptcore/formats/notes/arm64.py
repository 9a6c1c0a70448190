"""AArch64: NT_PRSTATUS of Linux and QEMU. No note holds TTBR0, TTBR1 or TCR.

ELF for the Arm 64-bit Architecture, "ELF header" (EM_AARCH64 = 183). Linux
arch/arm64/include/uapi/asm/ptrace.h (`struct user_pt_regs`), include/linux/elfcore.h (`struct
elf_prstatus`: the registers begin at 112). QEMU target/arm/arch_dump.c (`struct aarch64_elf_prstatus`).
Microsoft, "PE Format", "Machine Types" (IMAGE_FILE_MACHINE_ARM64).
"""

from __future__ import annotations

from collections.abc import Mapping

from ptcore.formats.notes import Block, Registers, Windows

MACHINES = {(183, 64): "aarch64"}
UNAMES = {"aarch64": 183}
WINDOWS = {0xAA64: Windows("aarch64")}
THREAD = {"aarch64": Block(112, 8, (*(f"x{n}" for n in range(31)), "sp", "pc", "pstate"))}

# "TCR_EL1": T1SZ in 21:16, EPD0 in 7, TG1 in 31:30, IPS in 34:32, DS in 59; TG1 by the bytes of a page.
TG1 = {4096: 2, 16384: 1, 65536: 3}
IPS_48, IPS_52 = 5, 6


def _linux(numbers: Mapping[str, int]) -> Registers:
    """Return what swapper_pg_dir is reached with: TTBR1 alone, for VMCOREINFO says nothing of user space.

    Linux Documentation/admin-guide/kdump/vmcoreinfo.rst: kimage_voffset is what lies between the kernel's
    addresses and physical ones. Pages of 4K and 16K reach more than 48 bits by LPA2 alone (TCR_EL1.DS).
    """
    names = ("SYMBOL(swapper_pg_dir)", "NUMBER(kimage_voffset)", "PAGESIZE", "NUMBER(TCR_EL1_T1SZ)")
    if not all(name in numbers for name in names) or numbers["PAGESIZE"] not in TG1:
        return {}
    root, offset, page, size = (numbers[name] for name in names)
    wide = page != 65536 and size < 16
    output = (
        IPS_52
        if wide or (numbers.get("NUMBER(MAX_PHYSMEM_BITS)") == 52 and page == 65536)
        else IPS_48
    )
    root = root - offset & (1 << 64) - 1
    high = root >> 48 << 2 if output == IPS_52 else 0
    tcr = 1 << 7 | size << 16 | TG1[page] << 30 | output << 32 | wide << 59
    return {"ttbr1_el1": root & (1 << 48) - 1 | high, "tcr_el1": tcr}


KERNEL = {"aarch64": _linux}

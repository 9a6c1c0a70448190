"""x86: NT_PRSTATUS of Linux, the CPU state of QEMU, the header of Windows.

System V ABI, AMD64 supplement, "Machine" (EM_X86_64 = 62) and Intel386 supplement (EM_386 = 3). Linux
arch/x86/include/asm/elf.h and user_64.h, user_32.h (`struct user_regs_struct`, the order of the registers),
include/linux/elfcore.h (`struct elf_prstatus`: they begin at 112, of 32-bit at 72). QEMU
target/i386/arch_dump.c (`QEMUCPUState`, version 1, note "QEMU" of type 0). Microsoft, "PE Format", "Machine
Types" (IMAGE_FILE_MACHINE_AMD64), and winnt.h, `struct _CONTEXT` of x64.
"""

from __future__ import annotations

from collections.abc import Mapping

from ptcore.formats.notes import Block, Registers, State, Windows

# QEMU names a machine after its own build, even while the CPU is in a 32-bit mode.
MACHINES = {(62, 64): "x86_64", (62, 32): "x86", (3, 32): "x86", (3, 64): "x86"}
UNAMES = {"x86_64": 62, "i686": 3, "i586": 3, "i386": 3}

_LONG = "r15 r14 r13 r12 rbp rbx r11 r10 r9 r8 rax rcx rdx rsi rdi orig_rax rip cs rflags rsp ss fs_base"
_LONG += " gs_base ds es fs gs"
_SHORT = "ebx ecx edx esi edi ebp eax ds es fs gs orig_eax eip cs eflags esp ss"
THREAD = {
    "x86_64": Block(112, 8, tuple(_LONG.split())),
    "x86": Block(72, 4, tuple(_SHORT.split())),
}

_GENERAL = "rax rbx rcx rdx rsi rdi rsp rbp r8 r9 r10 r11 r12 r13 r14 r15 rip rflags"
# A segment: selector, limit, flags and padding of 4 bytes each, then a base of 8.
_SEGMENTS = ("cs", "ds", "es", "fs", "gs", "ss", "ldt", "tr", "gdt", "idt")
_SEGMENT_BYTES = 24
_FIRST_SEGMENT = 8 + 8 * len(_GENERAL.split())
_CONTROL = _FIRST_SEGMENT + _SEGMENT_BYTES * len(_SEGMENTS)
LONG_MODE = "x86_64"
CR0_PG, CR4_PAE = 1 << 31, 1 << 5
EFER_LME, EFER_LMA, EFER_NXE = 1 << 8, 1 << 10, 1 << 11


def _with_efer(architecture: str, registers: Registers) -> Registers:
    """Return CR0, CR3, CR4 and the IA32_EFER that goes with them: no note holds it.

    A file of the 64-bit machine is of a CPU in long mode; that pages can be no-execute is assumed, as
    every 64-bit kernel has it so.
    """
    found = {name: registers[name] for name in ("cr0", "cr3", "cr4") if name in registers}
    paged = found.get("cr0", 0) & CR0_PG and found.get("cr4", 0) & CR4_PAE
    long_mode = architecture == LONG_MODE and bool(paged)
    return found | {"efer": EFER_LME | EFER_LMA | EFER_NXE if long_mode else 0}


STATE = (
    State(
        "QEMU",
        0,
        (
            Block(8, 8, tuple(_GENERAL.split())),
            *(
                Block(_FIRST_SEGMENT + n * _SEGMENT_BYTES, 4, (name,))
                for n, name in enumerate(_SEGMENTS)
            ),
            *(
                Block(_FIRST_SEGMENT + n * _SEGMENT_BYTES + 16, 8, (f"{name}_base",))
                for n, name in enumerate(_SEGMENTS)
            ),
            Block(_CONTROL, 8, ("cr0", "cr1", "cr2", "cr3", "cr4", "kernel_gs_base")),
        ),
        _with_efer,
    ),
)


def _crashed(root: int) -> Registers:
    """Return the registers that a 64-bit kernel runs with, of which only the root is known."""
    return {
        "cr0": CR0_PG | 1 << 16 | 1,
        "cr3": root,
        "cr4": CR4_PAE,
        "efer": EFER_LME | EFER_LMA | EFER_NXE,
    }


_CONTEXT = "rax rcx rdx rbx rsp rbp rsi rdi r8 r9 r10 r11 r12 r13 r14 r15 rip"
WINDOWS = {0x8664: Windows("x86_64", Block(0x78, 8, tuple(_CONTEXT.split())), _crashed)}


def _controlled(registers: Registers) -> tuple[str, Registers]:
    """Return what CR0, CR3 and CR4 come to. With PAE, long mode is assumed: only EFER would tell."""
    if not {"cr0", "cr3", "cr4"} <= registers.keys():
        return "", {}
    name = LONG_MODE if registers["cr4"] & CR4_PAE else "x86"
    return name, _with_efer(name, registers)


CONTROLS = (_controlled,)


# Linux Documentation/arch/x86/x86_64/mm.rst: the kernel's text is mapped from here on, to physical address 0.
START_KERNEL_MAP = 0xFFFF_FFFF_8000_0000
CR4_LA57 = 1 << 12


def _linux(numbers: Mapping[str, int]) -> Registers:
    """Return what init_top_pgt is reached with. Its address is one of the kernel's text."""
    root = numbers.get("SYMBOL(init_top_pgt)", numbers.get("SYMBOL(swapper_pg_dir)"))
    if root is None or "NUMBER(phys_base)" not in numbers:
        return {}
    wide = CR4_LA57 if numbers.get("NUMBER(pgtable_l5_enabled)") else 0
    found = _crashed(root - START_KERNEL_MAP + numbers["NUMBER(phys_base)"] & (1 << 64) - 1)
    found["cr4"] |= wide
    mask = numbers.get("NUMBER(sme_mask)", 0)
    return found | ({"encryption_mask": mask} if mask else {})


KERNEL = {"x86_64": _linux}

"""Unicorn (QEMU's software MMU) as a judge of x86 32-bit and PAE paging, at CPL 0 and 3. Test-only.

Driven like `unicorn_mmu`, whose pieces it uses; CPL 3 is reached by SYSEXIT. Known differences from the
manual, facts about the emulated machine: the PDPTEs of PAE paging are read from memory at each walk (SDM,
"PDPTE Registers": they are loaded by MOV to CR3), their reserved bits are checked then, and tables outside
memory read as zero.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import unicorn
from unicorn import x86_const

from oracles import unicorn_mmu

# Intel SDM, volume 3A, "Control Registers"; volume 4, IA32_SYSENTER_CS.
CR4_PSE = 1 << 4
MSR_SYSENTER_CS = 0x174
SYSEXIT = bytes.fromhex("0f35")


@dataclass(frozen=True)
class Registers32:
    """The state that steers paging outside 64-bit mode."""

    pae: bool
    nxe: bool = False
    wp: bool = True
    smep: bool = False
    smap: bool = False
    ac: bool = False

    @property
    def cr4(self) -> int:
        """CR4."""
        value = unicorn_mmu.CR4_PAE if self.pae else CR4_PSE
        value |= unicorn_mmu.CR4_SMEP if self.smep else 0
        return value | (unicorn_mmu.CR4_SMAP if self.smap else 0)


class Context32(unicorn_mmu.Context):
    """One emulated CPU in protected mode."""

    def __init__(self, registers: Registers32, user: bool = False) -> None:
        engine: Any = unicorn
        self._uc: Any = engine.Uc(unicorn.UC_ARCH_X86, unicorn.UC_MODE_32)
        self._uc.ctl_set_cpu_model(x86_const.UC_CPU_X86_ICELAKE_SERVER)
        self._uc.ctl_set_tlb_mode(unicorn.UC_TLB_CPU)
        efer = unicorn_mmu.EFER_NXE if registers.nxe else 0
        self._uc.msr_write(unicorn_mmu.MSR_EFER, efer)
        self._uc.reg_write(x86_const.UC_X86_REG_CR4, registers.cr4)
        self._region: tuple[int, int] | None = None
        if user:
            self._leave()
        flags = unicorn_mmu.EFLAGS_FIXED | (unicorn_mmu.EFLAGS_AC if registers.ac else 0)
        self._uc.reg_write(x86_const.UC_X86_REG_EFLAGS, flags)
        wp = unicorn_mmu.CR0_WP if registers.wp else 0
        cr0 = unicorn_mmu.CR0_PE | unicorn_mmu.CR0_PG | wp
        self._uc.reg_write(x86_const.UC_X86_REG_CR0, cr0)
        self._pa = unicorn_mmu.ctypes.c_uint64()
        self._saved = unicorn_mmu.ctypes.c_void_p()
        lib = unicorn_mmu.uclib
        assert lib.uc_context_alloc(self._uc._uch, unicorn_mmu.ctypes.byref(self._saved)) == 0
        self._saved_bytes: int = lib.uc_context_size(self._uc._uch)

    def _leave(self) -> None:
        """Execute SYSEXIT: "EIP <- EDX; ... CPL <- 3"."""
        code, after = 0x1000, 0x1800
        uc = self._uc
        uc.reg_write(x86_const.UC_X86_REG_CR0, unicorn_mmu.CR0_PE)
        uc.mem_map(code, 0x1000)
        uc.mem_write(code, SYSEXIT)
        uc.msr_write(MSR_SYSENTER_CS, 0x8)
        uc.reg_write(x86_const.UC_X86_REG_EDX, after)
        uc.reg_write(x86_const.UC_X86_REG_ECX, 0)
        uc.emu_start(code, after)
        uc.mem_unmap(code, 0x1000)


class Mmu32(unicorn_mmu.Mmu):
    """Both privilege levels of one register state, over one image at a time."""

    def __init__(self, registers: Registers32) -> None:
        without_ac = Registers32(**{**registers.__dict__, "ac": False})
        self._contexts = {
            False: Context32(registers),
            True: Context32(without_ac, user=True),
        }
        self._places = locate_32()


def locate_32() -> unicorn_mmu._Places:
    """Find where a saved state keeps the last error code and CR2 in this mode."""
    base = 0x10_0000
    tables = bytearray(2 * 4096)
    tables[0:4] = (base + 4096 | 0b111).to_bytes(4, "little")
    tables[4096 + 4 : 4096 + 8] = (0x5000 | 0b101).to_bytes(4, "little")
    context = Context32(Registers32(pae=False))
    context.load(bytes(tables), base, base)
    return unicorn_mmu.find_places(
        context,
        ((0x1234, "w", 0b00011), (0x3456, "w", 0b00010), (0x3458, "r", 0), (0x1238, "w", 3)),
    )

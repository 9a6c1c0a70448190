"""Unicorn (QEMU's software MMU) as a judge of x86 32-bit and PAE paging, at CPL 0. Test-only.

Driven like `unicorn_mmu`, whose pieces it uses. Known differences from the manual, facts about the emulated
machine: the PDPTEs of PAE paging are read from memory at each walk (SDM, "PDPTE Registers": they are loaded
by MOV to CR3), their reserved bits are checked then, and tables outside memory read as zero.
"""

from __future__ import annotations

from typing import Any

import unicorn
from unicorn import x86_const

from oracles import unicorn_mmu

# Intel SDM, volume 3A, "Control Registers".
CR4_PSE = 1 << 4


class Context32(unicorn_mmu.Context):
    """One emulated CPU in protected mode at CPL 0."""

    def __init__(self, *, pae: bool, nxe: bool, wp: bool) -> None:
        engine: Any = unicorn
        self._uc: Any = engine.Uc(unicorn.UC_ARCH_X86, unicorn.UC_MODE_32)
        self._uc.ctl_set_cpu_model(x86_const.UC_CPU_X86_ICELAKE_SERVER)
        self._uc.ctl_set_tlb_mode(unicorn.UC_TLB_CPU)
        self._uc.msr_write(unicorn_mmu.MSR_EFER, unicorn_mmu.EFER_NXE if nxe else 0)
        cr4 = unicorn_mmu.CR4_PAE if pae else CR4_PSE
        self._uc.reg_write(x86_const.UC_X86_REG_CR4, cr4)
        self._region: tuple[int, int] | None = None
        cr0 = unicorn_mmu.CR0_PE | unicorn_mmu.CR0_PG | (unicorn_mmu.CR0_WP if wp else 0)
        self._uc.reg_write(x86_const.UC_X86_REG_CR0, cr0)
        self._pa = unicorn_mmu.ctypes.c_uint64()
        self._saved = unicorn_mmu.ctypes.c_void_p()
        lib = unicorn_mmu.uclib
        assert lib.uc_context_alloc(self._uc._uch, unicorn_mmu.ctypes.byref(self._saved)) == 0
        self._saved_bytes: int = lib.uc_context_size(self._uc._uch)

"""Unicorn (QEMU's software MMU) as a judge of AArch32 walks, short and long. Test-only.

The `unicorn` package of PyPI, 2.1.x, is driven through its C function uc_vmem_translate, as in
unicorn_mmu.py. Its answer is an address or a plain "no".

System registers are written by instructions, MCR and MCRR, while the MMU is off, since only they
tell the emulator all that follows from a value; so every image gets a CPU of its own.

Known differences from the manual, all of them facts about this QEMU (5.0):

- A physical address is cut to 32 bits: uc_vmem_translate has no room for more.
- There is no PAN, and short descriptors know neither WXN nor UWXN.
- Nobody looks at the Access flag in a manager's domain. DDI 0406C, "The MMU fault-checking
  sequence", looks at it before the domain.
- Bits 47:40 of a long descriptor are ignored, as before Armv8.
- Bits of a block's long descriptor between 4 KiB and the block's size, which are UNK/SBZP, are part
  of the physical address, by OR.
- A table outside memory is a fault like any other here.
"""

from __future__ import annotations

import contextlib
import ctypes
from typing import Any

import unicorn
from unicorn import arm_const
from unicorn.unicorn_py3.unicorn import uclib

PROTECTION = {"r": unicorn.UC_PROT_READ, "w": unicorn.UC_PROT_WRITE, "x": unicorn.UC_PROT_EXEC}

# DDI 0406C, "System Control Registers in a VMSA implementation": bit positions.
SCTLR_M, SCTLR_WXN, SCTLR_UWXN, SCTLR_AFE = 1 << 0, 1 << 19, 1 << 20, 1 << 29
TTBCR_T2E, TTBCR_EAE = 1 << 6, 1 << 31
TTBCR2_HPD = 0b11 << 9
USER, SUPERVISOR = 0x10, 0x13
CODE = 0x8000

uclib.uc_vmem_translate.restype = ctypes.c_int
uclib.uc_vmem_translate.argtypes = [
    ctypes.c_void_p,
    ctypes.c_uint64,
    ctypes.c_uint32,
    ctypes.POINTER(ctypes.c_uint64),
]


class Mmu:
    """One emulated CPU with one image and its registers."""

    def __init__(
        self,
        image: tuple[int, bytes],
        root: int,
        config: dict[str, Any],
        dacr: int,
        wxn: bool,
        uwxn: bool,
    ) -> None:
        # The package has no types.
        engine: Any = unicorn
        self._uc: Any = engine.Uc(unicorn.UC_ARCH_ARM, unicorn.UC_MODE_ARM)
        self._uc.ctl_set_cpu_model(arm_const.UC_CPU_ARM_MAX)
        self._uc.ctl_set_tlb_mode(unicorn.UC_TLB_CPU)
        base, content = image
        self._uc.mem_map(base, len(content))
        self._uc.mem_write(base, content)
        self._uc.mem_map(CODE, 0x1000)
        self._pa = ctypes.c_uint64()
        self._user: bool | None = None
        self._mcr(3, 0, 0, dacr)
        self._set_tables(root, config)
        sctlr = SCTLR_M | (SCTLR_AFE if config.get("afe") else 0)
        sctlr |= (SCTLR_WXN if wxn else 0) | (SCTLR_UWXN if uwxn else 0)
        sctlr |= self._run(0xEE11_0F10)
        # With the MMU on, there is no next instruction.
        with contextlib.suppress(engine.UcError):
            self._mcr(1, 0, 0, sctlr)

    def _set_tables(self, root: int, config: dict[str, Any]) -> None:
        """Set TTBCR and one TTBR; the other TTBR's table is left at 0."""
        upper = int(config.get("upper", False))
        if config["descriptors"] == "short":
            self._mcr(2, 0, 2, config.get("n", 0))
            self._mcr(2, 0, upper, root)
            return
        ttbcr = TTBCR_EAE | config.get("tsz", 0) << (16 if upper else 0)
        if config.get("hpd"):
            self._mcr(2, 0, 3, TTBCR2_HPD)
            ttbcr |= TTBCR_T2E
        self._mcr(2, 0, 2, ttbcr)
        # MCRR p15, upper, r0, r1, c2
        self._run(0xEC41_0F02 | upper << 4, root)

    def _mcr(self, crn: int, crm: int, opc2: int, value: int) -> None:
        """Execute MCR p15, 0, r0, crn, crm, opc2."""
        self._run(0xEE00_0F10 | crn << 16 | opc2 << 5 | crm, value)

    def _run(self, instruction: int, value: int = 0) -> int:
        """Execute one instruction with r1:r0 = value; return r0."""
        self._uc.reg_write(arm_const.UC_ARM_REG_R0, value % (1 << 32))
        self._uc.reg_write(arm_const.UC_ARM_REG_R1, value >> 32)
        self._uc.mem_write(CODE, instruction.to_bytes(4, "little"))
        self._uc.ctl_remove_cache(CODE, CODE + 4)
        self._uc.emu_start(CODE, CODE + 4)
        return int(self._uc.reg_read(arm_const.UC_ARM_REG_R0))

    def translate(self, va: int, access: str, user: bool) -> int | None:
        """Judge one access, "r", "w" or "x": 32 bits of its address, or None for some fault."""
        if self._user != user:
            self._uc.reg_write(arm_const.UC_ARM_REG_CPSR, USER if user else SUPERVISOR)
            self._uc.ctl(unicorn.UC_CTL_TLB_FLUSH, unicorn.UC_CTL_IO_WRITE)
            self._user = user
        failed = uclib.uc_vmem_translate(
            self._uc._uch, va, PROTECTION[access], ctypes.byref(self._pa)
        )
        return None if failed else self._pa.value

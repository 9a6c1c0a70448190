"""Unicorn (QEMU's software MMU) as a judge of RISC-V Sv32 to Sv57 and of their G-stages. Test-only.

The `unicorn` package of PyPI, 2.1.x, is driven through its C function uc_vmem_translate, as in
unicorn_mmu.py. Its answer is an address or a plain "no", and there is nothing more to ask for: the
page faults of RISC-V carry no reason. What tells more is memory, where an access that is allowed
leaves its accessed and dirty flags: so it shows which entry was the leaf.

The privilege level is the pseudo register PRIV, and mstatus and satp can only be written while it
says M-mode. Sv57 is there, though no emulated board of that age offered it.

Known differences from the manual, all of them facts about this QEMU (5.0), which is older than the
rules in question. Chapter "Supervisor-Level ISA":

- Bits 63 and 62 of an entry are ignored, bits 61:54 are part of the address. "Sv39": "Bits 60-54
  are reserved for future standard use ... If any of these bits are set, a page-fault exception is
  raised"; "If Svpbmt is not implemented, bits 62-61 remain reserved and must be zeroed by software
  for forward compatibility, or else a page-fault exception is raised"; the same for bit 63.
- D, A and U of a pointer are ignored. "Sv32": "For non-leaf PTEs, the D, A, and U bits are reserved
  for future standard use", and "Virtual Address Translation Process", step 3: "if any bits or
  encodings that are reserved for future standard use are set within pte, stop and raise a
  page-fault exception".
- A physical address of Sv32 is cut to 32 bits. "Sv32": "The 20-bit VPN is translated into a 22-bit
  physical page number".
- Accessed and dirty flags are set by hardware, always: Svade does not exist here.
- A table outside memory is a fault like any other here.

Chapter "H" Extension for Hypervisor Support, "Two-Stage Address Translation":

- A guest physical address is sign-extended from its uppermost bit. "Address bits 63:41 must all be
  zeros, or else a guest-page-fault exception occurs" (Sv39x4; the others likewise).
- One of Sv32x4 is cut to 32 bits before the walk. "the size of the incoming address is widened by 2
  bits (to 34, 41, 50, or 59 bits)".
- A superpage that the root of a G-stage maps gets two bits too many of the address, by OR.
  "Virtual Address Translation Process", step 10: "pa.ppn[LEVELS-1:i] = pte.ppn[LEVELS-1:i]".
- MXR, set while V=0, does not reach a G-stage. "Setting MXR at HS-level, however, overrides both VS-stage and
  G-stage execute-only permissions."
"""

from __future__ import annotations

import ctypes
import re
from typing import Any

import unicorn
from unicorn import riscv_const
from unicorn.unicorn_py3.unicorn import uclib

# "Supervisor Address Translation and Protection (satp) Register", tables of MODE.
# The same codes in hgatp: "Hypervisor Guest Address Translation and Protection (hgatp) Register".
ATP_MODE = {"Sv32": 1 << 31, "Sv39": 8 << 60, "Sv48": 9 << 60, "Sv57": 10 << 60}
G_STAGE = "x4"
MISA_H = 1 << 7
# "Machine Status (mstatus and mstatush) Registers": bit positions.
MSTATUS_SUM, MSTATUS_MXR = 1 << 18, 1 << 19
# "Privilege Levels".
USER, SUPERVISOR, MACHINE, VIRTUAL = 0, 1, 3, 4

PROTECTION = {"r": unicorn.UC_PROT_READ, "w": unicorn.UC_PROT_WRITE, "x": unicorn.UC_PROT_EXEC}

uclib.uc_vmem_translate.restype = ctypes.c_int
uclib.uc_vmem_translate.argtypes = [
    ctypes.c_void_p,
    ctypes.c_uint64,
    ctypes.c_uint32,
    ctypes.POINTER(ctypes.c_uint64),
]
uclib.uc_context_size.restype = ctypes.c_size_t
uclib.uc_context_size.argtypes = [ctypes.c_void_p]
uclib.uc_context_alloc.restype = ctypes.c_int
uclib.uc_context_alloc.argtypes = [ctypes.c_void_p, ctypes.POINTER(ctypes.c_void_p)]
for _name in ("uc_context_save", "uc_context_restore"):
    getattr(uclib, _name).restype = ctypes.c_int
    getattr(uclib, _name).argtypes = [ctypes.c_void_p, ctypes.c_void_p]
uclib.uc_context_free.restype = ctypes.c_int
uclib.uc_context_free.argtypes = [ctypes.c_void_p]


def _add_hypervisor_extension(uc: Any, xlen: int) -> None:
    """Set misa.H in the CPU state, where misa and the mask of its possible bits are kept."""
    misa = uc.reg_read(riscv_const.UC_RISCV_REG_MISA)
    saved = ctypes.c_void_p()
    assert uclib.uc_context_alloc(uc._uch, ctypes.byref(saved)) == 0
    assert uclib.uc_context_save(uc._uch, saved) == 0
    assert saved.value is not None
    state = ctypes.string_at(saved.value, uclib.uc_context_size(uc._uch))
    places = [found.start() for found in re.finditer(re.escape(_le(misa, xlen)), state)]
    assert len(places) == 2, "misa not found"
    for place in places:
        ctypes.memmove(saved.value + place, _le(misa | MISA_H, xlen), xlen // 8)
    assert uclib.uc_context_restore(uc._uch, saved) == 0
    uclib.uc_context_free(saved)
    assert uc.reg_read(riscv_const.UC_RISCV_REG_MISA) == misa | MISA_H


def _le(value: int, xlen: int) -> bytes:
    return value.to_bytes(xlen // 8, "little")


class Mmu:
    """One emulated hart in one mode of translation, with one image at a time."""

    def __init__(self, mode: str) -> None:
        # The package has no types.
        engine: Any = unicorn
        self._g_stage = mode.endswith(G_STAGE)
        self._mode = mode.removesuffix(G_STAGE)
        xlen = 32 if self._mode == "Sv32" else 64
        width = unicorn.UC_MODE_RISCV32 if xlen == 32 else unicorn.UC_MODE_RISCV64
        self._uc: Any = engine.Uc(unicorn.UC_ARCH_RISCV, width)
        self._uc.ctl_set_tlb_mode(unicorn.UC_TLB_CPU)
        if self._g_stage:
            _add_hypervisor_extension(self._uc, xlen)
        self._region: tuple[int, int] | None = None
        self._state: tuple[bool, bool, bool] | None = None
        self._pa = ctypes.c_uint64()

    def load(self, content: bytes, base: int, root: int) -> None:
        """Replace memory by `content` at physical address `base`; satp or hgatp gets `root`."""
        region = (base, len(content))
        if region != self._region:
            if self._region is not None:
                self._uc.mem_unmap(*self._region)
            self._uc.mem_map(*region)
            self._region = region
        self._uc.reg_write(riscv_const.UC_RISCV_REG_PRIV, MACHINE)
        atp = riscv_const.UC_RISCV_REG_HGATP if self._g_stage else riscv_const.UC_RISCV_REG_SATP
        value = ATP_MODE[self._mode] | root >> 12
        self._uc.reg_write(atp, value)
        assert self._uc.reg_read(atp) == value
        self._state = None
        self.write(base, content)

    def write(self, pa: int, content: bytes) -> None:
        """Change memory and forget all translations."""
        self._uc.mem_write(pa, content)
        self._uc.ctl(unicorn.UC_CTL_TLB_FLUSH, unicorn.UC_CTL_IO_WRITE)

    def read(self, pa: int, size: int) -> bytes:
        """Return memory as it is now, with the flags that translating set."""
        return bytes(self._uc.mem_read(pa, size))

    def _enter(self, user: bool, sum_: bool, mxr: bool) -> None:
        """Set mstatus in M-mode, then the privilege level."""
        if self._state == (user, sum_, mxr):
            return
        mstatus = (MSTATUS_SUM if sum_ else 0) | (MSTATUS_MXR if mxr else 0)
        self._uc.reg_write(riscv_const.UC_RISCV_REG_PRIV, MACHINE)
        self._uc.reg_write(riscv_const.UC_RISCV_REG_MSTATUS, mstatus)
        assert self._uc.reg_read(riscv_const.UC_RISCV_REG_MSTATUS) == mstatus
        level = (USER if user else SUPERVISOR) + (VIRTUAL if self._g_stage else 0)
        self._uc.reg_write(riscv_const.UC_RISCV_REG_PRIV, level)
        self._state = (user, sum_, mxr)

    def translate(
        self, va: int, access: str, user: bool, sum_: bool = False, mxr: bool = False
    ) -> int | None:
        """Judge one access, "r", "w" or "x": its physical address, or None for some fault."""
        self._enter(user, sum_, mxr)
        failed = uclib.uc_vmem_translate(
            self._uc._uch, va, PROTECTION[access], ctypes.byref(self._pa)
        )
        return None if failed else self._pa.value

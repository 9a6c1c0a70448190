"""Unicorn (QEMU's software MMU) as a judge of x86-64 4-level and 5-level walks. Test-only.

The `unicorn` package of PyPI, 2.1.x, is driven through its C function uc_vmem_translate (declared
in unicorn.h: "Translate a virtual address to a physical address ... @prot: The access type for the
tlb lookup"), which takes about a microsecond per address. Its answer is an address or a plain "no";
the page-fault error code is read out of a saved CPU context, at a place that `_locate` finds by
causing faults whose codes are known, so nothing here depends on a structure's layout.

Paging is set up the way a CPU does it: EFER, CR3, CR4, then CR0.PG. PKRU and CPL 3 have no register
number, so stubs of WRPKRU and SYSRET run first, while paging is still off.

Known differences from the manuals, all of them facts about the emulated machine:

- MAXPHYADDR is always 40: bits 51:40 of a present entry are reserved. SDM, "Linear-Address
  Translation with 4-Level Paging and 5-Level Paging": "If the P flag of a paging-structure entry is
  1, bits 51:MAXPHYADDR are reserved." Images for this judge must be built with maxphyaddr=40.
- A table outside memory reads as zero, so it looks absent (`Answer.outcome` "not_present"). The
  manual says nothing of memory that is not there; the oracle calls it "bus".
- Accessed flags are set in entries above the one that faults. SDM, "Accessed and Dirty Flags":
  "Whenever the processor uses a paging-structure entry as part of linear-address translation, it
  sets the accessed flag in that entry". The engine works on its own copy of the image.
- PCIDs, protection keys for supervisor pages, HLAT and LAM do not exist here.
"""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Any

import unicorn
from unicorn import x86_const
from unicorn.unicorn_py3.unicorn import uclib

MAXPHYADDR = 40

# Intel SDM, volume 3A, "Control Registers", and volume 4, IA32_EFER and IA32_STAR.
CR0_PE, CR0_WP, CR0_PG = 1 << 0, 1 << 16, 1 << 31
CR4_PAE, CR4_PGE, CR4_LA57 = 1 << 5, 1 << 7, 1 << 12
CR4_SMEP, CR4_SMAP, CR4_PKE = 1 << 20, 1 << 21, 1 << 22
MSR_EFER, MSR_STAR = 0xC000_0080, 0xC000_0081
EFER_SCE, EFER_LME, EFER_LMA, EFER_NXE = 1 << 0, 1 << 8, 1 << 10, 1 << 11
EFLAGS_FIXED, EFLAGS_AC = 1 << 1, 1 << 18
# SYSRET takes CS from IA32_STAR[63:48] + 16 and forces its RPL to 3.
STAR_USER_CS = 0x20 << 48

WRPKRU = bytes.fromhex("0f01ef")
SYSRETQ = bytes.fromhex("480f07")

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
uclib.uc_context_save.restype = ctypes.c_int
uclib.uc_context_save.argtypes = [ctypes.c_void_p, ctypes.c_void_p]
uclib.uc_context_free.restype = ctypes.c_int
uclib.uc_context_free.argtypes = [ctypes.c_void_p]


@dataclass(frozen=True)
class Answer:
    """What the MMU said: an address, or a fault with the error code of a page fault.

    A non-canonical address has neither (a general protection exception).
    """

    pa: int | None
    error_code: int | None

    @property
    def outcome(self) -> str:
        """One of ok, not_canonical, not_present, reserved_bits, protection_key, permission."""
        if self.pa is not None:
            return "ok"
        if self.error_code is None:
            return "not_canonical"
        if not self.error_code & 1:
            return "not_present"
        if self.error_code & 1 << 3:
            return "reserved_bits"
        return "protection_key" if self.error_code & 1 << 5 else "permission"


@dataclass(frozen=True)
class Registers:
    """The state that steers paging."""

    levels: int = 4
    nxe: bool = True
    wp: bool = True
    smep: bool = False
    smap: bool = False
    ac: bool = False
    pke: bool = False
    pkru: int = 0

    @property
    def cr0(self) -> int:
        """CR0 with paging on."""
        return CR0_PE | CR0_PG | (CR0_WP if self.wp else 0)

    @property
    def cr4(self) -> int:
        """CR4 for this number of levels."""
        value = CR4_PAE | CR4_PGE | (CR4_LA57 if self.levels == 5 else 0)
        value |= CR4_SMEP if self.smep else 0
        value |= CR4_SMAP if self.smap else 0
        return value | (CR4_PKE if self.pke else 0)

    @property
    def efer(self) -> int:
        """IA32_EFER in 64-bit mode."""
        return EFER_SCE | EFER_LME | EFER_LMA | (EFER_NXE if self.nxe else 0)


class Context:
    """One emulated CPU at one privilege level, with one image at a time."""

    def __init__(self, registers: Registers, user: bool) -> None:
        # The package has no types.
        engine: Any = unicorn
        self._uc: Any = engine.Uc(unicorn.UC_ARCH_X86, unicorn.UC_MODE_64)
        # The model that knows LA57 and protection keys.
        self._uc.ctl_set_cpu_model(x86_const.UC_CPU_X86_ICELAKE_SERVER)
        self._uc.ctl_set_tlb_mode(unicorn.UC_TLB_CPU)
        self._uc.msr_write(MSR_EFER, registers.efer)
        self._uc.reg_write(x86_const.UC_X86_REG_CR4, registers.cr4)
        self._region: tuple[int, int] | None = None
        self._run_stubs(registers, user)
        flags = EFLAGS_FIXED | (EFLAGS_AC if registers.ac else 0)
        self._uc.reg_write(x86_const.UC_X86_REG_EFLAGS, flags)
        self._uc.reg_write(x86_const.UC_X86_REG_CR0, registers.cr0)
        self._pa = ctypes.c_uint64()
        self._saved = ctypes.c_void_p()
        assert uclib.uc_context_alloc(self._uc._uch, ctypes.byref(self._saved)) == 0
        self._saved_bytes: int = uclib.uc_context_size(self._uc._uch)

    def __del__(self) -> None:
        if getattr(self, "_saved", None):
            uclib.uc_context_free(self._saved)

    def _run_stubs(self, registers: Registers, user: bool) -> None:
        """Set PKRU and CPL by executing what sets them, with paging off."""
        code, after = 0x1000, 0x1800
        uc = self._uc
        uc.reg_write(x86_const.UC_X86_REG_CR0, CR0_PE)
        uc.mem_map(code, 0x1000)
        if registers.pke:
            uc.mem_write(code, WRPKRU)
            uc.reg_write(x86_const.UC_X86_REG_RAX, registers.pkru)
            uc.reg_write(x86_const.UC_X86_REG_RCX, 0)
            uc.reg_write(x86_const.UC_X86_REG_RDX, 0)
            uc.emu_start(code, code + len(WRPKRU))
        if user:
            start = code + 0x100
            uc.mem_write(start, SYSRETQ)
            uc.msr_write(MSR_STAR, STAR_USER_CS)
            uc.reg_write(x86_const.UC_X86_REG_RCX, after)
            uc.reg_write(x86_const.UC_X86_REG_R11, EFLAGS_FIXED)
            uc.emu_start(start, after)
        uc.mem_unmap(code, 0x1000)

    def load(self, content: bytes, base: int, root: int) -> None:
        """Replace memory by `content` at physical address `base`; CR3 becomes `root`."""
        region = (base, len(content))
        if region != self._region:
            if self._region is not None:
                self._uc.mem_unmap(*self._region)
            self._uc.mem_map(*region)
            self._region = region
        self._uc.mem_write(base, content)
        self._uc.reg_write(x86_const.UC_X86_REG_CR3, root)
        self._uc.ctl(unicorn.UC_CTL_TLB_FLUSH, unicorn.UC_CTL_IO_WRITE)

    def probe(self, va: int, access: str) -> int | None:
        """Translate one address; None is some fault."""
        failed = uclib.uc_vmem_translate(
            self._uc._uch, va, PROTECTION[access], ctypes.byref(self._pa)
        )
        return None if failed else self._pa.value

    def snapshot(self) -> bytes:
        """Return the bytes of the saved CPU state."""
        assert uclib.uc_context_save(self._uc._uch, self._saved) == 0
        assert self._saved.value is not None
        return ctypes.string_at(self._saved.value, self._saved_bytes)

    def read(self, pa: int, size: int) -> bytes:
        """Return the image as it is now, with the flags that translating set."""
        return bytes(self._uc.mem_read(pa, size))


@dataclass(frozen=True)
class _Places:
    """Where a saved CPU state keeps the last error code and CR2."""

    error_code: int
    cr2: int


@functools.cache
def _locate() -> _Places:
    """Find both places by causing page faults whose error code and address are known.

    SDM, "Page-Fault Exceptions": error code bits P 0, W/R 1, U/S 2, RSVD 3, I/D 4; CR2 receives the
    faulting linear address.
    """
    base = 0x10_0000
    tables = bytearray(4 * 4096)
    for level in range(3):
        entry = (base + (level + 1) * 4096) | 0b111
        tables[level * 4096 : level * 4096 + 8] = entry.to_bytes(8, "little")
    read_only, reserved = 0x5000 | 0b101, 0x6000 | 0b111 | 1 << 50
    tables[3 * 4096 + 8 : 3 * 4096 + 16] = read_only.to_bytes(8, "little")
    tables[3 * 4096 + 16 : 3 * 4096 + 24] = reserved.to_bytes(8, "little")
    context = Context(Registers(), user=False)
    context.load(bytes(tables), base, base)
    return find_places(
        context,
        (
            (0x1234, "w", 0b00011),
            (0x2345, "r", 0b01001),
            (0x2468, "x", 0b11001),
            (0x3456, "w", 0b00010),
            (0x4567, "x", 0b10000),
            (0x2579, "w", 0b01011),
        ),
    )


def find_places(context: Context, faults: Iterable[tuple[int, str, int]]) -> _Places:
    """Cause page faults (address, access, error code) and find where the saved state keeps both."""
    code_places: set[int] | None = None
    cr2_places: set[int] | None = None
    for va, access, code in faults:
        assert context.probe(va, access) is None
        saved = context.snapshot()
        codes = {at for at in range(0, len(saved) - 4, 4) if saved[at : at + 4] == _i32(code)}
        cr2s = {at for at in range(0, len(saved) - 8, 8) if saved[at : at + 8] == _i64(va)}
        code_places = codes if code_places is None else code_places & codes
        cr2_places = cr2s if cr2_places is None else cr2_places & cr2s
    assert len(code_places or ()) == 1, "error code not found"
    assert len(cr2_places or ()) == 1, "CR2 not found"
    return _Places(min(code_places or ()), min(cr2_places or ()))


def _i32(value: int) -> bytes:
    return value.to_bytes(4, "little")


def _i64(value: int) -> bytes:
    return value.to_bytes(8, "little")


@dataclass
class Mmu:
    """Both privilege levels of one register state, over one image at a time."""

    registers: Registers = field(default_factory=Registers)
    _contexts: dict[bool, Context] = field(default_factory=dict, init=False, repr=False)
    _places: _Places = field(default_factory=_locate, init=False, repr=False)

    def __post_init__(self) -> None:
        # EFLAGS.AC only matters to supervisor accesses; at CPL 3 it would check alignment.
        without_ac = replace(self.registers, ac=False)
        self._contexts = {
            False: Context(self.registers, user=False),
            True: Context(without_ac, user=True),
        }

    def load(self, content: bytes, base: int, root: int) -> None:
        """Give both contexts a fresh copy of the image."""
        for context in self._contexts.values():
            context.load(content, base, root)

    def translate(self, va: int, access: str, user: bool) -> Answer:
        """Judge one access: "r", "w" or "x", from CPL 3 when `user`."""
        context = self._contexts[user]
        pa = context.probe(va, access)
        if pa is not None:
            return Answer(pa, None)
        saved = context.snapshot()
        places = self._places
        cr2 = int.from_bytes(saved[places.cr2 : places.cr2 + 8], "little")
        code = int.from_bytes(saved[places.error_code : places.error_code + 4], "little")
        # A page fault writes CR2, a general protection exception leaves the address of the page
        # fault before it (0 at first, which is canonical and so never the address asked for here).
        return Answer(None, code if cr2 == va else None)

    def translate_many(self, vas: Iterable[int], access: str, user: bool) -> list[Answer]:
        """Judge many addresses."""
        return [self.translate(va, access, user) for va in vas]

    def memory(self, pa: int, size: int, user: bool = False) -> bytes:
        """Return one context's copy of the image, with accessed and dirty flags as set so far."""
        return self._contexts[user].read(pa, size)

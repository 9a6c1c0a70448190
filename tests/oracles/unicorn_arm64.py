"""Unicorn (QEMU's software MMU) as a judge of AArch64 translation regimes, stage 1 and stage 2. Test-only.

The `unicorn` package of PyPI, 2.1.x, runs a stub at EL3 with the EL3 MMU off: it executes an address
translation instruction (AT) for each address of a list and keeps PAR_EL1, which gives the output address
or the fault status code with its level and stage (Arm ARM DDI 0487, "PAR_EL1, Physical Address Register").
There is no AT for instruction fetches: they are asked of uc_vmem_translate, whose answer is an address or a
plain "no", at EL1 or EL0.

The engine resets with SCR_EL3.RW = 0 and HCR_EL2.RW = 0, by which the tables of EL1 are AArch32's whatever
the CPU runs: they are set first ("SCR_EL3", "HCR_EL2").

Known differences from the manual, all of them facts about this QEMU (5.0):

- FEAT_LPA, FEAT_LPA2, FEAT_HAFDBS and FEAT_XNX do not exist here; output addresses have 48 bits and are not
  held against TCR_ELx.IPS. "Address size fault": "... generated if ... the output address ... is larger
  than the implemented ... output address size".
- Bits of a block's descriptor between the granule and the block's size, which are RES0, are part of the
  physical address, by OR.
- A block is taken at every level but the last. "Block descriptor and Page descriptor": with 48-bit
  addresses there are none at level 0 (4K), and none above level 2 (16K, 64K).
- When the second stage refuses the address of a first-stage table, the code is always a Translation fault,
  with the level of the first stage's table. "Stage 2 fault on a stage 1 translation table walk": the fault is
  the second stage's, with its type and level.
- TxSZ below 16 counts as 16, above 39 as 39. "TCR_EL1": a reserved value "behaves as" one of the limits,
  or faults, as the implementation defines.
"""

from __future__ import annotations

import ctypes
import struct
from dataclasses import dataclass
from typing import Any

import unicorn
from unicorn import arm64_const
from unicorn.unicorn_py3.unicorn import uclib

# "Op0, op1, CRn, CRm, op2" of "AArch64 System Register Encoding".
REGISTERS = {
    "sctlr_el1": (3, 0, 1, 0, 0),
    "ttbr0_el1": (3, 0, 2, 0, 0),
    "ttbr1_el1": (3, 0, 2, 0, 1),
    "tcr_el1": (3, 0, 2, 0, 2),
    "mair_el1": (3, 0, 10, 2, 0),
    "sctlr_el2": (3, 4, 1, 0, 0),
    "hcr_el2": (3, 4, 1, 1, 0),
    "ttbr0_el2": (3, 4, 2, 0, 0),
    "tcr_el2": (3, 4, 2, 0, 2),
    "vttbr_el2": (3, 4, 2, 1, 0),
    "vtcr_el2": (3, 4, 2, 1, 2),
    "sctlr_el3": (3, 6, 1, 0, 0),
    "scr_el3": (3, 6, 1, 1, 0),
    "ttbr0_el3": (3, 6, 2, 0, 0),
    "tcr_el3": (3, 6, 2, 0, 2),
}
# "A64 System instructions for address translation".
AT = {
    "s1e1r": 0xD508_7800,
    "s1e1w": 0xD508_7820,
    "s1e0r": 0xD508_7840,
    "s1e0w": 0xD508_7860,
    "s1e1rp": 0xD508_7900,
    "s1e1wp": 0xD508_7920,
    "s1e2r": 0xD50C_7800,
    "s1e2w": 0xD50C_7820,
    "s12e1r": 0xD50C_7880,
    "s12e1w": 0xD50C_78A0,
    "s12e0r": 0xD50C_78C0,
    "s12e0w": 0xD50C_78E0,
    "s1e3r": 0xD50E_7800,
    "s1e3w": 0xD50E_7820,
}
# ldr x3, [x0], #8; at ..., x3; isb; mrs x4, par_el1; str x4, [x1], #8; subs x2, x2, #1; b.ne
STUB = (0xF840_8403, 3, 0xD503_3FDF, 0xD538_7404, 0xF800_8424, 0xF100_0442, 0x54FF_FF41)

EL3H, EL0T = 0b1101, 0b0000
MASKED = 0b1111 << 6
PAN = 1 << 22
SCR_NS, SCR_HCE, SCR_RW = 1 << 0, 1 << 8, 1 << 10
HCR_VM, HCR_RW = 1 << 0, 1 << 31
SCTLR_M, SCTLR_WXN = 1 << 0, 1 << 19

KIB = 1024
# "TCR_EL1": TG0 and TG1 number the granules differently.
TG0 = {4 * KIB: 0b00, 64 * KIB: 0b01, 16 * KIB: 0b10}
TG1 = {16 * KIB: 0b01, 4 * KIB: 0b10, 64 * KIB: 0b11}
PS_44_BITS = 0b100
PROTECTION = {"r": unicorn.UC_PROT_READ, "w": unicorn.UC_PROT_WRITE, "x": unicorn.UC_PROT_EXEC}

CODE, INPUT, OUTPUT = 0x1000, 0x10_0000, 0x20_0000
MOST = 0x10_0000 // 8
PA_MASK = (1 << 48) - 1 & ~0xFFF

# "PAR_EL1", field FST: status by bits 5:2, level in bits 1:0.
FST = {0b0000: "address_size", 0b0001: "not_present", 0b0010: "access_flag", 0b0011: "permission"}

uclib.uc_vmem_translate.restype = ctypes.c_int
uclib.uc_vmem_translate.argtypes = [
    ctypes.c_void_p,
    ctypes.c_uint64,
    ctypes.c_uint32,
    ctypes.POINTER(ctypes.c_uint64),
]


@dataclass(frozen=True)
class Par:
    """What one AT instruction left: an address, or why there is none, at which level of which stage.

    `level` as the manual numbers it; `walk`: the second stage refused the address of a first-stage table.
    """

    outcome: str
    pa: int | None = None
    level: int | None = None
    stage: int | None = None
    walk: bool = False


def read_par(par: int, va: int) -> Par:
    """Return what PAR_EL1 says of `va`."""
    if not par & 1:
        return Par("ok", pa=par & PA_MASK | va & 0xFFF)
    code = par >> 1 & 0x3F
    stage = 2 if par >> 9 & 1 else 1
    return Par(FST[code >> 2], level=code & 3, stage=stage, walk=bool(par >> 8 & 1))


class Cpu:
    """One emulated CPU at EL3."""

    def __init__(self) -> None:
        # The package has no types.
        engine: Any = unicorn
        self._uc: Any = engine.Uc(unicorn.UC_ARCH_ARM64, unicorn.UC_MODE_ARM)
        self._uc.ctl_set_cpu_model(arm64_const.UC_CPU_ARM64_MAX)
        self._uc.ctl_set_tlb_mode(unicorn.UC_TLB_CPU)
        self._uc.mem_map(0, 0x30_0000)
        self._uc.hook_add(unicorn.UC_HOOK_INTR, lambda uc, *_: uc.emu_stop())
        self._regions: set[tuple[int, int]] = set()
        self._pa = ctypes.c_uint64()
        self._enter(EL3H)
        self.set(scr_el3=SCR_NS | SCR_HCE | SCR_RW, hcr_el2=HCR_RW, sctlr_el3=0)

    def _enter(self, mode: int, pan: bool = False) -> None:
        state = mode | MASKED | (PAN if pan else 0)
        self._uc.reg_write(arm64_const.UC_ARM64_REG_PSTATE, state)

    def set(self, **registers: int) -> None:
        """Write system registers."""
        for name, value in registers.items():
            op0, op1, crn, crm, op2 = REGISTERS[name]
            where = (crn, crm, op0, op1, op2)
            self._uc.reg_write(arm64_const.UC_ARM64_REG_CP_REG, (*where, value))
            held = self._uc.reg_read(arm64_const.UC_ARM64_REG_CP_REG, where)
            assert held == value or name == "scr_el3", (name, hex(held))

    def load(self, content: bytes, base: int) -> None:
        """Put memory at physical address `base`, and forget all translations."""
        region = (base, len(content))
        if region not in self._regions:
            self._uc.mem_map(*region)
            self._regions.add(region)
        self._uc.mem_write(base, content)
        self._uc.ctl(unicorn.UC_CTL_TLB_FLUSH, unicorn.UC_CTL_IO_WRITE)

    def translate_many(self, instruction: str, vas: list[int], pan: bool = False) -> list[Par]:
        """Execute AT of this kind for each address, at EL3."""
        assert len(vas) <= MOST
        words = list(STUB)
        words[1] |= AT[instruction]
        self._enter(EL3H, pan)
        self._uc.mem_write(CODE, struct.pack(f"<{len(words)}I", *words))
        self._uc.ctl_remove_cache(CODE, CODE + 0x100)
        self._uc.mem_write(INPUT, struct.pack(f"<{len(vas)}Q", *vas))
        for number, value in enumerate((INPUT, OUTPUT, len(vas))):
            self._uc.reg_write(arm64_const.UC_ARM64_REG_X0 + number, value)
        end = CODE + 4 * len(words)
        self._uc.emu_start(CODE, end)
        assert self._uc.reg_read(arm64_const.UC_ARM64_REG_PC) == end, "the stub was interrupted"
        pars = struct.unpack(f"<{len(vas)}Q", self._uc.mem_read(OUTPUT, 8 * len(vas)))
        return [read_par(par, va) for par, va in zip(pars, vas, strict=True)]


class Mmu(Cpu):
    """One emulated CPU in one configuration, in the words of the oracle's Config: asked for single accesses.

    Unlike `translate_many` there is no reason of a refusal, but there are instruction fetches.
    """

    def __init__(self, base: int, size: int, **config: Any) -> None:
        super().__init__()
        self._config = config
        self._base = base
        self._empty = bytes(size)
        self._uc.mem_map(base, size)
        self._regions.add((base, size))
        self._state: tuple[bool, bool, bool] | None = None
        self._level = 1 if config.get("two_levels", True) else 2
        self._stage_2 = config.get("stage") == 2
        if self._stage_2:
            self.set(hcr_el2=HCR_RW | HCR_VM, vtcr_el2=translation_control(config))
        else:
            self.set(**{f"tcr_el{self._level}": translation_control(config)})

    def fill(self, entries: dict[int, int], root: int) -> None:
        """Replace memory by 64-bit entries, all others zero, with the first table at `root`."""
        self._uc.mem_write(self._base, self._empty)
        for address, value in entries.items():
            self._uc.mem_write(address, value.to_bytes(8, "little"))
        half = 1 if self._config.get("upper") else 0
        name = "vttbr_el2" if self._stage_2 else f"ttbr{half}_el{self._level}"
        self.set(**{name: root})
        self._state = None

    def _go(self, user: bool, wxn: bool, pan: bool) -> None:
        """Set PSTATE and SCTLR, and forget all translations."""
        if self._state == (user, wxn, pan):
            return
        self._enter(EL0T if user else self._level << 2 | 1, pan)
        # A write of a system register makes the emulator look at PSTATE again.
        on = 0 if self._stage_2 else SCTLR_M
        self.set(**{f"sctlr_el{self._level}": on | (SCTLR_WXN if wxn else 0)})
        self._uc.ctl(unicorn.UC_CTL_TLB_FLUSH, unicorn.UC_CTL_IO_WRITE)
        self._state = (user, wxn, pan)

    def translate(
        self, va: int, access: str, user: bool, wxn: bool = False, pan: bool = False
    ) -> int | None:
        """Judge one access, "r", "w" or "x": its physical address, or None for some fault."""
        self._go(user, wxn, pan)
        handle, pa = self._uc._uch, ctypes.byref(self._pa)
        failed = uclib.uc_vmem_translate(handle, va, PROTECTION[access], pa)
        return None if failed else int(self._pa.value)


def translation_control(config: dict[str, Any]) -> int:
    """Return TCR_EL1, TCR_EL2 or VTCR_EL2 for a configuration in the oracle's words."""
    granule, size = config.get("granule", 4 * KIB), config.get("t0sz", 16)
    if config.get("stage") == 2:
        # "VTCR_EL2", SL0 counts down from the highest level that a granule may start at.
        level = (2 if granule == 4 * KIB else 3) - config["start_level"]
        return size | level << 6 | TG0[granule] << 14 | PS_44_BITS << 16 | 1 << 31
    tbi, hpd = int(config.get("tbi", False)), int(config.get("hpd", False))
    if not config.get("two_levels", True):
        single = size | TG0[granule] << 14 | PS_44_BITS << 16 | tbi << 20 | hpd << 24
        return single | 1 << 31 | 1 << 23
    half = size | TG0[granule] << 14 | size << 16 | TG1[granule] << 30 | PS_44_BITS << 32
    return half | tbi << 37 | tbi << 38 | hpd << 41 | hpd << 42

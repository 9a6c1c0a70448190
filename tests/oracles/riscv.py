"""A naive reading of RISC-V page-based virtual memory, one sentence of the manual at a time.

This is a judge, not an implementation: slow, dumb, written from the words of the manual, and it
imports nothing of the library that it judges. Where a rule has a sentence, the sentence stands
above the line that obeys it. The manual is The RISC-V Instruction Set Manual, volume II,
Privileged Architecture; its chapters and sections are cited by title:

SV    "Supervisor-Level ISA", with the sections "Sv32", "Sv39", "Sv48" and "Sv57".
ALG   The same chapter, "Virtual Address Translation Process": the numbered steps.
NAPOT "Svnapot" Extension for NAPOT Translation Contiguity.
PBMT  "Svpbmt" Extension for Page-Based Memory Types.
H     "H" Extension for Hypervisor Support, "Guest Physical Address Translation".

The machine raises one page fault for every refusal. The outcomes here say which step refused:

not_canonical  the address itself, before any entry is read
bus            step 2: the entry lies outside memory (the machine: an access fault)
not_present    step 3: V=0
reserved_bits  steps 3, 4 and 5: `Result.rule` names the rule that the last entry breaks
access_flag    step 9, with Svade: A=0, or D=0 on a store
ok             step 10; steps 6 to 8, which ask who wants what, are `allowed`

Entries are named by the manual's i: "PTE2" is read where i=2, and "PTE0" maps 4 KiB.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

Read = Callable[[int, int], "int | None"]

OUTCOMES = ("ok", "not_present", "reserved_bits", "access_flag", "not_canonical", "bus")

PAGESIZE = 4096

# SV, "Sv32", figure "Sv32 page table entry"; "Sv39": "Bits 9-0 have the same meaning as for Sv32."
V, R, W, X, U, G, A, D = range(8)
PPN = 10
PBMT_HIGH, PBMT_LOW = 62, 61
N = 63
NAPOT_BITS = 4

RULE_WRITE_ONLY = "W without R"
RULE_HIGH_BITS = "bits 60:54"
RULE_N = "N without Svnapot"
RULE_PBMT = "PBMT without Svpbmt"
RULE_PBMT_3 = "PBMT = 3"
RULE_PBMT_POINTER = "PBMT of a pointer"
RULE_NAPOT = "N with a reserved encoding"
RULE_PA_BITS = "PPN beyond the physical address"
RULE_POINTER_DAU = "D, A or U of a pointer"
RULE_LAST_POINTER = "pointer where i = 0"
RULE_MISALIGNED = "misaligned superpage"


@dataclass(frozen=True)
class Mode:
    """One scheme of translation."""

    levels: int
    ptesize: int
    va_bits: int
    index_bits: int
    ppn_bits: int
    g_stage: bool


# SV, "Sv32": "Sv32 page tables consist of 2^10 page-table entries (PTEs), each of four bytes"; "The
# 20-bit VPN is translated into a 22-bit physical page number (PPN)"; "Sv39": "2^9 page table
# entries (PTEs), eight bytes each"; "The 27-bit VPN is translated into a 44-bit PPN via a
# three-level page table"; "Sv48": "four-level"; "Sv57": "five-level".
# H: "the size of the incoming address is widened by 2 bits (to 34, 41, 50, or 59 bits)".
MODES = {
    "Sv32": Mode(2, 4, 32, 10, 22, False),
    "Sv39": Mode(3, 8, 39, 9, 44, False),
    "Sv48": Mode(4, 8, 48, 9, 44, False),
    "Sv57": Mode(5, 8, 57, 9, 44, False),
    "Sv32x4": Mode(2, 4, 34, 10, 22, True),
    "Sv39x4": Mode(3, 8, 41, 9, 44, True),
    "Sv48x4": Mode(4, 8, 50, 9, 44, True),
    "Sv57x4": Mode(5, 8, 59, 9, 44, True),
}


@dataclass(frozen=True)
class Config:
    """What an implementation has; `pa_bits` 0 means all that the PPN field can hold."""

    mode: str = "Sv39"
    svnapot: bool = False
    svpbmt: bool = False
    svade: bool = False
    pa_bits: int = 0


@dataclass(frozen=True)
class Rights:
    """What the entries of one translation permit; `global_` is the G bit of any of them."""

    read: bool
    write: bool
    execute: bool
    user: bool
    global_: bool


@dataclass(frozen=True)
class Result:
    """What one walk found.

    `path` holds (name, address, value) of every entry that was read. `rule` is only there with
    "reserved_bits"; what describes a leaf only with "ok" and "access_flag". `page_size` is the size
    of what one entry maps, `entry_size` that of the whole NAPOT range that it belongs to.
    """

    outcome: str
    path: tuple[tuple[str, int, int], ...]
    g_stage: bool = False
    rule: str | None = None
    bus_address: int | None = None
    pa: int | None = None
    page_size: int | None = None
    entry_size: int | None = None
    rights: Rights | None = None
    pbmt: int | None = None
    accessed: bool | None = None
    dirty: bool | None = None

    @property
    def references(self) -> int:
        """Number of entries that were read."""
        return len(self.path)


def bits(value: int, high: int, low: int) -> int:
    """Return bits high:low of value, in the manual's notation, shifted down to bit 0."""
    return (value >> low) % (1 << (high - low + 1))


def bit(value: int, position: int) -> int:
    """Return one bit of value."""
    return bits(value, position, position)


def is_canonical(va: int, mode: Mode) -> bool:
    """Say whether va is an address that the scheme translates at all."""
    # An address of RV32 has 32 bits (a guest physical address 34): a wider one does not exist.
    # H: "Address bits 63:41 must all be zeros, or else a guest-page-fault exception occurs"
    # (Sv39x4; 63:50 for Sv48x4 and 63:59 for Sv57x4).
    if mode.ptesize == 4 or mode.g_stage:
        return va >> mode.va_bits == 0
    # SV, "Sv39": "Instruction fetch addresses and load and store effective addresses, which are 64
    # bits, must have bits 63-39 all equal to bit 38, or else a page-fault exception will occur";
    # "Sv48": "bits 63-48 all equal to bit 47"; "Sv57": "bits 63-57 all equal to bit 56".
    upper = bits(va, 63, mode.va_bits)
    all_ones = (1 << (64 - mode.va_bits)) - 1
    return va >> 64 == 0 and upper == (all_ones if bit(va, mode.va_bits - 1) else 0)


def vpn(va: int, i: int, mode: Mode) -> int:
    """Return va.vpn[i]."""
    low = 12 + i * mode.index_bits
    # H: "This partitioning is identical to that for an Sv39 virtual address ..., except with 2 more
    # bits at the high end in VPN[2]" (VPN[1] of Sv32x4, VPN[3] of Sv48x4, VPN[4] of Sv57x4).
    if i == mode.levels - 1:
        return bits(va, mode.va_bits - 1, low)
    return bits(va, low + mode.index_bits - 1, low)


def ppn_of(pte: int, mode: Mode) -> int:
    """Return pte.ppn, all its parts as one number."""
    return bits(pte, PPN + mode.ppn_bits - 1, PPN)


def is_pointer(pte: int) -> bool:
    """Say whether a valid entry points to a table.

    SV, "Sv32": "The permission bits, R, W, and X, indicate whether the page is readable, writable,
    and executable, respectively. When all three are zero, the PTE is a pointer to the next level of
    the page table; otherwise, it is a leaf PTE."
    """
    return bit(pte, R) == 0 and bit(pte, W) == 0 and bit(pte, X) == 0


def broken_high_bits(pte: int, i: int, config: Config) -> str | None:
    """Name the rule on bits 63:54 of an entry of eight bytes that is broken."""
    # SV, "Sv39": "Bits 60-54 are reserved for future standard use ... If any of these bits are set,
    # a page-fault exception is raised."
    if bits(pte, 60, 54) != 0:
        return RULE_HIGH_BITS
    pbmt = bits(pte, PBMT_HIGH, PBMT_LOW)
    # "If Svpbmt is not implemented, bits 62-61 remain reserved and must be zeroed by software for
    # forward compatibility, or else a page-fault exception is raised."
    if pbmt != 0 and not config.svpbmt:
        return RULE_PBMT
    # PBMT: "For non-leaf PTEs, bits 62-61 are reserved for future standard use. Until their use is
    # defined by a standard extension, they must be cleared by software for forward compatibility,
    # or else a page-fault exception is raised."
    if pbmt != 0 and is_pointer(pte):
        return RULE_PBMT_POINTER
    # PBMT: "using this reserved value" (3) "in a leaf PTE raises a page-fault exception".
    if pbmt == 3:
        return RULE_PBMT_3
    # SV, "Sv39": "If Svnapot is not implemented, bit 63 remains reserved and must be zeroed by
    # software for forward compatibility, or else a page-fault exception is raised."
    if bit(pte, N) == 1 and not config.svnapot:
        return RULE_N
    # NAPOT, "Page table entry encodings when pte.N=1": with i=0 only pte.ppn[0] = x xxxx 1000 is
    # defined, with i>=1 nothing. "If the encoding in pte is reserved according to" the table, "then
    # a page-fault exception must be raised."
    if bit(pte, N) == 1 and (i != 0 or bits(pte, PPN + NAPOT_BITS - 1, PPN) != 0b1000):
        return RULE_NAPOT
    return None


def broken_rule(pte: int, i: int, config: Config) -> str | None:
    """Name the first rule of steps 3, 4 and 5 that a valid entry breaks."""
    mode = MODES[config.mode]
    # ALG, 3: "or if pte.r=0 and pte.w=1".
    if bit(pte, R) == 0 and bit(pte, W) == 1:
        return RULE_WRITE_ONLY
    # ALG, 3: "or if any bits or encodings that are reserved for future standard use are set within
    # pte, stop and raise a page-fault exception".
    if mode.ptesize == 8:
        rule = broken_high_bits(pte, i, config)
        if rule is not None:
            return rule
    # SV, "Sv32": "For non-leaf PTEs, the D, A, and U bits are reserved for future standard use."
    if is_pointer(pte) and (bit(pte, D) or bit(pte, A) or bit(pte, U)):
        return RULE_POINTER_DAU
    # ALG: "The algorithm does not admit the possibility of ignoring high-order PPN bits for
    # implementations with narrower physical addresses." What happens instead is left to the checks
    # of physical addresses; this oracle calls such bits reserved.
    if config.pa_bits and ppn_of(pte, mode) * PAGESIZE >> config.pa_bits:
        return RULE_PA_BITS
    # ALG, 4: "this PTE is a pointer to the next level of the page table. Let i=i-1. If i<0, stop
    # and raise a page-fault exception".
    if is_pointer(pte) and i == 0:
        return RULE_LAST_POINTER
    # ALG, 5: "A leaf PTE has been reached. If i>0 and pte.ppn[i-1:0] != 0, this is a misaligned
    # superpage; stop and raise a page-fault exception".
    if not is_pointer(pte) and i > 0 and bits(pte, PPN + i * mode.index_bits - 1, PPN) != 0:
        return RULE_MISALIGNED
    return None


def leaf_result(path: tuple[tuple[str, int, int], ...], va: int, i: int, mode: Mode) -> Result:
    """Describe the translation whose last entry, at level i, is a leaf."""
    pte = path[-1][2]
    napot = mode.ptesize == 8 and bit(pte, N) == 1
    ppn = ppn_of(pte, mode)
    if napot:
        # NAPOT: "implicit reads of a NAPOT PTE return a copy of pte in which
        # pte.ppn[i][pte.napot_bits-1:0] is replaced by vpn[i][pte.napot_bits-1:0]."
        ppn = (ppn >> NAPOT_BITS << NAPOT_BITS) + bits(vpn(va, i, mode), NAPOT_BITS - 1, 0)
    low_bits = 12 + i * mode.index_bits
    # ALG, 10: "pa.pgoff = va.pgoff. If i>0, then this is a superpage translation and
    # pa.ppn[i-1:0] = va.vpn[i-1:0]. pa.ppn[LEVELS-1:i] = pte.ppn[LEVELS-1:i]."
    pa = (ppn >> (i * mode.index_bits) << low_bits) + bits(va, low_bits - 1, 0)
    # SV, "Sv32": "For non-leaf PTEs, the global setting implies that all mappings in the subsequent
    # levels of the page table are global." H: "The G bit in all G-stage PTEs ... must be ignored by
    # hardware."
    global_ = not mode.g_stage and any(bit(entry, G) for _, _, entry in path)
    return Result(
        outcome="ok",
        path=path,
        g_stage=mode.g_stage,
        pa=pa,
        # SV, "Sv39": "in addition to 4 KiB pages, Sv39 supports 2 MiB megapages and 1 GiB
        # gigapages".
        page_size=1 << low_bits,
        entry_size=PAGESIZE << NAPOT_BITS if napot else 1 << low_bits,
        # ALG, 6 to 8 read the bits of the leaf alone.
        rights=Rights(
            bit(pte, R) == 1, bit(pte, W) == 1, bit(pte, X) == 1, bit(pte, U) == 1, global_
        ),
        pbmt=bits(pte, PBMT_HIGH, PBMT_LOW) if mode.ptesize == 8 else 0,
        accessed=bit(pte, A) == 1,
        dirty=bit(pte, D) == 1,
    )


def root_table(root: int, mode: Mode) -> int:
    """Return the a of step 1 for the address that satp or hgatp holds."""
    # ALG, 1: "Let a be satp.ppn x PAGESIZE, and let i=LEVELS-1." H: "the root page table also must
    # be aligned to a 16 KiB boundary"; "hgatp": "the lowest two bits of the physical page number
    # (PPN) in hgatp always read as zeros".
    return root - root % (PAGESIZE * 4 if mode.g_stage else PAGESIZE)


def walk(
    read: Read,
    root: int,
    va: int,
    mode: str = "Sv39",
    svnapot: bool = False,
    svpbmt: bool = False,
    svade: bool = False,
    pa_bits: int = 0,
    store: bool = False,
) -> Result:
    """Translate one address and say what was found on the way.

    read(address, size) returns a little-endian entry, or None outside memory. `root` is the address
    of the root table; `store` only matters with Svade.
    """
    config = Config(mode, svnapot, svpbmt, svade, pa_bits)
    scheme = MODES[mode]
    if not is_canonical(va, scheme):
        return Result("not_canonical", (), scheme.g_stage)
    a = root_table(root, scheme)
    path: tuple[tuple[str, int, int], ...] = ()
    for i in reversed(range(scheme.levels)):
        # ALG, 2: "Let pte be the value of the PTE at address a+va.vpn[i] x PTESIZE."
        address = a + vpn(va, i, scheme) * scheme.ptesize
        pte = read(address, scheme.ptesize)
        # "If accessing pte violates a PMA or PMP check, raise an access-fault exception".
        if pte is None:
            return Result("bus", path, scheme.g_stage, bus_address=address)
        path = (*path, (f"PTE{i}", address, pte))
        # ALG, 3: "If pte.v=0"; SV, "Sv32": "if it is 0, all other bits in the PTE are don't-cares".
        if bit(pte, V) == 0:
            return Result("not_present", path, scheme.g_stage)
        rule = broken_rule(pte, i, config)
        if rule is not None:
            return Result("reserved_bits", path, scheme.g_stage, rule=rule)
        if not is_pointer(pte):
            return with_flags_judged(leaf_result(path, va, i, scheme), svade, store)
        a = ppn_of(pte, scheme) * PAGESIZE  # ALG, 4: "let a=pte.ppn x PAGESIZE and go to step 2."
    raise AssertionError("a pointer where i = 0 breaks a rule")


def with_flags_judged(result: Result, svade: bool, store: bool) -> Result:
    """Turn a translation into a fault where Svade wants the flags of its leaf set beforehand.

    ALG, 9: "If pte.a=0, or if the original memory access is a store and pte.d=0: If the Svade
    extension is implemented, stop and raise a page-fault exception".
    """
    if svade and (not result.accessed or (store and not result.dirty)):
        return replace(result, outcome="access_flag")
    return result


def allowed(
    result: Result,
    access: str,
    user: bool,
    sum_: bool = False,
    mxr: bool = False,
    svade: bool = False,
) -> bool:
    """Say whether a translation allows an access: "r", "w" or "x", from U-mode when `user`.

    With `svade`, a store to a page with D=0 is refused, whether or not the walk knew of the store.
    """
    assert result.rights is not None
    rights = result.rights
    # ALG, 9, as in with_flags_judged.
    if result.outcome == "access_flag":
        return False
    if svade and not (result.accessed and (access != "w" or result.dirty)):
        return False
    # H: "when checking the U bit, the current privilege mode is always taken to be U-mode".
    as_user = user or result.g_stage
    # ALG, 6; SV, "Sv32": "U-mode software may only access the page when U=1."
    if as_user and not rights.user:
        return False
    # SV, "Sv32": "If the SUM bit in the sstatus register is set, supervisor mode software may also
    # access pages with U=1. ... Irrespective of SUM, the supervisor may not execute code on pages
    # with U=1."
    if not as_user and rights.user and (access == "x" or not sum_):
        return False
    # ALG, 8: "Determine if the requested memory access is allowed by the pte.r, pte.w, and pte.x
    # bits." "Memory Privilege in sstatus Register": "When MXR=0, only loads from pages marked
    # readable ... will succeed. When MXR=1, loads from pages marked either readable or executable
    # ... will succeed." H: "Setting MXR at HS-level, however, overrides both VS-stage and G-stage
    # execute-only permissions."
    if access == "r":
        return rights.read or (mxr and rights.execute)
    return rights.write if access == "w" else rights.execute


def leaf_after(result: Result, access: str) -> int:
    """Return the leaf as it is after an allowed access where hardware sets the flags (no Svade).

    ALG, 9: "set pte.a to 1 and, if the original memory access is a store, also set pte.d to 1."
    """
    flags = 1 << A | (1 << D if access == "w" else 0)
    return result.path[-1][2] | flags

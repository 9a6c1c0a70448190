"""x86: CR0, CR3, CR4, IA32_EFER, PKRU, EFLAGS, EPTP.

Intel SDM vol. 3A (253668), "Control Registers", "Extended Feature Enable Register", "Paging Modes and Control
Bits" (which combinations a CPU accepts), "4-Level Paging and 5-Level Paging" (use of CR3); vol. 3C (326019),
"Extended-Page-Table Pointer (EPTP)". AMD APM vol. 2 (24593), "Nested Paging".
"""

from __future__ import annotations

from ptcore import formats
from ptcore.formats.registers import Part, Plan, Register, field, refuse_if

ARCHITECTURES = ("x86_64", "x86")
CR0_PE, CR0_WP, CR0_PG = 0, 16, 31
CR4_PSE, CR4_PAE, CR4_LA57, CR4_PCIDE, CR4_SMEP, CR4_SMAP, CR4_PKE = 4, 5, 12, 17, 20, 21, 22
EFER_LME, EFER_NXE = 8, 11
EFLAGS_AC = 18
REGISTERS = (
    Register("cr3", "where the tables begin", root=True),
    Register("cr0", "paging on (PG), write protection (WP)"),
    Register("cr4", "PAE, LA57 (5 levels), SMEP, SMAP, PKE"),
    Register("efer", "64-bit (LME), no-execute (NXE)"),
    Register("pkru", "what protection keys deny", rare=True),
    Register("rflags", "AC lets supervisor mode through SMAP", rare=True),
    Register("eptp", "Intel's second stage; alone: that stage only", root=True, second=True),
    Register("ncr3", "AMD's second stage; alone: that stage only", root=True, second=True),
    Register("physical_bits", "the CPU's physical address width"),
    Register("encryption_mask", "address bits that mark a page as encrypted or shared"),
)
# A 64-bit kernel with 4 levels: CR0 PE, WP, PG; CR4 PAE; IA32_EFER LME, LMA, NXE.
USUAL = {"x86_64": {"cr0": 0x8001_0001, "cr4": 0x20, "efer": 0xD00}}


def _bit(value: int, position: int) -> bool:
    return bool(value >> position & 1)


def decode(
    architecture: str,
    *,
    cr0: int | None = None,
    cr3: int | None = None,
    cr4: int = 0,
    efer: int = 0,
    pkru: int = 0,
    rflags: int = 0,
    eptp: int | None = None,
    ncr3: int | None = None,
    physical_bits: int | None = None,
    encryption_mask: int = 0,
    presence: str = "hardware",
) -> Plan:
    """Return the address space of the registers; `ncr3` is the nested CR3 of AMD's nested paging.

    With `eptp` or `ncr3` but without `cr3` it is the second stage alone.
    """
    second = _second_stage(eptp, ncr3)
    if cr3 is None and second is not None:
        return Plan(parts=(), stage2=second)
    refuse_if(cr0 is None or cr3 is None, f"{architecture}: cr0 and cr3 are wanted")
    assert cr0 is not None
    assert cr3 is not None
    _refuse(cr0, cr4, efer)
    rights: dict[str, object] = {
        "wp": _bit(cr0, CR0_WP),
        "smep": _bit(cr4, CR4_SMEP),
        # "EFLAGS.AC" lets supervisor mode through while it is 1.
        "smap": _bit(cr4, CR4_SMAP) and not _bit(rflags, EFLAGS_AC),
    }
    if presence != "hardware":
        rights["presence"] = presence
    long_mode, pae = _bit(efer, EFER_LME), _bit(cr4, CR4_PAE)
    if long_mode:
        name = "x86_64_5level" if _bit(cr4, CR4_LA57) else "x86_64_4level"
        keys = pkru if _bit(cr4, CR4_PKE) else None
        fmt = formats.get(name, nx=_bit(efer, EFER_NXE), pkru=keys, **rights)
        root = field(cr3, 51, 12) << 12
    elif pae:
        fmt = formats.get("x86_pae", nx=_bit(efer, EFER_NXE), **rights)
        root = field(cr3, 31, 5) << 5
    else:
        fmt = formats.get("x86_32", pse=_bit(cr4, CR4_PSE), **rights)
        root = field(cr3, 31, 12) << 12
    root &= ~encryption_mask
    width = fmt.physical_bits if physical_bits is None else min(physical_bits, fmt.physical_bits)
    refuse_if(root >> width != 0, f"CR3 = {cr3:#x} has address bits beyond the {width} of the CPU")
    # An encryption bit is an address bit of 8-byte items only.
    mask = encryption_mask if long_mode or pae else 0
    return Plan(
        parts=(Part(fmt, root, width, mask),),
        stage2=second,
        asid=cr3 & 0xFFF if _bit(cr4, CR4_PCIDE) else None,
    )


def _refuse(cr0: int, cr4: int, efer: int) -> None:
    refuse_if(not _bit(cr0, CR0_PG), "CR0.PG = 0: paging is off, addresses are physical")
    refuse_if(not _bit(cr0, CR0_PE), "CR0.PG = 1 needs CR0.PE = 1")
    long_mode = _bit(efer, EFER_LME)
    refuse_if(
        long_mode and not _bit(cr4, CR4_PAE),
        "IA32_EFER.LME = 1 with paging needs CR4.PAE = 1; clear LME for 32-bit paging",
    )
    refuse_if(not long_mode and _bit(cr4, CR4_PCIDE), "CR4.PCIDE = 1 needs IA32_EFER.LME = 1")


def _second_stage(eptp: int | None, ncr3: int | None) -> Part | None:
    refuse_if(eptp is not None and ncr3 is not None, "eptp and ncr3 are of two vendors: give one")
    if ncr3 is not None:
        return Part(formats.get("x86_64_4level", nested=True), field(ncr3, 51, 12) << 12)
    if eptp is None:
        return None
    # "Extended-Page-Table Pointer": 2:0 memory type, 5:3 one less than the levels, 6 accessed and dirty.
    refuse_if(
        field(eptp, 2, 0) not in (0, 6), f"EPTP memory type {field(eptp, 2, 0)} is not 0 or 6"
    )
    levels = field(eptp, 5, 3) + 1
    refuse_if(levels not in (4, 5), f"EPTP asks for {levels} levels; EPT has 4 or 5")
    fmt = formats.get(f"ept_{levels}level", ad=_bit(eptp, 6))
    return Part(fmt, field(eptp, 51, 12) << 12)

"""A naive reading of Intel's extended page tables (EPT), one rule of the manual at a time.

This is a judge, not an implementation: slow, dumb, written from the words of the manual, and it
imports nothing of the library that it judges. The manual is the Intel 64 and IA-32 Architectures
Software Developer's Manual, volume 3C, chapter "VMX Support for Address Translation", section "The
Extended Page Table Mechanism (EPT)"; its parts are cited by title. Words in quotation marks are the
manual's (of some edition); the rest is told:

TRANS  "EPT Translation Mechanism", with the tables "Format of an EPT PML4 Entry (PML4E) that
       References an EPT Page-Directory-Pointer Table" and their siblings.
MISC   "EPT Misconfigurations"
VIOL   "EPT Violations"
A/D    "Accessed and Dirty Flags for EPT"
TYPE   "EPT and Memory Typing"

The manual knows two exits. An EPT misconfiguration is about an entry, whatever the access; an EPT
violation is about the access. Here the walk ends with one of

not_canonical  the guest-physical address is wider than the tables translate (a violation)
bus            the entry lies outside memory
not_present    a violation
reserved_bits  a misconfiguration: the first rule of MISC that is broken is on reserved bits
misconfigured  a misconfiguration: the first rule of MISC that is broken is another one
ok             a translation, whose rights `allowed` judges (a violation, if it refuses)

`exit_reason` gives the manual's name. `Result.rules` lists every rule that the last entry breaks,
in the manual's order; the manual does not order them in time, since the exit is the same.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

Read = Callable[[int, int], "int | None"]

OUTCOMES = ("ok", "not_present", "reserved_bits", "misconfigured", "not_canonical", "bus")

# TRANS: "Bits 11:3 are bits 56:48 of the guest-physical address" (PML5E, with 5-level EPT), 47:39
# (PML4E), 38:30 (PDPTE), 29:21 (PDE), 20:12 (PTE).
STRUCTURES = {
    5: (("PML5E", 56, 48), ("PML4E", 47, 39), ("PDPTE", 38, 30), ("PDE", 29, 21), ("PTE", 20, 12)),
    4: (("PML4E", 47, 39), ("PDPTE", 38, 30), ("PDE", 29, 21), ("PTE", 20, 12)),
}

# The tables of TRANS: bit positions.
READ, WRITE, EXECUTE = 0, 1, 2
TYPE_HIGH, TYPE_LOW = 5, 3
IGNORE_PAT = 6
MAPS = 7
A, D = 8, 9
USER_EXECUTE = 10

# TYPE: the values of the EPT memory type; the others are reserved.
MEMORY_TYPES = {0: "UC", 1: "WC", 4: "WT", 5: "WP", 6: "WB"}

RULE_WRITE_WITHOUT_READ = "write without read"
RULE_EXECUTE_ONLY = "execute-only is not supported"
RULE_ADDRESS = "bits 51:N"
RULE_LOW_BITS = "reserved bits in 7:3"
RULE_PAGE_SIZE = "page size is not supported"
RULE_PAGE_BITS = "address bits below the page size"
RULE_TYPE = "EPT memory type 2, 3 or 7"

RULES_ON_RESERVED_BITS = (RULE_ADDRESS, RULE_LOW_BITS, RULE_PAGE_SIZE, RULE_PAGE_BITS)


@dataclass(frozen=True)
class Rights:
    """What all entries of one translation together permit.

    Without mode-based execute control both kinds of fetch hang on the same bit.
    """

    read: bool
    write: bool
    supervisor_execute: bool
    user_execute: bool


@dataclass(frozen=True)
class Result:
    """What one walk found. What describes a translation is there with "ok" only.

    `accessed` and `dirty` are those of the last entry, and None while the flags are not enabled.
    """

    outcome: str
    path: tuple[tuple[str, int, int], ...]
    rules: tuple[str, ...] = ()
    bus_address: int | None = None
    pa: int | None = None
    page_size: int | None = None
    rights: Rights | None = None
    memory_type: str | None = None
    ignore_pat: bool | None = None
    accessed: bool | None = None
    dirty: bool | None = None


@dataclass(frozen=True)
class Config:
    """What the processor has (its MAXPHYADDR, IA32_VMX_EPT_VPID_CAP) and what the VMCS enables."""

    levels: int = 4
    maxphyaddr: int = 52
    execute_only: bool = True
    page2m: bool = True
    page1g: bool = True
    mbec: bool = False
    ad: bool = False


def bits(value: int, high: int, low: int) -> int:
    """Return bits high:low of value, in the manual's notation, shifted down to bit 0."""
    return (value >> low) % (1 << (high - low + 1))


def bit(value: int, position: int) -> int:
    """Return one bit of value."""
    return bits(value, position, position)


def is_present(entry: int, config: Config) -> bool:
    """Say whether an entry is present."""
    # TRANS: "if bits 2:0 of an EPT PTE are all 0, the entry is considered to be 'not present'; the
    # logical processor ignores bits 63:3 of such an entry", and so for the others. A footnote adds
    # bit 10 to these bits if the "mode-based execute control for EPT" VM-execution control is 1.
    if config.mbec and bit(entry, USER_EXECUTE) == 1:
        return True
    return bits(entry, 2, 0) != 0


def maps_a_page(name: str, entry: int) -> bool:
    """Say whether a present entry maps a page (else: references a table)."""
    # TRANS: the PTE maps a 4-KByte page; "If bit 7 of the EPT PDPTE is 1, the EPT PDPTE maps a
    # 1-GByte page"; "If bit 7 of the EPT PDE is 1, the EPT PDE maps a 2-MByte page".
    return name == "PTE" or (name in ("PDPTE", "PDE") and bit(entry, MAPS) == 1)


def reserved_bits_set(name: str, entry: int, config: Config) -> list[str]:
    """List the rules on reserved bits that a present entry breaks. Tables of TRANS."""
    broken = []
    # "51:N Reserved (must be 0)", where "N is the physical-address width supported by the
    # processor".
    if config.maxphyaddr < 52 and bits(entry, 51, config.maxphyaddr) != 0:
        broken.append(RULE_ADDRESS)
    # Entry of a PML5 or PML4 table: "7:3 Reserved (must be 0)".
    if name in ("PML5E", "PML4E") and bits(entry, 7, 3) != 0:
        broken.append(RULE_LOW_BITS)
    # PDPTE that references a page directory, PDE that references a page table: "6:3 Reserved (must
    # be 0)"; "7 Must be 0 (otherwise, this entry maps a ... page)".
    if name in ("PDPTE", "PDE") and not maps_a_page(name, entry) and bits(entry, 6, 3) != 0:
        broken.append(RULE_LOW_BITS)
    # Footnote: "Not all processors allow bit 7 of an EPT PDPTE to be set to 1. Software should read
    # the VMX capability MSR IA32_VMX_EPT_VPID_CAP to determine whether this is allowed." The same
    # MSR has a bit for 2-MByte pages.
    supported = {"PDPTE": config.page1g, "PDE": config.page2m}
    if bit(entry, MAPS) == 1 and not supported.get(name, True):
        broken.append(RULE_PAGE_SIZE)
    # "29:12 Reserved (must be 0)": PDPTE that maps a 1-GByte page.
    if name == "PDPTE" and maps_a_page(name, entry) and bits(entry, 29, 12) != 0:
        broken.append(RULE_PAGE_BITS)
    # "20:12 Reserved (must be 0)": PDE that maps a 2-MByte page.
    if name == "PDE" and maps_a_page(name, entry) and bits(entry, 20, 12) != 0:
        broken.append(RULE_PAGE_BITS)
    return broken


def misconfigurations(name: str, entry: int, config: Config) -> list[str]:
    """List the rules that an entry breaks, in the order of MISC."""
    broken = []
    # Bit 0 is clear (data reads are not allowed) and any of the following hold. Older editions
    # list values: "either 010b (write-only) or 110b (write/execute)", and "100b (execute-only) and
    # this value is not supported by the logical processor".
    if bit(entry, READ) == 0:
        # Bit 1 is set (data writes are allowed).
        if bit(entry, WRITE) == 1:
            broken.append(RULE_WRITE_WITHOUT_READ)
        # The processor does not support execute-only translations, and bit 2 is set (instruction
        # fetches are allowed), or bit 10 is set and the "mode-based execute control for EPT"
        # VM-execution control is 1.
        fetch = bit(entry, EXECUTE) == 1 or (config.mbec and bit(entry, USER_EXECUTE) == 1)
        if fetch and not config.execute_only:
            broken.append(RULE_EXECUTE_ONLY)
    # The "entry is present" and "one of the following holds":
    if is_present(entry, config):
        # "A reserved bit is set. This includes the setting of a bit in the range 51:12 that is
        # beyond the logical processor's physical-address width."
        broken.extend(reserved_bits_set(name, entry, config))
        # "The entry is the last one used to translate a guest physical address (either an EPT PDE
        # with bit 7 set to 1 or an EPT PTE) and the value of bits 5:3 (EPT memory type) is 2, 3, or
        # 7 (these values are reserved)." A PDPTE with bit 7 set to 1 is a last one, too.
        if maps_a_page(name, entry) and bits(entry, TYPE_HIGH, TYPE_LOW) in (2, 3, 7):
            broken.append(RULE_TYPE)
    return broken


def combined_rights(entries: list[int], config: Config) -> Rights:
    """AND the bits of all entries. VIOL."""

    def everywhere(position: int) -> bool:
        return all(bit(entry, position) == 1 for entry in entries)

    # An instruction fetch: with mode-based execute control, bit 2 is for supervisor-mode linear
    # addresses and bit 10 for user-mode ones; without, bit 2 is for all, and bit 10 is ignored.
    return Rights(
        # "The access is a data read and bit 0 was clear in any of the EPT paging-structure entries
        # used to translate the guest-physical address."
        read=everywhere(READ),
        # "The access is a data write and bit 1 was clear in any of the EPT paging-structure
        # entries used to translate the guest-physical address."
        write=everywhere(WRITE),
        supervisor_execute=everywhere(EXECUTE),
        user_execute=everywhere(USER_EXECUTE if config.mbec else EXECUTE),
    )


def leaf_result(path: list[tuple[str, int, int]], gpa: int, config: Config) -> Result:
    """Describe the translation whose last entry maps a page."""
    name, _, leaf = path[-1]
    # TRANS: "Bits 51:30 are from the EPT PDPTE. Bits 29:0 are from the original guest-physical
    # address"; 51:21 and 20:0 (PDE); 51:12 and 11:0 (PTE).
    offset_bits = {"PDPTE": 30, "PDE": 21, "PTE": 12}[name]
    return Result(
        outcome="ok",
        path=tuple(path),
        pa=(bits(leaf, 51, offset_bits) << offset_bits) + bits(gpa, offset_bits - 1, 0),
        page_size=1 << offset_bits,
        rights=combined_rights([entry for _, _, entry in path], config),
        # "5:3 EPT memory type for this ... page"; "6 Ignore PAT memory type for this ... page".
        memory_type=MEMORY_TYPES[bits(leaf, TYPE_HIGH, TYPE_LOW)],
        ignore_pat=bit(leaf, IGNORE_PAT) == 1,
        # A/D: bit 8 is the accessed and bit 9 the dirty flag if bit 6 of EPTP is 1, else both are
        # ignored.
        accessed=bit(leaf, A) == 1 if config.ad else None,
        dirty=bit(leaf, D) == 1 if config.ad else None,
    )


def walk(read: Read, root: int, gpa: int, **config: int) -> Result:
    """Translate one guest-physical address. `root` is the EPTP; `config` has Config's fields."""
    have = Config(**config)  # type: ignore[arg-type]
    # TRANS: 4-level EPT (page-walk length 4) translates 48-bit guest-physical addresses, 5-level
    # EPT 57-bit ones. A set bit above makes the access an EPT violation.
    if gpa >> (STRUCTURES[have.levels][0][1] + 1) != 0:
        return Result("not_canonical", ())
    path: list[tuple[str, int, int]] = []
    # "A 4-KByte naturally aligned EPT PML4 table is located at the physical address specified in
    # bits 51:12 of the extended-page-table pointer (EPTP)".
    source = root
    for name, high, low in STRUCTURES[have.levels]:
        # "Bits 63:52 are all 0. Bits 51:12 are from the EPTP [below: from the entry before]. Bits
        # 11:3 are bits 47:39 of the guest-physical address. Bits 2:0 are all 0."
        address = (bits(source, 51, 12) << 12) + (bits(gpa, high, low) << 3)
        entry = read(address, 8)
        if entry is None:
            return Result("bus", tuple(path), bus_address=address)
        path.append((name, address, entry))
        # MISC asks for bits 1:0 before it asks for presence, but every entry that breaks that rule
        # is present, so the order is free.
        rules = misconfigurations(name, entry, have)
        if rules:
            reserved = rules[0] in RULES_ON_RESERVED_BITS
            outcome = "reserved_bits" if reserved else "misconfigured"
            return Result(outcome, tuple(path), tuple(rules))
        # VIOL: "Translation of the guest-physical address encounters an EPT paging-structure entry
        # that is not present".
        if not is_present(entry, have):
            return Result("not_present", tuple(path))
        if maps_a_page(name, entry):
            return leaf_result(path, gpa, have)
        source = entry
    raise AssertionError("every PTE maps a page")


def allowed(result: Result, access: str, user: bool = False, guest_paging: bool = False) -> bool:
    """Say whether the rights of a translation allow an access: "r", "w" or "x". VIOL.

    `user` says whether the linear address is a user-mode address; it matters to fetches only, and
    only with mode-based execute control. `guest_paging` marks an access to a guest paging
    structure.
    """
    assert result.outcome == "ok"
    assert result.rights is not None
    rights = result.rights
    # A/D: while the flags are enabled, the processor's accesses to guest paging-structure entries
    # are treated as writes, with regard to EPT violations.
    if guest_paging and result.accessed is not None:
        return rights.read and rights.write
    if access == "x":
        return rights.user_execute if user else rights.supervisor_execute
    return {"r": rights.read, "w": rights.write}[access]


def exit_reason(result: Result, access: str, user: bool = False) -> str | None:
    """Name the VM exit that an access would cause: "misconfiguration", "violation" or None.

    Memory that is not there is no VM exit of EPT: None.
    """
    if result.outcome in ("reserved_bits", "misconfigured"):
        return "misconfiguration"
    if result.outcome in ("not_present", "not_canonical"):
        return "violation"
    if result.outcome == "ok" and not allowed(result, access, user):
        return "violation"
    return None

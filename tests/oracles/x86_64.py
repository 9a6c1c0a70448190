"""A naive reading of x86-64 paging, one sentence of the manual at a time.

This is a judge, not an implementation: slow, dumb, written from the words of the manuals, and it
imports nothing of the library that it judges. Where a rule has a sentence, the sentence stands
above the line that obeys it. Sections are cited by title, because their numbers move:

SDM   Intel 64 and IA-32 Architectures Software Developer's Manual, volume 3A, chapter "Paging".
SDM1  The same manual, volume 1, chapter "Basic Execution Environment".
APM   AMD64 Architecture Programmer's Manual, volume 2.

The order of the outcomes is the manual's. A linear address that is not canonical never reaches
paging. "If a paging-structure entry's P flag (bit 0) is 0 or if the entry sets any reserved bit,
the entry is used neither to reference another paging-structure entry nor to map a page" (SDM,
"Linear-Address Translation with 4-Level Paging and 5-Level Paging"): the walk ends at that entry,
whatever the entries above it permit. Rights are judged only for a translation that exists ("A
reference using a linear address that is successfully translated to a physical address is
performed only if allowed by the access rights of the translation", same section).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

ReadEntry = Callable[[int], "int | None"]

OUTCOMES = ("ok", "not_present", "reserved_bits", "not_canonical", "bus")

KIB = 1024
PAGE_4K = 4 * KIB
PAGE_2M = 2 * KIB * KIB
PAGE_1G = KIB * KIB * KIB

# The paging structures from the one that CR3 locates downward, with the bits of the linear address
# that select an entry of each. SDM, "Linear-Address Translation with 4-Level Paging and 5-Level
# Paging": "Bits 11:3 are bits 56:48 of the linear address" (PML5E), 47:39 (PML4E), 38:30 (PDPTE),
# 29:21 (PDE), 20:12 (PTE).
STRUCTURES = {
    5: (("PML5E", 56, 48), ("PML4E", 47, 39), ("PDPTE", 38, 30), ("PDE", 29, 21), ("PTE", 20, 12)),
    4: (("PML4E", 47, 39), ("PDPTE", 38, 30), ("PDE", 29, 21), ("PTE", 20, 12)),
}

# SDM, tables "Format of a 4-Level or 5-Level Page-Table Entry that Maps a 4-KByte Page",
# "... Page-Directory Entry that Maps a 2-MByte Page" and their siblings: bit positions.
P, R_W, U_S, PWT, PCD, A, D, PS, G = 0, 1, 2, 3, 4, 5, 6, 7, 8
PAT_OF_4K_PAGE = 7
PAT_OF_LARGE_PAGE = 12
XD = 63

# SDM, "Page-Fault Exceptions", figure "Page-Fault Error Code": bit positions.
ERROR_P, ERROR_W_R, ERROR_U_S, ERROR_RSVD, ERROR_I_D, ERROR_PK = 0, 1, 2, 3, 4, 5


@dataclass(frozen=True)
class Rights:
    """What all entries of one translation together permit."""

    read: bool
    write: bool
    execute: bool
    user: bool


@dataclass(frozen=True)
class Result:
    """What one walk found. Everything after `path` is None unless the outcome is "ok".

    `path` holds (name, address, value) of every entry that was read, so its length is the number
    of references. `bus_address` names the entry that lies outside memory.
    """

    outcome: str
    path: tuple[tuple[str, int, int], ...]
    bus_address: int | None = None
    pa: int | None = None
    page_size: int | None = None
    rights: Rights | None = None
    global_: bool | None = None
    pat_index: int | None = None
    pkey: int | None = None
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


def is_canonical(va: int, levels: int) -> bool:
    """Say whether va is canonical.

    SDM1, "Canonical Addressing": "address bits 63 through to the most-significant implemented bit
    by the microarchitecture are set to either all ones or all zeros". SDM, "Linear-Address
    Translation ...": 4-level paging uses bits 47:0 of the linear address, 5-level bits 56:0.
    """
    most_significant = STRUCTURES[levels][0][1]
    upper = bits(va, 63, most_significant)
    all_ones = (1 << (63 - most_significant + 1)) - 1
    return upper in (0, all_ones)


def sign_extend(va: int, levels: int) -> int:
    """Return the canonical form of the low bits of va."""
    most_significant = STRUCTURES[levels][0][1]
    low = bits(va, most_significant, 0)
    if bit(low, most_significant):
        return low + (1 << 64) - (1 << (most_significant + 1))
    return low


def maps_a_page(name: str, entry: int) -> bool:
    """Say whether a present entry without reserved bits maps a page (else: references a table)."""
    # "Because a PTE is identified using bits 47:12 of the linear address, every PTE maps a 4-KByte
    # page."
    if name == "PTE":
        return True
    # "If the PDPTE's PS flag is 1, the PDPTE maps a 1-GByte page"; "If the PDE's PS flag is 1, the
    # PDE maps a 2-MByte page".
    if name in ("PDPTE", "PDE"):
        return bit(entry, PS) == 1
    return False


def reserved_bits_set(
    name: str,
    entry: int,
    maxphyaddr: int = 52,
    nxe: bool = True,
    encryption_mask: int = 0,
    page1gb: bool = True,
) -> list[str]:
    """List the rules on reserved bits that a present entry breaks.

    SDM, "Linear-Address Translation with 4-Level Paging and 5-Level Paging": "The following bits
    are reserved with 4-level paging and 5-level paging".
    """
    broken = []
    # APM, "Secure Memory Encryption", "Page Table Support": the C-bit marks a page as encrypted and
    # is no part of the address, so it is no reserved address bit either.
    address = entry & ~encryption_mask
    # "If the P flag of a paging-structure entry is 1, bits 51:MAXPHYADDR are reserved."
    if maxphyaddr < 52 and bits(address, 51, maxphyaddr) != 0:
        broken.append("bits 51:MAXPHYADDR")
    # "If the P flag of a PML5E or a PML4E is 1, the PS flag is reserved."
    if name in ("PML5E", "PML4E") and bit(entry, PS) == 1:
        broken.append("PS flag of a " + name)
    # "If 1-GByte pages are not supported and the P flag of a PDPTE is 1, the PS flag is reserved."
    if name == "PDPTE" and not page1gb and bit(entry, PS) == 1:
        broken.append("PS flag of a PDPTE without 1-GByte pages")
    # "If the P flag and the PS flag of a PDPTE are both 1, bits 29:13 are reserved."
    if name == "PDPTE" and bit(entry, PS) == 1 and bits(address, 29, 13) != 0:
        broken.append("bits 29:13 of a PDPTE that maps a 1-GByte page")
    # "If the P flag and the PS flag of a PDE are both 1, bits 20:13 are reserved."
    if name == "PDE" and bit(entry, PS) == 1 and bits(address, 20, 13) != 0:
        broken.append("bits 20:13 of a PDE that maps a 2-MByte page")
    # "If IA32_EFER.NXE = 0 and the P flag of a paging-structure entry is 1, the XD flag (bit 63) is
    # reserved."
    if not nxe and bit(entry, XD) == 1:
        broken.append("XD flag while IA32_EFER.NXE = 0")
    return broken


def leaf_result(
    path: list[tuple[str, int, int]], va: int, nxe: bool, encryption_mask: int
) -> Result:
    """Describe the translation whose last entry maps a page."""
    name, _, leaf = path[-1]
    address = leaf & ~encryption_mask
    if name == "PTE":
        # "Bits 51:12 are from the PTE. Bits 11:0 are from the original linear address."
        pa, page_size = (bits(address, 51, 12) << 12) + bits(va, 11, 0), PAGE_4K
    elif name == "PDE":
        # "Bits 51:21 are from the PDE. Bits 20:0 are from the original linear address."
        pa, page_size = (bits(address, 51, 21) << 21) + bits(va, 20, 0), PAGE_2M
    else:
        # "Bits 51:30 are from the PDPTE. Bits 29:0 are from the original linear address."
        pa, page_size = (bits(address, 51, 30) << 30) + bits(va, 29, 0), PAGE_1G
    entries = [entry for _, _, entry in path]
    rights = Rights(
        # Nothing in an entry forbids a read by itself: see allowed().
        read=True,
        # SDM, "Determination of Access Rights": "the R/W flag is 1 in every paging-structure entry
        # controlling the translation".
        write=all(bit(entry, R_W) == 1 for entry in entries),
        # "the XD flag is 0 in every paging-structure entry controlling the translation", and "if
        # IA32_EFER.NXE = 0, instructions may be fetched from any ... address".
        execute=not nxe or all(bit(entry, XD) == 0 for entry in entries),
        # "If the U/S flag (bit 2) is 0 in at least one of the paging-structure entries, the address
        # is a supervisor-mode address. Otherwise, the address is a user-mode address."
        user=all(bit(entry, U_S) == 1 for entry in entries),
    )
    # "Paging and Memory Typing When the PAT is Supported": the index is "4*PAT+2*PCD+PWT, where
    # the PAT, PCD, and PWT values come from the relevant PTE", PDE or PDPTE, which maps the page.
    pat = bit(leaf, PAT_OF_4K_PAGE if name == "PTE" else PAT_OF_LARGE_PAGE)
    return Result(
        outcome="ok",
        path=tuple(path),
        pa=pa,
        page_size=page_size,
        rights=rights,
        # "8 (G): Global; if CR4.PGE = 1, determines whether the translation is global"; only in
        # the tables of entries that map a page.
        global_=bit(leaf, G) == 1,
        pat_index=4 * pat + 2 * bit(leaf, PCD) + bit(leaf, PWT),
        # "Protection Keys": "located in bits 62:59 of the paging-structure entry that mapped the
        # page containing the linear address".
        pkey=bits(leaf, 62, 59),
        accessed=bit(leaf, A) == 1,
        dirty=bit(leaf, D) == 1,
    )


def walk(
    read8: ReadEntry,
    cr3: int,
    va: int,
    levels: int = 4,
    maxphyaddr: int = 52,
    nxe: bool = True,
    encryption_mask: int = 0,
    page1gb: bool = True,
) -> Result:
    """Translate one linear address and say what was found on the way.

    read8(pa) returns the little-endian 8 bytes at pa, or None outside memory.
    """
    if not is_canonical(va, levels):
        return Result("not_canonical", ())
    path: list[tuple[str, int, int]] = []
    # "located at the physical address specified in bits 51:12 of CR3"
    source = cr3
    for name, high, low in STRUCTURES[levels]:
        # "Bits 51:12 are from CR3" (below: from the entry before); "Bits 11:3 are bits 47:39 of the
        # linear address"; "Bits 2:0 are all 0".
        address = (bits(source & ~encryption_mask, 51, 12) << 12) + (bits(va, high, low) << 3)
        entry = read8(address)
        if entry is None:
            return Result("bus", tuple(path), bus_address=address)
        path.append((name, address, entry))
        # "Page-Fault Exceptions": "reserved bits are not checked in a paging-structure entry whose
        # P flag is 0".
        if bit(entry, P) == 0:
            return Result("not_present", tuple(path))
        if reserved_bits_set(name, entry, maxphyaddr, nxe, encryption_mask, page1gb):
            return Result("reserved_bits", tuple(path))
        if maps_a_page(name, entry):
            return leaf_result(path, va, nxe, encryption_mask)
        source = entry
    raise AssertionError("every PTE maps a page")


def key_permits(
    result: Result, access: str, user: bool, wp: bool = True, pkru: int = 0, pke: bool = False
) -> bool:
    """Say whether protection keys permit the access. SDM, "Protection Keys"."""
    assert result.rights is not None
    assert result.pkey is not None
    # "When CR4.PKE = 1, every linear address is associated with the 4-bit protection key"; PKRU
    # determines "whether user-mode addresses with that protection key may be read or written", so
    # keys concern neither supervisor-mode addresses nor instruction fetches.
    if not pke or not result.rights.user or access == "x":
        return True
    # "PKRU[2i] is the access-disable bit for protection key i (ADi); PKRU[2i+1] is the
    # write-disable bit for protection key i (WDi)."
    access_disable = bit(pkru, 2 * result.pkey)
    write_disable = bit(pkru, 2 * result.pkey + 1)
    # "If ADi = 1, no data accesses are permitted" to user-mode addresses with protection key i.
    if access_disable:
        return False
    # "If WDi = 1, permission may be denied to certain data write accesses: User-mode write accesses
    # are not permitted. Supervisor-mode write accesses are not permitted if CR0.WP = 1."
    return not (write_disable and access == "w" and (user or wp))


def allowed(
    result: Result,
    access: str,
    user: bool,
    wp: bool = True,
    smep: bool = False,
    smap: bool = False,
    ac: bool = False,
    pkru: int = 0,
    pke: bool = False,
) -> bool:
    """Say whether the rights of a translation allow an access: "r", "w" or "x".

    `user` is the mode of the access (CPL = 3); every supervisor access here is explicit.
    SDM, "Determination of Access Rights".
    """
    assert result.outcome == "ok"
    assert result.rights is not None
    rights = result.rights
    if not key_permits(result, access, user, wp, pkru, pke):
        return False
    if user:
        # "For user-mode accesses": "Data reads": "Data may be read from any user-mode address with
        # a protection key for which read access is permitted"; "may not be read from any
        # supervisor-mode address"; writes also need "the R/W flag is 1 in every" entry; fetches
        # need "the XD flag is 0 in every" entry.
        permitted_by_entries = {"r": True, "w": rights.write, "x": rights.execute}
        return rights.user and permitted_by_entries[access]
    if access == "x":
        # "Instruction fetches from user-mode addresses": "If CR4.SMEP = 1, instructions may not be
        # fetched from any user-mode address."
        if rights.user and smep:
            return False
        # "instructions may be fetched from any supervisor-mode address with a translation for
        # which the XD flag is 0 in every paging-structure entry"; the same for user-mode addresses.
        return rights.execute
    # "If CR4.SMAP = 1 ... If EFLAGS.AC = 0 or the access is implicit, data may not be read from any
    # user-mode address"; the same for writes.
    if rights.user and smap and not ac:
        return False
    if access == "r":
        # "Data may be read (implicitly or explicitly) from any supervisor-mode address."
        return True
    # "If CR0.WP = 0, data may be written to any supervisor-mode address" (and, with the key's
    # permission, user-mode address); "If CR0.WP = 1, data may be written to any ... address with a
    # translation for which the R/W flag is 1 in every paging-structure entry".
    return rights.write or not wp


def error_code(
    result: Result,
    access: str,
    user: bool,
    wp: bool = True,
    smep: bool = False,
    smap: bool = False,
    ac: bool = False,
    pkru: int = 0,
    pke: bool = False,
    nxe: bool = True,
) -> int | None:
    """Return the error code that a CPU would push for the page fault, or None without one.

    A non-canonical address raises a general protection (or stack) exception instead, and a table
    outside memory is no page fault, so both are None. SDM, "Page-Fault Exceptions".
    """
    if result.outcome in ("not_canonical", "bus"):
        return None
    if result.outcome == "ok" and allowed(result, access, user, wp, smep, smap, ac, pkru, pke):
        return None
    code = 0
    # "P flag (bit 0). This flag is 0 if there is no translation for the linear address because the
    # P flag was 0 in one of the paging-structure entries used to translate that address."
    if result.outcome != "not_present":
        code += 1 << ERROR_P
    # "W/R (bit 1). If the access causing the page-fault exception was a write, this flag is 1;
    # otherwise, it is 0. This flag describes the access ..., not the access rights".
    if access == "w":
        code += 1 << ERROR_W_R
    # "U/S (bit 2). If a user-mode access caused the page-fault exception, this flag is 1".
    if user:
        code += 1 << ERROR_U_S
    # "RSVD flag (bit 3). This flag is 1 if there is no translation for the linear address because a
    # reserved bit was set in one of the paging-structure entries used to translate that address."
    if result.outcome == "reserved_bits":
        code += 1 << ERROR_RSVD
    # "I/D flag (bit 4). This flag is 1 if (1) the access causing the page-fault exception was an
    # instruction fetch; and (2) either (a) CR4.SMEP = 1; or (b) both (i) CR4.PAE = 1 ...; and (ii)
    # IA32_EFER.NXE = 1." Both level counts run with CR4.PAE = 1.
    if access == "x" and (smep or nxe):
        code += 1 << ERROR_I_D
    # "PK flag (bit 5). This flag is 1 if (1) IA32_EFER.LMA = CR4.PKE = 1; (2) the access causing
    # the page-fault exception was a data access; (3) the linear address was a user-mode address
    # with protection key i; and" PKRU denies it as in "Protection Keys". Other rights may deny the
    # same access: the flag does not ask which came first.
    if result.outcome == "ok" and not key_permits(result, access, user, wp, pkru, pke):
        code += 1 << ERROR_PK
    return code


@dataclass(frozen=True)
class Leaf:
    """One entry that maps a page, as a brute listing finds it."""

    va: int
    result: Result


def mappings(
    read8: ReadEntry,
    cr3: int,
    levels: int = 4,
    maxphyaddr: int = 52,
    nxe: bool = True,
    encryption_mask: int = 0,
    page1gb: bool = True,
    limit: int = 1_000_000,
) -> Iterator[Leaf]:
    """List every leaf in the order of unsigned canonical addresses; for small tables only.

    Every slot of every table on every path is visited, so tables that are reached n times are
    listed n times. More than `limit` slots raise OverflowError rather than run for ever.
    """
    visited = 0

    def visit(source: int, depth: int, va: int, path: list[tuple[str, int, int]]) -> Iterator[Leaf]:
        nonlocal visited
        name, _, low = STRUCTURES[levels][depth]
        for index in range(512):
            visited += 1
            if visited > limit:
                raise OverflowError(f"more than {limit} slots")
            address = (bits(source & ~encryption_mask, 51, 12) << 12) + (index << 3)
            entry = read8(address)
            if entry is None or bit(entry, P) == 0:
                continue
            if reserved_bits_set(name, entry, maxphyaddr, nxe, encryption_mask, page1gb):
                continue
            here = va + (index << low)
            steps = [*path, (name, address, entry)]
            if maps_a_page(name, entry):
                page = sign_extend(here, levels)
                yield Leaf(page, leaf_result(steps, page, nxe, encryption_mask))
            else:
                yield from visit(entry, depth + 1, here, steps)

    yield from visit(cr3, 0, 0, [])

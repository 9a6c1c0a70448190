"""A naive reading of AArch32 translation tables, one rule of the manual at a time.

This is a judge, not an implementation: slow, dumb, written from the words of the manual, and it
imports nothing of the library that it judges. The rule stands above the line that obeys it, in
paraphrase where no quotation marks stand. The manuals are the ARM Architecture Reference Manual,
ARMv7-A and ARMv7-R edition (DDI 0406C), chapter "Virtual Memory System Architecture (VMSA)", and
the manual for A-profile (DDI 0487), chapter "The AArch32 Virtual Memory System Architecture". Their
sections are cited by title:

L1    "Short-descriptor translation table first-level descriptor formats"
L2    "Short-descriptor translation table second-level descriptor formats"
TTBR  "Selecting between TTBR0 and TTBR1, Short-descriptor translation table format", and the same
      of the Long-descriptor format
LONG  "Long-descriptor translation table format descriptors", with "Attribute fields in ..."
AP    "Memory access control", with "Access permissions"
XN    "Execute-never restrictions on instruction fetching"
DOM   "Domains, Short-descriptor format only"
AF    "The Access flag"

The outcomes:

not_canonical  the address is the other TTBR's (short), or no TTBR's (long: a Translation fault)
address_size   LONG, from Armv8: bits 47:40 of an address are not zero
bus            a descriptor lies outside memory (external abort on a walk)
not_present    a fault entry or a reserved encoding (Translation fault); `Result.reason` says
access_flag    the Access flag is 0
ok             there is a translation; whether it permits an access, `allowed` says. A Domain fault
               is a refusal of `allowed`, since it asks for DACR and comes after the walk.

No bit that is SBZ or UNK/SBZP faults, except as above. Tables are little-endian.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

Read = Callable[[int, int], "int | None"]
Path = tuple[tuple[str, int, int], ...]

OUTCOMES = ("ok", "not_present", "address_size", "access_flag", "not_canonical", "bus")

KIB = 1024
MIB = 1024 * KIB
PAGE, LARGE_PAGE, SECTION, SUPERSECTION = 4 * KIB, 64 * KIB, MIB, 16 * MIB

# DOM, DACR: the meanings of a domain's two bits.
NO_ACCESS, CLIENT, RESERVED, MANAGER = range(4)
ALL_CLIENTS = 0x5555_5555

# AP, "AP[2:0] access permissions control, Short-descriptor format only": (PL1 read, PL1 write,
# PL0 read, PL0 write).
AP_MEANINGS = {
    0b000: (False, False, False, False),  # "No access"
    0b001: (True, True, False, False),  # "Access only at PL1"
    0b010: (True, True, True, False),  # "Writes at PL0 generate Permission faults"
    0b011: (True, True, True, True),  # "Full access"
    0b100: (False, False, False, False),  # "Reserved": unpredictable; here it permits nothing
    0b101: (True, False, False, False),  # "Read-only, only at PL1"
    0b110: (True, False, True, False),  # "Read-only at any privilege level, deprecated"
    0b111: (True, False, True, False),  # "Read-only at any privilege level"
}

# AP, "AP[2:1] access permissions control": the same four columns. It is the model of AFE = 1 and
# of the long descriptors.
AP21_MEANINGS = {
    0b00: (True, True, False, False),  # "Read/write, only at PL1"
    0b01: (True, True, True, True),  # "Read/write, at any privilege level"
    0b10: (True, False, False, False),  # "Read-only, only at PL1"
    0b11: (True, False, True, False),  # "Read-only, at any privilege level"
}


@dataclass(frozen=True)
class Rights:
    """What all descriptors of one translation together permit, at PL1 (or PL2) and at PL0.

    DACR, WXN, UWXN and PAN are state of the CPU, not of the tables: see allowed(). Where the
    regime has one privilege level, nothing is permitted to a user.
    """

    priv_read: bool
    priv_write: bool
    priv_exec: bool
    user_read: bool
    user_write: bool
    user_exec: bool


@dataclass(frozen=True)
class Result:
    """What one walk found. Everything after `reason` is None unless the outcome is "ok".

    `path` holds (name, address, value) of every descriptor that was read, "L1" to "L3".
    `bus_address` names the descriptor that lies outside memory, `reason` the rule that refused.
    `page_size` of a supersection or large page is the whole 16 MiB or 64 KiB, although sixteen
    descriptors say so. `entry_size` differs from it in contiguous groups of long descriptors only.
    `domain` is None for long descriptors, which have none.
    """

    outcome: str
    path: Path
    bus_address: int | None = None
    reason: str | None = None
    pa: int | None = None
    page_size: int | None = None
    entry_size: int | None = None
    rights: Rights | None = None
    domain: int | None = None

    @property
    def references(self) -> int:
        """Number of descriptors that were read."""
        return len(self.path)


def bits(value: int, high: int, low: int) -> int:
    """Return bits high:low of value, in the manual's notation, shifted down to bit 0."""
    return (value >> low) % (1 << (high - low + 1))


def bit(value: int, position: int) -> int:
    """Return one bit of value."""
    return bits(value, position, position)


@dataclass(frozen=True)
class Short:
    """What the registers say of tables of short descriptors.

    n          TTBCR.N
    upper      the table is TTBR1's
    afe        SCTLR.AFE: AP[0] is the Access flag
    pxn        the implementation has the PXN attribute
    extended   the implementation has supersections with physical addresses of 40 bits
    """

    n: int = 0
    upper: bool = False
    afe: bool = False
    pxn: bool = True
    extended: bool = True


@dataclass(frozen=True)
class Attributes:
    """The fields of a section or page descriptor, wherever its format puts them."""

    ap: int
    xn: int
    pxn: int
    domain: int


def short_rights(attributes: Attributes, afe: bool) -> Rights:
    """Read AP[2:0], XN and PXN. L1 and L2 have no rights that tables take away, but PXN."""
    # AP: with AFE = 1, AP[2:1] alone defines the permissions.
    meaning = AP21_MEANINGS[bits(attributes.ap, 2, 1)] if afe else AP_MEANINGS[attributes.ap]
    return executable(meaning, xn=attributes.xn == 1, pxn=attributes.pxn == 1)


def executable(meaning: tuple[bool, bool, bool, bool], xn: bool, pxn: bool) -> Rights:
    """Add the rights to execute."""
    priv_read, priv_write, user_read, user_write = meaning
    # XN: an instruction can be fetched at PL0 if the region has read access at PL0 and XN is 0; at
    # PL1 if it has read access at PL1 and XN and PXN are 0.
    return Rights(
        priv_read=priv_read,
        priv_write=priv_write,
        priv_exec=priv_read and not xn and not pxn,
        user_read=user_read,
        user_write=user_write,
        user_exec=user_read and not xn,
    )


def short_result(path: Path, pa: int, size: int, attributes: Attributes, afe: bool) -> Result:
    """Judge the descriptor that maps a section or page."""
    # AF: with AFE = 1, AP[0] is the Access flag; 0 is an Access flag fault.
    if afe and bit(attributes.ap, 0) == 0:
        return Result("access_flag", path, reason="AP[0]")
    return Result(
        outcome="ok",
        path=path,
        pa=pa,
        page_size=size,
        entry_size=size,
        rights=short_rights(attributes, afe),
        domain=attributes.domain,
    )


def section(path: Path, va: int, config: Short) -> Result:
    """Read a first-level descriptor that maps a section or supersection."""
    entry = path[-1][2]
    # L1: AP[2] is bit 15, AP[1:0] bits 11:10; XN bit 4; PXN bit 0.
    ap = (bit(entry, 15) << 2) + bits(entry, 11, 10)
    pxn = bit(entry, 0) if config.pxn else 0
    # L1: bit 18 is 0 in a section, 1 in a supersection.
    if bit(entry, 18) == 0:
        # "Bits[31:20]: section base address"; bits 8:5 are the domain.
        pa = (bits(entry, 31, 20) << 20) + bits(va, 19, 0)
        attributes = Attributes(ap, bit(entry, 4), pxn, domain=bits(entry, 8, 5))
        return short_result(path, pa, SECTION, attributes, config.afe)
    # Bits 31:24 are PA[31:24], bits 23:20 PA[35:32], bits 8:5 PA[39:36], where implemented.
    pa = (bits(entry, 31, 24) << 24) + bits(va, 23, 0)
    if config.extended:
        pa += (bits(entry, 23, 20) << 32) + (bits(entry, 8, 5) << 36)
    # DOM: a supersection belongs to domain 0.
    attributes = Attributes(ap, bit(entry, 4), pxn, domain=0)
    return short_result(path, pa, SUPERSECTION, attributes, config.afe)


def short_page(path: Path, va: int, config: Short) -> Result:
    """Read a second-level descriptor that maps a large or small page."""
    table, entry = path[0][2], path[1][2]
    # L2: AP[2] is bit 9, AP[1:0] bits 5:4. L1, page table: PXN is bit 2, the domain bits 8:5.
    ap = (bit(entry, 9) << 2) + bits(entry, 5, 4)
    pxn = bit(table, 2) if config.pxn else 0
    domain = bits(table, 8, 5)
    # L2: bit 1 is 1 in a small page, whose bit 0 is XN; a large page (0b01) has XN in bit 15.
    if bit(entry, 1) == 1:
        pa = (bits(entry, 31, 12) << 12) + bits(va, 11, 0)
        attributes = Attributes(ap, bit(entry, 0), pxn, domain)
        return short_result(path, pa, PAGE, attributes, config.afe)
    pa = (bits(entry, 31, 16) << 16) + bits(va, 15, 0)
    attributes = Attributes(ap, bit(entry, 15), pxn, domain)
    return short_result(path, pa, LARGE_PAGE, attributes, config.afe)


def walk_short(read: Read, root: int, va: int, config: Short) -> Result:
    """Translate one address through short descriptors."""
    if not 0 <= config.n <= 7:
        raise ValueError("TTBCR.N has three bits")
    # TTBR: "If N > 0 then: if bits[31:32-N] of the input VA are all zero then use TTBR0; otherwise
    # use TTBR1"; with N = 0, always TTBR0.
    if va >> 32:
        return Result("not_canonical", (), reason="more than 32 bits")
    is_upper = config.n > 0 and bits(va, 31, 32 - config.n) != 0
    if is_upper != config.upper:
        return Result("not_canonical", (), reason="the other TTBR")
    # TTBR: the table of TTBR0 has 2^(12-N) descriptors, selected by VA[31-N:20], and is aligned to
    # its size; that of TTBR1 is the same as with N = 0.
    high = 31 if config.upper else 31 - config.n
    base = root - root % (4 << (high - 19))
    address = base + 4 * bits(va, high, 20)
    entry = read(address, 4)
    if entry is None:
        return Result("bus", (), bus_address=address)
    path: Path = (("L1", address, entry),)
    # L1, bits 1:0: 0b00 invalid; 0b01 page table; 0b10 section; 0b11 section with PXN = 1, or
    # reserved where PXN is not implemented.
    kind = bits(entry, 1, 0)
    if kind == 0b00 or (kind == 0b11 and not config.pxn):
        return Result("not_present", path, reason="invalid" if kind == 0 else "reserved")
    if kind != 0b01:
        return section(path, va, config)
    # L1: bits 31:10 are the page table's base; L2: VA[19:12] selects one of 256 descriptors.
    address = (bits(entry, 31, 10) << 10) + 4 * bits(va, 19, 12)
    entry = read(address, 4)
    if entry is None:
        return Result("bus", path, bus_address=address)
    path = (*path, ("L2", address, entry))
    # L2, bits 1:0: 0b00 invalid; 0b01 large page; 0b1x small page.
    if bits(entry, 1, 0) == 0b00:
        return Result("not_present", path, reason="invalid")
    return short_page(path, va, config)


@dataclass(frozen=True)
class Long:
    """What the registers say of tables of long descriptors, stage 1.

    tsz         TTBCR.T0SZ or T1SZ, HTCR.T0SZ
    upper       the table is TTBR1's
    two_levels  the regime has PL0 and PL1; else PL2 (Hyp mode) alone
    hpd         hierarchical permissions are disabled (FEAT_AA32HPD)
    armv8       bits 47:40 of an address fault; before Armv8 they are ignored
    """

    tsz: int = 0
    upper: bool = False
    two_levels: bool = True
    hpd: bool = False
    armv8: bool = True


LONG_LEVELS = {1: (38, 30), 2: (29, 21), 3: (20, 12)}


def long_rights(path: Path, config: Long) -> Rights:
    """Combine the leaf's AP, XN and PXN with the tables' APTable, XNTable and PXNTable."""
    leaf = path[-1][2]
    tables = [] if config.hpd else [value for _, _, value in path[:-1]]
    # LONG: AP[2:1] are bits 7:6, PXN bit 53, XN bit 54; APTable bits 62:61, XNTable bit 60, PXNTable
    # bit 59.
    xn = bit(leaf, 54) == 1 or any(bit(table, 60) for table in tables)
    pxn = bit(leaf, 53) == 1 or any(bit(table, 59) for table in tables)
    # AP: at PL2, AP[1] is SBO, APTable[0], PXN and PXNTable are SBZ; none of them has an effect.
    ap = bits(leaf, 7, 6) if config.two_levels else 2 * bit(leaf, 7)
    priv_read, priv_write, user_read, user_write = AP21_MEANINGS[ap]
    # APTable[1] = 1: no writes at any level. APTable[0] = 1: no access at PL0.
    if any(bit(table, 62) for table in tables):
        priv_write = user_write = False
    if any(bit(table, 61) for table in tables):
        user_read = user_write = False
    meaning = (priv_read, priv_write, user_read, user_write)
    return executable(meaning, xn, pxn and config.two_levels)


def long_leaf(path: Path, va: int, level: int, config: Long) -> Result:
    """Judge the descriptor that maps a block or page."""
    leaf = path[-1][2]
    # LONG, DDI 0487: bits 47:40 of the output address that are not zero are an Address size fault.
    if config.armv8 and bits(leaf, 47, 40) != 0:
        return Result("address_size", path, reason="output address")
    # LONG: bit 10 is the Access flag, whatever AFE says.
    if bit(leaf, 10) == 0:
        return Result("access_flag", path, reason="AF")
    low = LONG_LEVELS[level][1]
    # LONG: a contiguous group (bit 52) has sixteen descriptors; a table of level 1 has four at most.
    adjacent = 16 if bit(leaf, 52) == 1 and level > 1 else 1
    return Result(
        outcome="ok",
        path=path,
        pa=(bits(leaf, 39, low) << low) + bits(va, low - 1, 0),
        page_size=1 << low,
        entry_size=adjacent << low,
        rights=long_rights(path, config),
    )


def walk_long(read: Read, root: int, va: int, config: Long) -> Result:
    """Translate one address through long descriptors."""
    size = 32 - config.tsz
    if not 0 <= config.tsz <= 7 or (config.upper and not config.two_levels):
        raise ValueError("TxSZ has three bits, and Hyp mode no TTBR1")
    # TTBR: the top T0SZ bits are zeros for TTBR0, the top T1SZ bits ones for TTBR1; else there is a
    # Translation fault.
    if va >> 32 or va >> size != (((1 << config.tsz) - 1) if config.upper else 0):
        return Result("not_canonical", (), reason="input address")
    # TTBR: the lookup starts at the first level if TxSZ is 0 or 1, else at the second.
    first, high = (1 if config.tsz < 2 else 2), size - 1
    # The table is aligned to its size, and its base has 40 bits.
    base = root - root % (8 << (size - LONG_LEVELS[first][1]))
    if config.armv8 and base >> 40:
        return Result("address_size", (), reason="TTBR")
    path: Path = ()
    for level in range(first, 4):
        low = LONG_LEVELS[level][1]
        address = base + 8 * bits(va, high, low)
        entry = read(address, 8)
        if entry is None:
            return Result("bus", path, bus_address=address)
        path = (*path, (f"L{level}", address, entry))
        # LONG: bit 0 is 1 for a valid descriptor; 0b01 is a block at levels 1 and 2, and "Reserved,
        # invalid" at level 3.
        if bit(entry, 0) == 0:
            return Result("not_present", path, reason="invalid")
        if level == 3 and bit(entry, 1) == 0:
            return Result("not_present", path, reason="reserved at level 3")
        if level == 3 or bit(entry, 1) == 0:
            return long_leaf(path, va, level, config)
        # LONG: bits 39:12 are the next-level table's address.
        base = bits(entry, 39, 12) << 12
        if config.armv8 and bits(entry, 47, 40) != 0:
            return Result("address_size", path, reason="next-level table")
        high = low - 1
    raise AssertionError("no descriptor of level 3 leads to a table")


def walk(read: Read, root: int, va: int, descriptors: str = "short", **config: Any) -> Result:
    """Translate one address; `config` is that of Short or Long, as `descriptors` says."""
    if descriptors == "short":
        return walk_short(read, root, va, Short(**config))
    assert descriptors == "long"
    return walk_long(read, root, va, Long(**config))


def allowed(
    result: Result,
    access: str,
    user: bool,
    dacr: int = ALL_CLIENTS,
    wxn: bool = False,
    uwxn: bool = False,
    pan: bool = False,
) -> bool:
    """Say whether a translation permits an access "r", "w" or "x" at PL0 (`user`) or above.

    wxn and uwxn are SCTLR's (HSCTLR.WXN at PL2), pan is PSTATE.PAN.
    """
    assert result.outcome == "ok"
    assert result.rights is not None
    rights = result.rights
    if result.domain is not None:
        role = bits(dacr, 2 * result.domain + 1, 2 * result.domain)
        # DOM: "No access. Any access to the domain generates a Domain fault." The reserved value is
        # unpredictable; here it is no access.
        if role in (NO_ACCESS, RESERVED):
            return False
        # DOM: "Manager. Accesses are not checked against the permission bits". XN concerns client
        # domains only.
        if role == MANAGER:
            return True
    if access == "x":
        # XN: WXN = 1, writable regions are execute-never; UWXN = 1, regions that are writable at
        # PL0 are execute-never at PL1.
        if user:
            return rights.user_exec and not (wxn and rights.user_write)
        denied = (wxn and rights.priv_write) or (uwxn and rights.user_write)
        return rights.priv_exec and not denied
    if user:
        return rights.user_read if access == "r" else rights.user_write
    # PSTATE.PAN = 1: a privileged data access to what PL0 can read is a Permission fault.
    if pan and rights.user_read:
        return False
    return rights.priv_read if access == "r" else rights.priv_write

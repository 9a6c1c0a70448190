"""A naive reading of AArch64 translation tables (VMSAv8-64), one rule of the manual at a time.

This is a judge, not an implementation: slow, dumb, written from the words of the manual, and it
imports nothing of the library that it judges. The rule stands above the line that obeys it, in
paraphrase where no quotation marks stand. The manual is the Arm Architecture Reference Manual for
A-profile architecture (DDI 0487), chapter "The AArch64 Virtual Memory System Architecture"; its
sections are cited by title, and its pseudocode by the name of the function:

DESC  "VMSAv8-64 translation table format descriptors"
ATTR  "Memory attribute fields in the VMSAv8-64 translation table format descriptors"
PERM  "Memory access control", with "Access permissions for instruction execution"
CONT  "The Contiguous bit"
CONCAT "Concatenated translation tables"
PRIO  "Prioritization of synchronous aborts from a single stage of translation"

The outcomes, in the order of PRIO:

not_canonical  the input address lies outside the range of the tables (the CPU: Translation fault)
address_size   a base or output address needs more bits than configured (Address size fault)
bus            a descriptor lies outside memory (external abort on a walk)
not_present    bit[0] is 0, or the encoding is reserved (Translation fault); `Result.reason` says
access_flag    AF is 0 and hardware does not set it (Access flag fault)
ok             there is a translation; whether it permits an access, `allowed` says

No RES0 bit of a descriptor ever faults: hardware ignores it. Tables are little-endian.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

Read = Callable[[int, int], "int | None"]
Path = tuple[tuple[str, int, int], ...]

OUTCOMES = ("ok", "not_present", "address_size", "access_flag", "not_canonical", "bus")

KIB = 1024
DESCRIPTOR_SIZE = 8
LAST_LEVEL = 3

# A granule is a table's size and a page's size: bits of the address within a page, and bits of the
# address that one level resolves (DESC: 512, 2048 or 8192 descriptors of eight bytes).
GRANULE_BITS = {4 * KIB: 12, 16 * KIB: 14, 64 * KIB: 16}
STRIDE = {4 * KIB: 9, 16 * KIB: 11, 64 * KIB: 13}

# ATTR: bit positions. Stage 1 and stage 2 share VALID, TABLE, AF, DBM and CONTIGUOUS.
VALID, TABLE, AF, DBM, CONTIGUOUS = 0, 1, 10, 51, 52
AP1, AP2, PXN, UXN = 6, 7, 53, 54
PXN_TABLE, UXN_TABLE, AP_TABLE0, AP_TABLE1 = 59, 60, 61, 62
S2AP0, S2AP1, XN0, XN1 = 6, 7, 53, 54

# CONT: the number of adjacent descriptors that one group has, by granule and level. Elsewhere the
# bit is RES0 (pseudocode ContiguousSize knows these levels only).
CONTIGUOUS_ENTRIES = {
    (4 * KIB, 1): 16,
    (4 * KIB, 2): 16,
    (4 * KIB, 3): 16,
    (16 * KIB, 2): 32,
    (16 * KIB, 3): 128,
    (64 * KIB, 2): 32,
    (64 * KIB, 3): 32,
}


@dataclass(frozen=True)
class Rights:
    """What all descriptors of one translation together permit, at EL1 or above and at EL0.

    WXN and PAN are state of the CPU, not of the tables: see allowed(). Where the regime has one
    privilege level, nothing is permitted to a user.
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

    `path` holds (name, address, value) of every descriptor that was read, "L-1" to "L3".
    `bus_address` names the descriptor that lies outside memory, `reason` the rule that refused.
    `entry_size` is the size of the contiguous group, or `page_size` where there is none.
    """

    outcome: str
    path: Path
    bus_address: int | None = None
    reason: str | None = None
    pa: int | None = None
    page_size: int | None = None
    entry_size: int | None = None
    rights: Rights | None = None

    @property
    def references(self) -> int:
        """Number of descriptors that were read."""
        return len(self.path)


@dataclass(frozen=True)
class Config:
    """What the registers say of the tables.

    granule      bytes: TG0, TG1
    t0sz         T0SZ or T1SZ: the input address has 64 - t0sz bits
    upper        the tables are those of TTBR1, for addresses whose high bits are ones
    stage        1 or 2
    start_level  stage 2: the level that SL0 and SL2 name; stage 1 has no choice
    oa_bits      the effective output address size, from PS and PARange; None: as the format allows
    lpa          FEAT_LPA: 64K granule with output addresses of 52 bits
    ds           TCR.DS or VTCR.DS = 1 (FEAT_LPA2): 4K and 16K granules with addresses of 52 bits
    two_levels   the regime has EL0 and a privileged level (EL1&0, EL2&0); else EL2 or EL3 alone
    tbi          the top byte of an address is ignored
    ha, hd       hardware manages the Access flag, and dirty state
    hpd          hierarchical permissions are disabled
    xnx          stage 2: FEAT_XNX, XN has two bits
    """

    granule: int = 4 * KIB
    t0sz: int = 16
    upper: bool = False
    stage: int = 1
    start_level: int | None = None
    oa_bits: int | None = None
    lpa: bool = False
    ds: bool = False
    two_levels: bool = True
    tbi: bool = False
    ha: bool = False
    hd: bool = False
    hpd: bool = False
    xnx: bool = True


def bits(value: int, high: int, low: int) -> int:
    """Return bits high:low of value, in the manual's notation, shifted down to bit 0."""
    return (value >> low) % (1 << (high - low + 1))


def bit(value: int, position: int) -> int:
    """Return one bit of value."""
    return bits(value, position, position)


def input_bits(config: Config) -> int:
    """Return the input address size. TCR_ELx.T0SZ: the region has 2^(64 - T0SZ) bytes."""
    return 64 - config.t0sz


def address_bits(config: Config) -> int:
    """Return the effective output address size."""
    # DESC: the address fields have 48 bits, 52 with FEAT_LPA (64KB granule) or DS = 1 (others).
    wide = config.lpa if config.granule == 64 * KIB else config.ds
    largest = 52 if wide else 48
    return largest if config.oa_bits is None else min(config.oa_bits, largest)


def lowest_bit(config: Config, level: int) -> int:
    """Return the lowest address bit that a descriptor of this level resolves: log2 of its size."""
    # Each level above level 3 resolves one stride more.
    return GRANULE_BITS[config.granule] + (LAST_LEVEL - level) * STRIDE[config.granule]


def first_level(config: Config) -> int:
    """Return the level at which the walk starts."""
    if config.stage == 2:
        # VTCR_EL2.SL0: "Starting level of the stage 2 translation lookup".
        assert config.start_level is not None
        return config.start_level
    # AArch64.S1StartLevel: as few levels as resolve the input address.
    level = LAST_LEVEL
    while lowest_bit(config, level) + STRIDE[config.granule] < input_bits(config):
        level -= 1
    return level


def refuse_nonsense(config: Config) -> None:
    """Raise ValueError for registers that the manual does not let anyone write."""
    if config.granule == 64 * KIB:
        # TCR_ELx.DS concerns the 4KB and 16KB granules.
        least, most, wrong = 12, 47, config.ds
    else:
        # AArch64.S1MinTxSZ: 16, and 12 with DS = 1. MaxTxSZ: 48 with FEAT_TTST (47 for 64KB).
        least, most, wrong = (12 if config.ds else 16), 48, config.lpa
    if wrong or not least <= config.t0sz <= most:
        raise ValueError("granule, T0SZ, LPA and DS do not go together")
    if config.stage == 1 and config.start_level is None:
        return
    if config.stage != 2 or config.start_level is None or config.upper:
        raise ValueError("a start level is stage 2's, and stage 2 has no TTBR1")
    if not (-1 if config.ds and config.granule == 4 * KIB else 0) <= config.start_level <= 3:
        raise ValueError("no such start level")
    # AArch64.S2InconsistentSL: the start level resolves at least one bit. CONCAT: up to 16 tables
    # may be concatenated at the start level, which resolve four bits more.
    resolved = input_bits(config) - lowest_bit(config, config.start_level)
    if not 1 <= resolved <= STRIDE[config.granule] + 4:
        raise ValueError("T0SZ and the start level do not go together")


def in_range(va: int, config: Config) -> bool:
    """Say whether the tables translate this input address at all."""
    size = input_bits(config)
    # AArch64.IPAIsOutOfRange: bits above the IPA size must be zero.
    if config.stage == 2:
        return va >> size == 0
    # AArch64.VAIsOutOfRange: the bits from the input size upward, to bit 63, or 55 with TBI = 1,
    # are all zeros for TTBR0 and all ones for TTBR1.
    top = 55 if config.tbi else 63
    unresolved = bits(va, top, size)
    return unresolved == ((1 << (top - size + 1)) - 1 if config.upper else 0)


def table_base(root: int, config: Config) -> int:
    """Return the address of the first table."""
    # CONCAT: concatenated tables are contiguous and aligned to their whole size, so they are one
    # table with more descriptors. AArch64.TTBaseAddress: the base is aligned to the size of the
    # table; and, where it has 52 bits, to 64 bytes at least.
    size = DESCRIPTOR_SIZE << (input_bits(config) - lowest_bit(config, first_level(config)))
    if config.ds or (config.granule == 64 * KIB and address_bits(config) == 52):
        size = max(size, 64)
    return root - root % size


def address_field(descriptor: int, config: Config, lowest: int) -> int:
    """Return the address that a descriptor holds, whose bits below `lowest` are zero."""
    # DESC: bits[47:n] of the descriptor are bits[47:n] of the address.
    address = bits(descriptor, 47, lowest) << lowest
    # DESC, 64KB granule with FEAT_LPA: bits[15:12] of the descriptor are bits[51:48].
    if config.granule == 64 * KIB and config.lpa:
        address += bits(descriptor, 15, 12) << 48
    # DESC, DS = 1: bits[49:48] are themselves, bits[9:8] of the descriptor are bits[51:50].
    if config.ds:
        address += bits(descriptor, 49, 48) << 48
        address += bits(descriptor, 9, 8) << 50
    return address


def too_large(address: int, config: Config) -> bool:
    """Say whether an address needs more bits than configured. AArch64.OAOutOfRange."""
    return address >> address_bits(config) != 0


def block_supported(config: Config, level: int) -> bool:
    """Say whether descriptors of this level may be blocks. AArch64.BlockDescSupported."""
    # 4KB: levels 1 and 2, and level 0 with DS = 1. 16KB: level 2, and level 1 with DS = 1.
    # 64KB: level 2, and level 1 with FEAT_LPA.
    if config.granule == 4 * KIB:
        return level in (1, 2) or (level == 0 and config.ds)
    return level == 2 or (level == 1 and (config.ds or config.lpa))


def refusal(descriptor: int, config: Config, level: int) -> str | None:
    """Return why a descriptor is none, or None. AArch64.DecodeDescriptorType."""
    # "bit[0] identifies whether the descriptor is valid, and is 1 for a valid descriptor"
    if bit(descriptor, VALID) == 0:
        return "invalid"
    if bit(descriptor, TABLE) == 1:
        return None
    # DESC, level 3: "Reserved, invalid. Behaves identically to encodings with bit[0] set to 0."
    if level == LAST_LEVEL:
        return "reserved at level 3"
    # DESC: a block where the granule has none is reserved, and faults as an invalid one does.
    return None if block_supported(config, level) else "no blocks at this level"


def is_table(descriptor: int, level: int) -> bool:
    """Say whether a valid descriptor leads to a table (else: maps a block or page)."""
    # "bit[1] identifies the descriptor type": 0 block, 1 table; at level 3, 1 is a page.
    return level != LAST_LEVEL and bit(descriptor, TABLE) == 1


def effective_ap2(leaf: int, config: Config) -> int:
    """Return AP[2]: 1 is read-only."""
    # "Hardware management of dirty state": a descriptor with DBM = 1 is writable-clean while AP[2]
    # is 1; a write makes it dirty instead of faulting.
    if config.ha and config.hd and bit(leaf, DBM) == 1:
        return 0
    return bit(leaf, AP2)


def stage1_rights(path: Path, config: Config) -> Rights:
    """Combine the leaf's AP, UXN and PXN with the tables' APTable, UXNTable and PXNTable."""
    leaf = path[-1][2]
    # ATTR: hierarchical control is of table descriptors; TCR_ELx.HPDn = 1 disables it.
    tables = [] if config.hpd else [value for _, _, value in path[:-1]]
    # PERM, AP[2:1] = 0b00: read/write at EL1, none at EL0; 0b01: read/write at both; 0b10:
    # read-only at EL1, none at EL0; 0b11: read-only at both.
    # PERM, APTable[1] = 1: "Write access not permitted" at any level below.
    priv_write = effective_ap2(leaf, config) == 0
    if any(bit(table, AP_TABLE1) for table in tables):
        priv_write = False
    # PERM: where only one Exception level is in the regime, AP[1] is ignored (RES1), APTable[0]
    # and PXNTable are ignored (RES0), and bit 54 is XN.
    xn = bit(leaf, UXN) == 1 or any(bit(table, UXN_TABLE) for table in tables)
    if not config.two_levels:
        return Rights(True, priv_write, not xn, False, False, False)
    # PERM, APTable[0] = 1: access at EL0 is not permitted.
    user_read = bit(leaf, AP1) == 1 and not any(bit(table, AP_TABLE0) for table in tables)
    user_write = user_read and priv_write
    # PERM: UXN = 1, not executable at EL0; PXN = 1, not executable at EL1. The tables' bits have
    # the same effect for all below. Reading is not needed to execute.
    pxn = bit(leaf, PXN) == 1 or any(bit(table, PXN_TABLE) for table in tables)
    # PERM: "AArch64 execution treats all regions writable at EL0 as being PXN".
    return Rights(True, priv_write, not pxn and not user_write, user_read, user_write, not xn)


def stage2_rights(leaf: int, config: Config) -> Rights:
    """Read S2AP and XN of the leaf. Stage 2 tables have no hierarchical control."""
    # PERM, S2AP: 0b00 no access, 0b01 read-only, 0b10 write-only, 0b11 read/write; at both levels.
    read = bit(leaf, S2AP0) == 1
    write = bit(leaf, S2AP1) == 1 or (config.ha and config.hd and bit(leaf, DBM) == 1)
    # Without FEAT_XNX: bit 54 is XN for both levels, bit 53 is RES0.
    if not config.xnx:
        execute = bit(leaf, XN1) == 0
        return Rights(read, write, execute, read, write, execute)
    # FEAT_XNX, XN[1:0]: 0b00 executable at EL1 and EL0; 0b01 at EL0 only; 0b10 at neither; 0b11 at
    # EL1 only.
    priv_exec, user_exec = {
        0b00: (True, True),
        0b01: (False, True),
        0b10: (False, False),
        0b11: (True, False),
    }[bits(leaf, XN1, XN0)]
    return Rights(read, write, priv_exec, read, write, user_exec)


def leaf_result(path: Path, va: int, level: int, config: Config) -> Result:
    """Judge the descriptor that maps a block or page."""
    leaf = path[-1][2]
    lowest = lowest_bit(config, level)
    base = address_field(leaf, config, lowest)
    # PRIO: an Address size fault of the output address precedes an Access flag fault.
    if too_large(base, config):
        return Result("address_size", path, reason="output address")
    # "The Access flag": 0, and no hardware management: Access flag fault.
    if bit(leaf, AF) == 0 and not config.ha:
        return Result("access_flag", path, reason="AF")
    size = 1 << lowest
    # CONT: the bit is a hint that the group translates alike; every descriptor still holds its own
    # output address.
    adjacent = CONTIGUOUS_ENTRIES.get((config.granule, level), 1) if bit(leaf, CONTIGUOUS) else 1
    rights = stage2_rights(leaf, config) if config.stage == 2 else stage1_rights(path, config)
    return Result(
        outcome="ok",
        path=path,
        pa=base + va % size,
        page_size=size,
        entry_size=size * adjacent,
        rights=rights,
    )


def walk(read: Read, root: int, va: int, **config: Any) -> Result:
    """Translate one address; `config` is Config's. `root` is the address of the first table."""
    return walk_with(read, root, va, Config(**config))


def walk_with(read: Read, root: int, va: int, config: Config) -> Result:
    """Translate one address. read(pa, 8) returns the little-endian value, or None."""
    refuse_nonsense(config)
    if not in_range(va, config):
        return Result("not_canonical", (), reason="input address")
    base = table_base(root, config)
    # PRIO: a TTBR whose base has bits above the output address size is an Address size fault of
    # level 0, before any descriptor is read.
    if too_large(base, config):
        return Result("address_size", (), reason="TTBR")
    path: Path = ()
    high = input_bits(config) - 1
    for level in range(first_level(config), LAST_LEVEL + 1):
        low = lowest_bit(config, level)
        address = base + DESCRIPTOR_SIZE * bits(va, high, low)
        descriptor = read(address, DESCRIPTOR_SIZE)
        if descriptor is None:
            return Result("bus", path, bus_address=address)
        path = (*path, (f"L{level}", address, descriptor))
        reason = refusal(descriptor, config, level)
        if reason:
            return Result("not_present", path, reason=reason)
        if not is_table(descriptor, level):
            return leaf_result(path, va, level, config)
        base = address_field(descriptor, config, GRANULE_BITS[config.granule])
        if too_large(base, config):
            return Result("address_size", path, reason="next-level table")
        high = low - 1
    raise AssertionError("no descriptor of level 3 leads to a table")


def allowed(
    result: Result,
    access: str,
    user: bool,
    wxn: bool = False,
    pan: bool = False,
    epan: bool = False,
) -> bool:
    """Say whether a translation permits an access "r", "w" or "x" at EL0 (`user`) or above.

    wxn is SCTLR_ELx.WXN, pan is PSTATE.PAN, epan is SCTLR_ELx.EPAN; stage 2 knows none of them.
    """
    assert result.outcome == "ok"
    assert result.rights is not None
    rights = result.rights
    if access == "x":
        # SCTLR_ELx.WXN: what is writable at an Exception level is not executable there.
        if user:
            return rights.user_exec and not (wxn and rights.user_write)
        return rights.priv_exec and not (wxn and rights.priv_write)
    if user:
        return rights.user_read if access == "r" else rights.user_write
    # PSTATE.PAN = 1: a privileged data access to what EL0 can read is a Permission fault. EPAN = 1:
    # also to what EL0 can execute. Instruction fetches are not concerned.
    if pan and (rights.user_read or (epan and rights.user_exec)):
        return False
    return rights.priv_read if access == "r" else rights.priv_write

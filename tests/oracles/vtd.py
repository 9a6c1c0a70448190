"""A naive reading of VT-d second-stage translation, one rule of the manual at a time.

This is a judge, not an implementation: slow, dumb, written from the rules of the manual, and it
imports nothing of the library that it judges. The manual is the Intel Virtualization Technology for
Directed I/O Architecture Specification; its parts are cited by title, and told in other words:

SST    "Second-Stage Translation", in the chapter "DMA Remapping"
RIGHTS "Access Rights" of the same section
AD     "Accessed and Dirty Flags" of the same section
FMT    "Second-Stage Paging Entries", in the chapter "Translation Structure Formats"

Older editions say second-level (SL-PDE) where newer ones say second-stage (SS-PDE). The machine
blocks the request and records a fault for every refusal. The outcomes here say which it was:

not_canonical  the address is wider than the tables translate
bus            the entry lies outside memory
not_present    neither R nor W
reserved_bits  `Result.rules` names what the last entry breaks
ok             a translation, whose rights `allowed` judges
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

Read = Callable[[int, int], "int | None"]

OUTCOMES = ("ok", "not_present", "reserved_bits", "not_canonical", "bus")

# SST, figures "DMA Address Translation via Second-Stage Paging": the bits of the address that
# select an entry. 3-level tables translate 39 bits, 4-level 48, 5-level 57 ("Adjusted Guest Address
# Width").
ALL_STRUCTURES = (
    ("SS-PML5E", 56, 48),
    ("SS-PML4E", 47, 39),
    ("SS-PDPE", 38, 30),
    ("SS-PDE", 29, 21),
    ("SS-PTE", 20, 12),
)
STRUCTURES = {5: ALL_STRUCTURES, 4: ALL_STRUCTURES[1:], 3: ALL_STRUCTURES[2:]}

# FMT: bit positions.
R, W = 0, 1
PS = 7
A, D = 8, 9
SNP = 11
TM = 62

RULE_ADDRESS = "bits 51:HAW"
RULE_PS = "PS where no page can be"
RULE_PAGE_SIZE = "page size is not supported"
RULE_PAGE_BITS = "address bits below the page size"
RULE_SNP = "bit 11"
RULE_TM = "bit 62"


@dataclass(frozen=True)
class Rights:
    """What all entries of one translation together permit. There are neither users nor fetches."""

    read: bool
    write: bool


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
    snoop: bool | None = None
    accessed: bool | None = None
    dirty: bool | None = None


@dataclass(frozen=True)
class Config:
    """What the remapping hardware has: its capability registers and the host address width."""

    levels: int = 4
    haw: int = 52
    page2m: bool = True
    page1g: bool = True
    snoop_control: bool = True
    transient_mapping: bool = False
    ad: bool = False


def bits(value: int, high: int, low: int) -> int:
    """Return bits high:low of value, in the manual's notation, shifted down to bit 0."""
    return (value >> low) % (1 << (high - low + 1))


def bit(value: int, position: int) -> int:
    """Return one bit of value."""
    return bits(value, position, position)


def is_present(entry: int) -> bool:
    """Say whether an entry is present."""
    # SST: an entry whose R and W fields are both 0 is not present: it neither references another
    # entry nor maps a page. Its other bits are ignored.
    return bit(entry, R) == 1 or bit(entry, W) == 1


def maps_a_page(name: str, entry: int) -> bool:
    """Say whether a present entry maps a page (else: references a table)."""
    # SST: an SS-PDPE whose PS field is 1 maps a 1-GByte page, an SS-PDE whose PS field is 1 maps a
    # 2-MByte page; an SS-PTE maps a 4-KByte page, and its bit 7 is ignored.
    return name == "SS-PTE" or (name in ("SS-PDPE", "SS-PDE") and bit(entry, PS) == 1)


def reserved_bits_set(name: str, entry: int, config: Config) -> list[str]:
    """List the rules on reserved bits that a present entry breaks. FMT."""
    broken = []
    leaf = maps_a_page(name, entry)
    # Address bits beyond the host address width (HAW) are reserved.
    if config.haw < 52 and bits(entry, 51, config.haw) != 0:
        broken.append(RULE_ADDRESS)
    # Bit 7 of an SS-PML5E and of an SS-PML4E is reserved.
    if name in ("SS-PML5E", "SS-PML4E") and bit(entry, PS) == 1:
        broken.append(RULE_PS)
    # PS is treated as reserved if the Capability Register reports in its field Second Stage Large
    # Page Support (SSLPS) that the page size is not supported.
    supported = {"SS-PDPE": config.page1g, "SS-PDE": config.page2m}
    if bit(entry, PS) == 1 and not supported.get(name, True):
        broken.append(RULE_PAGE_SIZE)
    # Bits 29:12 of an SS-PDPE that maps a 1-GByte page are reserved.
    if name == "SS-PDPE" and leaf and bits(entry, 29, 12) != 0:
        broken.append(RULE_PAGE_BITS)
    # Bits 20:12 of an SS-PDE that maps a 2-MByte page are reserved.
    if name == "SS-PDE" and leaf and bits(entry, 20, 12) != 0:
        broken.append(RULE_PAGE_BITS)
    # Bit 11 of an entry that maps a page is SNP, treated as reserved by hardware that reports Snoop
    # Control (SC) as 0 in the Extended Capability Register. Bit 11 of an entry that references a
    # table is reserved.
    if bit(entry, SNP) == 1 and not (leaf and config.snoop_control):
        broken.append(RULE_SNP)
    # Bit 62 of an entry that maps a page is TM, Transient Mapping, in the editions that have it and
    # with Device-TLBs; else it is reserved, and so it is in an entry that references a table. Bits
    # 63 and 61:52 are ignored.
    if bit(entry, TM) == 1 and not (leaf and config.transient_mapping):
        broken.append(RULE_TM)
    return broken


def leaf_result(path: list[tuple[str, int, int]], iova: int, config: Config) -> Result:
    """Describe the translation whose last entry maps a page."""
    name, _, leaf = path[-1]
    # SST: the address has bits 51:30 from the SS-PDPE and 29:0 from the input address; 51:21 and
    # 20:0 (SS-PDE); 51:12 and 11:0 (SS-PTE).
    offset_bits = {"SS-PDPE": 30, "SS-PDE": 21, "SS-PTE": 12}[name]
    entries = [entry for _, _, entry in path]
    return Result(
        outcome="ok",
        path=tuple(path),
        pa=(bits(leaf, 51, offset_bits) << offset_bits) + bits(iova, offset_bits - 1, 0),
        page_size=1 << offset_bits,
        # RIGHTS: reads need R in every entry that controls the translation, writes need W.
        rights=Rights(
            read=all(bit(entry, R) == 1 for entry in entries),
            write=all(bit(entry, W) == 1 for entry in entries),
        ),
        snoop=bit(leaf, SNP) == 1,
        # AD: bit 8 is A, and bit 9 of an entry that maps a page is D; both are ignored while
        # Second-Stage Access/Dirty Enable (SSADE) is 0.
        accessed=bit(leaf, A) == 1 if config.ad else None,
        dirty=bit(leaf, D) == 1 if config.ad else None,
    )


def walk(read: Read, root: int, iova: int, **config: int) -> Result:
    """Translate one address of a device. `root` is SSPTPTR; `config` has Config's fields."""
    have = Config(**config)  # type: ignore[arg-type]
    # SST, "Adjusted Guest Address Width": a request whose address lies beyond what the tables
    # translate is blocked before any table is read.
    if iova >> (STRUCTURES[have.levels][0][1] + 1) != 0:
        return Result("not_canonical", ())
    path: list[tuple[str, int, int]] = []
    # SSPTPTR, Second Stage Page Translation Pointer: the base of the first table, 4-KByte aligned.
    source = root
    for name, high, low in STRUCTURES[have.levels]:
        # SST: the address of an entry has bits 51:12 from the entry before, and the 9 bits of the
        # input address that index the table in 11:3.
        address = (bits(source, 51, 12) << 12) + (bits(iova, high, low) << 3)
        entry = read(address, 8)
        if entry is None:
            return Result("bus", tuple(path), bus_address=address)
        path.append((name, address, entry))
        if not is_present(entry):
            return Result("not_present", tuple(path))
        # "Fault Conditions": a reserved field is not zero in an entry with R or W set.
        rules = reserved_bits_set(name, entry, have)
        if rules:
            return Result("reserved_bits", tuple(path), tuple(rules))
        if maps_a_page(name, entry):
            return leaf_result(path, iova, have)
        source = entry
    raise AssertionError("every SS-PTE maps a page")


def allowed(result: Result, access: str, user: bool = False) -> bool:
    """Say whether the rights of a translation allow an access: "r", "w" or "x". RIGHTS.

    Second-stage entries know no users. An execute request is a read for them: "X" (bit 2) is
    ignored.
    """
    del user
    assert result.outcome == "ok"
    assert result.rights is not None
    return {"r": result.rights.read, "w": result.rights.write, "x": result.rights.read}[access]

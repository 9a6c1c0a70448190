"""The words in which an MMU is declared.

A `Format` is data: a file in this folder lists, level by level, what each bit of a table item means,
most significant bit first, as the vendor's manual draws it. Everything else (masks, match values,
reserved bits, how an attribute moves when a leaf is split) is derived here or in `lower`, so a format
states only what is peculiar to it. Nothing here reads memory, and nothing here is compiled:
`setup.py` imports this folder to generate C constants.

Words: an *item* is one slot of a table; its *kind* is EMPTY, TABLE (points to the next table), LEAF
(ends the walk) or RESERVED (none of these). Level 0 is the level whose items can only be leaves.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import Enum

from ptcore.errors import FormatError

RIGHTS = ("read", "write", "execute", "user")
MAX_LEVELS = 6
MAX_PIECES = 3
MAX_LEAF_MATCHES = 2
ENTRY_BYTES = (4, 8, 16)


class Role(Enum):
    """What a run of bits in an item is for."""

    KIND = "kind"
    """Fixed in this kind of item: `value` is what tells it from the other kinds."""
    OUTPUT = "output"
    """Bits of the output address; `to` is the address bit that the lowest of them is."""
    READ = "read"
    WRITE = "write"
    EXECUTE = "execute"
    USER = "user"
    """Rights: granted where the bits equal `value`. A right without bits is always granted."""
    ACCESSED = "accessed"
    DIRTY = "dirty"
    GLOBAL = "global"
    MEMORY_TYPE = "memory_type"
    PROTECTION_KEY = "protection_key"
    SOFTWARE = "software"
    """Numbers in a leaf; `to` is the bit of the number that the lowest of these bits is."""
    IGNORED = "ignored"
    """The hardware does not look at these bits."""
    RESERVED = "reserved"
    """Must be zero: an item with one of them set is a reserved-bits fault."""


NUMBERS = (Role.MEMORY_TYPE, Role.PROTECTION_KEY, Role.SOFTWARE)
FLAGS = (Role.ACCESSED, Role.DIRTY, Role.GLOBAL)
RIGHT_ROLES = (Role.READ, Role.WRITE, Role.EXECUTE, Role.USER)


@dataclass(frozen=True, slots=True)
class Bits:
    """Bits `high`..`low` of an item (both inclusive): the vendor's name and the role.

    `value`: for KIND, the value these bits have; for a right, the value that grants it.
    `to`: for OUTPUT and for numbers, where `low` lands in the result; OUTPUT defaults to `low`.
    """

    high: int
    low: int
    name: str
    role: Role
    value: int = 1
    to: int | None = None

    @property
    def width(self) -> int:
        """How many bits."""
        return self.high - self.low + 1

    @property
    def mask(self) -> int:
        """These bits of the item, all set."""
        return ((1 << self.width) - 1) << self.low

    @property
    def target(self) -> int:
        """The bit of the result that `low` lands on."""
        return self.to if self.to is not None else (self.low if self.role is Role.OUTPUT else 0)

    @property
    def label(self) -> str:
        """The bits as a manual writes them: '51:12' or '7'."""
        return f"{self.high}:{self.low}" if self.width > 1 else str(self.low)


Word = tuple[Bits, ...]
"""One kind of item at one level, most significant bits first, every bit claimed exactly once."""


@dataclass(frozen=True, slots=True)
class Match:
    """The test ``item & mask == value``."""

    mask: int
    value: int

    def __call__(self, item: int) -> bool:
        """Whether `item` passes."""
        return item & self.mask == self.value


NEVER = Match(0, 1)


def word_match(word: Word | None) -> Match:
    """Return the test that the KIND bits of `word` make; NEVER for no word."""
    if word is None:
        return NEVER
    kinds = [bits for bits in word if bits.role is Role.KIND]
    return Match(sum(b.mask for b in kinds), sum(b.value << b.low for b in kinds))


def role_mask(word: Word | None, *roles: Role) -> int:
    """Return the item bits of `word` that have one of `roles`."""
    return sum(bits.mask for bits in word or () if bits.role in roles)


@dataclass(frozen=True, slots=True)
class Level:
    """One level: which input-address bits index it, and what its items can be.

    `shift` is the lowest input-address bit that the index uses, so a leaf here maps 2**shift bytes.
    `leaf_when` replaces the test derived from the leaf word's KIND bits where one (mask, value) pair
    cannot say it; up to two tests, either of which makes a leaf. TABLE is asked before LEAF.
    """

    name: str
    shift: int
    bits: int
    table: Word | None = None
    leaf: Word | None = None
    leaf_when: tuple[Match, ...] = ()

    @property
    def table_match(self) -> Match:
        """When an item is a table."""
        return word_match(self.table)

    @property
    def leaf_matches(self) -> tuple[Match, ...]:
        """When an item that is no table is a leaf: any of these."""
        return self.leaf_when or (word_match(self.leaf),)

    def words(self) -> Iterator[tuple[str, Word]]:
        """Yield ('table', word) and ('leaf', word), as far as this level has them."""
        if self.table is not None:
            yield "table", self.table
        if self.leaf is not None:
            yield "leaf", self.leaf


class AddressRule(Enum):
    """Which input addresses a format translates."""

    SIGN_EXTENDED = "sign_extended"
    """All bits above the top index equal its highest bit (x86 calls such addresses canonical)."""
    ZERO_EXTENDED = "zero_extended"
    """All bits above the top index are 0."""
    UPPER_ONLY = "upper_only"
    """All bits above the top index are 1."""


@dataclass(frozen=True, slots=True)
class Citation:
    """Where a fact stands: the document with its number, and the section's title."""

    document: str
    section: str


@dataclass(frozen=True)
class Format:
    """The rules of one page-table layout in one mode.

    `levels` run from level 0 upwards. `empty` is the test for an empty item at any level.
    `physical_bits` is the widest output address of the architecture; an actual machine may have
    less, which is a parameter of each table. `memory_types` names the values of MEMORY_TYPE after
    reset. `refused_rights` lists the combinations of r, w, x that hardware does not accept.
    `parents_limit_rights`: a right must be granted at every level, not only at the leaf.
    """

    name: str
    title: str
    citations: tuple[Citation, ...]
    levels: tuple[Level, ...]
    empty: Match
    input_bits: int
    address_rule: AddressRule
    physical_bits: int
    entry_bytes: int = 8
    byte_order: str = "little"
    memory_types: tuple[str, ...] = ()
    refused_rights: tuple[str, ...] = ()
    parents_limit_rights: bool = True
    parameters: dict[str, object] = field(default_factory=dict)

    @property
    def top_level(self) -> int:
        """The level that the root is at."""
        return len(self.levels) - 1

    @property
    def granule_lg2(self) -> int:
        """The smallest leaf's size as a power of two."""
        return self.levels[0].shift

    @property
    def leaf_levels(self) -> tuple[int, ...]:
        """The levels that can hold leaves, smallest first."""
        return tuple(n for n, level in enumerate(self.levels) if level.leaf is not None)

    @property
    def page_sizes(self) -> tuple[int, ...]:
        """The sizes of leaves in bytes, smallest first."""
        return tuple(1 << self.levels[n].shift for n in self.leaf_levels)

    def table_bytes(self, level: int) -> int:
        """The size of a table at `level` in bytes; a table is aligned to its size."""
        return self.entry_bytes << self.levels[level].bits

    def level_of(self, page_size: int) -> int:
        """Return the level whose leaves have `page_size` bytes; FormatError names those there are."""
        for n in self.leaf_levels:
            if 1 << self.levels[n].shift == page_size:
                return n
        from ptcore.units import format_size

        known = ", ".join(format_size(size) for size in self.page_sizes)
        raise FormatError(f"{self.name} has no {format_size(page_size)} page; it has {known}")

    def validate(self) -> None:
        """Raise FormatError at the first contradiction in the declaration.

        Checked: every bit of every (level, kind) word is claimed exactly once; the index bits of all
        levels tile the input address; kinds can be told apart; output bits do not collide; the
        document is cited.
        """
        _validate_shape(self)
        for n, level in enumerate(self.levels):
            for kind, word in level.words():
                _validate_word(self, f"{self.name}, level {n} ({level.name}), {kind}", level, word)
            _validate_level(self, n, level)


def _validate_shape(fmt: Format) -> None:
    def require(condition: bool, rule: str) -> None:
        if not condition:
            raise FormatError(f"{fmt.name}: {rule}")

    require(1 <= len(fmt.levels) <= MAX_LEVELS, f"a format has 1 to {MAX_LEVELS} levels")
    require(fmt.entry_bytes in ENTRY_BYTES, f"an item has {ENTRY_BYTES} bytes")
    require(fmt.byte_order in ("little", "big"), "the byte order is 'little' or 'big'")
    require(1 <= fmt.physical_bits <= 64, "an output address has 1 to 64 bits")
    require(fmt.empty(0), "an item of zeros is not empty, but new tables are made of zeros")
    require(bool(fmt.citations), "no document is cited")
    require(
        all(c.document and c.section for c in fmt.citations), "a citation lacks its section title"
    )
    shift = fmt.levels[0].shift
    for n, level in enumerate(fmt.levels):
        require(level.bits > 0, f"level {n} ({level.name}) has no index bits")
        require(
            level.shift == shift,
            f"level {n} ({level.name}) indexes from bit {level.shift}; the levels below end at {shift}",
        )
        shift += level.bits
    require(
        shift == fmt.input_bits <= 64,
        f"the levels index {shift} bits, not the {fmt.input_bits} declared",
    )


def _validate_level(fmt: Format, n: int, level: Level) -> None:
    where = f"{fmt.name}, level {n} ({level.name})"
    if n == 0 and level.table is not None:
        raise FormatError(f"{where}: nothing is below level 0 for a table to point to")
    if n == 0 and level.leaf is None:
        raise FormatError(f"{where}: level 0 must have leaves")
    if n > 0 and level.table is None:
        raise FormatError(f"{where}: without tables the levels below cannot be reached")
    if len(level.leaf_matches) > MAX_LEAF_MATCHES:
        raise FormatError(f"{where}: at most {MAX_LEAF_MATCHES} leaf tests")
    for kind, word in level.words():
        match = word_match(word)
        if fmt.empty.mask & ~match.mask == 0 and fmt.empty(match.value):
            raise FormatError(f"{where}: every {kind} item would count as empty")
    if level.table is not None and level.leaf is not None and not level.leaf_when:
        table, leaf = level.table_match, level.leaf_matches[0]
        if not (table.mask & leaf.mask) & (table.value ^ leaf.value):
            raise FormatError(f"{where}: no KIND bit tells table from leaf")


def _validate_word(fmt: Format, where: str, level: Level, word: Word) -> None:
    below = fmt.entry_bytes * 8
    landed = 0
    for bits in word:
        if bits.high != below - 1 or not 0 <= bits.low <= bits.high:
            raise FormatError(
                f"{where}: bits {bits.label} ({bits.name}) where bit {below - 1} is next"
            )
        below = bits.low
        if bits.role in (Role.KIND, *RIGHT_ROLES) and bits.value >> bits.width:
            raise FormatError(f"{where}: {bits.value} does not fit bits {bits.label} ({bits.name})")
        if bits.role in (*RIGHT_ROLES, *FLAGS) and bits.width != 1:
            raise FormatError(
                f"{where}: {bits.role.value} is one bit, not {bits.label} ({bits.name})"
            )
        if bits.role is Role.OUTPUT:
            piece = ((1 << bits.width) - 1) << bits.target
            if landed & piece:
                raise FormatError(
                    f"{where}: bits {bits.label} give output bits that others give too"
                )
            landed |= piece
    if below:
        raise FormatError(f"{where}: bits {below - 1}:0 are not claimed")
    kind_is_leaf = word is level.leaf
    for role in (Role.OUTPUT, *NUMBERS):
        if sum(bits.role is role for bits in word) > MAX_PIECES:
            raise FormatError(f"{where}: {role.value} has more than {MAX_PIECES} pieces")
    for role in (*RIGHT_ROLES, *FLAGS):
        if sum(bits.role is role for bits in word) > 1:
            raise FormatError(f"{where}: {role.value} is claimed by two fields")
    if landed >> fmt.physical_bits:
        raise FormatError(f"{where}: output bits beyond the {fmt.physical_bits} declared")
    if kind_is_leaf and landed & ((1 << level.shift) - 1):
        raise FormatError(f"{where}: output bits below the leaf's own offset bits")

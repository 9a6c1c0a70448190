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

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from enum import Enum
from functools import cached_property
from typing import Any

from ptcore.errors import FormatError
from ptcore.errors import Status as Status
from ptcore.units import format_size

RIGHTS = ("read", "write", "execute", "user", "user_execute", "user_write")
RIGHT_LETTERS = "rwxuXW"
"""One letter per right, lowest bit of a rights mask first: X and W are what user mode may do where
that is not what privileged mode may do."""
MAX_LEVELS = 6
MAX_PIECES = 3
MAX_LEAF_MATCHES = 2
MAX_SHAPES = 11  # a table, a leaf, and nine more leaves
MAX_GRANTS = 5
MAX_GRANT_BITS = 3
MAX_REFUSALS = 6
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
    USER_EXECUTE = "user_execute"
    USER_WRITE = "user_write"
    """Rights: granted where the bit equals `value`. One of the first four without bits is always
    granted; the last two exist only in formats that have bits for them."""
    RIGHTS = "rights"
    """Bits that a `Lookup` of the format turns into rights."""
    ACCESSED = "accessed"
    DIRTY = "dirty"
    GLOBAL = "global"
    """Marks: set where the bit equals `value`."""
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
RIGHT_ROLES = (
    Role.READ,
    Role.WRITE,
    Role.EXECUTE,
    Role.USER,
    Role.USER_EXECUTE,
    Role.USER_WRITE,
)
EXTRA_RIGHTS = (Role.USER_EXECUTE, Role.USER_WRITE)


def output_mask(word: Word) -> int:
    """Return the output address bits that items of `word` can hold."""
    outputs = (bits for bits in word if bits.role is Role.OUTPUT)
    return sum(((1 << bits.width) - 1) << bits.target for bits in outputs)


def address_bits(word: Word | None, address: int) -> int:
    """Return the bits of `address` where an item of `word` holds them; bits that it lacks are dropped."""
    found = 0
    for bits in word or ():
        if bits.role is Role.OUTPUT:
            found |= (address >> bits.target << bits.low) & bits.mask
    return found


def require(condition: bool, rule: str) -> None:
    """Raise FormatError with `rule` unless `condition` holds: for the parameters of a format."""
    if not condition:
        raise FormatError(rule)


@dataclass(frozen=True, slots=True)
class Bits:
    """Bits `high`..`low` of an item (both inclusive): the vendor's name and the role.

    `value`: for KIND, the value these bits have; for a right, the value that grants it; for a mark,
    the value that means yes.
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


def rights_mask(letters: str) -> int:
    """Return the rights that letters of RIGHT_LETTERS name, as a mask."""
    return sum(1 << RIGHT_LETTERS.index(letter) for letter in set(letters))


@dataclass(frozen=True, slots=True)
class Shape:
    """A leaf other than the plain one of its level: its KIND bits tell it from the others.

    An entry of this shape is `1 << items_lg2` items side by side. `copies`: all of them are equal and
    hold the address of the first; else each holds its own address. `mappable`: whether `map` makes
    such leaves; else they are only read. `inverted`: the address bits are stored inverted.
    """

    word: Word
    items_lg2: int = 0
    copies: bool = False
    mappable: bool = True
    inverted: bool = False


@dataclass(frozen=True, slots=True)
class Level:
    """One level: which input-address bits index it, and what its items can be.

    `shift` is the lowest input-address bit that the index uses, so a plain leaf here maps 2**shift
    bytes. `shapes` are further leaves of this level. `leaf_when` is a test that every leaf passes
    besides having the KIND bits of its shape, where one (mask, value) pair cannot say it: up to two
    pairs, of which one must hold. TABLE is asked before LEAF. `skips`: (level, word) of further table
    items, which may point further down than one level; the index bits skipped must then be 0.
    """

    name: str
    shift: int
    bits: int
    table: Word | None = None
    leaf: Word | None = None
    leaf_when: tuple[Match, ...] = ()
    shapes: tuple[Shape, ...] = ()
    skips: tuple[tuple[int, Word], ...] = ()

    @property
    def table_match(self) -> Match:
        """When an item is a table of the next level."""
        return word_match(self.table)

    @property
    def leaves(self) -> tuple[Shape, ...]:
        """Every shape of leaf, the plain one first (numbers 1, 2, ... to the engine)."""
        return (*(() if self.leaf is None else (Shape(self.leaf),)), *self.shapes)

    def is_leaf(self, item: int) -> bool:
        """Whether an item that is no table is a leaf."""
        shape = any(word_match(shape.word)(item) for shape in self.leaves)
        return shape and (not self.leaf_when or any(match(item) for match in self.leaf_when))

    def words(self) -> Iterator[tuple[str, Word]]:
        """Yield ('table', word), ('leaf', word) and further ones, as far as this level has them."""
        if self.table is not None:
            yield "table", self.table
        if self.leaf is not None:
            yield "leaf", self.leaf
        for shape in self.shapes:
            yield f"leaf of {1 << shape.items_lg2} items" if shape.items_lg2 else "leaf", shape.word
        for level, word in self.skips:
            yield f"table of level {level}", word

    def word_of(self, item: int) -> Word | None:
        """Return the word that `item` is, if it is a table or a leaf."""
        for word in (self.table, *(word for _, word in self.skips)):
            if word is not None and word_match(word)(item):
                return word
        if not self.is_leaf(item):
            return None
        return next(shape.word for shape in self.leaves if word_match(shape.word)(item))


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


@dataclass(frozen=True, slots=True)
class Lookup:
    """Rights that several bits decide together, in every word that has fields of all these names.

    `names`: one or two fields of role RIGHTS, most significant first; `over`: the letters of the
    rights that they decide; `grants`: the letters granted for each value, from 0 upwards.
    """

    names: tuple[str, ...]
    over: str
    grants: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Refusal:
    """A combination that hardware does not accept in any word that has fields of all these names.

    `fields`: (name, value) pairs; `rule` says it in words; `instead`, what would work.
    """

    fields: tuple[tuple[str, int], ...]
    rule: str
    instead: str = ""


@dataclass(frozen=True, slots=True)
class Mark:
    """A mark that more than one bit makes: set when all `fields` (name, value) hold; `flip` clears it."""

    fields: tuple[tuple[str, int], ...]
    flip: str


@dataclass(frozen=True, slots=True)
class Denial:
    """An access that is denied to a page with these rights, though the rights alone would allow it.

    `access`: letters of r, w, x; `user`: the mode of the access, None for both; `having` and
    `lacking`: letters of rights that the page has, and has not.
    """

    access: str
    user: bool | None
    having: str = ""
    lacking: str = ""


@dataclass(frozen=True, slots=True)
class Waiver:
    """An access that is allowed to a page with these rights, though the rights alone would not."""

    access: str
    user: bool | None
    having: str = ""


@dataclass(frozen=True, slots=True)
class KeyRule:
    """Data accesses that protection keys deny: to which pages, in which modes, and which keys.

    `access`: letters of r and w; `user_page`: pages with the user right, or without; `user`: the
    mode of the access, None for both; `keys`: bit n for key n.
    """

    access: str
    user_page: bool
    user: bool | None
    keys: int


@dataclass(frozen=True)
class Format:
    """The rules of one page-table layout in one mode.

    `levels` run from level 0 upwards. `empty` is the test for an empty item at any level.
    `physical_bits` is the widest output address of the architecture; an actual machine may have
    less, which is a parameter of each table. `memory_types` names the values of MEMORY_TYPE after
    reset, `device_memory` the one of them that a kernel's ioremap() asks for. `refused_rights` lists the
    combinations of r, w, x that hardware does not accept.
    `parents_limit_rights`: a right must be granted at every level, not only at the leaf.

    `address_bits`: how wide an input address is held (UPPER_ONLY means ones up to there).
    `root_align`: what the root is aligned to, where that is not its size. `lookups`, `refusals`,
    `dirty` (a mark of several bits): see their classes. `denials`, `waivers`, `key_rules`: what a
    CPU's control bits add to the rights of a page. `reserved_is`, `unknown_is`, `beyond_is`: the
    status of an item with reserved bits set or a refused combination, of one that is neither table
    nor leaf, and of one whose address is too wide. `accessed_required`, `dirty_required`: a leaf
    without the mark faults (the latter on a write), because software sets it. `table_access`: as
    what a second stage sees the reads of first-stage tables (letters, and 'u' for user mode).
    `error_code`: (condition, bit) pairs of the code that the CPU pushes with a fault; conditions are
    'mapped', 'write', 'user', 'reserved', 'fetch', 'key'. `break_before_make`: a leaf in use must be empty,
    and invalidated, before leaves of another size take its place. `compiled`: an engine is compiled for it.
    `worked_out` holds what `lower`, `access` and `encode` worked out before.
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
    device_memory: str = ""
    refused_rights: tuple[str, ...] = ()
    parents_limit_rights: bool = True
    parameters: dict[str, object] = field(default_factory=dict)
    address_bits: int = 64
    root_align: int | None = None
    lookups: tuple[Lookup, ...] = ()
    refusals: tuple[Refusal, ...] = ()
    dirty: Mark | None = None
    denials: tuple[Denial, ...] = ()
    waivers: tuple[Waiver, ...] = ()
    key_rules: tuple[KeyRule, ...] = ()
    reserved_is: Status = Status.RESERVED_BITS
    unknown_is: Status = Status.RESERVED_BITS
    beyond_is: Status = Status.RESERVED_BITS
    accessed_required: bool = False
    dirty_required: bool = False
    table_access: str = "r"
    error_code: tuple[tuple[str, int], ...] = ()
    break_before_make: bool = False
    compiled: bool = False
    worked_out: dict[object, Any] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )

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
        """The levels whose plain leaves can be mapped, smallest first."""
        return tuple(n for n, level in enumerate(self.levels) if level.leaf is not None)

    @cached_property
    def page_shapes(self) -> dict[int, tuple[int, int]]:
        """The page sizes that can be mapped, smallest first: bytes -> (level, shape from 1)."""
        found: dict[int, tuple[int, int]] = {}
        for n, level in enumerate(self.levels):
            for number, shape in enumerate(level.leaves, 1):
                if shape.mappable:
                    found.setdefault(1 << (level.shift + shape.items_lg2), (n, number))
        return dict(sorted(found.items()))

    @property
    def page_sizes(self) -> tuple[int, ...]:
        """The sizes of pages that can be mapped in bytes, smallest first."""
        return tuple(self.page_shapes)

    @cached_property
    def rights(self) -> int:
        """The rights that pages of this format can have, as a mask: bit n for RIGHTS[n]."""
        extra = 0
        for level in self.levels:
            for _, word in level.words():
                for bits in word:
                    if bits.role in EXTRA_RIGHTS:
                        extra |= 1 << RIGHT_ROLES.index(bits.role)
        for lookup in self.lookups:
            extra |= rights_mask(lookup.over)
        return 0b1111 | extra

    def table_bytes(self, level: int) -> int:
        """The size of a table at `level` in bytes; a table is aligned to its size."""
        return self.entry_bytes << self.levels[level].bits

    def level_of(self, page_size: int) -> int:
        """Return the level whose leaves have `page_size` bytes; FormatError names those there are."""
        return self.shape_of(page_size)[0]

    def shape_of(self, page_size: int) -> tuple[int, int]:
        """Return (level, shape) of the leaves of `page_size` bytes; FormatError names those there are."""
        sizes = self.page_shapes
        if page_size not in sizes:
            known = ", ".join(format_size(size) for size in sizes)
            raise FormatError(f"{self.name} has no {format_size(page_size)} page; it has {known}")
        return sizes[page_size]

    def validate(self) -> None:
        """Raise FormatError at the first contradiction in the declaration.

        Checked: every bit of every (level, kind) word is claimed exactly once; the index bits of all
        levels tile the input address; kinds can be told apart; output bits do not collide; the
        document is cited.
        """
        _validate_shape(self)
        for n, level in enumerate(self.levels):
            for kind, word in level.words():
                where = f"{self.name}, level {n} ({level.name}), {kind}"
                _validate_word(self, where, level, kind, word)
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
    if n == 0 and (level.table is not None or level.skips):
        raise FormatError(f"{where}: nothing is below level 0 for a table to point to")
    if n == 0 and level.leaf is None:
        raise FormatError(f"{where}: level 0 must have leaves")
    if n > 0 and level.table is None:
        raise FormatError(f"{where}: without tables the levels below cannot be reached")
    if len(level.leaf_when) > MAX_LEAF_MATCHES:
        raise FormatError(f"{where}: at most {MAX_LEAF_MATCHES} leaf tests")
    if len(level.leaves) >= MAX_SHAPES:
        raise FormatError(f"{where}: at most {MAX_SHAPES - 1} shapes of leaves")
    for shape in level.shapes:
        if shape.items_lg2 >= level.bits + (n == fmt.top_level):
            raise FormatError(f"{where}: {1 << shape.items_lg2} items are a whole table or more")
    for target, _ in level.skips:
        if not 0 <= target < n:
            raise FormatError(f"{where}: a table cannot point to level {target}")
    _validate_kinds(fmt, where, level)


def _apart(a: Match, b: Match) -> bool:
    return bool((a.mask & b.mask) & (a.value ^ b.value))


def _validate_kinds(fmt: Format, where: str, level: Level) -> None:
    tests = [(kind, word_match(word)) for kind, word in level.words()]
    for kind, match in tests:
        if fmt.empty.mask & ~match.mask == 0 and fmt.empty(match.value):
            raise FormatError(f"{where}: every {kind} item would count as empty")
    for n, (kind, match) in enumerate(tests):
        for other, earlier in tests[:n]:
            both_leaves = kind.startswith("leaf") and other.startswith("leaf")
            if not _apart(match, earlier) and (both_leaves or not level.leaf_when):
                raise FormatError(f"{where}: no KIND bit tells {other} from {kind}")


def _validate_word(fmt: Format, where: str, level: Level, kind: str, word: Word) -> None:
    below = fmt.entry_bytes * 8
    landed = 0
    for bits in word:
        if bits.high != below - 1 or not 0 <= bits.low <= bits.high:
            raise FormatError(
                f"{where}: bits {bits.label} ({bits.name}) where bit {below - 1} is next"
            )
        below = bits.low
        if bits.role in (Role.KIND, *RIGHT_ROLES, *FLAGS) and bits.value >> bits.width:
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
    for role in (Role.OUTPUT, *NUMBERS):
        if sum(bits.role is role for bits in word) > MAX_PIECES:
            raise FormatError(f"{where}: {role.value} has more than {MAX_PIECES} pieces")
    for role in (*RIGHT_ROLES, *FLAGS):
        if sum(bits.role is role for bits in word) > 1:
            raise FormatError(f"{where}: {role.value} is claimed by two fields")
    if landed >> fmt.physical_bits:
        raise FormatError(f"{where}: output bits beyond the {fmt.physical_bits} declared")
    if kind.startswith("leaf") and landed & ((1 << level.shift) - 1):
        raise FormatError(f"{where}: output bits below the leaf's own offset bits")
    _validate_lookups(fmt, where, word)


def _validate_lookups(fmt: Format, where: str, word: Word) -> None:
    found = lookups_of(fmt, word)
    looked_up = [name for lookup, _ in found for name in lookup.names]
    for bits in word:
        if bits.role is Role.RIGHTS and looked_up.count(bits.name) != 1:
            raise FormatError(f"{where}: bits {bits.label} ({bits.name}) need one lookup of rights")
    for lookup, fields in found:
        width = sum(bits.width for bits in fields)
        if width > MAX_GRANT_BITS or len(lookup.grants) != 1 << width:
            raise FormatError(
                f"{where}: {lookup.names} has {width} bits, {len(lookup.grants)} values"
            )
        if any(set(granted) - set(lookup.over) for granted in lookup.grants):
            raise FormatError(f"{where}: {lookup.names} grants more than {lookup.over!r}")


def fields_of(word: Word, names: Iterable[str]) -> tuple[Bits, ...] | None:
    """Return the fields of these names in `word`, in their order; None unless it has them all."""
    by_name = {bits.name: bits for bits in word}
    names = tuple(names)
    return tuple(by_name[name] for name in names) if all(n in by_name for n in names) else None


def lookups_of(fmt: Format, word: Word) -> list[tuple[Lookup, tuple[Bits, ...]]]:
    """Return the lookups that `word` has the fields of, with those fields."""
    found = []
    for lookup in fmt.lookups:
        fields = fields_of(word, lookup.names)
        if fields is not None and all(bits.role is Role.RIGHTS for bits in fields):
            found.append((lookup, fields))
    return found


def match_of(word: Word, fields: Iterable[tuple[str, int]]) -> Match:
    """Return the test that the named fields of `word` have these values; NEVER if it lacks one."""
    pairs = tuple(fields)
    found = fields_of(word, (name for name, _ in pairs))
    if found is None:
        return NEVER
    values = sum(value << bits.low for bits, (_, value) in zip(found, pairs, strict=True))
    return Match(sum(bits.mask for bits in found), values)

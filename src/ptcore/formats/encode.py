"""The inverse of decoding: the attribute bits of an item, from what a caller asks for.

Only attributes are made here; output addresses are placed by the compiled engine. Whatever a format
cannot say is refused with a FormatError that names the rule and the nearest thing that would work.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from itertools import product

from ptcore.errors import FormatError
from ptcore.formats.lower import lower_grants, refused
from ptcore.formats.schema import (
    NUMBERS,
    RIGHT_LETTERS,
    RIGHT_ROLES,
    Bits,
    Format,
    Role,
    Word,
    match_of,
    rights_mask,
    role_mask,
)

ACCESS_LETTERS = {"r": Role.READ, "w": Role.WRITE, "x": Role.EXECUTE}
R, W, X, USER, USER_X, USER_W = (1 << n for n in range(len(RIGHT_ROLES)))


@dataclass(frozen=True, slots=True)
class Attributes:
    """What a leaf is asked to be. None leaves the attribute as it is (for a change of a leaf).

    `access`: letters of r, w, x, or a mask of rights (then `user` says nothing). `memory_type`: a
    name of the format, or a number.
    """

    access: str | int | None = "rw"
    user: bool | None = False
    global_: bool | None = False
    memory_type: str | int | None = None
    pkey: int | None = 0
    software: int | None = 0


def rights_of(access: str) -> frozenset[Role]:
    """Return the rights that the letters of `access` name; FormatError for other letters."""
    if not isinstance(access, str) or not access or set(access) - set(ACCESS_LETTERS):
        raise FormatError(f"access {access!r} is not made of the letters r, w and x")
    return frozenset(ACCESS_LETTERS[letter] for letter in access)


def wanted_rights(fmt: Format, access: str | int | None, user: bool | None) -> tuple[int, int]:
    """Return (asked, granted): the rights that a request is about, and those that it grants.

    Where no bit decides execution, every page can be executed, and asking for less is no error. In
    formats where user mode has rights of its own, the letters speak of those whom the page is
    for: x grants a user page to user mode alone; stages that know no user page grant it to both.
    """
    extras = fmt.rights & (USER_X | USER_W)
    has_user = decides(fmt, USER)
    if isinstance(access, int):
        if access & ~fmt.rights:
            raise FormatError(f"{fmt.name} has no such rights: {access:#x} of {fmt.rights:#x}")
        return fmt.rights if has_user else fmt.rights & ~USER, access | (0 if has_user else USER)
    asked = granted = 0
    if access is not None:
        letters = rights_of(access)
        asked |= R | W | (X | extras if decides(fmt, X) else 0)
        granted |= R if Role.READ in letters else 0
        if Role.WRITE in letters:
            granted |= W | (extras & USER_W if user or not has_user else 0)
        if Role.EXECUTE in letters:
            own = extras & USER_X
            alone = own if user and own else X | (0 if _execute_alone(fmt) else own)
            granted |= alone if has_user else X | own
    if user is not None and has_user:
        asked |= USER
        granted |= USER if user else 0
    return asked, granted


def decides(fmt: Format, right: int) -> bool:
    """Whether any bits of the format's leaves decide a right."""
    key = ("decides", right)
    if key not in fmt.worked_out:
        fmt.worked_out[key] = _decides(fmt, right)
    return bool(fmt.worked_out[key])


def _execute_alone(fmt: Format) -> bool:
    """Whether privileged mode can be given execution that user mode is not given with it."""
    if "execute alone" not in fmt.worked_out:
        word = fmt.levels[0].leaves[0].word
        choices = _rights_choices(fmt, word, X | USER_X)
        fmt.worked_out["execute alone"] = any(rights == X for rights, _, _ in choices)
    return bool(fmt.worked_out["execute alone"])


def _decides(fmt: Format, right: int) -> bool:
    return any(
        kept & right == 0
        for level in fmt.levels
        for shape in level.leaves
        for _, values in _right_fields(fmt, shape.word)
        for kept in values
    )


def table_bits(fmt: Format, level: int) -> int:
    """Return a table item at `level` without its address: every right granted, so the leaf decides."""
    word = fmt.levels[level].table or ()
    return sum(b.value << b.low for b in word if b.role in (Role.KIND, *RIGHT_ROLES))


def leaf_change(fmt: Format, level: int, wanted: Attributes, shape: int = 1) -> tuple[int, int]:
    """Return (clear, set): masks that give a leaf at `level` the attributes that `wanted` names.

    `shape` is the leaf's number in `Level.leaves`, from 1. For a new leaf, `set` alone is the item
    without its address. Raises FormatError for what the format cannot say.
    """
    key = ("leaf", level, shape, wanted)
    if key not in fmt.worked_out:
        fmt.worked_out[key] = _leaf_change(fmt, level, wanted, shape)
    found: tuple[int, int] = fmt.worked_out[key]
    return found


def _leaf_change(fmt: Format, level: int, wanted: Attributes, shape: int) -> tuple[int, int]:
    word = fmt.levels[level].leaves[shape - 1].word
    clear = role_mask(word, Role.KIND)
    bits = sum(b.value << b.low for b in word if b.role is Role.KIND)
    asked, granted = wanted_rights(fmt, wanted.access, wanted.user)
    for part in (
        rights_change(fmt, word, asked, granted),
        _flag_change(fmt, word, wanted.global_),
        *_number_changes(fmt, word, wanted),
    ):
        clear |= part[0]
        bits |= part[1]
    _refuse(fmt, word, clear, bits)
    if fmt.empty.mask & ~clear == 0 and fmt.empty(bits):
        raise FormatError(
            f"{fmt.name} has no page without any of the rights that it knows: such an item is empty; "
            "the nearest is 'r'"
        )
    return clear, bits


def new_marks(fmt: Format, level: int, shape: int = 1) -> int:
    """Return the marks that a new leaf must have, where software sets them."""
    word = fmt.levels[level].leaves[shape - 1].word
    roles = [Role.ACCESSED] if fmt.accessed_required else []
    roles += [Role.DIRTY] if fmt.dirty_required else []
    return sum(b.value << b.low for b in word if b.role in roles)


def _refuse(fmt: Format, word: Word, clear: int, bits: int) -> None:
    """Raise for bits that are a refused combination, whatever the bits that stay as they are."""
    for refusal in fmt.refusals:
        match = match_of(word, refusal.fields)
        if match.mask and match.mask & ~clear == 0 and match(bits):
            instead = f"; {refusal.instead}" if refusal.instead else ""
            raise FormatError(f"{fmt.name} refuses {refusal.rule}{instead}")


def _right_fields(fmt: Format, word: Word) -> Iterator[tuple[tuple[Bits, ...], tuple[int, ...]]]:
    """Yield (fields, rights kept for each value) of all that decides rights in `word`."""
    for grant, fields in lower_grants(fmt, word):
        yield fields, tuple(grant["kept"])


def _placed(fields: tuple[Bits, ...], value: int) -> int:
    bits = 0
    for field in reversed(fields):
        bits |= (value & ((1 << field.width) - 1)) << field.low
        value >>= field.width
    return bits


def _rights_choices(fmt: Format, word: Word, asked: int) -> tuple[tuple[int, int, int], ...]:
    """Return (rights, clear, set) of every lawful value of the fields that decide what is asked."""
    tests = refused(fmt, word)
    return tuple(
        (rights, clear, bits)
        for rights, clear, bits in _every_choice(fmt, word, asked)
        if not any(t.mask & ~clear == 0 and t(bits) for t in tests)
    )


def _every_choice(fmt: Format, word: Word, asked: int) -> Iterator[tuple[int, int, int]]:
    every = fmt.rights
    parts = [p for p in _right_fields(fmt, word) if any(every & ~kept & asked for kept in p[1])]
    for values in product(*(range(len(kept)) for _, kept in parts)):
        rights, clear, bits = every, 0, 0
        for (fields, kept), value in zip(parts, values, strict=True):
            rights &= kept[value]
            clear |= sum(field.mask for field in fields)
            bits |= _placed(fields, value)
        yield rights & asked, clear, bits


def rights_change(fmt: Format, word: Word, asked: int, granted: int) -> tuple[int, int]:
    """Return (clear, set) that give an item of `word` exactly the rights `granted` of those `asked`.

    Raises FormatError, naming the nearest rights that can be said, where there is no such item.
    """
    choices = _rights_choices(fmt, word, asked)
    for rights, clear, bits in choices:
        if rights == granted & asked:
            return clear, bits
    more = [rights for rights, _, _ in choices if rights & granted == granted & asked & rights]
    enough = [rights for rights in more if rights & granted & asked == granted & asked] or more
    nearest = min(enough, key=lambda rights: (rights ^ granted).bit_count())
    raise FormatError(
        f"{fmt.name} has no page with the rights {letters_of(granted & asked)!r}: "
        f"{_why_not(fmt, word, asked, granted)}; the nearest is {letters_of(nearest)!r}"
    )


def _why_not(fmt: Format, word: Word, asked: int, granted: int) -> str:
    kept = asked & ~granted
    for _, values in _right_fields(fmt, word):
        for value in values:
            kept &= value
    if kept:
        names = [role.value for n, role in enumerate(RIGHT_ROLES) if kept >> n & 1]
        return f"it cannot withhold {' and '.join(names)}, because no bit stands for it"
    rules = []
    for rights, clear, bits in _every_choice(fmt, word, asked):
        if rights == granted & asked:
            matches = [(refusal.rule, match_of(word, refusal.fields)) for refusal in fmt.refusals]
            rules += [rule for rule, m in matches if m.mask and not m.mask & ~clear and m(bits)]
    rules = list(dict.fromkeys(rules))
    return f"it refuses {' and '.join(rules)}" if rules else "no value of its bits says so"


def letters_of(rights: int) -> str:
    """Return a mask of rights as its letters, without those withheld: 'rw'."""
    return "".join(letter for n, letter in enumerate(RIGHT_LETTERS) if rights >> n & 1)


def _flag_change(fmt: Format, word: Word, value: bool | None) -> tuple[int, int]:
    field = next((b for b in word if b.role is Role.GLOBAL), None)
    if value is None:
        return 0, 0
    if field is None:
        if value:
            raise FormatError(f"{fmt.name} has no global leaves")
        return 0, 0
    return field.mask, (field.value if value else field.value ^ 1) << field.low


def _number_changes(fmt: Format, word: Word, wanted: Attributes) -> list[tuple[int, int]]:
    values = {
        Role.MEMORY_TYPE: memory_type_number(fmt, wanted.memory_type),
        Role.PROTECTION_KEY: wanted.pkey,
        Role.SOFTWARE: wanted.software,
    }
    return [_place(fmt, word, role, values[role]) for role in NUMBERS]


def _place(fmt: Format, word: Word, role: Role, number: int | None) -> tuple[int, int]:
    if number is None:
        return 0, 0
    clear = bits = 0
    left = number
    for field in word:
        if field.role is role:
            piece = ((1 << field.width) - 1) << field.target
            clear |= field.mask
            bits |= ((number & piece) >> field.target) << field.low
            left &= ~piece
    if number < 0 or left:
        raise FormatError(f"{fmt.name} has no room for {role.value} {number:#x} in a leaf")
    return clear, bits


def memory_type_number(fmt: Format, memory_type: str | int | None) -> int | None:
    """Return the number of a memory type given by name or number; None stays None."""
    if not isinstance(memory_type, str):
        return memory_type
    names = [name.upper() for name in fmt.memory_types]
    if memory_type.upper() not in names:
        known = ", ".join(dict.fromkeys(fmt.memory_types))
        raise FormatError(f"{fmt.name} has no memory type {memory_type!r}; it has {known}")
    return names.index(memory_type.upper())


@cache
def rights_names(mask: int, every: int = 0b1111) -> str:
    """Return a rights mask as letters in the order rwxuXW, '-' where withheld: 'rw-u'.

    `every`: the rights that the format knows; only those are shown.
    """
    return "".join(
        letter if mask >> n & 1 else "-" for n, letter in enumerate(RIGHT_LETTERS) if every >> n & 1
    )


__all__ = [
    "ACCESS_LETTERS",
    "Attributes",
    "decides",
    "leaf_change",
    "letters_of",
    "memory_type_number",
    "new_marks",
    "rights_change",
    "rights_mask",
    "rights_names",
    "rights_of",
    "table_bits",
    "wanted_rights",
]

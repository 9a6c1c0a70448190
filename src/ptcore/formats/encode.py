"""The inverse of decoding: the attribute bits of an item, from what a caller asks for.

Only attributes are made here; output addresses are placed by the compiled engine. Whatever a format
cannot say is refused with a FormatError that names the rule and the nearest thing that would work.
"""

from __future__ import annotations

from dataclasses import dataclass

from ptcore.errors import FormatError
from ptcore.formats.schema import NUMBERS, RIGHT_ROLES, RIGHTS, Format, Role, Word, role_mask

ACCESS_LETTERS = {"r": Role.READ, "w": Role.WRITE, "x": Role.EXECUTE}


@dataclass(frozen=True, slots=True)
class Attributes:
    """What a leaf is asked to be. None leaves the attribute as it is (for a change of a leaf).

    `access`: letters of r, w, x. `memory_type`: a name of the format, or a number.
    """

    access: str | None = "rw"
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


def table_bits(fmt: Format, level: int) -> int:
    """Return a table item at `level` without its address: every right granted, so the leaf decides."""
    word = fmt.levels[level].table or ()
    return sum(b.value << b.low for b in word if b.role in (Role.KIND, *RIGHT_ROLES))


def leaf_change(fmt: Format, level: int, wanted: Attributes) -> tuple[int, int]:
    """Return (clear, set): masks that give a leaf at `level` the attributes that `wanted` names.

    For a new leaf, `set` alone is the item without its address. Raises FormatError for what the
    format cannot say.
    """
    word = fmt.levels[level].leaf or ()
    clear = role_mask(word, Role.KIND)
    bits = sum(b.value << b.low for b in word if b.role is Role.KIND)
    for part in (
        _rights_change(fmt, word, wanted),
        _flag_change(fmt, word, wanted.global_),
        *_number_changes(fmt, word, wanted),
    ):
        clear |= part[0]
        bits |= part[1]
    return clear, bits


def _rights_change(fmt: Format, word: Word, wanted: Attributes) -> tuple[int, int]:
    clear = bits = 0
    asked: dict[Role, bool] = {}
    if wanted.access is not None:
        granted = rights_of(wanted.access)
        _refuse(fmt, wanted.access)
        asked |= {role: role in granted for role in ACCESS_LETTERS.values()}
    if wanted.user is not None:
        asked[Role.USER] = bool(wanted.user)
    for role, grant in asked.items():
        field = next((b for b in word if b.role is role), None)
        if field is not None:
            clear |= field.mask
            bits |= (field.value if grant else field.value ^ 1) << field.low
        elif not grant and role is not Role.USER:
            letters = "".join(c for c, r in ACCESS_LETTERS.items() if asked[r] or r is role)
            raise FormatError(
                f"{fmt.name} cannot withhold {role.value}: no bit of its leaves stands for it; "
                f"the nearest access is {letters!r}"
            )
    return clear, bits


def _refuse(fmt: Format, access: str) -> None:
    ordered = "".join(letter for letter in "rwx" if letter in access)
    if ordered in fmt.refused_rights:
        raise FormatError(f"{fmt.name} reserves the combination {ordered!r}; add 'r'")


def _flag_change(fmt: Format, word: Word, value: bool | None) -> tuple[int, int]:
    mask = role_mask(word, Role.GLOBAL)
    if value is None:
        return 0, 0
    if value and not mask:
        raise FormatError(f"{fmt.name} has no global leaves")
    return mask, mask if value else 0


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
    if memory_type.upper() not in fmt.memory_types:
        known = ", ".join(dict.fromkeys(fmt.memory_types))
        raise FormatError(f"{fmt.name} has no memory type {memory_type!r}; it has {known}")
    return fmt.memory_types.index(memory_type.upper())


def rights_names(mask: int) -> str:
    """Return a rights bit set (bit 0 read, 1 write, 2 execute, 3 user) as letters: 'rw-u'."""
    return "".join(
        (name[0] if name != "execute" else "x") if mask >> n & 1 else "-"
        for n, name in enumerate(RIGHTS)
    )

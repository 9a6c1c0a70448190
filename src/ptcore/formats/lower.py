"""Lower a Format to the flat masks and shifts that the compiled engine reads.

One lowering, two uses: `setup.py` prints it as C constants for the formats in this folder, and a table
made with any other Format fills the same C structs with it at run time. The keys below are the C
struct members (table/abi.h), so that the two cannot drift apart unnoticed.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from ptcore.errors import FormatError
from ptcore.formats.schema import (
    MAX_LEAF_MATCHES,
    MAX_PIECES,
    NEVER,
    RIGHT_ROLES,
    AddressRule,
    Bits,
    Format,
    Match,
    Role,
    Word,
    role_mask,
)

MAX_CARRY = 8
LONGEST_C_INTEGER = 64

ADDRESS_RULE_NUMBERS = {
    AddressRule.SIGN_EXTENDED: 0,
    AddressRule.ZERO_EXTENDED: 1,
    AddressRule.UPPER_ONLY: 2,
}

Struct = dict[str, Any]


def _match(match: Match) -> Struct:
    return {"mask": match.mask, "value": match.value}


def _pieces(word: Word | None, role: Role) -> list[Struct]:
    found = [b for b in word or () if b.role is role]
    pieces = [{"mask": b.mask, "shift": b.target - b.low} for b in found]
    return pieces + [{"mask": 0, "shift": 0}] * (MAX_PIECES - len(pieces))


def _layout(word: Word | None) -> Struct:
    rights = [role_mask(word, role) for role in RIGHT_ROLES]
    granted = sum(b.value << b.low for b in word or () if b.role in RIGHT_ROLES)
    fixed = sum(b.value << b.low for b in word or () if b.role is Role.KIND)
    return {
        "output": _pieces(word, Role.OUTPUT),
        "right": rights,
        "granted": granted,
        "fixed": fixed,
        "reserved": role_mask(word, Role.RESERVED),
        "accessed": role_mask(word, Role.ACCESSED),
        "dirty": role_mask(word, Role.DIRTY),
        "global_": role_mask(word, Role.GLOBAL),
        "memory_type": _pieces(word, Role.MEMORY_TYPE),
        "protection_key": _pieces(word, Role.PROTECTION_KEY),
        "software": _pieces(word, Role.SOFTWARE),
    }


_CARRIED = (
    *RIGHT_ROLES,
    Role.ACCESSED,
    Role.DIRTY,
    Role.GLOBAL,
    Role.MEMORY_TYPE,
    Role.PROTECTION_KEY,
    Role.SOFTWARE,
)


def carry(upper: Word | None, lower: Word | None) -> list[Struct]:
    """Return how the attributes of a leaf move into a leaf one level down: (mask, shift) pieces.

    Pieces with one shift are merged. Attributes that the lower word lacks are dropped.
    """
    by_shift: dict[int, int] = {}
    for bits in upper or ():
        if bits.role in _CARRIED:
            for shift, mask in _landings(bits, lower or ()):
                by_shift[shift] = by_shift.get(shift, 0) | mask
    pieces = [{"mask": mask, "shift": shift} for shift, mask in sorted(by_shift.items())]
    if len(pieces) > MAX_CARRY:
        raise FormatError(f"attributes move by {len(pieces)} distances between two levels")
    return pieces + [{"mask": 0, "shift": 0}] * (MAX_CARRY - len(pieces))


def _landings(bits: Bits, lower: Word) -> Iterable[tuple[int, int]]:
    for other in lower:
        if other.role is bits.role:
            first = max(bits.target, other.target)
            end = min(bits.target + bits.width, other.target + other.width)
            if first < end:
                source = first - bits.target + bits.low
                mask = ((1 << (end - first)) - 1) << source
                yield first - other.target + other.low - source, mask


def lower(fmt: Format) -> Struct:
    """Validate `fmt` and return it as nested dicts that mirror `pt_format` of table/abi.h."""
    fmt.validate()
    levels = []
    for n, level in enumerate(fmt.levels):
        leaf = list(level.leaf_matches) if level.leaf is not None else []
        leaf += [NEVER] * (MAX_LEAF_MATCHES - len(leaf))
        below = fmt.levels[n - 1].leaf if n else None
        levels.append(
            {
                "shift": level.shift,
                "bits": level.bits,
                "has_leaf": int(level.leaf is not None),
                "table": _match(level.table_match),
                "leaf": [_match(match) for match in leaf],
                "layout": [_layout(level.table), _layout(level.leaf)],
                "carry": carry(level.leaf, below),
            }
        )
    return {
        "top": fmt.top_level,
        "entry_lg2": fmt.entry_bytes.bit_length() - 1,
        "swap_bytes": int(fmt.byte_order == "big"),
        "input_bits": fmt.input_bits,
        "address_rule": ADDRESS_RULE_NUMBERS[fmt.address_rule],
        "parents_limit_rights": int(fmt.parents_limit_rights),
        "empty": _match(fmt.empty),
        "level": levels,
    }


def _c_value(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f".{key} = {_c_value(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list):
        return "{" + ", ".join(map(_c_value, value)) + "}"
    if value >> LONGEST_C_INTEGER > 0:
        return f"PT_WIDE({value >> 64:#x}u, {value & (1 << 64) - 1:#x}u)"
    return str(value) if value < 0 else f"{value:#x}u"


def c_source(formats: Iterable[Format]) -> str:
    """Return the C header with one constant per format, and the list PT_FORMATS of their names."""
    formats = list(formats)
    lines = [
        "/* Generated from src/ptcore/formats by setup.py. Do not edit: edit the format. */",
        "#ifndef PT_FORMATS_GENERATED_H",
        "#define PT_FORMATS_GENERATED_H",
        '#include "abi.h"',
    ]
    for fmt in formats:
        lines.append(f"static const pt_format PT_FORMAT_{fmt.name} = {_c_value(lower(fmt))};")
    calls = " ".join(f"X({fmt.name})" for fmt in formats)
    return "\n".join([*lines, f"#define PT_FORMATS(X) {calls}", "#endif", ""])

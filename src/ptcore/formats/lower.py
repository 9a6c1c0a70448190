"""Lower a Format to the flat masks and shifts that the compiled engine reads.

One lowering, two uses: `setup.py` prints it as C constants for the formats in this folder, and a table
made with any other Format fills the same C structs with it at run time. The keys below are the C
struct members (table/abi.h), so that the two cannot drift apart unnoticed.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from ptcore.errors import FormatError
from ptcore.formats.schema import (
    MAX_GRANTS,
    MAX_LEAF_MATCHES,
    MAX_LEVELS,
    MAX_REFUSALS,
    NEVER,
    RIGHT_ROLES,
    AddressRule,
    Bits,
    Format,
    Level,
    Match,
    Role,
    Shape,
    Word,
    fields_of,
    lookups_of,
    match_of,
    rights_mask,
    role_mask,
    word_match,
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
    return [{"mask": b.mask, "shift": b.target - b.low} for b in found]


def lower_grants(fmt: Format, word: Word) -> list[tuple[Struct, tuple[Bits, ...]]]:
    """Return how each right follows from the item: a value of one or two fields and what it keeps,
    with those fields."""
    grants: list[tuple[Struct, tuple[Bits, ...]]] = []
    every = fmt.rights
    for bits in word:
        if bits.role in RIGHT_ROLES:
            right = 1 << RIGHT_ROLES.index(bits.role)
            kept = [every & ~right, every] if bits.value else [every, every & ~right]
            grants.append(({"shift": [0, bits.low], "bits": [0, 1], "kept": kept}, (bits,)))
    for lookup, fields in lookups_of(fmt, word):
        over = rights_mask(lookup.over)
        shifts, widths = [b.low for b in fields], [b.width for b in fields]
        grant = {
            "shift": [0] * (2 - len(fields)) + shifts,
            "bits": [0] * (2 - len(fields)) + widths,
            "kept": [every & ~over | rights_mask(granted) for granted in lookup.grants],
        }
        grants.append((grant, fields))
    if len(grants) > MAX_GRANTS:
        raise FormatError(f"{fmt.name}: rights depend on {len(grants)} fields of an item")
    return grants


def _granting(fmt: Format, word: Word) -> Match:
    """Return the test that an item withholds nothing; NEVER where there is no such item."""
    mask = value = 0
    for grant, fields in lower_grants(fmt, word):
        if fmt.rights not in grant["kept"]:
            return NEVER
        number = grant["kept"].index(fmt.rights)
        for bits in reversed(fields):
            mask |= bits.mask
            value |= (number & (1 << bits.width) - 1) << bits.low
            number >>= bits.width
    return Match(mask, value)


def _mark(word: Word, role: Role) -> Struct:
    bits = next((b for b in word if b.role is role), None)
    if bits is None:
        return {"mask": 0, "value": 1, "flip": 0}
    return {"mask": bits.mask, "value": bits.value << bits.low, "flip": bits.mask}


def _dirty(fmt: Format, word: Word) -> Struct:
    if fmt.dirty is None or fields_of(word, [fmt.dirty.flip]) is None:
        return _mark(word, Role.DIRTY)
    match = match_of(word, fmt.dirty.fields)
    if match == NEVER:
        return _mark(word, Role.DIRTY)
    flip = sum(bits.mask for bits in word if bits.name == fmt.dirty.flip)
    return {"mask": match.mask, "value": match.value, "flip": flip}


def refused(fmt: Format, word: Word) -> list[Match]:
    """Return the tests of the refusals that concern `word`."""
    found = [match_of(word, refusal.fields) for refusal in fmt.refusals]
    found = [match for match in found if match != NEVER]
    if len(found) > MAX_REFUSALS:
        raise FormatError(f"{fmt.name}: {len(found)} refusals of one word")
    return found


def _padded(matches: Iterable[Match], length: int) -> list[Struct]:
    found = [_match(match) for match in matches]
    return found + [_match(NEVER)] * (length - len(found))


def _layout(fmt: Format, word: Word | None, inverted: bool = False) -> Struct:
    word = word or ()
    output = role_mask(word, Role.OUTPUT)
    global_ = _mark(word, Role.GLOBAL)
    return {
        "output": _pieces(word, Role.OUTPUT),
        "output_mask": output,
        "invert": output if inverted else 0,
        "grant": [grant for grant, _ in lower_grants(fmt, word)],
        "granting": _match(_granting(fmt, word)),
        "fixed": sum(b.value << b.low for b in word if b.role is Role.KIND),
        "reserved": role_mask(word, Role.RESERVED),
        "refused": _padded(refused(fmt, word), MAX_REFUSALS),
        "accessed": _mark(word, Role.ACCESSED),
        "dirty": _dirty(fmt, word),
        "global_": {"mask": global_["mask"], "value": global_["value"]},
        "memory_type": _pieces(word, Role.MEMORY_TYPE),
        "protection_key": _pieces(word, Role.PROTECTION_KEY),
        "software": _pieces(word, Role.SOFTWARE),
    }


_CARRIED = (
    *RIGHT_ROLES,
    Role.RIGHTS,
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
    return pieces


def _landings(bits: Bits, lower: Word) -> Iterable[tuple[int, int]]:
    for other in lower:
        if other.role is Role.RIGHTS is bits.role and other.name != bits.name:
            continue
        if other.role is bits.role:
            first = max(bits.target, other.target)
            end = min(bits.target + bits.width, other.target + other.width)
            if first < end:
                source = first - bits.target + bits.low
                mask = ((1 << (end - first)) - 1) << source
                yield first - other.target + other.low - source, mask


def _neighbour(fmt: Format, size: int, step: int) -> tuple[int, int]:
    """Return (level, shape) of the next larger or smaller page; (0, 0) where there is none."""
    sizes = list(fmt.page_shapes)
    at = sizes.index(size) + step
    return fmt.page_shapes[sizes[at]] if 0 <= at < len(sizes) else (0, 0)


def _word_at(fmt: Format, place: tuple[int, int]) -> Word | None:
    level, shape = place
    return fmt.levels[level].leaves[shape - 1].word if shape else None


def _shape(fmt: Format, n: int, shape: Shape) -> Struct:
    """Return a shape of leaf; `carry` is how its attributes move into the next smaller page."""
    size = 1 << (fmt.levels[n].shift + shape.items_lg2)
    smaller = larger = (0, 0)
    if shape.mappable:
        smaller, larger = _neighbour(fmt, size, -1), _neighbour(fmt, size, 1)
    return {
        "match": _match(word_match(shape.word)),
        "items_lg2": shape.items_lg2,
        "copies": int(shape.copies),
        "mappable": int(shape.mappable),
        "smaller": list(smaller),
        "larger": list(larger),
        "layout": _layout(fmt, shape.word, shape.inverted),
        "carry": carry(shape.word, _word_at(fmt, smaller)) if smaller[1] else [],
    }


_TABLE_SHAPE = {"items_lg2": 0, "copies": 0, "mappable": 0, "smaller": [0, 0], "larger": [0, 0]}


def _usual_leaf(level: Level) -> Match:
    """Return a test of most leaves: passing it, an item reads as the plain leaf does.

    Where the shapes differ in KIND bits only (each item holds its own address), those bits are left
    out of the test, so that all shapes are usual.
    """
    when = level.leaf_when[0] if level.leaf_when else Match(0, 0)
    matches = [word_match(shape.word) for shape in level.leaves]
    plain = matches[0]
    plainly_read = [
        tuple(replace(b, value=0) if b.role is Role.KIND else b for b in shape.word)
        for shape in level.leaves
    ]
    own_addresses = not any(shape.copies or shape.inverted for shape in level.shapes)
    if own_addresses and all(word == plainly_read[0] for word in plainly_read):
        same = plain.mask
        for match in matches:
            same &= ~(match.value ^ plain.value)
        plain = Match(same, plain.value & same)
    both = plain.mask & when.mask
    if both & (plain.value ^ when.value):
        return NEVER
    return Match(plain.mask | when.mask, plain.value | when.value)


def _usual(fmt: Format, n: int) -> Match:
    """Return the test that tells most items of a level in a walk; NEVER where none is sure."""
    level = fmt.levels[n]
    word = level.leaf if n == 0 else level.table
    match = _usual_leaf(level) if n == 0 else level.table_match
    for refusal in refused(fmt, word or ()):
        rights = role_mask(word, *RIGHT_ROLES) & refusal.mask & ~refusal.value
        if not rights:
            return NEVER
        bit = rights & -rights  # set, it rules the refusal out
        match = Match(match.mask | bit, match.value | bit)
    return match


def lower(fmt: Format) -> Struct:
    """Validate `fmt` and return it as nested dicts that mirror `pt_format` of table/abi.h."""
    if "lowered" not in fmt.worked_out:
        fmt.worked_out["lowered"] = _lower(fmt)
    lowered: Struct = fmt.worked_out["lowered"]
    return lowered


def _lower(fmt: Format) -> Struct:
    fmt.validate()
    levels = []
    for n, level in enumerate(fmt.levels):
        table: Struct = {"match": _match(level.table_match), **_TABLE_SHAPE}
        table |= {"layout": _layout(fmt, level.table), "carry": []}
        skips = dict(level.skips)
        matches = [word_match(skips.get(target)) for target in range(MAX_LEVELS)]
        when = level.leaf_when or (Match(0, 0),)
        levels.append(
            {
                "shift": level.shift,
                "bits": level.bits,
                "shapes": 1 + len(level.leaves),
                "has_leaf": int(level.leaf is not None),
                "usual": _match(_usual(fmt, n)),
                "leaf_when": _padded(when, MAX_LEAF_MATCHES),
                "skip": [_match(match) for match in matches],
                "shape": [table, *(_shape(fmt, n, shape) for shape in level.leaves)],
            }
        )
    return {
        "top": fmt.top_level,
        "entry_lg2": fmt.entry_bytes.bit_length() - 1,
        "swap_bytes": int(fmt.byte_order == "big"),
        "input_bits": fmt.input_bits,
        "address_bits": fmt.address_bits,
        "address_rule": ADDRESS_RULE_NUMBERS[fmt.address_rule],
        "parents_limit_rights": int(fmt.parents_limit_rights),
        "rights": fmt.rights,
        "has_skips": int(any(level.skips for level in fmt.levels)),
        "reserved_status": int(fmt.reserved_is),
        "unknown_status": int(fmt.unknown_is),
        "beyond_status": int(fmt.beyond_is),
        "accessed_required": int(fmt.accessed_required),
        "empty": _match(fmt.empty),
        "level": levels,
    }


def _c_value(value: Any) -> str:
    if isinstance(value, dict):
        given = {key: item for key, item in value.items() if item not in (0, [])}
        return "{" + ", ".join(f".{key} = {_c_value(item)}" for key, item in given.items()) + "}"
    if isinstance(value, list):
        return "{" + ", ".join(map(_c_value, value)) + "}"
    if value >> LONGEST_C_INTEGER > 0:
        return f"PT_WIDE({value >> 64:#x}u, {value & (1 << 64) - 1:#x}u)"
    return str(value) if value < 0 else f"{value:#x}u"


def c_source(formats: Iterable[Format]) -> str:
    """Return the C header with one constant per format, and the list PT_FORMATS of their names.

    Members that are 0 are left out: C sets them to 0.
    """
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

"""A format for people: what each bit of each item is called, and what one item says."""

from __future__ import annotations

from dataclasses import dataclass

from ptcore.errors import FormatError, Status
from ptcore.formats.encode import rights_names
from ptcore.formats.lower import lower_grants, refused
from ptcore.formats.schema import Bits, Format, Role, Word, match_of, role_mask
from ptcore.units import format_size


@dataclass(frozen=True, slots=True)
class FieldValue:
    """One field of an item: its bits as a manual writes them, its name, its value, what it means."""

    bits: str
    name: str
    value: int
    meaning: str


@dataclass(frozen=True, slots=True)
class Explanation:
    """What one item says. `kind`: empty, table, leaf or reserved; `rule`: the rule that it breaks, if
    any, with its `status`."""

    kind: str
    fields: tuple[FieldValue, ...]
    output: int | None
    page_size: int | None
    rights: str | None
    status: Status
    rule: str


def level_number(fmt: Format, level: int | str) -> int:
    """Return the level of a number or of a vendor's name; FormatError names those there are."""
    text = str(level)
    names = [found.name for found in fmt.levels]
    if text in names:
        return names.index(text)
    if text.isdecimal() and int(text) < len(names):
        return int(text)
    known = ", ".join(f"{n} ({name})" for n, name in enumerate(names))
    raise FormatError(f"{fmt.name} has no level {level!r}; it has {known}")


def meaning(bits: Bits) -> str:
    """Return what a field is for, in a few words."""
    role = bits.role.value.replace("_", " ")
    if bits.role is Role.KIND:
        return f"{bits.value:#x} makes it this kind"
    if bits.role is Role.OUTPUT:
        return f"output address {bits.target + bits.width - 1}:{bits.target}"
    if bits.role is Role.RESERVED:
        return "must be 0"
    if bits.role in (Role.MEMORY_TYPE, Role.SOFTWARE, Role.PROTECTION_KEY):
        return f"{role} {bits.target + bits.width - 1}:{bits.target}"
    if bits.role in (Role.IGNORED, Role.RIGHTS):
        return role
    return f"{role} if {bits.value}"


def drawing(fmt: Format) -> list[tuple[str, list[tuple[str, str, str]]]]:
    """Return (title, rows of (bits, name, meaning)) of every word, root first, top bits first."""
    found = []
    for n in range(fmt.top_level, -1, -1):
        level = fmt.levels[n]
        sizes = {id(shape.word): level.shift + shape.items_lg2 for shape in level.leaves}
        for kind, word in level.words():
            size = f", {format_size(1 << sizes[id(word)])} page" if id(word) in sizes else ""
            rows = [(bits.label, bits.name, meaning(bits)) for bits in word]
            found.append((f"{level.name} (level {n}), {kind}{size}", rows))
    return found


def explain(fmt: Format, level: int | str, entry: int) -> Explanation:
    """Return what `entry` says at a level. FormatError for a level or an entry that cannot be."""
    n = level_number(fmt, level)
    if not 0 <= entry < 1 << 8 * fmt.entry_bytes:
        raise FormatError(f"{entry:#x} does not fit the {fmt.entry_bytes} bytes of an item")
    word = None if fmt.empty(entry) else fmt.levels[n].word_of(entry)
    if word is None:
        empty = fmt.empty(entry)
        return Explanation(
            kind="empty" if empty else "reserved",
            fields=(),
            output=None,
            page_size=None,
            rights=None,
            status=Status.NOT_PRESENT if empty else fmt.unknown_is,
            rule="" if empty else "it is neither table nor leaf at this level",
        )
    shape = next((s for s in fmt.levels[n].leaves if s.word is word), None)
    rule = _broken(fmt, word, entry)
    return Explanation(
        kind="leaf" if shape else "table",
        fields=tuple(
            FieldValue(b.label, b.name, (entry & b.mask) >> b.low, meaning(b)) for b in word
        ),
        output=_output(word, entry, shape is not None and shape.inverted),
        page_size=1 << (fmt.levels[n].shift + shape.items_lg2) if shape else None,
        rights=rights_names(_rights(fmt, word, entry), fmt.rights),
        status=fmt.reserved_is if rule else Status.OK,
        rule=rule,
    )


def _output(word: Word, entry: int, inverted: bool) -> int:
    output = 0
    for bits in word:
        if bits.role is Role.OUTPUT:
            held = (entry ^ (bits.mask if inverted else 0)) & bits.mask
            output |= held >> bits.low << bits.target
    return output


def _rights(fmt: Format, word: Word, entry: int) -> int:
    rights = fmt.rights
    for grant, fields in lower_grants(fmt, word):
        value = 0
        for bits in fields:
            value = value << bits.width | (entry & bits.mask) >> bits.low
        rights &= grant["kept"][value]
    return rights


def _broken(fmt: Format, word: Word, entry: int) -> str:
    zero = entry & role_mask(word, Role.RESERVED)
    if zero:
        names = ", ".join(f"{b.label} ({b.name})" for b in word if b.mask & zero)
        return f"bits {names} must be 0"
    if any(match(entry) for match in refused(fmt, word)):
        rules = [r.rule for r in fmt.refusals if match_of(word, r.fields)(entry)]
        return f"{rules[0]} is refused"
    return ""

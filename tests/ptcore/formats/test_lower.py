"""Lowering: a format of ptcore gets its own engine, any other the general one."""

from __future__ import annotations

from dataclasses import replace

import pytest

from ptcore import PageTable, PhysicalMemory, formats
from ptcore.errors import FormatError
from ptcore.formats import Bits, Role
from ptcore.formats.lower import MAX_CARRY, c_source, carry, lower
from ptcore.formats.schema import Format

NAMES = [name for name in formats.names() if formats.get(name).compiled]


def specialised(fmt: Format) -> bool:
    return PageTable(fmt, PhysicalMemory("64K")).specialised


@pytest.mark.parametrize("name", NAMES)
def test_a_format_of_ptcore_filled_at_run_time_picks_its_own_engine(name: str) -> None:
    assert specialised(formats.get(name))
    assert specialised(replace(formats.get(name), name="mine", title="a copy"))


@pytest.mark.parametrize("name", NAMES)
def test_a_format_changed_in_one_bit_does_not(name: str) -> None:
    fmt = formats.get(name)
    assert not specialised(replace(fmt, empty=replace(fmt.empty, mask=fmt.empty.mask ^ 2)))
    assert not specialised(replace(fmt, byte_order="big"))
    assert not specialised(replace(fmt, parents_limit_rights=False))
    for n, level in enumerate(fmt.levels):
        for kind, word in level.words():
            if kind not in ("table", "leaf"):
                continue
            roles = (Role.WRITE, Role.RESERVED)
            at = next(i for i, bits in enumerate(word) if bits.role in roles)
            other = replace(word[at], value=1 - word[at].value)
            if word[at].role is Role.RESERVED:
                other = replace(word[at], role=Role.IGNORED)
            levels = list(fmt.levels)
            levels[n] = replace(level, **{kind: (*word[:at], other, *word[at + 1 :])})
            assert not specialised(replace(fmt, levels=tuple(levels))), (level.name, kind)


def test_a_variant_of_a_format_is_served_by_the_general_engine() -> None:
    assert not specialised(formats.get("x86_64_4level", nx=False))
    assert not specialised(formats.get("x86_64_4level", pages_1g=False))


def test_lowering_refuses_a_format_that_contradicts_itself() -> None:
    with pytest.raises(FormatError, match="cited"):
        lower(replace(formats.get("x86_64_4level"), citations=()))


def test_attributes_move_with_their_meaning_from_a_large_leaf_to_a_small_one() -> None:
    levels = formats.get("x86_64_4level").levels
    pieces = [p for p in carry(levels[1].leaf, levels[0].leaf) if p["mask"]]
    # PAT is bit 12 of a large leaf and bit 7 of a small one; all else stays where it is.
    assert {p["shift"]: p["mask"] for p in pieces if p["shift"]} == {-5: 1 << 12}
    stays = next(p["mask"] for p in pieces if not p["shift"])
    assert stays == sum(1 << n for n in (*range(1, 7), *range(8, 12), *range(52, 64)))


def test_attributes_that_move_too_differently_are_refused() -> None:
    count = MAX_CARRY + 1
    upper = tuple(Bits(n, n, f"s{n}", Role.SOFTWARE, to=n) for n in range(count))
    lower_ = tuple(Bits(2 * n, 2 * n, f"s{n}", Role.SOFTWARE, to=n) for n in range(count))
    with pytest.raises(FormatError, match="9 distances"):
        carry(upper, lower_)


def test_the_generated_header_holds_every_format_once() -> None:
    source = c_source(formats.get(name) for name in NAMES)
    for name in NAMES:
        assert source.count(f"PT_FORMAT_{name} = ") == 1
        assert source.count(f"X({name})") == 1
    assert source == c_source(formats.get(name) for name in NAMES), "generation is deterministic"

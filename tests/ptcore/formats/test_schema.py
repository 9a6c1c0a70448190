"""validate() sees every contradiction; what is derived from a declaration is right."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from ptcore import formats
from ptcore.errors import FormatError
from ptcore.formats import AddressRule, Bits, Citation, Format, Level, Match, Role, Word
from ptcore.formats.schema import NEVER, role_mask, word_match

CONFIGURATIONS = formats.configurations()


def small() -> Format:
    """Two levels of 4 items of 4 bytes; leaves of 16 bytes and of 64."""
    return Format(
        name="small",
        title="a format of this test",
        citations=(Citation("this test", "small()"),),
        levels=(
            Level("PT", shift=4, bits=2, leaf=leaf(4)),
            Level("PD", shift=6, bits=2, table=pointer(), leaf=leaf(6, Bits(1, 1, "T", Role.KIND))),
        ),
        empty=Match(1, 0),
        input_bits=8,
        address_rule=AddressRule.ZERO_EXTENDED,
        physical_bits=30,
        entry_bytes=4,
    )


def pointer() -> Word:
    return (
        Bits(31, 30, "ignored", Role.IGNORED),
        Bits(29, 4, "address", Role.OUTPUT),
        Bits(3, 2, "ignored", Role.IGNORED),
        Bits(1, 1, "T", Role.KIND, value=0),
        Bits(0, 0, "P", Role.KIND),
    )


def leaf(low: int, bit_1: Bits | None = None) -> Word:
    spare = (Bits(low - 1, 4, "zero", Role.RESERVED),) if low > 4 else ()
    return (
        Bits(31, 31, "W", Role.WRITE),
        Bits(30, 30, "A", Role.ACCESSED),
        Bits(29, low, "address", Role.OUTPUT),
        *spare,
        Bits(3, 2, "type", Role.MEMORY_TYPE),
        bit_1 or Bits(1, 1, "zero", Role.RESERVED),
        Bits(0, 0, "P", Role.KIND),
    )


def with_level(n: int, **changes: object) -> Format:
    levels = list(small().levels)
    levels[n] = replace(levels[n], **changes)  # type: ignore[arg-type]
    return replace(small(), levels=tuple(levels))


def with_bits(name: str, *others: Bits) -> Format:
    """Replace the field `name` of the smallest leaf."""
    word = leaf(4)
    at = next(n for n, bits in enumerate(word) if bits.name == name)
    return with_level(0, leaf=(*word[:at], *others, *word[at + 1 :]))


def test_the_format_that_the_contradictions_are_made_of_is_valid() -> None:
    small().validate()


CONTRADICTIONS: dict[str, tuple[Callable[[], Format], str]] = {
    "no levels": (lambda: replace(small(), levels=()), "1 to 6 levels"),
    "seven levels": (
        lambda: replace(
            small(),
            levels=small().levels
            + tuple(replace(small().levels[1], shift=8 + n, bits=1) for n in range(5)),
        ),
        "1 to 6 levels",
    ),
    "items of 3 bytes": (lambda: replace(small(), entry_bytes=3), "item has"),
    "a byte order of its own": (lambda: replace(small(), byte_order="middle"), "byte order"),
    "no output address": (lambda: replace(small(), physical_bits=0), "1 to 64 bits"),
    "65 output bits": (lambda: replace(small(), physical_bits=65), "1 to 64 bits"),
    "no document": (lambda: replace(small(), citations=()), "cited"),
    "no section": (lambda: replace(small(), citations=(Citation("SDM", ""),)), "section title"),
    "a level without index": (lambda: with_level(1, bits=0), "no index bits"),
    "a gap between levels": (lambda: with_level(1, shift=7), "indexes from bit 7"),
    "levels that overlap": (lambda: with_level(1, shift=5), "indexes from bit 5"),
    "too many input bits": (lambda: replace(small(), input_bits=9), "8 bits, not the 9"),
    "zero is not empty": (lambda: replace(small(), empty=Match(1, 1)), "zeros"),
    "a leaf that is empty": (lambda: replace(small(), empty=Match(2, 0)), "count as empty|zeros"),
    "tables at level 0": (lambda: with_level(0, table=pointer()), "below level 0"),
    "no leaves at level 0": (lambda: with_level(0, leaf=None), "must have leaves"),
    "no tables at level 1": (lambda: with_level(1, table=None), "cannot be reached"),
    "three leaf tests": (
        lambda: with_level(1, leaf_when=(Match(1, 1), Match(2, 2), Match(3, 3))),
        "at most 2 leaf tests",
    ),
    "table and leaf look alike": (
        lambda: with_level(1, leaf=leaf(6, Bits(1, 1, "T", Role.KIND, value=0))),
        "tells table from leaf",
    ),
    "a bit that nobody claims": (
        lambda: with_bits("type", Bits(3, 3, "type", Role.MEMORY_TYPE)),
        "bits 1 .*where bit 2 is next",
    ),
    "a bit claimed twice": (
        lambda: with_bits("type", Bits(3, 1, "type", Role.MEMORY_TYPE)),
        "where bit 0 is next",
    ),
    "bits at the bottom left over": (lambda: with_level(0, leaf=leaf(4)[:-1]), "bits 0:0 are not"),
    "bits at the top left over": (lambda: with_level(0, leaf=leaf(4)[1:]), "where bit 31 is next"),
    "bits the wrong way round": (
        lambda: with_bits("type", Bits(3, 4, "type", Role.MEMORY_TYPE)),
        "where bit 3 is next",
    ),
    "a value too wide": (
        lambda: with_bits("P", Bits(0, 0, "P", Role.KIND, value=2)),
        "2 does not fit",
    ),
    "a right of two bits": (
        lambda: with_bits("type", Bits(3, 2, "U", Role.USER)),
        "user is one bit",
    ),
    "a right twice": (
        lambda: with_bits("type", Bits(3, 3, "W2", Role.WRITE), Bits(2, 2, "i", Role.IGNORED)),
        "write is claimed by two",
    ),
    "a flag twice": (
        lambda: with_bits("type", Bits(3, 3, "A2", Role.ACCESSED), Bits(2, 2, "i", Role.IGNORED)),
        "accessed is claimed by two",
    ),
    "output bits twice": (
        lambda: with_bits("type", Bits(3, 2, "more", Role.OUTPUT, to=10)),
        "output bits that others give",
    ),
    "output below the page": (
        lambda: with_bits("type", Bits(3, 2, "more", Role.OUTPUT, to=2)),
        "offset bits",
    ),
    "output beyond the width": (
        lambda: with_bits("type", Bits(3, 2, "more", Role.OUTPUT, to=30)),
        "beyond the 30 declared",
    ),
    "four pieces of a number": (
        lambda: with_bits(
            "address",
            *(Bits(29 - n, 29 - n, "piece", Role.SOFTWARE, to=n) for n in range(4)),
            Bits(25, 4, "address", Role.OUTPUT),
        ),
        "more than 3 pieces",
    ),
}


@pytest.mark.parametrize("case", CONTRADICTIONS)
def test_a_contradiction_is_found_and_named(case: str) -> None:
    make, rule = CONTRADICTIONS[case]
    with pytest.raises(FormatError, match=rule) as caught:
        make().validate()
    assert "small" in str(caught.value)


def shifted_words(word: Word) -> list[Word]:
    """Every word that differs from `word` by one end of one field."""
    found = []
    for n, bits in enumerate(word):
        for high, low in ((1, 0), (-1, 0), (0, 1), (0, -1)):
            other = replace(bits, high=bits.high + high, low=bits.low + low)
            found.append((*word[:n], other, *word[n + 1 :]))
    return found


@pytest.mark.parametrize(("name", "parameters"), CONFIGURATIONS)
def test_moving_one_end_of_any_field_is_caught(name: str, parameters: dict[str, object]) -> None:
    fmt = formats.get(name, **parameters)
    caught = 0
    for n, level in enumerate(fmt.levels):
        for kind, word in level.words():
            if kind not in ("table", "leaf"):
                continue
            for other in shifted_words(word):
                levels = list(fmt.levels)
                levels[n] = replace(level, **{kind: other})
                with pytest.raises(FormatError):
                    replace(fmt, levels=tuple(levels)).validate()
                caught += 1
    assert caught > 15 * len(fmt.levels)


@pytest.mark.parametrize(("name", "parameters"), CONFIGURATIONS)
def test_every_configuration_is_valid_and_claims_every_bit_once(
    name: str, parameters: dict[str, object]
) -> None:
    fmt = formats.get(name, **parameters)
    fmt.validate()
    assert fmt.name == name
    for level in fmt.levels:
        for _, word in level.words():
            claimed = [bit for bits in word for bit in range(bits.low, bits.high + 1)]
            assert sorted(claimed) == list(range(8 * fmt.entry_bytes))


def test_every_family_has_two_configurations_and_a_cited_title() -> None:
    assert len(CONFIGURATIONS) >= 2
    assert {name for name, _ in CONFIGURATIONS} == set(formats.names())
    for name in formats.names():
        fmt = formats.get(name)
        assert fmt.title
        for citation in fmt.citations:
            assert citation.document
            assert citation.section


@pytest.mark.parametrize("name", ["x86_64_4levels", "x86-64", "X86_64", "sv64", ""])
def test_an_unknown_name_is_answered_with_the_nearest_ones(name: str) -> None:
    with pytest.raises(FormatError, match=r"nearest: [a-z]") as caught:
        formats.get(name)
    assert repr(name) in str(caught.value)


def test_an_unknown_parameter_is_refused() -> None:
    with pytest.raises(FormatError, match="colour"):
        formats.get("x86_64_4level", colour="red")


def test_a_page_size_that_a_format_lacks_is_answered_with_those_it_has() -> None:
    with pytest.raises(FormatError, match="no 1M page; it has 4K, 2M, 1G"):
        formats.get("x86_64_4level").level_of(1 << 20)


def test_what_follows_from_the_declaration() -> None:
    fmt = small()
    assert (fmt.top_level, fmt.granule_lg2) == (1, 4)
    assert (fmt.leaf_levels, fmt.page_sizes) == ((0, 1), (16, 64))
    assert (fmt.table_bytes(0), fmt.table_bytes(1)) == (16, 16)
    assert (fmt.level_of(16), fmt.level_of(64)) == (0, 1)
    assert word_match(None) == NEVER
    assert not any(NEVER(item) for item in range(256))
    assert word_match(pointer()) == Match(0b11, 0b01)
    assert role_mask(leaf(4), Role.OUTPUT) == 0x3FFFFFF0
    assert Bits(51, 12, "address", Role.OUTPUT).label == "51:12"
    assert Bits(7, 7, "PS", Role.KIND).label == "7"

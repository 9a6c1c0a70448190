"""The x86-64 formats, held against bit positions typed in from the manual's figures.

Intel SDM vol. 3A, "4-Level Paging and 5-Level Paging": the tables "Format of a PML4 Entry (PML4E)
that References a Page-Directory-Pointer Table", "... (PDPTE) that Maps a 1-GByte Page", "... that
References a Page Directory", "... (PDE) that Maps a 2-MByte Page", "... that References a Page
Table", "... (PTE) that Maps a 4-KByte Page". Nothing here is taken from the format's own masks.
"""

from __future__ import annotations

from dataclasses import replace

import pytest

from ptcore import PageTable, PhysicalMemory, formats
from ptcore.errors import FormatError, Status
from ptcore.formats.encode import Attributes, leaf_change, table_bits
from ptcore.formats.schema import RIGHT_ROLES, Format, Role, role_mask

P, RW, US, PWT, PCD, A, D = (1 << n for n in range(7))
PS = PAT_4K = 1 << 7
G = 1 << 8
PAT_LARGE = 1 << 12
XD = 1 << 63
NAMES = ["x86_64_4level", "x86_64_5level"]


def span(high: int, low: int) -> int:
    return sum(1 << n for n in range(low, high + 1))


@pytest.mark.parametrize("name", NAMES)
def test_the_levels_have_the_manuals_names_and_index_bits(name: str) -> None:
    levels = formats.get(name).levels
    expected = [("PT", 12), ("PD", 21), ("PDPT", 30), ("PML4", 39), ("PML5", 48)][: len(levels)]
    assert [(level.name, level.shift) for level in levels] == expected
    assert all(level.bits == 9 for level in levels)
    assert len(levels) == int(name[len("x86_64_")])


@pytest.mark.parametrize("name", NAMES)
def test_the_address_of_each_kind_of_item_is_where_the_manual_draws_it(name: str) -> None:
    fmt = formats.get(name)
    leaf_address = [span(51, 12), span(51, 21), span(51, 30)]
    for n, level in enumerate(fmt.levels):
        if level.table is not None:
            assert role_mask(level.table, Role.OUTPUT) == span(51, 12)
        if level.leaf is not None:
            assert role_mask(level.leaf, Role.OUTPUT) == leaf_address[n]
    assert fmt.leaf_levels == (0, 1, 2)
    assert fmt.page_sizes == (4096, 2 << 20, 1 << 30)


@pytest.mark.parametrize("name", NAMES)
def test_reserved_bits_are_those_of_the_manual(name: str) -> None:
    fmt = formats.get(name)
    reserved = [role_mask(level.leaf, Role.RESERVED) for level in fmt.levels[:3]]
    assert reserved == [0, span(20, 13), span(29, 13)]
    assert [role_mask(level.table, Role.RESERVED) for level in fmt.levels[1:3]] == [0, 0]
    for level in fmt.levels[3:]:
        assert role_mask(level.table, Role.RESERVED) == PS, "PS must be 0 in a PML4E and a PML5E"


def test_without_nxe_bit_63_is_reserved_everywhere() -> None:
    for level in formats.get("x86_64_5level", nx=False).levels:
        for _, word in level.words():
            assert role_mask(word, Role.RESERVED) & XD
            assert not role_mask(word, Role.EXECUTE)


def test_without_1g_pages_ps_is_no_leaf_in_a_pdpte() -> None:
    fmt = formats.get("x86_64_4level", pages_1g=False)
    assert fmt.page_sizes == (4096, 2 << 20)
    with pytest.raises(FormatError, match="no 1G page"):
        fmt.level_of(1 << 30)


@pytest.mark.parametrize(
    ("level", "wanted", "item"),
    [
        (0, Attributes("r"), P | XD),
        (0, Attributes("rw"), P | RW | XD),
        (0, Attributes("rx"), P),
        (0, Attributes("rwx", user=True), P | RW | US),
        (0, Attributes("rwx", global_=True), P | RW | G),
        (1, Attributes("rwx"), P | RW | PS),
        (2, Attributes("rwx"), P | RW | PS),
        # Memory types by PAT index: PAT, PCD and PWT are bits 2, 1 and 0 of the index.
        (0, Attributes("rwx", memory_type=1), P | RW | PWT),
        (0, Attributes("rwx", memory_type="WT"), P | RW | PWT),
        (0, Attributes("rwx", memory_type="UC-"), P | RW | PCD),
        (0, Attributes("rwx", memory_type="UC"), P | RW | PCD | PWT),
        (0, Attributes("rwx", memory_type=4), P | RW | PAT_4K),
        (1, Attributes("rwx", memory_type=4), P | RW | PS | PAT_LARGE),
        (2, Attributes("rwx", memory_type=7), P | RW | PS | PAT_LARGE | PCD | PWT),
        (0, Attributes("rwx", pkey=15), P | RW | span(62, 59)),
        (1, Attributes("rwx", pkey=1), P | RW | PS | 1 << 59),
        # Software bits: 11:9 are the low three, 58:52 the rest.
        (0, Attributes("rwx", software=0b111), P | RW | span(11, 9)),
        (0, Attributes("rwx", software=0b1000), P | RW | 1 << 52),
        (0, Attributes("rwx", software=1023), P | RW | span(11, 9) | span(58, 52)),
    ],
)
def test_a_leaf_is_encoded_bit_by_bit(level: int, wanted: Attributes, item: int) -> None:
    assert leaf_change(formats.get("x86_64_4level"), level, wanted)[1] == item


@pytest.mark.parametrize("name", NAMES)
def test_a_table_item_grants_all_rights_and_nothing_else(name: str) -> None:
    fmt = formats.get(name)
    for level in range(1, len(fmt.levels)):
        assert table_bits(fmt, level) == P | RW | US


def test_what_the_format_cannot_say_is_refused() -> None:
    fmt = formats.get("x86_64_4level")
    for wanted, rule in (
        (Attributes("w"), "cannot withhold read"),
        (Attributes("q"), "letters r, w and x"),
        (Attributes(""), "letters r, w and x"),
        (Attributes("rw", memory_type="WC"), "no memory type 'WC'; it has WB, WT, UC-, UC"),
        (Attributes("rw", memory_type=8), "no room for memory_type 0x8"),
        (Attributes("rw", pkey=16), "no room for protection_key 0x10"),
        (Attributes("rw", pkey=-1), "no room for protection_key"),
        (Attributes("rw", software=1024), "no room for software 0x400"),
    ):
        with pytest.raises(FormatError, match=rule):
            leaf_change(fmt, 0, wanted)
    with pytest.raises(FormatError, match="cannot withhold read"):
        leaf_change(formats.get("x86_64_4level", nx=False), 0, Attributes("x"))


def test_where_no_bit_decides_execution_every_page_can_be_executed() -> None:
    without = formats.get("x86_64_4level", nx=False)
    assert leaf_change(without, 0, Attributes("rw")) == leaf_change(without, 0, Attributes("rwx"))


LEGAL = {
    "x86_64_4level": [(0, 0x7FFF_FFFF_FFFF), (0xFFFF_8000_0000_0000, (1 << 64) - 1)],
    "x86_64_5level": [(0, 0xFF_FFFF_FFFF_FFFF), (0xFF00_0000_0000_0000, (1 << 64) - 1)],
}


@pytest.mark.parametrize("name", NAMES)
def test_canonical_addresses_are_those_of_the_manual(name: str) -> None:
    table = PageTable(name, PhysicalMemory("64K"))
    assert [(s.start, s.last) for s in table.legal_spans()] == LEGAL[name]
    for start, last in LEGAL[name]:
        assert table.walk(start).status is Status.NOT_PRESENT
        assert table.walk(last).status is Status.NOT_PRESENT
    assert table.walk(LEGAL[name][0][1] + 1).status is Status.NOT_CANONICAL
    assert table.walk(LEGAL[name][1][0] - 1).status is Status.NOT_CANONICAL


def described(fmt: Format) -> dict[tuple[str, str], dict[str, int]]:
    """Each word as {role: mask}, with the bits of KIND and of rights as they must stand."""
    found = {}
    for level in fmt.levels:
        for kind, word in level.words():
            roles = {role.value: role_mask(word, role) for role in Role}
            roles["stands"] = sum(
                bits.value << bits.low for bits in word if bits.role in (Role.KIND, *RIGHT_ROLES)
            )
            roles["target"] = sum(
                bits.target << n for n, bits in enumerate(word) if bits.role not in UNPLACED
            )
            found[level.name, kind] = {name: mask for name, mask in roles.items() if mask}
    return found


UNPLACED = (Role.IGNORED, Role.RESERVED)

# The manual's figures once more, word by word, with every bit of every role.
_RIGHTS = {"write": RW, "user": US, "execute": XD, "accessed": A}
_POINTER = {
    **_RIGHTS,
    "output": span(51, 12),
    "ignored": span(62, 52) | span(11, 8) | 1 << 6 | PCD | PWT,
    "stands": P | RW | US,
}
_LEAF = {
    **_RIGHTS,
    "dirty": D,
    "global": G,
    "protection_key": span(62, 59),
    "software": span(58, 52) | span(11, 9),
}
_LARGE = {
    **_LEAF,
    "kind": P | PS,
    "stands": P | RW | US | PS,
    "memory_type": PWT | PCD | PAT_LARGE,
}
FIGURES = {
    ("PT", "leaf"): {
        **_LEAF,
        "kind": P,
        "stands": P | RW | US,
        "output": span(51, 12),
        "memory_type": PWT | PCD | PAT_4K,
    },
    ("PD", "table"): {**_POINTER, "kind": P | PS},
    ("PD", "leaf"): {**_LARGE, "output": span(51, 21), "reserved": span(20, 13)},
    ("PDPT", "table"): {**_POINTER, "kind": P | PS},
    ("PDPT", "leaf"): {**_LARGE, "output": span(51, 30), "reserved": span(29, 13)},
    ("PML4", "table"): {**_POINTER, "kind": P, "reserved": PS},
    ("PML5", "table"): {**_POINTER, "kind": P, "reserved": PS},
}


def without_targets(words: dict[tuple[str, str], dict[str, int]]) -> object:
    return {key: {r: m for r, m in word.items() if r != "target"} for key, word in words.items()}


@pytest.mark.parametrize("name", NAMES)
def test_every_bit_of_every_word_has_the_role_of_the_manuals_figure(name: str) -> None:
    fmt = formats.get(name)
    names = {level.name for level in fmt.levels}
    expected = {key: word for key, word in FIGURES.items() if key[0] in names}
    assert without_targets(described(fmt)) == expected


def test_a_field_with_another_role_or_value_would_be_seen() -> None:
    fmt = formats.get("x86_64_5level")
    true = described(fmt)
    mutants = 0
    for n, level in enumerate(fmt.levels):
        for kind, word in level.words():
            for at, bits in enumerate(word):
                others = [replace(bits, role=role) for role in Role if role is not bits.role]
                if bits.role in (Role.KIND, *RIGHT_ROLES):
                    others.append(replace(bits, value=bits.value ^ 1))
                if bits.role not in (*UNPLACED, Role.KIND):
                    others.append(replace(bits, to=bits.target + 1))
                for other in others:
                    levels = list(fmt.levels)
                    levels[n] = replace(level, **{kind: (*word[:at], other, *word[at + 1 :])})
                    assert described(replace(fmt, levels=tuple(levels))) != true
                    mutants += 1
    assert mutants > 1000

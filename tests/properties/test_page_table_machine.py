"""PageTable against a dict of spans, for ptcore's formats and for formats made here."""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis.stateful import run_state_machine_as_test

from ptcore.formats import AddressRule, Bits, Citation, Format, Level, Match, Role, Word
from ptcore.testing import PageTableMachine

CITED = (Citation("A format of this test", "Made up"),)
STEPS = settings(max_examples=30, stateful_step_count=30, deadline=None, derandomize=True)


def _word(entry_bits: int, shift: int, *, leaf: bool, table_bit: int | None) -> Word:
    """From the top: withheld write, user, software, address; from the bottom: occupied, table.

    In an item of 128 bits the address lies across the middle, 40 bits above where it belongs.
    """
    top = entry_bits - 1
    moved = 40 if entry_bits == 128 else 0
    low, high = (shift if leaf else 12) + moved, min(top - 4, 55 + moved)
    spare = Bits(top - 2, top - 3, "soft", Role.SOFTWARE if leaf else Role.IGNORED)
    bits = [
        Bits(top, top, "NW", Role.WRITE, value=0),
        Bits(top - 1, top - 1, "U", Role.USER),
        spare,
        Bits(top - 4, high + 1, "ignored", Role.IGNORED),
        Bits(high, low, "address", Role.OUTPUT, to=low - moved),
        Bits(low - 1, 12 + moved, "zero", Role.RESERVED),
        Bits(11 + moved, 2, "ignored", Role.IGNORED),
        Bits(1, 1, "zero", Role.RESERVED)
        if table_bit is None
        else Bits(1, 1, "T", Role.KIND, value=table_bit),
        Bits(0, 0, "P", Role.KIND),
    ]
    return tuple(field for field in bits if field.width > 0)


def made_up(
    entry_bytes: int, byte_order: str, index_bits: tuple[int, ...], *, leaves: int
) -> Format:
    """Return a format of `len(index_bits)` levels, of which the lowest `leaves` can hold leaves."""
    levels = []
    shift = 12
    for n, bits in enumerate(index_bits):
        levels.append(
            Level(
                f"L{n}",
                shift=shift,
                bits=bits,
                table=_word(8 * entry_bytes, shift, leaf=False, table_bit=1) if n else None,
                leaf=_word(8 * entry_bytes, shift, leaf=True, table_bit=0 if n else None)
                if n < leaves
                else None,
            )
        )
        shift += bits
    return Format(
        name=f"made_up_{entry_bytes}_{byte_order}",
        title="made up",
        citations=CITED,
        levels=tuple(levels),
        empty=Match(mask=1, value=0),
        input_bits=shift,
        address_rule=AddressRule.ZERO_EXTENDED,
        physical_bits=min(8 * entry_bytes - 4, 56),
        entry_bytes=entry_bytes,
        byte_order=byte_order,
    )


class FourLevels(PageTableMachine):
    format = "x86_64_4level"


class FiveLevels(PageTableMachine):
    format = "x86_64_5level"
    memory = "68K"


class Encrypted(PageTableMachine):
    format = "x86_64_4level"
    parameters = {"encryption_mask": 1 << 47, "physical_bits": 43}  # noqa: RUF012 (a constant)


class FourByteItems(PageTableMachine):
    """Two levels of 1024 items, little-endian, 4M leaves: 32-bit x86 in shape."""

    format = made_up(4, "little", (10, 10), leaves=2)
    memory = "16K"


class BigEndianItems(PageTableMachine):
    """Three levels with leaves at all of them: the root holds leaves too."""

    format = made_up(8, "big", (9, 9, 9), leaves=3)
    memory = "24K"


class SixteenByteItems(PageTableMachine):
    """Three levels of 256 items of 16 bytes, big-endian; 1M and 4K leaves."""

    format = made_up(16, "big", (8, 8, 8), leaves=2)
    memory = "28K"


DONE = {"map", "unmap", "protect", "split", "collapse"}
ERRORS = {"AlreadyMapped", "NotMapped", "InsideLargerLeaf", "NotUniform", "NoFrame", "NotCanonical"}
STATUSES = {("address", status) for status in ("OK", "NOT_PRESENT", "NOT_CANONICAL")}
JUDGEMENTS = {("access", status) for status in ("OK", "PERMISSION")}


@pytest.mark.parametrize(
    "machine",
    [FourLevels, FiveLevels, Encrypted, FourByteItems, BigEndianItems, SixteenByteItems],
    ids=lambda machine: machine.__name__,
)
def test_a_page_table_is_a_dict_of_spans(machine: type[PageTableMachine]) -> None:
    run_state_machine_as_test(machine, settings=STEPS)
    seen = set(machine.outcomes)
    assert {verb for verb, ended in seen if ended == "done"} >= DONE, machine.outcomes
    assert {ended for _, ended in seen} >= ERRORS, machine.outcomes
    assert seen >= STATUSES | JUDGEMENTS, machine.outcomes
    assert all(machine.outcomes[pair] > 100 for pair in STATUSES | JUDGEMENTS), machine.outcomes

"""Hypothesis strategies: formats, addresses, spans, accesses and attributes of a format."""

from __future__ import annotations

from dataclasses import dataclass

from hypothesis import strategies as st

from ptcore import formats
from ptcore.errors import FormatError
from ptcore.formats.encode import USER, Attributes, decides, leaf_change
from ptcore.formats.schema import AddressRule, Format, Role, Word
from ptcore.units import ALL_ONES, Span

PAGES_AROUND_A_CORNER = 4
MOST_PAGES = 6


@dataclass(frozen=True, slots=True)
class LeafAttributes:
    """What `PageTable.map` is asked for, in the form that every leaf of the format can say."""

    access: str = "rw"
    user: bool = False
    global_: bool = False
    memory_type: int = 0
    pkey: int = 0
    software: int = 0


def configured_formats() -> st.SearchStrategy[Format]:
    """Return a strategy of all formats of ptcore, in every configuration that they are tested in."""
    return st.sampled_from(formats.configurations()).map(
        lambda found: formats.get(found[0], **found[1])
    )


def legal_spans(fmt: Format) -> tuple[Span, ...]:
    """Return the input addresses that `fmt` translates, worked out from its address rule."""
    size = 1 << fmt.input_bits
    last = (1 << fmt.address_bits) - 1
    low, high = Span(0, size - 1), Span(last - size + 1, last)
    if fmt.address_rule is AddressRule.ZERO_EXTENDED or fmt.input_bits == ALL_ONES.bit_length():
        return (low,)
    if fmt.address_rule is AddressRule.UPPER_ONLY:
        return (high,)
    return Span(0, size // 2 - 1), Span(ALL_ONES - size // 2 + 1, ALL_ONES)


def is_legal(fmt: Format, va: int) -> bool:
    """Return whether `fmt` translates the address `va`."""
    return any(va in span for span in legal_spans(fmt))


def canonical_addresses(fmt: Format) -> st.SearchStrategy[int]:
    """Return a strategy of addresses that `fmt` translates; their limits are drawn often."""
    return st.one_of(*(st.integers(span.start, span.last) for span in legal_spans(fmt)))


def non_canonical_addresses(fmt: Format) -> st.SearchStrategy[int]:
    """Return a strategy of 64-bit addresses that `fmt` does not translate; nothing if there is none."""
    legal = legal_spans(fmt)
    edges = [0, *(end for span in legal for end in (span.start, span.last + 1)), ALL_ONES + 1]
    gaps = [
        (first, end)
        for first, end in zip(edges[::2], edges[1::2], strict=True)
        if first < end and not is_legal(fmt, first)
    ]
    return st.one_of(*(st.integers(first, end - 1) for first, end in gaps))


def page_sizes(fmt: Format) -> st.SearchStrategy[int]:
    """Return a strategy of the sizes of leaves of `fmt`, in bytes."""
    return st.sampled_from(fmt.page_sizes)


def corners(fmt: Format) -> tuple[int, ...]:
    """Return addresses where tables begin or end: what happens next to them goes wrong first."""
    legal = legal_spans(fmt)
    shift = fmt.levels[-1].shift
    return (legal[0].start + (1 << shift), legal[-1].start, legal[-1].last + 1)


@st.composite
def aligned_spans(draw: st.DrawFn, fmt: Format, page_size: int | None = None) -> Span:
    """Draw a span of whole pages next to a corner of the legal addresses; all of it is legal."""
    size = draw(page_sizes(fmt)) if page_size is None else page_size
    legal = legal_spans(fmt)
    start = (draw(st.sampled_from(corners(fmt))) & ~(size - 1)) + size * draw(
        st.integers(-PAGES_AROUND_A_CORNER, PAGES_AROUND_A_CORNER)
    )
    pages = draw(st.integers(1, MOST_PAGES))
    home = next((span for span in legal if start in span), legal[-1])
    start = max(start, home.start) if start <= home.last else home.last + 1 - size
    return Span(start, min(start + size * pages - 1, home.last))


def output_addresses(fmt: Format, page_size: int, physical_bits: int) -> st.SearchStrategy[int]:
    """Return a strategy of addresses that a page of `page_size` may begin at, near 0 and the limit."""
    level, shape = fmt.shape_of(page_size)
    word = fmt.levels[level].leaves[shape - 1].word
    # The largest page of all has no address bits of its own: it begins at 0.
    held = max((bits.target + bits.width for bits in word if bits.role is Role.OUTPUT), default=0)
    last = (1 << min(physical_bits, held)) - page_size * (MOST_PAGES + PAGES_AROUND_A_CORNER)
    most = max(0, last // page_size)
    few = min(most, 2 * MOST_PAGES)
    number = st.one_of(st.integers(0, few), st.integers(max(0, most - few), most))
    return number.map(lambda n: n * page_size)


def accesses(fmt: Format) -> st.SearchStrategy[str]:
    """Return a strategy of the accesses ('r', 'rw', 'rwx' ...) that every leaf of `fmt` can grant."""

    def can_say(access: str) -> bool:
        try:
            for level, shape in fmt.page_shapes.values():
                for user in (False, True):
                    leaf_change(fmt, level, Attributes(access, user), shape)
        except FormatError:
            return False
        return True

    return st.sampled_from([a for a in ("r", "w", "x", "rw", "rx", "wx", "rwx") if can_say(a)])


def room(fmt: Format, role: Role) -> int:
    """Return the largest number that every leaf of `fmt` can hold in `role` (its low bits first)."""
    most = ALL_ONES
    for word in _mappable(fmt):
        landed = sum(((1 << b.width) - 1) << b.target for b in word if b.role is role)
        most = min(most, (~landed & (landed + 1)) - 1)
    return most


def _mappable(fmt: Format) -> list[Word]:
    return [fmt.levels[n].leaves[shape - 1].word for n, shape in fmt.page_shapes.values()]


def _has(fmt: Format, role: Role) -> bool:
    return all(any(bits.role is role for bits in word) for word in _mappable(fmt))


def memory_types(fmt: Format) -> st.SearchStrategy[int]:
    """Return a strategy of the memory types that every leaf of `fmt` can have."""

    def can_say(number: int) -> bool:
        try:
            for level, shape in fmt.page_shapes.values():
                leaf_change(fmt, level, Attributes(None, None, memory_type=number), shape)
        except FormatError:
            return False
        return True

    numbers = range(room(fmt, Role.MEMORY_TYPE) + 1)
    return st.sampled_from([number for number in numbers if can_say(number)])


def attributes(fmt: Format) -> st.SearchStrategy[LeafAttributes]:
    """Return a strategy of attributes that leaves of every size of `fmt` can have."""
    flag = st.booleans()
    return st.builds(
        LeafAttributes,
        access=accesses(fmt),
        user=flag if decides(fmt, USER) else st.just(False),
        global_=flag if _has(fmt, Role.GLOBAL) else st.just(False),
        memory_type=memory_types(fmt),
        pkey=st.integers(0, room(fmt, Role.PROTECTION_KEY)),
        software=st.integers(0, room(fmt, Role.SOFTWARE)),
    )

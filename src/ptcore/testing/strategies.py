"""Hypothesis strategies: formats, addresses, spans, accesses and attributes of a format."""

from __future__ import annotations

from dataclasses import dataclass

from hypothesis import strategies as st

from ptcore import formats
from ptcore.formats.encode import ACCESS_LETTERS
from ptcore.formats.schema import AddressRule, Format, Role
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
    low, high = Span(0, size - 1), Span(ALL_ONES - size + 1, ALL_ONES)
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
    start = draw(st.sampled_from(corners(fmt))) + size * draw(
        st.integers(-PAGES_AROUND_A_CORNER, PAGES_AROUND_A_CORNER)
    )
    pages = draw(st.integers(1, MOST_PAGES))
    home = next((span for span in legal if start in span), legal[-1])
    start = max(start, home.start) if start <= home.last else home.last + 1 - size
    return Span(start, min(start + size * pages - 1, home.last))


def output_addresses(fmt: Format, page_size: int, physical_bits: int) -> st.SearchStrategy[int]:
    """Return a strategy of addresses that a page of `page_size` may begin at, near 0 and the limit."""
    last = (1 << physical_bits) - page_size * (MOST_PAGES + PAGES_AROUND_A_CORNER)
    most = max(0, last // page_size)
    few = min(most, 2 * MOST_PAGES)
    number = st.one_of(st.integers(0, few), st.integers(max(0, most - few), most))
    return number.map(lambda n: n * page_size)


def accesses(fmt: Format) -> st.SearchStrategy[str]:
    """Return a strategy of the accesses ('r', 'rw', 'rwx' ...) that every leaf of `fmt` can grant."""
    words = [level.leaf or () for level in fmt.levels if level.leaf is not None]

    def can_say(access: str) -> bool:
        withheld = [role for letter, role in ACCESS_LETTERS.items() if letter not in access]
        said = all(any(b.role is role for b in word) for role in withheld for word in words)
        return said and access not in fmt.refused_rights

    return st.sampled_from([a for a in ("r", "w", "x", "rw", "rx", "wx", "rwx") if can_say(a)])


def room(fmt: Format, role: Role) -> int:
    """Return the largest number that every leaf of `fmt` can hold in `role` (its low bits first)."""
    most = ALL_ONES
    for level in fmt.levels:
        if level.leaf is not None:
            landed = sum(((1 << b.width) - 1) << b.target for b in level.leaf if b.role is role)
            most = min(most, (~landed & (landed + 1)) - 1)
    return most


def _has(fmt: Format, role: Role) -> bool:
    return all(
        any(bits.role is role for bits in level.leaf)
        for level in fmt.levels
        if level.leaf is not None
    )


def attributes(fmt: Format) -> st.SearchStrategy[LeafAttributes]:
    """Return a strategy of attributes that leaves of every size of `fmt` can have."""
    flag = st.booleans()
    return st.builds(
        LeafAttributes,
        access=accesses(fmt),
        user=flag if _has(fmt, Role.USER) else st.just(False),
        global_=flag if _has(fmt, Role.GLOBAL) else st.just(False),
        memory_type=st.integers(0, room(fmt, Role.MEMORY_TYPE)),
        pkey=st.integers(0, room(fmt, Role.PROTECTION_KEY)),
        software=st.integers(0, room(fmt, Role.SOFTWARE)),
    )

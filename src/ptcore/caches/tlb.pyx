"""Tlb: the door to tlb.h."""

cimport cython
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free

import operator
from dataclasses import dataclass

import numpy as np

from ptcore.caches.geometry import (
    INCLUSIONS,
    POLICIES,
    SIDES,
    preset,
    validate_levels,
)
from ptcore.errors import AddressError, Misaligned, OutOfRange
from ptcore.units import ALL_ONES, parse_size

MISS = TLB_MISS
KINDS = {"r": 1, "w": 2, "x": 4}
MAX_ASID = 2**20 - 2
MAX_VMID = 2**16 - 1
ALL_RIGHTS = 63
ENTRY_DTYPE = np.dtype(
    [
        ("level", "u1"),
        ("page_lg2", "u1"),
        ("rights", "u1"),
        ("global_", "?"),
        ("asid", "<u4"),
        ("vmid", "<u2"),
        ("va", "<u8"),
        ("pa", "<u8"),
    ]
)


@dataclass(frozen=True, slots=True)
class Hit:
    pa: int
    page_size: int
    level: int
    rights: int


cdef uint64_t space_of(asid, vmid) except? 0xFFFF_FFFF_FFFF_FFFF:
    for what, value, most in (("asid", asid, MAX_ASID), ("vmid", vmid, MAX_VMID)):
        if not 0 <= operator.index(value) <= most:
            raise OutOfRange(f"{what} {value} is not in 0..{most}")
    return tlb_space(asid, vmid)


cdef tlb_chosen chosen(asid, vmid, bint with_global, bint larger_stay, bint tagged=True) except *:
    cdef tlb_chosen c
    c.value = space_of(0 if asid is None else asid, 0 if vmid is None else vmid)
    c.mask = (0 if asid is None else TLB_GLOBAL) | (0 if vmid is None else TLB_SPACE & ~TLB_GLOBAL)
    c.globals = with_global
    c.larger_stay = larger_stay
    c.tagged = tagged
    return c


cdef uint8_t as_rights(value) except? 255:
    number = operator.index(value)
    if not 0 <= number <= ALL_RIGHTS:
        raise OutOfRange(f"rights {number} is not in 0..{ALL_RIGHTS}")
    return number


cdef uint64_t as_va(value) except? 0xFFFF_FFFF_FFFF_FFFF:
    number = operator.index(value)
    if not 0 <= number <= ALL_ONES:
        raise OutOfRange(f"{number:#x} is no 64-bit address")
    return number


cdef unsigned side_of(kind) except? 0:
    found = KINDS.get(kind)
    if found is None:
        raise ValueError(f"an access is 'r', 'w' or 'x', not {kind!r}")
    return found


def addresses_of(vas):
    source = np.asarray(vas)
    if source.dtype.kind == "f" and not isinstance(vas, np.ndarray):
        source = np.asarray(vas, dtype=object)  # NumPy makes floats of a list of small and huge integers
    if source.size and source.dtype.kind == "O":
        source = source.reshape(-1)
        for va in source:
            if not 0 <= operator.index(va) <= ALL_ONES:
                raise OutOfRange(f"{va} is no 64-bit address")
        return source.astype(np.uint64).reshape(np.shape(vas))
    if source.size and source.dtype.kind not in "iu":
        raise TypeError(f"addresses are integers, not {source.dtype}")
    if source.size and source.dtype.kind == "i" and source.min() < 0:
        raise OutOfRange(f"{int(source.min())} is no 64-bit address")
    return np.asarray(source, dtype=np.uint64, order="C")


def sides_of(kinds, shape):
    if kinds is None or isinstance(kinds, str):
        return np.full(shape, side_of("r" if kinds is None else kinds), dtype=np.uint8)
    letters = np.asarray(kinds)
    if letters.shape != shape:
        raise ValueError(f"kinds has the shape {letters.shape}, the addresses have {shape}")
    if letters.dtype == np.uint8:  # as traces have them: 0 load, 1 store, 2 fetch
        if letters.size and letters.max() > 2:
            raise ValueError("kinds are 0 (load), 1 (store) or 2 (fetch)")
        return np.left_shift(np.uint8(1), letters, dtype=np.uint8)
    sides = np.zeros(shape, dtype=np.uint8)
    for letter, side in KINDS.items():
        sides[letters == letter] = side
    if not sides.all():
        raise ValueError("kinds are 'r', 'w' or 'x'")
    return sides


cdef unsigned side_alone(kinds, sides) except? 0xFFFF:
    """Return the side of all accesses of a batch, 0 where they differ; `sides` is what sides_of gave, or None."""
    if sides is None:
        return side_of("r" if kinds is None else kinds)
    return sides.flat[0] if sides.size and bool((sides == sides.flat[0]).all()) else 0


def sides_of_each(kinds, shape):
    """Return what sides_of does, flat; None where one text speaks for all."""
    return None if kinds is None or isinstance(kinds, str) else sides_of(kinds, shape).reshape(-1)


cdef int allocate(tlb_array *array) except -1:
    cdef uint64_t room = <uint64_t>array.sets * array.ways
    array.pages = <uint64_t *>calloc(room, sizeof(uint64_t))
    array.entries = <tlb_entry *>calloc(room, sizeof(tlb_entry))
    array.state = <uint64_t *>calloc(array.sets, sizeof(uint64_t))
    if array.ways > TLB_WORD_SLOTS:
        array.rows = <uint16_t *>calloc(room, sizeof(uint16_t))
    if array.pages == NULL or array.entries == NULL or array.state == NULL:
        raise MemoryError()
    if array.ways > TLB_WORD_SLOTS and array.rows == NULL:
        raise MemoryError()
    tlb_clear(array)
    return 0


@cython.final
cdef class Tlb:
    def __cinit__(self, levels, *, seed=1):
        cdef tlb_array *array
        cdef int n = 0, m
        found = preset(levels).levels if isinstance(levels, str) else tuple(levels)
        validate_levels(found)
        self.levels = found
        self.c.levels = len(found)
        self.c.plain = True
        self.c.space = TLB_GLOBAL
        # The generator of the random policy never leaves 0.
        self.c.random = (operator.index(seed) & ALL_ONES) or 1
        self.c.smallest_lg2 = min(
            lg2 for level in found for array in level.arrays for lg2 in array.page_lg2s()
        )
        for number, level in enumerate(found):
            self.c.level[number].inclusion = INCLUSIONS.index(level.inclusion)
            self.c.level[number].live = level.live_asids
            if level.inclusion != INCLUSIONS[0] or level.live_asids:
                self.c.plain = False
            for declared in level.arrays:
                array = &self.c.array[n]
                array.used = &self.c.used[n]
                n += 1
                array.level = number
                array.ways = declared.ways
                array.sets = declared.entries // declared.ways
                array.set_mask = array.sets - 1 if array.sets & (array.sets - 1) == 0 else 0
                array.sides = sum(1 << SIDES.index(side) for side in set(declared.sides))
                array.policy = POLICIES.index(declared.policy)
                array.index_xor = declared.index_xor
                lg2s = declared.page_lg2s()
                array.sizes = len(lg2s)
                for m in range(len(lg2s)):
                    array.page_lg2[m] = lg2s[m]
                for m, held in enumerate(level.held_as_each(declared)):
                    array.held_as[m] = held
                for lg2 in lg2s:
                    sharing = [other for other in level.arrays if other.shares(declared, lg2)]
                    array.turns[lg2] = len(sharing)
                    array.turn[lg2] = [other is declared for other in sharing].index(True)
                if declared.coalesces:
                    self.c.coalesced_lg2 = max(self.c.coalesced_lg2, max(lg2s))
                self.c.arrays = n
                array.stale = &self.c.stale
                allocate(array)
        self.c.stale = True
        self.c.simple = self.is_simple()

    def __dealloc__(self):
        cdef uint32_t n
        for n in range(self.c.arrays):
            free(self.c.array[n].pages)
            free(self.c.array[n].entries)
            free(self.c.array[n].state)
            free(self.c.array[n].rows)

    cdef bint is_simple(self):
        """Whether plans serve it: they know LRU, masks for set numbers, and nothing of other rules."""
        cdef uint32_t n, probes = 0
        cdef int lg2
        for n in range(self.c.arrays):
            probes += self.c.array[n].sizes
            if self.c.array[n].policy != 0 or self.c.array[n].sets & (self.c.array[n].sets - 1):
                return False
            for lg2 in range(64):
                if self.c.array[n].turns[lg2] > 1:
                    return False
        return self.c.plain and probes <= TLB_MAX_PROBES

    @classmethod
    def preset(cls, name):
        return cls(preset(name).levels)

    def lookup(self, va, asid=0, kind="r", vmid=0):
        cdef unsigned level
        cdef uint64_t address = as_va(va)
        cdef tlb_entry *found = tlb_lookup(&self.c, address, space_of(asid, vmid), side_of(kind), &level)
        if found == NULL:
            return None
        size = int(tlb_bytes(found.tag))
        return Hit(int(found.pa) | (va & (size - 1)), size, level, tlb_rights(found.tag))

    def insert(self, va, pa, page_size, asid=0, global_=False, rights=15, kind="r", vmid=0):
        cdef tlb_entry entry
        cdef uint64_t space = space_of(asid, vmid)
        size = parse_size(page_size)
        if size == 0 or size & (size - 1):
            raise AddressError(f"page_size {size} is no power of two")
        for what, address in (("va", va), ("pa", pa)):
            if as_va(address) & (size - 1):
                raise Misaligned(f"{what} {address:#x} is no multiple of the page size {size}")
        lg2 = size.bit_length() - 1
        if not any(level.held_as(array, lg2) for level in self.levels for array in level.arrays):
            raise AddressError(f"no array holds pages of {size} bytes, or parts of them")
        entry.pa = as_va(pa)
        entry.tag = tlb_tag(space | (TLB_GLOBAL if global_ else 0), lg2, as_rights(rights), 1, 0)
        tlb_fill(&self.c, &entry, as_va(va), side_of(kind), TLB_MAX_LEVELS)

    def access_many(self, vas, kinds=None, asid=0, *, page_size="4K", vmid=0):
        cdef const uint64_t[::1] addresses
        cdef const uint8_t[::1] sides
        cdef uint8_t[::1] out
        cdef uint64_t space = space_of(asid, vmid)
        cdef const uint8_t *each = NULL
        cdef unsigned alone
        cdef tlb_entry entry
        size = parse_size(page_size)
        if size & (size - 1) or not any(
            level.held_as(array, size.bit_length() - 1) for level in self.levels for array in level.arrays
        ):
            raise AddressError(f"page_size {size} is no power of two that some array holds")
        source = addresses_of(vas)
        asked = sides_of_each(kinds, source.shape)
        alone = side_alone(kinds, asked)
        outcomes = np.empty(source.shape, dtype=np.uint8)
        if not source.size:
            return outcomes
        addresses = source.reshape(-1)
        out = outcomes.reshape(-1)
        if asked is not None:
            sides = asked
            each = &sides[0]
        entry.pa = 0
        entry.tag = tlb_tag(space, size.bit_length() - 1, ALL_RIGHTS, 1, 0)
        with nogil:
            tlb_serve_many(&self.c, &addresses[0], each, alone, addresses.shape[0], entry, &out[0])
        return outcomes

    def invalidate(
        self, first, last, asid=None, *, with_global=None, vmid=None, tagged=True, larger_stay=False
    ):
        cdef uint64_t low = as_va(first), high = as_va(last)
        cdef bint globals_too = asid is None if with_global is None else with_global
        cdef tlb_chosen which = chosen(asid, vmid, globals_too, larger_stay, tagged)
        if low > high:
            raise OutOfRange(f"first {first:#x} comes after last {last:#x}")
        return tlb_invalidate(&self.c, low, high, &which)

    def invalidate_all(self, asid=None, keep_global=False, *, vmid=None):
        cdef tlb_chosen which = chosen(asid, vmid, not keep_global, False)
        return tlb_invalidate_all(&self.c, &which, TLB_MAX_LEVELS)

    def holds(self, first, last):
        cdef uint64_t low = as_va(first), high = as_va(last)
        if low > high:
            raise OutOfRange(f"first {first:#x} comes after last {last:#x}")
        return tlb_holds(&self.c, low, high)

    def entries(self):
        cdef uint32_t n, m, set_
        cdef size_t at
        cdef uint64_t tag
        cdef tlb_array *array
        rows = []
        for n in range(self.c.arrays):
            array = &self.c.array[n]
            for set_ in range(array.sets if array.seen else 0):
                for m in range(array.ways):
                    at = <size_t>set_ * array.ways + tlb_nth(array, set_, m)
                    tag = array.entries[at].tag
                    if tag:
                        rows.append(
                            (
                                array.level,
                                tlb_lg2(tag),
                                tlb_rights(tag),
                                tlb_is_global(tag),
                                0 if tlb_is_global(tag) else int(tag & TLB_GLOBAL),
                                int((tag & TLB_SPACE) >> 20),
                                array.pages[at] << tlb_lg2(tag),
                                array.entries[at].pa,
                            )
                        )
        return np.array(rows, dtype=ENTRY_DTYPE)

    def __len__(self):
        cdef uint32_t n
        cdef uint64_t m, found = 0
        for n in range(self.c.arrays):
            for m in range(<uint64_t>self.c.array[n].sets * self.c.array[n].ways):
                found += self.c.array[n].entries[m].tag != 0
        return found

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
    POLICIES_WITH_STATE,
    SIDES,
    preset,
    validate_levels,
)
from ptcore.errors import AddressError, Misaligned, OutOfRange
from ptcore.units import ALL_ONES, parse_size

MISS = MISS_CODE
KINDS = {"r": 1, "w": 2, "x": 4}
MAX_ASID = 2**32 - 2
ALL_RIGHTS = 63
ENTRY_DTYPE = np.dtype(
    [
        ("level", "u1"),
        ("page_lg2", "u1"),
        ("rights", "u1"),
        ("global_", "?"),
        ("asid", "<u4"),
        ("va", "<u8"),
        ("pa", "<u8"),
    ]
)


cdef enum:
    MISS_CODE = 254


@dataclass(frozen=True, slots=True)
class Hit:
    pa: int
    page_size: int
    level: int
    rights: int


cdef uint32_t as_asid(value) except? 0xFFFFFFFF:
    number = operator.index(value)
    if not 0 <= number <= MAX_ASID:
        raise OutOfRange(f"asid {number} is not in 0..{MAX_ASID}")
    return number


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
    if source.size and source.min() < 0:
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
        self.c.asid = TLB_GLOBAL
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
                for m in range(64):
                    array.held_as[m] = level.held_as(declared, m)
                for lg2 in lg2s:
                    sharing = [other for other in level.arrays if other.shares(declared, lg2)]
                    array.turns[lg2] = len(sharing)
                    array.turn[lg2] = [other is declared for other in sharing].index(True)
                array.entries = <tlb_entry *>calloc(declared.entries, sizeof(tlb_entry))
                if declared.policy in POLICIES_WITH_STATE:
                    array.state = <uint64_t *>calloc(array.sets, sizeof(uint64_t))
                self.c.arrays = n
                if array.entries == NULL or (declared.policy in POLICIES_WITH_STATE and array.state == NULL):
                    raise MemoryError()

    def __dealloc__(self):
        cdef uint32_t n
        for n in range(self.c.arrays):
            free(self.c.array[n].entries)
            free(self.c.array[n].state)

    @classmethod
    def preset(cls, name):
        return cls(preset(name).levels)

    def lookup(self, va, asid=0, kind="r"):
        cdef unsigned level
        cdef uint64_t address = as_va(va)
        cdef tlb_entry *found = tlb_lookup(&self.c, address, as_asid(asid), side_of(kind), &level)
        if found == NULL:
            return None
        size = 1 << int(found.page_lg2)
        return Hit(int(found.pa) | (va & (size - 1)), size, level, found.rights)

    def insert(self, va, pa, page_size, asid=0, global_=False, rights=15, kind="r"):
        cdef tlb_entry entry
        size = parse_size(page_size)
        if size == 0 or size & (size - 1):
            raise AddressError(f"page_size {size} is no power of two")
        for what, address in (("va", va), ("pa", pa)):
            if as_va(address) & (size - 1):
                raise Misaligned(f"{what} {address:#x} is no multiple of the page size {size}")
        lg2 = size.bit_length() - 1
        if not any(level.held_as(array, lg2) for level in self.levels for array in level.arrays):
            raise AddressError(f"no array holds pages of {size} bytes, or parts of them")
        entry.page = as_va(va) >> <int>lg2
        entry.pa = as_va(pa)
        entry.asid = TLB_GLOBAL if global_ else as_asid(asid)
        entry.page_lg2 = lg2
        entry.rights = as_rights(rights)
        entry.dirty = 1
        entry.key = 0
        tlb_fill(&self.c, &entry, as_va(va), side_of(kind), TLB_MAX_LEVELS)

    def access_many(self, vas, kinds=None, asid=0, *, page_size="4K"):
        cdef const uint64_t[::1] addresses
        cdef const uint8_t[::1] sides
        cdef uint8_t[::1] out
        cdef size_t n
        cdef unsigned level, side
        cdef uint32_t tag = as_asid(asid)
        cdef tlb_entry entry
        size = parse_size(page_size)
        if size < 1024 or size & (size - 1):
            raise AddressError(f"page_size {size} is no power of two")
        cdef unsigned lg2 = size.bit_length() - 1
        source = addresses_of(vas)
        outcomes = np.empty(source.shape, dtype=np.uint8)
        addresses = source.reshape(-1)
        sides = sides_of(kinds, source.shape).reshape(-1)
        out = outcomes.reshape(-1)
        entry.pa = 0
        entry.asid = tag
        entry.page_lg2 = lg2
        entry.rights = ALL_RIGHTS
        entry.dirty = 1
        entry.key = 0
        with nogil:
            for n in range(<size_t>addresses.shape[0]):
                side = sides[n]
                if tlb_lookup(&self.c, addresses[n], tag, side, &level) != NULL:
                    out[n] = <uint8_t>level
                else:
                    out[n] = MISS_CODE
                    entry.page = addresses[n] >> lg2
                    entry.pa = entry.page << lg2
                    tlb_refill(&self.c, &entry, addresses[n], side, TLB_MAX_LEVELS)
        return outcomes

    def invalidate(self, first, last, asid=None, *, with_global=False):
        cdef uint64_t low = as_va(first), high = as_va(last)
        if low > high:
            raise OutOfRange(f"first {first:#x} comes after last {last:#x}")
        which = 1 if asid is None else 2 if with_global else 0
        return tlb_invalidate(&self.c, low, high, which, 0 if asid is None else as_asid(asid))

    def invalidate_all(self, asid=None, keep_global=False):
        return tlb_invalidate_all(
            &self.c, asid is None, 0 if asid is None else as_asid(asid), keep_global, TLB_MAX_LEVELS
        )

    def holds(self, first, last):
        cdef uint64_t low = as_va(first), high = as_va(last)
        cdef uint32_t n
        cdef uint64_t m
        if low > high:
            raise OutOfRange(f"first {first:#x} comes after last {last:#x}")
        for n in range(self.c.arrays):
            for m in range(<uint64_t>self.c.array[n].sets * self.c.array[n].ways):
                if tlb_meets(&self.c.array[n].entries[m], low, high):
                    return True
        return False

    def entries(self):
        cdef uint32_t n
        cdef uint64_t m
        cdef tlb_entry *entry
        rows = []
        for n in range(self.c.arrays):
            for m in range(<uint64_t>self.c.array[n].sets * self.c.array[n].ways):
                entry = &self.c.array[n].entries[m]
                if entry.page_lg2 != TLB_NO_PAGE:
                    rows.append(
                        (
                            self.c.array[n].level,
                            entry.page_lg2,
                            entry.rights,
                            entry.asid == TLB_GLOBAL,
                            0 if entry.asid == TLB_GLOBAL else entry.asid,
                            entry.page << entry.page_lg2,
                            entry.pa,
                        )
                    )
        return np.array(rows, dtype=ENTRY_DTYPE)

    def __len__(self):
        return len(self.entries())

"""Tlb: the door to tlb.h."""

cimport cython
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free

import operator
from dataclasses import dataclass

import numpy as np

from ptcore.caches.geometry import preset, validate_levels
from ptcore.errors import AddressError, Misaligned, OutOfRange
from ptcore.units import ALL_ONES, parse_size

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


@cython.final
cdef class Tlb:
    def __cinit__(self, levels):
        cdef tlb_array *array
        cdef int n = 0, m
        found = preset(levels).levels if isinstance(levels, str) else tuple(levels)
        validate_levels(found)
        self.levels = found
        self.c.levels = len(found)
        self.c.smallest_lg2 = min(
            lg2 for level in found for array in level.arrays for lg2 in array.page_lg2s()
        )
        for number, level in enumerate(found):
            for declared in level.arrays:
                array = &self.c.array[n]
                n += 1
                array.level = number
                array.ways = declared.ways
                array.sets = declared.entries // declared.ways
                array.set_mask = array.sets - 1 if array.sets & (array.sets - 1) == 0 else 0
                lg2s = declared.page_lg2s()
                array.sizes = len(lg2s)
                for m in range(len(lg2s)):
                    array.page_lg2[m] = lg2s[m]
                array.entries = <tlb_entry *>calloc(declared.entries, sizeof(tlb_entry))
                if array.entries == NULL:
                    raise MemoryError()
                self.c.arrays = n

    def __dealloc__(self):
        cdef uint32_t n
        for n in range(self.c.arrays):
            free(self.c.array[n].entries)

    @classmethod
    def preset(cls, name):
        return cls(preset(name).levels)

    def lookup(self, va, asid=0):
        cdef unsigned level
        cdef uint64_t address = as_va(va)
        cdef tlb_entry *found = tlb_lookup(&self.c, address, as_asid(asid), &level)
        if found == NULL:
            return None
        size = 1 << int(found.page_lg2)
        return Hit(int(found.pa) | (va & (size - 1)), size, level, found.rights)

    def insert(self, va, pa, page_size, asid=0, global_=False, rights=15):
        cdef tlb_entry entry
        size = parse_size(page_size)
        if size == 0 or size & (size - 1):
            raise AddressError(f"page_size {size} is no power of two")
        for what, address in (("va", va), ("pa", pa)):
            if as_va(address) & (size - 1):
                raise Misaligned(f"{what} {address:#x} is no multiple of the page size {size}")
        lg2 = size.bit_length() - 1
        if not any(lg2 in array.page_lg2s() for level in self.levels for array in level.arrays):
            raise AddressError(f"no array holds pages of {size} bytes")
        entry.page = as_va(va) >> <int>lg2
        entry.pa = as_va(pa)
        entry.asid = TLB_GLOBAL if global_ else as_asid(asid)
        entry.page_lg2 = lg2
        entry.rights = as_rights(rights)
        entry.dirty = 1
        tlb_fill(&self.c, &entry, TLB_MAX_LEVELS)

    def invalidate(self, first, last, asid=None):
        cdef uint64_t low = as_va(first), high = as_va(last)
        if low > high:
            raise OutOfRange(f"first {first:#x} comes after last {last:#x}")
        return tlb_invalidate(&self.c, low, high, asid is None, 0 if asid is None else as_asid(asid))

    def invalidate_all(self, asid=None, keep_global=False):
        return tlb_invalidate_all(
            &self.c, asid is None, 0 if asid is None else as_asid(asid), keep_global
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

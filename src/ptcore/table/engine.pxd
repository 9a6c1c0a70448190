"""The loops that are compiled once per format (engine.h)."""

from libc.stdint cimport uint8_t, uint64_t

from ptcore.table.abi cimport pt_format, pt_item, pt_need, pt_space
from ptcore.table.listed_rows cimport pt_listing


cdef extern from "engine.h" nogil:
    ctypedef struct pt_engine:
        const pt_format *format
        int (*one)(const pt_space *, const pt_need *, uint64_t, uint64_t *) noexcept nogil
        void (*many)(
            const pt_space *, const pt_need *, const uint64_t *, uint64_t *, uint8_t *, size_t
        ) noexcept nogil
        size_t (*empty_run)(const pt_space *, const uint8_t *, size_t) noexcept nogil
        size_t (*list_leaves)(
            const pt_space *, const uint8_t *, size_t, unsigned, uint64_t, pt_listing *
        ) noexcept nogil
        size_t (*lawful_leaf_run)(const pt_space *, const uint8_t *, size_t) noexcept nogil
        void (*fill)(const pt_space *, uint8_t *, size_t, pt_item, uint64_t) noexcept nogil
        void (*clear)(const pt_space *, uint8_t *, size_t) noexcept nogil

"""Translations by an engine that was compiled for the format (translate.h)."""

from libc.stdint cimport uint8_t, uint64_t

from ptcore.table.abi cimport pt_format, pt_need, pt_path, pt_space


cdef extern from "translate.h" nogil:
    ctypedef struct pt_engine:
        const pt_format *format
        int (*one)(const pt_space *, const pt_need *, uint64_t, uint64_t *) noexcept nogil
        void (*many)(
            const pt_space *, const pt_need *, const uint64_t *, uint64_t *, uint8_t *, size_t
        ) noexcept nogil

    const pt_engine *pt_engine_for(const pt_format *f)
    int pt_trace(const pt_space *s, uint64_t ia, uint64_t *oa, pt_path *path)

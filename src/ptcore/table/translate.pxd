"""The engines of all formats (translate.h), and the path of one walk."""

from libc.stdint cimport uint64_t

from ptcore.table.abi cimport pt_format, pt_path, pt_space
from ptcore.table.engine cimport pt_engine


cdef extern from "translate.h" nogil:
    const pt_engine *pt_engine_for(const pt_format *f)
    int pt_trace(const pt_space *s, uint64_t ia, uint64_t *oa, pt_path *path)

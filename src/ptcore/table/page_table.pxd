from libc.stdint cimport uint8_t, uint64_t

from ptcore.memory.physical cimport PhysicalMemory
from ptcore.table.abi cimport pt_format, pt_item, pt_need, pt_path, pt_space
from ptcore.table.edit cimport Edit
from ptcore.table.engine cimport pt_engine


cdef class PageTable:
    cdef pt_space space
    cdef pt_format own_format
    cdef const pt_engine *engine
    cdef pt_need needs[16]
    cdef pt_item table_item[6]
    cdef readonly PhysicalMemory memory
    cdef readonly object format
    cdef readonly uint64_t encryption_mask
    cdef readonly bint encryption_bit
    cdef readonly object physical_bits
    cdef unsigned width
    cdef readonly bint check_reserved
    cdef bint owns_root
    cdef bint destroyed
    cdef dict leaf_items
    cdef list zero_masks
    cdef object frame_limit
    cdef readonly unsigned tag_bits

    # For other compiled rooms: `ia` may be any address; outputs are all-ones unless PT_OK comes back.
    cdef int translate_one(self, uint64_t ia, unsigned kind, uint64_t *oa) noexcept nogil
    cdef int trace(self, uint64_t ia, uint64_t *oa, pt_path *path) noexcept nogil
    cdef int _translate_lazily(self, uint64_t ia, unsigned kind, uint64_t *oa) except -1
    cdef int _trace_all(self, uint64_t ia, uint64_t *oa, pt_path *path) except -1
    cdef int _pass_over(self, object source, object pas, object statuses, unsigned kind) except -1
    cdef const pt_need *need_of(self, unsigned kind) noexcept nogil
    cdef unsigned kind_of(self, access, bint user) except? 255
    cdef Edit new_edit(self)
    cdef bint _reaches_encryption(self, uint64_t first, uint64_t last) noexcept
    cdef object carry_out(self, Edit edit, int operation, object span, uint64_t pa)
    cdef object finish(self, Edit edit, int end, tuple spans, tuple table_spans)
    cdef int reserve(self, Edit edit) except -1
    cdef unsigned _rights(self, const pt_path *seen) noexcept
    cdef bint _key_denies(self, const pt_path *seen, object letters, bint user) except -1
    cdef tuple _steps(self, const pt_path *seen)
    cdef object _fault_of(self, object status, uint64_t ia, const pt_path *seen, object access, object user)

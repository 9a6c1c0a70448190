"""Unpack the records of one thread of a drmemtrace trace."""

cimport cython
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy

from ptcore.workloads.accesses.text cimport FETCH, LOAD, STORE

# DynamoRIO clients/drcachesim/common/trace_entry.h, trace_type_t and trace_marker_type_t.
cdef enum:
    READ = 0
    WRITE = 1
    INSTR = 10
    INSTR_RETURN = 16
    INSTR_BUNDLE = 17
    MARKER = 28
    INSTR_MAYBE_FETCH = 30
    INSTR_SYSENTER = 31
    INSTR_TAKEN_JUMP = 48
    INSTR_UNTAKEN_JUMP = 49
    MARKER_TIMESTAMP = 2
    MARKER_CPU_ID = 3
    KNOWN = 50  # types above are of a later version

cdef enum Meaning:
    NOTHING, A_LOAD, A_STORE, A_FETCH, A_MARKER, UNREADABLE

# Microseconds from 1601, where DynamoRIO's clock begins, to 1970.
cdef uint64_t EPOCH = <uint64_t>11_644_473_600 * 1_000_000


cdef inline Meaning meaning_of(unsigned int type) noexcept nogil:
    if type == READ:
        return A_LOAD
    if type == WRITE:
        return A_STORE
    if (INSTR <= type <= INSTR_RETURN) or type == INSTR_SYSENTER:
        return A_FETCH
    if type == INSTR_TAKEN_JUMP or type == INSTR_UNTAKEN_JUMP:
        return A_FETCH
    if type == MARKER:
        return A_MARKER
    if type == INSTR_BUNDLE or type == INSTR_MAYBE_FETCH or type >= KNOWN:
        return UNREADABLE
    return NOTHING


@cython.final
cdef class ThreadRecords:
    cdef readonly int64_t time_ns
    cdef readonly int cpu

    cdef bint mark(self, unsigned int marker, uint64_t value) noexcept nogil:
        """Follow a marker; False when its value is impossible."""
        if marker == MARKER_TIMESTAMP:
            if value < EPOCH or value - EPOCH > <uint64_t>((<uint64_t>1 << 63) - 1) / 1000:
                return False
            self.time_ns = <int64_t>((value - EPOCH) * 1000)
        elif marker == MARKER_CPU_ID:
            if value == <uint64_t>-1 or value == <uint32_t>-1:
                value = 0  # all-ones: the recorder could not tell
            if value > 65535:
                return False
            self.cpu = <int>value
        return True

    def unpack(self, const uint8_t[::1] block, Py_ssize_t address_bytes, chunk, Py_ssize_t made):
        cdef uint64_t[::1] va = chunk.va
        cdef uint8_t[::1] kind = chunk.kind
        cdef uint32_t[::1] size = chunk.size
        cdef uint16_t[::1] cpu = chunk.cpu
        cdef int64_t[::1] time_ns = chunk.time_ns
        if address_bytes != 4 and address_bytes != 8:
            raise ValueError(f"addresses have 4 or 8 bytes, not {address_bytes}")
        cdef Py_ssize_t record_bytes = 4 + address_bytes
        cdef Py_ssize_t records = block.shape[0] // record_bytes
        cdef Py_ssize_t n, done = records
        cdef const uint8_t* at
        cdef uint16_t type = 0, extent = 0
        cdef uint64_t address = 0
        cdef Meaning meaning
        if made < 0 or records > va.shape[0] - made:
            raise ValueError(f"{records} records need as many rows after {made}")
        with nogil:
            for n in range(records):
                at = &block[n * record_bytes]
                memcpy(&type, at, 2)
                memcpy(&extent, at + 2, 2)
                memcpy(&address, at + 4, address_bytes)
                meaning = meaning_of(type)
                if meaning == NOTHING:
                    continue
                if meaning == UNREADABLE or (
                    meaning == A_MARKER and not self.mark(extent, address)
                ):
                    done = n
                    break
                if meaning == A_MARKER:
                    continue
                va[made] = address
                kind[made] = LOAD if meaning == A_LOAD else (STORE if meaning == A_STORE else FETCH)
                size[made] = extent
                cpu[made] = self.cpu
                time_ns[made] = self.time_ns
                made += 1
        return done, made

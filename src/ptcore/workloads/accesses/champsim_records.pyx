"""Unpack and pack the records of ChampSim: one instruction each."""

cimport cython
from libc.stdint cimport uint8_t, uint64_t
from libc.string cimport memcpy, memset

from ptcore.workloads.accesses.text cimport FETCH, LOAD, STORE

cdef enum:
    IS_BRANCH = 8
    BRANCH_TAKEN = 9
    SHORT = 64
    SHORT_STORES = 2
    SHORT_STORES_AT = 16
    SHORT_LOADS_AT = 32
    LONG = 96
    LONG_STORES = 4
    LONG_STORES_AT = 24
    LONG_LOADS_AT = 56
    LOADS = 4
    MOST = 1 + LONG_STORES + LOADS  # accesses of one record


cdef inline Py_ssize_t put(
    uint64_t* va, uint8_t* kind, Py_ssize_t made, const uint8_t* at, int what
) noexcept nogil:
    """Write the address at `at` to the next row; the row counts when it is not zero."""
    cdef uint64_t found
    memcpy(&found, at, 8)
    va[made] = found
    kind[made] = what
    return made + (found != 0)


cdef inline Py_ssize_t unpack_one(
    uint64_t* va, uint8_t* kind, Py_ssize_t made, const uint8_t* record, bint wide
) noexcept nogil:
    """A fetch, the loads, the stores. Without branches: which slots are used has no pattern."""
    cdef int n
    made = put(va, kind, made, record, FETCH)
    for n in range(LOADS):
        made = put(va, kind, made, record + (LONG_LOADS_AT if wide else SHORT_LOADS_AT) + 8 * n, LOAD)
    for n in range(LONG_STORES if wide else SHORT_STORES):
        made = put(
            va, kind, made, record + (LONG_STORES_AT if wide else SHORT_STORES_AT) + 8 * n, STORE
        )
    return made


cdef Py_ssize_t unpack_all(
    const uint8_t* at, Py_ssize_t records, Py_ssize_t* made, uint64_t* va, uint8_t* kind, bint wide
) noexcept nogil:
    """Return how many records were unpacked: all, or those before one that is damaged."""
    cdef Py_ssize_t n, rows = made[0]
    if wide:
        for n in range(records):
            if (at[IS_BRANCH] | at[BRANCH_TAKEN]) > 1:
                break
            rows = unpack_one(va, kind, rows, at, True)
            at += LONG
        else:
            n = records
    else:
        for n in range(records):
            if (at[IS_BRANCH] | at[BRANCH_TAKEN]) > 1:
                break
            rows = unpack_one(va, kind, rows, at, False)
            at += SHORT
        else:
            n = records
    made[0] = rows
    return n


def unpack(const uint8_t[::1] block, Py_ssize_t record_bytes, chunk, Py_ssize_t made):
    cdef uint64_t[::1] va = chunk.va
    cdef uint8_t[::1] kind = chunk.kind
    if record_bytes != SHORT and record_bytes != LONG:
        raise ValueError(f"records have {SHORT} or {LONG} bytes, not {record_bytes}")
    cdef Py_ssize_t records = block.shape[0] // record_bytes
    cdef Py_ssize_t done
    if made < 0 or records * MOST > va.shape[0] - made or kind.shape[0] != va.shape[0]:
        raise ValueError(f"{records} records need {records * MOST} rows after {made}")
    if records == 0:
        return 0, made
    with nogil:
        done = unpack_all(&block[0], records, &made, &va[0], &kind[0], record_bytes == LONG)
    return done, made


@cython.final
cdef class Packer:
    cdef uint8_t[SHORT] held  # the instruction that is not full yet
    cdef int loads, stores
    cdef bint begun

    cdef void begin(self, uint64_t pc) noexcept nogil:
        memset(self.held, 0, SHORT)
        memcpy(self.held, &pc, 8)
        self.loads = self.stores = 0
        self.begun = True

    cdef bint has_room(self, int what) noexcept nogil:
        """Whether the access may join the instruction: it is read back after all those before it."""
        if not self.begun or what == FETCH:
            return False
        return self.stores == 0 and self.loads < LOADS if what == LOAD else self.stores < SHORT_STORES

    def pack(self, const uint64_t[::1] va, const uint8_t[::1] kind, uint8_t[::1] records):
        cdef Py_ssize_t count = va.shape[0]
        cdef Py_ssize_t n, made = 0
        if kind.shape[0] != count or records.shape[0] < SHORT * count:
            raise ValueError(f"{count} accesses need {SHORT * count} bytes")
        for n in range(count):
            if not self.has_room(kind[n]):
                if self.begun:
                    memcpy(&records[made], self.held, SHORT)
                    made += SHORT
                self.begin(va[n] if kind[n] == FETCH else 0)
            if kind[n] == LOAD:
                memcpy(self.held + SHORT_LOADS_AT + 8 * self.loads, &va[n], 8)
                self.loads += 1
            elif kind[n] == STORE:
                memcpy(self.held + SHORT_STORES_AT + 8 * self.stores, &va[n], 8)
                self.stores += 1
        return made

    def last(self):
        if not self.begun:
            return b""
        self.begun = False
        return (<char*>self.held)[:SHORT]

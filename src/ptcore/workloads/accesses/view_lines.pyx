"""Scan the lines of drmemtrace's view tool."""

cimport cython
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memchr

from ptcore.workloads.accesses.text cimport (
    BAD_LINE,
    CHUNK_FULL,
    FETCH,
    LOAD,
    NEEDS_TEXT,
    STORE,
    begins,
    decimal,
    hexadecimal,
    holds,
    ptcore_digit,
    spaces,
    trimmed,
    whole_lines,
    word,
)

cdef enum Found:
    BAD, NOTHING, ACCESS

# Microseconds from 1601, where DynamoRIO's clock begins, to 1970.
cdef uint64_t EPOCH = <uint64_t>11_644_473_600 * 1_000_000
cdef uint64_t LATEST = ((<uint64_t>1 << 63) - 1) // 1000

cdef struct Access:
    uint64_t va
    uint64_t size
    int kind


cdef inline const uint8_t* prefix(const uint8_t* at, const uint8_t* end) noexcept nogil:
    """Pass RECORD INSTRUCTION: THREAD; return what follows, or NULL when it is not there."""
    cdef uint64_t number
    at = decimal(spaces(at, end), end, &number)
    if at == NULL or at >= end or at[0] != c" ":
        return NULL
    at = decimal(spaces(at, end), end, &number)
    if at == NULL or at >= end or at[0] != c":":
        return NULL
    at = spaces(at + 1, end)
    return spaces(word(at, end), end)


cdef bint is_remark(const uint8_t* at, const uint8_t* end) noexcept nogil:
    """Whether the tool prints this line around the records."""
    cdef uint64_t number
    at = spaces(at, end)
    if at == end or begins(at, end, "---") or begins(at, end, "===") or begins(at, end, "<--"):
        return True
    if begins(at, end, "Output format:") or begins(at, end, "View tool results:"):
        return True
    if begins(at, end, "Trace invariant checks passed"):
        return True
    at = decimal(at, end, &number)
    return at != NULL and begins(at, end, " : total ")


cdef inline bint is_encoding(const uint8_t* at, const uint8_t* end) noexcept nogil:
    """Whether the line goes on with the bytes of an instruction that had no room above."""
    while at < end:
        if end - at < 2 or not ptcore_digit[at[0]] or not ptcore_digit[at[1]]:
            return False
        at += 2
        if at < end and at[0] != c" ":
            return False
        at = spaces(at, end)
    return True


@cython.final
cdef class ViewLines:
    cdef readonly int64_t time_ns
    cdef readonly int cpu

    cdef Found marker(self, const uint8_t* at, const uint8_t* end) noexcept nogil:
        """Follow `<marker: ...>`: a time or a CPU, or anything else."""
        cdef uint64_t number = 0
        cdef const uint8_t* rest
        if (end - 1)[0] != c">":
            return BAD
        if begins(at, end, "<marker: timestamp "):
            rest = decimal(at + 19, end, &number)
            if rest != end - 1 or number < EPOCH or number - EPOCH > LATEST:
                return BAD
            self.time_ns = <int64_t>((number - EPOCH) * 1000)
        elif begins(at, end, "<marker: tid "):
            at = holds(at, end, " on core ")
            if at == NULL:
                return BAD
            if begins(at, end, "18446744073709551615>") or begins(at, end, "4294967295>"):
                self.cpu = 0  # all-ones: the recorder could not tell
                return NOTHING
            if decimal(at, end, &number) != end - 1 or number > 65535:
                return BAD
            self.cpu = <int>number
        return NOTHING

    cdef Found record(
        self, const uint8_t* at, const uint8_t* end, Access* access
    ) noexcept nogil:
        """Read what follows the prefix."""
        cdef const uint8_t* rest = word(at, end)
        cdef uint64_t pc
        if at == end:
            return BAD
        if at[0] == c"<":
            return self.marker(at, end)
        if begins(at, rest, "ifetch") and rest - at == 6:
            access.kind = FETCH
        elif begins(at, rest, "read") and rest - at == 4:
            access.kind = LOAD
        elif begins(at, rest, "write") and rest - at == 5:
            access.kind = STORE
        elif begins(at, rest, "pref") or begins(at, rest, "iflush") or begins(at, rest, "dflush"):
            return NOTHING
        else:
            return NOTHING if is_encoding(at, end) else BAD
        at = decimal(spaces(rest, end), end, &access.size)
        if at == NULL or access.size > <uint32_t>-1 or not begins(at, end, " byte(s) @ 0x"):
            return BAD
        at = hexadecimal(at + 13, end, &access.va)
        if at == NULL or (at < end and at[0] != c" "):
            return BAD
        if access.kind == FETCH:
            return NOTHING if begins(at, end, " non-fetched instruction") else ACCESS
        if not begins(at, end, " by PC 0x") or hexadecimal(at + 9, end, &pc) != end:
            return BAD
        return ACCESS

    cdef Found line(self, const uint8_t* at, const uint8_t* end, Access* access) noexcept nogil:
        cdef const uint8_t* rest = prefix(at, end)
        if rest == NULL:
            return NOTHING if is_remark(at, end) else BAD
        return self.record(rest, end, access)

    def scan(self, const uint8_t[::1] text, Py_ssize_t at, Py_ssize_t end, chunk, Py_ssize_t made):
        if not 0 <= at <= end < text.shape[0]:
            raise ValueError(f"text[{at}:{end}] is not within the text")
        cdef uint64_t[::1] va = chunk.va
        cdef uint8_t[::1] kind = chunk.kind
        cdef uint32_t[::1] size = chunk.size
        cdef uint16_t[::1] cpu = chunk.cpu
        cdef int64_t[::1] time_ns = chunk.time_ns
        cdef Py_ssize_t room = va.shape[0], lines = 0
        cdef const uint8_t* start = &text[0]
        cdef const uint8_t* line = start + at
        cdef const uint8_t* last
        cdef const uint8_t* ends
        cdef Access access
        cdef Found found
        cdef int stop = NEEDS_TEXT
        with nogil:
            last = whole_lines(line, start + end)
            while line < last:
                if made >= room:
                    stop = CHUNK_FULL
                    break
                ends = <const uint8_t*>memchr(line, c"\n", last - line)
                found = self.line(line, trimmed(line, ends), &access)
                if found == BAD:
                    stop = BAD_LINE
                    break
                line = ends + 1
                lines += 1
                if found == ACCESS:
                    va[made] = access.va
                    kind[made] = access.kind
                    size[made] = <uint32_t>access.size
                    cpu[made] = self.cpu
                    time_ns[made] = self.time_ns
                    made += 1
        return line - start, made, lines, stop

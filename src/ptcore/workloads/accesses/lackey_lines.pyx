"""Scan and write the lines of valgrind's lackey."""

cimport cython
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.string cimport memchr

from ptcore.workloads.accesses.text cimport (
    BAD_LINE,
    CHUNK_FULL,
    FETCH,
    LOAD,
    NEEDS_TEXT,
    STORE,
    ptcore_digit,
    whole_lines,
)

cdef enum:
    MODIFY = 3  # a load and a store of the same bytes
    NO_RECORD = 4
    LONGEST = 32  # "I  ", 16 digits, a comma, 10 digits, a newline


cdef inline const uint8_t* address(const uint8_t* at, uint64_t* value) noexcept nogil:
    """Read 8 to 16 digits, or return NULL. A newline ends them; what follows it is not used."""
    cdef unsigned int d0 = ptcore_digit[at[0]], d1 = ptcore_digit[at[1]]
    cdef unsigned int d2 = ptcore_digit[at[2]], d3 = ptcore_digit[at[3]]
    cdef unsigned int d4 = ptcore_digit[at[4]], d5 = ptcore_digit[at[5]]
    cdef unsigned int d6 = ptcore_digit[at[6]], d7 = ptcore_digit[at[7]]
    cdef unsigned int digit
    cdef uint64_t found
    cdef int more = 0
    if not (d0 and d1 and d2 and d3 and d4 and d5 and d6 and d7):
        return NULL
    # Sums that do not wait for each other: what makes this fast.
    found = (d0 - 1) << 28 | (d1 - 1) << 24 | (d2 - 1) << 20 | (d3 - 1) << 16
    found |= (d4 - 1) << 12 | (d5 - 1) << 8 | (d6 - 1) << 4 | (d7 - 1)
    at += 8
    digit = ptcore_digit[at[0]]
    while digit:
        found = found << 4 | (digit - 1)
        more += 1
        if more > 8:
            return NULL
        at += 1
        digit = ptcore_digit[at[0]]
    value[0] = found
    return at


cdef inline const uint8_t* bytes_of(const uint8_t* at, uint64_t* value) noexcept nogil:
    """Read 1 to 10 decimal digits and the line's end, or return NULL."""
    cdef uint64_t found = 0
    cdef int digits = 0
    while at[0] >= c"0" and at[0] <= c"9":
        found = found * 10 + (at[0] - c"0")
        at += 1
        digits += 1
        if digits > 10:
            return NULL
    at += at[0] == c"\r"
    if digits == 0 or at[0] != c"\n" or found > <uint32_t>-1:
        return NULL
    value[0] = found
    return at + 1


cdef inline int kind_of(const uint8_t* at) noexcept nogil:
    """What the first three bytes of a line say, or NO_RECORD."""
    if at[0] == c"I":
        return FETCH if at[1] == c" " and at[2] == c" " else NO_RECORD
    if at[0] != c" " or at[1] == c"\n" or at[2] != c" ":
        return NO_RECORD
    if at[1] == c"L":
        return LOAD
    if at[1] == c"S":
        return STORE
    return MODIFY if at[1] == c"M" else NO_RECORD


cdef inline bint is_remark(const uint8_t* at) noexcept nogil:
    """Whether the line is empty, or begins as valgrind's messages do: ==PID==, --PID--, **PID**."""
    cdef uint8_t mark = at[0]
    if mark == c"\n" or (mark == c"\r" and at[1] == c"\n"):
        return True
    if (mark != c"=" and mark != c"-" and mark != c"*") or at[1] != mark:
        return False
    at += 2
    if at[0] < c"0" or at[0] > c"9":
        return False
    while at[0] >= c"0" and at[0] <= c"9":
        at += 1
    return at[0] == mark and at[1] == mark


@cython.final
cdef class LackeyLines:
    def scan(self, const uint8_t[::1] text, Py_ssize_t at, Py_ssize_t end, chunk, Py_ssize_t made):
        if not 0 <= at <= end <= text.shape[0] - LONGEST:
            raise ValueError(f"no {LONGEST} bytes after text[{at}:{end}]")
        cdef uint64_t[::1] va = chunk.va
        cdef uint8_t[::1] kind = chunk.kind
        cdef uint32_t[::1] size = chunk.size
        cdef Py_ssize_t room = va.shape[0] - 1  # a line may be two accesses
        cdef Py_ssize_t lines = 0
        cdef const uint8_t* start = &text[0]
        cdef const uint8_t* line = start + at
        cdef const uint8_t* last
        cdef const uint8_t* rest
        cdef uint64_t address_found = 0, size_found = 0
        cdef int what, stop = NEEDS_TEXT
        with nogil:
            last = whole_lines(line, start + end)
            while line < last:
                if made >= room:
                    stop = CHUNK_FULL
                    break
                what = kind_of(line)
                if what == NO_RECORD:
                    if not is_remark(line):
                        stop = BAD_LINE
                        break
                    line = <const uint8_t*>memchr(line, c"\n", last - line) + 1
                    lines += 1
                    continue
                rest = address(line + 3, &address_found)
                if rest == NULL or rest[0] != c",":
                    stop = BAD_LINE
                    break
                rest = bytes_of(rest + 1, &size_found)
                if rest == NULL:
                    stop = BAD_LINE
                    break
                line = rest
                lines += 1
                va[made] = address_found
                size[made] = <uint32_t>size_found
                kind[made] = LOAD if what == MODIFY else what
                made += 1
                if what == MODIFY:
                    va[made] = address_found
                    size[made] = <uint32_t>size_found
                    kind[made] = STORE
                    made += 1
        return line - start, made, lines, stop


cdef inline uint8_t* put_hexadecimal(uint8_t* at, uint64_t value) noexcept nogil:
    """Write at least 8 digits, as lackey does; return what follows them."""
    cdef const char* digits = "0123456789abcdef"
    cdef int count = 8
    cdef int n
    while count < 16 and value >> (4 * count):
        count += 1
    for n in range(count):
        at[count - 1 - n] = <uint8_t>digits[value & 15]
        value >>= 4
    return at + count


cdef inline uint8_t* put_decimal(uint8_t* at, uint32_t value) noexcept nogil:
    cdef int count = 1
    cdef uint32_t above = value // 10
    cdef int n
    while above:
        above //= 10
        count += 1
    for n in range(count):
        at[count - 1 - n] = <uint8_t>(c"0" + value % 10)
        value //= 10
    return at + count


def format_lines(
    const uint64_t[::1] va, const uint8_t[::1] kind, const uint32_t[::1] size, uint8_t[::1] text
):
    cdef Py_ssize_t count = va.shape[0]
    cdef Py_ssize_t n
    if kind.shape[0] != count or size.shape[0] != count:
        raise ValueError("the columns are not of one length")
    if text.shape[0] < LONGEST * count:
        raise ValueError(f"{count} lines need {LONGEST * count} bytes, not {text.shape[0]}")
    if count == 0:
        return 0
    cdef uint8_t* start = &text[0]
    cdef uint8_t* at = start
    with nogil:
        for n in range(count):
            at[0] = c"I" if kind[n] == FETCH else c" "
            at[1] = c" " if kind[n] == FETCH else (c"S" if kind[n] == STORE else c"L")
            at[2] = c" "
            at = put_hexadecimal(at + 3, va[n])
            at[0] = c","
            at = put_decimal(at + 1, size[n])
            at[0] = c"\n"
            at += 1
    return at - start

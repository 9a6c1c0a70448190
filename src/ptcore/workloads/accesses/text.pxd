"""How numbers are read out of text: no function looks beyond `end`, unless it says so."""

from libc.stdint cimport uint8_t, uint64_t

cdef extern from *:
    """
    /* One more than the value of each hexadecimal digit; 0 for everything else. */
    static const unsigned char ptcore_digit[256] = {
        ['0'] = 1, ['1'] = 2, ['2'] = 3, ['3'] = 4, ['4'] = 5, ['5'] = 6, ['6'] = 7, ['7'] = 8,
        ['8'] = 9, ['9'] = 10, ['a'] = 11, ['b'] = 12, ['c'] = 13, ['d'] = 14, ['e'] = 15,
        ['f'] = 16, ['A'] = 11, ['B'] = 12, ['C'] = 13, ['D'] = 14, ['E'] = 15, ['F'] = 16,
    };
    """
    const unsigned char[256] ptcore_digit

# The values of lines.Stop.
cdef enum:
    NEEDS_TEXT = 0
    CHUNK_FULL = 1
    BAD_LINE = 2

# The values of chunks.AccessKind.
cdef enum:
    LOAD = 0
    STORE = 1
    FETCH = 2


cdef inline const uint8_t* hexadecimal(
    const uint8_t* at, const uint8_t* end, uint64_t* value
) noexcept nogil:
    """Read 1 to 16 digits; return what follows them, or NULL."""
    cdef const uint8_t* first = at
    cdef uint64_t found = 0
    cdef unsigned int digit
    while at < end:
        digit = ptcore_digit[at[0]]
        if digit == 0:
            break
        found = found << 4 | (digit - 1)
        at += 1
    value[0] = found
    if at == first or at - first > 16:
        return NULL
    return at


cdef inline const uint8_t* decimal(
    const uint8_t* at, const uint8_t* end, uint64_t* value
) noexcept nogil:
    """Read 1 to 19 digits; return what follows them, or NULL."""
    cdef const uint8_t* first = at
    cdef uint64_t found = 0
    while at < end and at[0] >= c"0" and at[0] <= c"9":
        found = found * 10 + (at[0] - c"0")
        at += 1
    value[0] = found
    if at == first or at - first > 19:
        return NULL
    return at


cdef inline const uint8_t* spaces(const uint8_t* at, const uint8_t* end) noexcept nogil:
    """Return the first place from `at` on that holds no space."""
    while at < end and at[0] == c" ":
        at += 1
    return at


cdef inline const uint8_t* word(const uint8_t* at, const uint8_t* end) noexcept nogil:
    """Return the first place from `at` on that holds a space, or `end`."""
    while at < end and at[0] != c" ":
        at += 1
    return at


cdef inline bint begins(
    const uint8_t* at, const uint8_t* end, const char* text
) noexcept nogil:
    """Whether `text` stands at `at`."""
    while text[0] != 0:
        if at >= end or at[0] != <uint8_t>text[0]:
            return False
        at += 1
        text += 1
    return True


cdef inline const uint8_t* holds(
    const uint8_t* at, const uint8_t* end, const char* text
) noexcept nogil:
    """Return what follows the first `text` from `at` on, or NULL."""
    cdef Py_ssize_t length = 0
    while text[length] != 0:
        length += 1
    while at < end:
        if begins(at, end, text):
            return at + length
        at += 1
    return NULL


cdef inline const uint8_t* whole_lines(const uint8_t* at, const uint8_t* end) noexcept nogil:
    """Return what follows the last newline before `end`; `at` when there is none."""
    while end > at and (end - 1)[0] != c"\n":
        end -= 1
    return end


cdef inline const uint8_t* trimmed(const uint8_t* at, const uint8_t* end) noexcept nogil:
    """Return the end of a line without its carriage return."""
    return end - 1 if end > at and (end - 1)[0] == c"\r" else end

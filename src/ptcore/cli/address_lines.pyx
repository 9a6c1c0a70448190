"""Addresses in text, and translations as text, at the speed of a pipe."""

from cpython.bytes cimport PyBytes_FromStringAndSize
from libc.stdint cimport uint8_t, uint64_t
from libc.string cimport memcpy

import numpy as np

from ptcore.errors import AddressError

cdef int LONGEST_NUMBER = 18  # 0x and sixteen digits
cdef uint64_t ALL_ONES = <uint64_t>-1


cdef int digit_of(char c) noexcept nogil:
    if c >= c"0" and c <= c"9":
        return c - c"0"
    if c >= c"a" and c <= c"f":
        return c - c"a" + 10
    if c >= c"A" and c <= c"F":
        return c - c"A" + 10
    return 99


cdef int read_number(const char *text, size_t end, size_t *at, uint64_t *number) noexcept nogil:
    """Read a decimal or 0x-hexadecimal number; 0 unless one of 64 bits stands at `at`."""
    cdef uint64_t value = 0, radix = 10
    cdef size_t start
    cdef int digit
    if end - at[0] > 2 and text[at[0]] == c"0" and text[at[0] + 1] in (c"x", c"X"):
        radix = 16
        at[0] += 2
    start = at[0]
    while at[0] < end:
        digit = digit_of(text[at[0]])
        if digit >= <int>radix:
            break
        if value > (ALL_ONES - <uint64_t>digit) // radix:
            return 0
        value = value * radix + <uint64_t>digit
        at[0] += 1
    number[0] = value
    return at[0] > start


def parse(bytes text not None, uint64_t line):
    cdef const char *chars = text
    cdef size_t end = len(text), at = 0, count = 0
    cdef uint64_t number = 0
    numbers = np.empty(text.count(b"\n") + 1, dtype=np.uint64)
    cdef uint64_t[::1] out = numbers
    cdef size_t line_start = 0
    while at < end:
        line_start = at
        while at < end and chars[at] in (c" ", c"\t", c"\r"):
            at += 1
        if at < end and chars[at] not in (c"\n", c"#"):
            if not read_number(chars, end, &at, &number) or (
                at < end and chars[at] not in (c"\n", c",", c" ", c"\t", c"\r")
            ):
                shown = text[line_start:].split(b"\n")[0][:60].decode("utf-8", "replace")
                raise AddressError(f"line {line}: {shown!r} does not begin with a 64-bit address")
            out[count] = number
            count += 1
        while at < end and chars[at] != c"\n":
            at += 1
        at += 1
        line += 1
    return numbers[:count]


cdef char *put_hex(char *out, uint64_t number) noexcept nogil:
    cdef int shift = 0
    cdef int digit
    out[0] = c"0"
    out[1] = c"x"
    out += 2
    while shift < 60 and number >> (shift + 4):
        shift += 4
    while shift >= 0:
        digit = <int>(number >> shift) & 15
        out[0] = <char>(digit + (c"0" if digit < 10 else c"a" - 10))
        out += 1
        shift -= 4
    return out


cdef char *put(char *out, const char *text, size_t size) noexcept nogil:
    memcpy(out, text, size)
    return out + size


def lines(
    const uint64_t[::1] vas, const uint64_t[::1] pas, const uint8_t[::1] statuses, list names, tuple marks
):
    cdef bytes before = marks[0], between = marks[1], none = marks[2], quote = marks[3]
    cdef bytes then = marks[4], after = marks[5]
    cdef size_t n, count = vas.shape[0]
    cdef size_t longest = sum(len(mark) for mark in marks) + 2 * LONGEST_NUMBER + 2 * len(quote)
    longest += max(len(name) for name in names)
    cdef bytes name
    result = PyBytes_FromStringAndSize(NULL, count * longest)
    cdef char *start = result
    cdef char *out = start
    for n in range(count):
        out = put_hex(put(out, before, len(before)), vas[n])
        out = put(out, between, len(between))
        if statuses[n]:
            out = put(out, none, len(none))
        else:
            out = put(out, quote, len(quote))
            out = put_hex(out, pas[n])
            out = put(out, quote, len(quote))
        out = put(out, then, len(then))
        name = names[statuses[n]]
        out = put(out, name, len(name))
        out = put(out, after, len(after))
    return result[: out - start]

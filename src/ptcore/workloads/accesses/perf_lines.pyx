"""Scan the lines of perf script, and those of ftrace that say what perf script does."""

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
    spaces,
    trimmed,
    whole_lines,
    word,
)

cdef enum Found:
    BAD, NOTHING, ACCESS

cdef uint64_t LATEST_SECOND = 9_000_000_000  # in ns this fits 63 bits

cdef struct Access:
    uint64_t va
    int64_t time_ns
    int kind
    int cpu


cdef inline bint read_time(const uint8_t* at, const uint8_t* end, int64_t* time_ns) noexcept nogil:
    """Read SECONDS.FRACTION: with one to nine digits in the fraction."""
    cdef uint64_t seconds, fraction
    cdef const uint8_t* rest = decimal(at, end, &seconds)
    cdef Py_ssize_t digits
    if rest == NULL or rest >= end or rest[0] != c"." or seconds > LATEST_SECOND:
        return False
    at = rest + 1
    rest = decimal(at, end, &fraction)
    digits = rest - at
    if rest == NULL or digits > 9 or rest + 1 != end or rest[0] != c":":
        return False
    while digits < 9:
        fraction *= 10
        digits += 1
    time_ns[0] = <int64_t>(seconds * 1_000_000_000 + fraction)
    return True


cdef inline bint is_thread(const uint8_t* at, const uint8_t* end) noexcept nogil:
    """Whether a word is TID, PID/TID, or one of them of a thread that perf does not know, -1."""
    cdef uint64_t number
    if at < end and at[0] == c"-":
        at += 1
    at = decimal(at, end, &number)
    if at == NULL or at == end:
        return at == end
    if at[0] != c"/":
        return False
    at += 1
    if at < end and at[0] == c"-":
        at += 1
    return decimal(at, end, &number) == end


cdef inline bint ends_in_thread(const uint8_t* at, const uint8_t* end) noexcept nogil:
    """Whether a word is ftrace's COMMAND-TID."""
    cdef const uint8_t* digits = end
    while digits > at and c"0" <= (digits - 1)[0] <= c"9":
        digits -= 1
    return digits < end and digits > at + 1 and (digits - 1)[0] == c"-"


cdef inline bint is_group(const uint8_t* at, const uint8_t* end) noexcept nogil:
    """Whether a word is a part of ftrace's (TGID) or (-----)."""
    while at < end and (c"0" <= at[0] <= c"9" or at[0] == c"-" or at[0] == c"(" or at[0] == c")"):
        at += 1
    return at == end and (end - 1)[0] in (c"(", c")")


cdef const uint8_t* head(const uint8_t* at, const uint8_t* end, Access* access) noexcept nogil:
    """Read COMMAND TID [CPU] TIME: and return what follows, or NULL; COMMAND may hold spaces.

    Or ftrace's COMMAND-TID (TGID) [CPU] FLAGS TIME:.
    """
    cdef const uint8_t* digits
    cdef const uint8_t* rest
    cdef uint64_t cpu
    cdef bint thread = False  # whether the word before the one at hand is a TID, or what follows one
    cdef bint ftrace = False  # whether that TID was COMMAND-TID
    cdef bint flags = False  # whether [CPU] was just read, so that ftrace's flags may follow
    access.cpu = 0
    at = spaces(at, end)
    while at < end:
        rest = word(at, end)
        if thread and read_time(at, rest, &access.time_ns):
            return spaces(rest, end)
        if thread and at[0] == c"[":
            digits = decimal(at + 1, rest, &cpu)
            if digits != NULL and digits + 1 == rest and digits[0] == c"]" and cpu <= 65535:
                access.cpu = <int>cpu
                flags = ftrace
                at = spaces(rest, end)
                continue
        if thread and flags or (ftrace and is_group(at, rest)):
            flags = False
            at = spaces(rest, end)
            continue
        access.cpu = 0
        ftrace = ends_in_thread(at, rest)
        thread = ftrace or is_thread(at, rest)
        at = spaces(rest, end)
    return NULL


cdef bint named(const uint8_t* at, const uint8_t* end, const char* text) noexcept nogil:
    return holds(at, end, text) != NULL


cdef Found traced_fault(const uint8_t* at, const uint8_t* end, Access* access) noexcept nogil:
    """Read the fields of the tracepoint page_fault_user: address=, ip=, error_code=."""
    cdef uint64_t code
    at += 8
    at = hexadecimal(at + 2 if begins(at, end, "0x") else at, end, &access.va)
    if at == NULL or at >= end or at[0] != c" ":
        return BAD
    at = holds(at, end, " error_code=0x")
    if at == NULL or hexadecimal(at, end, &code) == NULL:
        return BAD
    # Linux arch/x86/include/asm/trap_pf.h: X86_PF_WRITE is bit 1, X86_PF_INSTR bit 4.
    access.kind = FETCH if code >> 4 & 1 else (STORE if code >> 1 & 1 else LOAD)
    return ACCESS


cdef Found sample(
    const uint8_t* event, const uint8_t* event_end, const uint8_t* end, Access* access
) noexcept nogil:
    """Read what follows the event's name: ADDRESS IP, or ADDRESS DATA_SRC |OP ...|."""
    cdef const uint8_t* at = spaces(event_end, end)
    cdef const uint8_t* rest
    cdef const uint8_t* operation
    cdef uint64_t second
    cdef bint fault = named(event, event_end, "fault")
    if fault and begins(at, end, "address="):
        return traced_fault(at, end, access)
    operation = holds(at, end, "|OP ")
    if operation != NULL:
        if begins(operation, end, "LOAD"):
            access.kind = LOAD
        elif begins(operation, end, "STORE"):
            access.kind = STORE
        elif begins(operation, end, "EXEC"):
            access.kind = FETCH
        else:
            return NOTHING  # a prefetch, or no access
    elif fault:
        access.kind = LOAD
    elif named(event, event_end, "store"):
        access.kind = STORE
    elif named(event, event_end, "load"):
        access.kind = LOAD
    else:
        return NOTHING  # an event that is no access
    rest = hexadecimal(at, end, &access.va)
    if rest == NULL or rest >= end or rest[0] != c" ":
        return BAD
    at = spaces(rest, end)
    rest = hexadecimal(at, end, &second)
    # Without the second number, the first may be the ip of a recording without addresses.
    if rest == NULL or (rest < end and rest[0] != c" "):
        return BAD
    if fault:
        access.kind = FETCH if second == access.va else LOAD
        return ACCESS
    return ACCESS if access.va else NOTHING  # the hardware knew no address


cdef Found read_line(const uint8_t* at, const uint8_t* end, Access* access) noexcept nogil:
    cdef const uint8_t* event
    cdef const uint8_t* rest
    cdef uint64_t period
    if spaces(at, end) == end or at[0] == c"#" or at[0] == c"\t":
        return NOTHING  # empty, a header, or a line of a call chain
    event = head(at, end, access)
    if event == NULL:
        return BAD
    rest = word(event, end)
    if decimal(event, rest, &period) == rest:
        event = spaces(rest, end)
        rest = word(event, end)
    if begins(event, rest, "PERF_RECORD_"):
        return NOTHING
    if event == rest or (rest - 1)[0] != c":":
        return BAD
    return sample(event, rest, end, access)


@cython.final
cdef class PerfLines:
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
                found = read_line(line, trimmed(line, ends), &access)
                if found == BAD:
                    stop = BAD_LINE
                    break
                line = ends + 1
                lines += 1
                if found == ACCESS:
                    va[made] = access.va
                    kind[made] = access.kind
                    size[made] = 0
                    cpu[made] = access.cpu
                    time_ns[made] = access.time_ns
                    made += 1
        return line - start, made, lines, stop

"""Lives of allocations become steps: random numbers one at a time, and rows in order of time."""

cimport cython
from cpython.pycapsule cimport PyCapsule_GetPointer
from libc.stdint cimport int16_t, int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport free, realloc

import operator

import numpy as np

from ptcore.workloads.steps import MEMORY_TYPES, MODES, SENSITIVE, STEP_DTYPE, StepKind

# NumPy's documentation, "C API for random": what is in a BitGenerator's capsule (numpy/random/bitgen.h).
cdef struct BitGenerator:
    void *state
    uint64_t (*next_uint64)(void *) noexcept nogil
    uint32_t (*next_uint32)(void *) noexcept nogil
    double (*next_double)(void *) noexcept nogil
    uint64_t (*next_raw)(void *) noexcept nogil


cdef packed struct Step:
    # As STEP_DTYPE.
    int64_t time_ns
    uint8_t kind
    int16_t cpu
    int64_t area
    int64_t pages
    int64_t align
    uint8_t device
    uint8_t memory
    int64_t first
    uint8_t mode

assert STEP_DTYPE.itemsize == sizeof(Step)

cdef uint8_t ACQUIRE = StepKind.ACQUIRE
cdef uint8_t RELEASE = StepKind.RELEASE
cdef uint8_t ACCESS = StepKind.ACCESS


@cython.final
cdef class Draws:
    cdef readonly object exponential
    cdef readonly object geometric
    cdef readonly object zipf
    cdef object generator
    cdef BitGenerator *bits

    def __init__(self, seed):
        self.generator = np.random.default_rng(seed)
        self.exponential = self.generator.exponential
        self.geometric = self.generator.geometric
        self.zipf = self.generator.zipf
        self.bits = <BitGenerator *>PyCapsule_GetPointer(self.generator.bit_generator.capsule, "BitGenerator")

    cdef int64_t below(self, uint64_t end) noexcept nogil:
        """A number below `end`, of 32 bits and not 0.

        D. Lemire, "Fast Random Integer Generation in an Interval", 2019: the upper half of a product, drawn
        again where the lower half is among the few that would come too often. As NumPy, 1 draws nothing.
        """
        cdef uint64_t product, few
        if end == 1:
            return 0
        product = self.bits.next_uint32(self.bits.state) * end
        if <uint32_t>product < end:
            few = (((<uint64_t>1) << 32) - end) % end
            while <uint32_t>product < few:
                product = self.bits.next_uint32(self.bits.state) * end
        return <int64_t>(product >> 32)

    def integers(self, int64_t low, high=None):
        cdef int64_t end
        if high is None:
            low, end = 0, low
        else:
            end = high
        if low < end and <uint64_t>end - <uint64_t>low < (<uint64_t>1) << 32:
            return low + self.below(<uint64_t>end - <uint64_t>low)
        return int(self.generator.integers(low, end))

    def random(self):
        return self.bits.next_double(self.bits.state)

    cdef int16_t cpu_of(self, object asked, int16_t own, uint32_t cpus) except -1:
        """None is one's own CPU, below 0 any."""
        cdef int64_t number
        if asked is None:
            return own
        number = asked
        return <int16_t>(self.below(cpus) if number < 0 else number % cpus)


@cython.final
cdef class _Plan:
    """Steps in the order in which they are planned."""

    cdef Step *steps
    cdef size_t used, room

    def __dealloc__(self):
        free(self.steps)

    cdef Step *add(self, const Step *like) except NULL:
        cdef Step *grown
        cdef size_t room
        if self.used == self.room:
            room = 2 * self.room if self.room else 1024
            grown = <Step *>realloc(self.steps, room * sizeof(Step))
            if grown == NULL:
                raise MemoryError()
            self.steps = grown
            self.room = room
        self.steps[self.used] = like[0]
        self.used += 1
        return &self.steps[self.used - 1]

    cdef int live(self, Draws draws, object life, int64_t now, int64_t number, uint32_t cpus) except -1:
        """Plan an allocation that comes `now`, its uses, and its end."""
        cdef Step all_, *step
        cdef int64_t end, after_ns
        after_ns, lives_ns, pages, device, memory, align, uses, cpu, freed_on, sensitive = life
        cpu = draws.cpu_of(-1 if cpu is None else cpu, 0, cpus)
        memory = SENSITIVE if sensitive else MEMORY_TYPES.index(memory)
        all_ = Step(now, ACQUIRE, cpu, number, pages, align, bool(device), memory, 0, 0)
        self.add(&all_)
        end = now + <int64_t>lives_ns
        all_.kind = ACCESS
        for after_ns, first, pages, mode, asked in uses:
            step = self.add(&all_)
            # What would come after the end comes with it.
            step.time_ns = min(now + after_ns, end)
            step.first, step.pages, step.mode = first, pages, MODES.index(mode)
            step.cpu = draws.cpu_of(asked, all_.cpu, cpus)
        step = self.add(&all_)
        step.kind, step.time_ns = RELEASE, end
        step.cpu = draws.cpu_of(-1 if freed_on is None else freed_on, all_.cpu, cpus)
        return 0

    cdef object by_time(self):
        """The rows by time; of two at one time the one that was planned first."""
        cdef Step *out
        cdef const int64_t[::1] order
        cdef int64_t[::1] times = np.empty(self.used, dtype=np.int64)
        cdef uint8_t[::1] bytes_
        cdef size_t n
        for n in range(self.used):
            times[n] = self.steps[n].time_ns
        order = np.argsort(times, kind="stable").astype(np.int64, copy=False)
        rows = np.empty(self.used, dtype=STEP_DTYPE)
        if self.used:
            bytes_ = rows.view(np.uint8)
            out = <Step *>&bytes_[0]
            for n in range(self.used):
                out[n] = self.steps[order[n]]
        return rows


def steps_of_lives(lives, Draws draws, cpus):
    cdef _Plan plan = _Plan()
    cdef int64_t now = 0, number = 0
    cdef uint32_t count = operator.index(cpus)
    for life in lives:
        now += <int64_t>life[0]
        plan.live(draws, life, now, number, count)
        number += 1
    return plan.by_time()

"""An append-only list of what happened."""

cimport cython
from libc.stdint cimport int16_t, int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport free, realloc
from libc.string cimport memset

import json
import zipfile

import numpy as np

from ptcore.errors import TraceError
from ptcore.machine.events import Event

ROW_DTYPE = np.dtype(
    [
        ("time_ns", "<i8"),
        ("first", "<u8"),
        ("last", "<u8"),
        ("pa", "<u8"),
        ("count", "<i8"),
        ("cpus", "<u4"),
        ("cpu", "<i2"),
        ("event", "u1"),
        ("unused", "u1"),
    ]
)


@cython.final
cdef class Ledger:
    def __cinit__(self):
        self.sets = [frozenset()]
        self.set_numbers = {frozenset(): 0}

    def __dealloc__(self):
        free(self.data)

    def append(self, event, time_ns, cpu, count=0, *, first=0, last=0, pa=0, cpus=frozenset()):
        cdef LedgerRow *grown
        cdef LedgerRow *row
        cdef size_t room
        if time_ns < self.last_time:
            raise ValueError(f"time {time_ns} is before {self.last_time}: a ledger only goes on")
        if self.used == self.room:
            room = 2 * self.room if self.room else 256
            grown = <LedgerRow *>realloc(self.data, room * sizeof(LedgerRow))
            if grown == NULL:
                raise MemoryError()
            self.data = grown
            self.room = room
        named = frozenset(cpus)
        number = self.set_numbers.get(named, len(self.sets))
        row = &self.data[self.used]
        memset(row, 0, sizeof(LedgerRow))
        row.time_ns = time_ns
        row.first = first
        row.last = last
        row.pa = pa
        row.count = count
        row.cpus = number
        row.cpu = cpu
        row.event = int(event)
        # All values fitted: only now is there a row, and perhaps a new set.
        if number == len(self.sets):
            self.sets.append(named)
            self.set_numbers[named] = number
        self.used += 1
        self.last_time = row.time_ns

    def rows(self):
        if not self.used:
            return np.empty(0, dtype=ROW_DTYPE)
        size = self.used * sizeof(LedgerRow)
        return np.frombuffer((<char *>self.data)[:size], dtype=ROW_DTYPE).copy()

    def cpu_set(self, number):
        return self.sets[number]

    def totals(self, first_row=0):
        rows = self.rows()[first_row:]
        sums = np.zeros(max(Event) + 1, dtype=np.int64)
        np.add.at(sums, rows["event"], rows["count"])
        numbers = np.bincount(rows["event"], minlength=len(sums))
        return {event: (int(numbers[event]), int(sums[event])) for event in Event}

    def save(self, file):
        sets = json.dumps([sorted(cpus) for cpus in self.sets])
        np.savez_compressed(file, rows=self.rows(), cpu_sets=np.array(sets))

    @classmethod
    def load(cls, file):
        cdef Ledger ledger = cls()
        try:
            with np.load(file) as parts:
                rows, sets = parts["rows"], json.loads(str(parts["cpu_sets"]))
        except (AttributeError, EOFError, KeyError, TypeError, ValueError, zipfile.BadZipFile) as error:
            raise TraceError(f"{file} is no ledger: {error}") from None
        if rows.dtype != ROW_DTYPE:
            raise TraceError(f"{file} holds rows of another kind: {rows.dtype}")
        try:
            for row in rows:
                ledger.append(
                    Event(int(row["event"])),
                    int(row["time_ns"]),
                    int(row["cpu"]),
                    int(row["count"]),
                    first=int(row["first"]),
                    last=int(row["last"]),
                    pa=int(row["pa"]),
                    cpus=frozenset(sets[row["cpus"]]),
                )
        except (IndexError, KeyError, TypeError, ValueError) as error:
            raise TraceError(f"{file}: row {len(ledger)} is no row of a ledger: {error}") from None
        return ledger

    def __len__(self):
        return self.used

"""An append-only list of what happened."""

cimport cython
from libc.stdint cimport int16_t, int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport free, realloc
from libc.string cimport memcpy, memset

import json
import operator
import os
import zipfile
from pathlib import Path

import numpy as np

from ptcore.errors import OutOfRange, TraceError
from ptcore.machine.events import Event
from ptcore.machine.ledger_files import (
    REPEAT_DTYPE,
    ROW_DTYPE,
    Part,
    TemporaryFolder,
    check_rows,
    form_of,
    part_files,
    part_name,
    read_part,
    weights_of,
    whole_file,
    write_part,
)

CHUNK_ROWS = 1 << 16


cdef struct Cursor:
    # Where a reader of stored rows stands: the row, the repeat that it is in or comes to, and which time.
    size_t at
    size_t repeat
    uint64_t turn


cdef struct Stored:
    LedgerRow *rows
    size_t count
    Repeat *repeats
    size_t repeats_count
    uint64_t before


cdef size_t read_on(const Stored *s, Cursor *c, LedgerRow *out, size_t room, const uint8_t *wanted) noexcept nogil:
    """Write out what happened from the cursor on, wanted events alone; return how many rows."""
    cdef size_t n = 0
    cdef const LedgerRow *row
    cdef const Repeat *repeat
    cdef uint64_t gone
    while n < room and c.at < s.count:
        row = &s.rows[c.at]
        repeat = NULL
        gone = 0
        if c.repeat < s.repeats_count and c.at + s.before >= s.repeats[c.repeat].at:
            repeat = &s.repeats[c.repeat]
            gone = c.turn * <uint64_t>repeat.step
        if wanted[row.event]:
            out[n] = row[0]
            out[n].page_lg2 &= PAGE_LG2
            if row.page_lg2 & MOVES_ADDRESS:
                out[n].first += gone
                out[n].last += gone
            if row.page_lg2 & MOVES_FRAME:
                out[n].pa += gone
            n += 1
        c.at += 1
        if repeat != NULL and c.at + s.before == repeat.at + repeat.period:
            c.turn += 1
            if c.turn < repeat.times:
                c.at -= repeat.period
            else:
                c.turn = 0
                c.repeat += 1
    return n


cdef uint64_t skip(const Stored *s, Cursor *c, uint64_t rows, int64_t *numbers, int64_t *sums) noexcept nogil:
    """Move the cursor on by as many rows as there are, and count them by event; return how many are left."""
    cdef const Repeat *repeat
    cdef uint64_t whole, n, times
    while rows and c.at < s.count:
        times = 1
        n = 1
        repeat = NULL
        if c.repeat < s.repeats_count and c.at + s.before >= s.repeats[c.repeat].at:
            repeat = &s.repeats[c.repeat]
            whole = min(rows // repeat.period, repeat.times - c.turn)
            if c.at + s.before == repeat.at and whole:
                n = repeat.period
                times = whole
        rows -= n * times
        for whole in range(n):
            numbers[s.rows[c.at + whole].event] += <int64_t>times
            sums[s.rows[c.at + whole].event] += <int64_t>times * s.rows[c.at + whole].count
        c.at += n
        if repeat != NULL and c.at + s.before == repeat.at + repeat.period:
            c.turn += times
            if c.turn < repeat.times:
                c.at -= repeat.period
            else:
                c.turn = 0
                c.repeat += 1
    return rows


cdef class _Reader:
    """Reads what happened out of a part, repeats said in full."""

    cdef Stored stored
    cdef Cursor at
    cdef object held
    cdef uint8_t wanted[256]

    def __cinit__(self, part, ahead, events):
        cdef const uint8_t[::1] rows = part.rows.view(np.uint8)
        cdef const uint8_t[::1] repeats = part.repeats.view(np.uint8)
        cdef int64_t numbers[256]
        cdef int64_t sums[256]
        self.held = part
        self.stored = Stored(NULL, len(part.rows), NULL, len(part.repeats), part.before)
        if rows.shape[0]:
            self.stored.rows = <LedgerRow *>&rows[0]
        if repeats.shape[0]:
            self.stored.repeats = <Repeat *>&repeats[0]
        self.at = Cursor(0, 0, 0)
        memset(self.wanted, 0, sizeof(self.wanted))
        for event in range(256) if events is None else events:
            self.wanted[<uint8_t>int(event)] = 1
        if ahead:
            skip(&self.stored, &self.at, ahead, numbers, sums)

    def stored_row(self):
        """The number in the part of the stored row that comes next."""
        return self.at.at

    def rest_of_repeat(self):
        """The rows up to the end of the repeat that it stands in the midst of; none where it does not."""
        cdef uint8_t[::1] out
        cdef const Repeat *repeat
        cdef size_t left, inside
        if self.at.repeat == self.stored.repeats_count:
            return np.empty(0, dtype=ROW_DTYPE)
        repeat = &self.stored.repeats[self.at.repeat]
        if self.at.at + self.stored.before < repeat.at:
            return np.empty(0, dtype=ROW_DTYPE)
        inside = self.at.at + self.stored.before - repeat.at
        if self.at.turn == 0 and inside == 0:
            return np.empty(0, dtype=ROW_DTYPE)
        left = (repeat.times - self.at.turn) * repeat.period - inside
        rows = np.empty(left, dtype=ROW_DTYPE)
        out = rows.view(np.uint8)
        read_on(&self.stored, &self.at, <LedgerRow *>&out[0], left, self.wanted)
        return rows

    def chunks(self, size_t most):
        cdef uint8_t[::1] out
        cdef size_t found
        while True:
            rows = np.empty(most, dtype=ROW_DTYPE)
            out = rows.view(np.uint8)
            found = read_on(&self.stored, &self.at, <LedgerRow *>&out[0], most, self.wanted)
            if found:
                yield rows[:found]
            if found < most:
                return


@cython.final
cdef class Ledger:
    def __cinit__(self):
        self.sets = [frozenset()]
        self.set_numbers = {frozenset(): 0}
        self.files = []

    def __init__(self, *, limit_rows=None, spill=None, form=None):
        if limit_rows is None:
            return
        if operator.index(limit_rows) < 1:
            raise OutOfRange(f"a ledger keeps at least one row in memory, not {limit_rows}")
        self.form = form_of(form)
        self.limit = limit_rows
        if spill is not None:
            self.folder = Path(spill)
            if self.folder.exists() and any(self.folder.iterdir()):
                raise TraceError(f"{spill} is not empty: parts of a ledger stand in a folder of their own")

    def __dealloc__(self):
        free(self.data)
        free(self.repeats)

    # -- writing -----------------------------------------------------------------------------

    cdef LedgerRow *new_row(self) except NULL:
        """A cleared row at the end; it counts from the moment that `used` does."""
        cdef LedgerRow *grown
        cdef size_t room
        if self.limit and self.used >= self.limit:
            self._spill()
        if self.used == self.room:
            room = 2 * self.room if self.room else 256
            grown = <LedgerRow *>realloc(self.data, room * sizeof(LedgerRow))
            if grown == NULL:
                raise MemoryError()
            self.data = grown
            self.room = room
        return &self.data[self.used]

    cdef int put(
        self, uint8_t event, int64_t time_ns, int16_t cpu, int64_t count, uint64_t first, uint64_t last,
        uint64_t pa, uint32_t cpus
    ) except -1:
        cdef LedgerRow *row
        if time_ns < self.last_time:
            raise ValueError(f"time {time_ns} is before {self.last_time}: a ledger only goes on")
        row = self.new_row()
        row[0] = LedgerRow(time_ns, first, last, pa, count, cpus, cpu, event, 0)
        self.used += 1
        self.length += 1
        self.last_time = time_ns
        self.numbers[event] += 1
        self.sums[event] += count
        return 0

    cdef void sized(self, unsigned page_lg2) noexcept:
        """Say of the last row which leaves it is about."""
        self.data[self.used - 1].page_lg2 = <uint8_t>page_lg2

    cdef uint32_t number_of(self, frozenset cpus):
        """The number of a set of CPUs; a new one where the ledger has not named it yet."""
        number = self.set_numbers.get(cpus)
        if number is None:
            number = len(self.sets)
            self.sets.append(cpus)
            self.set_numbers[cpus] = number
        return number

    cdef uint64_t mark(self) noexcept:
        """Where the next stored row will stand."""
        return self.before + self.used

    cdef bint repeats_row(self, const LedgerRow *a, const LedgerRow *b, uint64_t step, uint8_t *moves) noexcept:
        """Whether `b` says what `a` does, `step` bytes on where it moves; *moves is what does."""
        if (
            a.event != b.event or a.count != b.count or a.cpu != b.cpu or a.cpus != b.cpus
            or a.time_ns != b.time_ns or b.last - a.last != b.first - a.first or (a.page_lg2 ^ b.page_lg2) & PAGE_LG2
        ):
            return False
        moves[0] = b.page_lg2
        if b.first != a.first:
            if b.first - a.first != step:
                return False
            moves[0] |= MOVES_ADDRESS
        if b.pa != a.pa:
            if b.pa - a.pa != step:
                return False
            moves[0] |= MOVES_FRAME
        return True

    cdef bint fold(self, uint64_t start, uint64_t mark, int64_t step) except -1:
        """Store the rows from `mark` on as one more time of those before them, if they are that.

        `start`: the first row that may be taken for it. What the ledger says is the same as before. Returns
        whether it did so. O(rows).
        """
        cdef size_t period = self.before + self.used - mark, n
        cdef uint64_t times = 1
        cdef uint8_t moves[16]
        cdef Repeat *last = NULL
        cdef LedgerRow *old
        cdef LedgerRow *new
        if period == 0 or period > 16 or mark < start + period or mark < self.before + period:
            return 0
        new = &self.data[mark - self.before]
        old = new - period
        if self.repeats_used:
            last = &self.repeats[self.repeats_used - 1]
            if last.at + last.period > mark - period:
                if last.at + last.period != mark or last.period != period or last.step != step:
                    return 0
                times = last.times
            else:
                last = NULL
        for n in range(period):
            if not self.repeats_row(&old[n], &new[n], times * <uint64_t>step, &moves[n]):
                return 0
            if last != NULL and moves[n] != old[n].page_lg2:
                return 0
        if last == NULL:
            last = self.new_repeat()
            last[0] = Repeat(mark - period, 1, step, <uint32_t>period, 0)
            for n in range(period):
                old[n].page_lg2 = moves[n]
        last.times += 1
        self.used -= period
        return 1

    cdef void again(self, uint64_t times) noexcept:
        """The rows that were folded last, and after which there are none, happened so many times more."""
        cdef Repeat *last = &self.repeats[self.repeats_used - 1]
        cdef const LedgerRow *rows = &self.data[last.at - self.before]
        cdef uint32_t n
        for n in range(last.period):
            self.numbers[rows[n].event] += <int64_t>times
            self.sums[rows[n].event] += <int64_t>times * rows[n].count
        last.times += times
        self.length += times * last.period

    cdef Repeat *new_repeat(self) except NULL:
        cdef Repeat *grown
        cdef size_t room
        if self.repeats_used == self.repeats_room:
            room = 2 * self.repeats_room if self.repeats_room else 64
            grown = <Repeat *>realloc(self.repeats, room * sizeof(Repeat))
            if grown == NULL:
                raise MemoryError()
            self.repeats = grown
            self.repeats_room = room
        self.repeats_used += 1
        return &self.repeats[self.repeats_used - 1]

    def append(self, event, time_ns, cpu, count=0, *, first=0, last=0, pa=0, cpus=frozenset()):
        cdef LedgerRow row
        named = frozenset(cpus)
        # All values are looked at before there is a row, and perhaps a new set.
        row = LedgerRow(time_ns, first, last, pa, count, 0, cpu, int(event), 0)
        if row.time_ns < self.last_time:
            raise ValueError(f"time {time_ns} is before {self.last_time}: a ledger only goes on")
        self.new_row()
        row.cpus = self.number_of(named)
        self.put(row.event, row.time_ns, row.cpu, row.count, row.first, row.last, row.pa, row.cpus)

    def _spill(self):
        """Make a part on disk of what is in memory; it stays in memory when that fails."""
        if self.folder is None:
            self.temporary = TemporaryFolder()
            self.folder = self.temporary.path
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / part_name(len(self.files), self.form)
        write_part(path, self._in_memory(), self._sets())
        self.files.append((path, int(self.length - self.length_before)))
        self.before += self.used
        self.length_before = self.length
        self.used = self.repeats_used = 0

    def _in_memory(self):
        length = int(self.length - self.length_before)
        return Part(self._rows_in_memory(), self._repeats_in_memory(), int(self.before), length)

    def _sets(self):
        return [sorted(cpus) for cpus in self.sets]

    # -- reading -----------------------------------------------------------------------------

    def parts(self):
        for path, _ in tuple(self.files):
            yield read_part(path)[0]
        if self.used:
            yield self._in_memory()

    def _rows_in_memory(self):
        cdef uint8_t[::1] out
        rows = np.empty(self.used, dtype=ROW_DTYPE)
        if self.used:
            out = rows.view(np.uint8)
            memcpy(&out[0], self.data, self.used * sizeof(LedgerRow))
        return rows

    def _repeats_in_memory(self):
        cdef uint8_t[::1] out
        repeats = np.empty(self.repeats_used, dtype=REPEAT_DTYPE)
        if self.repeats_used:
            out = repeats.view(np.uint8)
            memcpy(&out[0], self.repeats, self.repeats_used * sizeof(Repeat))
        return repeats

    def chunks(self, first_row=0, *, events=None, most=CHUNK_ROWS):
        ahead = operator.index(first_row)
        for part in self.parts():
            if ahead < part.length:
                yield from _Reader(part, ahead, events).chunks(most)
            ahead = max(ahead - part.length, 0)

    def rows(self, first_row=0, *, events=None):
        found = list(self.chunks(first_row, events=events))
        return np.concatenate(found) if found else np.empty(0, dtype=ROW_DTYPE)

    def weighted(self, first_row=0):
        ahead = operator.index(first_row)
        for part in self.parts():
            if ahead == 0:
                yield part.rows, weights_of(part)
            elif ahead < part.length:
                reader = _Reader(part, ahead, None)
                rows = reader.rest_of_repeat()
                if len(rows):
                    yield rows, np.ones(len(rows), dtype=np.int64)
                at = reader.stored_row()
                if at < len(part.rows):
                    yield part.rows[at:], weights_of(part)[at:]
            ahead = max(ahead - part.length, 0)

    def cpu_set(self, number):
        return self.sets[number]

    @property
    def streamed(self):
        return bool(self.files)

    @property
    def rows_in_memory(self):
        return self.used

    @property
    def last_ns(self):
        return self.last_time

    def totals(self, first_row=0):
        cdef _Reader reader
        cdef int64_t numbers[256]
        cdef int64_t sums[256]
        memset(numbers, 0, sizeof(numbers))
        memset(sums, 0, sizeof(sums))
        # What is wanted is everything less what comes before, which is mostly short.
        ahead = min(operator.index(first_row), self.length)
        for part in self.parts() if ahead else ():
            reader = _Reader(part, 0, None)
            ahead = skip(&reader.stored, &reader.at, ahead, numbers, sums)
            if not ahead:
                break
        return {
            event: (self.numbers[<int>event] - numbers[<int>event], self.sums[<int>event] - sums[<int>event])
            for event in Event
        }

    def __len__(self):
        return self.length

    # -- files -------------------------------------------------------------------------------

    def close(self):
        if self.files and self.used and self.limit:
            self._spill()

    def save(self, file):
        if not self.files:
            with whole_file(file) as out:
                np.savez_compressed(
                    out,
                    rows=self._rows_in_memory(),
                    cpu_sets=np.array(json.dumps(self._sets())),
                    repeats=self._repeats_in_memory(),
                )
            return
        folder = Path(file)
        folder.mkdir(parents=True, exist_ok=True)
        if any(folder.iterdir()):
            raise TraceError(f"{file} is not empty: parts of a ledger stand in a folder of their own")
        for number, part in enumerate(self.parts()):
            write_part(folder / part_name(number, self.form or "npz"), part, self._sets())

    @classmethod
    def load(cls, file):
        cdef Ledger ledger = cls()
        if isinstance(file, str | os.PathLike) and os.path.isdir(file):
            ledger._take_parts(file)
            return ledger
        try:
            with np.load(file) as parts:
                rows, sets = parts["rows"], json.loads(str(parts["cpu_sets"]))
                repeats = parts["repeats"] if "repeats" in parts else np.empty(0, dtype=REPEAT_DTYPE)
        except (AttributeError, EOFError, KeyError, TypeError, ValueError, zipfile.BadZipFile) as error:
            # What NumPy says of other files is how to load them all the same.
            why = error if isinstance(error, KeyError) else "Ledger.save did not write it"
            raise TraceError(f"{file} is no ledger: {why}") from None
        ledger._take(file, rows, repeats, sets)
        return ledger

    def _take(self, file, rows, repeats, sets):
        """Have these rows, after a look at all of them; TraceError where one is none."""
        cdef const uint8_t[::1] bytes_
        check_rows(file, Part(rows, repeats, 0, 0), len(sets))
        for cpus in sets:
            self.number_of(frozenset(cpus))
        for n in range(len(rows)):
            self.new_row()
            self.used += 1
        for n in range(len(repeats)):
            self.new_repeat()
        if self.used:
            bytes_ = np.ascontiguousarray(rows).view(np.uint8)
            memcpy(self.data, &bytes_[0], self.used * sizeof(LedgerRow))
            self.last_time = rows["time_ns"][self.used - 1]
        if self.repeats_used:
            bytes_ = np.ascontiguousarray(repeats).view(np.uint8)
            memcpy(self.repeats, &bytes_[0], self.repeats_used * sizeof(Repeat))
        self.length = self.used + int((repeats["period"] * (repeats["times"] - 1)).sum())
        for rows, weights in self.weighted():
            self._count(rows, weights)

    def _take_parts(self, folder):
        """Have the rows of a folder of parts; they stay there. Raises TraceError where one is none."""
        for path in part_files(folder):
            part, sets = read_part(path)
            if part.before != self.before or len(part.rows) and part.rows["time_ns"][0] < self.last_time:
                raise TraceError(f"{path} does not go on where the part before it ended")
            for cpus in sets[len(self.sets) :]:
                self.number_of(frozenset(cpus))
            self.files.append((path, part.length))
            self.before += len(part.rows)
            self.length += part.length
            self.length_before = self.length
            if len(part.rows):
                self.last_time = part.rows["time_ns"][len(part.rows) - 1]
            self._count(part.rows, weights_of(part))

    def _count(self, rows, weights):
        for event in np.unique(rows["event"]).tolist():
            chosen = rows["event"] == event
            self.numbers[<int>event] += int(weights[chosen].sum())
            self.sums[<int>event] += int((weights[chosen] * rows["count"][chosen]).sum())

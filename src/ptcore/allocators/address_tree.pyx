"""Free address spans in a height-balanced tree, augmented with the largest span below each node."""

cimport cython
from libc.stdint cimport int32_t, uint64_t
from libc.stdlib cimport free, realloc

import operator

import numpy as np

from ptcore.errors import AddressError, AlreadyMapped, NoAddressSpace, NotAllocated, OutOfRange
from ptcore.units import ALL_ONES, format_size, parse_size

cdef int32_t NIL = -1
cdef int32_t FIRST_ROOM = 64


@cython.final
cdef class AddressTree:
    def __cinit__(self):
        self.root = NIL
        self.unused = NIL

    def __init__(self, first, last):
        low, high = operator.index(first), operator.index(last)
        if not 0 <= low <= high <= ALL_ONES:
            raise OutOfRange(f"no addresses run from {low:#x} to {high:#x}")
        if self.nodes != NULL:
            raise TypeError("an AddressTree is made once")
        self.first = low
        self.last = high
        self.root = self.take_node(low, high)

    def __dealloc__(self):
        free(self.nodes)

    # -- nodes -------------------------------------------------------------------------------

    cdef int32_t take_node(self, uint64_t start, uint64_t last) except -1:
        cdef int32_t n = self.unused
        cdef Node *grown
        cdef int32_t room
        if n != NIL:
            self.unused = self.nodes[n].left
        else:
            if self.used == self.room:
                room = 2 * self.room if self.room else FIRST_ROOM
                grown = <Node *>realloc(self.nodes, room * sizeof(Node))
                if grown == NULL:
                    raise MemoryError()
                self.nodes = grown
                self.room = room
            n = self.used
            self.used += 1
        self.nodes[n] = Node(start, last, last - start, NIL, NIL, 1)
        self.count += 1
        return n

    cdef void drop_node(self, int32_t n) noexcept:
        self.nodes[n].left = self.unused
        self.unused = n
        self.count -= 1

    cdef int32_t height(self, int32_t n) noexcept:
        return self.nodes[n].height if n != NIL else 0

    cdef void refresh(self, int32_t n) noexcept:
        cdef Node *node = &self.nodes[n]
        cdef int32_t left = self.height(node.left), right = self.height(node.right)
        node.height = 1 + (left if left > right else right)
        node.best = node.last - node.start
        if node.left != NIL and self.nodes[node.left].best > node.best:
            node.best = self.nodes[node.left].best
        if node.right != NIL and self.nodes[node.right].best > node.best:
            node.best = self.nodes[node.right].best

    cdef int32_t rotated_left(self, int32_t n) noexcept:
        cdef int32_t top = self.nodes[n].right
        self.nodes[n].right = self.nodes[top].left
        self.nodes[top].left = n
        self.refresh(n)
        self.refresh(top)
        return top

    cdef int32_t rotated_right(self, int32_t n) noexcept:
        cdef int32_t top = self.nodes[n].left
        self.nodes[n].left = self.nodes[top].right
        self.nodes[top].right = n
        self.refresh(n)
        self.refresh(top)
        return top

    cdef int32_t balanced(self, int32_t n) noexcept:
        """Restore the height rule at `n`, whose subtrees obey it; return the new top."""
        cdef int32_t left = self.nodes[n].left, right = self.nodes[n].right
        cdef int32_t lean = self.height(left) - self.height(right)
        if lean > 1:
            if self.height(self.nodes[left].left) < self.height(self.nodes[left].right):
                self.nodes[n].left = self.rotated_left(left)
            return self.rotated_right(n)
        if lean < -1:
            if self.height(self.nodes[right].right) < self.height(self.nodes[right].left):
                self.nodes[n].right = self.rotated_right(right)
            return self.rotated_left(n)
        self.refresh(n)
        return n

    # Recursion is as deep as the tree is high: at most 1.44 log2(spans).

    cdef int32_t inserted(self, int32_t tree, int32_t n) noexcept:
        if tree == NIL:
            return n
        if self.nodes[n].start < self.nodes[tree].start:
            self.nodes[tree].left = self.inserted(self.nodes[tree].left, n)
        else:
            self.nodes[tree].right = self.inserted(self.nodes[tree].right, n)
        return self.balanced(tree)

    cdef int32_t without_first(self, int32_t tree, int32_t *first) noexcept:
        if self.nodes[tree].left == NIL:
            first[0] = tree
            return self.nodes[tree].right
        self.nodes[tree].left = self.without_first(self.nodes[tree].left, first)
        return self.balanced(tree)

    cdef int32_t without(self, int32_t tree, uint64_t start) noexcept:
        cdef int32_t left = self.nodes[tree].left, right = self.nodes[tree].right, next_ = NIL
        if start < self.nodes[tree].start:
            self.nodes[tree].left = self.without(left, start)
        elif start > self.nodes[tree].start:
            self.nodes[tree].right = self.without(right, start)
        else:
            self.drop_node(tree)
            if left == NIL or right == NIL:
                return right if left == NIL else left
            right = self.without_first(right, &next_)
            self.nodes[next_].left = left
            self.nodes[next_].right = right
            return self.balanced(next_)
        return self.balanced(tree)

    cdef void reshape(
        self, int32_t tree, uint64_t start, uint64_t new_start, uint64_t new_last
    ) noexcept:
        """Give the span at `start` other ends; the order of spans must not change by it."""
        if start < self.nodes[tree].start:
            self.reshape(self.nodes[tree].left, start, new_start, new_last)
        elif start > self.nodes[tree].start:
            self.reshape(self.nodes[tree].right, start, new_start, new_last)
        else:
            self.nodes[tree].start = new_start
            self.nodes[tree].last = new_last
        self.refresh(tree)

    # -- looking -----------------------------------------------------------------------------

    cdef int32_t at_or_before(self, uint64_t address) noexcept:
        """The span with the highest start that is not above `address`."""
        cdef int32_t n = self.root, found = NIL
        while n != NIL:
            if self.nodes[n].start <= address:
                found = n
                n = self.nodes[n].right
            else:
                n = self.nodes[n].left
        return found

    cdef int32_t after(self, uint64_t address) noexcept:
        """The span with the lowest start above `address`."""
        cdef int32_t n = self.root, found = NIL
        while n != NIL:
            if self.nodes[n].start > address:
                found = n
                n = self.nodes[n].left
            else:
                n = self.nodes[n].right
        return found

    cdef bint find(self, int32_t n, Fit *fit) noexcept:
        """The lowest address that fits in the subtree; subtrees without room are not entered."""
        cdef uint64_t start
        cdef Node *node
        if n == NIL or self.nodes[n].best < fit.search:
            return False
        node = &self.nodes[n]
        if node.start > fit.first and self.find(node.left, fit):
            return True
        if node.start > fit.last:
            return False
        start = node.start if node.start > fit.first else fit.first
        start = (start + fit.align - 1) & ~(fit.align - 1)
        # An address that wrapped in rounding up is below where it came from.
        if (
            start >= node.start
            and start >= fit.first
            and start <= node.last
            and node.last - start >= fit.size
            and start <= fit.last
            and fit.last - start >= fit.size
        ):
            fit.found = start
            return True
        return self.find(node.right, fit)

    # -- taking and giving -------------------------------------------------------------------

    cdef int take(self, int32_t n, uint64_t start, uint64_t last) except -1:
        """Take [start, last] out of the span `n`, which holds it."""
        cdef uint64_t left_start = self.nodes[n].start, right_last = self.nodes[n].last
        cdef int32_t other
        if left_start == start and right_last == last:
            self.root = self.without(self.root, start)
        elif left_start == start:
            self.reshape(self.root, left_start, last + 1, right_last)
        elif right_last == last:
            self.reshape(self.root, left_start, left_start, start - 1)
        else:
            other = self.take_node(last + 1, right_last)
            self.reshape(self.root, left_start, left_start, start - 1)
            self.root = self.inserted(self.root, other)
        return 0

    cdef bint take_lowest(self, uint64_t size, uint64_t align, uint64_t *start) except -1:
        """Take `size` (not 0) bytes where they fit lowest, aligned to a power of two; False where they do not."""
        cdef Fit fit = Fit(size - 1, size - 1, align, self.first, self.last, 0)
        if not self.find(self.root, &fit):
            return False
        self.take(self.at_or_before(fit.found), fit.found, fit.found + fit.size)
        start[0] = fit.found
        return True

    def allocate(self, size, align=1, first=None, last=None, *, search_size=None):
        cdef Fit fit
        cdef uint64_t lowest = 0
        if type(size) is int and 0 < size <= ALL_ONES and align == 1 and first is last is search_size is None:
            if self.take_lowest(size, 1, &lowest):
                return lowest
        length = parse_size(size)
        step = parse_size(align)
        low = self.first if first is None else operator.index(first)
        high = self.last if last is None else operator.index(last)
        if not 0 < length <= 1 << 64:
            raise OutOfRange(f"an allocation has 1 to 2**64 bytes, not {length}")
        if step == 0 or step & (step - 1) or step >= 1 << 64:
            raise AddressError(f"an alignment is a power of two, not {step}")
        if not 0 <= low <= high <= ALL_ONES:
            raise OutOfRange(f"no addresses run from {low:#x} to {high:#x}")
        wanted = length if search_size is None else max(length, parse_size(search_size))
        fit.size = length - 1
        fit.search = min(wanted - 1, ALL_ONES)
        fit.align = step
        fit.first = low
        fit.last = high
        if not self.find(self.root, &fit):
            raise NoAddressSpace(
                f"no free span of {format_size(length)}, aligned to {format_size(step)}, "
                f"between {low:#x} and {high:#x}"
            )
        self.take(self.at_or_before(fit.found), fit.found, fit.found + fit.size)
        return fit.found

    def reserve(self, start, size):
        cdef uint64_t at, last
        cdef int32_t n
        span = self._span(start, size, OutOfRange)
        at, last = span
        n = self.at_or_before(at)
        if n == NIL or self.nodes[n].last < last:
            raise AlreadyMapped(f"{at:#x}..{last:#x} is not free")
        self.take(n, at, last)

    def _span(self, start, size, outside):
        low = operator.index(start)
        length = parse_size(size)
        if length == 0:
            raise OutOfRange(f"the span at {low:#x} is empty")
        if not self.first <= low or low + length - 1 > self.last:
            raise outside(
                f"{low:#x} + {format_size(length)} is not inside {self.first:#x}..{self.last:#x}"
            )
        return low, low + length - 1

    cdef bint give_back(self, uint64_t at, uint64_t last) except -1:
        """Let [at, last] be free, joined with what is free beside it; False where a part of it is free already."""
        cdef int32_t before = self.at_or_before(at), next_ = self.after(at)
        cdef bint joins_before, joins_next
        if (before != NIL and self.nodes[before].last >= at) or (next_ != NIL and self.nodes[next_].start <= last):
            return False
        joins_before = before != NIL and self.nodes[before].last == at - 1
        joins_next = next_ != NIL and self.nodes[next_].start - 1 == last
        if joins_before and joins_next:
            last = self.nodes[next_].last
            self.root = self.without(self.root, self.nodes[next_].start)
            before = self.at_or_before(at)
        if joins_before:
            self.reshape(self.root, self.nodes[before].start, self.nodes[before].start, last)
        elif joins_next:
            self.reshape(self.root, self.nodes[next_].start, at, self.nodes[next_].last)
        else:
            self.root = self.inserted(self.root, self.take_node(at, last))
        return True

    def free(self, start, size):
        if type(start) is int and type(size) is int and 0 < size and self.first <= start <= self.last - size + 1:
            at, last = start, start + size - 1
        else:
            at, last = self._span(start, size, NotAllocated)
        if not self.give_back(at, last):
            raise NotAllocated(f"a part of {at:#x}..{last:#x} is free already")

    @property
    def largest(self):
        return int(self.nodes[self.root].best) + 1 if self.root != NIL else 0

    @property
    def free_bytes(self):
        return sum(int(last) - int(start) + 1 for start, last in self.spans())

    def __len__(self):
        return self.count

    def spans(self):
        cdef uint64_t[:, ::1] out
        cdef int32_t n
        cdef size_t row = 0
        array = np.empty((self.count, 2), dtype=np.uint64)
        out = array
        n = self.after(0) if self.at_or_before(0) == NIL else self.at_or_before(0)
        while n != NIL:
            out[row, 0] = self.nodes[n].start
            out[row, 1] = self.nodes[n].last
            row += 1
            n = self.after(self.nodes[n].start)
        return array

    def check(self):
        """Raise AssertionError unless heights, order and augmentation are what they should be."""
        self._check(self.root)
        starts = self.spans()
        assert len(starts) == self.count
        assert (starts[1:, 0] > starts[:-1, 1] + np.uint64(1)).all(), "neighbours were not merged"

    def _check(self, n):
        cdef int32_t at = n
        if at == NIL:
            return 0, -1
        cdef Node node = self.nodes[at]
        left_height, left_best = self._check(node.left)
        right_height, right_best = self._check(node.right)
        assert abs(left_height - right_height) <= 1, "the tree leans"
        assert node.height == 1 + max(left_height, right_height)
        assert node.best == max(node.last - node.start, left_best, right_best)
        return node.height, int(node.best)

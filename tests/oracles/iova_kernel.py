"""Linux's IOVA allocator in the plainest words: lists of ranges, searched from end to end.

Written from what drivers/iommu/iova.c (v6.12) says of itself: ranges are aligned to their
power-of-two size and go below the one made last; freeing at or above that moves the mark to the
next range above; a search that ends at the bottom is made once more over what lies above the mark;
32-bit requests have a mark of their own, and a memory of the size that failed. Small ranges rest on
stacks: two per CPU, and a depot of full ones.
"""

from __future__ import annotations

TOP = float("inf")


class NaiveIova:
    def __init__(self, cpus: int, first: int, last: int, magazine: int) -> None:
        self.first, self.last, self.magazine, self.cpus = first, last, magazine, cpus
        self.ranges: list[tuple[int, int]] = []  # first page, last page; descending
        self.mark: dict[bool, float] = {
            True: TOP,
            False: TOP,
        }  # below 4 GiB, above: where the last one begins
        self.failed = 1 << 20
        self.stacks = {(c, o): ([], []) for c in range(cpus) for o in range(6)}
        self.depots: list[list[list[int]]] = [[] for _ in range(6)]

    def search(self, size: int, limit: int) -> int | None:
        low32 = limit + 1 <= 1 << 20
        if low32 and size >= self.failed:
            return None
        mark = self.mark[low32]
        above_mark = [b for a, b in self.ranges if a == mark]
        end_of_mark = above_mark[0] if above_mark else TOP
        found = self.highest(size, min(limit + 1, mark), self.first)
        if found is None and end_of_mark <= limit:
            found = self.highest(size, limit + 1, int(end_of_mark) + 1)
        if found is None and low32:
            self.failed = size
        return found

    def highest(self, size: int, end: float, floor: int) -> int | None:
        start = (int(end) - size) // size * size
        while start >= floor:
            met = [a for a, b in self.ranges if a < start + size and start <= b]
            if not met:
                return start
            start = (min(met) - size) // size * size
        return None

    def allocate(self, cpu: int, pages: int, limit: int) -> int | None:
        order = (pages - 1).bit_length()
        size = 1 << order
        if order < 6 and limit >= size:
            stack = self.stack_to_pop(cpu, order)
            for n in reversed(range(len(stack))):
                if stack[n] <= limit + 1 - size:
                    stack[n], stack[-1] = stack[-1], stack[n]
                    return stack.pop()
        start = self.search(size, limit)
        if start is None:
            self.flush()
            start = self.search(size, limit)
        if start is None:
            return None
        self.ranges = sorted([*self.ranges, (start, start + size - 1)], reverse=True)
        self.mark[start + size - 1 < 1 << 20] = start
        return start

    def stack_to_pop(self, cpu: int, order: int) -> list[int]:
        loaded, previous = self.stacks[cpu, order]
        if not loaded and previous:
            self.stacks[cpu, order] = previous, loaded
        elif not loaded and self.depots[order]:
            self.stacks[cpu, order] = self.depots[order].pop(), previous
        return self.stacks[cpu, order][0]

    def free(self, cpu: int, start: int) -> None:
        (last,) = (b for a, b in self.ranges if a == start)
        order = (last - start).bit_length()
        if order >= 6:
            self.erase(start)
            return
        loaded, previous = self.stacks[cpu, order]
        if len(loaded) == self.magazine:
            if len(previous) < self.magazine:
                loaded, previous = previous, loaded
            else:
                self.depots[order].append(loaded)
                loaded = []
            self.stacks[cpu, order] = loaded, previous
        loaded.append(start)

    def erase(self, start: int) -> None:
        at = [a for a, _ in self.ranges].index(start)
        last = self.ranges[at][1]
        above = self.ranges[at - 1][0] if at else TOP
        if start == self.mark[True] or (last < 1 << 20 and start >= self.mark[True]):
            self.mark[True] = above
        if start < 1 << 20:
            self.failed = 1 << 20
        if start >= self.mark[False]:
            self.mark[False] = above
        del self.ranges[at]

    def flush(self) -> None:
        for order in range(6):
            for cpu in range(self.cpus):
                for stack in self.stacks[cpu, order]:
                    self.give_up(stack)
            for stack in self.depots[order]:
                self.give_up(stack)
            self.depots[order].clear()

    def give_up(self, stack: list[int]) -> None:
        for start in stack:
            self.erase(start)
        stack.clear()

    def trim(self) -> None:
        for depot in self.depots:
            if len(depot) > self.cpus:
                self.give_up(depot.pop())

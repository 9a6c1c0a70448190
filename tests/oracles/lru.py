"""Naive LRU caches out of OrderedDicts: a TLB with tags and page sizes, and paging-structure caches.

Slow on purpose. An OrderedDict is a set; its last key is the most recently used.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable

GLOBAL = "global"


def put(cache: OrderedDict, room: int, key, value) -> None:
    """Make `key` the most recently used; give up the least recently used one if there is no room."""
    cache[key] = value
    cache.move_to_end(key)
    if len(cache) > room:
        cache.popitem(last=False)


class Array:
    """`sets` sets of `ways` entries for pages of 2**lg2 bytes, lg2 in `lg2s`."""

    def __init__(self, sets: int, ways: int, lg2s: Iterable[int]) -> None:
        self.ways = ways
        self.lg2s = tuple(lg2s)
        self.sets = [OrderedDict() for _ in range(sets)]

    def set_of(self, page: int) -> OrderedDict:
        return self.sets[page % len(self.sets)]

    def find(self, va: int, asid: int):
        for lg2 in self.lg2s:
            found = self.set_of(va >> lg2)
            for key in reversed(found):
                if key in ((lg2, va >> lg2, asid), (lg2, va >> lg2, GLOBAL)):
                    found.move_to_end(key)
                    return key, found[key]
        return None

    def put(self, key, value) -> None:
        if key[0] in self.lg2s:
            put(self.set_of(key[1]), self.ways, key, value)

    def drop(self, doomed) -> int:
        """Drop every entry whose key `doomed` picks; return how many."""
        dropped = 0
        for one in self.sets:
            for key in [key for key in one if doomed(key)]:
                del one[key]
                dropped += 1
        return dropped


class Tlb:
    """Levels of arrays, non-inclusive: a hit below refills above, a fill goes everywhere.

    A page of a size that a level lacks is held there in parts of the largest smaller one.
    """

    def __init__(self, levels: list[list[Array]]) -> None:
        self.levels = levels

    def lookup(self, va: int, asid: int):
        """(level, key, value) of the entry that serves `va`, or None."""
        for number, level in enumerate(self.levels):
            for array in level:
                found = array.find(va, asid)
                if found is not None:
                    for above in self.levels[:number]:
                        self.fill(above, va, *found)
                    return number, *found
        return None

    def insert(self, lg2: int, page: int, tag, value) -> None:
        for level in self.levels:
            self.fill(level, page << lg2, (lg2, page, tag), value)

    def fill(self, level: list[Array], va: int, key, value) -> None:
        """Put an entry, or the part of it around `va` of the largest size that the level has."""
        lg2, _, tag = key
        sizes = [size for array in level for size in array.lg2s if size <= lg2]
        held = max(sizes, default=0)
        part = value and (value[0] + (va % (1 << lg2) >> held << held), *value[1:])
        for array in level:
            array.put((held, va >> held, tag), part)

    def drop(self, doomed) -> int:
        return sum(array.drop(doomed) for level in self.levels for array in level)

    def invalidate(self, first: int, last: int, asid=None) -> int:
        def meets(key) -> bool:
            lg2, page, tag = key
            start, end = page << lg2, (page + 1) << lg2
            return start <= last and first < end and asid in (None, tag)

        return self.drop(meets)

    def invalidate_all(self, asid=None, keep_global: bool = False) -> int:
        def goes(key) -> bool:
            return not keep_global if key[2] == GLOBAL else asid in (None, key[2])

        return self.drop(goes)

    def rows(self) -> list[tuple]:
        """(level, lg2, tag, page, value) by array, by set, the most recently used first."""
        return [
            (number, lg2, tag, page, one[lg2, page, tag])
            for number, level in enumerate(self.levels)
            for array in level
            for one in array.sets
            for lg2, page, tag in reversed(one)
        ]


class WalkCache:
    """Per level a fully associative cache of the items walked through, by `va >> shift[level]`."""

    def __init__(self, rooms: dict[int, int], shift: dict[int, int]) -> None:
        self.rooms = rooms
        self.shift = shift
        self.found = {level: OrderedDict() for level in rooms}

    def references(self, va: int, items: list[tuple[int, bool, int]]) -> int:
        """How many of a walk's items must be read; items: (level, points to a table, to which one)."""
        above = [
            level for level in sorted(self.rooms) if va >> self.shift[level] in self.found[level]
        ]
        known = above[0] if above else None
        if known is not None:
            self.found[known].move_to_end(va >> self.shift[known])
            items = [item for item in items if item[0] < known]
        for level, is_table, table in items:
            if is_table and level in self.rooms:
                put(self.found[level], self.rooms[level], va >> self.shift[level], table)
        return len(items)

    def invalidate(self, first: int, last: int) -> None:
        for level, found in self.found.items():
            for key in list(found):
                if first >> self.shift[level] <= key <= last >> self.shift[level]:
                    del found[key]

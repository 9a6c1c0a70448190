"""Replacement policies, told as naively as can be: one set each, ways numbered from 0, no tags, no sizes.

LRU and FIFO as lists; tree-PLRU and SRRIP as their papers draw them; Skylake's "(MRU+1)%3PLRU4" as the
README.md of vusec/tlbdr describes it: three groups of four ways, each a tree; the victim is in the group
after the one used last.
"""

from __future__ import annotations


class Lru:
    """The least recently used goes."""

    def __init__(self, ways: int) -> None:
        self.ways = ways
        self.order: list[int] = []

    def access(self, page: int) -> bool:
        """Return whether the page was there; it is there afterwards."""
        hit = page in self.order
        if hit:
            self.order.remove(page)
        elif len(self.order) == self.ways:
            self.order.pop(0)
        self.order.append(page)
        return hit


class Fifo(Lru):
    """The oldest goes, used or not."""

    def access(self, page: int) -> bool:
        return True if page in self.order else super().access(page)


class Placed:
    """A set whose pages keep their ways; free ways are taken first, the lowest first."""

    def __init__(self, ways: int) -> None:
        self.ways = ways
        self.pages: list[int | None] = [None] * ways

    def access(self, page: int) -> bool:
        """Return whether the page was there; it is there afterwards."""
        if page in self.pages:
            self.touch(self.pages.index(page), arrived=False)
            return True
        way = self.pages.index(None) if None in self.pages else self.victim()
        self.pages[way] = page
        self.touch(way, arrived=True)
        return False

    def touch(self, way: int, arrived: bool) -> None:
        raise NotImplementedError

    def victim(self) -> int:
        raise NotImplementedError


class Tree:
    """A binary tree over ways: each node remembers which half was used last."""

    def __init__(self, ways: int) -> None:
        self.half = ways // 2
        self.last = 1  # of a new tree, nothing was used: the victim is way 0
        self.children = [Tree(self.half), Tree(self.half)] if ways > 2 else []

    def touch(self, way: int) -> None:
        side = way // self.half
        self.last = side
        if self.children:
            self.children[side].touch(way % self.half)

    def victim(self) -> int:
        side = 1 - self.last
        below = self.children[side].victim() if self.children else 0
        return side * self.half + below


class Plru(Placed):
    """Tree-PLRU."""

    def __init__(self, ways: int) -> None:
        super().__init__(ways)
        self.tree = Tree(ways)

    def touch(self, way: int, arrived: bool) -> None:
        self.tree.touch(way)

    def victim(self) -> int:
        return self.tree.victim()


class MruPlru4(Placed):
    """(MRU+1)%3PLRU4, for any number of groups of four."""

    def __init__(self, ways: int) -> None:
        super().__init__(ways)
        self.trees = [Tree(4) for _ in range(ways // 4)]
        self.group = 0

    def touch(self, way: int, arrived: bool) -> None:
        self.group = way // 4
        self.trees[self.group].touch(way % 4)

    def victim(self) -> int:
        group = (self.group + 1) % len(self.trees)
        return 4 * group + self.trees[group].victim()


class Srrip(Placed):
    """Static RRIP with two bits and hit priority."""

    def __init__(self, ways: int) -> None:
        super().__init__(ways)
        self.distance = [0] * ways

    def touch(self, way: int, arrived: bool) -> None:
        self.distance[way] = 2 if arrived else 0

    def victim(self) -> int:
        while 3 not in self.distance:
            self.distance = [d + 1 for d in self.distance]
        return self.distance.index(3)


POLICIES = {
    "lru": Lru,
    "fifo": Fifo,
    "plru": Plru,
    "srrip": Srrip,
    "mru_plru4": MruPlru4,
}

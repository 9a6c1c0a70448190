"""How many addresses the modelled allocator predicts exactly, and why it misses the others.

The model runs the recording's allocations, frees and drains through
`ptcore.strategies.vmap_areas.VmapAreas`, and each allocation's address is predicted before it is
looked at. Three readings, from the most to the least that the model is told afterwards:

- *one step ahead*: once predicted, the recorded address is shown to the model, to correct it;
- *frees read*: no allocation's `va_start` is read after the warm-up. A free names the address that
  it frees, as a caller of the real allocator does, and what that reveals corrects the model;
- *open loop*: after the warm-up no address is read at all; a free only says whose area ends.

A trace begins in the middle of things: areas that were in the pools, and holes that were in the
tree, before the first line cannot be known until they are used. Those are what one step ahead
misses. Where nothing was before the trace, all three readings predict every address.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import NamedTuple

import numpy as np

from ptcore.allocators import AddressTree
from ptcore.errors import NoAddressSpace
from ptcore.strategies.vmap_areas import (
    POOLED_PAGES,
    Area,
    AreaState,
    VmapAreas,
    VmapOptions,
)
from ptcore.study.vmalloc_steps import PAGE_BYTES, UNKNOWN, Account, Joined, Share
from ptcore.workloads.ftrace import EventKind

WARM_UP_DRAINS = 16
"""A drain takes a quarter of each pool: (3/4)**16 = 1 % of what was pooled before is left."""

SETTLING_ACTIONS = 512
"""How long a free may take to correct a prediction (in actions) in the *frees read* reading."""


class Act(Enum):
    """What happens to the model."""

    ALLOCATE = "allocate"
    FREE = "free"
    BEGIN = "begin a drain"
    FINISH = "finish a drain"


class Action(NamedTuple):
    """One thing that the recorded kernel did. `start` is what a reading may or may not look at."""

    act: Act
    area: int = UNKNOWN
    cpu: int = UNKNOWN
    pages: int = UNKNOWN
    align: int = 1
    start: int = UNKNOWN


class Origin(Enum):
    """Where the area that the kernel used was in the model, when the prediction was wrong."""

    UNSEEN = "addresses that the trace had not shown before: pooled or free since before it began"
    DEEPER = "the right pool, but not on top as the model had it"
    OTHER_POOL = "another CPU's pool"
    HOLE = "a known hole, where another hole or a pool was predicted"
    RESHAPED = "held back by the model as areas of another size, or as still in use"


@dataclass(frozen=True, slots=True)
class Reading:
    """The outcome of one reading, over the allocations after the warm-up."""

    all_sizes: Share
    pool_sized: Share
    """Those of 1 to 256 pages."""
    larger: Share
    misses: dict[str, int]
    """Reason -> how many."""


@dataclass(frozen=True, slots=True)
class Addresses:
    """The validation of the addresses."""

    warm_up_drains: int
    warm_up_allocations: int
    one_step_ahead: Reading
    frees_read: Reading
    open_loop: Reading
    from_the_first: Reading
    """One step ahead without a warm-up: every allocation of the trace counts."""
    reused: Share
    """Pool-sized allocations of the whole trace that got a drained area of just their size: what
    any pool would suggest, with the benefit of hindsight. The figure to beat."""


def predict_addresses(joined: Joined, kernel: Account) -> Addresses:
    """Predict every address of a trace in the three readings. Near linear; a second per 10,000."""
    actions = tuple(_actions(joined, kernel))
    warm = _warm_up(actions)
    drains = sum(1 for action in actions[:warm] if action.act is Act.FINISH)
    scores = [_one_step_ahead(joined, actions, 0), _one_step_ahead(joined, actions, warm)]
    unavoidable = {area for area, exact in scores[0].outcome.items() if not exact}
    return Addresses(
        warm_up_drains=drains,
        warm_up_allocations=sum(1 for action in actions[:warm] if action.act is Act.ALLOCATE),
        one_step_ahead=scores[1].reading(),
        frees_read=_frees_read(joined, actions, warm).reading(unavoidable),
        open_loop=_open_loop(joined, actions, warm).reading(unavoidable),
        from_the_first=scores[0].reading(),
        reused=_reused(actions),
    )


def _actions(joined: Joined, kernel: Account) -> Iterator[Action]:
    """Yield what the kernel did, in its order: a drain begins before it interrupts anybody."""
    steps = joined.steps
    begins: dict[int, list[int]] = {}
    drain_of: dict[int, int] = {}
    for number, drain in enumerate(kernel.drains):
        called = drain.interrupts[0] if drain.interrupts else drain.position
        at = min(max([called, *(free + 1 for free in drain.taken)]), drain.position)
        begins.setdefault(at, []).append(number)
        drain_of.update(dict.fromkeys(drain.taken, number))
    owners = {step.area: step.cpu for step in steps if step.kind is EventKind.ALLOC}
    allocating: Counter[int] = Counter()
    begun = 0
    postponed: list[Action] = []
    for at, step in enumerate(steps):
        for _ in begins.get(at, ()):
            yield Action(Act.BEGIN)
            yield from postponed
            postponed = []
            begun += 1
        if step.kind is EventKind.PURGE:
            yield Action(Act.FINISH)
        elif step.kind is EventKind.ALLOC and step.whole:
            allocating[step.cpu] += 1
            yield Action(Act.ALLOCATE, step.area, step.cpu, step.pages, step.align, step.start)
        elif step.kind is EventKind.FREE and step.whole:
            # An area from before the trace: most likely it was asked for where most are.
            cpu = owners[step.area] if step.area != UNKNOWN else _most_frequent(allocating)
            fits = step.start + kernel.pages[at] * PAGE_BYTES - 1 <= joined.last
            pages = kernel.pages[at] if fits else 0
            free = Action(Act.FREE, step.area, cpu, pages, 1, step.start)
            if drain_of.get(at, len(kernel.drains)) > begun:
                postponed.append(free)  # printed before the lists were detached, but not in them
            else:
                yield free


def _most_frequent(counts: Counter[int]) -> int:
    return counts.most_common(1)[0][0] if counts else 0


def _warm_up(actions: Sequence[Action]) -> int:
    """Return where the warm-up ends: after WARM_UP_DRAINS drains or half of the allocations."""
    half = sum(1 for action in actions if action.act is Act.ALLOCATE) // 2
    drains = allocations = 0
    for at, action in enumerate(actions):
        if drains >= WARM_UP_DRAINS or allocations >= half:
            return at
        drains += action.act is Act.FINISH
        allocations += action.act is Act.ALLOCATE
    return len(actions)


def _reused(actions: Sequence[Action]) -> Share:
    drained: set[tuple[int, int]] = set()
    lazy: list[tuple[int, int]] = []
    taken: list[tuple[int, int]] = []
    reused = asked = 0
    for action in actions:
        area = (action.start, action.pages)
        if action.act is Act.FREE and action.area != UNKNOWN:
            lazy.append(area)
        elif action.act is Act.BEGIN:
            taken, lazy = lazy, []
        elif action.act is Act.FINISH:
            drained.update(taken)
        elif action.act is Act.ALLOCATE and action.pages <= POOLED_PAGES:
            asked += 1
            reused += area in drained
            drained.discard(area)
    return Share(reused, asked)


class _Score:
    """Predictions against what was recorded."""

    def __init__(self) -> None:
        self.outcome: dict[int, bool] = {}
        self._pages: dict[int, int] = {}
        self._origins: Counter[str] = Counter()

    def add(self, action: Action, predicted: int | None, origin: Origin | None = None) -> None:
        exact = predicted == action.start
        self.outcome[action.area] = exact
        self._pages[action.area] = action.pages
        if not exact and origin is not None:
            self._origins[origin.value] += 1

    def reading(self, unavoidable: set[int] | None = None) -> Reading:
        """Sum up; a miss is either one that one step ahead has as well, or its consequence."""
        misses = self._origins
        if unavoidable is not None:
            missed = [area for area, exact in self.outcome.items() if not exact]
            shared = sum(1 for area in missed if area in unavoidable)
            misses = Counter(
                {
                    "missed one step ahead as well": shared,
                    "carried over from an earlier miss": len(missed) - shared,
                }
            )
        return Reading(
            self._share(lambda pages: True),
            self._share(lambda pages: pages <= POOLED_PAGES),
            self._share(lambda pages: pages > POOLED_PAGES),
            dict(misses.most_common()),
        )

    def _share(self, chosen: Callable[[int], bool]) -> Share:
        exact = [hit for area, hit in self.outcome.items() if chosen(self._pages[area])]
        return Share(sum(exact), len(exact))


def _one_step_ahead(joined: Joined, actions: Sequence[Action], warm: int) -> _Score:
    model, score = _Model(joined), _Score()
    for at, action in enumerate(actions):
        predicted = model.apply(action, action.start)
        if action.act is Act.ALLOCATE and at >= warm:
            score.add(action, predicted, model.origin)
    return score


def _open_loop(joined: Joined, actions: Sequence[Action], warm: int) -> _Score:
    model, score = _Model(joined), _Score()
    for at, action in enumerate(actions):
        predicted = model.apply(action, action.start if at < warm else None)
        if action.act is Act.ALLOCATE and at >= warm:
            score.add(action, predicted)
    return score


def _frees_read(joined: Joined, actions: Sequence[Action], warm: int) -> _Score:
    """Predict with what the frees so far have revealed.

    `settled` has run all actions whose addresses are revealed, `current` all. When a free names
    another address than predicted, `current` is run again from `settled`, with that address.
    """
    settled, score = _Model(joined), _Score()
    for action in actions[:warm]:
        settled.apply(action, action.start)
    current: _Model | None = settled.copy()
    pending: deque[Action] = deque()
    revealed: dict[int, int] = {}

    def run(model: _Model, action: Action) -> int | None:
        seen = revealed.get(action.area) if action.act is Act.ALLOCATE else action.start
        return model.apply(action, seen)

    for action in actions[warm:]:
        if action.act is Act.ALLOCATE:
            if current is None:
                current = settled.copy()
                for earlier in pending:
                    run(current, earlier)
            score.add(action, current.apply(action, None))
        elif action.act is Act.FREE and action.area != UNKNOWN:
            revealed[action.area] = action.start
            if current is not None and current.address.get(action.area) != action.start:
                current = None
        if current is not None and action.act is not Act.ALLOCATE:
            run(current, action)
        pending.append(action)
        while pending and (len(pending) > SETTLING_ACTIONS or _is_settled(pending[0], revealed)):
            run(settled, pending.popleft())
    return score


def _is_settled(action: Action, revealed: dict[int, int]) -> bool:
    return action.act is not Act.ALLOCATE or action.area in revealed


class _Model:
    """`VmapAreas` with what is known of the recorded kernel's addresses.

    What was never shown counts as busy, except the addresses above all that were: above them a
    leftmost fit has never been. `address` says where the model has each live area.
    """

    def __init__(self, joined: Joined) -> None:
        self._first, self._last = joined.first, joined.last
        self._tree = AddressTree(joined.first, joined.last)
        self._areas = VmapAreas(self._tree, VmapOptions(cpus=joined.cpus, page_bytes=PAGE_BYTES))
        self._above = joined.first
        self._thinned: dict[tuple[int, int], list[int]] = {}
        self.address: dict[int, int] = {}
        self.origin: Origin | None = None

    def copy(self) -> _Model:
        """Return an independent twin."""
        twin = object.__new__(_Model)
        twin._first, twin._last = self._first, self._last
        twin._tree = AddressTree(self._first, self._last)
        taken = self._first
        for start, last in self._tree.spans().tolist():
            if taken < start:
                twin._tree.reserve(taken, start - taken)
            taken = last + 1
        if taken <= self._last:
            twin._tree.reserve(taken, self._last + 1 - taken)
        twin._areas = self._areas.copy(twin._tree)
        twin._above = self._above
        twin._thinned = dict(self._thinned)
        twin.address = dict(self.address)
        twin.origin = None
        return twin

    def apply(self, action: Action, seen: int | None) -> int | None:
        """Run one action; return the address predicted for an allocation.

        `seen` is the recorded address of the area: of an allocation, to correct the model once it
        has predicted; of a free, to free just that. None keeps to the model's own addresses.
        """
        if action.act is Act.ALLOCATE:
            return self._allocate(action, seen)
        if action.act is Act.FREE:
            self._free(action, seen)
        elif action.act is Act.BEGIN:
            self._thinned.clear()
            self._areas.begin_drain()
        else:
            self._areas.finish_drain()
        return None

    def _allocate(self, action: Action, seen: int | None) -> int | None:
        self.origin = None
        pages, node = action.pages, self._areas.node_of(action.cpu)
        pool = self._areas.pool(node, pages)
        top = pool[-1] if pool else None
        start: int | None
        try:
            start = self._areas.allocate(action.cpu, pages * PAGE_BYTES, action.align)
        except NoAddressSpace:
            start = None
        predicted = start
        if seen is not None and seen != predicted:
            offered = predicted is not None and predicted == top
            if predicted is not None and offered:
                self._areas.put_back(predicted)
            elif predicted is not None:
                self._areas.remove(Area(predicted, pages, node, AreaState.LIVE))
            self.origin = self._show(action, seen, node, offered)
            start = seen
        if start is not None:
            self.address[action.area] = start
            self._above = max(self._above, start + pages * PAGE_BYTES)
        return predicted

    def _free(self, action: Action, seen: int | None) -> None:
        mine = self.address.pop(action.area, None) if action.area != UNKNOWN else None
        if seen is not None and seen != mine and action.pages > 0:
            node = self._areas.node_of(action.cpu)
            if mine is not None:
                self._areas.remove(Area(mine, action.pages, node, AreaState.LIVE))
            self._skip(seen)
            self._uncover(seen, action.pages)
            self._areas.place(seen, action.pages * PAGE_BYTES, node)
            mine = seen
        if mine is not None:
            self._areas.free(mine)

    def _show(self, action: Action, start: int, node: int, offered: bool) -> Origin:
        """Make the recorded area live, and conclude from it what the pools hold no longer.

        `offered` says that the model's pool had an area ready, aligned as asked.
        """
        pages, size = action.pages, action.pages * PAGE_BYTES
        pool = self._areas.pool(node, pages)
        if start in pool:
            self._thin(node, pages, len(pool) - 1 - pool.index(start))
            self._areas.remove(Area(start, pages, node, AreaState.POOLED))
            origin = Origin.DEEPER
        elif self._was_thinned(start, pages, node):
            origin = Origin.DEEPER
        else:
            origin = self._show_unpooled(action, start, node, offered)
        self._areas.place(start, size, node)
        return origin

    def _show_unpooled(self, action: Action, start: int, node: int, offered: bool) -> Origin:
        """Make room for an area that the model has not in the right pool."""
        pages, size = action.pages, action.pages * PAGE_BYTES
        any_page = action.align <= PAGE_BYTES  # else a pool or a hole may just be misaligned
        origin = Origin.HOLE if start < self._above else Origin.UNSEEN
        from_tree = True
        self._skip(start)
        if not self._is_free(start, size):
            origin = self._uncover(start, pages)
            from_tree = start <= self._lowest_hole(size)
        if from_tree and (offered or any_page):
            self._thin(node, pages, len(self._areas.pool(node, pages)))
        certain = pages > POOLED_PAGES or node < 0
        if any_page and (certain or origin is Origin.HOLE):
            self._refute(start, size, certain)
        return origin

    def _thin(self, node: int, pages: int, count: int) -> None:
        """Give the areas on top of a pool to the tree: a drain must have taken them."""
        pool = self._areas.pool(node, pages)
        thinned = list(pool[len(pool) - count :])
        for start in thinned:
            self._areas.remove(Area(start, pages, node, AreaState.POOLED))
        self._thinned[node, pages] = thinned + self._thinned.get((node, pages), [])

    def _was_thinned(self, start: int, pages: int, node: int) -> bool:
        """Take a conclusion back: an area thinned out is used, so those under it are pooled."""
        thinned = self._thinned.get((node, pages), [])
        if start not in thinned or not self._is_free(start, pages * PAGE_BYTES):
            return False
        at = thinned.index(start)
        for under in thinned[:at]:
            if self._is_free(under, pages * PAGE_BYTES):
                self._areas.place(under, pages * PAGE_BYTES, node)
                self._areas.put_back(under)
        self._thinned[node, pages] = thinned[at + 1 :]
        return True

    def _skip(self, start: int) -> None:
        """Conclude that what the kernel passed over on its way up, to a new height, is not free."""
        if start > self._above:
            for first, last in self._holes(self._above, start):
                self._tree.reserve(first, last + 1 - first)

    def _refute(self, start: int, size: int, certain: bool) -> None:
        """Conclude that holes below an area that came from the tree are not free.

        It did so for certain if no pool takes its size. Else it did if, without the lowest hole,
        leftmost fit leads just there.
        """
        false: list[tuple[int, int]] = []
        for first, last in self._holes(self._first, start):
            if last + 1 - first >= size:
                false.append((first, last + 1 - first))
                if not certain and len(false) > 1:
                    return
        if certain or not self._holes(start - 1, start):
            for first, length in false:
                self._tree.reserve(first, length)

    def _uncover(self, start: int, pages: int) -> Origin:
        """Make these addresses free in the tree, whatever they were; return what they were."""
        end = start + pages * PAGE_BYTES
        origin = Origin.UNSEEN
        for area in list(self._areas.areas()):
            if area.start < end and start < area.start + area.pages * PAGE_BYTES:
                same = (area.start, area.pages, area.state) == (start, pages, AreaState.POOLED)
                origin = Origin.OTHER_POOL if same else Origin.RESHAPED
                self._areas.remove(area)
                if area.state is AreaState.LIVE:
                    self._lose(area.start)
        at = start
        for first, last in [*self._holes(start, end), (end, end)]:
            if at < first:
                self._tree.free(at, first - at)
            at = last + 1
        self._above = max(self._above, end)
        return origin

    def _lose(self, start: int) -> None:
        """Forget where a live area is: the model had it where another one turned out to be."""
        for area, at in self.address.items():
            if at == start:
                del self.address[area]
                return

    def _holes(self, start: int, end: int) -> list[tuple[int, int]]:
        """Return the free spans between `start` and `end`, clipped, `last` inclusive."""
        spans = self._tree.spans()
        first = int(np.searchsorted(spans[:, 1], np.uint64(start)))
        beyond = int(np.searchsorted(spans[:, 0], np.uint64(end)))
        found = spans[first:beyond].tolist()
        return [(max(low, start), min(last, end - 1)) for low, last in found]

    def _is_free(self, start: int, size: int) -> bool:
        return self._holes(start, start + size) == [(start, start + size - 1)]

    def _lowest_hole(self, size: int) -> int:
        try:
            start = self._tree.allocate(size)
        except NoAddressSpace:
            return self._last
        self._tree.free(start, size)
        return start

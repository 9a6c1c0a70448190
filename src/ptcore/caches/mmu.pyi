"""One CPU's way to memory: TLBs, paging-structure caches, walks, of one stage or two."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ptcore.caches.tlb import Tlb
from ptcore.caches.walk_cache import WalkCache
from ptcore.errors import Status
from ptcore.table.address_space import AddressSpace
from ptcore.table.nested import Nested
from ptcore.table.page_table import PageTable

DEVICE: int
FAULT: int
KINDS: dict[str, int]
MAX_ITEMS: int
MAX_WALKERS: int
WALK: int

@dataclass(frozen=True, slots=True)
class Outcome:
    """One access: `code` is the TLB level that served it, WALK or FAULT; `pa` is None after a fault. `stage`:
    which of two stages faulted, None where there is one or no fault."""

    code: int
    status: Status
    pa: int | None
    stage: int | None = None

@dataclass(frozen=True, slots=True)
class Counts:
    """Totals since the Mmu was made.

    accesses, TLB hits per level, walks begun, items read (`references`, of both stages), faults. Of
    a second stage: walks begun, items read, and translations that its own TLB had (`second_hits`).
    `served`: references by the level of the data cache that had them, memory last; empty without
    one. `walk_cycles`: of all references; `waited_cycles`: what walks waited for a free walker;
    `cycles`: what all accesses take at least, one issued every `issue_cycles`, with as many walkers
    as there are.

    Behind an IOMMU: `device_hits`, what the device's own TLB served; `context_hits` and
    `context_references`, how often a context was known, and items read to learn one (in
    `references` too).
    """

    accesses: int
    hits: tuple[int, ...]
    walks: int
    references: int
    faults: int
    second_walks: int = 0
    second_references: int = 0
    second_hits: int = 0
    served: tuple[int, ...] = ()
    walk_cycles: int = 0
    waited_cycles: int = 0
    cycles: int = 0
    device_hits: int = 0
    context_hits: int = 0
    context_references: int = 0

@final
class Mmu:
    """One CPU's way to memory: a Tlb and, optionally, paging-structure caches over real tables.

    An access asks the TLB; what it cannot answer is walked, from below the lowest item that the
    paging-structure cache knows, and cached. Faults are never cached. An entry that does not allow the
    access, or a write to a page not marked dirty yet, asks the tables again. Single writer.
    """

    def __init__(
        self,
        space: PageTable | Nested | AddressSpace,
        tlb: Tlb,
        walk_cache: WalkCache | None = None,
        asid: int | None = None,
        *,
        vmid: int | None = None,
        marks: bool = True,
        guest_cache: WalkCache | None = None,
        host_cache: WalkCache | None = None,
        ipa_tlb: Tlb | None = None,
        line_cache: Tlb | None = None,
        memory_cycles: int = 0,
        walkers: int = 0,
        issue_cycles: int = 1,
    ) -> None:
        """Put caches over `space`: one table, two halves, or either behind a second stage.

        `asid`, `vmid`: default those of an AddressSpace, else 0. `marks`: set accessed and dirty
        bits as hardware does (Intel SDM vol. 3A, "Accessed and Dirty Flags"), where the memory is
        writable.

        Two stages: items of the first stage are read from the second one's memory. `walk_cache`
        then holds tables at physical addresses (combined), `guest_cache` at those that the second
        stage translates, `host_cache` the second stage's own, `ipa_tlb` its translations; entries
        of `tlb` have the size of the smaller page.

        `line_cache`: a Tlb of lines over physical addresses, through which walks read (every level
        needs its `cycles`); `memory_cycles`: of a reference beyond it, or of each without it.
        `walkers`: how many walks may run at once, 0 for no bound; accesses come one per
        `issue_cycles` and wait for nothing.

        Raises FormatError for what no CPU translates by, for caches of levels that the format lacks and for a
        paging-structure cache that may hold another table's items; OutOfRange for numbers.
        """

    def switch(
        self,
        space: PageTable | Nested | AddressSpace,
        asid: int | None = None,
        *,
        vmid: int | None = None,
    ) -> None:
        """Translate by `space` from now on. Nothing is dropped: that is for commands (caches.invalidation).

        Raises as the constructor, before anything changed.
        """

    def put_behind(
        self,
        contexts: Tlb | None,
        key: int,
        device_items: Sequence[int],
        process_items: Sequence[int] = (),
        *,
        device_tlb: Tlb | None = None,
        device_asid: int = 0,
    ) -> None:
        """Make this the way of a device (or of one of its processes) through an IOMMU.

        `contexts`: a cache of what the items say, under `key`; `device_items`: their physical addresses,
        read on a miss; `process_items`: those that the second stage translates, where there is one.
        `device_tlb`: the device's own (ATS), its entries tagged `device_asid` alone. Raises FormatError for
        more than MAX_ITEMS items.
        """

    def replace(
        self,
        space: PageTable | Nested | AddressSpace,
        asid: int | None = None,
        *,
        vmid: int | None = None,
    ) -> None:
        """Say in memory that the device translates by `space`: in effect once no context is cached.

        Raises as the constructor, before anything changed.
        """

    @property
    def awaited(self) -> PageTable | Nested | AddressSpace | None:
        """What a replacement will put into effect, None if nothing waits."""
    @property
    def spaces(self) -> dict[tuple[int, int], PageTable | Nested | AddressSpace]:
        """What it translated by, the last one of each (asid, vmid)."""
    @property
    def context_cache(self) -> Tlb | None:
        """The cache of contexts of the IOMMU in the way."""
    @property
    def context_key(self) -> int:
        """This context's key in it."""
    @property
    def device_asid(self) -> int:
        """The tag of its translations in the device's own TLB."""
    @property
    def device_tlb(self) -> Tlb | None:
        """The device's own TLB."""
    @property
    def space(self) -> PageTable | Nested | AddressSpace:
        """What the CPU translates by."""
    @property
    def asid(self) -> int:
        """The tag of this CPU's translations."""
    @property
    def vmid(self) -> int:
        """The tag of its guest, 0 without one."""
    @property
    def table(self) -> PageTable:
        """The tables of the (first half of the) first stage."""
    @property
    def second_stage(self) -> PageTable | None:
        """The tables of the second stage, if there is one."""
    @property
    def tlb(self) -> Tlb:
        """The TLB."""
    @property
    def walk_cache(self) -> WalkCache | None:
        """The paging-structure caches, if there are any."""
    @property
    def guest_cache(self) -> WalkCache | None:
        """Those that hold tables at addresses of the second stage's input."""
    @property
    def host_cache(self) -> WalkCache | None:
        """Those of the second stage."""
    @property
    def ipa_tlb(self) -> Tlb | None:
        """The second stage's own TLB."""
    @property
    def line_cache(self) -> Tlb | None:
        """The data cache that walks read through."""
    @property
    def marks(self) -> bool:
        """Whether accessed and dirty bits are set in the tables."""

    @property
    def counts(self) -> Counts:
        """The totals so far."""

    def access(self, va: int, kind: str = "r", user: bool = False) -> Outcome:
        """Make one access of `kind` 'r', 'w' or 'x'; an outcome, never a Fault."""

    def access_many(
        self, vas: ArrayLike, kinds: ArrayLike | str | None = None, user: bool = False
    ) -> NDArray[np.uint8]:
        """Make an access per address, in order; return the outcome codes, uint8 of the same shape.

        `kinds`: one letter for all, an array of letters, or uint8 of 0 load, 1 store, 2 fetch;
        default reads. The GIL is released. Raises TypeError for what are no integers, OutOfRange
        for numbers that have no 64 bits, ValueError for other kinds; then no access was made.
        """

    def access_span(
        self, first: int, count: int, stride: int, kind: str = "r", user: bool = False
    ) -> int:
        """Make `count` accesses, `stride` bytes apart, from `first` on; return how many faulted."""

    def invalidate(self, first: int, last: int, *, structures: bool = True) -> int:
        """Drop cached translations (and items, unless structures is False) that meet [first, last]."""

    def invalidate_all(self, *, keep_global: bool = False) -> int:
        """Drop all translations and items, of both stages; global translations stay if keep_global."""

def access_on(
    mmus: Sequence[Mmu],
    vas: ArrayLike,
    kinds: ArrayLike | str | None = None,
    cpus: ArrayLike | None = None,
    user: bool = False,
) -> NDArray[np.uint8]:
    """Make an access per address, each on the CPU of `mmus` that `cpus` names (default the first), in order.

    Returns the outcome codes, uint8 shaped as `vas`. Raises as Mmu.access_many, and OutOfRange for
    a CPU beyond them. The GIL is released.
    """

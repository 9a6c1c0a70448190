"""What a Machine does for every request, compiled."""

from collections.abc import Callable, Iterable, Sequence

from typing_extensions import disjoint_base

from ptcore.caches import Mmu
from ptcore.machine.device import Device
from ptcore.machine.events import Event
from ptcore.machine.ledger import Ledger
from ptcore.machine.processes import Process
from ptcore.machine.shootdown import Shootdown
from ptcore.memory import PhysicalMemory
from ptcore.table import Owed, PageTable
from ptcore.units import Span

DEVICE_MEMORY: str

@disjoint_base
class Verbs:
    """Frames, mappings, invalidations and accesses of a Machine. Verbs raise before they change anything.

    Pages that lie in one table that exists are mapped and unmapped as one run, at a cost that hardly depends
    on how many they are; everything else goes through PageTable's own verbs.
    """

    ledger: Ledger
    table: PageTable
    memory: PhysicalMemory
    mmus: tuple[Mmu, ...]
    devices: list[Device]
    processes: list[Process]
    shootdown: Shootdown
    page_bytes: int
    data_bytes: int
    now_ns: int

    def __init__(
        self,
        table: PageTable,
        mmus: Sequence[Mmu],
        ledger: Ledger,
        data_bytes: int,
        shootdown: Shootdown,
    ) -> None: ...
    @property
    def cpus(self) -> int:
        """How many CPUs are online."""

    def mmu(self, cpu: int) -> Mmu:
        """Return a CPU's Mmu, to look at; OutOfRange for a CPU that the machine has not."""

    def stale(self) -> tuple[Span, ...]:
        """Return the spans whose translations some CPU may still hold though the tables do not."""

    @property
    def stale_count(self) -> int:
        """How many spans `stale` would return. O(1)."""

    def advance(self, to_ns: int) -> None:
        """Let time pass until `to_ns`; timers that are due on the way run, each at its time.

        Raises OutOfRange when that is in the past.
        """

    def call_at(self, when_ns: int, run: Callable[[], None]) -> None:
        """Have `run` called when time comes to `when_ns`. Raises OutOfRange when that is in the past."""

    def note(
        self,
        event: Event,
        cpu: int,
        count: int = 1,
        *,
        first: int = 0,
        last: int = 0,
        pa: int = 0,
        cpus: frozenset[int] | None = None,
    ) -> None:
        """Write a row of the ledger; strategies note what only they know (a pool hit, a drain)."""

    def allocate_frames(self, pages: int, cpu: int, *, align: int | None = None) -> int:
        """Take `pages` frames in a row; return the first one's address. Raises NoFrame."""

    def free_frames(self, pa: int, pages: int, cpu: int) -> None:
        """Give frames back. What may still be reached through a stale translation is noted.

        Raises NotAllocated for frames that are free. O(log stale spans + those of these frames).
        """

    def take_from_pool(self, pa: int, pages: int, cpu: int) -> None:
        """Note that frames which a strategy has and keeps for itself serve somebody now."""

    def return_to_pool(self, pa: int, pages: int, cpu: int) -> None:
        """Note that they may serve somebody else; what is stale then is noted as for `free_frames`."""

    @property
    def free_frame_bytes(self) -> int:
        """How many bytes of data frames are free."""

    def account(self, owed: Owed, cpu: int) -> None:
        """Note what an edit of tables in this memory wrote and allocated."""

    def share_kernel_half(self, owed: Owed) -> None:
        """Let every process have what an edit of the kernel's table changed at its root."""

    def map(
        self,
        va: int,
        pa: int,
        length: int | str,
        cpu: int,
        access: str = "rw",
        *,
        page_size: int | str | None = None,
        memory_type: str | None = None,
        cpus: Iterable[int] | None = None,
    ) -> None:
        """Map memory; as PageTable.map. `cpus`: those that will use it, by contract (default: all).

        `memory_type`: one of the format's, or "device": what its `device_memory` names, if anything.

        Raises InvalidationOwed when one of them may still hold an older translation of these addresses.
        """

    def owe(self, owed: Owed) -> None:
        """Hold the table frames that an edit freed until every CPU has invalidated what it is about."""

    def open_stale(self, span: Span, pa: int, holders: Iterable[int]) -> None:
        """Note that `holders` (CPUs, or devices by number) may hold `span` though no table does."""

    def unmap(
        self,
        va: int,
        length: int | str,
        cpu: int,
        *,
        free_tables: bool = False,
        cpus: Iterable[int] | None = None,
    ) -> None:
        """Take memory out of the tables. Its translations are stale until `invalidate`.

        `cpus`: those that ever used it, where a mapping is one CPU's own by contract (default: all).
        """

    def split(self, va: int, length: int | str, page_size: int | str, cpu: int) -> None:
        """Make leaves of `page_size` of larger ones that the span touches, and invalidate on all CPUs.

        Linux arch/x86/mm/pat/set_memory.c, __split_large_page(): a split is followed by flush_tlb_all().
        Raises as PageTable.split; without larger leaves nothing happens.
        """

    def invalidate(self, span: Span | None, cpu: int, cpus: Iterable[int] | None = None) -> None:
        """Let `cpus` (default: all) drop what they cache of `span` (None: of everything).

        Up to 33 pages go one by one, more by dropping everything, global entries included (Linux
        arch/x86/mm/tlb.c, flush_tlb_kernel_range()). CPUs other than `cpu` are interrupted, or reached by
        a broadcast, as the machine has it.
        """

    def tell(self, others: Iterable[int], cpu: int, pages: int) -> None:
        """Note how other CPUs were told: interrupted, and waited for, or by broadcast commands.

        `pages`: of the invalidation, 0 for everything.
        """

    def settle(self, span: Span, targets: Iterable[int], cpu: int) -> None:
        """Close what the invalidation of `span` on `targets` closes."""

    def access(self, span: Span, cpu: int, kind: str = "r") -> None:
        """Let `cpu` touch every page of `span` once, in order; misses and walks are counted."""

    def access_at(self, start: int, span: Span, cpu: int, kind: str = "r") -> None:
        """Let `cpu` touch the bytes `span`, counted from the address `start`: as `access` does."""

    def touch_by_page(
        self,
        va: int,
        pa: int,
        pages: int,
        cpu: int,
        kind: str = "r",
        *,
        step: int = 0,
        memory_type: str | None = None,
        cpus: Iterable[int] | None = None,
    ) -> None:
        """Map, access, unmap and invalidate each of `pages` frames from `pa` on, one after the other.

        Each is mapped where the one before was, `step` bytes on: 0 for one slot. `cpus`: those that use the
        mapping, and that the invalidation is for (default: all). The ledger has the rows of the single verbs.
        """

    def unmap_by_page(
        self, va: int, pages: int, cpu: int, *, cpus: Iterable[int] | None = None
    ) -> None:
        """Unmap and invalidate each of `pages` pages from `va` on, one after the other."""

    def reach(
        self,
        va: int,
        pa: int,
        pages: int,
        cpu: int,
        kind: str = "r",
        *,
        at_once: int | None = None,
        memory_type: str | None = None,
        cpus: Iterable[int] | None = None,
    ) -> None:
        """Map `pages` frames from `pa` on, access and unmap them, `at_once` (default: all) after the other.

        The ledger has the rows of the single verbs. `cpus`: those that use the mappings (default: all); they
        may hold them until an invalidation.
        """

    def map_rows(
        self,
        start: int,
        rows: Iterable[tuple[int, int, int]],
        cpu: int,
        *,
        memory_type: str | None = None,
    ) -> None:
        """Map frames in the slots of a window that begins at `start`, a row after the other, as `map` does.

        A row is (number of the first frame, first slot, how many); a slot is one page.
        """

    def access_rows(
        self, start: int, rows: Iterable[tuple[int, int, int]], cpu: int, kind: str = "r"
    ) -> None:
        """Touch the pages of the slots, a row after the other, as `access` does."""

    def unmap_rows(self, start: int, rows: Iterable[tuple[int, int, int]], cpu: int) -> None:
        """Unmap the slots, a row after the other, as `unmap` does."""

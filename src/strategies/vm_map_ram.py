"""vm_map_ram: small mappings out of per-CPU blocks of addresses, larger ones as areas of their own.

The mechanism and the policy are the kernel's, for mappings that live shortly: Linux mm/vmalloc.c (v6.18),
vm_map_ram() and vm_unmap_ram(); vmap_blocks.py has the blocks. A free clears entries and nothing else;
what was freed in a block is stale until all of the block was used up and a drain has come, or until
somebody needs all aliases gone: `unmap_aliases`, which the kernel calls where it changes a page's rights,
and which no policy calls here.
"""

from __future__ import annotations

from ptcore.errors import NoAddressSpace
from ptcore.machine import Event, Machine, Request
from ptcore.strategies import Known
from ptcore.strategies.vmalloc import Vmalloc
from ptcore.strategies.vmap_blocks import MOST_PAGES, VmapBlocks, block_pages
from ptcore.units import Span

BUILT_FOR = 64  # CPUs; Linux arch/x86/Kconfig, NR_CPUS_DEFAULT of 64-bit kernels


class VmMapRam(Vmalloc):
    """`built_for`: the kernel's NR_CPUS, which decides the size of a block."""

    def __init__(
        self, machine: Machine, *, built_for: int = BUILT_FOR, span: Span | None = None
    ) -> None:
        super().__init__(machine, lazy=True, span=span)
        self.name = "vm_map_ram"
        page = machine.page_bytes
        self.blocks = VmapBlocks(self.areas, block_pages(built_for, page), page)

    def _place(self, request: Request, size: int, leaf: int) -> int:
        page = self.machine.page_bytes
        pages = size // page
        if (
            pages > MOST_PAGES or request.align > page
        ):  # of vm_map_ram() nobody can ask an alignment
            return self._area(request.cpu, size, request.align)
        try:
            start, ready = self.blocks.allocate(request.cpu, pages)
        except NoAddressSpace:
            self._drain(request.cpu, full=True)
            start, ready = self.blocks.allocate(request.cpu, pages)
        self.machine.note(Event.POOL_HIT if ready else Event.POOL_MISS, request.cpu)
        return start

    def _forget(self, start: int, pages: int) -> bool:
        if start in self.blocks:
            return self.blocks.free(start, pages)
        return super()._forget(start, pages)

    def _drain(self, cpu: int, *, full: bool = False, also: Span | None = None) -> None:
        if full:  # Linux reclaim_and_purge_vmap_areas()
            self.blocks.purge(force=True)
        super()._drain(cpu, full=full, also=also)

    def unmap_aliases(self, cpu: int) -> None:
        """Let no CPU hold what was freed: one invalidation, over all that is dirty or lazy.

        Linux mm/vmalloc.c, _vm_unmap_aliases().
        """
        self.machine.mmu(cpu)
        self.blocks.purge(force=False)
        dirty = self.blocks.take_dirty()
        self._drain(cpu, also=None if dirty is None else Span(*dirty))


STRATEGIES = (
    Known(
        "vm_map_ram",
        "Up to 64 pages out of per-CPU blocks that are invalidated when they are used up.",
        "the kernel's",
        VmMapRam,
    ),
)

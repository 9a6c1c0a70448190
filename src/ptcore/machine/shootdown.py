"""How an invalidation reaches the other CPUs: by interrupts, or by a broadcast of commands."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from ptcore.caches.invalidation import range_parts

# Linux arch/x86/mm/tlb.c, tlb_single_page_flush_ceiling: "unsigned long ... = 33"; beyond it, everything.
SINGLE_PAGE_CEILING = 33
# CPUID 8000_0008h EDX[15:0] is 7 on Zen 3 servers (InstLatx64, AuthenticAMD0A00F11_K19_Milan): 8 pages.
PAGES_PER_BROADCAST = 8
# Linux arch/x86/mm/tlb.c, consider_global_asid(): mm_active_cpus_exceeds(mm, 3) gets a number for all CPUs.
CPUS_FOR_BROADCAST = 3


@dataclass(frozen=True, slots=True)
class Shootdown:
    """One way: `interrupts` the other CPUs, or broadcasts commands.

    `commands(pages)`: how many commands a broadcast of so many pages takes; 0 pages for everything.
    `least_cpus`: processes on fewer are flushed by interrupts. `rule`: where it stands.
    """

    name: str
    interrupts: bool
    least_cpus: int
    commands: Callable[[int], int]
    rule: str


def _by_ranges(pages: int) -> int:
    return sum(1 for _ in range_parts(pages)) if pages else 1


def _by_counts(pages: int) -> int:
    return -(-pages // PAGES_PER_BROADCAST) if pages else 1


SHOOTDOWNS = {
    way.name: way
    for way in (
        Shootdown(
            "interrupts",
            True,
            0,
            lambda pages: 0,
            "Linux arch/x86/mm/tlb.c, flush_tlb_multi(): every CPU that has it loaded is interrupted and "
            "waited for",
        ),
        Shootdown(
            "ranges",
            False,
            0,
            _by_ranges,
            "Arm ARM (DDI 0487), TLB range maintenance instructions: inner-shareable, (NUM + 1) * "
            "2**(5 * SCALE + 1) granules each",
        ),
        Shootdown(
            "counts",
            False,
            CPUS_FOR_BROADCAST,
            _by_counts,
            "AMD64 APM vol. 3, INVLPGB and TLBSYNC; Linux arch/x86/mm/tlb.c, broadcast_tlb_flush()",
        ),
    )
}

__all__ = [
    "CPUS_FOR_BROADCAST",
    "PAGES_PER_BROADCAST",
    "SHOOTDOWNS",
    "SINGLE_PAGE_CEILING",
    "Shootdown",
]

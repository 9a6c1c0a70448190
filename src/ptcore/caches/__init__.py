"""Floor 4: translation hardware over real tables, and the page-table cache."""

from __future__ import annotations

from ptcore.caches.geometry import Preset, TlbArray, TlbLevel, preset, preset_names
from ptcore.caches.mmu import FAULT, WALK, Counts, Mmu, Outcome
from ptcore.caches.table_cache import CacheCounts, PageTableCache
from ptcore.caches.tlb import Hit, Tlb
from ptcore.caches.walk_cache import WalkCache

__all__ = [
    "FAULT",
    "WALK",
    "CacheCounts",
    "Counts",
    "Hit",
    "Mmu",
    "Outcome",
    "PageTableCache",
    "Preset",
    "Tlb",
    "TlbArray",
    "TlbLevel",
    "WalkCache",
    "preset",
    "preset_names",
]

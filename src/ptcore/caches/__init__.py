"""Floor 4: translation hardware over real tables, and the page-table cache."""

from __future__ import annotations

from ptcore.caches.geometry import Preset, TlbArray, TlbLevel, preset, preset_names
from ptcore.caches.iommu import Iommu
from ptcore.caches.mmu import DEVICE, FAULT, WALK, Counts, Mmu, Outcome
from ptcore.caches.oracle import Oracle, Stale
from ptcore.caches.table_cache import CacheCounts, PageTableCache, Served
from ptcore.caches.tlb import Hit, Tlb
from ptcore.caches.walk_cache import WalkCache

__all__ = [
    "DEVICE",
    "FAULT",
    "WALK",
    "CacheCounts",
    "Counts",
    "Hit",
    "Iommu",
    "Mmu",
    "Oracle",
    "Outcome",
    "PageTableCache",
    "Preset",
    "Served",
    "Stale",
    "Tlb",
    "TlbArray",
    "TlbLevel",
    "WalkCache",
    "preset",
    "preset_names",
]

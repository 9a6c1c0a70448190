"""What a ledger's rows say."""

from __future__ import annotations

from enum import IntEnum


class Event(IntEnum):
    """One thing that happened. Which of the row's columns it uses is said with each."""

    ACQUIRED = 1
    """A request was served. count = pages."""
    RELEASED = 2
    """What a request got was given back. count = pages."""
    FRAMES_ALLOCATED = 3
    """Page frames left the allocator: pa, count = pages."""
    FRAMES_FREED = 4
    """Page frames may be used for something else from now on: pa, count = pages."""
    TABLES_ALLOCATED = 5
    """Frames became page tables. count = bytes."""
    TABLES_FREED = 6
    """Page tables became frames again, after their invalidation. count = bytes."""
    ENTRIES_WRITTEN = 7
    """Items of page tables were written. count."""
    MAPPED = 8
    """first..last translate to pa and on; for a device, where `cpus` names one. count = pages; page_lg2 = 0:
    the largest leaves that fit were asked for."""
    UNMAPPED = 9
    """first..last translated to pa and on, and no longer do in the tables; caches may still hold it."""
    INVALIDATED = 10
    """`cpus` dropped what they cached of first..last. count = pages one by one; 0 = everything."""
    INTERRUPTED = 11
    """`cpus` were interrupted by `cpu` to do so. count = how many."""
    ACCESSED = 12
    """`cpu` accessed first..last. count = accesses."""
    TLB_HITS = 13
    """count accesses were served by a TLB level below the first."""
    WALKS = 14
    """count accesses were served by no TLB."""
    WALK_REFERENCES = 15
    """Those walks read count items."""
    FAULTS = 16
    """count accesses found no translation that allows them."""
    STALE_HELD = 17
    """Frames at pa were freed while the TLBs of count CPUs (`cpus`) held a translation to them."""
    POOL_HIT = 18
    """An address came from a pool. count."""
    POOL_MISS = 19
    """An address came from the tree behind the pools. count."""
    DRAINED = 20
    """Lazily freed areas were given up together. count = areas."""
    CACHE_HIT = 21
    """A page had a ready mapping. count."""
    CACHE_MISS = 22
    """A page had none and got one. count."""
    ACKNOWLEDGED = 23
    """`cpu` waited until count CPUs (`cpus`) had answered its interrupt."""
    BROADCAST = 24
    """`cpu` told all other CPUs (`cpus`) with count broadcast commands, and waited for their end."""
    SWITCHED = 25
    """`cpu` turned to another process. count = 1 where what it had cached of it had to go, else 0."""
    SPLIT = 26
    """The leaf that holds first..last became smaller ones. count = bytes of the tables that took."""
    COLLAPSED = 27
    """Leaves of first..last became one. count = bytes of the tables that went."""
    POOL_TAKEN = 28
    """Frames that a strategy keeps for itself serve somebody: pa, count = pages."""
    POOL_RETURNED = 29
    """They may serve somebody else from now on: pa, count = pages."""
    FALLBACK = 30
    """Something was full, and a request was served in a dearer way. count."""
    DEVICE_INVALIDATED = 31
    """A device (`cpus`, numbered after the CPUs) dropped what it had. count = pages; 0 = all."""
    DEVICE_ACCESSED = 32
    """A device accessed first..last. count = accesses."""
    DEVICE_WALKS = 33
    """count of those were served by no TLB of the IOMMU."""
    DEVICE_REFERENCES = 34
    """Those walks read count items."""
    DEVICE_HITS = 40
    """count accesses of a device were served by the TLB that it has itself (ATS)."""
    DEVICE_TLB_INVALIDATED = 41
    """A device (`cpus`) dropped what its own TLB had, after the IOMMU had. count = pages; 0 = all."""
    CONTEXT_REFERENCES = 42
    """To learn by which tables a device translates, count items of context and process tables were read."""
    LINES_FLUSHED = 43
    """count lines of tables were flushed out of the CPU's caches, for a walker that does not look there."""

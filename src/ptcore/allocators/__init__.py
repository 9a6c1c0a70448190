"""Floor 4: who hands out addresses."""

from __future__ import annotations

from ptcore.allocators.address_tree import AddressTree
from ptcore.allocators.flush_queue import FlushQueues
from ptcore.allocators.iova import IovaAllocator

__all__ = ["AddressTree", "FlushQueues", "IovaAllocator"]

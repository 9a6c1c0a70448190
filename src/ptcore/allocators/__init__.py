"""Floor 4: who hands out addresses."""

from __future__ import annotations

from ptcore.allocators.address_tree import AddressTree

__all__ = ["AddressTree"]

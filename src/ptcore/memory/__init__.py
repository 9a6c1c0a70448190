"""Floor 2: bytes that hold tables."""

from __future__ import annotations

from ptcore.memory.physical import FrameAllocator, PhysicalMemory

__all__ = ["FrameAllocator", "PhysicalMemory"]

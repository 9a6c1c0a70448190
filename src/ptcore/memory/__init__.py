"""Floor 2: bytes that hold tables."""

from __future__ import annotations

from ptcore.memory.images import Cpu, Image, open_image
from ptcore.memory.physical import FrameAllocator, PhysicalMemory
from ptcore.memory.reader import PageReader

__all__ = ["Cpu", "FrameAllocator", "Image", "PageReader", "PhysicalMemory", "open_image"]

"""Floor 7: compare strategies; hold a model against what a kernel did."""

from __future__ import annotations

from ptcore.study.compare import Comparison, compare

__all__ = ["Comparison", "compare"]

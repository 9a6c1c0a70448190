"""Floor 7: compare strategies; hold a model against what a kernel did."""

from __future__ import annotations

from ptcore.study.compare import Comparison, compare, compare_all
from ptcore.study.outputs import NeedsPackage

__all__ = ["Comparison", "NeedsPackage", "compare", "compare_all"]

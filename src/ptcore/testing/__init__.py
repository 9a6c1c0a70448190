"""For other people's tests: Hypothesis strategies, a model of a page table, a state machine.

Needs Hypothesis: ``pip install 'ptcore[testing]'``. A format of your own is tested like this::

    from ptcore.testing import PageTableMachine

    class MyMachine(PageTableMachine):
        format = MY_FORMAT

    TestMyFormat = MyMachine.TestCase
"""

from __future__ import annotations

try:
    import hypothesis as _hypothesis  # noqa: F401 (named here so that its absence is explained once)
except ImportError as error:
    raise ImportError(
        "ptcore.testing needs hypothesis: pip install 'ptcore[testing]'", name="hypothesis"
    ) from error

from ptcore.testing import strategies
from ptcore.testing.model import Leaf, SpanModel
from ptcore.testing.state_machines import PageTableMachine

__all__ = ["Leaf", "PageTableMachine", "SpanModel", "strategies"]

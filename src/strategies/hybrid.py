"""hybrid: a strategy made of strategies, and of a rule that says which request goes to which.

No primary source describes one: mechanism and policy are ours, after the mix that a secondary
article mentions. A classifier looks at a request alone (size, purpose, device), never into the
parts; each part serves its own requests on the same machine. `study.compare` shows what it costs
beside its parts.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from ptcore.errors import NotAllocated
from ptcore.machine import Handle, Machine, Request, Strategy
from ptcore.strategies import Known, UnknownStrategy
from ptcore.strategies.iommu import Iommu
from ptcore.strategies.unmapped_pool import UnmappedPool
from ptcore.strategies.vmalloc import Vmalloc
from ptcore.units import Span

Classifier = Callable[[Request], str]
LARGE_PAGES = 512


def by_size_and_device(request: Request) -> str:
    """Device memory to the IOMMU, small requests to the pool, large ones to vmalloc."""
    if request.device is not None:
        return "iommu"
    return "pool" if request.pages <= LARGE_PAGES else "vmalloc"


class Hybrid:
    """`parts` by name, on one machine; `classify` names the part for a request."""

    def __init__(
        self,
        parts: Mapping[str, Strategy],
        classify: Classifier = by_size_and_device,
        name: str = "hybrid",
    ) -> None:
        self.name = name
        self.parts = dict(parts)
        self.classify = classify
        designs = [part.exposure_by_design for part in self.parts.values()]
        self.exposure_by_design = next((design for design in designs if design), None)
        self._live: dict[int, tuple[str, Handle]] = {}
        self._next = 0

    @property
    def stranded_pages(self) -> int:
        """Pages that parts keep and that serve nobody."""
        return sum(getattr(part, "stranded_pages", 0) for part in self.parts.values())

    def acquire(self, request: Request) -> Handle:
        """Let the part that the classifier names serve it. UnknownStrategy for a part that is not there."""
        chosen = self.classify(request)
        if chosen not in self.parts:
            raise UnknownStrategy(
                f"the classifier says {chosen!r}: parts are {', '.join(self.parts)}"
            )
        inner = self.parts[chosen].acquire(request)
        self._next += 1
        handle = Handle(self._next, inner.pages, inner.pa, inner.span)
        self._live[handle.number] = chosen, inner
        return handle

    def access(self, handle: Handle, span: Span, cpu: int, kind: str = "r") -> None:
        """Touch it where its part has it."""
        if handle.number not in self._live:
            raise NotAllocated(f"handle {handle.number} is not live")
        chosen, inner = self._live[handle.number]
        self.parts[chosen].access(inner, span, cpu, kind)

    def release(self, handle: Handle, cpu: int) -> None:
        """Give it back to its part."""
        if handle.number not in self._live:
            raise NotAllocated(f"handle {handle.number} is not live")
        chosen, inner = self._live[handle.number]
        self.parts[chosen].release(inner, cpu)
        del self._live[handle.number]

    def idle(self) -> None:
        """Let every part do what it put off."""
        for part in self.parts.values():
            part.idle()


def hybrid(machine: Machine) -> Hybrid:
    """Return the pool for small requests, lazy vmalloc for large ones, and the IOMMU for devices."""
    return Hybrid(
        {
            "pool": UnmappedPool(machine),
            "vmalloc": Vmalloc(machine, lazy=True),
            "iommu": Iommu(machine, deferred=False),
        }
    )


STRATEGIES = (
    Known(
        "hybrid",
        "Small requests to the unmapped pool, large ones to lazy vmalloc, a device's to the IOMMU.",
        "ours, after a secondary article's proposal",
        hybrid,
    ),
)

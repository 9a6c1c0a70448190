"""hybrid: a strategy made of strategies, and of a rule that says which request goes to which.

No primary source describes one: mechanism and policy are ours, after the mix that a secondary
article mentions. The rule looks at a request (size, device, whether it is sensitive) and at what the
hybrid itself has seen of requests like it: how long they lived, and how often each of their pages was
touched. It never looks into the parts, each of which serves its own requests on the same machine.
`ptcore.study.regret` shows, phase by phase, what it costs beside the best of its parts alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from ptcore.errors import NotAllocated
from ptcore.machine import Handle, Machine, Request, Strategy
from ptcore.strategies import Known, UnknownStrategy
from ptcore.strategies.ephemeral_map import EphemeralMap
from ptcore.strategies.iommu import Iommu
from ptcore.strategies.unmapped_pool import UnmappedPool
from ptcore.strategies.vmalloc import Vmalloc
from ptcore.units import Span

LARGE_PAGES = 512
HOT_TOUCHES = (
    4.0  # of each page in its life: ours; from here on a mapping of its own is written only once
)
LONG_NS = 1e6  # ours: what lives shorter is freed before a second look would pay
ENOUGH = 16  # requests of a kind before what was seen of them counts


@dataclass(slots=True)
class Seen:
    """What a hybrid has seen of one kind of request: how many ended, ns that they lived, touches per page."""

    ended: int = 0
    lived_ns: float = 0.0
    touches: float = 0.0

    def add(self, lived_ns: float, touches: float) -> None:
        """Take one more into the means."""
        self.ended += 1
        self.lived_ns += (lived_ns - self.lived_ns) / self.ended
        self.touches += (touches - self.touches) / self.ended


Classifier = Callable[[Request, Seen], str]


@dataclass(slots=True)
class _Life:
    part: str
    inner: Handle
    seen: Seen
    since_ns: int
    touches: int = 0


def by_what_is_known(request: Request, seen: Seen) -> str:
    """Name the part for a request.

    A device's to the IOMMU; sensitive ones where nothing outlives a release; large ones to vmalloc, and so
    are those whose like lived long and were touched often; all others to the pool.
    """
    if request.device is not None:
        return "iommu"
    if request.sensitive:
        return "secret"
    hot = seen.ended >= ENOUGH and seen.lived_ns >= LONG_NS and seen.touches >= HOT_TOUCHES
    return "vmalloc" if hot or request.pages > LARGE_PAGES else "pool"


class Hybrid:
    """`parts` by name, on one machine; `classify` names the part for a request."""

    def __init__(
        self,
        machine: Machine,
        parts: Mapping[str, Strategy],
        classify: Classifier = by_what_is_known,
        name: str = "hybrid",
    ) -> None:
        self.machine = machine
        self.name = name
        self.parts = dict(parts)
        self.classify = classify
        designs = [part.exposure_by_design for part in self.parts.values()]
        self.exposure_by_design = next((design for design in designs if design), None)
        self._live: dict[int, _Life] = {}
        self._seen: dict[tuple[str, int, str | None], Seen] = {}
        self._next = 0

    @property
    def stranded_pages(self) -> int:
        """Pages that parts keep and that serve nobody."""
        return sum(getattr(part, "stranded_pages", 0) for part in self.parts.values())

    def seen(self, request: Request) -> Seen:
        """What was seen of requests like this one: of its purpose, its size to a power of two, its device."""
        kind = request.purpose, request.pages.bit_length(), request.device
        found = self._seen.get(kind)
        if found is None:
            found = self._seen[kind] = Seen()
        return found

    def acquire(self, request: Request) -> Handle:
        """Let the part that the classifier names serve it. UnknownStrategy for a part that is not there."""
        seen = self.seen(request)
        chosen = self.classify(request, seen)
        if chosen not in self.parts:
            raise UnknownStrategy(
                f"the classifier says {chosen!r}: parts are {', '.join(self.parts)}"
            )
        inner = self.parts[chosen].acquire(request)
        self._next += 1
        handle = Handle(self._next, inner.pages, inner.pa, inner.span, inner.memory_type)
        self._live[handle.number] = _Life(chosen, inner, seen, self.machine.now_ns)
        return handle

    def _life(self, handle: Handle) -> _Life:
        life = self._live.get(handle.number)
        if life is None:
            raise NotAllocated(f"handle {handle.number} is not live")
        return life

    def access(self, handle: Handle, span: Span, cpu: int, kind: str = "r") -> None:
        """Touch it where its part has it."""
        life = self._life(handle)
        self.parts[life.part].access(life.inner, span, cpu, kind)
        page = self.machine.page_bytes
        life.touches += span.last // page - span.start // page + 1

    def release(self, handle: Handle, cpu: int) -> None:
        """Give it back to its part."""
        life = self._life(handle)
        self.parts[life.part].release(life.inner, cpu)
        del self._live[handle.number]
        life.seen.add(self.machine.now_ns - life.since_ns, life.touches / handle.pages)

    def idle(self) -> None:
        """Let every part do what it put off."""
        for part in self.parts.values():
            part.idle()


def hybrid(machine: Machine) -> Hybrid:
    """Return the pool, lazy vmalloc, the IOMMU, and eager ephemeral maps for what is sensitive."""
    pool = UnmappedPool(machine)
    return Hybrid(
        machine,
        {
            "pool": pool,
            "vmalloc": Vmalloc(machine, lazy=True),
            "iommu": Iommu(machine, deferred=False),
            "secret": EphemeralMap(machine, eager=True, window=pool.window),
        },
    )


STRATEGIES = (
    Known(
        "hybrid",
        "A device's requests to the IOMMU, hot and large ones to vmalloc, others to the unmapped pool.",
        "ours, after a secondary article's proposal",
        hybrid,
    ),
)

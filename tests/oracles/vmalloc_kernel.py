"""The kernel's lazy vmalloc areas, told with lists and linear searches, and a recorder of traces.

`Kernel` follows Linux mm/vmalloc.c (v6.18) step by step; every list is a plain list with the
kernel's head at index 0. `record` runs a random workload on it and writes what tracefs would have
written, including what a recording does to a reader: it starts in the middle of things, drains run
late and beside other CPUs, and lines of different CPUs change places.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field

PAGE = 4096
VMALLOC_START = 0xFFFFC90000000000
VMALLOC_END = 0xFFFFE8FFFFFFFFFF
MODULES_START = 0xFFFFFFFFC0000000
MODULES_END = 0xFFFFFFFFFF000000


class Kernel:
    """Nodes, pools, lazy lists and the free holes, as naively as they can be written."""

    def __init__(self, cpus, start=VMALLOC_START, end=VMALLOC_START + (1 << 40)):
        self.cpus = cpus
        self.start = start
        self.holes = [(start, end)]
        self.nodes = [{"pools": {}, "lazy": [], "purge": []} for _ in range(cpus)]
        self.busy = {}
        self.nr_lazy = 0
        bits = 0
        while cpus >> bits:
            bits += 1
        self.nr_lazy_max = bits * 32 * 1024 * 1024 // PAGE

    def allocate(self, cpu, size, align=1):
        node_id = cpu % len(self.nodes)
        start = None
        if len(self.nodes) > 1:
            pool = self.nodes[node_id]["pools"].get(size, [])
            if pool:
                if pool[0] % align == 0:
                    start = pool.pop(0)
                else:
                    pool.append(pool.pop(0))
        else:
            node_id = None
        if start is None:
            start = self.from_holes(size, align)
        self.busy[start] = (size, node_id)
        return start

    def from_holes(self, size, align):
        wanted = size if align <= PAGE else size + align - 1
        for hole in self.holes:
            if hole[1] - hole[0] >= wanted:
                start = hole[0]
                while start % align:
                    start += PAGE
                self.holes.remove(hole)
                if hole[0] < start:
                    self.holes.append((hole[0], start))
                if start + size < hole[1]:
                    self.holes.append((start + size, hole[1]))
                self.holes.sort()
                return start
        raise MemoryError(size)

    def give_back(self, start, size):
        end = start + size
        for hole in [h for h in self.holes if h[1] == start or h[0] == end]:
            self.holes.remove(hole)
            start = min(start, hole[0])
            end = max(end, hole[1])
        self.holes.append((start, end))
        self.holes.sort()

    def free(self, start):
        size, node_id = self.busy.pop(start)
        self.nr_lazy += size // PAGE
        at = start // (16 * PAGE) % len(self.nodes) if node_id is None else node_id
        self.nodes[at]["lazy"].append((start, size, node_id))
        return self.nr_lazy

    def begin_drain(self, full=False):
        span = []
        for node in self.nodes:
            for size, pool in node["pools"].items():
                for _ in range(len(pool) if full else len(pool) // 4):
                    self.give_back(pool.pop(0), size)
            node["purge"] = sorted(node["lazy"])
            node["lazy"] = []
            span += [edge for start, size, _ in node["purge"] for edge in (start, start + size)]
        self.full = full
        return (min(span), max(span)) if span else (2**64 - 1, 0)

    def finish_node(self, node):
        purged = 0
        for start, size, node_id in node["purge"]:
            if node_id is not None and size <= 256 * PAGE and not self.full:
                node["pools"].setdefault(size, []).insert(0, start)
            else:
                self.give_back(start, size)
            purged += 1
            self.nr_lazy -= size // PAGE
        node["purge"] = []
        return purged

    def drain(self, full=False):
        self.begin_drain(full)
        return sum(self.finish_node(node) for node in self.nodes)


@dataclass
class Scenario:
    """A workload and the circumstances of its recording; times in microseconds."""

    seed: int = 0
    cpus: int = 2
    operations: int = 4000
    unrecorded: int = 1500
    live: int = 40
    sizes: tuple = (3, 4, 5, 7, 10, 18, 34, 66, 130, 258, 514, 1026, 2562)
    stacks: float = 0.05
    migrate: float = 0.05
    burst: int = 12
    gap: float = 60.0
    per_page: float = 0.17
    fixtures: int = 60
    delay: tuple = (30.0, 400.0)
    drain: tuple = (2.0, 8.0)
    swaps: float = 0.0
    aliases: float = 0.0
    modules: float = 0.0
    truth: dict = field(default_factory=dict)


class Recorder:
    """Runs one scenario; `lines` are (microseconds, text)."""

    def __init__(self, scenario):
        self.s = scenario
        self.random = random.Random(scenario.seed)
        self.kernel = Kernel(scenario.cpus)
        self.lines = []
        self.recording = False
        self.time = 700_000_000.0
        self.pending = None
        self.ending = None
        self.drains = 0
        self.by_limit = 0
        self.modules = MODULES_START
        self.freeing = 0.0

    def emit(self, cpu, event, pid=100, flags=".....", time=None):
        if self.recording:
            now = int(self.time if time is None else time)
            stamp = f"{now // 1_000_000}.{now % 1_000_000:06d}"
            text = f"{'task':>16}-{pid} [{cpu:03d}] {flags} {stamp:>12}: {event}"
            self.lines.append((cpu, text))

    def elsewhere(self, cpu):
        """The CPU that drains does nothing else; with one CPU the drain is over first."""
        while self.ending is not None and self.ending[1] == cpu:
            if self.s.cpus > 1:
                return (cpu + 1) % self.s.cpus
            self.time = self.ending[0]
            self.tick()
        return cpu

    def allocate(self, cpu, pages, align=1):
        self.tick()
        cpu = self.elsewhere(cpu)
        start = self.kernel.allocate(cpu, pages * PAGE, align)
        self.emit(
            cpu,
            f"alloc_vmap_area: va_start: {start} size={pages * PAGE} align={align} "
            f"vstart={VMALLOC_START:#x} vend={VMALLOC_END:#x} failed=0",
        )
        return start

    def allocate_module(self, cpu, pages):
        self.tick()
        cpu = self.elsewhere(cpu)
        start = self.modules
        self.modules += pages * PAGE
        self.kernel.busy[start] = (pages * PAGE, None)
        self.emit(
            cpu,
            f"alloc_vmap_area: va_start: {start} size={pages * PAGE} align=1 "
            f"vstart={MODULES_START:#x} vend={MODULES_END:#x} failed=0",
        )
        return start

    def free(self, cpu, start):
        self.tick()
        cpu = self.elsewhere(cpu)
        # vfree() gives the pages back after the area is filed, one by one.
        self.freeing = self.kernel.busy[start][0] // PAGE * self.s.per_page
        lazy = self.kernel.free(start)
        limit = self.kernel.nr_lazy_max
        self.emit(
            cpu,
            f"free_vmap_area_noflush: va_start={start:#x} nr_lazy={lazy} nr_lazy_max={limit}",
            pid=35,
            flags="....1",
        )
        if lazy > limit and self.pending is None:
            self.pending = (self.time + self.random.uniform(*self.s.delay), cpu, True)

    def tick(self):
        """Let time pass, and the drains that fall into it begin and end."""
        until = self.time + self.random.expovariate(1 / self.s.gap) + self.freeing
        self.freeing = 0.0
        while True:
            if self.ending is not None and self.ending[0] <= until:
                self.time = self.ending[0]
                self.end_drain()
            elif self.ending is None and self.pending is not None and self.pending[0] <= until:
                self.time = max(self.time, self.pending[0])
                self.begin_drain()
            else:
                break
        self.time = until

    def begin_drain(self):
        _, cpu, by_limit = self.pending
        self.pending = None
        span = self.kernel.begin_drain()
        for target in range(self.s.cpus):
            if target != cpu and span[1]:
                self.emit(
                    cpu,
                    f"ipi_send_cpu: cpu={target} "
                    "callback=generic_smp_call_function_single_interrupt+0x0/0x10",
                    pid=11,
                    flags="...2.",
                )
        if self.recording:
            self.by_limit += by_limit
        self.ending = (self.time + self.random.uniform(*self.s.drain), cpu, span)

    def end_drain(self):
        _, cpu, span = self.ending
        self.ending = None
        purged = sum(self.kernel.finish_node(node) for node in self.kernel.nodes)
        self.drains += self.recording
        self.emit(
            cpu,
            f"purge_vmap_area_lazy: start={span[0]:#x} end={span[1]:#x} num_purged={purged}",
            pid=11,
        )

    def run(self):
        s, pick = self.s, self.random
        kept = [self.kernel.allocate(0, pick.choice(s.sizes) * PAGE) for _ in range(s.fixtures)]
        for start in kept[::2]:
            self.kernel.free(start)
        live, cpu, freeing = [], 0, False
        for step in range(s.unrecorded + s.operations):
            self.recording = step >= s.unrecorded
            if pick.random() < s.migrate:
                cpu = pick.randrange(s.cpus)
            if pick.random() < 1 / s.burst:
                freeing = not freeing
            if pick.random() < s.aliases and self.pending is None and self.ending is None:
                self.pending = (self.time, cpu, False)
            if (freeing or len(live) >= s.live) and live:
                self.free(pick.randrange(s.cpus), live.pop(pick.randrange(len(live))))
            elif pick.random() < s.stacks:
                live.append(self.allocate(cpu, 5, 16384))
            elif pick.random() < s.modules:
                live.append(self.allocate_module(cpu, pick.randrange(2, 40)))
            else:
                live.append(self.allocate(cpu, pick.choice(s.sizes)))
        self.time += 1e6
        self.tick()
        self.tick()

    def text(self):
        lines = list(self.lines)
        at = 0
        swapped = 0
        while at + 1 < len(lines):
            here, there = lines[at], lines[at + 1]
            both = "free_vmap" in here[1] and "free_vmap" in there[1]
            if both and here[0] != there[0] and self.random.random() < self.s.swaps:
                lines[at : at + 2] = [there, here]
                swapped += 1
                at += 1
            at += 1
        self.s.truth.update(drains=self.drains, by_limit=self.by_limit, swapped=swapped)
        head = f"# tracer: nop\n#\n# entries-in-buffer/entries-written: 1/1   #P:{self.s.cpus}\n#\n"
        return head + "".join(text + "\n" for _, text in lines)


def record(scenario):
    """Return the trace of a scenario as text; its `truth` is filled in."""
    recorder = Recorder(scenario)
    recorder.run()
    return recorder.text()

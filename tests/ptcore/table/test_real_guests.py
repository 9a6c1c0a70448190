"""Page tables that real Linux kernels made: ptcore against QEMU's answers and the kernels' own.

The snapshots are made by tests/guests/make.py; tests/golden/guests/README.md says of what. QEMU 7.2's
monitor: target/i386/monitor.c and target/riscv/monitor.c (`info tlb`, `info mem`), monitor/misc.c
(`gva2gpa`).
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

import ptcore
from guests import snapshots
from guests.snapshots import Guest
from ptcore import AddressSpace, PageTable, Status, formats
from ptcore.table.rows import Right, RowKind

NAMES = snapshots.names()
ALL_ONES = (1 << 64) - 1
# Documentation/admin-guide/mm/pagemap.rst
PRESENT, FRAME = np.uint64(1 << 63), np.uint64((1 << 55) - 1)
RFLAGS_AC = 1 << 18
SSTATUS_SUM = 1 << 18

Array = npt.NDArray[Any]


@cache
def guest_of(name: str) -> Guest:
    return snapshots.load(name)


@pytest.fixture(params=NAMES)
def guest(request: pytest.FixtureRequest) -> Guest:
    return guest_of(request.param)


@pytest.fixture(params=[(name, cpu) for name in NAMES for cpu in range(3)], ids=str)
def cpu_of(request: pytest.FixtureRequest) -> tuple[Guest, int]:
    name, cpu = request.param
    return guest_of(name), cpu


def test_there_are_guests_of_three_architectures() -> None:
    kinds = Counter(guest_of(name).architecture for name in NAMES)
    assert set(kinds) == {"x86_64", "aarch64", "riscv64"}
    assert len(NAMES) == 8


def monitored(guest: Guest, cpu: int) -> tuple[AddressSpace, bool]:
    """The space as QEMU's monitor reads it, and whether it asks as user mode does.

    On x86 it looks at no rights; elsewhere it reads as the CPU would in the mode that it is in, with
    user pages open to the supervisor on RISC-V.
    """
    registers = guest.registers[cpu]
    if guest.architecture == "x86_64":
        registers["rflags"] |= RFLAGS_AC  # what SMAP asks for
        return AddressSpace.from_registers("x86_64", guest.memory, **registers), False
    if guest.architecture == "riscv64":
        registers["adue"] = 1  # QEMU 7.2 sets A and D by itself
        registers["sstatus"] |= (
            SSTATUS_SUM  # what a debugger asks for (get_physical_address, is_debug)
        )
    space = AddressSpace.from_registers(guest.architecture, guest.memory, **registers)
    return space, guest.user[cpu]


def test_every_address_translates_as_qemu_says(cpu_of: tuple[Guest, int]) -> None:
    guest, cpu = cpu_of
    space, user = monitored(guest, cpu)
    vas, wanted = guest.arrays[f"gva_{cpu}"], guest.arrays[f"gpa_{cpu}"]
    pas, statuses = space.translate_many(vas, "r", user)
    # The monitor answers with the address of the page for which the CPU has no byte address.
    wrong = np.flatnonzero(pas != wanted)
    assert [
        (hex(vas[n]), hex(pas[n]), hex(wanted[n]), Status(statuses[n]).name) for n in wrong[:5]
    ] == []
    outcomes = Counter(Status(status).name for status in statuses.tolist())
    assert outcomes["OK"] > 500, outcomes
    assert outcomes["NOT_PRESENT"] > 250, outcomes
    assert outcomes["NOT_CANONICAL"] > 50, outcomes
    if user:
        assert outcomes["PERMISSION"] > 500, outcomes
    assert "BUS" not in outcomes
    scalar = np.random.default_rng(cpu).choice(len(vas), 300, replace=False)
    for n in scalar.tolist():
        walk = space.walk(int(vas[n]))
        if statuses[n] == Status.OK:
            assert walk.pa == pas[n] == space.translate(int(vas[n]), "r", user)
        elif statuses[n] != Status.PERMISSION:
            assert walk.status == statuses[n]
        if statuses[n] != Status.OK:
            with pytest.raises(ptcore.errors.Fault):
                space.translate(int(vas[n]), "r", user)


# -- listings --------------------------------------------------------------------------------


def leaf_rows(
    space: AddressSpace, first: int = 0, last: int = ALL_ONES
) -> Iterator[tuple[Any, int]]:
    """Rows of leaves, aliases spelt out, each with the distance to where it is listed."""
    for row in space.mappings(first, last):
        assert row["kind"] in (RowKind.LEAF, RowKind.REPEAT), row
        if row["kind"] == RowKind.LEAF:
            yield row, 0
            continue
        size, at = int(row["page_size"]), int(row["repeat_of"])
        for start in range(int(row["first"]), int(row["last"]) + 1, size):
            for inner, shift in leaf_rows(space, at, at + size - 1):
                yield inner, shift + start - at


@cache
def leaves(name: str, cpu: int) -> Array:
    """Every leaf that a CPU has: rows of (va, pa, size, rights), ascending."""
    space, _ = monitored(guest_of(name), cpu)
    found = []
    for row, shift in leaf_rows(space):
        size = int(row["page_size"])
        count = (int(row["last"]) - int(row["first"]) + 1) // size
        number = np.arange(count, dtype=np.uint64) * np.uint64(size)
        part = np.empty((count, 4), dtype=np.uint64)
        part[:, 0] = np.uint64((int(row["first"]) + shift) & ALL_ONES) + number
        part[:, 1] = row["pa"] + number
        part[:, 2:] = size, row["rights"]
        found.append(part)
    every = np.concatenate(found)
    ordered: Array = every[np.argsort(every[:, 0])]
    return ordered


def test_the_listing_is_what_translate_many_says(cpu_of: tuple[Guest, int]) -> None:
    guest, cpu = cpu_of
    space, _ = monitored(guest, cpu)
    every = leaves(guest.name, cpu)
    vas, pas, sizes = every[:, 0], every[:, 1], every[:, 2]
    rights = every[:, 3].astype(np.uint8)
    assert len(every) > 900
    assert (vas[1:] >= vas[:-1] + sizes[:-1]).all(), "no leaf overlaps another"
    for letter, needed in (("r", Right.READ), ("w", Right.WRITE), ("x", Right.EXECUTE)):
        _, statuses = space.translate_many(vas, letter, True)
        # A format in which user mode has rights of its own says so with other bits.
        own = {"w": Right.USER_WRITE, "x": Right.USER_EXECUTE}.get(letter, 0)
        bit = own if own and space.tables[0].format.rights & own else needed | Right.USER
        granted = rights & np.uint8(bit) == np.uint8(bit)
        assert ((statuses == Status.OK) == granted).all()
        # An idle CPU behind page-table isolation has the kernel's half alone.
        assert granted.any() or cpu == 2
        assert not granted.all()
    for offset in (np.zeros_like(sizes), sizes - np.uint64(1), sizes // np.uint64(3)):
        mapped, statuses = space.translate_many(vas + offset, "r", False)
        good = statuses == Status.OK
        assert (mapped[good] == (pas + offset)[good]).all()
        assert set(np.unique(statuses)) <= {Status.OK, Status.PERMISSION}
        assert good.sum() > 500


TLB_LINE = re.compile(r"([0-9a-f]{16}): ([0-9a-f]{16}) ([XGPDACTUW-]{9})")
# Bits of an entry, in the order of the letters (target/i386/monitor.c, print_pte).
TLB_BITS = (63, 8, 7, 6, 5, 4, 3, 2, 1)


@pytest.mark.parametrize("cpu", range(3))
@pytest.mark.parametrize("name", [name for name in NAMES if name.startswith("x86")])
def test_info_tlb_is_the_listing_line_by_line(name: str, cpu: int) -> None:
    guest = guest_of(name)
    space, _ = monitored(guest, cpu)
    lines = [TLB_LINE.fullmatch(line) for line in guest.said("info tlb", cpu).splitlines()]
    assert None not in lines
    said = [(int(m[1], 16), int(m[2], 16), m[3]) for m in lines if m]
    assert len(said) > 900
    every = leaves(name, cpu)
    assert [row[:2] for row in said] == [tuple(row) for row in every[:, :2].tolist()]
    sizes = Counter(every[:, 2].tolist())
    letters: Counter[str] = Counter()
    for va, _, text in said[cpu::3]:  # a third of the lines each: the CPUs share most tables
        walk = space.walk(va)
        entry = walk.path[-1].entry
        # QEMU clears bit 63 before it shows it in the 4-level form.
        shown = [bool(entry >> bit & 1) for bit in TLB_BITS]
        assert [letter != "-" for letter in text][1:] == shown[1:], (hex(va), text, hex(entry))
        marks = (walk.global_, walk.dirty, walk.accessed)
        assert marks == tuple(text[n] != "-" for n in (1, 3, 4)), (hex(va), text)
        letters.update(text)
    assert {4096, 1 << 21} <= set(sizes), sizes
    assert min(letters[letter] for letter in "GDAUW") > 10, letters


def merged(rows: list[tuple[int, int, Any]]) -> list[tuple[int, int, Any]]:
    """Spans (first, end, attribute) of equal attributes that touch, as one."""
    found: list[tuple[int, int, Any]] = []
    for first, end, what in rows:
        if found and found[-1][1] == first and found[-1][2] == what:
            found[-1] = (found[-1][0], end, what)
        else:
            found.append((first, end, what))
    return found


@pytest.mark.parametrize("cpu", range(3))
@pytest.mark.parametrize("name", [n for n in NAMES if n.startswith("x86_64-4")])
def test_info_mem_of_four_levels_is_the_listing_by_user_and_write(name: str, cpu: int) -> None:
    guest = guest_of(name)
    said = []
    for line in guest.said("info mem", cpu).splitlines():
        first, end, size, letters = re.split(r"[- ]", line, maxsplit=3)
        assert int(first, 16) + int(size, 16) == int(end, 16)
        said.append((int(first, 16), int(end, 16), (letters[0] == "u", letters[2] == "w")))
    rows = [
        (va, va + size, (bool(rights & Right.USER), bool(rights & Right.WRITE)))
        for va, _, size, rights in leaves(name, cpu).tolist()
    ]
    assert merged(rows) == said
    assert len({what for _, _, what in said}) == 4


MEM_LINE = re.compile(r"([0-9a-f]{16}) ([0-9a-f]{16}) ([0-9a-f]{16}) ([rwxugad-]{7})")


Run = tuple[int, int, int, str]


def joined(lines: list[Run]) -> list[Run]:
    """Runs (va, pa, size, letters) that go on in both addresses with equal letters, as one."""
    found: list[Run] = []
    for va, pa, size, letters in lines:
        if found:
            first, where, length, same = found[-1]
            if (first + length, where + length, same) == (va, pa, letters):
                found[-1] = (first, where, length + size, letters)
                continue
        found.append((va, pa, size, letters))
    return found


@pytest.mark.parametrize("cpu", range(3))
@pytest.mark.parametrize("name", [name for name in NAMES if name.startswith("riscv")])
def test_info_mem_of_riscv_is_the_listing_by_runs_of_equal_entries(name: str, cpu: int) -> None:
    guest = guest_of(name)
    space, _ = monitored(guest, cpu)
    lines = guest.said("info mem", cpu).splitlines()[2:]
    found = [MEM_LINE.fullmatch(line) for line in lines]
    assert None not in found
    said = [(*(int(m[n], 16) for n in (1, 2, 3)), m[4]) for m in found if m]
    ours: list[Run] = []
    for va, pa, size, _ in leaves(name, cpu).tolist():
        walk = space.walk(va)
        entry = walk.path[-1].entry
        number = "".join(letter if entry >> n & 1 else "-" for n, letter in enumerate(" rwxugad"))
        # QEMU reads what the extensions keep above the frame's number, and below it in a 64K page, as
        # a part of the number: its address is wrong there, its other columns are right.
        told = (entry >> 10 << 12) & ALL_ONES
        pages = (
            [(va + n * 4096, told) for n in range(size // 4096)] if entry >> 63 else [(va, told)]
        )
        for at, address in pages:
            length = 4096 if entry >> 63 else size
            ours.append((at, address, length, number[1:]))
        assert walk.rights is not None
        assert pa == walk.pa
    # QEMU begins a line anew with each table: both are joined as far as they go on.
    assert joined(said) == joined(ours)
    assert len(said) > 200


# -- what the kernel says ---------------------------------------------------------------------


def areas_of_maps(guest: Guest, process: int) -> list[tuple[int, int, str, str]]:
    """(first, end, permissions, name) of /proc/PID/maps, without what lies in the kernel's half."""
    pattern = re.compile(rf"MAPS {process} ([0-9a-f]+)-([0-9a-f]+) (\S+) \S+ \S+ \S+ *(.*)")
    found = [m for m in map(pattern.match, guest.console()) if m and "vsyscall" not in m.string]
    return [(int(m[1], 16), int(m[2], 16), m[3], m[4]) for m in found]


@pytest.mark.parametrize("which", range(2))
def test_every_page_is_where_pagemap_says(guest: Guest, which: int) -> None:
    process = guest.processes[which]
    space, _ = monitored(guest, which)
    entries = guest.pagemap(process)
    said = dict(zip(entries[:, 0].tolist(), entries[:, 1].tolist(), strict=True))
    outcomes: Counter[str] = Counter()
    for first, end, permissions, name in areas_of_maps(guest, process):
        vas = np.arange(first, end, guest.page_bytes, dtype=np.uint64)
        word = np.array([said.get(va, 0) for va in vas.tolist()], dtype=np.uint64)
        there = word & PRESENT != 0
        pas, statuses = space.translate_many(vas, "r", True)
        if name.startswith("[vvar"):
            # Linux fs/proc/task_mmu.c, mm/pagewalk.c (walk_page_test): what is mapped by frame numbers
            # alone is a hole to pagemap.
            assert not there.any()
            outcomes["by number"] += int((statuses == Status.OK).sum())
            continue
        if permissions.startswith("---"):
            # The kernel says "present" of pages that PROT_NONE hides; the CPU does not.
            assert (statuses == Status.NOT_PRESENT).all()
            outcomes["hidden"] += int(there.sum())
            outcomes["guarded"] += int((~there).sum())
            continue
        frames = (word & FRAME) * np.uint64(guest.page_bytes)
        wrong = np.flatnonzero(there & (pas != frames))
        assert [(hex(vas[n]), hex(pas[n]), hex(frames[n])) for n in wrong[:5]] == []
        assert (statuses[~there] == Status.NOT_PRESENT).all()
        outcomes["present"] += int(there.sum())
        outcomes["absent"] += int((~there).sum())
    assert outcomes["present"] > 500, outcomes
    assert outcomes["absent"] > 500, outcomes
    assert outcomes["hidden"] == 2, outcomes
    assert outcomes["guarded"] >= 4, outcomes


@pytest.mark.parametrize("which", range(2))
@pytest.mark.parametrize("name", [name for name in NAMES if name.startswith("x86")])
def test_presence_as_linux_sees_it_finds_the_pages_that_prot_none_hides(
    name: str, which: int
) -> None:
    guest = guest_of(name)
    hardware = guest.space(which).tables[0]
    assert isinstance(hardware, PageTable)
    fmt = formats.get(hardware.format.name, presence="linux")
    table = PageTable(fmt, guest.memory, hardware.root)
    entries = guest.pagemap(guest.processes[which])
    there = entries[:, 1] & PRESENT != 0
    pas, statuses = table.translate_many(entries[:, 0])
    frames = (entries[:, 1] & FRAME) * np.uint64(guest.page_bytes)
    assert (pas[there] == frames[there]).all()
    assert (statuses[there] == Status.OK).all()
    assert there.sum() > 500
    # The address of a page that PROT_NONE hides is inverted in its entry; to user mode it is closed.
    _, seen = hardware.translate_many(entries[:, 0])
    hidden = there & (seen == Status.NOT_PRESENT)
    assert hidden.sum() == 2
    _, closed = table.translate_many(entries[hidden, 0], "r", True)
    assert (closed == Status.PERMISSION).all()


def test_memory_mapped_in_known_ways_is_found_so(guest: Guest) -> None:
    seen: Counter[str] = Counter()
    firsts: dict[tuple[str, int], list[int]] = {}
    page = guest.page_bytes
    for area in guest.areas():
        which = guest.processes.index(area.process)
        space, _ = monitored(guest, which)
        walks = [space.walk(va) for va in range(area.first, area.first + area.size, page)[:64]]
        mapped = [n for n, walk in enumerate(walks) if walk.status == Status.OK]
        wanted, size = expected(area, page)
        if wanted is not None:
            assert mapped == wanted, area
        if size is not None:
            assert walks[0].page_size == size, (area, walks[0])
        kind = area.kind.partition("-")[0]
        seen[kind] += 1
        if kind in ("small", "shared", "copied"):
            for n in mapped:
                firsts.setdefault((kind, n), []).append(int(walks[n].pa or 0))
        if kind == "zero":
            assert len({walk.pa for walk in walks[:6]}) == 1
            assert walks[6].pa != walks[0].pa
        if kind == "protected":
            with pytest.raises(ptcore.errors.PermissionDenied):
                space.translate(area.first + 4 * page, "w", True)
            space.translate(area.first + 6 * page, "x", True)
            with pytest.raises(ptcore.errors.PermissionDenied):
                space.translate(area.first + 6 * page, "w", True)
    assert {"small", "protected", "guard", "zero", "file", "copied", "shared", "thp"} <= set(seen)
    assert seen["hugetlb"] >= 2
    for (kind, n), pas in firsts.items():
        if kind == "small" or (kind == "copied" and n in (1, 3)):
            assert pas[0] != pas[1], "each process has its own"
        else:
            assert pas[0] == pas[1], "both processes see one"


def expected(area: snapshots.Area, page: int) -> tuple[list[int] | None, int | None]:
    """Which pages of an area (of its first 64) are mapped, and with pages of what size: None if open."""
    kind, _, rest = area.kind.partition("-")
    if kind == "hugetlb":
        return None, int(rest.removesuffix("k")) * 1024
    return {
        "small": ([*range(5), 6, *range(9, 16)], page),
        "protected": ([0, 1, 4, 5, 6, 7], page),
        "guard": ([], None),
        "zero": (list(range(7)), page),
        "shared": (list(range(8)), page),
        "thp": (list(range(64)), page // 8 * page),
        "high": ([0, 2], page),
        "key": (list(range(4)), page),
    }.get(kind, (None, None))


def test_bytes_that_a_process_wrote_are_read_back_through_its_tables(guest: Guest) -> None:
    found = 0
    for area in guest.areas():
        if area.kind.partition("-")[0] not in ("small", "thp", "hugetlb", "high"):
            continue
        space, _ = monitored(guest, guest.processes.index(area.process))
        text = guest.memory.read(space.translate(area.first, "r", True), 16)
        assert text == b"ptcore".ljust(8) + area.first.to_bytes(8, "little"), area
        found += 1
    assert found >= 8


def test_protection_keys_are_in_the_leaves() -> None:
    found = 0
    for name in NAMES:
        for area in guest_of(name).areas():
            if area.kind.startswith("key-"):
                space = guest_of(name).space(guest_of(name).processes.index(area.process))
                keys = [space.walk(area.first + n * 4096).pkey for n in range(4)]  # type: ignore[union-attr]
                key = int(area.kind.partition("-")[2])
                assert keys == [key, key, 0, 0]
                found += 1
    assert found == 4


# -- the same, out of files -------------------------------------------------------------------


def test_an_elf_core_of_the_snapshot_opens_with_the_cpus_of_qemus_notes(
    guest: Guest, tmp_path: Path
) -> None:
    path = tmp_path / "guest.elf"
    snapshots.write_elf(guest, path)
    image = ptcore.open_image(path)
    assert len(image.cpus) == 3
    assert {cpu.architecture for cpu in image.cpus} == {guest.architecture}
    for cpu, known in zip(image.cpus, guest.registers, strict=True):
        # IA32_EFER is in no note: the reader supposes it.
        same = set(cpu.registers) & set(known) - {"efer"}
        assert {name: cpu.registers[name] for name in same} == {name: known[name] for name in same}
    if guest.architecture == "x86_64":
        assert {"cr0", "cr3", "cr4"} <= set(image.cpus[0].registers)
    space = AddressSpace.from_registers(guest.architecture, image, **guest.registers[0])
    assert (space.mappings() == guest.space(0).mappings()).all()


def test_a_raw_image_of_the_snapshot_holds_the_tables(guest: Guest, tmp_path: Path) -> None:
    path = tmp_path / "guest.raw"
    snapshots.write_raw(guest, path)
    assert path.stat().st_blocks * 512 < 16 << 20, "the rest is a hole"
    space = AddressSpace.from_registers(
        guest.architecture, ptcore.open_image(path, form="raw"), **guest.registers[0]
    )
    assert (space.mappings() == guest.space(0).mappings()).all()

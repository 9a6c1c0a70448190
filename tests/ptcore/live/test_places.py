"""Where machines listen, which memory they have, and what their registers are called."""

from __future__ import annotations

from pathlib import Path

import pytest

from guests import snapshots
from ptcore import AddressSpace
from ptcore.errors import ImageError
from ptcore.formats import debuggers, registers
from ptcore.live.memory_map import memory_spans
from ptcore.live.sockets import address_of
from ptcore.units import Span

# As QEMU 7.2 prints it of `qemu-system-x86_64 -m 5G`, shortened.
MAP = """\
FlatView #0
 AS "I/O", root: io
 Root memory region: io
  0000000000000000-0000000000000007 (prio 0, i/o): dma-chan
  0000000000001000-0000000000001fff (prio 0, ram): no memory of a CPU

FlatView #1
 AS "memory", root: system
 AS "cpu-memory-0", root: system
 Root memory region: system
  0000000000000000-00000000000bffff (prio 0, ram): pc.ram
  00000000000c0000-00000000000dffff (prio 1, rom): pc.rom
  00000000000e0000-00000000000fffff (prio 0, rom): pc.bios @0000000000020000
  0000000000100000-00000000bfffffff (prio 0, ram): pc.ram @0000000000100000
  00000000fec00000-00000000fec00fff (prio 0, i/o): ioapic
  00000000fee00800-00000000fee01fff (prio 0, ram): not whole pages
  00000000fffc0000-00000000ffffffff (prio 0, rom): pc.bios
  0000000100000000-000000017fffffff (prio 0, ram): pc.ram @00000000c0000000
"""


def test_memory_is_the_ram_and_rom_of_the_first_cpu_in_whole_pages() -> None:
    assert memory_spans(MAP, 4096) == (
        Span(0, 0xBFFFFFFF),
        Span(0xFEE01000, 0xFEE01FFF),
        Span(0xFFFC0000, 0x17FFFFFFF),
    )


@pytest.mark.parametrize(
    "text", ["", MAP.replace("cpu-memory-0", "other"), MAP.replace(", r", ", x")]
)
def test_a_map_that_shows_no_memory_is_refused(text: str) -> None:
    with pytest.raises(ImageError):
        memory_spans(text, 4096)


@pytest.mark.parametrize(
    ("place", "address"),
    [
        ("unix:/run/qmp", "/run/qmp"),
        ("unix:/run/qmp,server=on,wait=off", "/run/qmp"),
        (Path("/run/gdb"), "/run/gdb"),
        ("localhost:1234", ("localhost", 1234)),
        ("tcp::1234", ("localhost", 1234)),
        (("::1", 1234), ("::1", 1234)),
        ("gdb", "gdb"),
    ],
)
def test_places_are_written_as_qemu_takes_them(place: object, address: object) -> None:
    assert address_of(place) == address  # type: ignore[arg-type]


def test_a_port_that_is_no_number_is_refused() -> None:
    with pytest.raises(ValueError, match="HOST:PORT"):
        address_of("localhost:gdb")


@pytest.mark.parametrize("name", snapshots.names())
def test_what_debuggers_show_comes_to_the_registers_of_the_guest(name: str) -> None:
    guest = snapshots.load(name)
    known = debuggers.of_target(guest.architecture)
    assert known is not None
    assert known.name in registers.architectures()
    for given in guest.registers:
        shown = dict(given)
        shown["eflags"] = shown.pop("rflags", 0)
        shown["sctlr"] = shown.pop("sctlr_el1", 0)
        shown["cpsr"] = shown.pop("pan", 0) << 22 | 0x4
        shown["hcr_el2"] = 0
        assert known.settle(shown) == given
        AddressSpace.from_registers(known.name, guest.memory, **known.settle(shown))


def test_a_hypervisor_on_aarch64_is_translated_by_the_registers_of_its_level() -> None:
    known = debuggers.of_description("aarch64")
    assert known is not None
    every = {f"{name}_el{n}": n for name in ("ttbr0", "ttbr1", "tcr", "mair") for n in (1, 2)}
    every |= {"vttbr_el2": 5, "vtcr_el2": 6}
    hosted = every | {"hcr_el2": 1 << 34 | 1 << 27, "cpsr": 0x0}
    assert known.settle(hosted)["ttbr1_el2"] == 2
    plain = every | {"hcr_el2": 0, "cpsr": 0x9}
    assert "ttbr1_el2" not in known.settle(plain)
    guest = every | {"hcr_el2": 1, "cpsr": 0x5}
    assert {"ttbr0_el1", "vttbr_el2", "vtcr_el2", "hcr_el2"} <= set(known.settle(guest))


def test_the_monitors_text_is_read() -> None:
    known = debuggers.of_target("x86_64")
    assert known is not None
    text = "RIP=0000fff0 RFL=00000246 [---Z-P-] CPL=3\nCR0=80050033 CR2=0 CR3=019f5000 CR4=00751ef0\nEFER=d01"
    assert known.settle(known.read(text)) == {
        "cr0": 0x80050033,
        "cr3": 0x19F5000,
        "cr4": 0x751EF0,
        "efer": 0xD01,
        "rflags": 0x246,
    }
    assert debuggers.of_target("vax") is None
    assert debuggers.of_description("") is None

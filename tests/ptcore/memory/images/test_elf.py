"""ELF cores: every class and byte order, notes, holes, overlaps, and what a damaged file says."""

from __future__ import annotations

import os
import resource
import struct
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import ptcore
from oracles import memory_files
from ptcore import Span
from ptcore.errors import ImageError, OutOfRange

PAGE = 4096
LOAD, NOTE = 1, 4


def note(owner: bytes, kind: int, text: bytes, order: str = "<") -> bytes:
    name = owner + b"\0"
    head = struct.pack(order + "III", len(name), len(text), kind)
    return head + name + bytes(-len(name) % 4) + text + bytes(-len(text) % 4)


def core(
    loads: Sequence[tuple[int, bytes, int]],
    notes: bytes = b"",
    *,
    bits: int = 64,
    order: str = "<",
    machine: int = 62,
    many: bool = False,
) -> bytes:
    """An ELF core of (physical address, bytes, memsz), laid out by hand from the ABI's tables."""
    header_bytes, program_bytes = (64, 56) if bits == 64 else (52, 32)
    count = len(loads) + 1
    at = header_bytes + program_bytes * count
    headers, body = [], b""
    for kind, pa, text, memory in [(NOTE, 0, notes, 0), *((LOAD, *load) for load in loads)]:
        if bits == 64:
            headers.append(
                struct.pack(
                    order + "IIQQQQQQ", kind, 4, at + len(body), 0, pa, len(text), memory, 0
                )
            )
        else:
            headers.append(
                struct.pack(
                    order + "IIIIIIII", kind, at + len(body), 0, pa, len(text), memory, 4, 0
                )
            )
        body += text
    sections = at + len(body) if many else 0
    ident = b"\x7fELF" + bytes([bits // 32, 1 if order == "<" else 2, 1]) + bytes(9)
    word = "Q" if bits == 64 else "I"
    head = struct.pack(
        f"{order}HHI{word}{word}{word}IHHHHHH",
        *(4, machine, 1, 0, header_bytes, sections, 0, header_bytes, program_bytes),
        *(0xFFFF if many else count, 0, 0, 0),
    )
    tail = b""
    if many:  # sh_info of the first section header
        tail = bytes(44 if bits == 64 else 28) + struct.pack(order + "I", count) + bytes(16)
    return ident + head + b"".join(headers) + body + tail


def written(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("bits", [32, 64])
@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("many", [False, True])
def test_every_class_and_byte_order_is_read(
    tmp_path: Path, bits: int, order: str, many: bool
) -> None:
    loads = [(0x1000, b"a" * PAGE, PAGE), (0x100000, b"b" * 2 * PAGE, 2 * PAGE)]
    content = core(loads, bits=bits, order=order, many=many)
    image = ptcore.open_image(written(tmp_path / "core", content))
    assert image.form == "elf"
    assert image.segments == (Span(0x1000, 0x1FFF), Span(0x100000, 0x101FFF))
    assert image.read(0x1000, PAGE) == b"a" * PAGE
    assert image.read(0x101FFF, 1) == b"b"
    assert not image.writable
    with pytest.raises(OutOfRange):
        image.read(0x2000, 1)


def test_what_the_file_leaves_out_does_not_exist_and_is_never_zero(tmp_path: Path) -> None:
    root = struct.pack("<Q", 0x1003) + bytes(PAGE - 8)  # points to a table that is left out
    image = ptcore.open_image(written(tmp_path / "core", core([(0, root, 8 * PAGE)])))
    assert image.segments == (Span(0, PAGE - 1),)
    table = ptcore.PageTable("x86_64_4level", image, root=0)
    assert table.walk(0).status is ptcore.Status.BUS
    assert table.walk(1 << 39).status is ptcore.Status.NOT_PRESENT
    assert PAGE not in image


def test_the_first_of_overlapping_headers_has_the_bytes(tmp_path: Path) -> None:
    loads = [
        (0x2000, b"k" * PAGE, PAGE),
        (0, b"r" * 5 * PAGE, 5 * PAGE),
        (0x4000, b"z" * 4 * PAGE, 4 * PAGE),
    ]
    image = ptcore.open_image(written(tmp_path / "core", core(loads)))
    seen = b"".join(image.read(n * PAGE, 1) for n in range(8))
    assert seen == b"rrkrrzzz"


def test_cpus_come_from_the_notes(tmp_path: Path) -> None:
    threads = b"".join(
        note(b"CORE", 1, bytes(112) + struct.pack("<27Q", *range(100 * n, 100 * n + 27)) + bytes(8))
        for n in (1, 2)
    )
    control = struct.pack("<6Q", 0x80050033, 0, 0x77, 0x1234000, 0x6F0, 0x55)
    state = struct.pack("<II18Q", 1, 440, *range(18)) + bytes(240) + control
    texts = note(b"VMCOREINFO", 0, b"OSRELEASE=6.1.0\nPAGESIZE=4096\n")
    content = core([(0, bytes(PAGE), PAGE)], threads + note(b"QEMU", 0, state) * 2 + texts)
    image = ptcore.open_image(written(tmp_path / "core", content))
    assert [cpu.architecture for cpu in image.cpus] == ["x86_64", "x86_64"]
    first, second = image.cpus
    assert first.registers == {"cr0": 0x80050033, "cr3": 0x1234000, "cr4": 0x6F0, "efer": 0xD00}
    assert first.general["cr2"] == 0x77
    assert first.general["kernel_gs_base"] == 0x55
    assert second.general["r15"] == 15  # QEMU's note has more, and comes after the thread's
    assert second.general["orig_rax"] == 215
    assert image.details == {"OSRELEASE": "6.1.0", "PAGESIZE": "4096"}


@pytest.mark.parametrize(
    ("machine", "bits", "architecture", "count", "at", "width"),
    [
        (183, 64, "aarch64", 34, 112, "Q"),
        (243, 64, "riscv64", 32, 112, "Q"),
        (243, 32, "riscv32", 32, 72, "I"),
        (3, 32, "x86", 17, 72, "I"),
        (3, 64, "x86", 17, 72, "I"),
    ],
)
def test_threads_of_other_machines(
    tmp_path: Path, machine: int, bits: int, architecture: str, count: int, at: int, width: str
) -> None:
    text = bytes(at) + struct.pack(f"<{count}{width}", *range(1, count + 1)) + bytes(8)
    content = core([(0, b"m" * 16, 16)], note(b"CORE", 1, text), bits=bits, machine=machine)
    (cpu,) = ptcore.open_image(written(tmp_path / "core", content)).cpus
    assert cpu.architecture == architecture
    assert sorted(cpu.general.values()) == list(range(1, count + 1))
    known = {
        "aarch64": ("sp", 32),
        "riscv64": ("pc", 1),
        "riscv32": ("ra", 2),
        "x86": ("eip", 13),
    }
    name, value = known[architecture]
    assert cpu.general[name] == value


def test_an_unknown_machine_still_has_its_memory(tmp_path: Path) -> None:
    content = core([(0, b"m" * 16, 16)], note(b"CORE", 1, bytes(336)), machine=9999)
    image = ptcore.open_image(written(tmp_path / "core", content))
    assert image.read(0, 16) == b"m" * 16
    assert [cpu.architecture for cpu in image.cpus] == [""]


# -- damage --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("position", "byte", "words"),
    [
        (4, 7, r"EI_CLASS.*offset 0x4.*7"),
        (5, 9, r"EI_DATA.*offset 0x5"),
        (16, 2, r"e_type at offset 0x10: 2 is not ET_CORE"),
        (54, 3, r"e_phentsize"),
        (56, 200, r"program headers \(e_phnum = 200\) at offset 0x40"),
        (64 + 56 + 8 + 5, 1, r"p_offset, p_filesz"),
    ],
)
def test_a_damaged_header_is_named(tmp_path: Path, position: int, byte: int, words: str) -> None:
    content = bytearray(core([(0, b"m" * PAGE, PAGE)], note(b"CORE", 1, bytes(336))))
    content[position] = byte
    with pytest.raises(ImageError, match=words):
        ptcore.open_image(written(tmp_path / "core", bytes(content)))


def test_a_process_is_no_machine(tmp_path: Path) -> None:
    content = core([(0, b"a" * PAGE, PAGE), (0, b"b" * PAGE, PAGE)])
    with pytest.raises(ImageError, match="of a process"):
        ptcore.open_image(written(tmp_path / "core", content))


SAMPLE = core(
    [(0, b"a" * 64, 64), (0x1000, b"b" * 64, 128)],
    note(b"CORE", 1, bytes(336)) + note(b"QEMU", 0, bytes(440)) + note(b"VMCOREINFO", 0, b"A=1\n"),
)


def test_truncation_anywhere_is_an_error_that_names_an_offset(tmp_path: Path) -> None:
    whole = ptcore.open_image(written(tmp_path / "whole", SAMPLE))
    assert whole.size == 128
    for length in range(4, len(SAMPLE)):
        path = written(tmp_path / "cut", SAMPLE[:length])
        with pytest.raises(ImageError, match=r"at offset 0x[0-9a-f]+"):
            ptcore.open_image(path)


def test_bit_flips_end_in_an_image_or_in_an_image_error(tmp_path: Path) -> None:
    ends = Counter[str]()

    @settings(max_examples=150, deadline=None, database=None)
    @given(st.lists(st.integers(0, 8 * (64 + 3 * 56) - 1), min_size=1, max_size=3))
    def flip(bits: list[int]) -> None:
        content = bytearray(SAMPLE)
        for bit in bits:
            content[bit // 8] ^= 1 << bit % 8
        try:
            image = ptcore.open_image(written(tmp_path / "flipped", bytes(content)), form="elf")
        except ImageError:
            ends["error"] += 1
        else:
            ends["image"] += 1
            for span in image.segments:
                image.read(span.start, span.size)

    flip()
    assert ends["error"] > 10
    assert ends["image"] > 3


# -- raw files, and which form -------------------------------------------------------------------


def test_what_nothing_claims_is_raw(tmp_path: Path) -> None:
    image = ptcore.open_image(written(tmp_path / "ram", bytes(8192) + b"end"))
    assert (image.form, image.cpus, image.size) == ("raw", (), 8195)
    assert image.read(8192, 3) == b"end"
    assert image.path == str(tmp_path / "ram")
    forced = ptcore.open_image(written(tmp_path / "core", SAMPLE), form="raw")
    assert forced.read(0, len(SAMPLE)) == SAMPLE


def test_an_unknown_form_names_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="nearest: elf"):
        ptcore.open_image(written(tmp_path / "x", b"x"), form="elff")


def test_an_empty_file_and_a_directory_are_no_images(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="empty"):
        ptcore.open_image(written(tmp_path / "empty", b""))
    with pytest.raises(IsADirectoryError):
        ptcore.open_image(tmp_path)


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


@pytest.mark.parametrize("form", ["raw", "elf", "lime", "windows"])
def test_a_sparse_terabyte_opens_at_once_and_costs_what_is_touched(
    tmp_path: Path, form: str
) -> None:
    path = tmp_path / "sparse"
    head = b""
    if form == "elf":
        sample = bytearray(core([(0, b"", 1 << 40)]))
        struct.pack_into("<Q", sample, 64 + 56 + 32, 1 << 40)  # p_filesz
        head = bytes(sample)
    elif form == "lime":
        head = struct.pack("<4sIQQQ", b"EMiL", 1, 0, (1 << 40) - 1, 0)
    elif form == "windows":
        head = memory_files.windows_header(1, 0, [(0, 1 << 28)])
    with path.open("wb") as stream:
        stream.write(head)
        stream.seek(len(head) + (1 << 39))
        stream.write(b"middle")
        stream.truncate(len(head) + (1 << 40))
    assert os.stat(path).st_blocks * 512 < 1 << 20
    ptcore.open_image(path)  # what is imported is not counted
    before, start = resident_bytes(), time.perf_counter()
    image = ptcore.open_image(path)
    took = time.perf_counter() - start
    assert image.form == form
    assert image.size == 1 << 40
    assert image.read(1 << 39, 6) == b"middle"
    assert resident_bytes() - before < 1 << 20
    assert took < 0.05

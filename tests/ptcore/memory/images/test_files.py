"""LiME, AVML, Windows and VMware files that the tests write, read by us and by volatility3's own layers."""

from __future__ import annotations

import os
import random
import struct
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import ptcore
from oracles import memory_files as files
from oracles import volatility_files
from ptcore import PageTable, PhysicalMemory, Span, Status
from ptcore.errors import ImageError, OutOfRange
from ptcore.memory.images import forms

PAGE = 4096
RANGES = [
    (0x1000, files.content(1, 0x9E000)),
    (0x100000, files.content(2, 0x30000)),
    (1 << 32, files.content(3, 0x21000)),
]
SHORT = [(0x1000, files.content(7, 0x6000)), (0x10000, files.content(8, 0x3000))]
UNEVEN = [(0x1000, files.content(4, 0x1234)), (0x8000, files.content(5, 77))]


def written(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def in_place(ranges: list[tuple[int, bytes]]) -> list[tuple[int, int]]:
    return [(start, start + len(text) - 1) for start, text in ranges]


SAMPLES: dict[str, tuple[str, bytes, list[tuple[int, bytes]]]] = {
    "lime": ("lime", files.lime(RANGES), RANGES),
    "lime, unaligned": ("lime", files.lime(UNEVEN), UNEVEN),
    "avml": ("avml", files.avml(RANGES), RANGES),
    "avml, chunks of no page size": ("avml", files.avml(SHORT, 5000), SHORT),
    "windows, complete": (
        "windows",
        files.windows_full([(start // PAGE, text) for start, text in RANGES]),
        RANGES,
    ),
    "windows, bitmap": (
        "windows",
        files.windows_bitmap(
            {
                (start + at) // PAGE: text[at : at + PAGE]
                for start, text in RANGES[:2]
                for at in range(0, len(text), PAGE)
            }
        ),
        RANGES[:2],
    ),
}


@pytest.mark.parametrize("sample", SAMPLES)
def test_every_byte_is_where_it_was_written_and_where_volatility3_reads_it(
    tmp_path: Path, sample: str
) -> None:
    form, text, ranges = SAMPLES[sample]
    path = written(tmp_path / "image", text)
    image = ptcore.open_image(path)
    assert image.form == form
    assert [(span.start, span.last) for span in image.segments] == in_place(ranges)
    for start, bytes_ in ranges:
        assert image.read(start, len(bytes_)) == bytes_
        assert start - 1 not in image
        assert start + len(bytes_) not in image
    if form == "avml" and not volatility_files.HAS_SNAPPY:
        pytest.skip("volatility3 reads AVML with libsnappy, which is not installed")
    layer = volatility_files.layer_of(form, path)
    assert volatility_files.spans(layer) == in_place(ranges)
    rng = random.Random(sample)
    looked = 0
    for _ in range(300):
        start, bytes_ = rng.choice(ranges)
        at = start + rng.randrange(len(bytes_))
        size = min(rng.randrange(1, 5000), start + len(bytes_) - at)
        found = volatility_files.read(layer, at, size)
        assert found == image.read(at, size)
        looked += 1
    assert looked == 300
    volatility_files.close(layer)


def test_a_chunk_is_decompressed_when_a_page_of_it_is_wanted(tmp_path: Path) -> None:
    image = ptcore.open_image(written(tmp_path / "image", files.avml(RANGES)))
    assert image.fetched_bytes == 0
    assert image.read(0x2345, 8) == RANGES[0][1][0x1345:0x134D]
    assert image.fetched_bytes == PAGE


def test_chunks_that_may_be_skipped_are(tmp_path: Path) -> None:
    image = ptcore.open_image(written(tmp_path / "i", files.avml(SHORT, padding=b"p" * 99)))
    assert image.read(0x10000, 0x3000) == SHORT[1][1]


def test_tables_in_a_compressed_image_are_walked(tmp_path: Path) -> None:
    ram = ptcore.PhysicalMemory("1M")
    table = PageTable("x86_64_4level", ram)
    table.map(0x7F0000000000, 0x12000, "64K")
    ranges = [(0, ram.read(0, 1 << 20))]
    for text in (files.avml(ranges), files.lime(ranges)):
        image = ptcore.open_image(written(tmp_path / "image", text))
        seen = PageTable("x86_64_4level", image, table.root)
        assert (seen.mappings() == table.mappings()).all()


def test_a_windows_dump_knows_its_root(tmp_path: Path) -> None:
    context = bytes(0x78) + struct.pack("<17Q", *range(100, 117))
    text = files.windows_full([(0, bytes(PAGE))], root=0x1AD000, context=context)
    (cpu,) = ptcore.open_image(written(tmp_path / "MEMORY.DMP", text)).cpus
    assert cpu.architecture == "x86_64"
    assert cpu.registers["cr3"] == 0x1AD000
    assert (cpu.general["rax"], cpu.general["rip"]) == (100, 116)
    ram = ptcore.PhysicalMemory("4M", frames=(0x1AD000, "64K"))
    table = PageTable("x86_64_4level", ram)
    assert table.root == 0x1AD000
    table.map(-(1 << 41) % (1 << 64), 0x200000, "2M", page_size="2M")
    text = files.windows_full([(0, ram.read(0, 4 << 20))], root=table.root)
    image = ptcore.open_image(written(tmp_path / "MEMORY.DMP", text))
    space = ptcore.AddressSpace.from_registers(
        image.cpus[0].architecture, image, **image.cpus[0].registers
    )
    assert space.translate(-(1 << 41) % (1 << 64) + 5) == 0x200005
    assert image.details["BugCheckCode"] == "0xd1"


@pytest.mark.parametrize(("kind", "magic"), [(5, b"FDMPDUMP"), (6, b"SDMPDUMP")])
def test_bitmap_dumps_of_both_kinds(tmp_path: Path, kind: int, magic: bytes) -> None:
    pages = {n: bytes([n]) * PAGE for n in (0, 1, 31, 32, 63, 64, 200)}
    image = ptcore.open_image(written(tmp_path / "dmp", files.windows_bitmap(pages, kind, magic)))
    assert image.segments == (
        Span(0, 2 * PAGE - 1),
        Span(31 * PAGE, 33 * PAGE - 1),
        Span(63 * PAGE, 65 * PAGE - 1),
        Span(200 * PAGE, 201 * PAGE - 1),
    )
    for n, text in pages.items():
        assert image.read(n * PAGE, PAGE) == text


@pytest.mark.parametrize("kind", [2, 4])
def test_dumps_without_all_memory_are_refused(tmp_path: Path, kind: int) -> None:
    text = files.windows_header(kind, 0, [(0, 1)]) + bytes(PAGE)
    with pytest.raises(ImageError, match=f"DumpType at offset 0xf98: {kind}"):
        ptcore.open_image(written(tmp_path / "dmp", text))


# -- VMware --------------------------------------------------------------------------------------


def state(regions: list[tuple[int, int, int]]) -> bytes:
    tag = files.vmware_tag
    memory = files.vmware_long_tag("screenshot", b"x" * 100, 6)
    memory += tag("regionsCount", [], len(regions), 4)
    for n, (page, place, count) in enumerate(regions):
        memory += tag("regionPPN", [n], page, 4) + tag("regionPageNum", [n], place, 4)
        memory += tag("regionSize", [n], count, 4)
    controls = {0: 0x80050033, 2: 0x99, 3: 0x1AA000, 4: 0x6F8}
    cpu = b"".join(tag("CR64", [0, n], value, 8) for n, value in controls.items())
    return files.vmware_state({"memory": memory, "cpu": cpu})


def test_the_regions_of_a_suspended_machine(tmp_path: Path) -> None:
    text = files.content(6, 24 * PAGE)
    path = written(tmp_path / "guest.vmem", text)
    written(tmp_path / "guest.vmss", state([(0, 0, 16), (0x100000, 16, 8)]))
    image = ptcore.open_image(path)
    assert image.form == "vmem"
    assert image.segments == (Span(0, 16 * PAGE - 1), Span(1 << 32, (1 << 32) + 8 * PAGE - 1))
    assert image.read(1 << 32, 8 * PAGE) == text[16 * PAGE :]
    (cpu,) = image.cpus
    assert (cpu.architecture, cpu.general) == ("x86_64", {"cr2": 0x99})
    assert cpu.registers == {"cr0": 0x80050033, "cr3": 0x1AA000, "cr4": 0x6F8, "efer": 0xD00}


def test_regions_are_those_that_volatility3_reads(tmp_path: Path) -> None:
    # Its long tags expect no padding but two bytes: written so, both agree.
    tag = files.vmware_tag
    memory = tag("regionsCount", [], 2, 4)
    for n, (page, place, count) in enumerate([(0, 0, 16), (0x100000, 16, 8)]):
        memory += tag("regionPPN", [n], page, 4) + tag("regionPageNum", [n], place, 4)
        memory += tag("regionSize", [n], count, 4)
    memory += files.vmware_long_tag("screenshot", b"x" * 100, 0)
    path = written(tmp_path / "guest.vmem", files.content(6, 24 * PAGE))
    written(tmp_path / "guest.vmss", files.vmware_state({"memory": memory}))
    image = ptcore.open_image(path)
    layer = volatility_files.layer_of("vmem", path)
    assert volatility_files.spans(layer) == [(s.start, s.last) for s in image.segments]
    for pa in (0, 0x5123, 15 * PAGE, 1 << 32, (1 << 32) + 7 * PAGE):
        assert volatility_files.read(layer, pa, 100) == image.read(pa, 100)
    volatility_files.close(layer)


def test_without_a_file_beside_it_the_layout_is_plain_with_the_hole_at_3_gib(
    tmp_path: Path,
) -> None:
    path = tmp_path / "guest.vmem"
    with path.open("wb") as stream:
        stream.write(b"low")
        stream.seek(3 << 30)
        stream.write(b"high" + bytes(PAGE - 4))
    image = ptcore.open_image(path)
    assert image.segments == (Span(0, (3 << 30) - 1), Span(4 << 30, (4 << 30) + PAGE - 1))
    assert image.read(4 << 30, 4) == b"high"
    assert "plain" in image.details["regions"]


def test_a_damaged_file_beside_it_is_named(tmp_path: Path) -> None:
    path = written(tmp_path / "guest.vmem", bytes(24 * PAGE))
    text = state([(0, 0, 16), (0x100000, 16, 8)])
    for length in range(len(text)):
        written(tmp_path / "guest.vmss", text[:length])
        if not length or text[:length] == text[: 12 + 160]:
            continue
        with pytest.raises(ImageError, match=r"guest\.vmss: .* at offset 0x"):
            ptcore.open_image(path)


# -- damage --------------------------------------------------------------------------------------

SMALL: dict[str, bytes] = {
    "lime": files.lime([(0, b"a" * 64), (0x1000, b"b" * 64)]),
    "avml": files.avml([(0, b"a" * PAGE), (0x10000, files.content(9, 2 * PAGE))], 3000),
    "windows": files.windows_full([(0, bytes(PAGE)), (16, bytes(PAGE))]),
    "bitmap": files.windows_bitmap({0: bytes(PAGE), 40: bytes(PAGE)}),
}
FIRST_STREAM = len(files.snappy_stream(b"a" * PAGE, 3000))
# Where the fields are that a flip may change, so that flips find them.
FIELDS = {
    "lime": [(0, 32), (96, 128)],
    "avml": [(0, 60), (len(SMALL["avml"]) - 40, len(SMALL["avml"]))],
    "windows": [(0, 56), (136, 184), (3992, 3996)],
    "bitmap": [(0, 56), (3992, 3996), (8192, 8260)],
}


@pytest.mark.parametrize("sample", SMALL)
def test_truncation_anywhere_is_an_error_that_names_an_offset(tmp_path: Path, sample: str) -> None:
    text = SMALL[sample]
    whole = ptcore.open_image(written(tmp_path / "whole", text))
    lengths = {*range(9, len(text), 1 if len(text) < 8000 else 61), len(text) - 1}
    seen = 0
    for length in sorted(lengths):
        if (sample, length) in (("lime", 96), ("avml", 32 + FIRST_STREAM + 8)):
            continue  # a file of one range is whole
        path = written(tmp_path / "cut", text[:length])
        try:
            image = ptcore.open_image(path, form=whole.form)
        except ImageError as error:
            seen += 1
            if "at offset 0x" not in str(error):
                raise AssertionError(f"no offset: {error}") from error
        else:
            raise AssertionError(f"{sample} cut to {length} bytes opens as {image}")
    assert seen > 100


@pytest.mark.parametrize("sample", SMALL)
def test_bit_flips_end_in_an_image_or_in_an_image_error(tmp_path: Path, sample: str) -> None:
    ends = Counter[str]()
    places = [n for first, end in FIELDS[sample] for n in range(first, end)]
    form = ptcore.open_image(written(tmp_path / "whole", SMALL[sample])).form

    @settings(max_examples=150, deadline=None, database=None)
    @given(st.lists(st.tuples(st.sampled_from(places), st.integers(0, 7)), min_size=1, max_size=3))
    def flip(bits: list[tuple[int, int]]) -> None:
        content = bytearray(SMALL[sample])
        for at, bit in bits:
            content[at] ^= 1 << bit
        try:
            image = ptcore.open_image(written(tmp_path / "flipped", bytes(content)), form=form)
            for span in image.segments[:64]:
                image.read(span.start, min(span.size, 1 << 20))
        except ImageError:
            ends["error"] += 1
        except MemoryError:
            ends["space"] += 1
        else:
            ends["image"] += 1

    flip()
    assert ends["error"] > 10
    assert ends["image"] > 3


def test_damage_inside_a_compressed_chunk_is_found_when_it_is_read(tmp_path: Path) -> None:
    text = bytearray(files.avml(RANGES))
    text[200_000] ^= 1
    image = ptcore.open_image(written(tmp_path / "image", bytes(text)))
    assert image.read(0x1000, PAGE) == RANGES[0][1][:PAGE]
    with pytest.raises(ImageError, match="chunk at offset"):
        [image.read(start, len(bytes_)) for start, bytes_ in RANGES]


def test_a_missing_package_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = written(tmp_path / "image", SMALL["avml"])
    found: Callable[..., object] = lambda name: None  # noqa: E731
    monkeypatch.setattr("importlib.util.find_spec", found)
    with pytest.raises(
        ImageError, match=r"needs the package cramjam: pip install 'ptcore\[images\]'"
    ):
        ptcore.open_image(path)


def test_the_forms_are_found() -> None:
    assert set(forms()) == {"raw", "elf", "lime", "avml", "kdump", "vmem", "windows"}


@pytest.mark.parametrize("form", sorted({"elf", "lime", "avml", "kdump", "windows"}))
def test_a_forced_form_says_what_is_wrong(tmp_path: Path, form: str) -> None:
    with pytest.raises(ImageError, match="at offset 0x"):
        ptcore.open_image(written(tmp_path / "x", b"nothing of the kind" * 1000), form=form)


def test_missing_memory_is_bus_in_every_form(tmp_path: Path) -> None:
    item = struct.pack("<Q", 0x300003)
    root = item + bytes(PAGE - 8)
    texts = [
        files.lime([(0, root)]),
        files.avml([(0, root)]),
        files.windows_full([(0, root)]),
        files.windows_bitmap({0: root}),
        files.kdump({0: root}, [0, 0x300]),
    ]
    for text in texts:
        image = ptcore.open_image(written(tmp_path / "image", text))
        assert PageTable("x86_64_4level", image, 0).walk(0).status is Status.BUS
        with pytest.raises(OutOfRange):
            image.read(0x300000, 8)


def test_holes_of_a_file_are_not_stored(tmp_path: Path) -> None:
    raw = tmp_path / "guest.raw"
    with open(raw, "wb") as stream:
        for at in (0x30_0000, 0x80_0000):
            stream.seek(at)
            stream.write(b"\xff" * 0x2_0000)
        stream.truncate(1 << 30)
        if os.lseek(stream.fileno(), 0, os.SEEK_DATA) == 0:
            pytest.skip("this file system knows no holes")
    image = ptcore.open_image(raw)
    stored = [(span.start, span.last + 1) for span in image.stored_spans()]
    assert stored == [(at, at + 0x2_0000) for at in (0x30_0000, 0x80_0000)]
    with open(raw, "r+b") as stream:  # what is written later is seen
        stream.seek(0x40_0000)
        stream.write(b"\xff" * PAGE)
    assert Span(0x40_0000, 0x40_0FFF) in image.stored_spans()
    # In a file of several parts the spans are those of the memory, not of the file.
    lime = written(tmp_path / "guest.lime", files.lime(RANGES))
    image = ptcore.open_image(lime)
    assert image.stored_spans() == image.segments
    assert PhysicalMemory("4M").stored_spans() == (Span(0, (4 << 20) - 1),)
    os.unlink(raw)

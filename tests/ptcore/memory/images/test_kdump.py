"""kdump-compressed files: every compression, both sizes of a long, both byte orders, flattened or not."""

from __future__ import annotations

import json
import random
import shutil
import struct
import subprocess
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import ptcore
from oracles import memory_files as files
from ptcore import Span
from ptcore.errors import ImageError, OutOfRange
from ptcore.memory.images.page_bitmap import Ranks, runs

PAGE = 4096
MEMORY = [*range(160), *range(256, 300), *range(0x1000, 0x1010)]
PAGES = {n: files.content(n, PAGE) for n in MEMORY if n % 7}
METHODS = ["zlib", "plain", "snappy", "zstd"]


def written(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def check(image: ptcore.Image) -> None:
    assert image.form == "kdump"
    assert image.segments == (
        Span(0, 160 * PAGE - 1),
        Span(256 * PAGE, 300 * PAGE - 1),
        Span(0x1000 * PAGE, 0x1010 * PAGE - 1),
    )
    for n in MEMORY:
        if n in PAGES:
            assert image.read(n * PAGE, PAGE) == PAGES[n]
        else:
            with pytest.raises(OutOfRange, match="lacks pages"):
                image.read(n * PAGE + 8, 1)


@pytest.mark.parametrize("bits", [64, 32])
@pytest.mark.parametrize("order", ["<", ">"])
def test_every_page_is_read_or_is_not_there(tmp_path: Path, bits: int, order: str) -> None:
    text = files.kdump(PAGES, MEMORY, METHODS, bits=bits, order=order)
    check(ptcore.open_image(written(tmp_path / "vmcore", text)))


@pytest.mark.parametrize("sizes", [[4096], [1 << 20], [5000, 3, 4096, 77]])
def test_a_flattened_file_is_the_file_that_its_records_write(
    tmp_path: Path, sizes: list[int]
) -> None:
    text = files.flattened(files.kdump(PAGES, MEMORY, METHODS), sizes)
    check(ptcore.open_image(written(tmp_path / "vmcore", text)))


def test_lzo_pages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lzallright = pytest.importorskip("lzallright")

    def lzo(page: bytes) -> tuple[int, bytes]:
        return 2, bytes(lzallright.LZOCompressor().compress(page))

    monkeypatch.setattr(files, "COMPRESS", {**files.COMPRESS, "lzo": lzo})
    text = files.kdump(PAGES, MEMORY, ["lzo", "zlib"])
    check(ptcore.open_image(written(tmp_path / "vmcore", text)))


def test_cpus_and_what_the_kernel_says(tmp_path: Path) -> None:
    thread = bytes(112) + struct.pack("<27Q", *range(27)) + bytes(8)
    note = struct.pack("<III", 5, len(thread), 1) + b"CORE\0\0\0\0" + thread
    text = files.kdump({0: bytes(PAGE)}, [0], notes=note * 2, vmcoreinfo=b"OSRELEASE=6.1\nX=1\n")
    image = ptcore.open_image(written(tmp_path / "vmcore", text))
    assert [cpu.architecture for cpu in image.cpus] == ["x86_64"] * 2
    assert image.cpus[1].general["rip"] == 16
    assert image.details["OSRELEASE"] == "6.1"
    assert image.details["phys_base"] == "0x1000000"
    assert image.details["uts.nodename"] == "host"
    wide = bytes(112) + struct.pack("<34Q", *range(34)) + bytes(8)
    note = struct.pack("<III", 5, len(wide), 1) + b"CORE\0\0\0\0" + wide
    arm = files.kdump({0: bytes(PAGE)}, [0], notes=note, uname=b"aarch64")
    (cpu,) = ptcore.open_image(written(tmp_path / "arm", arm)).cpus
    assert (cpu.architecture, cpu.general["pc"]) == ("aarch64", 32)
    short = bytes(72) + struct.pack("<17I", *range(17)) + bytes(4)
    note = struct.pack("<III", 5, len(short), 1) + b"CORE\0\0\0\0" + short
    old = files.kdump({0: bytes(PAGE)}, [0], notes=note)  # QEMU, while the CPU is in a 32-bit mode
    (cpu,) = ptcore.open_image(written(tmp_path / "old", old)).cpus
    assert (cpu.architecture, cpu.general["eip"]) == ("x86", 12)


def test_pages_of_64k(tmp_path: Path) -> None:
    pages = {n: files.content(n, 1 << 16) for n in (0, 2, 3)}
    text = files.kdump(pages, range(5), METHODS, block=1 << 16)
    image = ptcore.open_image(written(tmp_path / "vmcore", text))
    assert image.segments == (Span(0, 5 * (1 << 16) - 1),)
    assert image.read(2 << 16, 2 << 16) == pages[2] + pages[3]
    assert 1 << 16 not in image


# -- against libkdumpfile ------------------------------------------------------------------------

LIBKDUMPFILE = """
import json, sys, kdumpfile
dump = kdumpfile.kdumpfile(sys.argv[1])
found = {}
for n in json.loads(sys.argv[2]):
    try:
        found[n] = bytes(dump.read(kdumpfile.KDUMP_MACHPHYSADDR, n * 4096, 4096)).hex()
    except kdumpfile.exceptions.NoDataException:
        found[n] = None
print(json.dumps(found))
"""


def test_libkdumpfile_reads_the_same(tmp_path: Path) -> None:
    python = shutil.which("python3", path="/usr/bin:/bin")
    has = (
        python
        and not subprocess.run([python, "-c", "import kdumpfile"], capture_output=True).returncode
    )
    if not has:
        pytest.skip("libkdumpfile's Python module (Debian: python3-libkdumpfile) is not installed")
    text = files.kdump(PAGES, MEMORY, ["zlib", "plain", "snappy"])
    path = written(tmp_path / "vmcore", text)
    asked = [*random.Random(1).sample(MEMORY, 60), 200, 0x2000]
    command = [str(python), "-c", LIBKDUMPFILE, str(path), json.dumps(asked)]
    ended = subprocess.run(command, capture_output=True, text=True, check=True)
    image = ptcore.open_image(path)
    ends = Counter[str]()
    for n, page in json.loads(ended.stdout).items():
        pa = int(n) * PAGE
        ours = image.read(pa, PAGE).hex() if pa in image else None
        assert ours == page
        ends["page" if page else "none"] += 1
    assert ends["page"] > 30
    assert ends["none"] >= 5


# -- damage --------------------------------------------------------------------------------------

SMALL = files.kdump(
    {0: bytes(PAGE), 2: files.content(2, PAGE)}, range(4), METHODS, vmcoreinfo=b"A=1\n"
)


@pytest.mark.parametrize("flat", [False, True])
def test_truncation_is_an_error_that_names_an_offset(tmp_path: Path, flat: bool) -> None:
    text = files.flattened(SMALL, [3000]) if flat else SMALL
    for length in [*range(16, len(text), 97), len(text) - 1]:
        with pytest.raises(ImageError, match=r"at offset 0x"):
            ptcore.open_image(written(tmp_path / "cut", text[:length]))


def test_bit_flips_end_in_an_image_or_in_an_image_error(tmp_path: Path) -> None:
    ends = Counter[str]()
    places = [*range(8, 12), *range(424, 464), *range(PAGE, PAGE + 104)]
    places += [*range(2 * PAGE, 2 * PAGE + 2), *range(3 * PAGE, 3 * PAGE + 2)]
    places += [*range(4 * PAGE, 4 * PAGE + 48), len(SMALL) - 2]

    @settings(max_examples=150, deadline=None, database=None)
    @given(st.lists(st.tuples(st.sampled_from(places), st.integers(0, 7)), min_size=1, max_size=3))
    def flip(bits: list[tuple[int, int]]) -> None:
        content = bytearray(SMALL)
        for at, bit in bits:
            content[at] ^= 1 << bit
        try:
            image = ptcore.open_image(written(tmp_path / "flipped", bytes(content)), form="kdump")
            for span in image.segments[:64]:
                for pa in range(span.start, min(span.last, span.start + (1 << 16)), PAGE):
                    ends["page" if pa in image else "none"] += 1
        except ImageError:
            ends["error"] += 1
        else:
            ends["image"] += 1

    flip()
    assert ends["error"] > 10
    assert ends["image"] > 3
    assert ends["page"] > 10
    assert ends["none"] > 10


@pytest.mark.parametrize(
    ("at", "value", "words"),
    [
        (432, 0, "sub_hdr_size"),
        (436, 0, "bitmap"),
        (440, 1 << 30, "max_mapnr, bitmap_blocks"),
        (PAGE + 12, 1, "split dump"),
        (PAGE + 40, 1 << 30, "offset_vmcoreinfo, size_vmcoreinfo"),
        (4 * PAGE, 1 << 30, "page descriptor at offset 0x4000"),
        (428, 4095, "block_size"),
    ],
)
def test_a_damaged_field_is_named(tmp_path: Path, at: int, value: int, words: str) -> None:
    content = bytearray(SMALL)
    struct.pack_into("<I", content, at, value)
    if at == 440:
        struct.pack_into("<Q", content, PAGE + 96, value)
    with pytest.raises(ImageError, match=words):
        ptcore.open_image(written(tmp_path / "vmcore", bytes(content)))


def test_a_damaged_page_is_found_when_it_is_read(tmp_path: Path) -> None:
    content = bytearray(SMALL)
    content[4 * PAGE + 48 + 8] ^= 0x55  # inside the first page's zlib stream
    image = ptcore.open_image(written(tmp_path / "vmcore", bytes(content)))
    with pytest.raises(ImageError, match="zlib does not give the 4096 bytes"):
        image.read(0, 8)
    assert image.read(2 * PAGE, PAGE) == files.content(2, PAGE)


# -- bitmaps -------------------------------------------------------------------------------------


@given(st.binary(max_size=2000), st.integers(0, 7))
@settings(deadline=None)
def test_runs_and_ranks_are_those_of_the_bits(text: bytes, cut: int) -> None:
    count = max(8 * len(text) - cut, 0)
    bits = [text[n // 8] >> n % 8 & 1 for n in range(count)]
    listed = [
        n for first, length in runs(memoryview(text), count) for n in range(first, first + length)
    ]
    assert listed == [n for n in range(count) if bits[n]]
    ranks = Ranks(memoryview(text))
    asked = np.arange(0, count, 37, dtype=np.uint64)
    assert ranks.before(asked).tolist() == [sum(bits[:n]) for n in asked.tolist()]
    more = np.arange(count + 80, dtype=np.uint64)
    assert ranks.has(more)[:count].tolist() == [bool(bit) for bit in bits]
    assert not ranks.has(more)[8 * len(text) :].any()
    assert ranks.ones == sum(byte.bit_count() for byte in text)

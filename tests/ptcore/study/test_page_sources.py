"""Tables for `ptcore tlb` that are not made by a policy: listings of mappings, and images of guests."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from ptcore import PageTable, PhysicalMemory, formats
from ptcore.cli.commands import ptcore
from ptcore.errors import FormatError, ImageError, TraceError
from ptcore.study.page_sources import Image, Region, pages_in, read_regions
from ptcore.study.translation import Source, cpus_named, map_footprint, simulate
from ptcore.study.translation import footprint as footprint_of

FMT = formats.get("x86_64_4level")
M = 1 << 20
SMAPS = """\
00400000-00500000 r-xp 00000000 08:02 173521      /usr/bin/dbus-daemon
Size:               1024 kB
KernelPageSize:        4 kB
MMUPageSize:           4 kB
AnonHugePages:         0 kB
00600000-00f00000 rw-p 00000000 00:00 0           [heap]
KernelPageSize:        4 kB
MMUPageSize:           4 kB
AnonHugePages:      4096 kB
VmFlags: rd wr mr mw me ac
40000000-40400000 rw-s 00000000 00:0e 1234        /dev/hugepages/a
KernelPageSize:     2048 kB
MMUPageSize:        2048 kB
"""


def written(path: Path, text: str) -> str:
    path.write_text(text)
    return str(path)


def trace(tmp_path: Path, vas: list[int]) -> str:
    path = tmp_path / "trace.npz"
    np.savez(path, va=np.array(vas, dtype=np.uint64), kind=np.zeros(len(vas), dtype=np.uint8))
    return str(path)


def test_smaps_says_the_sizes_of_its_regions(tmp_path: Path) -> None:
    regions = read_regions(written(tmp_path / "smaps", SMAPS), FMT)
    assert regions == [
        Region(0x400000, 0x500000, 4096, 1),
        Region(0x600000, 0xF00000, 4096, 6, 4 * M),
        Region(0x40000000, 0x40400000, 2 * M, 11),
    ]
    touched = np.array([0x400, 0x4FF, 0x500, 0x600, 0x900, 0xA00, 0xBFF, 0xC00, 0x40000, 0x40300])
    found = pages_in(regions, touched.astype(np.uint64), FMT)
    # 4 MiB of the heap's 2M-aligned parts are huge: 0x600000 to 0x9fffff.
    assert {size: pages.tolist() for size, pages in found.items()} == {
        4096: [0x400, 0x4FF, 0xA00, 0xBFF, 0xC00],
        2 * M: [3, 4, 0x200, 0x201],
    }


def test_what_a_listing_does_not_map_faults(tmp_path: Path) -> None:
    vas = [0x401000, 0x700000, 0x40000123, 0x5FF000, 0x401008]
    source = Source(trace(tmp_path, vas))
    listed = written(tmp_path / "smaps", SMAPS)
    (found,) = simulate(source, cpus_named(["skylake_sp"]), pages=listed, phases=1)
    assert (found.whole.accesses, found.whole.faults, found.whole.hits[0]) == (5, 1, 1)
    mapping = map_footprint(footprint_of(source, 12), listed, FMT)
    sizes = [mapping.space.walk(va).page_size for va in vas if va != 0x5FF000]
    assert sizes == [4096, 2 * M, 2 * M, 4096]


def test_a_table_of_pages_is_read_too(tmp_path: Path) -> None:
    text = "va,size,count\n0x1000,4K,2\n0x200000,2M,\n1073741824,1G,1\n"
    regions = read_regions(written(tmp_path / "pages.csv", text), FMT)
    assert [(r.start, r.end, r.size) for r in regions] == [
        (0x1000, 0x3000, 4096),
        (2 * M, 4 * M, 2 * M),
        (1 << 30, 2 << 30, 1 << 30),
    ]
    assert read_regions(written(tmp_path / "t.tsv", text.replace(",", "\t")), FMT) == regions


@pytest.mark.parametrize(
    ("text", "error", "said"),
    [
        ("", TraceError, "is empty"),
        ("va,pa\n1,2\n", TraceError, "neither /proc/PID/maps nor a table"),
        ("va,size\n0x1000,4K\nnonsense,4K\n", TraceError, "line 3: .*nonsense"),
        ("va,size\n0x1000,3K\n", FormatError, "no 3K page"),
        ("va,size\n0x1000,2M\n", FormatError, "line 2: .* is not aligned"),
        ("va,size\n0x0,2M\n0x1000,4K\n", FormatError, r"line 3 \(0x1000\) overlaps line 2"),
        (SMAPS + "garbage\n", TraceError, "line 14: neither a region nor a field: 'garbage'"),
    ],
)
def test_damaged_listings_are_named_by_line(
    tmp_path: Path, text: str, error: type[Exception], said: str
) -> None:
    with pytest.raises(error, match=said):
        read_regions(written(tmp_path / "listing", text), FMT)


def guest(tmp_path: Path) -> tuple[str, int]:
    """A guest's memory in a file: 4K and 2M pages."""
    image = bytearray(4 * M)
    memory = PhysicalMemory.from_buffer(image, frames=(M, "1M"))
    table = PageTable("x86_64_4level", memory)
    table.map(0x1000, 0x2000, "8K", "rw", page_size="4K")
    table.map(2 * M, 2 * M, "2M", "rw", page_size="2M")
    path = tmp_path / "guest.raw"
    path.write_bytes(image)
    return str(path), table.root


def test_a_guests_image_supplies_the_tables(tmp_path: Path) -> None:
    path, root = guest(tmp_path)
    vas = trace(tmp_path, [0x1000, 0x2000, 2 * M, 3 * M, 0x9000])
    command = ["tlb", vas, "--image", path, "--json", "--phases", "1"]
    registers = {"architecture": "x86_64", "cr0": 0x8001_0001, "cr4": "0x20", "efer": "0xd00"}
    registers_file = written(tmp_path / "cpu.json", json.dumps({**registers, "cr3": hex(root)}))
    for more in (["--root", hex(root)], ["--registers", registers_file]):
        done = CliRunner().invoke(ptcore, [*command, *more])
        assert done.exit_code == 0, done.output
        (found,) = json.loads(done.output)["results"]
        assert (found["whole"]["accesses"], found["whole"]["faults"]) == (5, 1)
        assert [(row[0], sum(row[1]) + row[2]) for row in found["by_size"]] == [
            (4096, 2),
            (2 * M, 2),
        ]
    assert PhysicalMemory.from_buffer(Path(path).read_bytes()).read(root, 8) != bytes(8)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--image", "IMAGE"], "either a root or registers"),
        (["--image", "IMAGE", "--root", "here"], "--root 'here' is no number"),
        (["--image", "IMAGE", "--root", "0x40000000"], "outside the memory|not in"),
        (["--root", "0x1000"], "where the tables of an --image begin"),
        (["--image", "IMAGE", "--registers", "TRACE"], "no registers with an architecture"),
        (["--pages", "5q"], "is no size .* no file of that name"),
    ],
)
def test_impossible_sources_are_refused(tmp_path: Path, arguments: list[str], said: str) -> None:
    path, _ = guest(tmp_path)
    vas = trace(tmp_path, [0x1000])
    names = {"IMAGE": path, "TRACE": written(tmp_path / "no.json", "[]")}
    command = ["tlb", vas, *(names.get(one, one) for one in arguments)]
    done = CliRunner().invoke(ptcore, command)
    assert done.exit_code != 0

    assert re.search(said, done.output.replace("\n", " ")), done.output


def test_an_empty_image_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="is empty"):
        Image(written(tmp_path / "none.raw", ""), 0).open(FMT)


def test_an_image_takes_one_beginning() -> None:
    with pytest.raises(FormatError, match="either a root or registers"):
        Image("x", 0, "y").open(FMT)


def test_a_table_in_parquet_is_the_same_as_in_text(tmp_path: Path) -> None:
    arrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    text = tmp_path / "t.csv"
    text.write_text("va,size,count\n0x1000,4K,3\n0x200000,2M,2\n")
    columns = {"va": [0x200000, 0x1000], "size": ["2M", "4K"], "count": [2, 3]}
    parquet.write_table(arrow.table(columns), tmp_path / "t.parquet")
    columns["size"] = [1 << 21, 1 << 12]
    parquet.write_table(arrow.table(columns), tmp_path / "bytes.parquet")
    expected = [(r.start, r.end, r.size) for r in read_regions(text, FMT)]
    for name in ("t.parquet", "bytes.parquet"):
        found = read_regions(tmp_path / name, FMT)
        assert [(r.start, r.end, r.size) for r in found] == expected


def test_damaged_tables_in_parquet_are_refused_with_the_row(tmp_path: Path) -> None:
    arrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    file = tmp_path / "t.parquet"
    for columns, said in (
        ({"va": [1]}, "va and size"),
        ({"va": [0, None], "size": ["4K", "4K"]}, "row 2"),
        ({"va": [0, 4096], "size": ["4K", "5Q"]}, "row 2"),
        ({"va": [0, 4096], "size": ["8K", "8K"]}, "no 8K page"),
    ):
        parquet.write_table(arrow.table(columns), file)
        with pytest.raises((TraceError, FormatError), match=said):
            read_regions(file, FMT)
    file.write_bytes(b"PAR1" + bytes(100))
    with pytest.raises(TraceError, match=r"t\.parquet"):
        read_regions(file, FMT)

"""AArch64 beyond what QEMU's MMU has, and AArch32, against oracles that were written from the manuals."""

from __future__ import annotations

import random
from collections import Counter
from types import ModuleType
from typing import Any

import pytest

from oracles import arm32, arm64
from oracles.arm64_tables import random_image
from ptcore import PageTable, PhysicalMemory, formats
from ptcore.errors import Fault
from ptcore.formats import Format

BASE = 0x4000_0000
NAMES = {"4K": "aarch64_4k_48", "16K": "aarch64_16k_48", "64K": "aarch64_64k_48"}
KIB = {"4K": 4096, "16K": 16384, "64K": 65536}
KINDS = [(access, user) for access in "rwx" for user in (False, True)]


def check(
    oracle: ModuleType, table: PageTable, va: int, theirs: Any, seen: Counter[str], **state: bool
) -> None:
    ours = table.walk(va)
    assert ours.status.name.lower() == theirs.outcome, (hex(va), theirs, ours)
    assert [(s.entry_address, s.entry) for s in ours.path] == [(a, v) for _, a, v in theirs.path]
    seen[theirs.outcome] += 1
    if theirs.outcome != "ok":
        return
    # A group that is larger than its table is none: the bit is a programming error there.
    level = table.format.levels[ours.path[-1].level]
    whole = theirs.entry_size >> level.shift + level.bits <= 1
    size = theirs.entry_size if whole else theirs.page_size
    assert (ours.pa, ours.page_size) == (theirs.pa, size), (hex(va), theirs, ours)
    for access, user in KINDS:
        try:
            table.translate(va, access, user)
            allowed = True
        except Fault:
            allowed = False
        wanted = oracle.allowed(theirs, access, user, **state)
        assert allowed == wanted, (hex(va), access, user, theirs, ours)
        seen[f"{access}{'u' if user else 'p'}{allowed}"] += 1


def run_64(
    fmt: Format,
    rng: random.Random,
    image: dict[str, Any],
    config: dict[str, Any],
    seen: Counter[str],
    **state: bool,
) -> None:
    upper, tbi = config.get("upper", False), config.get("tbi", False)
    bits = 64 - config["t0sz"]
    for _ in range(6):
        made = random_image(rng, base=BASE, input_bits=bits, blocks_anywhere=True, **image)
        table = PageTable(
            fmt,
            PhysicalMemory.from_buffer(made.data, start=BASE),
            made.root,
            physical_bits=config.get("oa_bits"),
            tag_bits=8 if tbi else 0,
        )
        for va in made.addresses:
            where = va ^ (-1 << bits & (1 << 64) - 1) if upper else va
            if tbi:
                where = where & (1 << 56) - 1 | rng.getrandbits(8) << 56
            theirs = arm64.walk(made.read, made.root, where, **config)
            check(arm64, table, where, theirs, seen, **state)


STAGE_1 = [
    *(("4K", t0sz, "lpa2") for t0sz in (12, 13, 15, 16, 25, 30, 48)),
    *(("16K", t0sz, "lpa2") for t0sz in (12, 14, 17, 28, 48)),
    *(("64K", t0sz, "lpa") for t0sz in (12, 15, 16, 22, 40, 47)),
    *(("64K", t0sz, "") for t0sz in (12, 16, 40, 47)),
    *(("4K", t0sz, "") for t0sz in (16, 40, 48)),
    *(("16K", t0sz, "") for t0sz in (16, 40, 48)),
]


@pytest.mark.parametrize(("granule", "t0sz", "wide"), STAGE_1)
def test_stage_1_agrees_with_the_manual(granule: str, t0sz: int, wide: str) -> None:
    rng = random.Random(f"{granule} {t0sz} {wide}")
    seen = Counter[str]()
    for number in range(8):
        upper, hpd, pan = (bool(rng.getrandbits(1)) for _ in range(3))
        wxn, tbi, epan = (bool(rng.getrandbits(1)) for _ in range(3))
        ha, hd = number in (2, 3), number == 3
        one_level = number == 7
        fmt = formats.get(
            NAMES[granule],
            va_bits=64 - t0sz,
            upper=upper and not one_level,
            wide=wide,
            regime="el2" if one_level else "el1",
            hardware_af=ha,
            hardware_dbm=hd and ha,
            hpd=hpd,
            pan=pan and not one_level,
            epan=epan,
            wxn=wxn,
        )
        config = {
            "granule": KIB[granule],
            "t0sz": t0sz,
            "upper": upper and not one_level,
            "oa_bits": 44 if number in (1, 5) else 52 if wide else 48,
            "lpa": wide == "lpa",
            "ds": wide == "lpa2",
            "two_levels": not one_level,
            "tbi": tbi,
            "ha": ha,
            "hd": hd,
            "hpd": hpd,
        }
        image = {"granule": granule, "wide": wide}
        state = {"wxn": wxn, "pan": pan and not one_level, "epan": epan}
        run_64(fmt, rng, image, config, seen, **state)
    outcomes = ("ok", "not_present", "address_size", "access_flag", "not_canonical")
    assert all(seen[outcome] > 3 for outcome in outcomes), seen
    assert all(seen[f"{k}{m}{f}"] > 5 for k in "wx" for m in "pu" for f in (True, False)), seen


@pytest.mark.parametrize(
    ("granule", "t0sz", "start", "wide"),
    [
        ("4K", 12, -1, "lpa2"),
        ("4K", 13, 0, "lpa2"),
        ("4K", 21, 1, ""),
        ("4K", 24, 1, ""),
        ("4K", 30, 2, ""),
        ("16K", 12, 0, "lpa2"),
        ("16K", 24, 2, ""),
        ("16K", 16, 1, ""),
        ("64K", 12, 1, "lpa"),
        ("64K", 20, 2, ""),
        ("64K", 22, 2, "lpa"),
    ],
)
@pytest.mark.parametrize("xnx", [False, True])
def test_stage_2_agrees_with_the_manual(
    granule: str, t0sz: int, start: int, wide: str, xnx: bool
) -> None:
    rng = random.Random(f"{granule} {t0sz} {wide} {xnx}")
    seen = Counter[str]()
    for ha, hd in ((False, False), (True, False), (True, True)):
        fmt = formats.get(
            f"aarch64_s2_{granule.lower()}",
            ipa_bits=64 - t0sz,
            start_level=start,
            wide=wide,
            xnx=xnx,
            hardware_af=ha,
            hardware_dbm=hd,
        )
        config = {
            "granule": KIB[granule],
            "t0sz": t0sz,
            "stage": 2,
            "start_level": start,
            "lpa": wide == "lpa",
            "ds": wide == "lpa2",
            "ha": ha,
            "hd": hd,
            "xnx": xnx,
        }
        image = {"granule": granule, "wide": wide, "levels": 4 - start}
        run_64(fmt, rng, image, config, seen)
    outcomes = ("ok", "not_present", "access_flag", "not_canonical")
    assert all(seen[outcome] > 10 for outcome in outcomes), seen
    assert all(seen[f"{k}p{f}"] > 10 for k in "rwx" for f in (True, False)), seen


# -- AArch32 ----------------------------------------------------------------------------------------


def short_image(rng: random.Random, wide_root: int) -> tuple[bytes, list[int]]:
    """A root at the start, then sixteen second-level tables of 1 KiB."""
    data = bytearray(wide_root + 16 * 1024)
    first = sorted({0, 1, 15, 16, 17, wide_root // 4 - 1, rng.randrange(wide_root // 4)})
    second = [0, 1, 15, 16, 17, 255]
    for index in first:
        table = BASE + wide_root + 1024 * rng.randrange(17)
        value = rng.choice(
            (rng.getrandbits(32) & ~3, table | rng.getrandbits(10) & ~3 | 1)
            + (rng.getrandbits(32) | 2,) * 2
            + (table | 1,) * 2
        )
        data[4 * index : 4 * index + 4] = value.to_bytes(4, "little")
    for table in range(16):
        for index in second:
            at = wide_root + 1024 * table + 4 * index
            data[at : at + 4] = rng.getrandbits(32).to_bytes(4, "little")
    vas = [
        rng.choice(first) << 20 | rng.choice(second) << 12 | rng.randrange(4096) for _ in range(150)
    ]
    return bytes(data), [va ^ (rng.random() < 0.03) << 32 for va in vas]


@pytest.mark.parametrize("n", [0, 1, 7])
@pytest.mark.parametrize("afe", [False, True])
@pytest.mark.parametrize("pxn", [False, True])
@pytest.mark.parametrize("extended", [False, True])
def test_short_descriptors_agree_with_the_manual(
    n: int, afe: bool, pxn: bool, extended: bool
) -> None:
    rng = random.Random(f"{n} {afe} {pxn} {extended}")
    fmt = formats.get("arm_short", n=n, afe=afe, pxn=pxn, extended=extended)
    seen = Counter[str]()
    for _ in range(30):
        data, vas = short_image(rng, 16384 >> n)
        ram = PhysicalMemory.from_buffer(data, start=BASE)
        table = PageTable(fmt, ram, BASE)

        def read(at: int, size: int, data: bytes = data) -> int | None:
            inside = 0 <= at - BASE <= len(data) - size
            return int.from_bytes(data[at - BASE :][:size], "little") if inside else None

        for va in vas:
            theirs = arm32.walk(read, BASE, va, n=n, afe=afe, pxn=pxn, extended=extended)
            check(arm32, table, va, theirs, seen)
    outcomes = ("ok", "not_present", "not_canonical", *(("access_flag",) if afe else ()))
    assert all(seen[outcome] > 20 for outcome in outcomes), seen
    assert all(seen[f"{k}{m}{f}"] > 10 for k in "wx" for m in "pu" for f in (True, False)), seen


@pytest.mark.parametrize(
    ("tsz", "upper"),
    [(n, upper) for n in (0, 1, 2, 4, 7) for upper in (False, True) if n or not upper],
)
@pytest.mark.parametrize("wxn", [False, True])
@pytest.mark.parametrize("uwxn", [False, True])
def test_long_descriptors_agree_with_the_manual(
    tsz: int, upper: bool, wxn: bool, uwxn: bool
) -> None:
    rng = random.Random(f"{tsz} {upper} {wxn} {uwxn}")
    fmt = formats.get("arm_lpae", tsz=tsz, upper=upper, wxn=wxn, uwxn=uwxn)
    seen = Counter[str]()
    bits = 32 - tsz
    for _ in range(10):
        image = random_image(rng, "4K", bits, base=BASE, blocks_anywhere=True)
        ram = PhysicalMemory.from_buffer(image.data, start=BASE)
        table = PageTable(fmt, ram, image.root)
        for va in image.addresses:
            where = va & (1 << 33) - 1 ^ (((1 << tsz) - 1) << bits if upper else 0)
            config = {"tsz": tsz, "upper": upper, "armv8": False}
            theirs = arm32.walk(image.read, image.root, where, "long", **config)
            check(arm32, table, where, theirs, seen, wxn=wxn, uwxn=uwxn)
    outcomes = ("ok", "not_present", "access_flag")
    assert all(seen[outcome] > 20 for outcome in outcomes), seen
    assert all(seen[f"{k}{m}{f}"] > 10 for k in "wx" for m in "pu" for f in (True, False)), seen

"""What walks go through: a second stage, caches of lines, walkers; counted against the manual's sums."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from ptcore.caches import preset
from ptcore.cli.commands import ptcore
from ptcore.errors import FormatError
from ptcore.study.translation import Source, simulate
from ptcore.study.walk_path import WalkPath

BARE = replace(preset("skylake_sp"), walk_cache={})


def traced(folder: Path, pages: int) -> Source:
    np.save(folder / "t.npy", np.arange(pages, dtype=np.uint64) << np.uint64(12))
    return Source(folder / "t.npy")


@pytest.mark.parametrize(
    ("nested", "pages", "items"),
    [
        (None, "4k", 4),
        ("ept_4level", "4k", 24),  # (4 + 1)(4 + 1) - 1
        ("ept_4level:2M", "4k", 19),  # (4 + 1)(3 + 1) - 1
        ("ept_4level:1G", "4k", 14),
        ("ept_4level:2M", "2m", 15),  # (3 + 1)(3 + 1) - 1
        ("ept_5level", "4k", 29),
    ],
)
def test_a_walk_reads_the_items_of_both_stages(
    tmp_path: Path, nested: str | None, pages: str, items: int
) -> None:
    source = traced(tmp_path, 3 * 512)
    (found,) = simulate(source, [BARE], pages=pages, path=WalkPath.parse(nested, None, 0))
    walks, references = found.whole.walks, found.whole.references
    assert references == items * walks > 0
    assert found.walks.first_stage + found.walks.second_stage == references
    assert found.walks.first_stage == walks * (3 if pages == "2m" else 4)


def test_every_read_is_served_by_a_cache_of_lines_or_by_memory(tmp_path: Path) -> None:
    """8 items of 8 bytes lie in a line: of 64 neighbouring pages' last items memory serves 8."""
    path = WalkPath.parse(None, "32K/8:4,180", 0)
    (found,) = simulate(traced(tmp_path, 64), [BARE], pages="4k", path=path)
    assert found.walks.served == (4 * 64 - 8 - 3, 8 + 3)
    assert found.walks.cycles_per_walk == pytest.approx((245 * 4 + 11 * 180) / 64)
    assert found.cycles == pytest.approx(found.walks.cycles_per_walk)
    assert found.walks.waited_per_walk is None


def test_few_walkers_bound_what_many_do_at_once(tmp_path: Path) -> None:
    waited = []
    for walkers in (1, 2, 8):
        path = WalkPath.parse(None, "32K/8:4,180", walkers)
        (found,) = simulate(traced(tmp_path, 64), [BARE], pages="4k", path=path)
        waited.append(found.walks.waited_per_walk)
    assert waited[0] > waited[1] > waited[2] >= 0


@pytest.mark.parametrize(
    ("nested", "lines", "walkers", "said"),
    [
        (None, "32K:4", 0, "SIZE/WAYS:CYCLES"),
        (None, "32K/8:4", 0, "SIZE/WAYS:CYCLES"),
        (None, "32Q/8:4,180", 0, "32Q"),
        (None, None, 2, "--lines"),
        (None, "180", -1, "no -1 walkers"),
    ],
)
def test_what_is_no_path_is_refused(nested, lines, walkers: int, said: str) -> None:
    with pytest.raises(FormatError, match=said):
        WalkPath.parse(nested, lines, walkers)


def test_the_command_shows_both_stages_and_refuses_them_of_an_image(tmp_path: Path) -> None:
    source = traced(tmp_path, 600)
    run = CliRunner()
    options = ["--nested", "ept_4level:2M", "--lines", "32K/8:4,1M/16:14,180", "--walkers", "4"]
    done = run.invoke(ptcore, ["tlb", str(source.path), *options])
    assert done.exit_code == 0, done.output
    line = next(
        line for line in done.output.splitlines() if line.startswith("cpu  ") and "stage 2" in line
    )
    assert "from D2" in line
    assert "waited/walk" in line
    (tmp_path / "image").write_bytes(bytes(1 << 16))
    image = ["--image", str(tmp_path / "image"), "--root", "0x1000"]
    refused = run.invoke(ptcore, ["tlb", str(source.path), *image, "--nested", "ept_4level"])
    assert refused.exit_code == 2
    unknown = run.invoke(ptcore, ["tlb", str(source.path), "--nested", "ept"])
    assert "nearest: ept_" in unknown.output

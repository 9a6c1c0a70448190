"""The report and the Parquet table: whole, alone, and with every figure that the comparison has."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from html import unescape
from pathlib import Path

import pytest

from ptcore.study import Comparison, NeedsPackage, compare_all
from ptcore.study.questions import QUESTIONS, WINNERS
from ptcore.study.report import page, report
from ptcore.study.tables import records, write_parquet
from ptcore.workloads.scenarios import scenario

NAMES = ["direct_map", "vmalloc_lazy", "unmapped_pool", "iommu_deferred", "naive_unmap"]


@pytest.fixture(scope="module")
def found() -> tuple[Comparison, ...]:
    return compare_all([scenario("secrets", 30), scenario("nic_10g", 40)], NAMES, cpu="zen4")


def charts_in(text: str) -> list[dict]:
    return [json.loads(unescape(said)) for said in re.findall(r"data-chart='([^']*)'", text)]


def test_the_page_answers_first_and_names_what_was_run(found) -> None:
    text = page(found, "/* script */")
    places = [
        text.index(said) for said in ("Winners", "What developers ask", "Workload by workload")
    ]
    assert places == sorted(places)
    for said in (
        *NAMES,
        "secrets, size 30, seed 1",
        "nic_10g",
        "zen4",
        "8 CPUs",
        "USENIX ATC 2017",
    ):
        assert said in text
    assert all(question.text in text for question in QUESTIONS)


def test_charts_have_every_strategy_sorted_and_no_value_is_lost(found) -> None:
    text = page(found[:1], "")
    costs, exposure, translation = charts_in(text)
    totals = {row.strategy: row.price.per_operation for row in found[0].rows}
    dots = costs["data"][0]
    shown = [0.0 if x is None else x for x in dots["x"]]
    assert shown == sorted(totals.values())
    labels = costs["layout"]["yaxis"]["ticktext"]
    assert [label.split()[0].rstrip("*") for label in labels] == sorted(totals, key=totals.get)
    shares = costs["data"][1:]
    for n in range(len(NAMES)):
        total = sum(bar["x"][n] for bar in shares)
        assert total == pytest.approx(100) or total == 0
    pages = {line[0].split(":")[0]: line for line in exposure["data"][0]["text"]}
    assert set(pages) == set(NAMES)
    lazy = next(row for row in found[0].rows if row.strategy == "vmalloc_lazy")
    assert f"vmalloc_lazy: {lazy.exposure.peak_pages:,} pages" in pages["vmalloc_lazy"]
    device = next(bar for bar in translation["data"] if bar["name"] == "device")
    assert max(device["x"]) > 0


def test_nothing_is_fetched_when_it_is_looked_at(found, tmp_path: Path) -> None:
    pytest.importorskip("plotly")
    target = tmp_path / "report.html"
    report(found, target)
    text = target.read_text()
    assert len(text) > 1_000_000, "plotly's JavaScript is inside"
    outside = re.sub(r"<script>.*?</script>", "", text, flags=re.DOTALL)
    assert not re.search(r"""(src|href)\s*=\s*['"]?(https?:)?//|@import|url\(""", outside)
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"]


def test_names_cannot_break_out_of_the_page(found) -> None:
    row = replace(found[0].rows[0], strategy="<b>'\"&mine")
    text = page([replace(found[0], rows=(row,), workload="</script><i>")], "")
    assert "<b>'" not in text
    assert "</script><i>" not in text
    assert "<i>" not in text


def test_what_was_there_stays_when_writing_fails(found, tmp_path: Path, monkeypatch) -> None:
    pytest.importorskip("plotly")
    target = tmp_path / "report.html"
    target.write_text("before")

    class Endless(str):
        def encode(self, *_: object) -> bytes:
            assert len(list(tmp_path.iterdir())) == 2
            raise KeyboardInterrupt

    monkeypatch.setattr("ptcore.study.report.page", lambda *_: Endless())
    with pytest.raises(KeyboardInterrupt):
        report(found, target)
    assert target.read_text() == "before"
    assert len(list(tmp_path.iterdir())) == 1


def test_a_missing_package_is_named_with_its_extra(found, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "plotly.offline", None)
    with pytest.raises(NeedsPackage, match=r"plotly: pip install 'ptcore\[report\]'"):
        report(found, tmp_path / "r.html")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(NeedsPackage, match=r"pyarrow: pip install 'ptcore\[parquet\]'"):
        write_parquet(found, tmp_path / "r.parquet")
    assert not list(tmp_path.iterdir())


def test_the_table_has_a_row_per_workload_and_strategy_and_its_answers(
    found, tmp_path: Path
) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    write_parquet(found, tmp_path / "t.parquet")
    table = parquet.read_table(tmp_path / "t.parquet")
    assert table.num_rows == 2 * len(NAMES)
    assert table.to_pylist() == records(found)
    one = next(r for r in table.to_pylist() if r["strategy"] == "unmapped_pool")
    row = next(r for r in found[0].rows if r.strategy == "unmapped_pool")
    assert one["entries_written"] == row.entries_written
    assert one["exposure_pages"] == row.exposure.pages
    cycles = sum(value for name, value in one.items() if re.match("cycles_(?!per)", name))
    assert cycles == pytest.approx(row.price.cycles)
    assert one["q1"] == pytest.approx(1000 * row.cpus_interrupted / row.price.operations)
    said = json.loads(table.schema.metadata[b"ptcore"])
    assert [a["name"] for a in said["answers"]["secrets, size 30, seed 1"]][len(WINNERS) :] == [
        q.name for q in QUESTIONS
    ]
    assert all(constant["source"] for constant in said["constants"])


@pytest.mark.skipif(shutil.which("chromium") is None, reason="chromium is not installed")
def test_a_browser_draws_every_chart_of_what_is_open(found, tmp_path: Path) -> None:
    pytest.importorskip("plotly")
    report(found, tmp_path / "report.html")
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run"]
    flags += ["--disable-background-networking", f"--user-data-dir={tmp_path / 'profile'}"]
    ran = subprocess.run(
        [
            "chromium",
            *flags,
            "--virtual-time-budget=10000",
            "--dump-dom",
            str(tmp_path / "report.html"),
        ],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    assert ran.stdout.count('data-drawn="1"') == 3, "three charts of the first workload"
    assert ran.stdout.count('class="main-svg"') >= 3
    drawn = " ".join(re.findall(r'<g class="ytick">.*?</g>', ran.stdout))
    assert all(name in drawn for name in NAMES)

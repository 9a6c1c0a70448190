"""The ftrace reader reads what kernels print, and says of each line that it cannot read why."""

from __future__ import annotations

import gzip
import lzma
import re
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ptcore.errors import TraceError
from ptcore.workloads import EventKind, join_areas, read_ftrace, read_sample, sample_path
from ptcore.workloads.ftrace import SAMPLE, cpu_list

WINDOW = "vstart=0xffffc90000000000 vend=0xffffe8ffffffffff"


def line(fields: str, *, task: str = "task", cpu: int = 0, time: str = "1.000001") -> str:
    return f"            {task}-21 [{cpu:03}] d..1.   {time}: {fields}"


ALLOC = f"alloc_vmap_area: va_start: {0xFFFFC90000004000} size=20480 align=16384 {WINDOW} failed=0"
FREE = "free_vmap_area_noflush: va_start=0xffffc90000004000 nr_lazy=5 nr_lazy_max=16384"
PURGE = "purge_vmap_area_lazy: start=0xffffc90000004000 end=0xffffc90000009000 num_purged=1"
CALL = "callback=generic_smp_call_function_single_interrupt+0x0/0x10"


def test_the_fields_of_each_event_are_read() -> None:
    log = read_ftrace(
        [line(ALLOC), line(FREE, cpu=1), line(PURGE), line(f"ipi_send_cpu: cpu=1 {CALL}")]
    )
    alloc, free, purge, ipi = log.events
    assert (alloc["va"], alloc["pages"], alloc["align"]) == (0xFFFFC90000004000, 5, 16384)
    assert (alloc["range_start"], alloc["range_end"]) == (0xFFFFC90000000000, 0xFFFFE8FFFFFFFFFF)
    assert (free["va"], free["count"], free["limit"], free["cpu"]) == (alloc["va"], 5, 16384, 1)
    assert (purge["va"], purge["end"], purge["count"]) == (alloc["va"], alloc["va"] + 0x5000, 1)
    assert (ipi["kind"], ipi["count"], ipi["pid"]) == (EventKind.IPI, 1, 21)
    assert alloc["time_ns"] == 1_000_001_000


@pytest.mark.parametrize("task", ["a b c", "<...>", "kworker/u8:0", "x-1"])
def test_a_task_name_may_hold_spaces_brackets_and_dashes(task: str) -> None:
    log = read_ftrace([line(ALLOC, task=task)])
    assert not log.damaged
    assert log.events["pid"][0] == 21


def test_an_interrupt_to_many_cpus_is_one_event_each_and_a_reschedule_is_other() -> None:
    log = read_ftrace(
        [
            line(f"ipi_send_cpumask: cpumask=0,2-3 callsite=smp_call_function+0x1/0x2 {CALL}"),
            line("ipi_send_cpu: cpu=1 callback=0x0"),
        ]
    )
    assert log.of(EventKind.IPI)["count"].tolist() == [0, 2, 3]
    assert set(log.of(EventKind.IPI)["line"]) == {1}
    assert log.count(EventKind.OTHER) == 1


@pytest.mark.parametrize(
    ("mask", "cpus"),
    [("e", (1, 2, 3)), ("00000001,00000000", (32,)), ("0,2-5", (0, 2, 3, 4, 5)), ("1-2", (1, 2))],
)
def test_a_cpumask_is_hex_words_or_a_list(mask: str, cpus: tuple[int, ...]) -> None:
    assert cpu_list(mask) == cpus


@pytest.mark.parametrize("mask", ["-", "0,", "5-1", "3,9-1000000000", "f" * 9000])
def test_a_cpumask_that_names_no_cpus_or_absurd_ones_damages_its_line_alone(mask: str) -> None:
    log = read_ftrace(
        [line(ALLOC), line(f"ipi_send_cpumask: cpumask={mask} callsite=a+0x1/0x2 {CALL}")]
    )
    assert [d.line for d in log.damaged] == [2]
    assert log.events["line"].tolist() == [1]


def test_symbols_may_name_their_module() -> None:
    log = read_ftrace([line(f"ipi_send_cpu: cpu=1 callsite=kick+0x1/0x2 [kvm] {CALL} [kvm]")])
    assert log.of(EventKind.IPI)["count"].tolist() == [1]


NINES = "9" * 5000


@pytest.mark.parametrize(
    "damaged",
    [
        line(FREE.replace("nr_lazy=5", "nr_lazy=9223372036854775808")),
        line(FREE.replace("nr_lazy=5", f"nr_lazy={NINES}")),
        line(FREE.replace("0xffffc90000004000", "0x1ffffc90000004000")),
        line(ALLOC.replace("size=20480", f"size={NINES}")),
        line(FREE, cpu=32768),
        line(FREE, time=f"{NINES}.000001"),
        line(FREE, time="9999999999.000001"),
        line("map: IOMMU: iova=0x2000 - 0x1000 paddr=0x1000 size=4096"),
        f"CPU:1 [LOST {NINES} EVENTS]",
        "CPU:99999 [LOST 3 EVENTS]",
    ],
)
def test_a_number_that_cannot_be_damages_its_line_alone(damaged: str) -> None:
    log = read_ftrace([line(ALLOC), damaged, line(FREE)])
    assert [(d.line, d.text) for d in log.damaged] == [(2, damaged)]
    assert log.events["line"].tolist() == [1, 3]


def test_a_marker_that_quotes_a_line_is_no_event_of_that_line() -> None:
    log = read_ftrace([line(ALLOC), line(f"tracing_mark_write: see {line(FREE, cpu=1)}")])
    assert log.events["kind"].tolist() == [EventKind.ALLOC, EventKind.OTHER]
    assert log.events["cpu"].tolist() == [0, 0]


WHOLE = "".join(
    f"{line(fields)}\n"
    for fields in (
        ALLOC,
        FREE,
        PURGE.replace("num_purged=1", "num_purged=123"),
        f"ipi_send_cpu: cpu=1 {CALL}",
        "tlb_flush: pages:-1 reason:remote IPI send (4)",
        "map: IOMMU: iova=0x1000 - 0x2000 paddr=0x3000 size=4096",
        "unmap: IOMMU: iova=0x1000 - 0x2000 size=4096 unmapped_size=4096",
        "sched_switch: prev_comm=x",
    )
)


def test_a_trace_cut_at_any_byte_holds_its_whole_lines_and_one_damaged(tmp_path) -> None:
    path = tmp_path / "cut.txt"
    outcomes: Counter[str] = Counter()
    path.write_text(WHOLE)
    events = read_ftrace(path).events
    assert len(events) == 8
    for end in range(WHOLE.index("\n") + 1, len(WHOLE)):
        path.write_text(WHOLE[:end])
        log = read_ftrace(path)
        lines = WHOLE.count("\n", 0, end)
        assert np.array_equal(log.events, events[:lines])
        cut = WHOLE[:end].rpartition("\n")[2]
        assert [(d.line, d.text) for d in log.damaged] == ([(lines + 1, cut)] if cut else [])
        outcomes["damaged" if cut else "whole"] += 1
    assert outcomes["whole"] == 7
    assert outcomes["damaged"] > 500


def test_lines_without_newlines_are_whole_and_a_last_one_among_others_is_not() -> None:
    assert len(read_ftrace([line(ALLOC), line(FREE)]).events) == 2
    log = read_ftrace([f"{line(ALLOC)}\n", line(FREE)])
    assert len(log.events) == 1
    assert "ends within this line" in log.damaged[0].reason
    assert not read_ftrace([f"{line(ALLOC)}\n", line(FREE), f"{line(PURGE)}\n"]).damaged


NOISE = st.text(st.characters(exclude_characters="\n"), max_size=40)


@given(st.lists(NOISE, max_size=8), st.randoms(use_true_random=False))
def test_whatever_stands_between_its_lines_a_trace_is_read(noise: list[str], random) -> None:
    lines = [line(ALLOC), line(FREE), *noise]
    random.shuffle(lines)
    log = read_ftrace(lines)
    assert log.count(EventKind.ALLOC) == log.count(EventKind.FREE) == 1
    said = {*log.events["line"].tolist(), *(d.line for d in log.damaged)}
    silent = [text for number, text in enumerate(lines, 1) if number not in said]
    assert all(not text.strip() or text.strip().startswith("#") for text in silent)


def test_damaged_lines_are_counted_with_their_number_and_reason() -> None:
    log = read_ftrace(
        [
            "# tracer: nop",
            line(ALLOC),
            "garbage",
            line("alloc_vmap_area: va_start: x"),
            line(FREE)[:60],
        ]
    )
    assert [d.line for d in log.damaged] == [3, 4, 5]
    assert "no line of ftrace" in log.damaged[0].reason
    assert "alloc_vmap_area" in log.damaged[1].reason
    assert len(log.events) == 1


def test_lost_events_unknown_events_and_failed_allocations_are_kept() -> None:
    log = read_ftrace(
        [
            line(ALLOC.replace("failed=0", "failed=1")),
            "CPU:1 [LOST 17 EVENTS]",
            line("sched_switch: prev_comm=x"),
        ]
    )
    assert log.events["kind"].tolist() == [EventKind.ALLOC, EventKind.LOST, EventKind.OTHER]
    assert log.events["va"][0] == 0
    assert log.events["count"][1] == 17
    assert len(join_areas(log).areas) == 0


def test_a_free_without_its_counters_is_a_free() -> None:
    log = read_ftrace([line("free_vmap_area_noflush: va_start=0xffffc90000004000")])
    assert (log.events["count"][0], log.events["limit"][0]) == (-1, -1)


def test_cpus_come_from_the_header_or_from_the_lines() -> None:
    header = "# entries-in-buffer/entries-written: 1/1   #P:8"
    assert read_ftrace([header, line(ALLOC)]).cpus == 8
    assert read_ftrace([line(ALLOC, cpu=2)]).cpus == 3


def test_events_that_stand_out_of_order_are_counted() -> None:
    log = read_ftrace([line(ALLOC, time="2.000000"), line(FREE, time="1.000000")])
    assert log.out_of_order == 1


def test_frees_join_the_latest_allocation_of_their_address() -> None:
    log = read_ftrace([line(FREE), line(ALLOC), line(FREE), line(ALLOC)])
    joined = join_areas(log)
    assert joined.areas["alloc"].tolist() == [1, 3]
    assert joined.areas["free"].tolist() == [2, -1]
    assert joined.unmatched_frees.tolist() == [0]


@pytest.mark.parametrize("suffix", [".txt", ".gz", ".xz"])
def test_files_may_be_compressed(tmp_path, suffix: str) -> None:
    path = tmp_path / f"trace{suffix}"
    pack = {".gz": gzip.compress, ".xz": lzma.compress}.get(suffix, bytes)
    path.write_bytes(pack(f"{line(ALLOC)}\n".encode()))
    assert len(read_ftrace(path).events) == 1
    if suffix != ".txt":
        path.write_bytes(path.read_bytes()[:-9])
        with pytest.raises(TraceError, match="truncated"):
            read_ftrace(path)


def test_a_file_without_any_event_is_refused_by_name(tmp_path) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("hello\nworld\n")
    with pytest.raises(TraceError, match=r"notes.txt holds none of the events .*2 lines"):
        read_ftrace(path)


def test_the_bundled_trace_is_whole() -> None:
    log = read_sample()
    assert not log.damaged
    assert (log.cpus, log.out_of_order) == (2, 0)
    counts = {kind: log.count(kind) for kind in EventKind}
    assert counts[EventKind.ALLOC] == 3257
    assert counts[EventKind.FREE] == 3255
    assert counts[EventKind.PURGE] == 57
    assert np.all(log.of(EventKind.FREE)["limit"] == 16384)
    with pytest.raises(TraceError, match=re.escape(SAMPLE)), sample_path("other"):
        pass

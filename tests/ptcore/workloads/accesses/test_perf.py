"""What perf script prints, as perf 6.1 printed it here, and what it must not be taken for."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from ptcore.errors import TraceError
from ptcore.workloads.accesses import AccessKind, open_accesses

LOAD, STORE, FETCH = (int(kind) for kind in AccessKind)
FAULT = "              tt 18638 26913.097170: page-faults:     55c6221c0018 ffffffff81752b6a"
DATA = "|OP LOAD|LVL L1 hit|SNP None|TLB L1 or L2 hit|LCK No|BLK  N/A"


def read(folder: Path, *lines: str, skip_bad: bool = False):
    path = folder / "perf.txt"
    path.write_text("".join(f"{line}\n" for line in lines))
    reader = open_accesses(path, "perf", skip_bad)
    found = []
    for chunk in reader:
        assert chunk.time_ns is not None
        columns = (chunk.va, chunk.kind, chunk.cpu, chunk.time_ns)
        found += zip(*(column.tolist() for column in columns), strict=True)
        assert not chunk.size.any()
    return found, reader.skipped


def test_a_fault_is_a_load_unless_its_address_is_where_the_program_was(tmp_path: Path) -> None:
    fetch = (
        "       perf-exec 18645 [001] 26914.494775: page-faults:     7f1ad3c44270     7f1ad3c44270"
    )
    assert read(tmp_path, FAULT, fetch) == (
        [
            (0x55C6221C0018, LOAD, 0, 26_913_097_170_000),
            (0x7F1AD3C44270, FETCH, 1, 26_914_494_775_000),
        ],
        0,
    )


@pytest.mark.parametrize(
    ("line", "wanted"),
    [
        ("a b c 7 1.000001: page-faults: 1000 2000", (0x1000, LOAD, 0, 1_000_001_000)),
        ("x 7/8 [002] 1.000000001: page-faults: 1000 2000", (0x1000, LOAD, 2, 1_000_000_001)),
        ("x 1 2 [3] 9 [002] 1.5: page-faults: 1000 2000", (0x1000, LOAD, 2, 1_500_000_000)),
        (":-1 -1 1.000001: 1 page-faults:u: 0 2000", (0, LOAD, 0, 1_000_001_000)),
        ("x 7 1.0: 1 page-faults: 1000 2000 main+0x3 (/bin/x)", (0x1000, LOAD, 0, 10**9)),
        (
            f"x 7 1.0: 9 cpu/mem-loads,ldlat=30/P: 1000 5080021 {DATA} 0 2000",
            (0x1000, LOAD, 0, 10**9),
        ),
        ("x 7 1.0: 9 mem: 1000 5080021 |OP STORE|LVL N/A| 2000", (0x1000, STORE, 0, 10**9)),
        ("x 7 1.0: 9 mem: 1000 5080021 |OP EXEC|LVL N/A| 2000", (0x1000, FETCH, 0, 10**9)),
        ("x 7 1.0: cpu/mem-stores/P: 1000 2000", (0x1000, STORE, 0, 10**9)),
        (
            "x 7 [001] 1.0: exceptions:page_fault_user: address=0x1000 ip=0x2000 error_code=0x6",
            (0x1000, STORE, 1, 10**9),
        ),
        (
            "x 7 [001] 1.0: exceptions:page_fault_user: address=0x2000 ip=0x2000 error_code=0x14",
            (0x2000, FETCH, 1, 10**9),
        ),
    ],
)
def test_the_parts_of_a_line_may_be_there_or_not(tmp_path: Path, line: str, wanted) -> None:
    assert read(tmp_path, line) == ([wanted], 0)


@pytest.mark.parametrize(
    "line",
    [
        "",
        "# captured on: x",
        "\t    55c6221c0018 main+0x3 (/bin/x)",
        "x 7 1.0: 250000 cycles: 2000 main+0x3 (/bin/x)",
        "x 7 1.0: 9 mem: 0 5080021 |OP LOAD|LVL N/A| 2000",
        "x 7 1.0: 9 mem: 1000 5080021 |OP N/A|LVL N/A| 2000",
        "x 7 1.0: PERF_RECORD_MMAP2 7/7: [0x1000(0x1000) @ 0 00:00 0 0]: r--p /bin/x",
    ],
)
def test_what_is_no_access_is_passed_over(tmp_path: Path, line: str) -> None:
    assert [row[0] for row in read(tmp_path, FAULT, line, FAULT)[0]] == [0x55C6221C0018] * 2


@pytest.mark.parametrize(
    "line",
    [
        "x 7 1.0: 1 page-faults: ffffffff81752b6a elf_load+0x28a ([kernel.kallsyms])",  # no address
        "x 7 1.0: page-faults: 1000",
        "x 7 1.0: page-faults: 11112222333344445 2000",
        "x 7 1.0: page-faults 1000 2000",
        "x 7 page-faults: 1000 2000",
        "x 1.0: page-faults: 1000 2000",
        "x 7 1.1234567890: page-faults: 1000 2000",
        "x 7 1.0: exceptions:page_fault_user: address=do_x ip=0x2000 error_code=0x6",
        "x 7 1.0: exceptions:page_fault_user: address=0x1000 ip=0x2000",
        "hello",
    ],
)
def test_any_other_line_is_damaged_and_named_or_counted(tmp_path: Path, line: str) -> None:
    with pytest.raises(TraceError, match=r"line 2: .*perf script -F comm,tid,cpu,time") as caught:
        read(tmp_path, FAULT, line, FAULT)
    assert caught.value.line == 2
    found, skipped = read(tmp_path, FAULT, line, FAULT, skip_bad=True)
    assert (len(found), skipped) == (2, 1)


def test_the_form_is_told_by_content(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_text(f"# a header\n{FAULT}\n")
    assert open_accesses(path).form == "perf"


def test_faults_that_perf_records_here_are_read(tmp_path: Path) -> None:
    perf, program = shutil.which("perf"), shutil.which("true")
    if perf is None or program is None:
        pytest.skip("perf is not installed")
    recorded = tmp_path / "perf.data"
    command = [perf, "record", "-q", "-e", "page-faults", "-c", "1", "-d", "-o", str(recorded)]
    done = subprocess.run([*command, program], capture_output=True, text=True, check=False)
    if done.returncode != 0 or not recorded.exists():
        pytest.skip(f"perf cannot record page faults here: {done.stderr.strip()[:80]}")
    fields = "comm,tid,time,event,addr,ip"
    text = subprocess.run(
        [perf, "script", "-i", str(recorded), "-F", fields],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    (tmp_path / "faults.txt").write_text(text)
    reader = open_accesses(tmp_path / "faults.txt")
    found = [hex(va) for chunk in reader for va in chunk.va.tolist()]
    assert found == [f"0x{line.split()[-2].lstrip('0')}" for line in text.splitlines()]
    assert len(found) > 20
    assert reader.skipped == 0


FTRACE = """\
# tracer: nop
#
#           TASK-PID     CPU#  |||||  TIMESTAMP  FUNCTION
#              | |         |   |||||     |         |
              ls-1042    [001] d....   120.000001: page_fault_user: address=0x7f01 ip=0x400 error_code=0x6
  Web Content-77 ( 1042) [003] d..1.   120.000002: page_fault_user: address=0x4000 ip=0x4000 error_code=0x14
          <idle>-0       [000] d.h1.   120.000003: sched_switch: prev_comm=ls prev_pid=1042
  a-b-9 (-----) [002]   120.000004: page_fault_kernel: address=0xffff888000001000 ip=0x1 error_code=0x0
"""


def test_page_faults_of_ftrace_are_accesses(tmp_path: Path) -> None:
    path = tmp_path / "trace.txt"
    path.write_text(FTRACE)
    with open_accesses(path) as reader:
        assert reader.form == "ftrace"
        (chunk,) = list(reader)
    assert chunk.va.tolist() == [0x7F01, 0x4000, 0xFFFF888000001000]
    assert chunk.kind.tolist() == [1, 2, 0]
    assert chunk.cpu.tolist() == [1, 3, 2]
    assert chunk.time_ns.tolist() == [120_000_001_000, 120_000_002_000, 120_000_004_000]


@pytest.mark.parametrize(
    "damaged",
    [
        "ls-1042 [001] d.... 120.000001 page_fault_user: address=0x7f01 ip=0x4 error_code=0x6",
        "ls-1042 [001] d.... 120.000001: page_fault_user: address=zz ip=0x4 error_code=0x6",
        "ls-1042 [001] d.... 120.000001: page_fault_user: address=0x7f01 ip=0x4",
        "lost",
    ],
)
def test_damaged_lines_of_ftrace_are_named_or_counted(tmp_path: Path, damaged: str) -> None:
    path = tmp_path / "trace.txt"
    path.write_text(FTRACE + damaged + "\n" + FTRACE)
    with open_accesses(path) as reader, pytest.raises(TraceError, match=r"line 9\b.*ftrace"):
        list(reader)
    with open_accesses(path, skip_bad=True) as reader:
        assert sum(len(chunk) for chunk in reader) == 6
        assert reader.skipped == 1

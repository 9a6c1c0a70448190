"""Make a bundled sample of a recorded trace: process names replaced, compressed.

usage: python tools/make_sample.py RECORDED.ftrace.txt OUT.ftrace.txt.xz
"""

from __future__ import annotations

import lzma
import re
import sys
from pathlib import Path

# The longest name counts, so that a dash or a bracket within it leaves no rest of it behind. A name
# has at most 15 characters (Linux include/linux/sched.h, TASK_COMM_LEN).
TASK = re.compile(r"^([ \t]*)(\S.{0,14})(-\d+[ \t]+(?:\([ \d-]+\)[ \t]+)?\[\d+\])", re.MULTILINE)


def anonymise(text: str) -> str:
    """Replace every task name by 'task', keeping the columns where there is room."""
    return TASK.sub(lambda m: f"{'task'.rjust(len(m[1]) + len(m[2]))}{m[3]}", text)


if __name__ == "__main__":
    recorded, out = map(Path, sys.argv[1:])
    text = anonymise(recorded.read_text())
    # No check sums or dates of this machine: the same text gives the same bytes.
    out.write_bytes(lzma.compress(text.encode(), preset=9 | lzma.PRESET_EXTREME))

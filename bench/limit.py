"""Build and load bench/limit.c."""

from __future__ import annotations

import ctypes
import os
import subprocess
from pathlib import Path

import numpy as np

HERE = Path(__file__).parent
FLAGS = ["-O3", "-shared", "-fPIC"]
U64 = ctypes.c_uint64
U64S = np.ctypeslib.ndpointer(np.uint64, flags="C")
BYTES = np.ctypeslib.ndpointer(np.uint8, flags="C")


def load() -> ctypes.CDLL:
    """Compile limit.c with the C compiler of the build, and declare its functions."""
    out = HERE.parent / "build/bench/limit.so"
    out.parent.mkdir(parents=True, exist_ok=True)
    subprocess.run([os.environ.get("CC", "cc"), *FLAGS, "-o", out, HERE / "limit.c"], check=True)
    library = ctypes.CDLL(str(out))
    library.walk_many.argtypes = [BYTES, U64, U64S, U64S, U64]
    library.walk_many.restype = None
    library.map_run.argtypes = [BYTES, U64, U64, U64, U64, U64]
    library.map_run.restype = U64
    library.scan.argtypes = [BYTES, U64, ctypes.c_int, U64, U64S, U64]
    library.scan.restype = U64
    library.tlb_lru.argtypes = [U64S, U64S, U64S, U64, U64S]
    library.tlb_lru.restype = None
    library.model_bytes.argtypes = []
    library.model_bytes.restype = U64
    library.model_access.argtypes = [BYTES, BYTES, U64, U64, U64S, BYTES, U64]
    library.model_access.restype = None
    return library

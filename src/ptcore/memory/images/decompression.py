"""Compressed pages, by the packages that know how: Python's zlib, cramjam for Snappy and Zstandard, and
lzallright for LZO. A package that is not there is named when it is wanted."""

from __future__ import annotations

import importlib.util
import zlib
from collections.abc import Callable

from ptcore.errors import ImageError

ZLIB, LZO, SNAPPY, ZSTD = "zlib", "LZO", "Snappy", "Zstandard"
PACKAGES = {LZO: "lzallright", SNAPPY: "cramjam", ZSTD: "cramjam"}


def require(path: str, method: str) -> None:
    """Raise ImageError, which says what to install, if `method` is not at hand."""
    package = PACKAGES.get(method)
    if package is not None and importlib.util.find_spec(package) is None:
        raise ImageError(
            f"{path}: pages are compressed by {method}, which needs the package {package}: "
            "pip install 'ptcore[images]'"
        )


def snappy_frames(text: bytes) -> bytes | None:
    """Return what a stream of Snappy frames holds; None if it is damaged (its checksums are checked)."""
    import cramjam

    try:
        return bytes(cramjam.snappy.decompress(text))
    except cramjam.DecompressionError:
        return None


def _zlib(text: bytes, size: int) -> bytes | None:
    try:
        return zlib.decompressobj().decompress(text, size + 1)
    except zlib.error:
        return None


def _snappy(text: bytes, size: int) -> bytes | None:
    import cramjam

    try:
        if cramjam.snappy.decompress_raw_len(text) != size:
            return None
        return bytes(cramjam.snappy.decompress_raw(text))
    except cramjam.DecompressionError:
        return None


def _zstd(text: bytes, size: int) -> bytes | None:
    import cramjam

    try:
        return bytes(cramjam.zstd.decompress(text, output_len=size))
    except cramjam.DecompressionError:
        return None


def _lzo(text: bytes, size: int) -> bytes | None:
    import lzallright

    try:
        return bytes(lzallright.LZOCompressor.decompress(text, size))
    except lzallright.LZOError:
        return None


DECOMPRESSORS: dict[str, Callable[[bytes, int], bytes | None]] = {
    ZLIB: _zlib,
    LZO: _lzo,
    SNAPPY: _snappy,
    ZSTD: _zstd,
}
"""By method: (compressed bytes, bytes that they come to) -> the bytes, or None for damage."""

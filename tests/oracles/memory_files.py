"""Writers of memory images, from the formats' documents, for the tests of their readers.

LiME README ("Spec"); AVML src/image.rs and google/snappy framing_format.txt; makedumpfile IMPLEMENTATION and
diskdump_mod.h; the layout of `_DUMP_HEADER64` and `_SUMMARY_DUMP64`; VMware's groups and tags.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable, Mapping, Sequence

import cramjam
import numpy as np

PAGE = 4096


def content(seed: int, size: int) -> bytes:
    """Bytes that compress a little: random pages among pages of one byte."""
    random = np.random.default_rng(seed)
    pages = [
        random.bytes(PAGE) if random.random() < 0.5 else bytes([int(random.integers(256))]) * PAGE
        for _ in range(-(-size // PAGE))
    ]
    return b"".join(pages)[:size]


def lime(ranges: Sequence[tuple[int, bytes]]) -> bytes:
    """Every range behind a header: magic, version 1, first and last address, 8 bytes."""
    return b"".join(
        struct.pack("<4sIQQQ", b"EMiL", 1, start, start + len(text) - 1, 0) + text
        for start, text in ranges
    )


def masked_crc(text: bytes) -> int:
    """The CRC-32C of the framing format, rotated and with a constant added."""
    crc = 0xFFFFFFFF
    for byte in text:
        crc = CRC32C[(crc ^ byte) & 0xFF] ^ (crc >> 8)
    crc ^= 0xFFFFFFFF
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def _crc_table() -> list[int]:
    table = []
    for number in range(256):
        for _ in range(8):
            number = number >> 1 ^ (0x82F63B78 if number & 1 else 0)
        table.append(number)
    return table


CRC32C = _crc_table()


def snappy_stream(text: bytes, chunk: int = 1 << 16, *, padding: bytes = b"") -> bytes:
    """A framed stream: chunks that do not shrink are stored plain; a padding chunk may come first.

    Chunks of the usual size are written by cramjam, which is the library that AVML uses.
    """
    if chunk == 1 << 16 and not padding:
        return bytes(cramjam.snappy.compress(text))
    found = b"\xff\x06\x00\x00sNaPpY"
    if padding:
        found += struct.pack("<I", len(padding) << 8 | 0xFE) + padding
    for at in range(0, len(text), chunk):
        part = text[at : at + chunk]
        squeezed = bytes(cramjam.snappy.compress_raw(part))
        kind, body = (0, squeezed) if len(squeezed) < len(part) else (1, part)
        found += struct.pack("<II", (len(body) + 4) << 8 | kind, masked_crc(part)) + body
    return found


def avml(ranges: Sequence[tuple[int, bytes]], chunk: int = 1 << 16, padding: bytes = b"") -> bytes:
    """Every range behind a header with version 2, compressed, with its compressed length after it."""
    found = b""
    for start, text in ranges:
        stream = snappy_stream(text, chunk, padding=padding)
        found += struct.pack("<4sIQQQ", b"AVML", 2, start, start + len(text) - 1, 0)
        found += stream + struct.pack("<Q", len(stream))
    return found


def bitmap(pages: Sequence[int], size: int) -> bytes:
    """Bit n is page n, the lowest bit of a byte first."""
    found = bytearray(size)
    for page in pages:
        found[page // 8] |= 1 << page % 8
    return bytes(found)


Compress = Callable[[bytes], tuple[int, bytes]]
COMPRESS: Mapping[str, Compress] = {
    "plain": lambda page: (0, page),
    "zlib": lambda page: (1, zlib.compress(page)),
    "snappy": lambda page: (4, bytes(cramjam.snappy.compress_raw(page))),
    "zstd": lambda page: (32, bytes(cramjam.zstd.compress(page))),
}


def kdump(
    pages: Mapping[int, bytes],
    memory: Sequence[int],
    methods: Sequence[str] = ("zlib",),
    *,
    bits: int = 64,
    order: str = "<",
    version: int = 6,
    notes: bytes = b"",
    vmcoreinfo: bytes = b"",
    block: int = PAGE,
    uname: bytes = b"x86_64",
) -> bytes:
    """`pages`: frame number -> bytes; `memory`: frames that are memory, stored or not."""
    most = max(memory) + 1
    half = -(-most // (8 * block)) * block
    names = [b"Linux", b"host", b"6.1", b"#1", uname, b""]
    uts = b"".join(name.ljust(65, b"\0") for name in names)
    stamp = bytes(22 if bits == 64 else 10)
    main = struct.pack(order + "8si", b"KDUMP   ", version) + uts + stamp
    main += struct.pack(
        order + "IiiIIIIIIi", 0, block, 1, 2 * half // block, most, len(memory), 0, 0, 0, 1
    )
    at = 1024 + block  # inside the sub header's block, behind the sub header
    word = "Q" if bits == 64 else "I"
    sub = struct.pack(
        f"{order}{word}ii{word}{word}Q{word}Q{word}Q{word}QQQ",
        *(0x1000000, 31, 0, 0, 0, at, len(vmcoreinfo), at + len(vmcoreinfo), len(notes), 0, 0),
        *(0, 0, most),
    )
    sub = sub.ljust(1024, b"\0") + vmcoreinfo + notes
    assert len(sub) <= block
    maps = bitmap(memory, half) + bitmap(sorted(pages), half)
    head = main.ljust(block, b"\0") + sub.ljust(block, b"\0") + maps
    descriptors, body = b"", b""
    at = len(head) + 24 * len(pages)
    for n, frame in enumerate(sorted(pages)):
        flags, text = COMPRESS[methods[n % len(methods)]](pages[frame])
        if len(text) >= block:
            flags, text = 0, pages[frame]
        descriptors += struct.pack(order + "QIIQ", at + len(body), len(text), flags, 0)
        body += text
    return head + descriptors + body


def flattened(text: bytes, sizes: Sequence[int]) -> bytes:
    """The records of a file, the last first, of the sizes in turn; the first piece is written twice."""
    pieces, at = [], 0
    while at < len(text):
        size = sizes[len(pieces) % len(sizes)]
        pieces.append((at, text[at : at + size]))
        at += size
    head = struct.pack(">16sqq", b"makedumpfile", 1, 1).ljust(4096, b"\0")
    wrong = (pieces[0][0], bytes(len(pieces[0][1])))
    records = b"".join(struct.pack(">qq", at, len(p)) + p for at, p in [wrong, *reversed(pieces)])
    return head + records + struct.pack(">qq", -1, -1)


def windows_header(
    kind: int, root: int, runs: Sequence[tuple[int, int]], context: bytes = b""
) -> bytes:
    """The two pages of a 64-bit dump's header; `runs` in pages."""
    head = bytearray(b"PAGE" * 2048)  # what is not set is filled with the signature
    head[4:8] = b"DU64"
    struct.pack_into("<IIQQQQII", head, 8, 15, 22621, root, 1, 2, 3, 0x8664, 4)
    struct.pack_into("<I", head, 56, 0xD1)
    struct.pack_into("<Q", head, 128, 0xFFFFF80000000000)
    struct.pack_into("<IIQ", head, 136, len(runs), 0, sum(count for _, count in runs))
    for n, (first, count) in enumerate(runs):
        struct.pack_into("<QQ", head, 152 + 16 * n, first, count)
    head[840 : 840 + len(context)] = context
    struct.pack_into("<I", head, 3992, kind)
    return bytes(head)


def windows_full(
    runs: Sequence[tuple[int, bytes]], root: int = 0x1AD000, context: bytes = b""
) -> bytes:
    """A complete dump: (first page, bytes) one after the other behind the header."""
    listed = [(first, len(text) // PAGE) for first, text in runs]
    return windows_header(1, root, listed, context) + b"".join(text for _, text in runs)


def windows_bitmap(pages: Mapping[int, bytes], kind: int = 5, magic: bytes = b"SDMPDUMP") -> bytes:
    """A bitmap dump: the bits of all pages, then the pages whose bits are set."""
    bits = (max(pages) // 32 + 2) * 32
    summary = magic.ljust(32, b"\0")
    begins = -(-(8192 + 56 + bits // 8) // PAGE) * PAGE
    summary += struct.pack("<QQQ", begins, len(pages), bits) + bitmap(sorted(pages), bits // 8)
    head = windows_header(kind, 0x1AD000, []) + summary
    return head.ljust(begins, b"\0") + b"".join(pages[n] for n in sorted(pages))


def vmware_tag(name: str, indices: Sequence[int], value: int, size: int) -> bytes:
    """A tag with a short value."""
    head = bytes([len(indices) << 6 | size, len(name)]) + name.encode()
    return head + struct.pack(f"<{len(indices)}I", *indices) + value.to_bytes(size, "little")


def vmware_long_tag(name: str, value: bytes, padding: int) -> bytes:
    """A tag with a value of any length."""
    head = bytes([62, len(name)]) + name.encode()
    return head + struct.pack("<QQH", len(value), len(value), padding) + bytes(padding) + value


def vmware_state(groups: Mapping[str, bytes]) -> bytes:
    """A .vmss: the groups' names and places, then their tags."""
    at = 12 + 80 * len(groups)
    table, body = b"", b""
    for name, tags in groups.items():
        text = tags + b"\0\0"
        table += struct.pack("<64sQQ", name.encode(), at + len(body), len(text))
        body += text
    return struct.pack("<4sII", b"\xd2\xbe\xd2\xbe", 8, len(groups)) + table + body

"""The first file system of a guest: busybox, perl, its libraries, and two programs of ours."""

from __future__ import annotations

import gzip
from pathlib import Path

from guests.debian import Packages

HERE = Path(__file__).parent
FOLDERS = ("proc", "sys", "dev", "tmp", "usr", "usr/bin", "usr/lib", "usr/lib64")
LINKS = {"bin": "usr/bin", "lib": "usr/lib", "lib64": "usr/lib64"}
# Of libc6 only the loader and what perl is linked with.
LIBRARIES = ("ld-linux", "libc.so", "libm.so", "libcrypt.so")


def _wanted(path: Path) -> bool:
    library = path.name.startswith(LIBRARIES) and ".so" in path.name
    return library or path.name in ("busybox", "perl")


class Archive:
    """A cpio archive of the form "newc".

    Linux Documentation/driver-api/early-userspace/buffer-format.rst.
    """

    def __init__(self) -> None:
        self._parts: list[bytes] = []
        self._number = 0

    def add(self, name: str, mode: int, content: bytes = b"") -> None:
        """Append one file, folder or link."""
        self._number += 1
        fields = (self._number, mode, 0, 0, 1, 0, len(content), 0, 0, 0, 0, len(name) + 1, 0)
        head = b"070701" + b"".join(b"%08X" % field for field in fields) + name.encode() + b"\0"
        self._parts += [head, bytes(-len(head) % 4), content, bytes(-len(content) % 4)]

    def packed(self) -> bytes:
        """Return the archive, compressed."""
        self.add("TRAILER!!!", 0)
        return gzip.compress(b"".join(self._parts), 6, mtime=0)


def make(packages: Packages, architecture: str) -> bytes:
    """Return the initramfs of an architecture of Debian's."""
    archive = Archive()
    for folder in FOLDERS:
        archive.add(folder, 0o040755)
    for name, target in LINKS.items():
        archive.add(name, 0o120777, target.encode())
    seen = set(FOLDERS)
    for package in ("busybox-static", "perl-base", "libc6", "libcrypt1"):
        root = packages.unpack(package, architecture)
        for path in sorted(root.rglob("*")):
            if path.is_dir() or not _wanted(path):
                continue
            inside = path.relative_to(root)
            for parent in reversed(inside.parents[:-1]):
                if str(parent) not in seen:
                    archive.add(str(parent), 0o040755)
                    seen.add(str(parent))
            if path.is_symlink():
                archive.add(str(inside), 0o120777, str(path.readlink()).encode())
            else:
                archive.add(str(inside), 0o100755, path.read_bytes())
    archive.add("init", 0o100755, (HERE / "init.sh").read_bytes())
    archive.add("mappings.pl", 0o100755, (HERE / "mappings.pl").read_bytes())
    return archive.packed()

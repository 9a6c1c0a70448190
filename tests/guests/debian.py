"""Debian's packages, downloaded and unpacked into a folder of our own; nothing is installed.

apt runs over a state folder of its own with three architectures, so that the machine's apt does not
change. It checks signatures with the keyring that the machine has.
"""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
MIRROR = "http://deb.debian.org/debian"
# The first release with riscv64, and with arm64 kernels of 16 KiB pages.
SUITE = "trixie"
ARCHITECTURES = ("amd64", "arm64", "riscv64")

CONFIGURATION = """\
Dir::State "{root}/state";
Dir::State::status "{root}/state/status";
Dir::Cache "{root}/cache";
Dir::Etc::sourcelist "{root}/sources.list";
Dir::Etc::sourceparts "{root}/none";
Dir::Etc::preferencesparts "{root}/none";
APT::Architecture "amd64";
APT::Architectures {{ {architectures} }};
APT::Sandbox::User "root";
Acquire::Languages "none";
"""


class Packages:
    """The packages of `SUITE`, kept in `folder`: `.deb` files, and what was unpacked of them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder.resolve()
        self.versions: dict[str, str] = {}
        self._updated = False

    def _apt(self, *arguments: str, cwd: Path | None = None) -> str:
        root = self.folder / "apt"
        if not self._updated:
            for name in ("state/lists/partial", "cache/archives/partial", "none"):
                (root / name).mkdir(parents=True, exist_ok=True)
            (root / "state/status").touch()
            (root / "sources.list").write_text(f"deb [signed-by={KEYRING}] {MIRROR} {SUITE} main\n")
            architectures = " ".join(f'"{name}";' for name in ARCHITECTURES)
            text = CONFIGURATION.format(root=root, architectures=architectures)
            (root / "apt.conf").write_text(text)
            self._updated = True
            self._apt("apt-get", "update", "-q")
        environment = {**os.environ, "APT_CONFIG": str(root / "apt.conf")}
        done = subprocess.run(
            arguments, env=environment, cwd=cwd, text=True, check=True, stdout=subprocess.PIPE
        )
        return done.stdout

    def kernel(self, metapackage: str, architecture: str) -> str:
        """Return the name of the kernel package that a metapackage stands for.

        One that was unpacked before is taken without asking.
        """
        flavour = metapackage.removeprefix("linux-image")
        known = sorted((self.folder / "unpacked").glob(f"linux-image-*{flavour}_{architecture}"))
        if known:
            return known[-1].name.rpartition("_")[0]
        shown = self._apt("apt-cache", "depends", f"{metapackage}:{architecture}")
        found = re.search(r"Depends: (linux-image-[^\s:]+)", shown)
        assert found, shown
        return found[1]

    def unpack(self, name: str, architecture: str) -> Path:
        """Return the folder with the files of a package, downloaded if they are not there yet."""
        target = self.folder / "unpacked" / f"{name}_{architecture}"
        note = target.with_name(f"{target.name}.version")
        if not note.exists():
            debs = self.folder / "debs"
            debs.mkdir(parents=True, exist_ok=True)
            self._apt("apt-get", "download", "-q", f"{name}:{architecture}", cwd=debs)
            (deb,) = debs.glob(f"{name}_*_{architecture}.deb")
            target.mkdir(parents=True)
            subprocess.run(["dpkg-deb", "-x", deb, target], check=True)
            version = subprocess.run(
                ["dpkg-deb", "-f", deb, "Version"], check=True, text=True, stdout=subprocess.PIPE
            )
            note.write_text(version.stdout.strip())
            deb.unlink()
        self.versions[f"{name}:{architecture}"] = note.read_text()
        return target

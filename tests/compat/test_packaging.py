"""What a user does first: build, install into an empty environment, import, cimport."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CLEAN = {
    k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV")
}


def run(*command: object, cwd: Path, **more: str) -> str:
    done = subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        env=CLEAN | more,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> Path:
    """Build an sdist, and from it a wheel, each in an isolated environment; return their folder."""
    tree = tmp_path_factory.mktemp("build") / "tree"
    generated = shutil.ignore_patterns(
        ".venv",
        ".git",
        "build",
        "dist",
        "*.so",
        "*.c",
        "*.egg-info",
        "formats_generated.h",
        ".*cache*",
    )
    shutil.copytree(ROOT, tree, ignore=generated)
    shutil.copy(ROOT / "bench/limit.c", tree / "bench/limit.c")
    run(sys.executable, "-m", "build", "--outdir", "out", ".", cwd=tree)
    return tree / "out"


def test_the_sdist_holds_sources_and_nothing_generated(built: Path) -> None:
    (path,) = built.glob("*.tar.gz")
    with tarfile.open(path) as archive:
        names = [name.partition("/")[2] for name in archive.getnames()]
    assert "src/ptcore/table/page_table.pyx" in names
    assert "src/ptcore/table/abi.h" in names
    assert "src/strategies/vmalloc.py" in names
    assert "LICENSE" in names
    generated = [
        n
        for n in names
        if n.endswith((".so", "_generated.h")) or (n.endswith(".c") and "bench" not in n)
    ]
    assert not generated


def test_the_wheel_holds_types_headers_and_the_sample(built: Path) -> None:
    (path,) = built.glob("*.whl")
    names = zipfile.ZipFile(path).namelist()
    for wanted in (
        "ptcore/py.typed",
        "ptcore/table/page_table.pyi",
        "ptcore/table/page_table.pxd",
        "ptcore/table/abi.h",
        "ptcore/table/formats_generated.h",
        "ptcore/strategies/vmalloc.py",
        "ptcore/workloads/samples/vmalloc-linux-6.18-2cpu.ftrace.txt.xz",
    ):
        assert wanted in names
    assert not [name for name in names if name.endswith((".c", ".pyx"))]


@pytest.fixture(scope="module")
def empty_venv(built: Path, tmp_path_factory) -> Path:
    """Install the wheel, with nothing else but what it asks for; return the interpreter."""
    home = tmp_path_factory.mktemp("venv")
    run(sys.executable, "-m", "venv", home / "venv", cwd=home)
    python = home / "venv/bin/python"
    (wheel,) = built.glob("*.whl")
    run(python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", wheel, cwd=home)
    return python


def test_an_empty_environment_gets_numpy_alone_and_works(empty_venv: Path) -> None:
    cwd = empty_venv.parent
    listed = run(empty_venv, "-m", "pip", "list", "--format=freeze", cwd=cwd).lower()
    installed = {line.partition("==")[0] for line in listed.split()} - {
        "pip",
        "setuptools",
        "wheel",
    }
    assert installed == {"numpy", "ptcore"}
    code = (
        "import ptcore, ptcore.strategies, ptcore.study, ptcore.workloads as w;"
        "t = ptcore.PageTable('x86_64_4level', ptcore.PhysicalMemory('1T'));"
        "t.map(0, 0x200000, '2M'); print(hex(t.translate(0x123)), w.read_sample().cpus)"
    )
    assert run(empty_venv, "-c", code, cwd=cwd).split() == ["0x200123", "2"]


def test_the_command_says_what_it_needs(empty_venv: Path) -> None:
    done = subprocess.run(
        [empty_venv.parent / "ptcore"], env=CLEAN, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert "pip install 'ptcore[cli]'" in done.stderr


EXAMPLE = """
from libc.stdint cimport uint64_t
from ptcore.table.page_table cimport PageTable

def translate(PageTable table, uint64_t va):
    cdef uint64_t pa
    cdef int status = table.translate_one(va, 1, &pa)
    return status, pa
"""

SETUP = """
from Cython.Build import cythonize
from setuptools import Extension, setup
from ptcore.table import include_dirs
setup(
    name="example",
    ext_modules=cythonize(
        [Extension("example", ["example.pyx"], include_dirs=include_dirs())], language_level=3
    ),
)
"""


def test_another_cython_package_can_cimport_the_walker(built: Path, tmp_path: Path) -> None:
    # An installed ptcore, not the checkout: Cython looks for .pxd files along sys.path.
    (wheel,) = built.glob("*.whl")
    zipfile.ZipFile(wheel).extractall(tmp_path / "site")
    site = str(tmp_path / "site")
    (tmp_path / "example.pyx").write_text(EXAMPLE)
    (tmp_path / "setup.py").write_text(SETUP)
    run(sys.executable, "setup.py", "build_ext", "--inplace", cwd=tmp_path, PYTHONPATH=site)
    code = (
        "import ptcore, example;"
        "t = ptcore.PageTable('x86_64_4level', ptcore.PhysicalMemory('1G'));"
        "t.map(0, 0x200000, '2M'); print(*example.translate(t, 0x123), *example.translate(t, 1 << 30))"
    )
    out = run(sys.executable, "-c", code, cwd=tmp_path, PYTHONPATH=site).split()
    assert out == ["0", str(0x200123), "1", str((1 << 64) - 1)]

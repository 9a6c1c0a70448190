"""The extensions, their directives, and the C constants generated from the formats.

PTCORE_DEBUG=1 turns bounds checks and assertions on; PTCORE_WERROR=1 turns C warnings into errors.
"""

from __future__ import annotations

import importlib
import os
import re
import sys
import types
from pathlib import Path

from Cython.Build import cythonize
from setuptools import Extension, setup
from setuptools.command.build_py import build_py

SOURCE = Path("src/ptcore")
DEBUG = os.environ.get("PTCORE_DEBUG") == "1"

# What Cython 3.1 to 3.3 generates is not free of these; our own headers are.
GENERATED_CODE_EXCEPTIONS = [
    "-Wno-unused-function",  # conversion helpers that a module turns out not to use
    "-Wno-unused-parameter",  # METH_NOARGS functions take an argument by contract
    "-Wno-missing-field-initializers",  # PyTypeObject and PyMethodDef tables
    "-Wno-cast-function-type",  # PyCFunction casts of keyword functions
    "-Wno-sign-compare",  # generated integer conversions
]


def generate_constants() -> None:
    """Write table/formats_generated.h without importing the compiled package."""
    package = types.ModuleType("ptcore")
    package.__path__ = [str(SOURCE.resolve())]
    before = sys.modules.get("ptcore")
    sys.modules["ptcore"] = package
    try:
        formats = importlib.import_module("ptcore.formats")
        lower = importlib.import_module("ptcore.formats.lower")
        known = [formats.get(name) for name in formats.names()]
        source = lower.c_source(fmt for fmt in known if fmt.compiled)
    finally:
        for name in [name for name in sys.modules if name.startswith("ptcore.")]:
            del sys.modules[name]
        sys.modules.pop("ptcore")
        if before is not None:
            sys.modules["ptcore"] = before
    header = SOURCE / "table/formats_generated.h"
    if not header.exists() or header.read_text() != source:
        header.write_text(source)


def headers_behind(path: Path) -> list[str]:
    """Return the headers that a Cython file comes to, by way of what it cimports and what those include."""
    known = {header.name: header for header in SOURCE.rglob("*.h")}
    found: set[Path] = set()
    ahead = [path]
    while ahead:
        here = ahead.pop()
        found.add(here)
        text = here.read_text()
        named = [
            known[name] for name in re.findall(r'"(?:[./\w]*/)?(\w+\.h)"', text) if name in known
        ]
        if here.suffix != ".h":
            modules = re.findall(r"\bfrom ([\w.]+) cimport|\bcimport ([\w.]+)", text)
            parts = [Path("src", *(a or b).split(".")).with_suffix(".pxd") for a, b in modules]
            named += [part for part in (*parts, here.with_suffix(".pxd")) if part.exists()]
        ahead += [name for name in named if name not in found]
    return sorted(str(header) for header in found if header.suffix == ".h")


def extensions() -> list[Extension]:
    flags = ["-O0", "-g"] if DEBUG else ["-O3"]
    flags += ["-Wall", "-Wextra", *GENERATED_CODE_EXCEPTIONS]
    if os.environ.get("PTCORE_WERROR") == "1":
        flags.append("-Werror")
    return [
        Extension(
            ".".join(path.relative_to("src").with_suffix("").parts),
            [str(path)],
            include_dirs=[str(SOURCE / "memory"), str(SOURCE / "table"), str(SOURCE / "caches")],
            depends=headers_behind(path),
            extra_compile_args=flags,
        )
        for path in sorted(SOURCE.rglob("*.pyx"))
    ]


class BuildWithoutSources(build_py):
    """Wheels carry headers and .pxd files for other Cython packages, not the generated C."""

    def find_data_files(self, package: str, src_dir: str) -> list[str]:
        found = super().find_data_files(package, src_dir)
        return [name for name in found if not name.endswith((".c", ".pyx"))]


generate_constants()
setup(
    cmdclass={"build_py": BuildWithoutSources},
    options={"build_ext": {"parallel": os.cpu_count() or 1}},
    ext_modules=cythonize(
        extensions(),
        include_path=["src"],
        compiler_directives={
            "language_level": 3,
            "binding": True,
            "embedsignature": False,
            "boundscheck": DEBUG,
            "wraparound": DEBUG,
            "initializedcheck": DEBUG,
            "nonecheck": DEBUG,
            "cdivision": not DEBUG,
        },
    ),
)

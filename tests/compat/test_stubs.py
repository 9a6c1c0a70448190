"""The stub beside each compiled module says what the module holds."""

from __future__ import annotations

import ast
import importlib
import importlib.util
import inspect
import os
import pkgutil
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import ptcore

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "src/ptcore"

# What Cython adds to every module, and what no stub can say of an __init__ that takes nothing.
OF_CYTHON = (
    r".*\.__(reduce_cython|setstate_cython|test|pyx_\w+)__",
    r".*\.__pyx_\w+",
    r".*\.__init__",
)


def compiled_modules() -> list[str]:
    return sorted(
        ".".join(path.relative_to(ROOT / "src").with_suffix("").parts)
        for path in SOURCE.rglob("*.pyx")
    )


def names_imported(module: str) -> set[str]:
    """Python-level names that a .pyx file takes from elsewhere: they are no part of its door."""
    text = (ROOT / "src" / Path(*module.split("."))).with_suffix(".pyx").read_text()
    found = re.findall(r"^from \S+ import (\([^)]*\)|[^\n(]+)", text, re.MULTILINE)
    return {
        name.split(" as ")[-1].strip() for part in found for name in part.strip("()").split(",")
    }


def test_the_compiled_modules_are_compiled_and_found() -> None:
    names = compiled_modules()
    assert {"ptcore.memory.physical", "ptcore.table.page_table"} <= set(names)
    for name in names:
        assert importlib.import_module(name).__file__.endswith((".so", ".pyd")), name


def test_every_compiled_module_has_a_stub() -> None:
    assert [p for p in SOURCE.rglob("*.pyx") if not p.with_suffix(".pyi").exists()] == []


def test_every_stub_says_what_its_module_holds(tmp_path: Path) -> None:
    allowed = tmp_path / "allowed.txt"
    lines = [*OF_CYTHON]
    for module in compiled_modules():
        lines += [re.escape(f"{module}.{name}") for name in sorted(names_imported(module)) if name]
    allowed.write_text("\n".join(lines) + "\n")
    command = [
        *(sys.executable, "-m", "mypy.stubtest", "--concise", "--ignore-unused-allowlist"),
        *("--allowlist", str(allowed)),
        *compiled_modules(),
    ]
    # mypy has no word for "src/strategies is ptcore.strategies": it reads a copy where it stands so.
    shutil.copytree(SOURCE, tmp_path / "types/ptcore")
    shutil.copytree(ROOT / "src/strategies", tmp_path / "types/ptcore/strategies")
    environment = {**os.environ, "MYPYPATH": str(tmp_path / "types")}
    ended = subprocess.run(
        command, env=environment, cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr


@pytest.mark.parametrize("module", compiled_modules())
def test_every_public_name_of_a_stub_is_documented(module: str) -> None:
    stub = (ROOT / "src" / Path(*module.split("."))).with_suffix(".pyi")
    tree = ast.parse(stub.read_text())
    bare = [
        node.name
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.ClassDef)
        and not node.name.startswith("_")
        and not any(ast.unparse(mark) == "property" for mark in node.decorator_list)
        and not ast.get_docstring(node)
    ]
    assert bare == []


def test_every_public_name_of_the_package_exists_and_is_listed_once() -> None:
    assert len(set(ptcore.__all__)) == len(ptcore.__all__)
    for name in ptcore.__all__:
        assert getattr(ptcore, name) is not None


def test_every_module_of_the_package_begins_with_a_sentence() -> None:
    modules = [name for _, name, _ in pkgutil.walk_packages(ptcore.__path__, "ptcore.")]
    assert len(modules) > 10
    assert [name for name in modules if not sentence_of(name)] == []


def sentence_of(name: str) -> str | None:
    """A module's docstring. Python is read, not run: a module of interop may have its host alone."""
    spec = importlib.util.find_spec(name)
    assert spec is not None
    if str(spec.origin).endswith(".py"):
        return ast.get_docstring(ast.parse(Path(str(spec.origin)).read_text()))
    return inspect.getdoc(importlib.import_module(name))


def test_the_front_door_and_its_stub_name_the_same() -> None:
    tree = ast.parse((SOURCE / "__init__.pyi").read_text())
    named = {
        alias.asname or alias.name
        for node in tree.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert named - {"annotations"} == set(ptcore.__all__)
    assert set(ptcore.__all__) <= set(dir(ptcore))


def test_the_version_is_found_where_people_look_for_it() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert ptcore.__version__ == project["version"]
    assert "__version__" in dir(ptcore)
    for command in (["-m", "ptcore"], ["-c", "from ptcore.cli import main; main()"]):
        ended = subprocess.run(
            [sys.executable, *command, "--version"], capture_output=True, text=True, check=True
        )
        assert ended.stdout == f"ptcore, version {project['version']}\n"


def test_reading_tables_imports_nothing_from_above_their_floor() -> None:
    code = "import sys, ptcore; ptcore.PageTable; print(*sorted(sys.modules))"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(ended.stdout.split())
    assert "ptcore.table.page_table" in loaded
    above = ("allocators", "caches", "live", "machine", "workloads", "strategies", "study", "cli")
    assert [name for name in above if f"ptcore.{name}" in loaded] == []
    with pytest.raises(AttributeError, match="no attribute 'nothing_of_this_name'"):
        _ = ptcore.nothing_of_this_name

"""The house: floors, names, and what is kept out of the code. Read from the sources, not run."""

from __future__ import annotations

import ast
import re
from collections import Counter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src"
GENERATED = ("_generated.h",)

# What a room may import: its own floor and lower ones. A folder not named here fails the test.
FLOORS = {
    "ptcore.errors": 0,
    "ptcore.units": 0,
    "ptcore.formats": 1,
    "ptcore.memory": 2,
    "ptcore.table": 3,
    "ptcore.caches": 4,
    "ptcore.allocators": 4,
    "ptcore.live": 4,
    "ptcore.machine": 5,
    "ptcore.testing": 5,
    "ptcore.workloads": 6,
    "ptcore.strategies": 6,
    "ptcore.interop": 7,
    "ptcore.study": 7,
    "ptcore.cli": 8,
    "ptcore": 9,  # the front door re-exports; nobody inside goes through it
}
# Rooms of one floor, in the order in which they may import each other.
ORDER = ["ptcore.errors", "ptcore.units"]
FRONT_DOOR_NAMES = {"errors", "formats", "strategies", "study", "units", "testing"}

# Architectures and vendors: outside formats/ these are for prose, not for names or for tests.
ARCHITECTURES = re.compile(
    r"(?<![a-z0-9])(x86|amd64|i386|arm64|aarch64|arm|riscv|sv39|sv48|sv57|ept|vtd|amdv1|ppc64?|s390x?"
    r"|loongarch|mips|pml4|pml5|pdpt|pgd|p4d|pud|pmd|maxphyaddr|efer|cr3|satp|ttbr)(?![a-z])",
    re.IGNORECASE,
)
BANNED_WORDS = {
    *("manager", "helper", "helpers", "util", "utils", "handler", "common", "misc", "base", "data"),
    *("info", "processor", "impl", "core"),
}
WIDE_NUMBERS = re.compile(r"(?<![\w.])0[xX][0-9a-fA-F_]{4,}(?:[uUlL]*)\b")

WIDE_NUMBERS_ALLOWED = {
    "cost.py": "prices, each with its source",
    "tlb_policies.h": "the slots 0 to 15 in order, and one bit in each of sixteen places",
    "ordered_map.h": "2**64 over the golden ratio: Fibonacci hashing",
}

# Line and function ceilings (traversals may be longer: they are one decision after another).
MOST_LINES = 750
MOST_FUNCTION_LINES = 40
MOST_TRAVERSAL_LINES = 60


def sources(*suffixes: str) -> list[Path]:
    found = [
        path
        for path in sorted(SOURCE.rglob("*"))
        if path.suffix in suffixes
        and not path.name.endswith(GENERATED)
        and not any(part.endswith(".egg-info") or part == "__pycache__" for part in path.parts)
    ]
    assert found
    return found


def module_of(path: Path) -> str:
    parts = list(path.relative_to(SOURCE).with_suffix("").parts)
    if parts[0] == "strategies":  # package-dir: src/strategies is ptcore.strategies
        parts.insert(0, "ptcore")
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def room_of(module: str) -> str:
    """The room that a module is in: the longest name in FLOORS that it begins with."""
    rooms = [room for room in FLOORS if f"{module}.".startswith(f"{room}.")]
    return max(rooms, key=len)


def statements(path: Path) -> list[str]:
    """The import statements of a Cython file, one line each."""
    text = re.sub(r"#.*", "", path.read_text())
    text = re.sub(r"\(([^)]*)\)", lambda found: found[0].replace("\n", " "), text)
    return re.findall(r"^\s*((?:from\s+\S+\s+)?c?import\s+[^\n]+)", text, re.MULTILINE)


def imports(path: Path) -> set[str]:
    """Modules of ptcore that a file imports or cimports, as dotted names."""
    found: set[str] = set()
    if path.suffix in (".py", ".pyi"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                found |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                assert node.level == 0, f"{path}: imports are absolute"
                found |= {f"{node.module}.{alias.name}" for alias in node.names}
    else:
        for line in statements(path):
            whole = re.fullmatch(r"from\s+(\S+)\s+c?import\s+\(?(.*?)\)?", line.strip())
            if whole:
                names = [part.split()[0] for part in whole[2].split(",") if part.strip()]
                found |= {f"{whole[1]}.{name}" for name in names}
            else:
                found |= {part.split()[0] for part in line.split(None, 1)[1].split(",")}
    return {name for name in found if name == "ptcore" or name.startswith("ptcore.")}


def test_every_folder_has_a_floor() -> None:
    folders = {
        module_of(path / "__init__.py")
        for path in (*(SOURCE / "ptcore").iterdir(), SOURCE / "strategies")
        if path.is_dir() and any(path.glob("*.py"))
    }
    assert folders - set(FLOORS) == set()
    assert len(folders) >= 5


def test_no_import_goes_upward() -> None:
    wrong = []
    looked = Counter[str]()
    for path in sources(".py", ".pyx", ".pxd", ".pyi"):
        module = module_of(path)
        room = room_of(module)
        for name in imports(path):
            looked[path.suffix] += 1
            target = room_of(name)
            if (
                target == "ptcore"
                and name.split(".")[-1] not in FRONT_DOOR_NAMES
                and room != "ptcore"
            ):
                wrong.append(f"{module} goes through the front door for {name}")
            elif FLOORS[target] > FLOORS[room] and room != "ptcore":
                wrong.append(f"{module} (floor {FLOORS[room]}) imports {name}")
            elif room in ORDER and target in ORDER and ORDER.index(target) > ORDER.index(room):
                wrong.append(f"{module} imports {name}, a later room of floor 0")
    assert wrong == []
    assert min(looked[suffix] for suffix in (".py", ".pyx", ".pxd", ".pyi")) > 5, looked


def test_headers_are_included_from_the_same_floor_or_below() -> None:
    home = {path.name: room_of(module_of(path)) for path in sources(".h")}
    wrong = []
    for path in sources(".h"):
        for name in re.findall(r'#include "(?:[./\w]*/)?(\w+\.h)"', path.read_text()):
            if name in home and FLOORS[home[name]] > FLOORS[room_of(module_of(path))]:
                wrong.append(f"{path.name} includes {name}")
    assert wrong == []


def test_the_front_door_only_re_exports() -> None:
    tree = ast.parse((SOURCE / "ptcore/__init__.py").read_text())
    for node in tree.body:
        docstring = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
        names = isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) in (
            "__all__",
            "__version__",
        )
        assert docstring or names or isinstance(node, ast.Import | ast.ImportFrom), ast.unparse(
            node
        )


def test_every_cython_module_is_a_pair_with_a_stub() -> None:
    for path in sources(".pyx"):
        assert path.with_suffix(".pyi").exists(), f"{path.name} has no stub"


def code_only(path: Path) -> str:
    """The text of a file without docstrings and comments."""
    text = path.read_text()
    if path.suffix in (".h", ".c"):
        return re.sub(r"/\*.*?\*/|//[^\n]*", "", text, flags=re.DOTALL)
    text = re.sub(r'"""(?:[^"\\]|\\.|"(?!""))*"""', '""', text)
    return "\n".join(re.sub(r"#.*", "", line) for line in text.splitlines())


def python_names(tree: ast.AST) -> list[str]:
    names = []
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.ClassDef | ast.AsyncFunctionDef):
            names.append(node.name)
        elif isinstance(node, ast.arg):
            names.append(node.arg)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names.append(node.id)
    return names


def cython_names(path: Path) -> list[str]:
    code = code_only(path)
    return re.findall(r"\b(?:def|class|struct|enum)\s+(\w+)", code) + re.findall(
        r"^\s*cp?def\s+(?:\w+[ *]+)*(\w+)\s*\(", code, re.MULTILINE
    )


# Data files about one architecture outside formats/: geometries with a source per row, a kernel's
# tunables, and the default of a command.
PRESETS = ("presets", "geometry.py", "samples")


def test_nothing_outside_the_formats_tests_an_architectures_name() -> None:
    wrong = []
    for path in sources(".py", ".pyx", ".pxd", ".h"):
        module = module_of(path)
        if module.startswith("ptcore.formats") or any(part in PRESETS for part in path.parts):
            continue
        names = (
            python_names(ast.parse(path.read_text()))
            if path.suffix == ".py"
            else cython_names(path)
        )
        wrong += [f"{module}: the name {name}" for name in names if ARCHITECTURES.search(name)]
        for line in code_only(path).splitlines():
            if ARCHITECTURES.search(line) and re.search(
                r"\b(if|elif|while|case|in|==|!=)\b|==|!=", line
            ):
                quoted = re.findall(r"[\"'][^\"']*[\"']", line)
                if any(ARCHITECTURES.search(text) for text in quoted) and re.search(
                    r"==|!=|\bcase\b|\b(if|elif)\b.*\bin\b|startswith|endswith", line
                ):
                    wrong.append(f"{module}: {line.strip()}")
    assert wrong == []


def test_format_files_are_data() -> None:
    rooms = {"__init__", "schema", "lower", "encode", "access", "explain"}
    families = [path for path in (SOURCE / "ptcore/formats").glob("*.py") if path.stem not in rooms]
    assert families
    for path in families:
        tree = ast.parse(path.read_text())
        for node in ast.walk(tree):
            assert not isinstance(node, ast.While | ast.If | ast.For | ast.Try | ast.ClassDef), (
                f"{path.name}, line {node.lineno}: a format declares"
            )
            if isinstance(node, ast.ImportFrom):
                assert node.module in ("__future__", "ptcore.formats.schema"), path.name
            assert not isinstance(node, ast.Import), path.name
        assert ast.get_docstring(tree)
        assert "Citation(" in path.read_text()


def test_formats_import_nothing_compiled() -> None:
    for path in (SOURCE / "ptcore/formats").glob("*.py"):
        assert "numpy" not in path.read_text()
        for name in imports(path):
            assert FLOORS[room_of(name)] <= 1, name


def words_of(name: str) -> set[str]:
    return {word.lower() for word in re.findall(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])", name)}


def test_no_file_class_or_function_has_a_banned_name() -> None:
    wrong = []
    for path in sources(".py", ".pyx", ".pxd", ".pyi"):
        if words_of(path.stem) & BANNED_WORDS:
            wrong.append(str(path))
        if path.suffix in (".py", ".pyi"):
            tree = ast.parse(path.read_text())
            names = [
                node.name
                for node in ast.walk(tree)
                if isinstance(node, ast.FunctionDef | ast.ClassDef)
            ]
        else:
            names = cython_names(path)
        wrong += [f"{path.name}: {name}" for name in names if words_of(name) & BANNED_WORDS]
    assert wrong == []


def test_no_number_wider_than_three_hex_digits_outside_formats_and_cost() -> None:
    wrong = []
    for path in sources(".py", ".pyx", ".pxd", ".h"):
        if "formats" in path.parts or path.name in WIDE_NUMBERS_ALLOWED:
            continue
        for line in code_only(path).splitlines():
            for found in WIDE_NUMBERS.findall(line):
                digits = re.sub(r"^0[xX]|_|[uUlL]*$", "", found)
                # A kernel's layout is a constant at the head of the strategy that copies it.
                layout = "strategies" in path.parts and re.match(r"[A-Z_]+ = 0x[\w]+$", line)
                if len(digits) > 3 and set(digits.lower()) != {"f"} and not layout:
                    wrong.append(f"{path.relative_to(SOURCE)}: {line.strip()}")
    assert wrong == []


def test_nothing_is_swallowed_and_nothing_is_printed() -> None:
    wrong = []
    for path in sources(".py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ExceptHandler):
                caught = ast.unparse(node.type) if node.type else "everything"
                if caught in ("everything", "Exception", "BaseException"):
                    wrong.append(f"{path.name}, line {node.lineno}: catches {caught}")
            prints = isinstance(node, ast.Call) and ast.unparse(node.func) == "print"
            if prints and "cli" not in path.parts:
                wrong.append(f"{path.name}, line {node.lineno}: prints")
    for path in sources(".pyx", ".pxd"):
        code = code_only(path)
        wrong += [
            f"{path.name}: {text}" for text in re.findall(r"\bexcept\s*(?:Exception)?\s*:", code)
        ]
        wrong += [f"{path.name}: prints" for _ in re.findall(r"\bprintf?\s*\(", code)]
        assert "include " not in re.sub(r"#include.*", "", code), f"{path.name} includes text"
    assert wrong == []


def test_files_and_functions_stay_readable() -> None:
    wrong = []
    for path in sources(".py", ".pyx", ".pxd", ".h"):
        count = len(path.read_text().splitlines())
        if count > MOST_LINES:
            wrong.append(f"{path.name} has {count} lines")
    for path in sources(".py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef):
                count = (node.end_lineno or 0) - node.body[0].lineno + 1
                if ast.get_docstring(node) is not None:
                    first = node.body[0]
                    count -= (first.end_lineno or 0) - first.lineno + 1
                declares = path.parent.name == "formats"  # one Format(...) with all its fields
                if count > MOST_FUNCTION_LINES * (2 if declares else 1):
                    wrong.append(f"{path.name}: {node.name} has {count} lines")
    assert wrong == []


def test_cython_functions_that_are_called_without_the_gil_do_not_take_it_again() -> None:
    for path in sources(".pyx", ".pxd"):
        for line in code_only(path).splitlines():
            assert not re.search(r"except \*.*nogil|nogil.*except \*", line), f"{path.name}: {line}"


@pytest.mark.parametrize("place", ["README.md"])
def test_the_map_in_the_readme_shows_folders_that_exist(place: str) -> None:
    text = (ROOT / place).read_text()
    named = set(
        re.findall(r"^[ |`*-]*((?:src|tests|bench|tools|docs)/[\w/.]*)", text, re.MULTILINE)
    )
    missing = [name for name in named if not (ROOT / name).exists()]
    assert missing == []
    inside = re.findall(r"^\s{2,}(\w+)/\s", text, re.MULTILINE)
    homes = (SOURCE / "ptcore", SOURCE, ROOT, ROOT / "tests")
    assert [name for name in inside if not any((home / name).is_dir() for home in homes)] == []


def test_nothing_of_one_machine_is_in_the_tree() -> None:
    # Spelt in pieces, so that this file does not find itself.
    private = re.compile("/" + r"(?:work|root|tmp)/" + r"\w|" + "/home/" + r"\w")
    wrong = [
        f"{path.relative_to(ROOT)}: {line.strip()}"
        for path in sources(".py", ".pyx", ".pxd", ".pyi", ".h")
        for line in path.read_text().splitlines()
        if private.search(line)
    ]
    assert wrong == []

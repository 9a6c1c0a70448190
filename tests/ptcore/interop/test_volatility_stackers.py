"""ptcore's layers found by volatility3's own machinery, without an edit of it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from volatility3.framework import interfaces
from volatility3.framework.automagic import linux, stacker
from volatility3.framework.layers import intel

from oracles.volatility_images import add_layer, context_over
from ptcore import PageTable, PhysicalMemory
from ptcore.cli.commands import ptcore
from ptcore.interop import volatility_layers as ours
from ptcore.interop import volatility_stackers as stackers

PAGE = 4096
KERNEL = 0xFFFF_FFFF_8100_0000
# Windows keeps a page at these two addresses, and volatility3 looks whether it is there
# (framework/automagic/windows.py, Intel32LayerCheck and its siblings).
KUSER_KERNEL, KUSER_USER = 0xFFFF_F780_0000_0000, 0x7FFE_0000
SELF_MAP = 0x1ED

# A plugin that runs on whatever was stacked, and says what that is.
PLUGIN = '''
from volatility3.framework import interfaces, renderers
from volatility3.framework.configuration import requirements


class Stacked(interfaces.plugins.PluginInterface):
    """Tells the class of the layer, and sums its listing up."""

    _required_framework_version = (2, 0, 0)

    @classmethod
    def get_requirements(cls):
        return [requirements.TranslationLayerRequirement(name="primary", description="memory",
                                                         architectures=["Intel32", "Intel64"])]

    def run(self):
        layer = self.context.layers[self.config["primary"]]
        rows = list(layer.mapping(0, layer.maximum_address, ignore_errors=True))
        kind = type(layer)
        sums = [kind.__module__ + "." + kind.__name__, len(rows), sum(row[1] for row in rows)]
        return renderers.TreeGrid([("layer", str), ("rows", int), ("bytes", int)], [(0, sums)])
'''


def windows_memory() -> bytes:
    """Memory in which volatility3 finds 64-bit Windows: a root that holds itself, and the shared page."""
    memory = bytearray(0x40_0000)
    root = 0x1A_D000
    ram = PhysicalMemory.from_buffer(memory, frames=(0x20_0000, "1M"))
    ram.write_word(root + 8 * SELF_MAP, root | 0x63)
    table = PageTable("x86_64_4level", ram, root)
    table.map(KUSER_KERNEL, 0x1000, PAGE)
    table.map(KUSER_USER, 0x1000, PAGE, user=True)
    table.map(0xFFFF_F800_0000_0000, 0x10_0000, 20 * PAGE)
    return bytes(memory)


def vol(*arguments: object, plugins: Path, home: Path) -> list[dict[str, Any]]:
    """Run volatility3's command line offline, and return its rows."""
    command = [str(Path(sys.executable).with_name("vol")), "--offline", "-q", "-r", "json"]
    command += ["--plugin-dirs", str(plugins)]
    done = subprocess.run(
        [*command, "--cache-path", str(home), *map(str, arguments)],
        capture_output=True,
        text=True,
        env={**os.environ, "HOME": str(home)},
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    found: list[dict[str, Any]] = json.loads(done.stdout)
    return found


def install(folder: Path) -> str:
    done = CliRunner().invoke(ptcore, ["volatility", "--install", str(folder)])
    assert done.exit_code == 0, done.output
    return done.output


def test_the_plugin_has_two_lines_and_the_command_says_how_to_go_on(tmp_path: Path) -> None:
    said = install(tmp_path / "new" / "folder")
    written = list((tmp_path / "new" / "folder").iterdir())
    assert [path.name for path in written] == ["ptcore_layers.py"]
    assert len(written[0].read_text().splitlines()) == 2
    assert "--plugin-dirs" in said


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    done = CliRunner().invoke(ptcore, ["volatility", "--install", str(tmp_path / "file" / "below")])
    assert done.exit_code == 2
    assert done.output.count("\n") == 1


def test_vol_stacks_ptcores_layer_with_the_plugin_and_its_own_without(tmp_path: Path) -> None:
    (tmp_path / "memory.raw").write_bytes(windows_memory())
    told = {}
    for name in ("with", "without"):
        plugins = tmp_path / name
        plugins.mkdir()
        (plugins / "stacked.py").write_text(PLUGIN)
        if name == "with":
            install(plugins)
        image = tmp_path / "memory.raw"
        (told[name],) = vol("-f", image, "stacked.Stacked", plugins=plugins, home=tmp_path / "home")
    assert told["with"].pop("layer") == "ptcore.interop.volatility_layers.WindowsIntel32e"
    assert told["without"].pop("layer") == "volatility3.framework.layers.intel.WindowsIntel32e"
    assert told["with"] == told["without"]
    assert told["with"]["rows"] > 3


def test_volatilitys_layerwriter_runs_over_ptcores_layer(tmp_path: Path) -> None:
    plugins = tmp_path / "plugins"
    install(plugins)
    (tmp_path / "memory.raw").write_bytes(windows_memory())
    rows = vol(
        *("-f", tmp_path / "memory.raw", "-o", tmp_path, "layerwriter.LayerWriter", "--list"),
        plugins=plugins,
        home=tmp_path / "home",
    )
    assert any("layer" in str(row).lower() for row in rows), rows


def linux_tables(levels: int) -> tuple[PhysicalMemory, PageTable]:
    """Tables whose root is inside the kernel's image, as init_top_pgt is."""
    ram = PhysicalMemory.from_buffer(bytearray(0x100_0000), frames=(0x80_0000, "4M"))
    root = 0x21_3000
    table = PageTable(f"x86_64_{levels}level", ram, root)
    table.map(KERNEL, 0x20_0000, "2M")
    table.map(0x7FFF_0000_0000, 0x5000, PAGE)
    return ram, table


@pytest.mark.parametrize("levels", [4, 5])
def test_a_linux_with_five_levels_gets_a_layer_of_five(
    levels: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    ram, table = linux_tables(levels)
    context = context_over(ram.read(0, 0x100_0000), None, "buffer")

    def found(cls: type, context: Any, name: str, progress_callback: Any = None) -> Any:
        """What volatility3 returns for a Linux whose symbols it has: always four levels."""
        context.config["primary.memory_layer"] = "memory"
        context.config["primary.page_map_offset"] = table.root
        layer = intel.LinuxIntel32e(context, "primary", "primary", metadata={"os": "Linux"})
        layer.config["kernel_virtual_offset"] = 0
        return layer

    monkeypatch.setattr(linux.LinuxIntelStacker, "stack", classmethod(found))
    layer = stackers.PtcoreLinuxStacker.stack(context, "memory")
    expected = ours.LinuxIntel32e if levels == 4 else ours.LinuxIntel5Level
    assert type(layer) is expected
    assert layer.translate(KERNEL + 0x1_3000) == (table.root, "memory")
    assert layer.config["kernel_virtual_offset"] == 0
    assert layer.metadata["os"] == "Linux"


def test_each_stacker_comes_before_volatilitys_own_and_after_the_file_forms() -> None:
    known = {
        kind.__name__: kind
        for kind in stacker.framework.class_subclasses(interfaces.automagic.StackerLayerInterface)
    }
    for kind in stackers.STACKERS:
        stock: Any = kind.__mro__[2]
        assert known[kind.__name__] is kind
        assert stock.stack_order > kind.stack_order > 20  # type: ignore[attr-defined]
        assert kind.exclusion_list == stock.exclusion_list  # type: ignore[attr-defined]


def test_a_saved_configuration_finds_the_layer_again() -> None:
    ram, table = linux_tables(4)
    context = context_over(ram.read(0, 0x100_0000), None, "buffer")
    layer = add_layer(context, ours.LinuxIntel32e, "primary", table.root)
    name = layer.build_configuration()["class"]
    module, _, kind = name.rpartition(".")
    assert getattr(sys.modules[module], kind) is ours.LinuxIntel32e

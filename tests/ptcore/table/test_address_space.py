"""Address spaces from the registers that a debugger shows."""

from __future__ import annotations

import numpy as np
import pytest

from ptcore import AddressSpace, Nested, PageTable, PhysicalMemory, diff, formats
from ptcore.errors import FormatError, NotCanonical, PermissionDenied, Status
from ptcore.table import Change, Right

CR0_ON = 1 << 31 | 1 << 16 | 1
CR4_LONG = 1 << 5
EFER_LONG = 1 << 8 | 1 << 11


def x86_tables(fmt: str, **parameters: object) -> tuple[PhysicalMemory, PageTable]:
    ram = PhysicalMemory("4M")
    table = PageTable(formats.get(fmt, **parameters), ram)
    table.map(0x4000_0000, 0x1000, "4K", "rwx", user=True)
    table.map(0x4000_1000, 0x2000, "4K", "r", user=False)
    return ram, table


@pytest.mark.parametrize(
    ("fmt", "registers"),
    [
        ("x86_64_4level", {"cr4": CR4_LONG, "efer": EFER_LONG}),
        ("x86_64_5level", {"cr4": CR4_LONG | 1 << 12, "efer": EFER_LONG}),
        ("x86_pae", {"cr4": CR4_LONG, "efer": 1 << 11}),
        ("x86_32", {"cr4": 1 << 4}),
    ],
)
def test_control_registers_choose_the_format(fmt: str, registers: dict[str, int]) -> None:
    ram, table = x86_tables(fmt)
    space = AddressSpace.from_registers("x86_64", ram, cr0=CR0_ON, cr3=table.root, **registers)
    assert space.tables[0].format.name == fmt
    assert space.translate(0x4000_0123) == 0x1123
    assert space.mappings().tolist() == table.mappings().tolist()


def test_control_bits_decide_what_supervisor_mode_may_do() -> None:
    ram, table = x86_tables("x86_64_4level")
    common = {"cr0": CR0_ON, "cr3": table.root | 0x18, "efer": EFER_LONG}

    def space(cr4: int = 0, **others: int) -> AddressSpace:
        return AddressSpace.from_registers(
            "x86_64", ram, **{**common, "cr4": CR4_LONG | cr4, **others}
        )

    user_page, read_only = 0x4000_0000, 0x4000_1000
    assert space().translate(user_page, "x") == 0x1000
    with pytest.raises(PermissionDenied, match="denied to a page with the rights") as fault:
        space(1 << 20).translate(user_page, "x")  # SMEP
    assert fault.value.code == 0b1_0001
    with pytest.raises(PermissionDenied):
        space(1 << 21).translate(user_page)  # SMAP
    assert space(1 << 21, rflags=1 << 18).translate(user_page) == 0x1000  # EFLAGS.AC
    with pytest.raises(PermissionDenied, match=r"R/W") as fault:
        space().translate(read_only, "w")
    assert fault.value.code == 0b0_0011
    assert space(cr0=CR0_ON & ~(1 << 16)).translate(read_only, "w") == 0x2000  # WP = 0
    _, statuses = space(1 << 22, pkru=0b01).translate_many([user_page, read_only])
    assert statuses.tolist() == [Status.PROTECTION_KEY, Status.OK]
    assert space(1 << 17).asid == 0x18  # PCIDE


def test_combinations_that_no_cpu_accepts_are_refused_by_name() -> None:
    ram = PhysicalMemory("1M")
    for registers, rule in (
        ({"cr0": 1, "cr3": 0x1000}, "CR0.PG = 0"),
        ({"cr0": 1 << 31, "cr3": 0x1000}, "needs CR0.PE"),
        ({"cr0": CR0_ON, "cr3": 0x1000, "efer": EFER_LONG}, "needs CR4.PAE"),
        ({"cr0": CR0_ON, "cr3": 0x1000, "cr4": CR4_LONG | 1 << 17}, "CR4.PCIDE = 1 needs"),
        ({"cr0": CR0_ON, "cr3": 1 << 45, "cr4": 32, "efer": 256, "physical_bits": 40}, "beyond the 40"),
        ({"cr0": CR0_ON, "cr3": 0x1000, "eptp": 0x2000 | 1 << 3}, "EPT has 4 or 5"),
        ({"cr0": CR0_ON, "cr3": 0x1000, "crx": 1}, "crx"),
    ):  # fmt: skip
        with pytest.raises(FormatError, match=rule):
            AddressSpace.from_registers("x86_64", ram, **registers)
    with pytest.raises(FormatError, match="nearest"):
        AddressSpace.from_registers("x86-64", ram, cr3=0)
    with pytest.raises(FormatError, match="Bare"):
        AddressSpace.from_registers("riscv64", ram, satp=0)
    with pytest.raises(FormatError, match="MODE = 3 is reserved"):
        AddressSpace.from_registers("riscv64", ram, satp=3 << 60)
    with pytest.raises(FormatError, match="TG0 = 3"):
        AddressSpace.from_registers("aarch64", ram, ttbr0_el1=0x1000, tcr_el1=16 | 3 << 14)
    with pytest.raises(FormatError, match="M = 0"):
        AddressSpace.from_registers("aarch64", ram, ttbr0_el1=0x1000, tcr_el1=16, sctlr_el1=0)


# Linux on 48-bit addresses: T0SZ = T1SZ = 16, TG0 = 4K, TG1 = 4K, IPS = 40 bits, TBI0.
TCR = 16 | 16 << 16 | 0b10 << 30 | 2 << 32 | 1 << 37


def test_both_halves_of_an_arm_address_space() -> None:
    ram = PhysicalMemory("4M")
    low = PageTable(formats.get("aarch64_4k_48"), ram)
    high = PageTable(formats.get("aarch64_4k_48", upper=True), ram)
    low.map(0x1000, 0x8000, "4K", "rx", user=True)
    high.map(0xFFFF_8000_0000_0000, 0x20_0000, "2M", "rw")
    space = AddressSpace.from_registers(
        "aarch64",
        ram,
        ttbr0_el1=low.root | 0x77 << 48,
        ttbr1_el1=high.root,
        tcr_el1=TCR,
        sctlr_el1=1,
        mair_el1=0xFF,
    )
    assert space.asid == 0x77
    assert space.translate(0x1000, "x", user=True) == 0x8000
    assert space.translate(0x5A00_0000_0000_1000) == 0x8000  # the top byte is ignored
    assert space.translate(0xFFFF_8000_0000_1234) == 0x20_1234
    with pytest.raises(NotCanonical):
        space.translate(0xFF80_8000_0000_0000)  # but not in the upper half
    with pytest.raises(PermissionDenied, match="PXN"):
        space.translate(0x1000, "x")
    _, statuses = space.translate_many([0x1000, 0xFFFF_8000_0000_0000, 1 << 50, 0x9000])
    assert statuses.tolist() == [0, 0, Status.NOT_CANONICAL, Status.NOT_PRESENT]
    assert space.mappings()["first"].tolist() == [0x1000, 0xFFFF_8000_0000_0000]
    assert space.reverse(0x20_0000).tolist() == [0xFFFF_8000_0000_0000]
    assert len(space.stats()) == 2
    space.unmap(0x1000, "4K").discharge()
    assert space.walk(0x1000).status is Status.NOT_PRESENT
    assert space.walk(1 << 50).status is Status.NOT_CANONICAL


def test_riscv_with_a_hypervisor() -> None:
    host = PhysicalMemory("8M", frames=(0, "1M"))
    stage2 = PageTable(formats.get("sv39x4"), host)
    stage2.map(0, 4 << 20, "2M", "rwx")
    seen = PhysicalMemory.view(host, [(0, 4 << 20, 2 << 20)], frames=(0, "64K"))
    stage1 = PageTable(formats.get("sv39"), seen)
    stage1.map(0x4000_0000, 0x10_0000, "4K", "rw")
    space = AddressSpace.from_registers(
        "riscv64",
        host,
        vsatp=8 << 60 | 5 << 44 | stage1.root >> 12,
        hgatp=8 << 60 | 3 << 44 | stage2.root >> 12,
    )
    assert isinstance(space.tables[0], Nested)
    assert (space.asid, space.vmid) == (5, 3)
    assert space.translate(0x4000_0008) == (4 << 20) + 0x10_0008
    assert space.mappings()["rights"].tolist() == [int(Right.READ | Right.WRITE)]
    bare = AddressSpace.from_registers("riscv64", host, vsatp=0, hgatp=8 << 60 | stage2.root >> 12)
    assert bare.translate(0x1000, user=True) == (4 << 20) + 0x1000
    assert np.all(bare.translate_many([0x1000])[1] == 0)


def test_arm_stage_2_by_its_registers() -> None:
    ram = PhysicalMemory("8M")
    stage2 = PageTable(
        formats.get("aarch64_s2_4k"), ram
    )  # 40 bits from level 1: two tables side by side
    stage2.map(0x80_0000, 0, "2M", "rwx")
    vtcr = 24 | 1 << 6 | 2 << 16  # T0SZ = 24, SL0 = level 1, PS = 40 bits
    space = AddressSpace.from_registers(
        "aarch64", ram, vttbr_el2=stage2.root, vtcr_el2=vtcr, hcr_el2=1
    )
    assert space.translate(0x80_0123) == 0x123
    assert stage2.root % 8192 == 0


E2H, VM = 1 << 34, 1


def test_a_host_at_el2_has_two_halves_and_no_second_stage() -> None:
    ram = PhysicalMemory("1M")
    tcr = 25 | 25 << 16 | 2 << 30 | 2 << 32
    low, high = (PageTable(formats.get("aarch64_4k_39", upper=u), ram) for u in (False, True))
    low.map(0x1000, 0x5000, "4K", "rw", user=True)
    high.map(-(1 << 39) & (1 << 64) - 1, 0x6000, "4K", "rw")
    registers = {"ttbr0_el2": low.root | 7 << 48, "ttbr1_el2": high.root, "tcr_el2": tcr}
    space = AddressSpace.from_registers("aarch64", ram, **registers, hcr_el2=E2H | VM)
    assert space.translate(0x1000, "w", user=True) == 0x5000
    assert space.translate(-(1 << 39) & (1 << 64) - 1) == 0x6000
    assert space.asid == 7
    # The same registers without E2H: one half, and no user.
    alone = AddressSpace.from_registers(
        "aarch64", ram, ttbr0_el2=low.root, tcr_el2=25 | 2 << 16, hcr_el2=VM
    )
    assert len(alone.tables) == 1
    assert alone.translate(0x1000, "w") == 0x5000
    with pytest.raises(PermissionDenied):
        alone.translate(0x1000, "r", user=True)


def test_id_registers_limit_what_the_control_registers_ask_for() -> None:
    ram = PhysicalMemory("1M")
    root = PageTable("aarch64_4k_48", ram).root
    registers = {"ttbr0_el1": root, "tcr_el1": 16 | 1 << 23 | 5 << 32 | 1 << 39 | 1 << 40}

    def table(**ids: int) -> PageTable:
        found = AddressSpace.from_registers("aarch64", ram, **registers, **ids).tables[0]
        assert isinstance(found, PageTable)
        return found

    assert table().physical_bits == 48
    assert not table().format.accessed_required
    assert table().format.dirty is not None
    assert table(id_aa64mmfr0_el1=2).physical_bits == 40
    assert table(id_aa64mmfr1_el1=0).format.accessed_required
    assert table(id_aa64mmfr1_el1=1).format.dirty is None


def test_address_spaces_and_two_stages_are_compared_like_tables() -> None:
    ram = PhysicalMemory("4M")
    tcr = 25 | 25 << 16 | 2 << 30 | 2 << 32
    low, high = (PageTable(formats.get("aarch64_4k_39", upper=u), ram) for u in (False, True))
    top = -(1 << 39) & (1 << 64) - 1
    low.map(0x1000, 0x5000, "8K", "rw")
    high.map(top, 0x6000, "4K", "rw")
    registers = {"ttbr0_el1": low.root, "ttbr1_el1": high.root, "tcr_el1": tcr}
    before = AddressSpace.from_registers("aarch64", ram, **registers)
    assert len(diff(before, before)) == 0
    copy = PhysicalMemory.from_buffer(bytearray(ram.read(0, 4 << 20)))
    after = AddressSpace.from_registers("aarch64", copy, **registers)
    after.unmap(0x1000, "4K")
    after.protect(top, "4K", "r")
    rows = diff(before, after)
    assert rows["first"].tolist() == [0x1000, top]
    assert rows["change"].tolist() == [Change.REMOVED, Change.CHANGED]

"""What VMCOREINFO says of the kernel's own tables; the numbers are those of kernels that were booted."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from ptcore.formats import notes, registers

# Linux 6.12 (Debian 13) under QEMU, read out of its memory; where the text of the kernel is as it should be.
BOOTED: dict[str, tuple[str, Mapping[str, str], str, int]] = {
    "x86_64": (
        "x86_64",
        {
            "PAGESIZE": "4096",
            "OSRELEASE": "6.12.117+deb13-cloud-amd64",
            "SYMBOL(init_top_pgt)": "ffffffffaf822000",
            "NUMBER(phys_base)": "-568328192",
            "NUMBER(pgtable_l5_enabled)": "0",
            "NUMBER(sme_mask)": "0",
            "KERNELOFFSET": "2cc00000",
        },
        "x86_64_4level",
        0xDA22000,
    ),
    "aarch64, 48 bits": (
        "aarch64",
        {
            "PAGESIZE": "4096",
            "SYMBOL(swapper_pg_dir)": "ffffdabae3892000",
            "NUMBER(MAX_PHYSMEM_BITS)": "48",
            "NUMBER(kimage_voffset)": "0xffffdabaa1e00000",
            "NUMBER(TCR_EL1_T1SZ)": "0x10",
        },
        "aarch64_4k_48",
        0x41A92000,
    ),
    "aarch64, LPA2": (
        "aarch64",
        {
            "PAGESIZE": "4096",
            "SYMBOL(swapper_pg_dir)": "ffffa1cf2e492000",
            "NUMBER(MAX_PHYSMEM_BITS)": "52",
            "NUMBER(kimage_voffset)": "0xffffa1ceeca00000",
            "NUMBER(TCR_EL1_T1SZ)": "0xc",
        },
        "aarch64_4k_48",
        0x41A92000,
    ),
    "riscv64": (
        "riscv64",
        {
            "PAGESIZE": "4096",
            "SYMBOL(swapper_pg_dir)": "ffffffff81dcb000",
            "NUMBER(VA_BITS)": "48",
            "NUMBER(va_kernel_pa_offset)": "0xfffffffeffe00000",
        },
        "sv48",
        0x81FCB000,
    ),
}


@pytest.mark.parametrize("name", BOOTED)
def test_the_kernels_own_root_is_found(name: str) -> None:
    machine, details, fmt, root = BOOTED[name]
    known = notes.of_uname(machine, 64)
    plan = registers.decode(known.name, notes.kernel_registers(known, details))
    (part,) = plan.parts
    assert part.root == root
    assert part.format.name.startswith(fmt)
    assert part.format.input_bits == (52 if "LPA2" in name else 48)


@pytest.mark.parametrize("name", BOOTED)
def test_what_does_not_say_says_nothing(name: str) -> None:
    machine, details, _, _ = BOOTED[name]
    known = notes.of_uname(machine, 64)
    wanted = 0
    for left_out in details:
        rest = {key: text for key, text in details.items() if key != left_out}
        wanted += not notes.kernel_registers(known, rest)
    assert wanted >= 2
    assert notes.kernel_registers(notes.UNKNOWN, details) == {}


def test_five_levels_and_an_encryption_mask() -> None:
    details = {
        **BOOTED["x86_64"][1],
        "NUMBER(pgtable_l5_enabled)": "1",
        "NUMBER(sme_mask)": str(1 << 47),
    }
    known = notes.of_uname("x86_64", 64)
    (part,) = registers.decode(known.name, notes.kernel_registers(known, details)).parts
    assert part.format.name == "x86_64_5level"
    assert part.encryption_mask == 1 << 47


def test_riscv_by_satp_or_by_the_root() -> None:
    known = notes.of_uname("riscv64", 64)
    satp = 9 << 60 | 0x81234
    direct = notes.kernel_registers(known, {"NUMBER(satp)": hex(satp)})
    details = {
        "SYMBOL(swapper_pg_dir)": f"{0xFFFFFFFF80000000 + 0x1234000:x}",
        "NUMBER(va_kernel_pa_offset)": hex(0xFFFFFFFF80000000 - 0x80000000),
        "NUMBER(VA_BITS)": "48",
    }
    assert notes.kernel_registers(known, details) == direct == {"satp": satp}

"""The vendors' commands against a table typed in from the manuals; damaged files; ranges in few commands."""

from __future__ import annotations

import copy
import random
import re
from dataclasses import dataclass, fields
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ptcore import PageTable, PhysicalMemory, formats
from ptcore.caches import Mmu, Tlb, TlbArray, TlbLevel, WalkCache
from ptcore.caches import invalidation as inv
from ptcore.caches.commands import Command, declared_vendor
from ptcore.caches.oracle import stale as oracle_stale
from ptcore.errors import FormatError, MapError, OutOfRange

ALL_VENDORS = (
    *("amd_iommu", "arm", "dart", "loongarch", "ppc64", "riscv", "riscv_iommu"),
    *("smmuv3", "svm", "vmx", "vtd", "x86"),
)


@dataclass(frozen=True)
class Thing:
    """Something cached. The command is about page A, space 1 of guest 1, device 1, process 1."""

    kind: str = "combined"
    at: bool = True  # its input address lies in A (of a stage 2 entry: its intermediate address)
    via: bool = False  # a combined entry whose intermediate address lies in A
    space: str = "own"  # own, other, global
    guest: bool = True
    big: bool = False  # larger than what the command is about
    structure: bool = False


THINGS = {
    "own": Thing(),
    "far": Thing(at=False),
    "space": Thing(space="other"),
    "farspace": Thing(space="other", at=False),
    "global": Thing(space="global"),
    "farglobal": Thing(space="global", at=False),
    "guest": Thing(guest=False),
    "big": Thing(big=True),
    "via": Thing(at=False, via=True),
    "within": Thing(structure=True),
    "over": Thing(structure=True, big=True),
    "farover": Thing(structure=True, at=False),
    "gpa": Thing("guest_physical"),
    "fargpa": Thing("guest_physical", at=False),
    "guestgpa": Thing("guest_physical", guest=False),
    "gpabig": Thing("guest_physical", big=True),
    "gpawithin": Thing("guest_physical", structure=True),
    "gpaover": Thing("guest_physical", structure=True, big=True),
    "fargpaover": Thing("guest_physical", structure=True, at=False),
    "dev": Thing("device"),
    "fardev": Thing("device", at=False),
    "devspace": Thing("device", space="other"),
    "devbig": Thing("device", big=True),
    "guestdev": Thing("device", guest=False),
}
# Contexts: of process 1, of another of the same device, of another device of the domain, of another domain.
CONTEXTS = {"proc": "process", "proc2": "device", "dev2": "domain", "dom2": "all"}
WIDER = ("process", "device", "domain", "all")


def met(command: Command, thing: Thing) -> bool:
    """Whether the addresses of a command are the thing's."""
    if command.scope in ("all", "none"):
        return command.scope == "all"
    if thing.kind == "guest_physical":
        return command.stage == 2 and thing.at
    if command.stage == 2:
        return thing.via or (thing.structure and thing.at)
    return thing.at


def goes(command: Command, thing: Thing) -> bool:
    """The meaning of the fields, written out: whether a command must drop a thing."""
    if thing.kind not in command.drops or not (thing.guest or command.every_guest):
        return False
    if thing.kind != "guest_physical":
        own = command.tagged and (command.every_space or thing.space == "own")
        if not (command.globals_ if thing.space == "global" else own):
            return False
    if thing.structure:
        reached = ("covering",) if thing.big else ("covering", "within")
        return command.structures == "every" or (
            command.structures in reached and met(command, thing)
        )
    addressed = command.scope in ("page", "range")
    return met(command, thing) and not (thing.big and addressed and command.larger == "keep")


def dropped(command: Command) -> set[str]:
    words = {word for word, thing in THINGS.items() if goes(command, thing)}
    if command.config:
        reach = WIDER.index(command.config)
        words |= {word for word, level in CONTEXTS.items() if WIDER.index(level) <= reach}
    return words


# Words for what often goes together, written in capitals.
GROUPS = {
    "PAGE": "own big",  # the current address space's, over the page
    "PAGES": "own big space global",  # whatever the address space
    "SPACE": "own big far via OVER farover",  # all of the current address space
    "SPACES": "SPACE space farspace",  # all of every one, but for global entries
    "STAGE1": "SPACES global farglobal",  # all that starts at a first stage, of this guest
    "OVER": "within over",  # the items over the addresses, whatever else they are over
    "GPAOVER": "gpawithin gpaover",
    "GPA": "gpa gpabig",  # a second stage's alone, over the page
    "STAGE2": "gpa gpabig fargpa GPAOVER fargpaover",
    "DEVICE": "proc proc2",  # the contexts of one device and of its processes
    "DOMAIN": "proc proc2 dev2",
    "CONTEXTS": "proc proc2 dev2 dom2",
}

# (vendor, command, what must go: nothing else must, and what is worth saying that it may stay).
# Typed in from the manuals, not from the files.
MANUALS = [
    # Intel SDM 3A, Operations that Invalidate TLBs and Paging-Structure Caches
    ("x86", "invlpg", "PAGE global OVER farover", "far space guest farglobal gpa"),
    ("x86", "invpcid_address", "PAGE OVER", "global space far farover"),
    ("x86", "invpcid_context", "SPACE", "global space guest"),
    ("x86", "invpcid_all_globals", "STAGE1", "guest gpa"),
    ("x86", "invpcid_all", "SPACES", "global farglobal guest"),
    ("x86", "mov_cr3", "SPACE", "space global farglobal"),
    ("x86", "mov_cr3_no_flush", "", "own far space global guest over farover gpa gpaover"),
    ("x86", "cr4_pge", "STAGE1", "guest"),
    # Intel SDM 3C, Invalidating Cached Translation Information
    ("vmx", "invept_context", "STAGE1 STAGE2", "guest guestgpa"),
    ("vmx", "invept_global", "STAGE1 STAGE2 guest guestgpa", "dev proc"),
    ("vmx", "invvpid_address", "PAGES OVER", "far via gpa gpaover guest"),
    ("vmx", "invvpid_context", "STAGE1", "gpa gpaover guest"),
    ("vmx", "invvpid_all", "STAGE1 guest", "gpa guestgpa gpaover"),
    ("vmx", "invvpid_context_keeping_globals", "SPACES", "global farglobal guest gpa"),
    # AMD64 APM 2 and 3
    ("svm", "invlpga", "PAGES OVER", "far guest gpa"),
    ("svm", "invlpgb_address", "PAGE OVER farover", "global space far guest gpa"),
    ("svm", "invlpgb_address_final", "PAGE", "global over farover space"),
    ("svm", "invlpgb_address_globals", "PAGES OVER farover", "far guest gpa"),
    ("svm", "invlpgb_address_globals_final", "PAGES", "over far guest gpa"),
    ("svm", "invlpgb_address_every_guest", "PAGES guest OVER farover", "far gpa"),
    ("svm", "invlpgb_pcid", "SPACE", "space global guest gpa"),
    ("svm", "invlpgb_pcid_globals", "SPACE global farglobal", "space guest gpa"),
    ("svm", "invlpgb_asid", "SPACES", "global guest gpa"),
    ("svm", "invlpgb_asid_globals", "STAGE1", "guest gpa"),
    ("svm", "invlpgb_nested", "STAGE1 STAGE2", "guest guestgpa"),
    ("svm", "invlpgb_all", "STAGE1 STAGE2 guest guestgpa", "dev"),
    ("svm", "tlb_control_all", "STAGE1 STAGE2 guest guestgpa", "dev proc"),
    ("svm", "tlb_control_guest", "STAGE1 STAGE2", "guest guestgpa"),
    ("svm", "tlb_control_guest_keeping_globals", "SPACES", "global farglobal guest gpa"),
    # Arm ARM, TLB maintenance instructions
    ("arm", "vae1", "PAGE global OVER", "far space guest farover gpa via"),
    ("arm", "vale1", "PAGE global", "over farover space far"),
    ("arm", "vaae1", "PAGES OVER", "far guest gpa"),
    ("arm", "vaale1", "PAGES", "over far guest gpa"),
    ("arm", "rvae1", "PAGE global OVER", "far space guest farover gpa via"),
    ("arm", "rvale1", "PAGE global", "over farover space far"),
    ("arm", "rvaae1", "PAGES OVER", "far farglobal guest"),
    ("arm", "rvaale1", "PAGES", "over far gpa"),
    ("arm", "aside1", "SPACE", "global farglobal space guest"),
    ("arm", "vmalle1", "STAGE1", "guest gpa fargpa gpaover"),
    ("arm", "vmalls12e1", "STAGE1 STAGE2", "guest guestgpa"),
    ("arm", "alle1", "STAGE1 STAGE2 guest guestgpa", "dev"),
    ("arm", "ipas2e1", "GPA GPAOVER", "own via global over fargpa guestgpa"),
    ("arm", "ipas2le1", "GPA", "gpaover own via fargpa"),
    ("arm", "ripas2e1", "GPA GPAOVER", "own via over guestgpa"),
    ("arm", "ripas2le1", "GPA", "gpaover via guestgpa"),
    ("arm", "vae2", "PAGES OVER", "far gpa"),
    ("arm", "vale2", "PAGES", "far gpa over"),
    ("arm", "alle2", "STAGE1", "gpa guestgpa"),
    ("arm", "vae2_e2h", "PAGE global OVER", "space far"),
    ("arm", "vale2_e2h", "PAGE global", "space far over"),
    ("arm", "aside1_e2h", "SPACE", "global space gpa"),
    ("arm", "vae3", "PAGES OVER", "far gpa"),
    ("arm", "vale3", "PAGES", "far gpa over"),
    ("arm", "alle3", "STAGE1", "gpa"),
    # RISC-V Privileged Architecture
    ("riscv", "sfence_vma", "STAGE1", "guest gpa"),
    ("riscv", "sfence_vma_asid", "SPACE", "global space guest"),
    ("riscv", "sfence_vma_address", "PAGES", "far over guest gpa"),
    ("riscv", "sfence_vma_both", "PAGE", "global space far over"),
    ("riscv", "sinval_vma", "STAGE1", "guest gpa"),
    ("riscv", "sinval_vma_both", "PAGE", "global space far over"),
    ("riscv", "sfence_w_inval", "", "own far global over gpa"),
    ("riscv", "sfence_inval_ir", "", "own far global over gpa"),
    ("riscv", "hfence_vvma", "STAGE1", "guest gpa fargpa"),
    ("riscv", "hfence_vvma_asid", "SPACE", "guest gpa global"),
    ("riscv", "hfence_vvma_address", "PAGES", "guest gpa over"),
    ("riscv", "hfence_vvma_both", "PAGE", "global space far gpa over"),
    ("riscv", "hfence_gvma", "STAGE1 STAGE2 guest guestgpa", "dev"),
    ("riscv", "hfence_gvma_vmid", "STAGE1 STAGE2", "guest guestgpa"),
    ("riscv", "hfence_gvma_address", "GPA guestgpa via", "own far fargpa gpaover"),
    ("riscv", "hfence_gvma_both", "GPA via", "guestgpa own far fargpa gpaover"),
    ("riscv", "hinval_vvma_both", "PAGE", "global space far gpa over"),
    ("riscv", "hinval_gvma", "STAGE1 STAGE2 guest guestgpa", "dev"),
    ("riscv", "hinval_gvma_both", "GPA via", "guestgpa fargpa"),
    # VT-d, Invalidation of Translation Caches
    ("vtd", "context_global", "CONTEXTS", "own gpa dev over"),
    ("vtd", "context_device", "DEVICE", "dev2 dom2 own gpa"),
    ("vtd", "context_domain", "DOMAIN", "dom2 own"),
    ("vtd", "pasid_global", "CONTEXTS", "own gpa"),
    ("vtd", "pasid_domain", "DOMAIN", "dom2 own gpa"),
    ("vtd", "pasid_selective", "proc", "proc2 dev2 dom2 own"),
    ("vtd", "iotlb_global", "STAGE1 STAGE2 guest guestgpa", "dev proc"),
    ("vtd", "iotlb_domain", "STAGE1 STAGE2", "guest guestgpa dev proc"),
    ("vtd", "iotlb_pages", "GPA via OVER GPAOVER", "fargpa guestgpa far dev"),
    ("vtd", "iotlb_pages_leaf", "GPA via", "gpaover over fargpa"),
    ("vtd", "piotlb_pasid", "SPACE global farglobal", "space guest gpa dev"),
    ("vtd", "piotlb_pages", "PAGE global OVER", "space far gpa dev farover"),
    ("vtd", "piotlb_pages_leaf", "PAGE global", "over space far"),
    ("vtd", "device_tlb_pages", "dev devbig devspace", "fardev own gpa proc"),
    ("vtd", "device_tlb_all", "dev devbig fardev devspace", "own gpa proc"),
    ("vtd", "pasid_device_tlb_pages", "dev devbig", "devspace fardev own"),
    ("vtd", "pasid_device_tlb_global", "dev devbig devspace", "fardev own"),
    # AMD IOMMU specification, Commands
    ("amd_iommu", "invalidate_devtab_entry", "DEVICE", "dom2 dev2 own gpa"),
    ("amd_iommu", "invalidate_iommu_page", "gpa via", "gpabig gpaover fargpa guestgpa dev"),
    ("amd_iommu", "invalidate_iommu_pages", "gpa via", "gpabig gpaover fargpa guestgpa"),
    (
        "amd_iommu",
        "invalidate_iommu_pages_pde",
        "gpa via within gpawithin",
        "gpabig over gpaover guestgpa",
    ),
    ("amd_iommu", "invalidate_iommu_pages_all", "STAGE1 STAGE2", "guestgpa dev proc"),
    ("amd_iommu", "invalidate_iommu_pages_guest", "own global", "big over space far gpa"),
    (
        "amd_iommu",
        "invalidate_iommu_pages_guest_pde",
        "own global within",
        "big over space far gpa",
    ),
    ("amd_iommu", "invalidate_iommu_pages_guest_all", "SPACE global farglobal", "space gpa dev"),
    ("amd_iommu", "invalidate_iotlb_pages", "dev devspace", "own gpa fardev devbig"),
    ("amd_iommu", "invalidate_iotlb_pages_guest", "dev", "devspace own gpa fardev"),
    ("amd_iommu", "invalidate_iommu_all", "STAGE1 STAGE2 guest guestgpa CONTEXTS", "dev"),
    # SMMUv3, Commands
    ("smmuv3", "tlbi_nh_all", "STAGE1", "guest gpa dev proc"),
    ("smmuv3", "tlbi_nh_asid", "SPACE", "global space guest gpa"),
    ("smmuv3", "tlbi_nh_va", "PAGE global OVER", "far space guest gpa"),
    ("smmuv3", "tlbi_nh_va_leaf", "PAGE global", "over far space guest gpa"),
    ("smmuv3", "tlbi_nh_va_range", "PAGE global OVER", "far space"),
    ("smmuv3", "tlbi_nh_va_range_leaf", "PAGE global", "over far space"),
    ("smmuv3", "tlbi_nh_vaa", "PAGES OVER", "far guest"),
    ("smmuv3", "tlbi_nsnh_all", "STAGE1 STAGE2 guest guestgpa", "dev proc"),
    ("smmuv3", "tlbi_s12_vmall", "STAGE1 STAGE2", "guest guestgpa"),
    ("smmuv3", "tlbi_s2_ipa", "GPA GPAOVER", "own via fargpa guestgpa"),
    ("smmuv3", "tlbi_s2_ipa_range", "GPA GPAOVER", "own via fargpa guestgpa"),
    ("smmuv3", "tlbi_s2_ipa_range_leaf", "GPA", "gpaover own via"),
    ("smmuv3", "tlbi_el2_all", "STAGE1", "gpa"),
    ("smmuv3", "tlbi_el2_asid", "SPACE", "global space"),
    ("smmuv3", "tlbi_el2_va", "PAGE global OVER", "far space"),
    ("smmuv3", "tlbi_el2_vaa_leaf", "PAGES", "far over"),
    ("smmuv3", "cfgi_ste", "DEVICE", "dev2 dom2 own"),
    ("smmuv3", "cfgi_all", "CONTEXTS", "own gpa"),
    ("smmuv3", "cfgi_cd", "proc", "proc2 dev2 own"),
    ("smmuv3", "cfgi_cd_all", "DEVICE", "dev2 own"),
    ("smmuv3", "atc_inv", "dev devbig", "devspace fardev own"),
    ("smmuv3", "atc_inv_global", "dev devbig devspace", "fardev own"),
    ("smmuv3", "atc_inv_all", "dev devbig devspace fardev", "own gpa"),
    # RISC-V IOMMU
    ("riscv_iommu", "iotinval_vma", "STAGE1", "guest gpa proc"),
    ("riscv_iommu", "iotinval_vma_pscid", "SPACE", "global space guest"),
    ("riscv_iommu", "iotinval_vma_address", "PAGES", "over guest"),
    ("riscv_iommu", "iotinval_vma_both", "PAGE", "global space over"),
    ("riscv_iommu", "iotinval_vma_both_nl", "PAGE OVER", "global space farover"),
    ("riscv_iommu", "iotinval_vma_range", "PAGES", "far over"),
    ("riscv_iommu", "iotinval_vma_range_nl", "PAGES OVER", "far farover"),
    ("riscv_iommu", "iotinval_gvma_all", "STAGE1 STAGE2 guest guestgpa", "dev proc"),
    ("riscv_iommu", "iotinval_gvma", "STAGE1 STAGE2", "guest guestgpa dev proc"),
    ("riscv_iommu", "iotinval_gvma_address", "GPA via", "fargpa guestgpa gpaover"),
    ("riscv_iommu", "iotinval_gvma_address_nl", "GPA via OVER GPAOVER", "fargpa guestgpa own"),
    ("riscv_iommu", "iodir_inval_ddt_all", "CONTEXTS", "own"),
    ("riscv_iommu", "iodir_inval_ddt", "DEVICE", "dev2 own"),
    ("riscv_iommu", "iodir_inval_pdt", "proc", "proc2 own"),
    ("riscv_iommu", "ats_inval", "dev devbig", "devspace fardev own guestdev"),
    ("riscv_iommu", "ats_inval_global", "dev devbig devspace", "fardev own guestdev"),
    # LoongArch INVTLB, Power tlbie, Apple DART
    ("loongarch", "invtlb_0", "STAGE1", ""),
    ("loongarch", "invtlb_1", "STAGE1", ""),
    ("loongarch", "invtlb_2", "global farglobal", "own far space"),
    ("loongarch", "invtlb_3", "SPACES", "global farglobal"),
    ("loongarch", "invtlb_4", "SPACE", "global space"),
    ("loongarch", "invtlb_5", "PAGE", "global far space over"),
    ("loongarch", "invtlb_6", "PAGE global", "far space farglobal over"),
    ("ppc64", "tlbie_va", "own", "big far space over guest"),
    ("ppc64", "tlbie_pid", "PAGE far via", "space over guest"),
    ("ppc64", "tlbie_pid_structures", "OVER farover", "own far space"),
    ("ppc64", "tlbie_pid_all", "SPACE proc", "space guest"),
    ("ppc64", "tlbie_lpid_va", "gpa via", "gpabig fargpa gpaover guestgpa"),
    ("ppc64", "tlbie_lpid_structures", "OVER farover GPAOVER fargpaover", "gpa own guestgpa"),
    ("ppc64", "tlbie_lpid", "STAGE1 STAGE2 DOMAIN", "guest guestgpa"),
    ("ppc64", "tlbie_all", "STAGE1 STAGE2 guest guestgpa CONTEXTS", "dev"),
    ("dart", "t8020_flush_streams", "STAGE1", "guest"),
    ("dart", "t8110_flush_stream", "STAGE1", "guest"),
    ("dart", "t8110_flush_all", "STAGE1 guest", ""),
]


def words(text: str) -> set[str]:
    """The things that a text names, its groups written out."""
    return {
        one for word in text.split() for one in (words(GROUPS[word]) if word in GROUPS else {word})
    }


@pytest.mark.parametrize(("vendor", "name", "must", "may_stay"), MANUALS)
def test_a_command_drops_what_the_manual_says(
    vendor: str, name: str, must: str, may_stay: str
) -> None:
    now = dropped(inv.command(vendor, name))
    assert words(must) | words(may_stay) <= {*THINGS, *CONTEXTS}
    assert words(must) - now == set(), "must go and does not"
    assert words(may_stay) & now == set(), "may stay and goes"
    assert now - words(must) == set(), "goes without need"


def test_the_table_covers_every_vendor_and_most_commands() -> None:
    assert inv.vendors() == ALL_VENDORS
    assert {vendor for vendor, *_ in MANUALS} == set(ALL_VENDORS)
    known = {(v, name) for v in inv.vendors() for name in inv.vendor(v).commands}
    assert len(MANUALS) == len({row[:2] for row in MANUALS})
    assert {row[:2] for row in MANUALS} <= known
    assert len(MANUALS) > 0.6 * len(known)


# Which commands are about a range, by how it is given. Typed in from the manuals, too.
RANGES = {
    "svm": ("", 1 << 16, r"invlpgb_address.*"),
    "arm": ("", 1 << 21, r"r.*"),
    "smmuv3": ("", 1 << 36, r"tlbi_.*_range(_leaf)?"),
    "amd_iommu": ("power_of_two", 0, r".*_pages(_guest)?(_pde)?"),
    "riscv_iommu": ("power_of_two", 0, r"iotinval_vma_range.*|ats_.*"),
    "vtd": ("power_of_two", 0, r".*_pages(_leaf)?|pasid_device_tlb_global"),
}


@pytest.mark.parametrize("name", ALL_VENDORS)
def test_ranges_are_given_as_the_manual_has_them(name: str) -> None:
    alignment, most, ranged = RANGES.get(name, ("", 0, "none"))
    for one in inv.vendor(name).commands.values():
        if one.name.startswith(("atc_inv", "ats_inval")):  # aligned, unlike CMD_TLBI's ranges
            assert (one.scope, one.alignment) in (("range", "power_of_two"), ("all", "")), one.name
        elif re.fullmatch(ranged, one.name):
            assert (one.scope, one.alignment, one.most_pages) == ("range", alignment, most), (
                one.name
            )
        else:
            assert one.scope != "range", one.name


@pytest.mark.parametrize("name", ALL_VENDORS)
def test_every_file_loads(name: str) -> None:
    vendor = inv.vendor(name)
    assert vendor.title
    assert vendor.formats
    for one in vendor.commands.values():
        assert len(one.rule) > 20, one.name
        assert isinstance(one.drops, tuple)
    assert vendor.payment["whole"] in vendor.commands


def test_every_format_has_a_vendor() -> None:
    for name in formats.names():
        assert inv.vendors_of(name), name
    assert inv.vendors_of("x86_64_4level") == ("x86", "svm", "vmx", "amd_iommu", "vtd")
    assert inv.vendors_of("ept_4level") == ("vmx",)
    assert inv.vendors_of("aarch64_s2_4k") == ("arm", "smmuv3")
    assert inv.vendors_of("sv39x4") == ("riscv", "riscv_iommu")
    with pytest.raises(FormatError, match=r"no format is called 'sv38'; nearest: .*sv39"):
        inv.vendors_of("sv38")


def test_second_stages_are_paid_for_as_hypervisors_do() -> None:
    def second(name: str) -> dict[str, Any]:
        paid: dict[str, Any] = inv.vendor(name).payment["second_stage"]
        return paid

    # Whatever a second stage's edit makes stale goes: entries of the stage, and combined ones through it.
    stale = {"gpa", "via"}
    for name in (
        "vmx",
        "svm",
        "arm",
        "riscv",
        "vtd",
        "amd_iommu",
        "smmuv3",
        "riscv_iommu",
        "ppc64",
    ):
        for key in ("whole", "page", "range", "range_of_leaves"):
            if key in second(name):
                gone = set[str]().union(*(dropped(inv.command(name, c)) for c in second(name)[key]))
                assert gone >= stale, (name, key)
                assert key in ("page", "range_of_leaves") or "gpawithin" in gone, (name, key)
    assert second("arm")["range"] == ["ripas2e1", "vmalle1"]
    assert second("vmx")["whole"] == ["invept_context"]


DECLARED: dict[str, Any] = {
    "title": "A test",
    "agent": "cpu",
    "formats": ["sv*"],
    "notes": ["a note"],
    "commands": [
        {"name": "all", "scope": "all", "structures": "every", "rule": "as all"},
        {"name": "one", "scope": "range", "most_pages": 4, "rule": "as one"},
        {"name": "nothing", "scope": "none", "drops": [], "rule": "as nothing"},
    ],
    "payment": {
        "whole": "all",
        "range": "one",
        "range_of_leaves": "one",
        "most_pages": 3,
        "rule": "so",
        "second_stage": {"whole": ["all"], "most_pages": 0, "rule": "so"},
    },
}

# A value of each field of the second command that cannot be, and what is said.
DAMAGE: list[tuple[str, object, str]] = [
    ("name", "", "command 1: name '' is none"),
    ("name", 3, "command 1: name 3 is none"),
    ("name", "all", "all: name: declared twice"),
    ("scope", "pages", "scope 'pages' is none of 'page', 'range'"),
    ("scope", "none", "drops .* nothing is dropped by a scope of none"),
    ("every_space", 1, "every_space 1 is not true or false"),
    ("globals_", "yes", "globals_ 'yes' is not"),
    ("structures", "some", "structures 'some' is none of"),
    ("rule", "  ", "rule '  ' does not say"),
    ("stage", 3, "stage 3 is none of 1, 2"),
    ("stage", True, "stage True is none of 1, 2"),
    ("stage", 2, "stage 2: a second stage knows no address spaces"),
    ("tagged", None, "tagged None is not"),
    ("tagged", False, "tagged False: neither these nor global ones"),
    ("every_guest", 0, "every_guest 0 is not"),
    ("drops", "combined", "drops 'combined' is no list"),
    ("drops", ["combined", "nested"], "drops .* are not some of combined"),
    ("drops", ["combined", "combined"], "drops .* are not some of combined"),
    ("drops", [], "drops .* nothing is dropped"),
    ("drops", ["config"], "config '': drops and config disagree"),
    ("larger", "stay", "larger 'stay' is none of"),
    ("alignment", "page", "alignment 'page' is none of"),
    ("most_pages", -1, "most_pages -1 is no number from 0"),
    ("most_pages", True, "most_pages True is no number"),
    ("config", "stream", "config 'stream' is none of"),
    ("config", "device", "config 'device': drops and config disagree"),
    ("global", True, "global is no field; nearest: globals_"),
]


def damaged(*path: str | int, value: object = None, gone: bool = False) -> dict[str, Any]:
    copied: Any = copy.deepcopy(DECLARED)
    place = copied
    for step in path[:-1]:
        place = place[step]
    if gone:
        del place[path[-1]]
    else:
        place[path[-1]] = value
    declared: dict[str, Any] = copied
    return declared


def test_what_is_not_damaged_is_read() -> None:
    vendor = declared_vendor("good", DECLARED)
    assert vendor.commands["one"] == Command("one", "range", rule="as one", most_pages=4)
    assert vendor.commands["nothing"].drops == ()
    assert vendor.walks("sv48")
    assert not vendor.walks("xsv48")


@pytest.mark.parametrize(("field", "value", "said"), DAMAGE)
def test_a_damaged_field_is_refused_by_name(field: str, value: object, said: str) -> None:
    with pytest.raises(FormatError, match=rf"^bad\.toml, (one: |all: )?{said}"):
        declared_vendor("bad", damaged("commands", 1, field, value=value))


def test_each_field_of_a_command_was_damaged() -> None:
    assert {field.name for field in fields(Command)} <= {field for field, _, _ in DAMAGE}


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ({"structures": "covering"}, "structures 'covering': no address to be over"),
        ({"structures": "within"}, "structures 'within': no range to be within"),
        (
            {"scope": "page", "structures": "within"},
            "structures 'within': no range to be within",
        ),
        ({"larger": "keep"}, "larger 'keep': nothing to be larger than"),
        ({"alignment": "power_of_two"}, "alignment 'power_of_two': only ranges are aligned"),
        ({"most_pages": 1}, "most_pages 1: only ranges have a limit"),
        (
            {"stage": 2, "every_space": True, "globals_": True},
            "stage 2: no addresses to be of a second stage",
        ),
        (
            {
                "scope": "page",
                "stage": 2,
                "every_space": True,
                "globals_": True,
                "drops": ["device"],
            },
            "drops .*: a device's entries have none of a second stage's addresses",
        ),
        (
            {"scope": "page", "drops": ["guest_physical"]},
            "drops .*: entries of a second stage have none of a first stage's addresses",
        ),
    ],
)
def test_fields_that_contradict_each_other_are_refused(command: dict[str, Any], said: str) -> None:
    wrong = {"name": "all", "scope": "all", "rule": "as all", **command}
    with pytest.raises(FormatError, match=rf"bad\.toml, all: {said}"):
        declared_vendor("bad", damaged("commands", 0, value=wrong))


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        (("title",), " ", "title ' ' is empty"),
        (("agent",), "gpu", "agent 'gpu' is none of 'cpu'"),
        (("formats",), "sv39", "formats 'sv39' is no list"),
        (("formats",), ["sv39", "vax"], "formats: no format is called 'vax'"),
        (("notes",), [3], "notes .* is no list of texts"),
        (("commands",), [], "commands: none are declared"),
        (("command",), [], "command is no field; nearest: commands"),
        (("payment",), "all", "payment: 'all' is no table"),
        (("payment", "whole"), "everything", "payment: whole 'everything' is none of its commands"),
        (("payment", "whole"), "one", "payment: whole 'one' has the wrong scope"),
        (("payment", "whole"), ["all"], "payment: whole .* is no list of texts"),
        (("payment", "range"), "all", "payment: range 'all' has the wrong scope"),
        (("payment", "page"), "one", "payment: page 'one' has the wrong scope"),
        (("payment", "most_pages"), "33", "payment: most_pages '33' is no number"),
        (("payment", "rule"), "", "payment: rule '' does not say why"),
        (("payment", "pages"), "one", "pages is no field; nearest: page"),
        (("payment", "second_stage"), [], r"payment.second_stage: \[\] is no table"),
        (("payment", "second_stage", "whole"), "all", "second_stage: whole 'all' is no list"),
        (("payment", "second_stage", "whole"), [], "second_stage: whole names no command"),
        (("payment", "second_stage", "whole"), ["all", "one"], "'one' has the wrong scope"),
    ],
)
def test_a_damaged_vendor_is_refused_by_name(path: Any, value: object, said: str) -> None:
    with pytest.raises(FormatError, match=rf"bad\.toml.*{said}"):
        declared_vendor("bad", damaged(*path, value=value))


@pytest.mark.parametrize(
    ("path", "said"),
    [
        (("title",), "title is missing"),
        (("formats",), "formats is missing"),
        (("agent",), "agent is missing"),
        (("payment",), "payment is missing"),
        (("payment", "whole"), "payment: whole is missing"),
        (("payment", "most_pages"), "payment: most_pages is missing"),
        (("payment", "rule"), "payment: rule is missing"),
        (("payment", "range_of_leaves"), "range and range_of_leaves go together"),
        (("payment", "second_stage", "rule"), "payment.second_stage: rule is missing"),
        (("commands", 1, "scope"), "one: scope is missing"),
        (("commands", 1, "rule"), "one: rule '' does not say"),
    ],
)
def test_what_is_missing_is_named(path: Any, said: str) -> None:
    with pytest.raises(FormatError, match=rf"bad\.toml.*{said}"):
        declared_vendor("bad", damaged(*path, gone=True))


def fewest(most: int, coins: list[int]) -> list[int]:
    """How many coins each sum takes at least: shortest paths, nothing greedy."""
    best = [0] + [most + 1] * most
    for total in range(1, most + 1):
        best[total] = 1 + min(best[total - coin] for coin in coins if coin <= total)
    return best


def test_ranges_take_the_fewest_commands() -> None:
    most = 3000
    coins = sorted({1, *(n << (5 * s + 1) for n in range(1, 33) for s in range(4))})
    best = fewest(most, [coin for coin in coins if coin <= most])
    for pages in range(most + 1):
        parts = list(inv.range_parts(pages))
        assert sum(part for _, _, part in parts) == pages
        assert len(parts) == best[pages], pages


def test_ranges_of_an_iommu_take_the_fewest_commands() -> None:
    most = 3000
    best = fewest(most, sorted({n << s for n in range(1, 33) for s in range(12) if n << s <= most}))
    # Near the largest scale, in units of 2**28 granules.
    high = fewest(most, sorted({n << s for n in range(1, 33) for s in range(4)}))
    for pages in range(most + 1):
        assert len(list(inv.smmu_range_parts(pages))) == best[pages], pages
        assert len(list(inv.smmu_range_parts(pages << 28))) == high[pages], pages


@given(st.integers(0, 1 << 44))
def test_ranges_of_an_iommu_cover_exactly(pages: int) -> None:
    total = 0
    for scale, num, part in inv.smmu_range_parts(pages):
        single = (scale, num) == (0, -1)
        assert single or (0 <= scale <= 31 and 0 <= num <= 31 and (scale, num) != (0, 0))
        assert part == (1 if single else (num + 1) << scale)
        total += part
    assert total == pages


def dyadic(first: int, last: int, base: int, lg2: int, most: int) -> int:
    """The fewest aligned blocks of [first, last] below one block: top down, by halves."""
    if first > base + (1 << lg2) - 1 or last < base:
        return 0
    if first <= base and last >= base + (1 << lg2) - 1 and lg2 <= most:
        return 1
    half = 1 << (lg2 - 1)
    return dyadic(first, last, base, lg2 - 1, most) + dyadic(
        first, last, base + half, lg2 - 1, most
    )


@given(st.integers(0, (1 << 40) - 1), st.integers(1, 1 << 40), st.integers(34, 52))
def test_aligned_parts_cover_exactly_and_are_the_fewest(first: int, pages: int, most: int) -> None:
    parts = list(inv.power_of_two_parts(first, pages, most))
    assert parts[0][0] == first
    assert parts[-1][0] + (1 << parts[-1][1]) == first + pages
    for (start, lg2), (after, _) in pairwise(parts):
        assert start + (1 << lg2) == after
    assert all(start % (1 << lg2) == 0 and lg2 <= most for start, lg2 in parts)
    assert len(parts) == dyadic(first, first + pages - 1, 0, 42, most)


@given(st.integers(0, 200), st.integers(0, 200), st.integers(0, 8))
def test_small_parts_obey_their_limit(first: int, pages: int, most: int) -> None:
    parts = list(inv.power_of_two_parts(first, pages, most))
    covered = [page for start, lg2 in parts for page in range(start, start + (1 << lg2))]
    assert covered == list(range(first, first + pages))
    assert len(parts) == (dyadic(first, first + pages - 1, 0, 9, most) if pages else 0)


@pytest.mark.parametrize("wrong", [(-1, 1, 3), (0, -1, 3), (0, 1, -1)])
def test_ranges_below_zero_are_refused(wrong: tuple[int, int, int]) -> None:
    with pytest.raises(OutOfRange, match="no range"):
        list(inv.power_of_two_parts(*wrong))


def cpu(fmt: str) -> Mmu:
    levels = (TlbLevel("L1", (TlbArray(64, 4, ("4K", "2M", "1G")),)),)
    return Mmu(PageTable(fmt, PhysicalMemory("4M")), Tlb(levels), WalkCache({1: 8, 2: 4}), 3)


def test_commands_that_drop_nothing_of_the_kind_drop_nothing() -> None:
    mmu = cpu("x86_64_4level")
    mmu.table.map(0, 0, "4K", "rw")
    mmu.access_many([0])
    before = (len(mmu.tlb), len(mmu.walk_cache))
    for vendor, name in (
        ("x86", "mov_cr3_no_flush"),
        ("riscv", "sfence_w_inval"),
        ("vtd", "context_global"),
        ("smmuv3", "atc_inv_all"),
        ("arm", "ipas2e1"),
    ):
        assert inv.apply(inv.command(vendor, name), mmu) == 0
    assert (len(mmu.tlb), len(mmu.walk_cache)) == before
    # A command for the structures alone leaves the translations.
    assert inv.apply(inv.command("ppc64", "tlbie_pid_structures"), mmu) == before[1]
    assert (len(mmu.tlb), len(mmu.walk_cache)) == (before[0], 0)


PAYERS = [
    ("vmx", "x86_64_4level"),
    ("svm", "x86_64_4level"),
    ("vtd", "vtd_ss_4level"),
    ("amd_iommu", "amd_iommu_v1"),
    ("smmuv3", "aarch64_4k_48"),
    ("riscv_iommu", "sv39"),
]


@pytest.mark.parametrize(("vendor", "fmt"), PAYERS)
def test_what_an_edit_owes_is_paid_by_any_vendor(vendor: str, fmt: str) -> None:
    rng = random.Random(f"{vendor} {fmt}")
    mmu = cpu(fmt)
    stale = commands = 0
    for _ in range(150):
        mmu.access_many([(rng.randrange(3) * 512 + rng.randrange(6)) << 12 for _ in range(12)])
        page = rng.randrange(3) * 512 + rng.randrange(6)
        try:
            if rng.random() < 0.6:
                to = rng.randrange(1 << 10) << 12
                owed = mmu.table.map(page << 12, to, "4K", "rw")
            else:
                length = rng.choice(("4K", "12K", "2M"))
                at = page // 512 << 21 if length == "2M" else page << 12
                owed = mmu.table.unmap(at, length, missing_ok=True)
        except MapError:
            continue
        stale += len(oracle_stale(mmu))
        issued = inv.pay(owed, mmu, vendor)
        commands += len(issued)
        assert oracle_stale(mmu) == []
    assert stale > 10
    assert commands > 10


def test_an_aligned_range_is_paid_for_in_aligned_parts() -> None:
    mmu = cpu("vtd_ss_4level")
    mmu.table.map(0x1000, 0x1000, "28K", "rw")
    owed = mmu.table.unmap(0x1000, "28K")
    issued = inv.pay(owed, mmu, "vtd")
    # Pages 1 to 7: 1, 2 and 3, 4 to 7; unless a table was taken out, of which the rule is the same.
    assert len(issued) == 3
    assert {one.command.name for one in issued} <= {"iotlb_pages", "iotlb_pages_leaf"}

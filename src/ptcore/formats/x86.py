"""x86 paging: 32-bit, PAE, 4-level and 5-level.

Vendor names and levels: PT (PTE) = 0, PD (PDE) = 1, PDPT (PDPTE) = 2, PML4 (PML4E) = 3, PML5 (PML5E) = 4.

Intel SDM vol. 3A (order number 253668), chapter "Paging": "32-Bit Paging", "PAE Paging", "4-Level Paging
and 5-Level Paging", with the tables "Format of a Page-Table Entry that Maps a 4-KByte Page" and its
siblings for each level and mode; "Determination of Access Rights"; "Protection Keys"; "Page-Fault
Exceptions"; "Paging and Memory Typing". AMD APM vol. 2 (publication 24593), "Long-Mode Page Translation"
and "Page-Translation-Table Entry Fields" (agrees, but for the encryption bit, which is a parameter of a
table); as a second stage: "Nested Paging", where all accesses are user accesses and reads of guest tables
are writes.

Bit 11 of a table item ("R", restart of HLAT paging) and bit 11 of a leaf are ignored in ordinary paging.
Not said by the tables, so parameters: CR0.WP, CR4.SMEP, CR4.SMAP (with EFLAGS.AC = 0), IA32_EFER.NXE,
PKRU, IA32_PKRS, CR4.PSE.

Whose idea of "present": `presence="hardware"` is the CPU's. "linux" also reads PROT_NONE and NUMA-hinting
leaves (P = 0, bit 8 = 1), whose address is stored inverted (Linux arch/x86/include/asm/pgtable-invert.h and
pgtable_types.h, _PAGE_BIT_PROTNONE). "windows" also reads items in transition (P = 0, bit 11 = 1, bit 10 = 0:
_MMPTE_TRANSITION in the public symbols of the Windows kernel). "linux_tables" is "linux" for a reader who
takes bit 8 for presence in tables too, their address not inverted, as volatility3 does and Linux does not.
"""

from __future__ import annotations

from ptcore.formats.schema import (
    AddressRule,
    Bits,
    Citation,
    Denial,
    Format,
    KeyRule,
    Level,
    Match,
    Role,
    Shape,
    Status,
    Waiver,
    Word,
    require,
)

# Intel SDM vol. 3A, "Enumeration of Paging Features by CPUID": MAXPHYADDR is at most 52.
PHYSICAL_BITS = 52
# Intel SDM vol. 3A, "32-Bit Paging": with PSE-36, a 4-MByte page has an address of at most 40 bits.
PSE36_BITS = 40

# Intel SDM vol. 3A, "IA32_PAT MSR", "Memory Type That Can Be Encoded With PAT" and "Table: Memory Type
# Setting of PAT Entries Following a Power-up or Reset": PA0..PA7.
PAT_AFTER_RESET = ("WB", "WT", "UC-", "UC", "WB", "WT", "UC-", "UC")
DEVICE_MEMORY = "UC-"  # Linux arch/x86/mm/ioremap.c, ioremap(): _PAGE_CACHE_MODE_UC_MINUS

CITATIONS = (
    Citation("Intel SDM vol. 3A (253668)", "4-Level Paging and 5-Level Paging"),
    Citation("Intel SDM vol. 3A (253668)", "Determination of Access Rights"),
    Citation("Intel SDM vol. 3A (253668)", "Protection Keys"),
    Citation("Intel SDM vol. 3A (253668)", "Paging and Memory Typing"),
    Citation("AMD APM vol. 2 (24593)", "Long-Mode Page Translation"),
)

LEGACY_CITATIONS = (
    Citation("Intel SDM vol. 3A (253668)", "32-Bit Paging"),
    Citation("Intel SDM vol. 3A (253668)", "PAE Paging"),
    Citation("Intel SDM vol. 3A (253668)", "Determination of Access Rights"),
)

_PRESENT = Bits(0, 0, "P", Role.KIND, value=1)
_WRITE = Bits(1, 1, "R/W", Role.WRITE)
_USER = Bits(2, 2, "U/S", Role.USER)
_ACCESSED = Bits(5, 5, "A", Role.ACCESSED)
_NO_EXECUTE = Bits(63, 63, "XD", Role.EXECUTE, value=0)
# "If IA32_EFER.NXE = 1, execute-disable ...; otherwise, reserved (must be 0)"
_NXE_CLEAR = Bits(63, 63, "XD", Role.RESERVED)


def _table(no_execute: Bits, page_size_bit: Bits) -> Word:
    return (
        no_execute,
        Bits(62, 52, "ignored", Role.IGNORED),
        Bits(51, 12, "address", Role.OUTPUT),
        Bits(11, 11, "R", Role.IGNORED),
        Bits(10, 8, "ignored", Role.IGNORED),
        page_size_bit,
        Bits(6, 6, "ignored", Role.IGNORED),
        _ACCESSED,
        # The memory type with which the table itself is read.
        Bits(4, 4, "PCD", Role.IGNORED),
        Bits(3, 3, "PWT", Role.IGNORED),
        _USER,
        _WRITE,
        _PRESENT,
    )


def _leaf(no_execute: Bits, address: Word, bit_7: Bits) -> Word:
    return (
        no_execute,
        Bits(62, 59, "key", Role.PROTECTION_KEY),
        Bits(58, 52, "ignored", Role.SOFTWARE, to=3),
        *address,
        Bits(11, 9, "ignored", Role.SOFTWARE, to=0),
        Bits(8, 8, "G", Role.GLOBAL),
        bit_7,
        Bits(6, 6, "D", Role.DIRTY),
        _ACCESSED,
        Bits(4, 4, "PCD", Role.MEMORY_TYPE, to=1),
        Bits(3, 3, "PWT", Role.MEMORY_TYPE, to=0),
        _USER,
        _WRITE,
        _PRESENT,
    )


def _large_leaf(no_execute: Bits, shift: int) -> Word:
    # In a large leaf bit 12 is PAT, and the bits between it and the address must be 0.
    address = (
        Bits(51, shift, "address", Role.OUTPUT),
        Bits(shift - 1, 13, "reserved", Role.RESERVED),
        Bits(12, 12, "PAT", Role.MEMORY_TYPE, to=2),
    )
    return _leaf(no_execute, address, Bits(7, 7, "PS", Role.KIND, value=1))


def _pae_word(word: Word) -> Word:
    """Return a word of 4-level paging as PAE paging has it: bits 62:52 must be 0."""
    return (word[0], Bits(62, 52, "reserved", Role.RESERVED), *(b for b in word if b.high < 52))


def _absent(word: Word, fixed: Word) -> Word:
    """Return `word` with P = 0 and the bits of `fixed` (ascending, one bit each) telling its kind."""
    taken = {0, *(bits.low for bits in fixed)}
    pieces = [
        piece
        for bits in word
        for piece in _without(bits, taken)
        if not (piece.role is Role.KIND and piece.low == 0)
    ]
    pieces += [*fixed, Bits(0, 0, "P", Role.KIND, value=0)]
    return tuple(sorted(pieces, key=lambda bits: -bits.high))


def _without(bits: Bits, taken: set[int]) -> list[Bits]:
    """Return what is left of a field when single bits are taken out of it."""
    inside = sorted(n for n in taken if bits.low <= n <= bits.high)
    edges = [bits.low - 1, *inside, bits.high + 1]
    return [
        Bits(
            high - 1,
            low + 1,
            bits.name,
            bits.role,
            bits.value,
            None if bits.to is None else bits.to + low + 1 - bits.low,
        )
        for low, high in zip(edges, edges[1:], strict=False)  # noqa: RUF007 (data imports nothing)
        if high - low > 1
    ]


_PROT_NONE = (Bits(8, 8, "PROT_NONE", Role.KIND, value=1),)
_TRANSITION = (
    Bits(11, 11, "Transition", Role.KIND, value=1),
    Bits(10, 10, "Prototype", Role.KIND, value=0),
)
# By policy: the marks that tell a page, or a table, whose P = 0 from an empty item.
_ABSENT_LEAVES = {"linux": _PROT_NONE, "linux_tables": _PROT_NONE, "windows": _TRANSITION}
_ABSENT_TABLES = {"linux_tables": _PROT_NONE, "windows": _TRANSITION}
PRESENCE = ("hardware", *_ABSENT_LEAVES)
# The items that are empty: P = 0, and no mark that the policy takes for a page.
_EMPTY = {
    "hardware": Match(1, 0),
    "linux": Match(1 << 8 | 1, 0),
    "linux_tables": Match(1 << 8 | 1, 0),
    "windows": Match(1 << 11 | 1, 0),
}


def _level(
    name: str, shift: int, bits: int, table: Word | None, leaf: Word | None, presence: str
) -> Level:
    absent = _ABSENT_LEAVES.get(presence, ())
    absent_table = _ABSENT_TABLES.get(presence, ())
    return Level(
        name,
        shift=shift,
        bits=bits,
        table=table,
        leaf=leaf,
        shapes=(Shape(_absent(leaf, absent), mappable=False, inverted=absent is _PROT_NONE),)
        if leaf and absent
        else (),
        # Windows may also have a table's page in transition.
        skips=(((shift - 12) // 9 - 1, _absent(table, absent_table)),)
        if table and absent_table
        else (),
    )


def _denials(smep: bool, smap: bool) -> tuple[Denial, ...]:
    # "Determination of Access Rights": with CR4.SMEP no fetch, with CR4.SMAP and EFLAGS.AC = 0 no data
    # access, by supervisor mode to a user-mode address.
    fetch = (Denial("x", user=False, having="u"),) if smep else ()
    return fetch + ((Denial("rw", user=False, having="u"),) if smap else ())


def _keys(register: int, odd: int) -> int:
    """Return the keys whose bit is set in PKRU or IA32_PKRS: AD (odd = 0) or WD (odd = 1)."""
    return sum((register >> (2 * key + odd) & 1) << key for key in range(16))


def _key_rules(register: int, user_page: bool, wp: bool) -> tuple[KeyRule, ...]:
    # "Protection Keys": AD denies all data accesses; WD denies writes, those of supervisor mode if WP.
    rules = (
        KeyRule("rw", user_page, None, _keys(register, 0)),
        KeyRule("w", user_page, True, _keys(register, 1)),
    )
    return rules + ((KeyRule("w", user_page, False, _keys(register, 1)),) if wp else ())


def _error_code(nx: bool, smep: bool, keys: bool) -> tuple[tuple[str, int], ...]:
    # "Page-Fault Exceptions", figure "Page-Fault Error Code": P, W/R, U/S, RSVD, I/D, PK.
    code = (("mapped", 0), ("write", 1), ("user", 2), ("reserved", 3))
    return code + ((("fetch", 4),) if nx or smep else ()) + ((("key", 5),) if keys else ())


def x86_64(
    levels: int = 4,
    *,
    nx: bool = True,
    pages_1g: bool = True,
    wp: bool = True,
    smep: bool = False,
    smap: bool = False,
    pkru: int | None = None,
    pkrs: int | None = None,
    presence: str = "hardware",
    nested: bool = False,
) -> Format:
    """Return 4- or 5-level paging.

    `nx`: IA32_EFER.NXE; with nx=False bit 63 is reserved. `pages_1g`: whether the CPU has 1-GByte
    pages (CPUID.80000001H:EDX.Page1GB); without them PS is reserved in a PDPTE. `wp`, `smep`,
    `smap`: CR0.WP, CR4.SMEP, CR4.SMAP while EFLAGS.AC = 0. `pkru`, `pkrs`: the registers, None
    where CR4.PKE or CR4.PKS is 0. `presence`: whose idea of a mapped page (the module's head).
    `nested`: as the second stage of AMD's nested paging, which sees guest table reads as user writes.
    """
    require(presence in PRESENCE, f"presence {presence!r} is none of {', '.join(PRESENCE)}")
    no_execute = _NO_EXECUTE if nx else _NXE_CLEAR
    pointer = _table(no_execute, Bits(7, 7, "PS", Role.KIND, value=0))
    # "Reserved (must be 0)" in a PML4E and a PML5E: PS = 1 there is neither table nor leaf.
    top = _table(no_execute, Bits(7, 7, "reserved", Role.RESERVED))
    small = _leaf(
        no_execute,
        (Bits(51, 12, "address", Role.OUTPUT),),
        Bits(7, 7, "PAT", Role.MEMORY_TYPE, to=2),
    )
    every_level = (
        _level("PT", 12, 9, None, small, presence),
        _level("PD", 21, 9, pointer, _large_leaf(no_execute, 21), presence),
        _level("PDPT", 30, 9, pointer, _large_leaf(no_execute, 30) if pages_1g else None, presence),
        _level("PML4", 39, 9, top, None, presence),
        _level("PML5", 48, 9, top, None, presence),
    )
    keys = () if pkru is None else _key_rules(pkru, True, wp)
    keys += () if pkrs is None else _key_rules(pkrs, False, wp)
    return Format(
        name=f"x86_64_{levels}level",
        title=f"x86-64 {levels}-level paging",
        citations=CITATIONS,
        levels=every_level[:levels],
        empty=_EMPTY[presence],
        input_bits=12 + 9 * levels,
        # Intel SDM vol. 1 (253665), "Canonical Addressing"
        address_rule=AddressRule.SIGN_EXTENDED,
        physical_bits=PHYSICAL_BITS,
        memory_types=PAT_AFTER_RESET,
        device_memory=DEVICE_MEMORY,
        parameters={"nx": nx, "pages_1g": pages_1g, "presence": presence},
        denials=_denials(smep, smap),
        waivers=() if wp else (Waiver("w", user=False),),
        key_rules=keys,
        unknown_is=Status.RESERVED_BITS if presence == "hardware" else Status.NOT_PRESENT,
        error_code=_error_code(nx, smep, pkru is not None or pkrs is not None),
        table_access="wu" if nested else "r",
        compiled=True,
    )


def x86_64_4level(
    *,
    nx: bool = True,
    pages_1g: bool = True,
    wp: bool = True,
    smep: bool = False,
    smap: bool = False,
    pkru: int | None = None,
    pkrs: int | None = None,
    presence: str = "hardware",
    nested: bool = False,
) -> Format:
    """Return 4-level paging: 48-bit addresses. The parameters are those of `x86_64`."""
    return x86_64(
        4,
        nx=nx,
        pages_1g=pages_1g,
        wp=wp,
        smep=smep,
        smap=smap,
        pkru=pkru,
        pkrs=pkrs,
        presence=presence,
        nested=nested,
    )


def x86_64_5level(
    *,
    nx: bool = True,
    pages_1g: bool = True,
    wp: bool = True,
    smep: bool = False,
    smap: bool = False,
    pkru: int | None = None,
    pkrs: int | None = None,
    presence: str = "hardware",
    nested: bool = False,
) -> Format:
    """Return 5-level paging: 57-bit addresses. The parameters are those of `x86_64`."""
    return x86_64(
        5,
        nx=nx,
        pages_1g=pages_1g,
        wp=wp,
        smep=smep,
        smap=smap,
        pkru=pkru,
        pkrs=pkrs,
        presence=presence,
        nested=nested,
    )


def x86_pae(
    *,
    nx: bool = True,
    wp: bool = True,
    smep: bool = False,
    smap: bool = False,
    presence: str = "hardware",
) -> Format:
    """Return PAE paging: 32-bit addresses, three levels, the top one of four items at CR3 bits 31:5.

    The CPU loads those four when CR3 is written; here they are read from memory at each walk.
    """
    require(presence in PRESENCE, f"presence {presence!r} is none of {', '.join(PRESENCE)}")
    no_execute = _NO_EXECUTE if nx else _NXE_CLEAR
    pointer = _pae_word(_table(no_execute, Bits(7, 7, "PS", Role.KIND, value=0)))
    small = _leaf(
        no_execute,
        (Bits(51, 12, "address", Role.OUTPUT),),
        Bits(7, 7, "PAT", Role.MEMORY_TYPE, to=2),
    )
    # "Format of a PAE Page-Directory-Pointer-Table Entry (PDPTE)"
    top = (
        Bits(63, 52, "reserved", Role.RESERVED),
        Bits(51, 12, "address", Role.OUTPUT),
        Bits(11, 9, "ignored", Role.IGNORED),
        Bits(8, 5, "reserved", Role.RESERVED),
        Bits(4, 4, "PCD", Role.IGNORED),
        Bits(3, 3, "PWT", Role.IGNORED),
        Bits(2, 1, "reserved", Role.RESERVED),
        _PRESENT,
    )
    return Format(
        name="x86_pae",
        title="x86 PAE paging",
        citations=LEGACY_CITATIONS,
        levels=(
            _level("PT", 12, 9, None, _pae_word(small), presence),
            _level("PD", 21, 9, pointer, _pae_word(_large_leaf(no_execute, 21)), presence),
            _level("PDPT", 30, 2, top, None, presence),
        ),
        empty=_EMPTY[presence],
        input_bits=32,
        address_bits=32,
        address_rule=AddressRule.ZERO_EXTENDED,
        physical_bits=PHYSICAL_BITS,
        memory_types=PAT_AFTER_RESET,
        device_memory=DEVICE_MEMORY,
        root_align=32,
        parameters={"nx": nx, "presence": presence},
        denials=_denials(smep, smap),
        waivers=() if wp else (Waiver("w", user=False),),
        unknown_is=Status.RESERVED_BITS if presence == "hardware" else Status.NOT_PRESENT,
        error_code=_error_code(nx, smep, keys=False),
    )


def _low_bits(bit_7: Bits) -> Word:
    """Return bits 8:0 of a 32-bit leaf, the same in both sizes but for bit 7."""
    return (
        Bits(8, 8, "G", Role.GLOBAL),
        bit_7,
        Bits(6, 6, "D", Role.DIRTY),
        _ACCESSED,
        Bits(4, 4, "PCD", Role.MEMORY_TYPE, to=1),
        Bits(3, 3, "PWT", Role.MEMORY_TYPE, to=0),
        _USER,
        _WRITE,
        _PRESENT,
    )


def x86_32(
    *,
    pse: bool = True,
    pse36: bool = True,
    wp: bool = True,
    smep: bool = False,
    smap: bool = False,
    presence: str = "hardware",
) -> Format:
    """Return 32-bit paging: two levels of 4-byte items.

    `pse`: CR4.PSE, 4-MByte pages; without it bit 7 of a PDE is ignored. `pse36`: their address goes up
    to bit 39 (CPUID.01H:EDX.PSE-36); without it bits 21:13 of such a PDE are reserved. `presence`: whose
    idea of a mapped page (the module's head).
    """
    require(presence in PRESENCE, f"presence {presence!r} is none of {', '.join(PRESENCE)}")
    high_address = (
        (Bits(21, 21, "reserved", Role.RESERVED), Bits(20, 13, "address", Role.OUTPUT, to=32))
        if pse36
        else (Bits(21, 13, "reserved", Role.RESERVED),)
    )
    large = (
        Bits(31, 22, "address", Role.OUTPUT),
        *high_address,
        Bits(12, 12, "PAT", Role.MEMORY_TYPE, to=2),
        Bits(11, 9, "ignored", Role.SOFTWARE),
        *_low_bits(Bits(7, 7, "PS", Role.KIND, value=1)),
    )
    small = (
        Bits(31, 12, "address", Role.OUTPUT),
        Bits(11, 9, "ignored", Role.SOFTWARE),
        *_low_bits(Bits(7, 7, "PAT", Role.MEMORY_TYPE, to=2)),
    )
    pointer = (
        Bits(31, 12, "address", Role.OUTPUT),
        Bits(11, 8, "ignored", Role.IGNORED),
        Bits(7, 7, "PS", Role.KIND, value=0) if pse else Bits(7, 7, "ignored", Role.IGNORED),
        Bits(6, 6, "ignored", Role.IGNORED),
        _ACCESSED,
        Bits(4, 4, "PCD", Role.IGNORED),
        Bits(3, 3, "PWT", Role.IGNORED),
        _USER,
        _WRITE,
        _PRESENT,
    )
    return Format(
        name="x86_32",
        title="x86 32-bit paging",
        citations=LEGACY_CITATIONS,
        levels=(
            _level("PT", 12, 10, None, small, presence),
            _level("PD", 22, 10, pointer, large if pse else None, presence),
        ),
        empty=_EMPTY[presence],
        input_bits=32,
        address_bits=32,
        address_rule=AddressRule.ZERO_EXTENDED,
        physical_bits=PSE36_BITS if pse and pse36 else 32,
        entry_bytes=4,
        memory_types=PAT_AFTER_RESET,
        device_memory=DEVICE_MEMORY,
        parameters={"pse": pse, "pse36": pse36, "presence": presence},
        denials=_denials(smep, smap),
        waivers=() if wp else (Waiver("w", user=False),),
        unknown_is=Status.RESERVED_BITS if presence == "hardware" else Status.NOT_PRESENT,
        error_code=_error_code(nx=False, smep=smep, keys=False),
    )


# volatility3 2.28, framework/layers/intel.py: presence alone decides, reserved bits and addresses beyond the
# layer's _maxphyaddr are ignored. Its layers also call a table invalid whose items are all equal, and keep
# the bits below a large page's address: interop/volatility.py copies that, no format can say it. The ones of
# five levels are no layers of volatility3's: they read as those of four do, one level more.
_LAYERS: tuple[tuple[str, str, dict[str, object], int], ...] = (
    ("Intel", "x86_32", {"pse36": False}, 32),
    ("IntelPAE", "x86_pae", {}, 40),
    ("Intel32e", "x86_64_4level", {}, 52),
    ("Intel5Level", "x86_64_5level", {}, 52),
    ("LinuxIntel", "x86_32", {"pse36": False, "presence": "linux_tables"}, 32),
    ("LinuxIntelPAE", "x86_pae", {"presence": "linux_tables"}, 40),
    ("LinuxIntel32e", "x86_64_4level", {"presence": "linux_tables"}, 46),
    ("LinuxIntel5Level", "x86_64_5level", {"presence": "linux_tables"}, 52),
    ("WindowsIntel", "x86_32", {"pse36": False, "presence": "windows"}, 32),
    ("WindowsIntelPAE", "x86_pae", {"presence": "windows"}, 40),
    ("WindowsIntel32e", "x86_64_4level", {"presence": "windows"}, 45),
    ("WindowsIntel5Level", "x86_64_5level", {"presence": "windows"}, 45),
)
PRESETS: dict[str, tuple[str, dict[str, object], dict[str, object]]] = {
    f"volatility3.{layer}": (
        name,
        parameters,
        {"check_reserved": False, "physical_bits": physical_bits},
    )
    for layer, name, parameters, physical_bits in _LAYERS
}

FORMATS = (x86_32, x86_pae, x86_64_4level, x86_64_5level)
TEST_CONFIGURATIONS: tuple[tuple[str, dict[str, object]], ...] = (
    ("x86_32", {}),
    ("x86_32", {"pse36": False}),
    ("x86_32", {"pse": False}),
    ("x86_32", {"presence": "linux"}),
    ("x86_32", {"presence": "windows"}),
    ("x86_pae", {}),
    ("x86_pae", {"nx": False}),
    ("x86_64_4level", {}),
    ("x86_64_4level", {"nx": False}),
    ("x86_64_4level", {"pages_1g": False}),
    ("x86_64_4level", {"presence": "linux"}),
    ("x86_64_4level", {"presence": "linux_tables"}),
    ("x86_64_4level", {"presence": "windows"}),
    ("x86_64_5level", {}),
    ("x86_64_5level", {"nx": False, "pages_1g": False}),
)

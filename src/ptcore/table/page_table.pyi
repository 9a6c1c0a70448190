"""PageTable: the door to one stage of translation.

Addresses and lengths are bytes; a length may be a text such as ``"2M"``. `va` is the input address
of the stage and `pa` its output address. Every verb is all-or-nothing: when it raises, the tables
are bit for bit as they were and no frame was taken.
"""

from typing import Literal, final

import numpy as np
import numpy.typing as npt

from ptcore.formats.schema import Format
from ptcore.memory.physical import PhysicalMemory
from ptcore.table.listing import Listing
from ptcore.table.owed import Owed
from ptcore.table.path import Walk
from ptcore.table.rows import Stats
from ptcore.units import Span

@final
class PageTable:
    """The tables under one root in a memory, read and edited by the rules of a format.

    Values are read from the memory at every call; nothing is cached, so tables that something else
    writes are seen as they are. Single-writer: do not edit from two threads at once.
    """

    def __init__(
        self,
        format: str | Format,
        memory: PhysicalMemory,
        root: int | None = None,
        *,
        physical_bits: int | None = None,
        check_reserved: bool = True,
        encryption_mask: int = 0,
        encryption_bit: bool = True,
        check_canonical: bool = True,
        tag_bits: int = 0,
    ) -> None:
        """Attach to the table at `root`, or allocate an empty root in `memory.frames`.

        `format`: a name (`ptcore.formats.names()`) or a Format of your own; it is validated.
        `physical_bits`: the machine's output address width, by default the format's widest; output
        bits beyond it are reserved (Intel SDM vol. 3A, "4-Level Paging and 5-Level Paging":
        MAXPHYADDR). `check_reserved=False` ignores reserved bits, as some hypervisors' shadow
        tables need. `encryption_mask`: address bits that are no part of the address but mark a page
        as encrypted (AMD APM vol. 2, "Secure Memory Encryption"), or as shared (Intel TDX module
        specification, "Shared Bit"). `encryption_bit`: whether new items get these bits, unless `map`
        says otherwise: True suits the C-bit of SME and SEV, False the shared bit of TDX.
        `check_canonical=False` translates whatever the index bits say. `tag_bits`: how many top bits
        of an input address are ignored (Arm's top-byte ignore: 8).

        Raises FormatError for an unknown name (with the nearest ones), a format that contradicts
        itself, or an encryption mask that is not inside the address bits of every item;
        OutOfRange for `physical_bits` beyond the format's, and for a root outside the memory;
        Misaligned for a root that is not aligned to its table's size; NoFrame when the memory has
        no frame for a root.
        """

    @property
    def format(self) -> Format:
        """The format, as given or as found by name."""

    @property
    def memory(self) -> PhysicalMemory:
        """Where the tables lie."""

    @property
    def root(self) -> int:
        """The address of the top table."""

    @property
    def physical_bits(self) -> int:
        """The output address width in force."""

    @property
    def check_reserved(self) -> bool:
        """Whether reserved bits end a walk."""

    @property
    def encryption_mask(self) -> int:
        """Address bits that mark a page as encrypted."""

    @property
    def encryption_bit(self) -> bool:
        """Whether new items get the bits of `encryption_mask` unless told otherwise."""

    @property
    def specialised(self) -> bool:
        """Whether an engine compiled for exactly this format is in use (else the general one)."""

    @property
    def tag_bits(self) -> int:
        """How many top bits of an input address are ignored."""

    def untagged(self, va: int) -> int:
        """Return `va` with the bits that are ignored as the highest bit below them has them."""

    def legal_spans(self) -> tuple[Span, ...]:
        """Return the input addresses that the format translates, in order."""

    def translate(self, va: int, access: str = "r", user: bool = False) -> int:
        """Return the output address of `va` for an access of kind `access` (letters of r, w, x).

        `user`: whether the access comes from user mode; supervisor accesses are not held against
        the user right (as with CR4.SMEP = CR4.SMAP = 0). Raises the Fault of the status that the
        walk ended with (NotPresent, ReservedBits, PermissionDenied, NotCanonical, BusError ...); it
        says which level, item and rule. OutOfRange for a number that has no 64 bits. Cost: one
        memory read per level.
        """

    def translate_many(
        self,
        vas: npt.ArrayLike,
        access: str = "r",
        user: bool = False,
        *,
        out: tuple[npt.NDArray[np.uint64], npt.NDArray[np.uint8]] | None = None,
    ) -> tuple[npt.NDArray[np.uint64], npt.NDArray[np.uint8]]:
        """Translate n addresses; return (pas, statuses): uint64[n], uint8[n], shaped as `vas`.

        `statuses` holds `ptcore.Status` values; where it is not OK the address is all-ones. Nothing
        is raised per item. `out`: two contiguous arrays of the right shape to fill instead of new
        ones; they must not share memory with `vas`. Raises TypeError for what are no integers or
        for unfit `out` arrays; OutOfRange for numbers that have no 64 bits. Releases the GIL.
        """

    def walk(self, va: int) -> Walk:
        """Return the path of the walk for `va`, whatever it ended with; see Walk.

        No access is judged: `rights` says what would be allowed. Raises OutOfRange for a number
        that has no 64 bits, and nothing else.
        """

    def map(
        self,
        va: int,
        pa: int,
        length: int | str,
        access: str | int = "rw",
        user: bool | None = False,
        global_: bool = False,
        memory_type: str | int | None = None,
        pkey: int = 0,
        software: int = 0,
        *,
        page_size: int | str | None = None,
        encryption_bit: bool | None = None,
    ) -> Owed:
        """Map `length` bytes from `va` on to those from `pa` on.

        With `page_size=None` each part gets the largest page that its alignment and the tables
        already there allow; a given size is used throughout, and may replace tables that hold
        nothing. `memory_type`: a name of the format or its number (None: 0, the format's
        first). `encryption_bit`: whether the leaves get the bits of `encryption_mask` (None: as the
        table was made); split, collapse and protect keep them. The Owed holds tables only if empty
        ones were replaced; a map of empty items otherwise owes nothing.

        Raises Misaligned (va, pa or length no multiple of the page size), NotCanonical, OutOfRange
        (length 0, or pa beyond `physical_bits` or inside the encryption bits), FormatError (what
        the format cannot say), AlreadyMapped (with the first leaf in the way), MalformedTable
        (reserved items, or tables outside the memory, in the way), MapError (a table above
        withholds a right asked for; read-only memory), NoFrame. Cost: O(items written) + O(tables).

        A table that is reachable at two addresses of the span is written twice: the later wins.
        """

    def unmap(
        self, va: int, length: int | str, *, missing_ok: bool = False, free_tables: bool = True
    ) -> Owed:
        """Empty the items of `length` bytes from `va` on.

        `free_tables` also takes out tables that hold nothing afterwards; they stay allocated until
        the Owed is discharged. Raises Misaligned, NotCanonical, OutOfRange, NotMapped (a hole,
        unless `missing_ok`), InsideLargerLeaf (the span covers a part of a larger leaf: split it),
        MalformedTable, MapError (read-only memory). Cost: O(items).

        A table that hangs in a second place outside the span is taken out all the same: detach
        shared subtrees by hand.
        """

    def protect(
        self,
        va: int,
        length: int | str,
        access: str | int | None = None,
        user: bool | None = None,
        global_: bool | None = None,
        memory_type: str | int | None = None,
        pkey: int | None = None,
        software: int | None = None,
        *,
        missing_ok: bool = False,
    ) -> Owed:
        """Change the attributes that are given of all leaves in `length` bytes from `va` on.

        None leaves an attribute as it is; addresses, accessed and dirty marks stay. Raises as unmap
        does, and FormatError (what the format cannot say) and MapError (a table above withholds a
        right asked for). Cost: O(items).
        """

    def split(
        self,
        va: int,
        length: int | str,
        page_size: int | str | None = None,
        *,
        missing_ok: bool = False,
    ) -> Owed:
        """Replace larger leaves that the span touches by leaves of `page_size` (default: smallest).

        Translations stay what they were. Parts of a large leaf outside the span keep the largest
        size possible. The spans owed cover all of each leaf that was split. Raises as unmap does
        (but InsideLargerLeaf), FormatError for a size the format lacks or where a level on the way has
        no page of one item (AMD IOMMU's 512G hole), NoFrame. Cost: O(items).
        """

    def collapse(
        self, va: int, length: int | str, page_size: int | str, *, missing_ok: bool = False
    ) -> Owed:
        """Replace tables of smaller leaves by leaves of `page_size`, all of them in the span.

        Translations stay what they were; a large leaf is accessed or dirty if any small one was.
        The tables taken out are in the Owed. Raises as unmap does, FormatError for a size the
        format lacks, NotUniform where the small leaves do not make one large leaf. Cost: O(items).
        """

    def destroy(self) -> Owed:
        """Take out all tables, the root too; they are freed when the Owed is discharged.

        Edits raise MapError afterwards. Tables shared with another root go as well. Raises MapError
        for a table destroyed before and for a read-only memory. Cost: O(tables).
        """

    def mappings(self, first: int = 0, last: int | None = None, *, repeats: bool = True) -> Listing:
        """List what is mapped from `first` to `last` (inclusive): rows of ROW_DTYPE, by address.

        Pages that follow each other on both sides with equal attributes make one row, but never
        across page sizes. `kind` is a RowKind. A subtree that was listed before is a REPEAT row
        (`repeat_of`: where), unless `repeats=False`; so the cost is O(tables), not O(leaves).
        RESERVED and OUTSIDE rows say what could not be read. What no row covers is not present.
        Raises OutOfRange when `first` comes after `last` or has no 64 bits.
        """

    def reverse(self, pa: int) -> npt.NDArray[np.uint64]:
        """Return all input addresses that translate to `pa`, ascending: uint64[n].

        Raises OutOfRange for a number that has no 64 bits, and PtcoreError when there are more than
        a million (aliased tables; `mappings` lists them as repeats). Cost: O(tables) + O(results).
        """

    def stats(self) -> Stats:
        """Count tables, leaves, empty and reserved items; see Stats. Cost: O(tables), and where a table is
        met at two levels the ways up from each item that points to one.
        """

    def harvest(
        self, what: Literal["dirty", "accessed"], *, clear: bool = True
    ) -> tuple[npt.NDArray[np.void], Owed]:
        """Return the leaves marked dirty or accessed (rows of HARVEST_DTYPE), and the Owed.

        `clear` clears the marks; cached translations would not set them again, so each leaf cleared
        is owed an invalidation. A leaf that several addresses reach is listed once, at the first; the
        spans owed cover the others. Rows are ascending by va. Raises ValueError for another `what`;
        MapError when marks are to be cleared in a read-only memory. Cost: O(tables) + O(results).
        """

"""A lowered format as the C struct that the engine reads (formats/lower.py makes the dicts)."""

from libc.string cimport memset

from ptcore.table.abi cimport (
    pt_format,
    pt_grant,
    pt_layout,
    pt_level,
    pt_mark,
    pt_match,
    pt_piece,
    pt_shape,
)


cdef int fill_match(pt_match *out, dict source) except -1:
    out.mask = source["mask"]
    out.value = source["value"]
    return 0


cdef int fill_mark(pt_mark *out, dict source) except -1:
    out.mask = source["mask"]
    out.value = source["value"]
    out.flip = source["flip"]
    return 0


cdef int fill_pieces(pt_piece *out, list pieces) except -1:
    cdef int n
    for n in range(len(pieces)):
        out[n].mask = pieces[n]["mask"]
        out[n].shift = pieces[n]["shift"]
    return 0


cdef int fill_grant(pt_grant *out, dict source) except -1:
    cdef int n
    for n in range(2):
        out.shift[n] = source["shift"][n]
        out.bits[n] = source["bits"][n]
    for n, kept in enumerate(source["kept"]):
        out.kept[n] = kept
    return 0


cdef int fill_layout(pt_layout *out, dict source) except -1:
    cdef int n
    fill_pieces(out.output, source["output"])
    out.output_mask = source["output_mask"]
    out.invert = source["invert"]
    for n, grant in enumerate(source["grant"]):
        fill_grant(&out.grant[n], grant)
    fill_match(&out.granting, source["granting"])
    out.fixed = source["fixed"]
    out.reserved = source["reserved"]
    for n, match in enumerate(source["refused"]):
        fill_match(&out.refused[n], match)
    fill_mark(&out.accessed, source["accessed"])
    fill_mark(&out.dirty, source["dirty"])
    fill_match(&out.global_, source["global_"])
    fill_pieces(out.memory_type, source["memory_type"])
    fill_pieces(out.protection_key, source["protection_key"])
    fill_pieces(out.software, source["software"])
    return 0


cdef int fill_shape(pt_shape *out, dict source) except -1:
    cdef int n
    fill_match(&out.match, source["match"])
    out.items_lg2 = source["items_lg2"]
    out.copies = source["copies"]
    out.mappable = source["mappable"]
    for n in range(2):
        out.smaller[n] = source["smaller"][n]
        out.larger[n] = source["larger"][n]
    fill_layout(&out.layout, source["layout"])
    fill_pieces(out.carry, source["carry"])
    return 0


cdef int fill_level(pt_level *out, dict source) except -1:
    cdef int n
    out.shift = source["shift"]
    out.bits = source["bits"]
    out.shapes = source["shapes"]
    out.has_leaf = source["has_leaf"]
    fill_match(&out.usual, source["usual"])
    for n in range(2):
        fill_match(&out.leaf_when[n], source["leaf_when"][n])
    for n, match in enumerate(source["skip"]):
        fill_match(&out.skip[n], match)
    for n, shape in enumerate(source["shape"]):
        fill_shape(&out.shape[n], shape)
    return 0


cdef int fill_format(pt_format *out, dict source) except -1:
    """Fill the C struct member by member; cleared first, so that equal formats are equal bytes."""
    cdef int n
    memset(out, 0, sizeof(pt_format))
    out.top = source["top"]
    out.entry_lg2 = source["entry_lg2"]
    out.swap_bytes = source["swap_bytes"]
    out.input_bits = source["input_bits"]
    out.address_bits = source["address_bits"]
    out.address_rule = source["address_rule"]
    out.parents_limit_rights = source["parents_limit_rights"]
    out.rights = source["rights"]
    out.has_skips = source["has_skips"]
    out.reserved_status = source["reserved_status"]
    out.unknown_status = source["unknown_status"]
    out.beyond_status = source["beyond_status"]
    out.accessed_required = source["accessed_required"]
    fill_match(&out.empty, source["empty"])
    for n, level in enumerate(source["level"]):
        fill_level(&out.level[n], level)
    return 0

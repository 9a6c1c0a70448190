"""The structs of abi.h: what a format is to compiled code, and what a walk reads and leaves behind."""

from libc.stdint cimport int32_t, uint8_t, uint16_t, uint64_t

from ptcore.memory.physical cimport pt_memory


cdef extern from "abi.h" nogil:
    ctypedef unsigned long long pt_item  # as wide as the widest item; C knows the real width
    const uint64_t PT_ALL_ONES

    enum:
        PT_MAX_LEVELS
        PT_MAX_PIECES
        PT_MAX_CARRY
        PT_MAX_SHAPES
        PT_MAX_GRANTS
        PT_MAX_REFUSALS
        PT_RIGHTS

    enum:
        PT_EMPTY
        PT_TABLE
        PT_LEAF
        PT_RESERVED

    enum:
        PT_OK
        PT_NOT_PRESENT
        PT_RESERVED_BITS
        PT_PERMISSION
        PT_PROTECTION_KEY
        PT_NOT_CANONICAL
        PT_ACCESS_FLAG
        PT_ADDRESS_SIZE
        PT_MISCONFIGURED
        PT_BUS
        PT_MISSING
        PT_DOWN

    ctypedef struct pt_match:
        pt_item mask
        pt_item value

    ctypedef struct pt_mark:
        pt_item mask
        pt_item value
        pt_item flip

    ctypedef struct pt_piece:
        pt_item mask
        int32_t shift

    ctypedef struct pt_grant:
        uint8_t shift[2]
        uint8_t bits[2]
        uint8_t kept[8]

    ctypedef struct pt_layout:
        pt_piece output[3]
        pt_item output_mask
        pt_item invert
        pt_grant grant[5]
        pt_match granting
        pt_item fixed
        pt_item reserved
        pt_match refused[6]
        pt_mark accessed
        pt_mark dirty
        pt_match global_
        pt_piece memory_type[3]
        pt_piece protection_key[3]
        pt_piece software[3]

    ctypedef struct pt_shape:
        pt_match match
        uint8_t items_lg2
        uint8_t copies
        uint8_t mappable
        uint8_t smaller[2]
        uint8_t larger[2]
        pt_layout layout
        pt_piece carry[8]

    ctypedef struct pt_level:
        uint8_t shift
        uint8_t bits
        uint8_t shapes
        uint8_t has_leaf
        pt_match usual
        pt_match leaf_when[2]
        pt_match skip[6]
        pt_shape shape[11]

    ctypedef struct pt_format:
        uint8_t top
        uint8_t entry_lg2
        uint8_t swap_bytes
        uint8_t input_bits
        uint8_t address_bits
        uint8_t address_rule
        uint8_t parents_limit_rights
        uint8_t rights
        uint8_t has_skips
        uint8_t reserved_status
        uint8_t unknown_status
        uint8_t beyond_status
        uint8_t accessed_required
        pt_match empty
        pt_level level[6]

    ctypedef struct pt_rules:
        pt_match usual[6]
        pt_item zero[6][11]
        uint64_t keep
        uint64_t encryption
        uint8_t check_input
        uint8_t tag_bits

    ctypedef struct pt_need:
        uint64_t allowed
        uint16_t denied_keys[2]
        uint8_t any
        uint8_t dirty

    ctypedef struct pt_space:
        const pt_memory *memory
        const pt_format *format
        pt_rules rules
        uint64_t root

    ctypedef struct pt_step_read:
        uint64_t table
        uint64_t at
        pt_item item
        uint8_t level
        uint8_t kind
        uint8_t shape

    ctypedef struct pt_path:
        pt_step_read step[6]
        uint8_t count
        uint8_t status
        uint8_t level
        uint64_t table

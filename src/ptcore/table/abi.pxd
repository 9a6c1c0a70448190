"""The structs of abi.h: what a format is to compiled code, and what a walk reads and leaves behind."""

from libc.stdint cimport int32_t, uint8_t, uint64_t

from ptcore.memory.physical cimport pt_memory


cdef extern from "abi.h" nogil:
    ctypedef unsigned long long pt_item  # as wide as the widest item; C knows the real width
    const uint64_t PT_ALL_ONES

    enum:
        PT_MAX_LEVELS
        PT_MAX_PIECES
        PT_MAX_CARRY
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

    ctypedef struct pt_piece:
        pt_item mask
        int32_t shift

    ctypedef struct pt_layout:
        pt_piece output[3]
        pt_item right[4]
        pt_item granted
        pt_item fixed
        pt_item reserved
        pt_item accessed
        pt_item dirty
        pt_item global_
        pt_piece memory_type[3]
        pt_piece protection_key[3]
        pt_piece software[3]

    ctypedef struct pt_level:
        uint8_t shift
        uint8_t bits
        uint8_t has_leaf
        pt_match table
        pt_match leaf[2]
        pt_layout layout[2]
        pt_piece carry[8]

    ctypedef struct pt_format:
        uint8_t top
        uint8_t entry_lg2
        uint8_t swap_bytes
        uint8_t input_bits
        uint8_t address_rule
        uint8_t parents_limit_rights
        pt_match empty
        pt_level level[6]

    ctypedef struct pt_rules:
        pt_item usual[6]
        pt_item zero[6][2]
        pt_item keep
        uint8_t check_input

    ctypedef struct pt_need:
        pt_item bits[6][2]
        uint8_t any

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

    ctypedef struct pt_path:
        pt_step_read step[6]
        uint8_t count
        uint8_t status
        uint8_t level
        uint64_t table

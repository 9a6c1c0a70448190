/* The structs that the compiled rooms share. One declaration each; formats/lower.py fills them by name.
 *
 * Words: an item is one slot of a table; its kind is EMPTY, TABLE, LEAF or RESERVED. Level 0 is the
 * level whose items can only be leaves. IA and OA are the input and output address of one stage. */
#ifndef PT_ABI_H
#define PT_ABI_H
#include "../memory/memory.h"

/* Wide enough for every format's item (16 bytes in some); for 8-byte items the compiler drops the upper half. */
__extension__ typedef unsigned __int128 pt_item;
#define PT_WIDE(high, low) (((pt_item)(high) << 64) | (low))

#define PT_MAX_LEVELS 6
#define PT_MAX_PIECES 3
#define PT_MAX_CARRY 8
#define PT_RIGHTS 4 /* read, write, execute, user */
#define PT_ALL_ONES UINT64_MAX

enum { PT_EMPTY = 0, PT_TABLE = 1, PT_LEAF = 2, PT_RESERVED = 3 };

/* errors.Status, number for number (tests/ptcore/test_errors.py), and two that never leave the engine. */
enum {
    PT_OK = 0,
    PT_NOT_PRESENT = 1,
    PT_RESERVED_BITS = 2,
    PT_PERMISSION = 3,
    PT_PROTECTION_KEY = 4,
    PT_NOT_CANONICAL = 5,
    PT_ACCESS_FLAG = 6,
    PT_ADDRESS_SIZE = 7,
    PT_MISCONFIGURED = 8,
    PT_BUS = 9,
    PT_MISSING = 10, /* a lazily read page is not here yet: fetch and try again */
    PT_DOWN = 11     /* the item is a table: go on below */
};

enum { PT_SIGN_EXTENDED = 0, PT_ZERO_EXTENDED = 1, PT_UPPER_ONLY = 2 };

typedef struct {
    pt_item mask, value;
} pt_match;

/* A run of item bits that lands `shift` bits higher (or lower) in the number it is a part of. */
typedef struct {
    pt_item mask;
    int32_t shift;
} pt_piece;

/* What the bits of one kind of item at one level mean. */
typedef struct {
    pt_piece output[PT_MAX_PIECES];
    pt_item right[PT_RIGHTS]; /* the bit of each right; 0: always granted */
    pt_item granted;          /* the bits of all rights as they stand when granted */
    pt_item fixed;            /* the bits that make the item this kind */
    pt_item reserved;         /* must be zero whatever the parameters */
    pt_item accessed, dirty, global_;
    pt_piece memory_type[PT_MAX_PIECES], protection_key[PT_MAX_PIECES], software[PT_MAX_PIECES];
} pt_layout;

typedef struct {
    uint8_t shift, bits, has_leaf;
    pt_match table, leaf[2];
    pt_layout layout[2];              /* of a table, of a leaf: index PT_IS_LEAF(kind) */
    pt_piece carry[PT_MAX_CARRY];     /* a leaf's attributes into a leaf one level down */
} pt_level;

#define PT_IS_LEAF(kind) ((kind) == PT_LEAF)

typedef struct {
    uint8_t top, entry_lg2, swap_bytes, input_bits, address_rule, parents_limit_rights;
    pt_match empty;
    pt_level level[PT_MAX_LEVELS];
} pt_format;

/* What the parameters of one table add to its format: the must-be-zero rule and the address bits in use. */
typedef struct {
    pt_item usual[PT_MAX_LEVELS];   /* tells a lawful table (level 0: leaf) in one test: pt_is_usual */
    pt_item zero[PT_MAX_LEVELS][2]; /* must be zero, by level and PT_IS_LEAF */
    pt_item keep;                   /* item bits that take part in an output address */
    uint8_t check_input;            /* whether an input address must obey the format's address rule */
} pt_rules;

/* Which rights an access needs, as item bits by level and PT_IS_LEAF. */
typedef struct {
    pt_item bits[PT_MAX_LEVELS][2];
    uint8_t any;
} pt_need;

/* All that a walk reads. */
typedef struct {
    const pt_memory *memory;
    const pt_format *format;
    pt_rules rules;
    uint64_t root;
} pt_space;

/* One item read, and the path of a walk, root first. */
typedef struct {
    uint64_t table, at;
    pt_item item;
    uint8_t level, kind;
} pt_step_read;

typedef struct {
    pt_step_read step[PT_MAX_LEVELS];
    uint8_t count;  /* items read */
    uint8_t status; /* how the walk ended */
    uint8_t level;  /* where it ended */
    uint64_t table; /* the table whose item could not be read, when status is PT_BUS */
} pt_path;
#endif

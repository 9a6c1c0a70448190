/* The structs that the compiled rooms share. One declaration each; formats/lower.py fills them by name.
 *
 * Words: an item is one slot of a table; its kind is EMPTY, TABLE, LEAF or RESERVED; its shape is 0 for a
 * table, 1 for the plain leaf of its level, 2.. for further leaves. An entry is all items of one
 * translation. Level 0 is the level whose items can only be leaves. IA and OA are the input and output
 * address of one stage. */
#ifndef PT_ABI_H
#define PT_ABI_H
#include "../memory/memory.h"

/* Wide enough for every format's item (16 bytes in some); for 8-byte items the compiler drops the upper half. */
__extension__ typedef unsigned __int128 pt_item;
#define PT_WIDE(high, low) (((pt_item)(high) << 64) | (low))

#define PT_MAX_LEVELS 6
#define PT_MAX_PIECES 3
#define PT_MAX_CARRY 8
#define PT_MAX_SHAPES 11
#define PT_MAX_GRANTS 5
#define PT_MAX_REFUSALS 6
#define PT_RIGHTS 6 /* read, write, execute, user, user execute, user write */
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

/* A mark is set where `item & mask == value`; `flip` are the bits that change when it is set or cleared. */
typedef struct {
    pt_item mask, value, flip;
} pt_mark;

/* A run of item bits that lands `shift` bits higher (or lower) in the number it is a part of. */
typedef struct {
    pt_item mask;
    int32_t shift;
} pt_piece;

/* Which rights stay, for each value of one field or of two side by side (the first the more significant). */
typedef struct {
    uint8_t shift[2], bits[2], kept[8];
} pt_grant;

/* What the bits of one shape of item at one level mean. */
typedef struct {
    pt_piece output[PT_MAX_PIECES];
    pt_item output_mask, invert; /* the address bits; those that are stored inverted */
    pt_grant grant[PT_MAX_GRANTS];
    pt_match granting; /* an item that withholds no right */
    pt_item fixed;    /* the bits that make the item this shape */
    pt_item reserved; /* must be zero whatever the parameters */
    pt_match refused[PT_MAX_REFUSALS];
    pt_mark accessed, dirty;
    pt_match global_;
    pt_piece memory_type[PT_MAX_PIECES], protection_key[PT_MAX_PIECES], software[PT_MAX_PIECES];
} pt_layout;

typedef struct {
    pt_match match;
    uint8_t items_lg2, copies, mappable;
    uint8_t smaller[2], larger[2]; /* level and shape of the next page sizes; shape 0: none */
    pt_layout layout;
    pt_piece carry[PT_MAX_CARRY]; /* a leaf's attributes into the next smaller page */
} pt_shape;

typedef struct {
    uint8_t shift, bits, shapes, has_leaf;
    pt_match usual;               /* tells most items of a walk here, if lawful; never true where none does */
    pt_match leaf_when[2];        /* one of them holds for every leaf, besides its shape */
    pt_match skip[PT_MAX_LEVELS]; /* tables that point to this level, further down than the next */
    pt_shape shape[PT_MAX_SHAPES];
} pt_level;

typedef struct {
    uint8_t top, entry_lg2, swap_bytes, input_bits, address_bits, address_rule;
    uint8_t parents_limit_rights, rights, has_skips;
    uint8_t reserved_status, unknown_status, beyond_status, accessed_required;
    pt_match empty;
    pt_level level[PT_MAX_LEVELS];
} pt_format;

/* What the parameters of one table add to its format. */
typedef struct {
    pt_match usual[PT_MAX_LEVELS];              /* a lawful item as a walk mostly meets it: pt_is_usual */
    pt_item zero[PT_MAX_LEVELS][PT_MAX_SHAPES]; /* must be zero */
    uint64_t keep;                              /* output bits that are part of the address */
    uint64_t encryption;                        /* those that mark a page instead */
    uint8_t check_input;                        /* whether an input address must obey the format's address rule */
    uint8_t tag_bits;                           /* top bits of an input address that are ignored */
} pt_rules;

/* What an access needs. */
typedef struct {
    uint64_t allowed;        /* bit n: allowed to pages with the rights n */
    uint16_t denied_keys[2]; /* by whether the page has the user right */
    uint8_t any;             /* whether there is anything to ask */
    uint8_t dirty;           /* the leaf must be marked dirty */
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
    uint8_t level, kind, shape;
} pt_step_read;

typedef struct {
    pt_step_read step[PT_MAX_LEVELS];
    uint8_t count;  /* items read */
    uint8_t status; /* how the walk ended */
    uint8_t level;  /* where it ended */
    uint64_t table; /* the table whose item could not be read, when status is PT_BUS */
} pt_path;
#endif

"""Structured arrays as streams of the Arrow C data interface, without Arrow.

The structs and the duties of `release` are those of the Arrow Columnar Format, "The Arrow C data interface"
and "The Arrow C stream interface"; the capsule's name is that of "The Arrow PyCapsule Interface".
"""

from cpython.object cimport PyObject
from cpython.pycapsule cimport PyCapsule_GetPointer, PyCapsule_New
from cpython.ref cimport Py_INCREF, Py_XDECREF
from libc.stdint cimport int64_t, uintptr_t
from libc.stdlib cimport calloc, free
from libc.string cimport memset

import numpy as np

cdef extern from "errno.h":
    enum: ENOMEM

cdef extern from *:
    """
    #ifndef ARROW_C_DATA_INTERFACE
    #define ARROW_C_DATA_INTERFACE
    #include <stdint.h>
    struct ArrowSchema {
        const char *format, *name, *metadata;
        int64_t flags, n_children;
        struct ArrowSchema **children, *dictionary;
        void (*release)(struct ArrowSchema *);
        void *private_data;
    };
    struct ArrowArray {
        int64_t length, null_count, offset, n_buffers, n_children;
        const void **buffers;
        struct ArrowArray **children, *dictionary;
        void (*release)(struct ArrowArray *);
        void *private_data;
    };
    #endif
    #ifndef ARROW_C_STREAM_INTERFACE
    #define ARROW_C_STREAM_INTERFACE
    struct ArrowArrayStream {
        int (*get_schema)(struct ArrowArrayStream *, struct ArrowSchema *out);
        int (*get_next)(struct ArrowArrayStream *, struct ArrowArray *out);
        const char *(*get_last_error)(struct ArrowArrayStream *);
        void (*release)(struct ArrowArrayStream *);
        void *private_data;
    };
    #endif
    """
    struct ArrowSchema:
        const char *format
        const char *name
        int64_t n_children
        ArrowSchema **children
        void (*release)(ArrowSchema *) noexcept
        void *private_data

    struct ArrowArray:
        int64_t length
        int64_t n_buffers
        int64_t n_children
        const void **buffers
        ArrowArray **children
        void (*release)(ArrowArray *) noexcept
        void *private_data

    struct ArrowArrayStream:
        int (*get_schema)(ArrowArrayStream *, ArrowSchema *) noexcept
        int (*get_next)(ArrowArrayStream *, ArrowArray *) noexcept
        const char *(*get_last_error)(ArrowArrayStream *) noexcept
        void (*release)(ArrowArrayStream *) noexcept
        void *private_data

BATCH_ROWS = 1 << 20
# "Data type description -- format strings".
cdef dict FORMATS = {
    "u1": b"C", "u2": b"S", "u4": b"I", "u8": b"L",
    "i1": b"c", "i2": b"s", "i4": b"i", "i8": b"l",
    "f4": b"f", "f8": b"g",
}  # fmt: skip
cdef bytes STRUCT = b"+s"


cdef class _Stream:
    """What a stream is made of: the rows, how far they were read, and the columns' names and formats."""

    cdef object rows
    cdef object at
    cdef list names
    cdef list formats


cdef bytes _format_of(dtype):
    found = FORMATS.get(dtype.str[1:]) if dtype.isnative else None
    if found is None:
        raise TypeError(f"no Arrow column is made of {dtype}: native integers and floats are")
    return found


cdef void *_owned(object thing) noexcept:
    """A reference that a release callback gives back."""
    Py_INCREF(thing)
    return <void *>thing


# -- schemas -------------------------------------------------------------------------------------


cdef void _release_schema(ArrowSchema *schema) noexcept with gil:
    cdef int64_t n
    for n in range(schema.n_children):
        if schema.children[n] != NULL:
            if schema.children[n].release != NULL:
                schema.children[n].release(schema.children[n])
            free(schema.children[n])
    free(schema.children)
    Py_XDECREF(<PyObject *>schema.private_data)
    schema.release = NULL


cdef void _fill_schema(ArrowSchema *schema, bytes format, bytes name) noexcept:
    cdef tuple texts = (format, name)
    schema.format = <const char *>format
    schema.name = <const char *>name
    schema.release = _release_schema
    schema.private_data = _owned(texts)


cdef int _get_schema(ArrowArrayStream *stream, ArrowSchema *out) noexcept with gil:
    cdef _Stream state = <_Stream>stream.private_data
    cdef size_t n, count = len(state.names)
    memset(out, 0, sizeof(ArrowSchema))
    if not count:
        _fill_schema(out, state.formats[0], b"")
        return 0
    out.children = <ArrowSchema **>calloc(count, sizeof(void *))
    if out.children == NULL:
        return ENOMEM
    _fill_schema(out, STRUCT, b"")
    for n in range(count):
        out.children[n] = <ArrowSchema *>calloc(1, sizeof(ArrowSchema))
        if out.children[n] == NULL:
            _release_schema(out)
            return ENOMEM
        out.n_children = n + 1
        _fill_schema(out.children[n], state.formats[n], state.names[n])
    return 0


# -- arrays --------------------------------------------------------------------------------------


cdef void _release_array(ArrowArray *array) noexcept with gil:
    cdef int64_t n
    for n in range(array.n_children):
        if array.children[n] != NULL:
            if array.children[n].release != NULL:
                array.children[n].release(array.children[n])
            free(array.children[n])
    free(array.children)
    free(array.buffers)
    Py_XDECREF(<PyObject *>array.private_data)
    array.release = NULL


cdef int _fill_array(ArrowArray *array, object column) noexcept:
    """Fill in an array of one column (without nulls, so without a validity buffer), or of none yet."""
    cdef uintptr_t address = 0 if column is None else column.ctypes.data
    array.n_buffers = 1 if column is None else 2
    array.buffers = <const void **>calloc(2, sizeof(void *))
    if array.buffers == NULL:
        return ENOMEM
    array.buffers[1] = <const void *>address
    array.release = _release_array
    array.private_data = _owned(column)
    return 0


cdef int _get_next(ArrowArrayStream *stream, ArrowArray *out) noexcept with gil:
    cdef _Stream state = <_Stream>stream.private_data
    cdef object rows = state.rows[state.at : state.at + BATCH_ROWS]
    cdef size_t n, count = len(state.names)
    memset(out, 0, sizeof(ArrowArray))
    if not len(rows):
        return 0  # an array without `release` ends the stream
    state.at += len(rows)
    if not count:
        out.length = len(rows)
        return _fill_array(out, np.ascontiguousarray(rows))
    if _fill_array(out, None):
        return ENOMEM
    out.length = len(rows)
    out.children = <ArrowArray **>calloc(count, sizeof(void *))
    if out.children == NULL:
        _release_array(out)
        return ENOMEM
    for n in range(count):
        out.children[n] = <ArrowArray *>calloc(1, sizeof(ArrowArray))
        if out.children[n] == NULL:
            _release_array(out)
            return ENOMEM
        out.n_children = n + 1
        if _fill_array(out.children[n], np.ascontiguousarray(rows[state.names[n].decode()])):
            _release_array(out)
            return ENOMEM
        out.children[n].length = out.length
    return 0


# -- streams -------------------------------------------------------------------------------------


cdef const char *_get_last_error(ArrowArrayStream *stream) noexcept:
    return NULL  # the only error is ENOMEM, which says it


cdef void _release_stream(ArrowArrayStream *stream) noexcept with gil:
    Py_XDECREF(<PyObject *>stream.private_data)
    stream.release = NULL


cdef void _drop_capsule(object capsule) noexcept:
    cdef ArrowArrayStream *stream = <ArrowArrayStream *>PyCapsule_GetPointer(
        capsule, b"arrow_array_stream"
    )
    if stream.release != NULL:
        stream.release(stream)
    free(stream)


def stream_of(rows):
    array = np.asarray(rows)
    if array.ndim != 1:
        raise TypeError(f"an Arrow stream is made of an array of one dimension, not {array.ndim}")
    cdef _Stream state = _Stream()
    names = list(array.dtype.names or ())
    state.rows = array
    state.at = 0
    state.names = [name.encode() for name in names]
    state.formats = [_format_of(array.dtype[name]) for name in names] or [_format_of(array.dtype)]
    cdef ArrowArrayStream *stream = <ArrowArrayStream *>calloc(1, sizeof(ArrowArrayStream))
    if stream == NULL:
        raise MemoryError()
    stream.get_schema = _get_schema
    stream.get_next = _get_next
    stream.get_last_error = _get_last_error
    stream.release = _release_stream
    stream.private_data = _owned(state)
    return PyCapsule_New(stream, b"arrow_array_stream", _drop_capsule)

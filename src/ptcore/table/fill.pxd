from ptcore.table.abi cimport pt_format


cdef int fill_format(pt_format *out, dict source) except -1

"""Memory of others, pinned while it is in use without the GIL."""

from libc.stdint cimport uint64_t

cdef struct Span:
    char* origin
    uint64_t nbytes

cdef class Loan:
    cdef Span* spans            # one for each thing
    cdef Py_ssize_t count
    cdef Py_buffer* views
    cdef Py_ssize_t num_views
    cdef list things
    cdef int pin(self, Py_ssize_t i, object thing, bint writable) except -1
    cdef bint is_still(self) noexcept

"""The bytes of a slot in blocks."""

from libc.stdint cimport uint8_t, uint64_t

from taskgraph._native.deltahead cimport Run
from taskgraph._native.loan cimport Loan, Span

cdef struct Stream:             # of frames, read once
    Span* spans
    Py_ssize_t left
    uint64_t at
    char* scratch               # for a block that lies in several


cdef class Blocks:
    cdef Loan loan
    cdef char* memory
    cdef readonly uint64_t block
    cdef Py_ssize_t parts
    cdef uint64_t* rooms        # one allocation for the next four
    cdef uint64_t* starts
    cdef uint64_t* firsts       # number of a part's first block; one more at the end
    cdef uint64_t* lengths
    cdef uint64_t* hashes       # in shared memory
    cdef uint64_t* versions
    cdef uint8_t* changed       # by the write before
    cdef bint stream

    cdef int take_in(self, Loan loan, Blocks base, uint64_t version) except -1
    cdef bint take_runs(self, Blocks base, const Run* runs, uint64_t count, Span* frames, Py_ssize_t left,
                        uint64_t version) except -1
    cpdef list changes(self)
    cpdef tuple place(self, tuple run)
    cpdef uint64_t checksum(self, uint64_t form) noexcept

    cdef int set_lengths(self, lengths) except -1
    cdef int set_length(self, Py_ssize_t part, uint64_t nbytes) except -1
    cdef int check_base(self, Blocks base) except -1
    cdef void write_part(self, Py_ssize_t part, char* source, Blocks base, uint64_t version) noexcept nogil
    cdef bint in_base(self, Blocks base, Py_ssize_t part, uint64_t i, uint64_t nbytes) noexcept nogil
    cdef void keep(self, Blocks base, Py_ssize_t part, uint64_t i, uint64_t nbytes, uint64_t version) noexcept nogil
    cdef bint mark(self, uint64_t part, uint64_t first, uint64_t count, uint64_t* reached) noexcept
    cdef bint take_marked(self, Blocks base, Span* frames, Py_ssize_t left, uint64_t version) except -1
    cdef bint apply_part(self, Py_ssize_t part, Stream* stream, Blocks base, uint64_t version) noexcept nogil
    cdef void read_part(self, Py_ssize_t part, char* target, uint64_t* hashes) noexcept nogil

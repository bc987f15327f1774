"""What one rank has heard of commits."""

from libc.stdint cimport int64_t, uint64_t

from taskgraph._native.loan cimport Loan

cdef enum:
    FIELDS = 7

cdef struct Record:
    int64_t fields[FIELDS]
    uint64_t check

cdef class CommitLine:
    cdef Loan loan
    cdef Record* records        # two of them
    cdef int turn
    cdef Record last

    cpdef void heard(self, int64_t generation, int64_t safe, int64_t delivered, int64_t end_at, int64_t end) except *
    cdef void write(self) noexcept

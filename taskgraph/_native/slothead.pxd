"""The head of a slot's file."""

from libc.stdint cimport int64_t, uint32_t, uint64_t

from taskgraph._native.loan cimport Loan

cdef class SlotHead:
    cdef Loan loan
    cdef uint32_t block, parts, history_room

    cpdef void write(self, uint64_t cycle, bytes run, int64_t task, int64_t boundary, uint64_t generation, int64_t note,
                     uint64_t form, uint64_t checksum, uint32_t pairs, bytes rest) except *

"""Snapshots of a task whose state is arrays that stay the same."""

from libc.stdint cimport int64_t, uint32_t, uint64_t

from taskgraph._native.blocks cimport Blocks
from taskgraph._native.loan cimport Loan
from taskgraph._native.slothead cimport SlotHead
from taskgraph._native.slots cimport SlotTable

cdef class OwnSlot:
    """A slot of ours, and what was written there last; version 0: nothing."""
    cdef int index
    cdef uint64_t cycle, version, checksum
    cdef int64_t boundary, note
    cdef Blocks blocks
    cdef SlotHead head

cdef class SlotWriter:
    cdef SlotTable table
    cdef int64_t task
    cdef uint64_t form
    cdef int room
    cdef bytes run
    cdef readonly int64_t generation    # of what is repeated; -1: nothing is
    cdef Loan state
    cdef bytes rest
    cdef uint32_t pairs
    cdef list slots
    cdef OwnSlot newest
    cdef public uint64_t version

    cpdef bint write(self, int64_t boundary, int64_t generation, int64_t note) except -1

"""Snapshots of a task whose state is arrays that stay the same."""

from libc.stdint cimport int64_t, uint32_t, uint64_t

from taskgraph._native.blocks cimport Blocks
from taskgraph._native.deltahead cimport Fields
from taskgraph._native.loan cimport Loan
from taskgraph._native.slothead cimport SlotHead
from taskgraph._native.slots cimport SlotTable

cdef class OwnSlot:
    """A slot of ours, and what was written there last; version 0: nothing."""
    cdef int index
    cdef uint64_t cycle, version, checksum
    cdef int64_t boundary, note, begun  # the cycle that was begun last
    cdef Blocks blocks
    cdef SlotHead head
    cdef object memory                  # of the whole slot, to lend parts of

cdef class SlotWriter:
    cdef SlotTable table
    cdef readonly int64_t task
    cdef uint64_t form
    cdef int room
    cdef bytes run
    cdef readonly int64_t generation    # of what is repeated; -1: nothing is
    cdef Loan state                     # None: it comes from another host
    cdef bytes rest
    cdef uint32_t pairs
    cdef list slots
    cdef OwnSlot newest
    cdef OwnSlot base                   # what the newest was compared with; None: something unknown
    cdef public uint64_t version

    cpdef bint write(self, int64_t boundary, int64_t generation, int64_t note) except -1
    cdef bint follows(self, const Fields* head, int64_t generation) noexcept
    cdef bint take(self, const Fields* head, Loan message, int64_t generation) except -1
    cpdef list change(self, bytes lead)
    cdef OwnSlot begin(self, int64_t boundary, int64_t generation)
    cdef bint complete(self, OwnSlot own, int64_t boundary, int64_t note) except -1

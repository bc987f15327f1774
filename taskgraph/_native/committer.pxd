"""The end of an epoch while nothing else happens."""

from libc.stdint cimport int64_t, uint64_t

from taskgraph._native.channel cimport Pump
from taskgraph._native.commitline cimport CommitLine
from taskgraph._native.slots cimport SlotTable
from taskgraph._native.steady cimport Steady, Step

cdef enum Done:
    _NOT_DONE = -1
    _LEFT = 0
    _COMMITTED = 1

cdef struct Known:              # as `taskgraph.plan.holdings` has it
    int64_t generation
    int64_t safe
    int64_t delivered
    int64_t end_at
    int64_t end

cdef class Committer:
    cdef Pump transport
    cdef SlotTable table
    cdef CommitLine line
    cdef object queue
    cdef int note_bits
    cdef Steady steady          # None: nothing is done here
    cdef list writers
    cdef object copy
    cdef dict keepers           # task -> SlotWriter
    cdef int64_t generation
    cdef int64_t copied         # the newest boundary whose snapshots all backups were sent; -1: that is not known

    cpdef void end(self) noexcept
    cdef Done try_to_commit(self, bint idle) except? _NOT_DONE
    cdef bint hear(self, int source, uint64_t topic, bytes data) except -1
    cdef int send_copies(self, int64_t boundary) except -1
    cdef int admit(self) except -1
    cdef bint store(self, int source, list frames) except -1
    cdef int say(self, Step step) except -1
    cdef int record(self) except -1

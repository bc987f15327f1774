"""One epoch after the other while nothing else happens."""

from libc.stdint cimport int64_t, uint64_t

cdef enum:          # `taskgraph.plan.messages.Topic`
    CONTRIBUTION = 1
    VERDICT = 2

cdef enum Step:
    ANOTHERS = -1       # the event is not for this: the member has to answer
    NOTED = 0
    UP = 1              # `message` goes to the rank above
    COMMIT = 2          # the epoch is finished everywhere: `message` goes to those below

cdef struct Said:       # by a child
    int rank
    bint here           # of the epoch that is run or finished now
    bint idle
    int64_t safe
    int64_t delivered

cdef class Steady:
    cdef int64_t epochs, every, saved, below_safe, below_delivered
    cdef bint has_tasks, is_over
    cdef int parent, count, missing
    cdef Said* children
    cdef readonly int64_t committed, safe, delivered
    cdef readonly bint waits, idle
    cdef readonly bytes message

    cdef bint may_finish(self, bint idle) noexcept
    cdef bint is_due(self) noexcept
    cdef bint may_complete(self, bint idle, int64_t saved) noexcept
    cdef bint keeps_one(self, int64_t safe, int64_t saved) noexcept
    cdef void reduce(self, bint* idle, int64_t saved, int64_t* safe, int64_t* delivered) noexcept
    cdef Step finish(self, bint idle) except *
    cdef Step hear(self, int source, uint64_t topic, bytes data) except *
    cdef Step hear_verdict(self, const char* message, bytes data) except *
    cdef Step hear_contribution(self, int source, const char* message) except *
    cdef Step complete(self) except *
    cdef Step commit(self, bytes verdict, int64_t safe, int64_t delivered) except *

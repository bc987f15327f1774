"""One epoch after the other while nothing else happens."""

from libc.stdint cimport int64_t, uint64_t

cdef enum:          # `taskgraph.plan.messages.Topic`
    CONTRIBUTION = 1
    VERDICT = 2
    ACK = 8

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

cdef struct Backup:     # that gets copies of the snapshots of a task
    int64_t task
    int rank
    int64_t acked       # the newest boundary that it has said it has
    int64_t acked_then  # the same, when this rank finished its epoch

cdef packed struct Copy:        # an acknowledgement, as `taskgraph.plan.messages` has it
    int64_t task
    int64_t boundary

cdef class Steady:
    cdef int64_t epochs, every, saved, below_safe, below_delivered
    cdef bint has_tasks
    cdef int parent, count, missing, copies
    cdef Said* children
    cdef Backup* backups
    cdef readonly bint is_over
    cdef readonly int64_t committed, safe, delivered
    cdef readonly bint waits, idle
    cdef readonly bytes message

    cdef bint may_finish(self, bint idle) noexcept
    cdef bint is_due(self) noexcept
    cdef bint may_complete(self, bint idle, int64_t saved) noexcept
    cdef bint leaves_room(self, int64_t safe) noexcept
    cdef int64_t own_safe(self, int64_t saved) noexcept
    cdef void reduce(self, bint* idle, int64_t saved, int64_t* safe, int64_t* delivered) noexcept
    cdef Step finish(self, bint idle) except *
    cdef Step hear(self, int source, uint64_t topic, bytes data) except *
    cdef Step hear_ack(self, int source, const char* message) noexcept
    cdef Step hear_verdict(self, const char* message, bytes data) except *
    cdef Step hear_contribution(self, int source, const char* message) except *
    cdef Step complete(self) except *
    cdef Step commit(self, bytes verdict, int64_t safe, int64_t delivered) except *

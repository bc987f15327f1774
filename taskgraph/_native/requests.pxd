"""What MPI is at work on for one rank: the sends that are not complete, and the receives that are open."""

from cpython.ref cimport PyObject
from libc.stdint cimport uint32_t, uint64_t

from taskgraph._native.mpih cimport MPI_Request

cdef class Arriving:
    """A large message whose payload is on its way into its memory."""
    cdef uint64_t channel
    cdef uint64_t epoch
    cdef uint32_t generation
    cdef int kind
    cdef int source
    cdef int parts              # receives still open
    cdef object memory          # the array, or a list of frames

cdef struct Sending:            # beside requests[i]
    PyObject* owner             # of the memory; NULL for an eager buffer
    char* buffer
    int peer
    bint awaited                # by the end of the epoch: not once its generation is over

cdef enum:
    SPARE = 64                  # eager buffers that are kept for later
    MANY = 64                   # sends to look after before there is nothing else to do

cdef class Sends:
    cdef MPI_Request* requests
    cdef Sending* entries
    cdef int count, room
    cdef int awaited            # number of entries that are
    cdef int owned              # number of entries with an owner
    cdef int too_many           # so many entries are, since those that the last look left may stay for ever
    cdef char* spare[SPARE]
    cdef int spares
    cdef char* eager_buffer(self) except NULL
    cdef int add(self, MPI_Request request, int peer, object owner, char* buffer, bint awaited) except -1
    cdef void remove(self, int i) noexcept
    cdef int reap(self) except -1
    cdef void await_none(self) noexcept

cdef struct Receiving:          # beside requests[i]
    int peer
    int nbytes                  # that it is open for
    char* buffer                # of an eager receive; NULL for a payload
    PyObject* arriving          # of a payload; else NULL

cdef class Receives:
    cdef MPI_Request* requests
    cdef Receiving* entries
    cdef int count, room
    cdef int payloads           # number of entries that are of one
    cdef int add(self, MPI_Request request, int peer, int nbytes, char* buffer, Arriving arriving) except -1
    cdef void remove(self, int i) noexcept
    cdef void withdraw(self) noexcept

"""The sending half of the wire."""

from libc.stdint cimport uint32_t, uint64_t
from numpy cimport ndarray

from taskgraph._native.channel cimport Epoch, Port, Pump
from taskgraph._native.message cimport Header, Kind
from taskgraph._native.mpih cimport MPI_Comm
from taskgraph._native.requests cimport Sends

cdef enum:
    MESSAGE = 0                 # tags
    PAYLOAD = 1

cdef class Peer(Port):
    """The way to one rank."""
    cdef Sender sender
    cdef readonly int rank

cdef class Sender(Pump):
    cdef MPI_Comm comm
    cdef Epoch epoch
    cdef object codec
    cdef readonly uint32_t generation
    cdef bint shares            # its core with other ranks
    cdef Sends sends
    cdef char* scratch          # the message that is being made
    cdef set gone               # ranks that MPI knows to have died
    cdef list protected         # arrays that are never borrowed
    cdef list borrowed          # arrays that are read-only until the epoch ends
    cdef Header* lead(self, uint64_t channel, uint64_t epoch) noexcept
    cdef int send_array(self, int peer, uint64_t channel, uint64_t epoch, ndarray array, bint copy) except -1
    cdef ndarray hold(self, ndarray array, bint copy)
    cdef int send_frames(self, int peer, Kind kind, uint64_t channel, uint64_t epoch, list frames) except -1
    cdef int send_scratch(self, int peer, size_t nbytes) except -1
    cdef int send_payload(self, int peer, char* memory, size_t nbytes, object owner, bint awaited) except -1
    cdef int give_back(self) except -1
    cdef int lose(self, int peer) except -1
    cdef int demand(self, int code, int peer) except -1

cdef size_t piece_bytes(size_t nbytes) noexcept nogil
cdef str error_text(int code)

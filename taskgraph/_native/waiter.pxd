"""The one wait of a rank."""

from libc.stdint cimport int64_t

from taskgraph._native.mpih cimport MPI_Status
from taskgraph._native.requests cimport Receives
from taskgraph._native.sender cimport Sender

cdef class Waiter(Sender):
    cdef int64_t[::1] word_view
    cdef volatile int64_t* word
    cdef public object on_idle
    cdef int64_t spin_ns, doze_ns, idle_ns
    cdef int64_t looked         # when, last
    cdef Receives receives
    cdef int closed             # place of the receive to be opened again before the next look; -1: none
    cdef inline bint is_over(self) noexcept nogil:
        return self.word[0] < 0 or self.word[0] > <int64_t>self.generation
    cdef int take_any(self) except -1
    cdef int look(self, int* index, MPI_Status* status) noexcept nogil
    cdef int open_again(self) except -1
    cdef int step(self, bint sends, int64_t start) except -1
    cdef int wait(self, bint sends, int64_t start, int64_t idle_ns, int* index, MPI_Status* status,
                  int* code) noexcept nogil
    cdef int take(self, int i, MPI_Status* status) except -1
    cdef int failed(self, int code, int index) except -1

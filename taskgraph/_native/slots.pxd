"""The states of a host's slots, and its floor."""

from libc.stdint cimport int64_t, uint64_t

cdef enum:      # why something was not done
    _FENCED = -1
    _GONE = -2
    _HELD = -3
    _FULL = -4

cdef class SlotTable:
    cdef Py_buffer view
    cdef bint exported
    cdef uint64_t* words
    cdef readonly int capacity

    cdef uint64_t used(self) noexcept nogil
    cdef uint64_t* line(self, uint64_t index) noexcept nogil
    cdef uint64_t* at(self, int index) except NULL
    cdef bint seize(self, int index, uint64_t now, int64_t task, uint64_t owner) noexcept
    cdef bint move(self, int index, uint64_t cycle, uint64_t before, uint64_t after) noexcept nogil
    cdef uint64_t stamp_check(self, uint64_t* word, uint64_t cycle) noexcept nogil

    cpdef bint admits(self, uint64_t generation) noexcept
    cpdef int free_below(self, int64_t boundary, uint64_t generation, int64_t task=*) noexcept
    cpdef int64_t begin(self, int index, uint64_t generation) except? -9
    cpdef int complete(self, int index, uint64_t cycle, uint64_t generation, int64_t boundary,
                       uint64_t wrote) except? -9
    cpdef void cancel(self, int index, uint64_t cycle) except *
    cpdef bint is_whole(self, int index, uint64_t cycle) except -1
    cpdef int refuses(self, int64_t task, int64_t boundary, uint64_t wrote, int room, uint64_t generation) noexcept
    cpdef bint is_free(self, int index) except -1

"""What MPI is at work on for one rank: the sends that are not complete, and the receives that are open.

Requests lie side by side, as MPI wants them; what belongs to each lies at the same place of a second array. What is
removed is replaced by the last, so a place is good only until then. Memory that MPI may still write to is left to the
end of the process.
"""

from cpython.ref cimport PyObject, Py_DECREF, Py_INCREF
from libc.stdlib cimport free, malloc, realloc

from taskgraph._native.message cimport EAGER_BYTES
from taskgraph._native.mpih cimport (
    MPI_STATUS_IGNORE, MPI_SUCCESS, MPI_UNDEFINED, MPI_Cancel, MPI_Request, MPI_Testany, MPI_Wait, tg_is_null,
)


cdef class Arriving:
    pass


cdef class Sends:

    def __cinit__(self):
        self.too_many = MANY

    def __dealloc__(self):
        cdef int i
        for i in range(self.spares):
            free(self.spare[i])
        free(self.requests)
        free(self.entries)

    cdef char* eager_buffer(self) except NULL:
        """Return a buffer of `EAGER_BYTES`."""
        cdef char* buffer
        if self.spares:
            self.spares -= 1
            return self.spare[self.spares]
        buffer = <char*>malloc(EAGER_BYTES)
        if buffer == NULL:
            raise MemoryError
        return buffer

    cdef int add(self, MPI_Request request, int peer, object owner, char* buffer, bint awaited) except -1:
        """Keep what a send needs until it is complete: `owner` and an eager `buffer`, unless None and NULL."""
        cdef int i = self.count, room
        if i == self.room:
            room = max(16, 2 * self.room)
            self.requests = <MPI_Request*>grown(self.requests, room * sizeof(MPI_Request))
            self.entries = <Sending*>grown(self.entries, room * sizeof(Sending))
            self.room = room
        self.requests[i] = request
        self.entries[i].buffer = buffer
        self.entries[i].peer = peer
        self.entries[i].owner = NULL
        self.entries[i].awaited = awaited
        if owner is not None:
            Py_INCREF(owner)
            self.entries[i].owner = <PyObject*>owner
            self.owned += 1
        self.awaited += awaited
        self.count += 1
        return 0

    cdef void remove(self, int i) noexcept:
        """Let go of what a completed send held."""
        cdef PyObject* owner = self.entries[i].owner
        cdef char* buffer = self.entries[i].buffer
        if buffer != NULL and self.spares < SPARE:
            self.spare[self.spares] = buffer
            self.spares += 1
        else:
            free(buffer)
        self.awaited -= self.entries[i].awaited
        self.owned -= owner != NULL
        self.count -= 1
        self.entries[i] = self.entries[self.count]
        self.requests[i] = self.requests[self.count]
        if owner != NULL:
            Py_DECREF(<object>owner)

    cdef int reap(self) except -1:
        """Remove those that are complete."""
        cdef int i = MPI_UNDEFINED, done = 0, code
        while self.count:
            code = MPI_Testany(self.count, self.requests, &i, &done, MPI_STATUS_IGNORE)
            # One that failed went to a rank that died: it is over as well.
            if not 0 <= i < self.count or (code == MPI_SUCCESS and not done):
                break
            self.remove(i)
        self.too_many = self.count + MANY
        return 0

    cdef void await_none(self) noexcept:
        """Their generation is over: the end of no epoch waits for those that are there."""
        cdef int i
        for i in range(self.count):
            self.entries[i].awaited = False
        self.awaited = 0


cdef class Receives:

    def __dealloc__(self):
        free(self.requests)
        free(self.entries)

    cdef int add(self, MPI_Request request, int peer, int nbytes, char* buffer, Arriving arriving) except -1:
        """Keep what a receive writes to until it is complete: `buffer`, or what is arriving."""
        cdef int i = self.count, room
        if i == self.room:
            room = max(16, 2 * self.room)
            self.requests = <MPI_Request*>grown(self.requests, room * sizeof(MPI_Request))
            self.entries = <Receiving*>grown(self.entries, room * sizeof(Receiving))
            self.room = room
        self.requests[i] = request
        self.entries[i].peer = peer
        self.entries[i].nbytes = nbytes
        self.entries[i].buffer = buffer
        self.entries[i].arriving = NULL
        if arriving is not None:
            Py_INCREF(arriving)
            arriving.parts += 1
            self.payloads += 1
            self.entries[i].arriving = <PyObject*>arriving
        self.count += 1
        return 0

    cdef void remove(self, int i) noexcept:
        """Forget a receive. What it wrote to is the caller's."""
        self.payloads -= self.entries[i].arriving != NULL
        self.count -= 1
        self.requests[i] = self.requests[self.count]
        self.entries[i] = self.entries[self.count]

    cdef void withdraw(self) noexcept:
        """Cancel every receive, and let go of what it would have written to."""
        cdef int i
        for i in range(self.count):
            if not tg_is_null(self.requests[i]):
                with nogil:
                    MPI_Cancel(&self.requests[i])
                    MPI_Wait(&self.requests[i], MPI_STATUS_IGNORE)
            free(self.entries[i].buffer)
            if self.entries[i].arriving != NULL:
                Py_DECREF(<object>self.entries[i].arriving)
        self.count = self.payloads = 0


cdef void* grown(void* memory, size_t nbytes) except NULL:
    cdef void* larger = realloc(memory, nbytes)
    if larger == NULL:
        raise MemoryError
    return larger

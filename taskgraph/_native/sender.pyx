"""The sending half of the wire: one eager message for what is small, the memory of arrays themselves for the rest.

Each message is one eager send of header and payload, or, above `EAGER_BYTES`, a header followed by the payload. A
payload of up to `PIECEWISE_BYTES` goes in eager pieces: above 4016 bytes Open MPI begins with a handshake, which takes
2 us, a piece 0.6.

Rule 1: a buffer stays alive until its request is complete: `Sends` holds it.
Rule 2: a send to a rank that died may never complete. Nothing waits for one of an older generation.
Rule 3: where ranks share cores, a send is not asked whether it is complete before there is nothing else to do, or there
are many: if it is not, Open MPI gives the core to another rank, which costs up to a millisecond.
"""

from libc.stdint cimport uint64_t, uintptr_t
from libc.stdlib cimport free
from libc.string cimport memcpy
cimport numpy as cnp
from numpy cimport ndarray

from taskgraph._native.channel cimport Epoch
from taskgraph._native.message cimport (
    CONTROL, COPY, EAGER_BYTES, INLINE, MAX_FRAMES, MORE, NAMED_DTYPE, OBJECT, PIECEWISE_BYTES,
    Header, Kind, copied, describe, head_bytes, is_plain, lead_bytes,
)
from taskgraph._native.mpih cimport (
    MPI_BYTE, MPI_STATUS_IGNORE, MPI_SUCCESS, TG_PROC_FAILED,
    MPI_Comm, MPI_Error_class, MPI_Error_string, MPI_Isend, MPI_Request, MPI_Test,
)
from taskgraph._native.requests cimport Sends

from taskgraph.errors import TaskgraphError

cnp.import_array()

cdef enum:
    CHUNK = 1 << 30         # bytes of one payload message: an MPI count is an int
    AT_ONCE = 256           # bytes of the longest message whose send Open MPI completes in MPI_Isend itself


cdef class Peer(Port):
    cpdef int send(self, uint64_t channel, uint64_t epoch, object value, bint copy) except -1:
        if type(value) is ndarray and is_plain(<ndarray>value):
            return self.sender.send_array(self.rank, channel, epoch, <ndarray>value, copy)
        return self.sender.send_frames(self.rank, OBJECT, channel, epoch, self.sender.codec.encode(value))


cdef class Sender(Pump):
    """What this rank sends.

    Parameters
    ----------
    comm : int
        Address of an `MPI_Comm` of our own whose error handler is `MPI_ERRORS_RETURN`.
    epoch : Epoch
        Whose hook is told what happens in the middle of a message.
    codec
        `encode(value) -> list of buffers`, `dump_dtype`.
    """

    def __cinit__(self):
        self.sends = Sends()
        self.scratch = self.sends.eager_buffer()

    def __init__(self, uintptr_t comm, Epoch epoch not None, codec):
        self.comm = (<MPI_Comm*>comm)[0]
        self.epoch = epoch
        self.codec = codec
        self.gone = set()
        self.protected = []
        self.borrowed = []

    def __dealloc__(self):
        free(self.scratch)

    def protect(self, ndarray array not None):
        """Copy, instead of borrowing, what lies in the memory of this array. Keeps the array."""
        self.protected.append(array)

    cpdef int send_control(self, int peer, uint64_t topic, uint64_t epoch, bytes data) except -1:
        """Send bytes to the worker on another rank. They are copied, and arrive in the order of the calls.

        That is why long ones travel in several eager messages: a payload may come in after the next message.
        """
        cdef Header* header
        cdef const char* memory = data
        cdef size_t at = 0, size = len(data), room = EAGER_BYTES - sizeof(Header) - 8, part = min(size, room)
        while True:
            header = self.lead(topic, epoch)
            header.kind = CONTROL
            header.dtype = header.ndim = 0
            header.meta = 0
            header.frames = 1
            header.nbytes = part
            header.flags = INLINE | MORE if at + part < size else INLINE
            (<uint64_t*>(header + 1))[0] = part
            memcpy(self.scratch + lead_bytes(header), memory + at, part)
            self.send_scratch(peer, lead_bytes(header) + part)
            at += part
            if at == size:
                return 0
            part = min(size - at, room)

    cpdef int send_copy(self, int peer, list frames) except -1:
        return self.send_frames(peer, COPY, 0, 0, frames)

    cdef Header* lead(self, uint64_t channel, uint64_t epoch) noexcept:
        cdef Header* header = <Header*>self.scratch
        header.channel = channel
        header.epoch = epoch
        header.generation = self.generation
        return header

    cdef int send_array(self, int peer, uint64_t channel, uint64_t epoch, ndarray array, bint copy) except -1:
        cdef Header* header
        cdef bytes dtype
        cdef size_t lead, head
        cdef bint ours = False
        if not (cnp.PyArray_IS_C_CONTIGUOUS(array) or cnp.PyArray_IS_F_CONTIGUOUS(array)):
            array = copied(array)
            ours = True
        header = self.lead(channel, epoch)
        describe(array, header)
        lead = lead_bytes(header)
        memcpy(header + 1, cnp.PyArray_DIMS(array), 8 * header.ndim)
        if header.flags & NAMED_DTYPE:
            dtype = self.codec.dump_dtype(<object>cnp.PyArray_DESCR(array))
            if lead + <size_t>len(dtype) > EAGER_BYTES:
                return self.send_frames(peer, OBJECT, channel, epoch, self.codec.encode(array))
            header.meta = <uint32_t>len(dtype)
            memcpy(self.scratch + lead, <const char*>dtype, header.meta)
            lead += header.meta
        if lead + header.nbytes <= EAGER_BYTES:
            header.flags |= INLINE
            memcpy(self.scratch + lead, cnp.PyArray_DATA(array), header.nbytes)
            return self.send_scratch(peer, lead + header.nbytes)
        given = array
        if not ours:
            array = self.hold(array, copy)
        head = head_bytes(header)
        memcpy(self.scratch + lead, cnp.PyArray_DATA(array), head)
        self.send_scratch(peer, lead + head)
        if self.epoch.hook is not None:
            self.epoch.hook("send.middle", None)
        return self.send_payload(peer, <char*>cnp.PyArray_DATA(array) + head, cnp.PyArray_NBYTES(array) - head, array,
                                 not ours and array is given)

    cdef ndarray hold(self, ndarray array, bint copy):
        """Return the array read-only until the epoch ends, or a copy of it where it must stay writable."""
        cdef ndarray protected
        if not copy:
            for protected in self.protected:
                copy = copy or overlap(array, protected)
        if copy:
            return copied(array)
        if cnp.PyArray_ISWRITEABLE(array):
            cnp.PyArray_CLEARFLAGS(array, cnp.NPY_ARRAY_WRITEABLE)
            self.borrowed.append(array)
        return array

    cdef int send_frames(self, int peer, Kind kind, uint64_t channel, uint64_t epoch, list frames) except -1:
        """Send frames, which must not change until sent."""
        cdef Header* header = self.lead(channel, epoch)
        cdef uint64_t* sizes = <uint64_t*>(header + 1)
        cdef const unsigned char[::1] frame
        cdef size_t at
        cdef int i, count = <int>len(frames)
        if count > MAX_FRAMES:
            raise ValueError(f"{count} frames are more than {MAX_FRAMES}")
        header.kind = kind
        header.dtype = header.ndim = header.flags = 0
        header.meta = 0
        header.frames = count
        header.nbytes = 0
        for i in range(count):
            sizes[i] = len(frames[i])
            header.nbytes += sizes[i]
        at = lead_bytes(header)
        if at + header.nbytes <= EAGER_BYTES:
            header.flags = INLINE
            for i in range(count):
                frame = frames[i]
                if frame.shape[0]:
                    memcpy(self.scratch + at, &frame[0], frame.shape[0])
                    at += frame.shape[0]
            return self.send_scratch(peer, at)
        self.send_scratch(peer, at)
        if self.epoch.hook is not None:
            self.epoch.hook("replicate.middle" if kind == COPY else "send.middle", None)
        for i in range(count):
            frame = frames[i]
            if frame.shape[0]:
                self.send_payload(peer, <char*>&frame[0], frame.shape[0], frames[i], False)
        return 0

    cdef int send_scratch(self, int peer, size_t nbytes) except -1:
        """Send the scratch buffer. Where MPI still needs it, it goes with the request and a new one is made."""
        cdef MPI_Request request
        cdef int done = 0
        if peer in self.gone:
            return 0
        if not self.demand(MPI_Isend(self.scratch, <int>nbytes, MPI_BYTE, peer, MESSAGE, self.comm, &request), peer):
            return 0
        if nbytes <= AT_ONCE or not self.shares:
            if not self.demand(MPI_Test(&request, &done, MPI_STATUS_IGNORE), peer):
                return 0
        if not done:
            self.sends.add(request, peer, None, self.scratch, False)
            self.scratch = self.sends.eager_buffer()
            if self.sends.count >= self.sends.too_many:
                self.sends.reap()
        return 0

    cdef int send_payload(self, int peer, char* memory, size_t nbytes, object owner, bint awaited) except -1:
        cdef MPI_Request request
        cdef size_t at = 0, most = piece_bytes(nbytes)
        cdef int part, done = 0
        while at < nbytes and peer not in self.gone:
            part = <int>min(most, nbytes - at)
            if not self.demand(MPI_Isend(memory + at, part, MPI_BYTE, peer, PAYLOAD, self.comm, &request), peer):
                return 0
            if part <= EAGER_BYTES and not self.shares:
                if not self.demand(MPI_Test(&request, &done, MPI_STATUS_IGNORE), peer):
                    return 0
            if not done:
                self.sends.add(request, peer, owner, NULL, awaited)
            at += part
        return 0

    cdef int give_back(self) except -1:
        """Make what was borrowed writable again."""
        cdef ndarray array
        for array in self.borrowed:
            cnp.PyArray_ENABLEFLAGS(array, cnp.NPY_ARRAY_WRITEABLE)
        self.borrowed.clear()
        return 0

    cdef int lose(self, int peer) except -1:
        """A peer has died."""
        raise NotImplementedError

    cdef int demand(self, int code, int peer) except -1:
        """Return 1 where a call of MPI succeeded, 0 where the peer has died; raise for any other error."""
        cdef int error_class = 0
        if code == MPI_SUCCESS:
            return 1
        MPI_Error_class(code, &error_class)
        if error_class != TG_PROC_FAILED:
            raise TaskgraphError(f"MPI: {error_text(code)} (rank {peer})")
        self.lose(peer)
        return 0


cdef size_t piece_bytes(size_t nbytes) noexcept nogil:
    """Return the most that one message carries of the rest of a payload, which has so many bytes."""
    return EAGER_BYTES if nbytes <= PIECEWISE_BYTES else CHUNK


cdef bint overlap(ndarray a, ndarray b) noexcept:
    cdef uintptr_t start_a = <uintptr_t>cnp.PyArray_DATA(a), start_b = <uintptr_t>cnp.PyArray_DATA(b)
    return start_a < start_b + cnp.PyArray_NBYTES(b) and start_b < start_a + cnp.PyArray_NBYTES(a)


cdef str error_text(int code):
    cdef char[1024] text
    cdef int length = 0
    MPI_Error_string(code, text, &length)
    return text[:length].decode(errors="replace")

"""Bytes over MPI: eager messages, large payloads, and one wait that a word in shared memory ends.

Each message is one eager send of header and payload, or, above `EAGER_BYTES`, a header followed by the payload from
and into the arrays themselves. A payload of up to `PIECEWISE_BYTES` goes in eager pieces: above 4016 bytes Open MPI
begins with a handshake, which takes 2 us, a piece 0.6. Between two ranks MPI keeps the order, so a payload needs no
name: the receiver posts its receive when it has read the header. One receive for headers is open for each peer, from
one look to the next.

The header says which generation a message belongs to. What belongs to an older one is drained and dropped, so that the
sender's request completes; what belongs to a later one is kept until this rank adopts it. A peer is one stream of
messages through all generations: none is ever matched with the receive of another.

Rule 1: a buffer stays alive until its request is complete; `Sending.owner` and `Arriving` hold it.
Rule 2: every wait polls the abort word and every open receive, without the GIL.
Rule 3: one thread, the one that initialised MPI.
Rule 4: a send to a rank that died may never complete. Nothing waits for one of an older generation.
"""

from cpython.exc cimport PyErr_CheckSignals
from cpython.ref cimport Py_INCREF, Py_DECREF, PyObject
from libc.stdint cimport int64_t, uint32_t, uint64_t, uintptr_t
from libc.stdlib cimport free, malloc, realloc
from libc.string cimport memcpy
from posix.time cimport CLOCK_MONOTONIC, clock_gettime, nanosleep, timespec
cimport numpy as cnp
from numpy cimport ndarray

from taskgraph._native.channel cimport Epoch, Port, Pump
from taskgraph._native.message cimport (
    ARRAY, CONTROL, COPY, EAGER_BYTES, INLINE, MAX_FRAMES, MORE, NAMED_DTYPE, OBJECT, PIECEWISE_BYTES,
    Header, Kind, check, copied, describe, empty, empty_bytes, head_bytes, is_plain, lead_bytes,
)

from taskgraph.errors import EpochAborted, TaskgraphError

cnp.import_array()

cdef extern from "<sched.h>" nogil:
    int sched_yield()

cdef extern from "mpi.h" nogil:
    ctypedef struct _comm "MPI_Comm":
        pass
    ctypedef _comm MPI_Comm
    ctypedef struct _request "MPI_Request":
        pass
    ctypedef _request MPI_Request
    ctypedef struct _datatype "MPI_Datatype":
        pass
    ctypedef _datatype MPI_Datatype
    ctypedef struct MPI_Status:
        int MPI_SOURCE
        int MPI_TAG
        int MPI_ERROR
    MPI_Datatype MPI_BYTE
    MPI_Request MPI_REQUEST_NULL
    int MPI_SUCCESS, MPI_UNDEFINED, MPI_MAX_ERROR_STRING
    MPI_Status* MPI_STATUS_IGNORE
    int MPI_Isend(const void* buffer, int count, MPI_Datatype datatype, int peer, int tag, MPI_Comm comm,
                  MPI_Request* request)
    int MPI_Irecv(void* buffer, int count, MPI_Datatype datatype, int peer, int tag, MPI_Comm comm,
                  MPI_Request* request)
    int MPI_Test(MPI_Request* request, int* flag, MPI_Status* status)
    int MPI_Testany(int count, MPI_Request* requests, int* index, int* flag, MPI_Status* status)
    int MPI_Wait(MPI_Request* request, MPI_Status* status)
    int MPI_Cancel(MPI_Request* request)
    int MPI_Request_free(MPI_Request* request)
    int MPI_Get_count(const MPI_Status* status, MPI_Datatype datatype, int* count)
    int MPI_Error_class(int code, int* error_class)
    int MPI_Error_string(int code, char* text, int* length)

cdef extern from *:
    """
    #if defined(MPIX_ERR_PROC_FAILED)
    #  define TG_PROC_FAILED MPIX_ERR_PROC_FAILED
    #elif defined(MPI_ERR_PROC_FAILED)
    #  define TG_PROC_FAILED MPI_ERR_PROC_FAILED
    #else
    #  define TG_PROC_FAILED (-1)
    #endif
    static int tg_is_null(MPI_Request request) { return request == MPI_REQUEST_NULL; }
    """
    int TG_PROC_FAILED
    bint tg_is_null(MPI_Request request) nogil

cdef enum:
    CHUNK = 1 << 30         # bytes of one payload message: an MPI count is an int
    MESSAGE = 0             # tags
    PAYLOAD = 1
    POLLS_WITH_GIL = 16

cdef enum Outcome:          # of a wait, where it is no index of a receive
    ABORTED = -1
    IDLE = -2
    SIGNALS = -3
    SENT = -4
    FAILED = -5
    FAILED_SEND = -6

cdef struct Receiving:      # beside requests[i]
    int peer
    int nbytes              # that it is open for
    char* buffer            # of an eager receive; NULL for a payload
    PyObject* arriving      # of a payload

cdef struct Sending:        # beside send_requests[i]
    PyObject* owner         # of the memory; NULL for an eager buffer
    char* buffer
    int peer
    bint awaited            # by `finish_sends`: not once its generation is over


cdef class Arriving:
    """A large message whose payload is on its way into its memory."""
    cdef uint64_t channel
    cdef uint64_t epoch
    cdef uint32_t generation
    cdef int kind
    cdef int source
    cdef int parts
    cdef object memory      # the array, or a list of frames


cdef class Peer(Port):
    """The way to one rank."""
    cdef Wire wire
    cdef readonly int rank

    cpdef int send(self, uint64_t channel, uint64_t epoch, object value, bint copy) except -1:
        if type(value) is ndarray and is_plain(<ndarray>value):
            return self.wire.send_array(self.rank, channel, epoch, <ndarray>value, copy)
        return self.wire.send_frames(self.rank, OBJECT, channel, epoch, self.wire.codec.encode(value))


cdef class Wire(Pump):
    """This rank's point-to-point connections.

    Parameters
    ----------
    comm : int
        Address of an `MPI_Comm` of our own whose error handler is `MPI_ERRORS_RETURN`.
    word : memoryview
        Writable, at least 8 bytes: the abort word. A wait ends with `EpochAborted` when it is negative, or above the
        generation of this rank.
    epoch : Epoch
        Takes the values.
    codec
        `encode(value) -> list of buffers`, `decode(list of buffers) -> value`, `dump_dtype`, `load_dtype`.
    handlers
        `on_control(source, topic, epoch, data)` is called for every control message of this generation,
        `on_copy(source, frames)` for every copy of a snapshot, `on_stray(source, generation)` for every message of
        another generation (a later one is kept), and `on_lost(rank)` when MPI says that a peer has died: it is no peer
        from then on.
    spin_s, doze_s : float
        A wait polls without a pause for `spin_s` seconds, then yields the processor between polls, and sleeps between
        polls after `doze_s` seconds.
    """
    cdef MPI_Comm comm
    cdef int64_t[::1] word_view
    cdef volatile int64_t* word
    cdef Epoch epoch
    cdef object codec
    cdef object handlers
    cdef list later             # messages of later generations, in the order received
    cdef set gone               # ranks that MPI knows to have died
    cdef public object on_idle
    cdef public object urgent
    cdef readonly uint32_t generation
    cdef int64_t spin_ns, doze_ns, idle_ns
    cdef dict peers
    cdef list protected
    cdef list borrowed
    cdef dict pieces        # rank -> the beginning of a control message that comes in several
    cdef MPI_Request* requests
    cdef Receiving* receiving
    cdef int num_receives, room_receives
    cdef int closed             # index of the receive to be opened again before the next look; -1: none
    cdef MPI_Request* send_requests
    cdef Sending* sending
    cdef int num_sends, room_sends, num_awaited
    cdef char* scratch

    def __cinit__(self):
        self.closed = -1
        self.scratch = <char*>malloc(EAGER_BYTES)
        if self.scratch == NULL:
            raise MemoryError

    def __init__(self, uintptr_t comm, int64_t[::1] word not None, Epoch epoch not None, codec, handlers,
                 double spin_s, double doze_s, double idle_s=0.02):
        self.comm = (<MPI_Comm*>comm)[0]
        self.word_view = word
        self.word = &word[0]
        self.epoch = epoch
        self.codec = codec
        self.handlers = handlers
        self.later = []
        self.urgent = frozenset()
        self.gone = set()
        self.spin_ns = <int64_t>(spin_s * 1e9)
        self.doze_ns = <int64_t>(doze_s * 1e9)
        self.idle_ns = <int64_t>(idle_s * 1e9)
        self.peers = {}
        self.protected = []
        self.borrowed = []
        epoch.attach(self)
        self.pieces = {}

    def __dealloc__(self):
        # Memory that MPI may still write to is left to the end of the process; `close` frees what it may.
        free(self.scratch)
        free(self.requests)
        free(self.receiving)
        free(self.send_requests)
        free(self.sending)

    def peer(self, int rank):
        """Return the way to `rank`, opening the receive for what it sends. Idempotent."""
        cdef Peer peer = self.peers.get(rank)
        cdef char* buffer
        if peer is None:
            peer = Peer()
            peer.wire = self
            peer.rank = rank
            buffer = <char*>malloc(EAGER_BYTES)
            if buffer == NULL:
                raise MemoryError
            self.post(buffer, EAGER_BYTES, rank, MESSAGE, buffer, None)
            self.peers[rank] = peer
        return peer

    def protect(self, ndarray array not None):
        """Copy, instead of borrowing, what lies in the memory of this array. Keeps the array."""
        self.protected.append(array)

    def send_control(self, int peer, uint64_t topic, uint64_t epoch, bytes data not None):
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
                return
            part = min(size - at, room)

    def send_copy(self, int peer, list frames not None):
        """Send a copy of a snapshot: buffers of bytes, which must not change while it is wanted."""
        self.send_frames(peer, COPY, 0, 0, frames)

    # ---- sending ----

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
        cdef char* fresh
        if peer in self.gone:
            return 0
        if not self.demand(MPI_Isend(self.scratch, <int>nbytes, MPI_BYTE, peer, MESSAGE, self.comm, &request), peer):
            return 0
        if not self.demand(MPI_Test(&request, &done, MPI_STATUS_IGNORE), peer):
            return 0
        if not done:
            fresh = <char*>malloc(EAGER_BYTES)
            if fresh == NULL:
                raise MemoryError
            self.track(request, peer, None, self.scratch, False)
            self.scratch = fresh
        return 0

    cdef int send_payload(self, int peer, char* memory, size_t nbytes, object owner, bint awaited) except -1:
        cdef MPI_Request request
        cdef size_t at = 0, most = piece_bytes(nbytes)
        cdef int part, done = 0
        while at < nbytes and peer not in self.gone:
            part = <int>min(most, nbytes - at)
            if not self.demand(MPI_Isend(memory + at, part, MPI_BYTE, peer, PAYLOAD, self.comm, &request), peer):
                return 0
            if part <= EAGER_BYTES and not self.demand(MPI_Test(&request, &done, MPI_STATUS_IGNORE), peer):
                return 0
            if not done:
                self.track(request, peer, owner, NULL, awaited)
            at += part
        return 0

    cdef int track(self, MPI_Request request, int peer, object owner, char* buffer, bint awaited) except -1:
        cdef int room
        if self.num_sends == self.room_sends:
            room = max(16, 2 * self.room_sends)
            self.send_requests = <MPI_Request*>grown(self.send_requests, room * sizeof(MPI_Request))
            self.sending = <Sending*>grown(self.sending, room * sizeof(Sending))
            self.room_sends = room
        self.send_requests[self.num_sends] = request
        self.sending[self.num_sends].buffer = buffer
        self.sending[self.num_sends].peer = peer
        self.sending[self.num_sends].owner = NULL
        self.sending[self.num_sends].awaited = awaited
        if owner is not None:
            Py_INCREF(owner)
            self.sending[self.num_sends].owner = <PyObject*>owner
        self.num_awaited += awaited
        self.num_sends += 1
        return 0

    cdef void sent(self, int i) noexcept:
        """Let go of what a completed send held."""
        free(self.sending[i].buffer)
        if self.sending[i].owner != NULL:
            Py_DECREF(<object>self.sending[i].owner)
        if self.sending[i].awaited:
            self.num_awaited -= 1
        self.num_sends -= 1
        self.sending[i] = self.sending[self.num_sends]
        self.send_requests[i] = self.send_requests[self.num_sends]

    def finish_sends(self):
        """Wait, still serving what comes in, until every borrowed array has left, and give it back."""
        cdef int64_t start = now_ns()
        while self.num_awaited:
            if self.step(True, start):
                start = now_ns()
        if self.borrowed:
            self.give_back()
        if self.num_sends:
            self.reap()

    cdef int give_back(self) except -1:
        """Make what was borrowed writable again."""
        cdef ndarray array
        for array in self.borrowed:
            cnp.PyArray_ENABLEFLAGS(array, cnp.NPY_ARRAY_WRITEABLE)
        self.borrowed.clear()
        return 0

    cdef int reap(self) except -1:
        cdef int i = 0, done = 0
        while i < self.num_sends:
            # One that failed went to a rank that died: it is over as well.
            if MPI_Test(&self.send_requests[i], &done, MPI_STATUS_IGNORE) != MPI_SUCCESS or done:
                self.sent(i)
            else:
                i += 1
        return 0

    # ---- receiving ----

    cdef int post(self, char* memory, int nbytes, int peer, int what, char* buffer, Arriving arriving) except -1:
        cdef int room, i = self.num_receives
        if i == self.room_receives:
            room = max(16, 2 * self.room_receives)
            self.requests = <MPI_Request*>grown(self.requests, room * sizeof(MPI_Request))
            self.receiving = <Receiving*>grown(self.receiving, room * sizeof(Receiving))
            self.room_receives = room
        if peer in self.gone:
            return 0
        if not self.demand(MPI_Irecv(memory, nbytes, MPI_BYTE, peer, what, self.comm, &self.requests[i]), peer):
            return 0
        self.receiving[i].peer = peer
        self.receiving[i].nbytes = nbytes
        self.receiving[i].buffer = buffer
        self.receiving[i].arriving = <PyObject*>arriving
        if arriving is not None:
            Py_INCREF(arriving)
            arriving.parts += 1
        self.num_receives += 1
        return 0

    cdef int post_payload(self, char* memory, size_t nbytes, Arriving arriving) except -1:
        cdef size_t at = 0, most = piece_bytes(nbytes)
        cdef int part
        while at < nbytes:
            part = <int>min(most, nbytes - at)
            self.post(memory + at, part, arriving.source, PAYLOAD, NULL, arriving)
            at += part
        return 0

    cpdef int poll(self) except -1:
        if self.is_over():
            raise EpochAborted
        return self.take_any()

    cdef inline bint is_over(self) noexcept nogil:
        return self.word[0] < 0 or self.word[0] > <int64_t>self.generation

    cdef int take_any(self) except -1:
        """Handle one completed receive, if there is one."""
        cdef int index = MPI_UNDEFINED, code
        cdef MPI_Status status
        if self.closed >= 0:
            self.open_again()
        code = self.look(&index, &status)
        if code != MPI_SUCCESS:
            self.failed(code, index)
        elif index != MPI_UNDEFINED:
            self.take(index, &status)
            return 1
        return 0

    cdef inline int look(self, int* index, MPI_Status* status) noexcept nogil:
        """Set `index` to that of a receive which has completed or failed, if there is one."""
        cdef int done = 0, code
        if self.num_receives != 1 or tg_is_null(self.requests[0]):
            return MPI_Testany(self.num_receives, self.requests, index, &done, status)
        code = MPI_Test(self.requests, &done, status)
        if done or code != MPI_SUCCESS:
            index[0] = 0
        return code

    cdef int open_again(self) except -1:
        """Open the receive for the next message of a peer.

        Not as soon as a message has been read, but before the next look: 0.07 us later, when an answer has left.
        """
        cdef int i = self.closed, peer = self.receiving[i].peer
        self.closed = -1
        self.demand(MPI_Irecv(self.receiving[i].buffer, EAGER_BYTES, MPI_BYTE, peer, MESSAGE, self.comm,
                              &self.requests[i]), peer)
        return 0

    def serve(self):
        """Handle one message, if there is one, whatever the abort word says. Return whether there was one."""
        return bool(self.take_any())

    def adopt(self, uint32_t generation):
        """Go over to a later generation: nothing of an older one is delivered or waited for any more.

        What was borrowed is writable again, although a late receiver may still read it: what it gets is dropped there.
        Messages of `generation` that came early are delivered now, so its channels must be in place.
        """
        cdef int i
        self.generation = generation
        self.give_back()
        for i in range(self.num_sends):
            self.sending[i].awaited = False
        self.num_awaited = 0
        self.pieces.clear()
        self.reap()
        self.protected.clear()

    def deliver_early(self):
        """Deliver what came for this generation before it was adopted here."""
        early, self.later = self.later, []
        for source, generation, kind, more, channel, epoch, memory in early:
            self.sort(source, generation, kind, more, channel, epoch, memory)

    cpdef int pump(self) except -1:
        cdef int _turn
        cdef int64_t start
        for _turn in range(POLLS_WITH_GIL):      # giving the GIL away and taking it back costs as much as a message
            if self.poll():
                return 1
        start = now_ns()
        while not self.step(False, start):
            pass
        return 1

    cdef int step(self, bint sends, int64_t start) except -1:
        """Wait for one thing to happen and handle it; return 1 where a message came or a send ended.

        `start` is when the wait began of which this may be a part: one that has lasted does not spin again.
        """
        cdef MPI_Status status
        cdef int outcome, index = -1, code = MPI_SUCCESS
        cdef int64_t idle_ns = self.idle_ns if self.on_idle is not None else -1
        if self.closed >= 0:
            self.open_again()
        with nogil:
            outcome = self.wait(sends, start, idle_ns, &index, &status, &code)
        if outcome >= 0:
            self.take(outcome, &status)
            return 1
        if outcome == ABORTED:
            raise EpochAborted
        if outcome == SENT:
            self.sent(index)
            return 1
        if outcome == IDLE:
            on_idle, self.on_idle = self.on_idle, None
            on_idle()
        elif outcome == SIGNALS:
            PyErr_CheckSignals()
        elif outcome == FAILED_SEND and 0 <= index < self.num_sends:
            peer = self.sending[index].peer
            self.sent(index)        # it went to a rank that died, so it is over as well
            self.demand(code, peer)
        else:
            self.failed(code, index)
        return 0

    cdef int wait(self, bint sends, int64_t start, int64_t idle_ns, int* index, MPI_Status* status,
                  int* code) noexcept nogil:
        """Poll receives, the abort word and, if asked, sends, until one of them has news."""
        cdef int done = 0, at = MPI_UNDEFINED
        cdef int64_t waited = 0, pause
        cdef uint32_t turn = 0
        cdef timespec nap
        while True:
            if self.is_over():
                return ABORTED
            at = MPI_UNDEFINED
            code[0] = self.look(&at, status)
            if code[0] != MPI_SUCCESS:
                index[0] = at
                return FAILED
            if at != MPI_UNDEFINED:
                return at
            if sends:
                code[0] = MPI_Testany(self.num_sends, self.send_requests, &at, &done, status)
                if code[0] != MPI_SUCCESS:
                    index[0] = at
                    return FAILED_SEND
                if done and at != MPI_UNDEFINED:
                    index[0] = at
                    return SENT
            turn += 1
            if waited < self.spin_ns and turn & 15:
                continue
            waited = now_ns() - start
            if 0 <= idle_ns < waited:
                return IDLE
            if waited < self.spin_ns:
                continue
            if waited < self.doze_ns:
                sched_yield()
                continue
            pause = min(waited // 64, <int64_t>1000000)
            nap.tv_sec = 0
            nap.tv_nsec = pause
            nanosleep(&nap, NULL)
            if turn % 64 == 0:
                return SIGNALS

    cdef int take(self, int i, MPI_Status* status) except -1:
        """Handle a completed receive."""
        cdef int count = 0
        cdef Arriving arriving
        MPI_Get_count(status, MPI_BYTE, &count)
        if self.receiving[i].buffer != NULL:
            return self.take_message(i, count)
        if count != self.receiving[i].nbytes:
            raise TaskgraphError(f"a payload of rank {self.receiving[i].peer} has {count} bytes where its header "
                                 f"announced {self.receiving[i].nbytes}")
        arriving = <Arriving>self.receiving[i].arriving
        self.num_receives -= 1
        self.requests[i] = self.requests[self.num_receives]
        self.receiving[i] = self.receiving[self.num_receives]
        arriving.parts -= 1
        Py_DECREF(arriving)
        if arriving.parts == 0:
            self.sort(arriving.source, arriving.generation, arriving.kind, False, arriving.channel, arriving.epoch,
                      arriving.memory)
        return 0

    cdef int sort(self, int source, uint32_t generation, int kind, bint more, uint64_t channel, uint64_t epoch,
                  object memory) except -1:
        """Deliver a message of this generation, and what is urgent; keep one of a later, drop one of an older."""
        if generation == self.generation or (kind == CONTROL and channel in self.urgent):
            if kind == COPY:
                self.handlers.on_copy(source, memory)
            elif kind == CONTROL:
                self.hand_control(source, more, channel, epoch, memory)
            else:
                self.hand_over(kind, source, channel, epoch, memory)
            return 0
        if generation > self.generation:
            self.later.append((source, generation, kind, more, channel, epoch, memory))
        self.handlers.on_stray(source, generation)
        return 0

    cdef int take_message(self, int i, size_t received) except -1:
        """Read a message out of its eager buffer, open the receive again, then hand over what came."""
        cdef char* buffer = self.receiving[i].buffer
        cdef int peer = self.receiving[i].peer
        cdef Header header
        cdef object memory
        cdef Arriving arriving = None
        try:
            check(<Header*>buffer, received)
            header = (<Header*>buffer)[0]
            memory = self.make_memory(&header, buffer)
        except Exception as error:
            raise TaskgraphError(f"a message of rank {peer} cannot be read: {error}") from error
        self.fill(&header, buffer + lead_bytes(&header), memory)
        if not header.flags & INLINE:
            arriving = Arriving()
            arriving.generation = header.generation
            arriving.kind = header.kind
            arriving.source = peer
            arriving.channel = header.channel
            arriving.epoch = header.epoch
            arriving.memory = memory
            self.expect(arriving, head_bytes(&header))
        if peer not in self.gone:       # `expect` may have found out
            self.requests[i] = MPI_REQUEST_NULL
            self.closed = i
        if arriving is None:
            if header.generation == self.generation and header.kind == ARRAY:
                return self.epoch.deliver(header.channel, header.epoch, memory)
            self.sort(peer, header.generation, header.kind, header.flags & MORE, header.channel, header.epoch, memory)
        return 0

    cdef object make_memory(self, Header* header, char* buffer):
        """Make what the payload goes into: an array, or a list of frames. Of a control message, its bytes at once."""
        cdef int64_t* shape = <int64_t*>(buffer + sizeof(Header))
        cdef char* meta = buffer + sizeof(Header) + 8 * (header.ndim + header.frames)
        cdef uint32_t i
        if header.kind == ARRAY:
            dtype = self.codec.load_dtype(meta[:header.meta]) if header.flags & NAMED_DTYPE else None
            return empty(header, shape, dtype)
        if header.kind == CONTROL:
            return (buffer + lead_bytes(header))[:header.nbytes]
        return [empty_bytes(shape[header.ndim + i]) for i in range(header.frames)]

    cdef int fill(self, Header* header, char* payload, object memory) except -1:
        """Copy what came with the header."""
        cdef ndarray array
        if header.kind == ARRAY:
            memcpy(cnp.PyArray_DATA(<ndarray>memory), payload, head_bytes(header))
        if header.kind in (ARRAY, CONTROL) or not header.flags & INLINE:
            return 0
        for array in <list>memory:
            memcpy(cnp.PyArray_DATA(array), payload, cnp.PyArray_NBYTES(array))
            payload += cnp.PyArray_NBYTES(array)
        return 0

    cdef int expect(self, Arriving arriving, size_t head) except -1:
        """Open the receives for the rest of a payload, in the order in which it was sent."""
        cdef ndarray array
        if arriving.kind == ARRAY:
            array = arriving.memory
            return self.post_payload(<char*>cnp.PyArray_DATA(array) + head, cnp.PyArray_NBYTES(array) - head, arriving)
        for array in <list>arriving.memory:
            self.post_payload(<char*>cnp.PyArray_DATA(array), cnp.PyArray_NBYTES(array), arriving)
        return 0

    cdef int hand_over(self, int kind, int source, uint64_t channel, uint64_t epoch, object memory) except -1:
        if kind == ARRAY:
            return self.epoch.deliver(channel, epoch, memory)
        try:
            value = self.codec.decode(memory)
        except Exception as error:
            inbound = self.epoch.inbound.get(channel)
            name = "a channel" if inbound is None else f"channel {inbound.id}"
            raise TaskgraphError(
                f"the object that {name} brought from rank {source} cannot be unpickled: {error}"
            ) from error
        return self.epoch.deliver(channel, epoch, value)

    cdef int hand_control(self, int source, bint more, uint64_t topic, uint64_t epoch, bytes data) except -1:
        if more:
            self.pieces.setdefault(source, []).append(data)
            return 0
        if source in self.pieces:
            data = b"".join([*self.pieces.pop(source), data])
        self.handlers.on_control(source, topic, epoch, data)
        return 0

    # ---- the end ----

    def close(self):
        """Withdraw every open receive and let go of completed sends. Returns the number of sends still under way."""
        cdef int i
        self.reap()
        for i in range(self.num_receives):
            if not tg_is_null(self.requests[i]):
                with nogil:
                    MPI_Cancel(&self.requests[i])
                    MPI_Wait(&self.requests[i], MPI_STATUS_IGNORE)
            free(self.receiving[i].buffer)
            if self.receiving[i].arriving != <PyObject*>None and self.receiving[i].arriving != NULL:
                Py_DECREF(<object>self.receiving[i].arriving)
        self.num_receives = 0
        self.closed = -1
        self.peers.clear()
        return self.num_sends

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

    cdef int failed(self, int code, int index) except -1:
        """Handle the failure of an open receive."""
        if not 0 <= index < self.num_receives:
            raise TaskgraphError(f"MPI: {error_text(code)}")
        self.demand(code, self.receiving[index].peer)
        return 0

    cdef int lose(self, int peer) except -1:
        """A peer has died: let go of the receives from it. Their memory stays, MPI may still know it."""
        cdef int i = 0
        if peer in self.gone:
            return 0
        self.gone.add(peer)
        if self.closed >= 0 and self.receiving[self.closed].peer != peer:
            self.open_again()       # what follows changes the places of receives
        self.closed = -1
        while i < self.num_receives:
            if self.receiving[i].peer == peer:
                if not tg_is_null(self.requests[i]):
                    MPI_Cancel(&self.requests[i])
                    MPI_Request_free(&self.requests[i])
                self.num_receives -= 1
                self.requests[i] = self.requests[self.num_receives]
                self.receiving[i] = self.receiving[self.num_receives]
            else:
                i += 1
        self.handlers.on_lost(peer)
        return 0


cdef size_t piece_bytes(size_t nbytes) noexcept nogil:
    """Return the most that one message carries of the rest of a payload, which has so many bytes."""
    return EAGER_BYTES if nbytes <= PIECEWISE_BYTES else CHUNK


cdef bint overlap(ndarray a, ndarray b) noexcept:
    cdef uintptr_t start_a = <uintptr_t>cnp.PyArray_DATA(a), start_b = <uintptr_t>cnp.PyArray_DATA(b)
    return start_a < start_b + cnp.PyArray_NBYTES(b) and start_b < start_a + cnp.PyArray_NBYTES(a)


cdef void* grown(void* memory, size_t nbytes) except NULL:
    cdef void* larger = realloc(memory, nbytes)
    if larger == NULL:
        raise MemoryError
    return larger


cdef str error_text(int code):
    cdef char[1024] text
    cdef int length = 0
    MPI_Error_string(code, text, &length)
    return text[:length].decode(errors="replace")


cdef inline int64_t now_ns() noexcept nogil:
    cdef timespec now
    clock_gettime(CLOCK_MONOTONIC, &now)
    return <int64_t>now.tv_sec * 1000000000 + now.tv_nsec

"""Bytes over MPI: eager messages, large payloads, and one wait that a word in shared memory ends.

How messages are made says `sender`. Between two ranks MPI keeps the order, so a payload needs no name: the receiver
posts its receive when it has read the header. One receive for headers is open for each peer, from one look to the next.

The header says which generation a message belongs to. What belongs to an older one is drained and dropped, so that the
sender's request completes; what belongs to a later one is kept until this rank adopts it. A peer is one stream of
messages through all generations: none is ever matched with the receive of another.

Payloads are complete in any order. Values have names, so that does not matter; a copy of a snapshot may be a change of
the one before, so copies are handed over in the order in which they were sent.

Rule 1: a buffer stays alive until its request is complete: `requests` holds it.
Rule 2: every wait polls the abort word and every open receive, without the GIL.
Rule 3: one thread, the one that initialised MPI.
"""

from cpython.exc cimport PyErr_CheckSignals
from cpython.ref cimport Py_DECREF
from libc.stdint cimport int64_t, uint32_t, uint64_t, uintptr_t
from libc.stdlib cimport malloc
from libc.string cimport memcpy
from posix.time cimport nanosleep, timespec
cimport numpy as cnp
from numpy cimport ndarray

from taskgraph._native.channel cimport Epoch
from taskgraph._native.clock cimport now_ns
from taskgraph._native.message cimport (
    ARRAY, CONTROL, COPY, EAGER_BYTES, INLINE, MORE, NAMED_DTYPE,
    Header, check, empty, empty_bytes, head_bytes, lead_bytes,
)
from taskgraph._native.mpih cimport (
    MPI_BYTE, MPI_REQUEST_NULL, MPI_SUCCESS, MPI_UNDEFINED,
    MPI_Cancel, MPI_Get_count, MPI_Irecv, MPI_Request, MPI_Request_free, MPI_Status, MPI_Test, MPI_Testany, tg_is_null,
)
from taskgraph._native.requests cimport Arriving, Receives
from taskgraph._native.sender cimport MESSAGE, PAYLOAD, Peer, Sender, error_text, piece_bytes

from collections import deque

from taskgraph.errors import EpochAborted, TaskgraphError

cnp.import_array()

cdef extern from "<sched.h>" nogil:
    int sched_yield()

cdef enum:
    POLLS_WITH_GIL = 16
    # Between two looks at what others sent, while this rank has work; while something large is under way. Where ranks
    # share cores, a look that finds nothing gives the core to another one, which may compute.
    LOOK_NS = 2000000
    LOOK_LARGE_NS = 50000

cdef enum Outcome:          # of a wait, where it is no index of a receive
    ABORTED = -1
    IDLE = -2
    SIGNALS = -3
    SENT = -4
    FAILED = -5
    FAILED_SEND = -6


cdef class Wire(Sender):
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
        polls after `doze_s` seconds. No spinning means that other ranks want the core, so nothing is done then that
        gives it away while there is work.
    """
    cdef int64_t[::1] word_view
    cdef volatile int64_t* word
    cdef object handlers
    cdef list later             # messages of later generations, in the order received
    cdef public object on_idle
    cdef public object urgent
    cdef int64_t spin_ns, doze_ns, idle_ns
    cdef int64_t looked         # when, last
    cdef dict peers
    cdef dict pieces            # (rank, topic) -> the beginning of a control message that comes in several
    cdef dict copies            # rank -> deque of the copies from it that are not handed over yet
    cdef Receives receives
    cdef int closed             # place of the receive to be opened again before the next look; -1: none

    def __cinit__(self):
        self.closed = -1
        self.receives = Receives()

    def __init__(self, uintptr_t comm, int64_t[::1] word not None, Epoch epoch not None, codec, handlers,
                 double spin_s, double doze_s, double idle_s=0.02):
        Sender.__init__(self, comm, epoch, codec)
        self.word_view = word
        self.word = &word[0]
        self.handlers = handlers
        self.later = []
        self.urgent = frozenset()
        self.spin_ns = <int64_t>(spin_s * 1e9)
        self.shares = self.spin_ns == 0
        self.doze_ns = <int64_t>(doze_s * 1e9)
        self.idle_ns = <int64_t>(idle_s * 1e9)
        self.peers = {}
        self.pieces = {}
        self.copies = {}
        epoch.attach(self)

    def peer(self, int rank):
        """Return the way to `rank`, opening the receive for what it sends. Idempotent."""
        cdef Peer peer = self.peers.get(rank)
        cdef char* buffer
        if peer is None:
            peer = Peer()
            peer.sender = self
            peer.rank = rank
            buffer = <char*>malloc(EAGER_BYTES)
            if buffer == NULL:
                raise MemoryError
            self.post(buffer, EAGER_BYTES, rank, MESSAGE, buffer, None)
            self.peers[rank] = peer
        return peer

    def finish_sends(self):
        """Wait, still serving what comes in, until every borrowed array has left, and give it back."""
        cdef int64_t start
        if self.sends.owned:
            self.sends.reap()
        if self.sends.awaited:
            start = now_ns()
            while self.sends.awaited:
                if self.step(True, start):
                    start = now_ns()
        if self.borrowed:
            self.give_back()

    # ---- receiving ----

    cdef int post(self, char* memory, int nbytes, int peer, int what, char* buffer, Arriving arriving) except -1:
        cdef MPI_Request request
        if peer not in self.gone and self.demand(
            MPI_Irecv(memory, nbytes, MPI_BYTE, peer, what, self.comm, &request), peer
        ):
            self.receives.add(request, peer, nbytes, buffer, arriving)
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
        cdef int64_t now
        if self.is_over():
            raise EpochAborted
        if self.shares:
            now = now_ns()
            if now - self.looked < (LOOK_LARGE_NS if self.receives.payloads or self.sends.owned else LOOK_NS):
                return 0
            self.looked = now
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
        if self.receives.count != 1 or tg_is_null(self.receives.requests[0]):
            return MPI_Testany(self.receives.count, self.receives.requests, index, &done, status)
        code = MPI_Test(self.receives.requests, &done, status)
        if done or code != MPI_SUCCESS:
            index[0] = 0
        return code

    cdef int open_again(self) except -1:
        """Open the receive for the next message of a peer.

        Not as soon as a message has been read, but before the next look: 0.07 us later, when an answer has left.
        """
        cdef int i = self.closed, peer = self.receives.entries[i].peer
        self.closed = -1
        self.demand(MPI_Irecv(self.receives.entries[i].buffer, EAGER_BYTES, MPI_BYTE, peer, MESSAGE, self.comm,
                              &self.receives.requests[i]), peer)
        return 0

    def serve(self):
        """Handle one message, if there is one, whatever the abort word says. Return whether there was one."""
        return bool(self.take_any())

    def adopt(self, uint32_t generation):
        """Go over to a later generation: nothing of an older one is delivered or waited for any more.

        What was borrowed is writable again, although a late receiver may still read it: what it gets is dropped there.
        """
        self.generation = generation
        self.give_back()
        self.sends.await_none()
        self.pieces = {key: parts for key, parts in self.pieces.items() if key[1] in self.urgent}
        self.sends.reap()
        self.protected.clear()

    def deliver_early(self):
        """Deliver what came for this generation before it was adopted here."""
        for source in list(self.copies):        # what lies behind one whose delivery ended the generation before
            self.hand_copies(source)
        early, self.later = self.later, []
        for source, generation, kind, more, channel, epoch, memory in early:
            self.sort(source, generation, kind, more, channel, epoch, memory)

    cpdef int pump(self) except -1:
        cdef int _turn
        cdef int64_t start
        for _turn in range(POLLS_WITH_GIL):      # giving the GIL away and taking it back costs as much as a message
            if self.is_over():
                raise EpochAborted
            if self.take_any():
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
            self.looked = now_ns()
        if outcome >= 0:
            self.take(outcome, &status)
            return 1
        if outcome == ABORTED:
            raise EpochAborted
        if outcome == SENT:
            self.sends.remove(index)
            return 1
        if outcome == IDLE:
            on_idle, self.on_idle = self.on_idle, None
            on_idle()
        elif outcome == SIGNALS:
            PyErr_CheckSignals()
        elif outcome == FAILED_SEND and 0 <= index < self.sends.count:
            peer = self.sends.entries[index].peer
            self.sends.remove(index)        # it went to a rank that died, so it is over as well
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
                code[0] = MPI_Testany(self.sends.count, self.sends.requests, &at, &done, status)
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
        if self.receives.entries[i].buffer != NULL:
            return self.take_message(i, count)
        if count != self.receives.entries[i].nbytes:
            raise TaskgraphError(f"a payload of rank {self.receives.entries[i].peer} has {count} bytes where its "
                                 f"header announced {self.receives.entries[i].nbytes}")
        arriving = <Arriving>self.receives.entries[i].arriving
        self.receives.remove(i)
        arriving.parts -= 1
        Py_DECREF(arriving)
        if arriving.kind == COPY:
            return self.hand_copies(arriving.source)
        if arriving.parts == 0:
            self.sort(arriving.source, arriving.generation, arriving.kind, False, arriving.channel, arriving.epoch,
                      arriving.memory)
        return 0

    cdef int hand_copies(self, int source) except -1:
        """Hand over the copies from a rank that are complete, up to the first that is not."""
        cdef Arriving first
        queue = self.copies[source]
        while queue:
            first = queue[0]
            if first.parts:
                return 0
            queue.popleft()
            self.sort(source, first.generation, COPY, False, first.channel, first.epoch, first.memory)
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
        cdef char* buffer = self.receives.entries[i].buffer
        cdef int peer = self.receives.entries[i].peer
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
        if header.kind == COPY or not header.flags & INLINE:
            arriving = Arriving()
            arriving.generation = header.generation
            arriving.kind = header.kind
            arriving.source = peer
            arriving.channel = header.channel
            arriving.epoch = header.epoch
            arriving.memory = memory
            if header.kind == COPY:
                self.copies.setdefault(peer, deque()).append(arriving)
            if not header.flags & INLINE:
                self.expect(arriving, head_bytes(&header))
        if peer not in self.gone:       # `expect` may have found out
            self.receives.requests[i] = MPI_REQUEST_NULL
            self.closed = i
        if header.kind == COPY and header.flags & INLINE:
            return self.hand_copies(peer)
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
            self.pieces.setdefault((source, topic), []).append(data)
            return 0
        if self.pieces and (source, topic) in self.pieces:
            data = b"".join([*self.pieces.pop((source, topic)), data])
        self.handlers.on_control(source, topic, epoch, data)
        return 0

    # ---- the end ----

    def close(self):
        """Withdraw every open receive and let go of completed sends. Returns the number of sends still under way."""
        self.sends.reap()
        self.receives.withdraw()
        self.closed = -1
        self.peers.clear()
        self.copies.clear()
        return self.sends.count

    cdef int failed(self, int code, int index) except -1:
        """Handle the failure of an open receive."""
        if not 0 <= index < self.receives.count:
            raise TaskgraphError(f"MPI: {error_text(code)}")
        self.demand(code, self.receives.entries[index].peer)
        return 0

    cdef int lose(self, int peer) except -1:
        """A peer has died: let go of the receives from it. Their memory stays, MPI may still know it."""
        cdef int i = 0
        if peer in self.gone:
            return 0
        self.gone.add(peer)
        if self.closed >= 0 and self.receives.entries[self.closed].peer != peer:
            self.open_again()       # what follows changes the places of receives
        self.closed = -1
        while i < self.receives.count:
            if self.receives.entries[i].peer == peer:
                if not tg_is_null(self.receives.requests[i]):
                    MPI_Cancel(&self.receives.requests[i])
                    MPI_Request_free(&self.receives.requests[i])
                self.receives.remove(i)
            else:
                i += 1
        self.copies.pop(peer, None)
        self.handlers.on_lost(peer)
        return 0

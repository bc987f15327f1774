"""Bytes over MPI, received: eager messages and large payloads, of this generation or another.

How messages are made says `sender`, how they are waited for `waiter`. Between two ranks MPI keeps the order, so a
payload needs no name: the receiver posts its receive when it has read the header. One receive for headers is open for
each peer, from one look to the next.

The header says which generation a message belongs to. What belongs to an older one is drained and dropped, so that the
sender's request completes; what belongs to a later one is kept until this rank adopts it. A peer is one stream of
messages through all generations: none is ever matched with the receive of another.

Payloads are complete in any order. Values have names, so that does not matter; a copy of a snapshot may be a change of
the one before, so copies are handed over in the order in which they were sent.

Rule 1: a buffer stays alive until its request is complete: `requests` holds it.
Rule 2: one thread, the one that initialised MPI.
"""

from cpython.ref cimport Py_DECREF
from libc.stdint cimport int64_t, uint32_t, uint64_t, uintptr_t
from libc.stdlib cimport malloc
from libc.string cimport memcpy
cimport numpy as cnp
from numpy cimport ndarray

from taskgraph._native.channel cimport Epoch
from taskgraph._native.committer cimport Committer
from taskgraph._native.message cimport (
    ARRAY, CONTROL, COPY, EAGER_BYTES, INLINE, MORE, NAMED_DTYPE, REUSED_BYTES,
    Header, check, empty, empty_bytes, fits, head_bytes, lead_bytes,
)
from taskgraph._native.mpih cimport (
    MPI_BYTE, MPI_REQUEST_NULL,
    MPI_Cancel, MPI_Get_count, MPI_Irecv, MPI_Request, MPI_Request_free, MPI_Status, tg_is_null,
)
from taskgraph._native.requests cimport Arriving
from taskgraph._native.sender cimport MESSAGE, PAYLOAD, Peer, piece_bytes
from taskgraph._native.waiter cimport Waiter

from collections import deque

from taskgraph.errors import CannotPickle, GraphError, TaskgraphError

cnp.import_array()


cdef class Wire(Waiter):
    """This rank's point-to-point connections.

    Parameters
    ----------
    comm : int
        Address of an `MPI_Comm` of our own whose error handler is `MPI_ERRORS_RETURN`.
    epoch : Epoch
        Takes the values.
    codec
        `encode(value) -> list of buffers`, `decode(list of buffers) -> value`, `dump_dtype`, `load_dtype`.
    handlers
        `on_control(source, topic, epoch, data)` is called for every control message of this generation,
        `on_copy(source, frames)` for every copy of a snapshot, `on_stray(source, generation)` for every message of
        another generation (a later one is kept), and `on_lost(rank)` when MPI says that a peer has died: it is no peer
        from then on.
    word, spin_s, doze_s, idle_s
        As of `Waiter`.
    """
    cdef object handlers
    cdef list later             # messages of later generations, in the order received
    cdef public object urgent
    cdef Committer committer    # is given control messages and copies first; None: nobody is
    cdef dict peers
    cdef dict pieces            # (rank, topic) -> the beginning of a control message that comes in several
    cdef dict copies            # rank -> deque of the copies from it that are not handed over yet

    def __init__(self, uintptr_t comm, int64_t[::1] word not None, Epoch epoch not None, codec, handlers,
                 double spin_s, double doze_s, double idle_s=0.02):
        Waiter.__init__(self, comm, word, epoch, codec, spin_s, doze_s, idle_s)
        self.handlers = handlers
        self.later = []
        self.urgent = frozenset()
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

    def hear_first(self, Committer committer not None):
        """Give control messages and copies to `committer` first. Return True: that is done."""
        self.committer = committer
        return True

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
                if self.committer is None or not self.committer.store(source, memory):
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
        cdef ndarray vacant
        if header.kind == ARRAY:
            vacant = self.epoch.take_vacant(header.channel) if header.nbytes <= REUSED_BYTES else None
            if vacant is not None and fits(vacant, header, shape):
                return vacant
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
        except CannotPickle as error:
            inbound = self.epoch.inbound.get(channel)
            id = None if inbound is None else inbound.id
            name = "a channel" if id is None else f"channel {id}"
            raise GraphError(
                f"the object that {name} brought from rank {source} cannot be unpickled: {error}",
                task=None if id is None else id.destination, epoch=epoch, channel=id,
            ) from error.__cause__
        return self.epoch.deliver(channel, epoch, value)

    cdef int hand_control(self, int source, bint more, uint64_t topic, uint64_t epoch, bytes data) except -1:
        if more:
            self.pieces.setdefault((source, topic), []).append(data)
            return 0
        if self.pieces and (source, topic) in self.pieces:
            data = b"".join([*self.pieces.pop((source, topic)), data])
        if self.committer is None or not self.committer.hear(source, topic, data):
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

"""The one wait of a rank: for whatever comes in, until a word in shared memory ends it.

Rule 1: every wait polls the abort word and every open receive, without the GIL.
Rule 2: a rank that has work and shares its core looks at what came in only now and then: a look that finds nothing
gives the core to another rank.
"""

from cpython.exc cimport PyErr_CheckSignals
from libc.stdint cimport int64_t, uint32_t, uintptr_t
from posix.time cimport nanosleep, timespec

from taskgraph._native.channel cimport Epoch
from taskgraph._native.clock cimport now_ns
from taskgraph._native.message cimport EAGER_BYTES
from taskgraph._native.mpih cimport (
    MPI_BYTE, MPI_SUCCESS, MPI_UNDEFINED,
    MPI_Irecv, MPI_Status, MPI_Test, MPI_Testany, tg_is_null,
)
from taskgraph._native.requests cimport Receives
from taskgraph._native.sender cimport MESSAGE, Sender, error_text

from taskgraph.errors import EpochAborted, TaskgraphError

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


cdef class Waiter(Sender):
    """Waits for messages and for the end of sends. What becomes of a message says `take`.

    Parameters
    ----------
    comm, epoch, codec
        As of `Sender`.
    word : memoryview
        Writable, at least 8 bytes: the abort word. A wait ends with `EpochAborted` when it is negative, or above the
        generation of this rank.
    spin_s, doze_s : float
        A wait polls without a pause for `spin_s` seconds, then yields the processor between polls, and sleeps between
        polls after `doze_s` seconds. No spinning means that other ranks want the core, so nothing is done then that
        gives it away while there is work.
    idle_s : float
        How long a wait lasts until `on_idle` is called, once.
    """

    def __cinit__(self):
        self.closed = -1
        self.receives = Receives()

    def __init__(self, uintptr_t comm, int64_t[::1] word not None, Epoch epoch not None, codec, double spin_s,
                 double doze_s, double idle_s):
        Sender.__init__(self, comm, epoch, codec)
        self.word_view = word
        self.word = &word[0]
        self.spin_ns = <int64_t>(spin_s * 1e9)
        self.shares = self.spin_ns == 0
        self.doze_ns = <int64_t>(doze_s * 1e9)
        self.idle_ns = <int64_t>(idle_s * 1e9)

    # ---- what may be waited for ----

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

    def serve(self):
        """Handle one message, if there is one, whatever the abort word says. Return whether there was one."""
        return bool(self.take_any())

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

    cpdef int drain(self) except -1:
        cdef int count = 0
        while not self.is_over() and self.take_any():
            count += 1
        return count

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

    # ---- the wait ----

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

    # ---- what came ----

    cdef int take(self, int i, MPI_Status* status) except -1:
        """Handle a completed receive."""
        raise NotImplementedError

    cdef int failed(self, int code, int index) except -1:
        """Handle the failure of an open receive."""
        if not 0 <= index < self.receives.count:
            raise TaskgraphError(f"MPI: {error_text(code)}")
        self.demand(code, self.receives.entries[index].peer)
        return 0

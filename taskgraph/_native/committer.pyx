"""The end of an epoch while nothing else happens: snapshots, copies, contribution, verdict, and what is written down.

What a rank would do in the orders of its member (`taskgraph.plan.member`), one by one, is done here in one call. What
is to be said decides `steady`.

Rule 1: as before every order, the host's floor is looked at before each act (`taskgraph.plan.fence.may_act`).
Rule 2: a message that is not for this is the member's, which takes over; so what is done here is done completely.
"""

cimport cython
from cpython.bytes cimport PyBytes_FromStringAndSize
from libc.stdint cimport int64_t, uint64_t

from taskgraph._native.channel cimport Pump
from taskgraph._native.commitline cimport CommitLine
from taskgraph._native.deltahead cimport Fields, intact
from taskgraph._native.loan cimport Loan
from taskgraph._native.slots cimport SlotTable
from taskgraph._native.slotwriter cimport SlotWriter
from taskgraph._native.steady cimport ACK, ANOTHERS, CONTRIBUTION, NOTED, UP, VERDICT, Copy, Steady, Step

from taskgraph import trace
from taskgraph.errors import EpochAborted

COMMITTED, LEFT, NOT_DONE = _COMMITTED, _LEFT, _NOT_DONE


@cython.final
cdef class Committer:
    """Commits the epochs of one rank. For the thread of its transport.

    Parameters
    ----------
    transport
        Hands control messages to `hear` first, and copies to `store`.
    table, line
        The slots of the host, and this rank's line.
    queue
        Where messages for the member wait, which may come while this waits.
    note_bits : int
        By so many the note of a snapshot shifts how far ``committed`` has been called.
    """

    def __init__(self, Pump transport not None, SlotTable table not None, CommitLine line not None, queue,
                 int note_bits):
        self.transport, self.table, self.line, self.queue = transport, table, line, queue
        self.note_bits = note_bits

    def begin(self, Steady steady not None, int64_t generation, list writers not None, copy, dict keepers not None):
        """Do what this steady state says, from now until it is over.

        Parameters
        ----------
        generation : int
            The current one.
        writers : list of SlotWriter
            Of the tasks that this rank runs, each with something to repeat.
        copy : callable or None
            Called with a boundary: sends the snapshots of it to backups, the first time. None: there are no backups.
        keepers : dict
            By task that this rank is a backup of: the SlotWriter of it.
        """
        self.steady, self.generation, self.writers, self.copy = steady, generation, writers, copy
        self.keepers, self.copied = keepers, -1

    def commit(self, bint idle):
        """Finish an epoch, and wait until all ranks have.

        Returns
        -------
        int
            COMMITTED: all have. Otherwise nothing more is done here until `begin`. LEFT: a message came for the member,
            which goes on from what is known. NOT_DONE: the member has to be told that the epoch is finished; snapshots
            may have been written already.

        Raises
        ------
        EpochAborted
            The generation is over.
        """
        cdef Done done = self.try_to_commit(idle)
        if done != _COMMITTED:
            self.end()              # or what is heard from now on would never reach the member
        return int(done)

    cpdef void end(self) noexcept:
        """Do nothing more until `begin`."""
        self.steady, self.writers, self.copy, self.keepers = None, None, None, None

    cdef Done try_to_commit(self, bint idle) except? _NOT_DONE:
        cdef Steady steady = self.steady
        cdef SlotWriter writer
        cdef int64_t epoch
        if steady is None or not steady.may_finish(idle):
            return _NOT_DONE
        epoch = steady.committed
        if steady.is_due():
            for writer in self.writers:
                if not writer.write(epoch + 1, self.generation, steady.safe << self.note_bits):
                    return _NOT_DONE
            if trace.hook is not None:
                trace.hook("snapshot.whole", None)
            if self.copy is not None:
                self.send_copies(epoch + 1)
        self.say(steady.finish(idle))
        while steady.committed == epoch:
            if self.queue or steady.is_over:        # before more comes in: no message overtakes one that waits
                return _LEFT
            self.transport.pump()
        self.record()
        return _COMMITTED

    cdef int send_copies(self, int64_t boundary) except -1:
        """Send the snapshots that were just taken: as changes of those before, where all backups were sent these."""
        cdef Steady steady = self.steady
        cdef SlotWriter writer
        cdef Known known
        cdef int i
        cdef bytes lead
        for writer in self.writers:
            if self.copied < 0 or writer.base is None or writer.base.boundary != self.copied:
                self.copy(boundary)
                self.copied = boundary
                return 0
        known.generation, known.safe, known.delivered = self.generation, steady.safe, min(steady.delivered, steady.safe)
        known.end_at = known.end = -1
        lead = PyBytes_FromStringAndSize(<char*>&known, sizeof(known))
        for i in range(steady.copies):
            for writer in self.writers:
                if writer.task == steady.backups[i].task:
                    self.admit()
                    if trace.hook is not None:
                        trace.hook("replicate.begin", None)
                    self.transport.send_copy(steady.backups[i].rank, writer.change(lead))
                    if trace.hook is not None:
                        trace.hook("replicate.sent", None)
        self.copied = boundary
        return 0

    cdef int admit(self) except -1:
        """Raise EpochAborted where the generation is over."""
        if not self.table.admits(self.generation):
            raise EpochAborted
        return 0

    cdef bint store(self, int source, list frames) except -1:
        """Store a copy that arrived and acknowledge it; return False where it is the member's."""
        cdef Steady steady = self.steady
        cdef SlotWriter keeper
        cdef Loan message
        cdef const Fields* head
        cdef Copy copy
        if steady is None or steady.is_over or not self.keepers or self.queue:
            return False
        message = Loan(frames)
        if message.count == 0 or message.spans.nbytes < sizeof(Known):
            return False
        head = intact(message.spans.origin + sizeof(Known), message.spans.nbytes - sizeof(Known))
        if head == NULL or (<const Known*>message.spans.origin).safe > steady.safe:
            return False
        keeper = self.keepers.get(head.task)
        if keeper is None or not keeper.follows(head, self.generation):
            return False
        self.admit()
        if trace.hook is not None:
            trace.hook("replicate.arrived", None)
        if not keeper.take(head, message, self.generation):
            return False
        if trace.hook is not None:
            trace.hook("replicate.stored", None)
        self.admit()
        copy.task, copy.boundary = head.task, head.boundary
        self.transport.send_control(source, ACK, 0, PyBytes_FromStringAndSize(<char*>&copy, sizeof(copy)))
        return True

    def receive(self, int source, uint64_t topic, bytes data not None):
        """Do as `hear`, for a transport written in Python."""
        return self.hear(source, topic, data)

    def receive_copy(self, int source, list frames not None):
        """Do as `store`, for a transport written in Python."""
        return self.store(source, frames)

    cdef bint hear(self, int source, uint64_t topic, bytes data) except -1:
        """Take a control message; return False where it is the member's."""
        cdef Step step
        if self.steady is None:
            return False
        step = self.steady.hear(source, topic, data)
        if step == ANOTHERS:
            return False
        self.say(step)
        return True

    cdef int say(self, Step step) except -1:
        """Send what follows from a step."""
        cdef Steady steady = self.steady
        cdef int i
        if step == NOTED:
            return 0
        self.admit()
        if step == UP:
            self.transport.send_control(steady.parent, CONTRIBUTION, 0, steady.message)
        else:
            for i in range(steady.count):
                self.transport.send_control(steady.children[i].rank, VERDICT, 0, steady.message)
        if trace.hook is not None and (step == UP or steady.count):
            trace.hook("commit.said", None)
        return 0

    cdef int record(self) except -1:
        """Write down what the commit said, and free what lies below."""
        cdef Steady steady = self.steady
        self.admit()
        if trace.hook is not None:
            trace.hook("commit.heard", None)
        self.line.heard(self.generation, steady.safe, min(steady.delivered, steady.safe), -1, -1)
        self.table.free_below(steady.safe, self.generation)
        if trace.hook is not None:
            trace.hook("commit.recorded", None)
        return self.admit()                             # user code is next

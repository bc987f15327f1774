"""The end of an epoch while nothing else happens: snapshots, contribution, verdict, and what is written down of it.

What a rank would do in the orders of its member (`taskgraph.plan.member`), one by one, is done here in one call. What
is to be said decides `steady`.

Rule 1: as before every order, the host's floor is looked at before each act (`taskgraph.plan.fence.may_act`).
Rule 2: a message that is not for this is the member's, which takes over; so what is done here is done completely.
"""

cimport cython
from libc.stdint cimport int64_t, uint64_t

from taskgraph._native.channel cimport Pump
from taskgraph._native.commitline cimport CommitLine
from taskgraph._native.slots cimport SlotTable
from taskgraph._native.slotwriter cimport SlotWriter
from taskgraph._native.steady cimport ANOTHERS, CONTRIBUTION, NOTED, UP, VERDICT, Steady, Step

from taskgraph import trace
from taskgraph.errors import EpochAborted

COMMITTED, LEFT, NOT_DONE = _COMMITTED, _LEFT, _NOT_DONE


@cython.final
cdef class Committer:
    """Commits the epochs of one rank. For the thread of its transport.

    Parameters
    ----------
    transport
        Hands control messages to `hear` first.
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

    def begin(self, Steady steady not None, int64_t generation, list writers not None, copy):
        """Do what this steady state says, from now until it is over.

        Parameters
        ----------
        generation : int
            The current one.
        writers : list of SlotWriter
            Of the tasks that this rank runs, each with something to repeat.
        copy : callable or None
            Called with a boundary: sends the snapshots of it to backups.
        """
        self.steady, self.generation, self.writers, self.copy = steady, generation, writers, copy

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
        self.steady, self.writers, self.copy = None, None, None

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
                self.copy(epoch + 1)
        self.say(steady.finish(idle))
        while steady.committed == epoch:
            if self.queue or steady.is_over:        # before more comes in: no message overtakes one that waits
                return _LEFT
            self.transport.pump()
        self.record()
        return _COMMITTED

    def receive(self, int source, uint64_t topic, bytes data not None):
        """Do as `hear`, for a transport written in Python."""
        return self.hear(source, topic, data)

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
        if not self.table.admits(self.generation):
            raise EpochAborted
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
        if not self.table.admits(self.generation):
            raise EpochAborted
        if trace.hook is not None:
            trace.hook("commit.heard", None)
        self.line.heard(self.generation, steady.safe, min(steady.delivered, steady.safe), -1, -1)
        self.table.free_below(steady.safe, self.generation)
        if trace.hook is not None:
            trace.hook("commit.recorded", None)
        if not self.table.admits(self.generation):      # user code is next
            raise EpochAborted
        return 0

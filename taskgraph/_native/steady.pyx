"""The commits of one rank while nothing else happens: numbers in, numbers out. See `taskgraph.plan.steady`.

Compiled, because every epoch of every rank comes through here.
"""

cimport cython
from cpython.bytes cimport PyBytes_FromStringAndSize
from libc.stdint cimport int64_t, uint8_t, uint64_t
from libc.stdlib cimport calloc, free

cdef packed struct Contribution:        # as `taskgraph.plan.commit` has it
    int64_t epoch
    uint8_t idle
    uint8_t last
    uint8_t status
    int64_t safe
    int64_t delivered

cdef packed struct Verdict:
    int64_t epoch
    uint8_t last
    uint8_t status
    int64_t safe
    int64_t delivered

cdef int64_t UNBOUNDED = 1 << 62


@cython.final
cdef class Steady:
    """The epochs of one rank, from one that it is about to run. What a `Step` means says `steady.pxd`.

    Parameters
    ----------
    parent : int or None
        The rank above in the tree.
    children : tuple of int
        Those below.
    has_tasks : bool
        Whether this rank runs any.
    epochs : int or None
        After so many the job ends.
    every : int
        Epochs between two snapshots.
    committed : int
        All epochs below are finished everywhere.
    safe, delivered : int
        How far all have got, as it was heard. Up to `safe` ``committed`` has been called here, and of each task the
        snapshots from there on are kept.
    saved : int
        The newest boundary whose snapshots are whole here.
    backups : tuple of (int, int, int)
        Who gets copies: task, rank, and the newest boundary that it has said it has.

    Attributes
    ----------
    committed, safe, delivered : int
        As above.
    waits, idle : bool
        Whether this rank has finished the epoch, and if so, whether none of its tasks composed anything.
    below : tuple of int
        How far (safe, delivered) all below had got when this rank last said so; -1 before.
    message : bytes
        What is to be sent.
    is_over : bool
        Whether somebody else knows what is known here.
    """

    def __cinit__(self, parent, tuple children not None, bint has_tasks, epochs, int64_t every, int64_t committed,
                  int64_t safe, int64_t delivered, int64_t saved, tuple backups not None):
        cdef int i
        self.parent = -1 if parent is None else parent
        self.count = self.missing = <int>len(children)
        self.copies = <int>len(backups)
        self.children = <Said*>calloc(self.count + 1, sizeof(Said))
        self.backups = <Backup*>calloc(self.copies + 1, sizeof(Backup))
        if self.children == NULL or self.backups == NULL:
            raise MemoryError
        for i in range(self.copies):
            self.backups[i].task, self.backups[i].rank, self.backups[i].acked = backups[i]
            self.backups[i].acked_then = self.backups[i].acked
        for i in range(self.count):
            self.children[i].rank = children[i]
        self.has_tasks = has_tasks
        self.epochs = -1 if epochs is None else epochs
        self.every = every
        self.committed = committed
        self.safe, self.saved = safe, saved
        self.delivered = delivered
        self.below_safe = self.below_delivered = -1
        self.message = b""

    def __dealloc__(self):
        free(self.children)
        free(self.backups)

    @property
    def below(self):
        return self.below_safe, self.below_delivered

    def stop(self):
        """Have no answer from now on: somebody else knows what is known here."""
        self.is_over = True

    def finished(self, bint idle):
        """Take that this rank has finished the epoch, and that the snapshot of its end is whole if one is due."""
        return int(self.finish(idle))

    def received(self, int source, uint64_t topic, bytes data not None):
        """Take a control message."""
        return int(self.hear(source, topic, data))

    @property
    def said(self):
        """What children have said of the epoch: by rank, (idle, safe, delivered)."""
        cdef int i
        return {self.children[i].rank: (self.children[i].idle, self.children[i].safe, self.children[i].delivered)
                for i in range(self.count) if self.children[i].here}

    @property
    def heard(self):
        """How far each child had got when it last said something: by rank, (safe, delivered)."""
        cdef int i
        return {self.children[i].rank: (self.children[i].safe, self.children[i].delivered) for i in range(self.count)}

    @property
    def is_behind(self):
        """Whether a backup has not said yet that it has the newest snapshot."""
        return self.own_safe(self.saved) < self.saved

    @property
    def acked(self):
        """What backups have said they have: (task, rank, boundary when this rank finished its epoch, and now)."""
        return [(int(self.backups[i].task), int(self.backups[i].rank),
                 int(self.backups[i].acked_then if self.waits else self.backups[i].acked), int(self.backups[i].acked))
                for i in range(self.copies)]

    cdef bint may_finish(self, bint idle) noexcept:
        """Tell whether `finish` has an answer."""
        if self.is_over or self.committed + 1 == self.epochs:
            return False
        return self.missing > 0 or self.may_complete(idle, self.committed + 1 if self.is_due() else self.saved)

    cdef bint is_due(self) noexcept:
        """Tell whether a snapshot is due where the epoch ends."""
        return self.has_tasks and (self.committed + 1) % self.every == 0

    cdef bint may_complete(self, bint idle, int64_t saved) noexcept:
        """Tell whether this rank, whose newest snapshot is `saved`, can say what all below it have finished."""
        cdef int64_t safe, delivered
        if self.parent >= 0:
            return True
        self.reduce(&idle, saved, &safe, &delivered)
        return not idle and self.leaves_room(safe)

    cdef bint leaves_room(self, int64_t safe) noexcept:
        """Tell whether after the commit of this epoch, with this safe boundary, no rank can be short of a slot."""
        return self.committed + 1 - max(safe, self.safe) < 2 * self.every

    cdef int64_t own_safe(self, int64_t saved) noexcept:
        """Return the newest boundary whose snapshots all have that have to, where this host has that of `saved`."""
        cdef int i
        for i in range(self.copies):
            saved = min(saved, self.backups[i].acked)
        return saved

    cdef void reduce(self, bint* idle, int64_t saved, int64_t* safe, int64_t* delivered) noexcept:
        """Put together what this rank and its children say."""
        cdef int i
        safe[0], delivered[0] = (self.own_safe(saved), self.safe) if self.has_tasks else (UNBOUNDED, UNBOUNDED)
        for i in range(self.count):
            idle[0] = idle[0] and self.children[i].idle
            safe[0] = min(safe[0], self.children[i].safe)
            delivered[0] = min(delivered[0], self.children[i].delivered)

    cdef Step finish(self, bint idle) except *:
        cdef int i
        if not self.may_finish(idle):
            return ANOTHERS
        if self.is_due():
            self.saved = self.committed + 1
        self.idle, self.waits = idle, True
        for i in range(self.copies):
            self.backups[i].acked_then = self.backups[i].acked
        return NOTED if self.missing else self.complete()

    cdef Step hear(self, int source, uint64_t topic, bytes data) except *:
        if self.is_over:
            return ANOTHERS
        if topic == VERDICT and self.waits and source == self.parent and len(data) == sizeof(Verdict):
            return self.hear_verdict(<const char*>data, data)
        if topic == CONTRIBUTION and len(data) == sizeof(Contribution):
            return self.hear_contribution(source, <const char*>data)
        if topic == ACK and len(data) == sizeof(Copy):
            return self.hear_ack(source, <const char*>data)
        return ANOTHERS

    cdef Step hear_ack(self, int source, const char* message) noexcept:
        cdef const Copy* said = <const Copy*>message
        cdef int i
        for i in range(self.copies):
            if self.backups[i].rank == source and self.backups[i].task == said.task:
                self.backups[i].acked = max(self.backups[i].acked, said.boundary)
                return NOTED
        return ANOTHERS

    cdef Step hear_verdict(self, const char* message, bytes data) except *:
        cdef const Verdict* said = <const Verdict*>message
        if said.last or said.epoch != self.committed or not self.leaves_room(said.safe):
            return ANOTHERS
        return self.commit(data, said.safe, said.delivered)

    cdef Step hear_contribution(self, int source, const char* message) except *:
        cdef const Contribution* said = <const Contribution*>message
        cdef int i
        cdef Said before
        if said.last or said.epoch != self.committed:
            return ANOTHERS
        for i in range(self.count):
            if self.children[i].rank == source and not self.children[i].here:
                break
        else:
            return ANOTHERS
        before = self.children[i]
        self.children[i].here, self.children[i].idle = True, said.idle
        self.children[i].safe, self.children[i].delivered = said.safe, said.delivered
        self.missing -= 1
        if self.missing or not self.waits:
            return NOTED
        if not self.may_complete(self.idle, self.saved):
            self.children[i] = before
            self.missing += 1
            return ANOTHERS
        return self.complete()

    cdef Step complete(self) except *:
        """Say what all below have finished, or, at the root, that everybody has."""
        cdef Contribution up
        cdef Verdict down
        cdef bint idle = self.idle
        cdef int64_t safe, delivered
        self.reduce(&idle, self.saved, &safe, &delivered)
        if self.parent >= 0:
            up.epoch, up.idle, up.last, up.status, up.safe, up.delivered = self.committed, idle, 0, 0, safe, delivered
            self.below_safe, self.below_delivered = safe, delivered
            self.message = PyBytes_FromStringAndSize(<char*>&up, sizeof(up))
            return UP
        down.epoch, down.last, down.status, down.safe, down.delivered = self.committed, 0, 0, safe, delivered
        return self.commit(PyBytes_FromStringAndSize(<char*>&down, sizeof(down)), safe, delivered)

    cdef Step commit(self, bytes verdict, int64_t safe, int64_t delivered) except *:
        """Go on to the next epoch."""
        cdef int i
        for i in range(self.count):
            self.children[i].here = False
        self.missing = self.count
        self.waits = False
        self.committed += 1
        self.safe = max(self.safe, safe)
        self.delivered = max(self.delivered, delivered)
        self.message = verdict
        return COMMIT

"""Snapshots of a task whose state is arrays that stay the same, one after the other, in the slots of one process.

That is what nearly every epoch does, so it is done here in one call: begin a slot, fill it, write its head, make it
whole. Whatever is not as it was the last time, `write` leaves to its caller.
"""

cimport cython
from libc.stdint cimport int64_t, uint64_t

from taskgraph._native.loan cimport Loan
from taskgraph._native.slots cimport SlotTable

from taskgraph import trace


@cython.final
cdef class OwnSlot:
    pass


@cython.final
cdef class SlotWriter:
    """Writes the snapshots of one task. For one thread.

    Parameters
    ----------
    table
        Of the host.
    task, form : int
        The task, and the digest of what it protects.
    room : int
        Whole snapshots of it that the host may hold.

    Attributes
    ----------
    version : int
        Number of the last write by this process for this task (`Blocks`).
    generation : int
        Of what is repeated; -1: nothing is.
    """

    def __cinit__(self, SlotTable table not None, int64_t task, uint64_t form, int room):
        self.table, self.task, self.form, self.room = table, task, form, room
        self.run = table.run
        self.generation = -1
        self.slots = []

    def repeat(self, generation, arrays, rest, pairs, slots, int newest, uint64_t cycle):
        """Set what is to be repeated: a snapshot that was just written.

        Parameters
        ----------
        generation : int
            Which wrote it.
        arrays : sequence of ndarray
            The state. They are kept until something else is repeated; `write` sees it where one has been resized.
        rest, pairs
            Of the head (`SlotHead.write`).
        slots : sequence of (int, Blocks, SlotHead)
            Of this process and for this task, each with room for it.
        newest, cycle : int
            Where it is.
        """
        cdef OwnSlot own
        self.state, self.rest, self.pairs = Loan(arrays), rest, pairs
        self.slots = []
        self.newest = None
        for index, blocks, head in slots:
            own = OwnSlot()
            own.index, own.blocks, own.head = index, blocks, head
            if own.index == newest:
                own.cycle = cycle
                self.newest = own
            self.slots.append(own)
        self.generation = generation

    def written(self):
        """Return what was written since, the oldest first: (index, boundary, note, checksum, cycle) of each slot."""
        cdef OwnSlot own
        found = [own for own in self.slots if own.version]
        found.sort(key=version_of)
        return [(own.index, int(own.boundary), int(own.note), int(own.checksum), int(own.cycle)) for own in found]

    def forget(self):
        """Repeat nothing: another snapshot is about to be written in one of these slots."""
        self.generation = -1
        self.slots, self.newest, self.state = [], None, None

    cpdef bint write(self, int64_t boundary, int64_t generation, int64_t note) except -1:
        """Copy the state into a slot: that of a boundary, with `note`.

        Returns
        -------
        bool
            False: nothing was written, and whoever does it in another way finds out why.
        """
        cdef OwnSlot own, base = self.newest
        cdef int64_t cycle
        cdef bint good
        if generation != self.generation or generation < 0 or not self.state.is_still():
            return False
        if self.table.refuses(self.task, boundary, generation, self.room, generation) != 0:
            return False
        if base is None or not self.table.is_whole(base.index, base.cycle):
            return False
        for own in self.slots:
            if self.table.is_free(own.index):
                break
        else:
            return False
        cycle = self.table.begin(own.index, generation)
        if cycle < 0:
            return False
        try:
            self.version += 1
            own.blocks.take_in(self.state, base.blocks, self.version)
            if trace.hook is not None:
                trace.hook("snapshot.middle", None)
            good = self.table.is_whole(base.index, base.cycle)      # else it went while it was compared with
            if good:
                own.checksum = own.blocks.checksum(self.form)
                own.head.write(cycle, self.run, self.task, boundary, generation, note, self.form, own.checksum,
                               self.pairs, self.rest)
                good = self.table.complete(own.index, cycle, generation, boundary, generation) == 0
        except BaseException:
            self.table.cancel(own.index, cycle)
            raise
        if not good:
            self.table.cancel(own.index, cycle)
            return False
        own.boundary, own.note, own.cycle, own.version = boundary, note, cycle, self.version
        self.newest = own
        return True


cdef object version_of(OwnSlot own):
    return own.version

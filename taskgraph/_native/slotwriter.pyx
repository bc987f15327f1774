"""Snapshots of a task whose state is arrays that stay the same, one after the other, in the slots of one process.

That is what nearly every epoch does, so it is done here in one call: begin a slot, fill it, write its head, make it
whole. A primary fills it from its arrays, a backup with what has arrived. Whatever is not as it was the last time is
left to the caller.
"""

cimport cython
from libc.stdint cimport int64_t, uint64_t
from libc.string cimport memcmp

from taskgraph._native.deltahead cimport Fields, made, runs_of, tail_of
from taskgraph._native.loan cimport Loan
from taskgraph._native.slots cimport SlotTable

from taskgraph import trace

cdef enum:
    _MAX_FRAMES = 64    # changes in more places than this are gathered into one frame, which costs a copy of them

MAX_FRAMES = _MAX_FRAMES


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

    def repeat(self, generation, arrays, rest, pairs, slots, int newest, uint64_t cycle, boundary, checksum):
        """Set what is to be repeated: a snapshot that was just written.

        Parameters
        ----------
        generation : int
            Which wrote it.
        arrays : sequence of ndarray or None
            The state. They are kept until something else is repeated; `write` sees it where one has been resized.
            None: the snapshot came from another host, and so will those that follow.
        rest, pairs
            Of the head (`SlotHead.write`).
        slots : sequence of (int, Blocks, SlotHead)
            Of this process and for this task, each with room for it.
        newest, cycle, boundary, checksum : int
            Where it is, and which.
        """
        cdef OwnSlot own
        self.state, self.rest, self.pairs = None if arrays is None else Loan(arrays), rest, pairs
        self.slots = []
        self.newest = self.base = None
        for index, blocks, head in slots:
            own = OwnSlot()
            own.index, own.blocks, own.head = index, blocks, head
            own.memory = memoryview(own.blocks.loan.things[0])
            if own.index == newest:
                own.cycle, own.boundary, own.checksum = cycle, boundary, checksum
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
        self.slots, self.newest, self.base, self.state = [], None, None, None

    cpdef bint write(self, int64_t boundary, int64_t generation, int64_t note) except -1:
        """Copy the state into a slot: that of a boundary, with `note`.

        Returns
        -------
        bool
            False: nothing was written, and whoever does it in another way finds out why.
        """
        cdef OwnSlot own
        if self.state is None or not self.state.is_still():
            return False
        own = self.begin(boundary, generation)
        if own is None:
            return False
        try:
            own.blocks.take_in(self.state, self.newest.blocks, self.version)
            if trace.hook is not None:
                trace.hook("snapshot.middle", None)
            own.checksum = own.blocks.checksum(self.form)
            return self.complete(own, boundary, note)
        except BaseException:
            self.table.cancel(own.index, own.begun)
            raise

    cdef bint follows(self, const Fields* head, int64_t generation) noexcept:
        """Tell whether a header is that of a change of the newest snapshot, and all else in it is as it was."""
        cdef OwnSlot base = self.newest
        cdef int64_t parts
        if base is None or self.state is not None or generation != self.generation:
            return False
        parts = base.blocks.parts
        return (head.has_base and head.base_boundary == base.boundary and head.base_checksum == base.checksum
                and <int64_t>head.base_generation == generation and <int64_t>head.generation == generation
                and head.form == self.form and head.block == base.blocks.block
                and head.parts == parts and head.pairs == self.pairs
                and memcmp(tail_of(head), <const char*>self.rest + 8 * parts, len(self.rest) - 8 * parts) == 0)

    cdef bint take(self, const Fields* head, Loan message, int64_t generation) except -1:
        """Write to a slot what has arrived: a header which `follows`, and the bytes, in all frames but the first.

        Returns
        -------
        bool
            False: nothing was written, and whoever does it in another way finds out why.
        """
        cdef OwnSlot own = self.begin(head.boundary, generation)
        cdef bint good
        if own is None:
            return False
        try:
            good = own.blocks.take_runs(self.newest.blocks, runs_of(head), head.runs, message.spans + 1,
                                        message.count - 1, self.version)
            if trace.hook is not None:
                trace.hook("replicate.filled", None)
            own.checksum = own.blocks.checksum(self.form)
            if good and own.checksum == head.checksum:
                return self.complete(own, head.boundary, head.note)
        except BaseException:
            self.table.cancel(own.index, own.begun)
            raise
        self.table.cancel(own.index, own.begun)
        return False

    cpdef list change(self, bytes lead):
        """Return the frames of a copy of what was written last, to be sent to who has the one before.

        The frames but the first lend the memory of the slot. If it is written to before they have been sent, the
        receiver finds the checksum wrong.

        Parameters
        ----------
        lead
            Goes before the header.
        """
        cdef OwnSlot own = self.newest
        cdef Fields head
        cdef list runs = own.blocks.changes(), frames = []
        head.task, head.boundary, head.generation, head.note = self.task, own.boundary, self.generation, own.note
        head.form, head.checksum, head.block, head.nbytes = self.form, own.checksum, own.blocks.block, 0
        head.parts, head.pairs, head.has_base = own.blocks.parts, self.pairs, True
        head.base_boundary, head.base_generation = self.base.boundary, self.generation
        head.base_checksum = self.base.checksum
        for run in runs:
            at, nbytes = own.blocks.place(run)
            frames.append(own.memory[at:at + nbytes])
            head.nbytes += <uint64_t>nbytes
        if len(frames) > _MAX_FRAMES:
            frames = [b"".join(frames)]
        return [lead + made(&head, self.rest[8 * head.parts:], runs), *frames]

    cdef OwnSlot begin(self, int64_t boundary, int64_t generation):
        """Begin a slot for the next snapshot; None: there is none, or nothing to compare it with."""
        cdef OwnSlot own
        if generation != self.generation or generation < 0:
            return None
        if self.table.refuses(self.task, boundary, generation, self.room, generation) != 0:
            return None
        if self.newest is None or not self.table.is_whole(self.newest.index, self.newest.cycle):
            return None
        for own in self.slots:
            if self.table.is_free(own.index):
                break
        else:
            return None
        own.begun = self.table.begin(own.index, generation)
        if own.begun < 0:
            return None
        self.version += 1
        return own

    cdef bint complete(self, OwnSlot own, int64_t boundary, int64_t note) except -1:
        """Make a slot that was filled whole; return False where that cannot be."""
        cdef OwnSlot base = self.newest
        if self.table.is_whole(base.index, base.cycle):     # else it went while it was compared with
            own.head.write(own.begun, self.run, self.task, boundary, self.generation, note, self.form, own.checksum,
                           self.pairs, self.rest)
            if self.table.complete(own.index, own.begun, self.generation, boundary, self.generation) == 0:
                own.boundary, own.note, own.cycle, own.version = boundary, note, own.begun, self.version
                self.newest, self.base = own, base
                return True
        self.table.cancel(own.index, own.begun)
        return False


cdef object version_of(OwnSlot own):
    return own.version

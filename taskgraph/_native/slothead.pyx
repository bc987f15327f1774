"""The head of a slot's file: which snapshot the slot holds. What follows it says `taskgraph.backends.slot_file`.

The check covers the head and all that follows up to the end of the history. Readers believe nothing before it is right.
"""

cimport cython
from libc.stdint cimport int64_t, uint32_t, uint64_t
from libc.string cimport memcmp, memcpy, memset

from taskgraph._native.blockhash cimport hash_bytes
from taskgraph._native.loan cimport Loan

cdef packed struct Fields:
    char[8] magic
    uint64_t cycle
    char[16] run
    int64_t task
    int64_t boundary
    uint64_t generation
    int64_t note
    uint64_t form
    uint32_t block
    uint32_t parts
    uint32_t pairs
    uint32_t history_room
    uint64_t checksum
    char[152] unused
    uint64_t check

cdef char* MAGIC = b"tgsnap1"

SIZE = sizeof(Fields)


@cython.final
cdef class SlotHead:
    """The head of one slot, in its mapped memory.

    Parameters
    ----------
    memory
        Of the whole slot, writable; it stays exported as long as this object lives.
    block, parts, history_room : int
        Of the slot: bytes of a block, number of parts, pairs of history that there is room for.
    """
    def __cinit__(self, memory, uint32_t block, uint32_t parts, uint32_t history_room):
        self.loan = Loan([memory], True)
        self.block, self.parts, self.history_room = block, parts, history_room

    cpdef void write(self, uint64_t cycle, bytes run, int64_t task, int64_t boundary, uint64_t generation, int64_t note,
                     uint64_t form, uint64_t checksum, uint32_t pairs, bytes rest) except *:
        """Say which snapshot the slot holds.

        Parameters
        ----------
        run
            16 bytes.
        pairs, rest
            Of the history, and what follows the head up to its end.
        """
        cdef Fields* head = <Fields*>self.loan.spans[0].origin
        if sizeof(Fields) + <uint64_t>len(rest) > self.loan.spans[0].nbytes or len(run) != 16:
            raise ValueError(f"a head with {len(rest)} bytes more, of run {run!r}")
        memset(head, 0, sizeof(Fields))
        memcpy(head.magic, MAGIC, 8)
        memcpy(head.run, <char*>run, 16)
        head.cycle, head.task, head.boundary, head.generation = cycle, task, boundary, generation
        head.note, head.form, head.checksum = note, form, checksum
        head.block, head.parts, head.pairs, head.history_room = self.block, self.parts, pairs, self.history_room
        memcpy(head + 1, <char*>rest, len(rest))
        head.check = hash_bytes(head, sizeof(Fields) + len(rest))


def fields(bytes data not None, bytes run not None):
    """Return what a file's first bytes say of the snapshot, unchecked; None where they are no head, or of another run.

    Returns
    -------
    tuple of int or None
        (cycle, task, boundary, generation, note, form, block, parts, pairs, history_room, checksum).
    """
    cdef Fields head
    if <uint64_t>len(data) < sizeof(Fields):
        return None
    memcpy(&head, <char*>data, sizeof(Fields))
    if memcmp(head.magic, MAGIC, 8) != 0 or head.run[:16] != run:
        return None
    return (int(head.cycle), int(head.task), int(head.boundary), int(head.generation), int(head.note), int(head.form),
            int(head.block), int(head.parts), int(head.pairs), int(head.history_room), int(head.checksum))


def is_intact(bytes data not None):
    """Tell whether the check of a head, with all that it covers, is right."""
    cdef bytearray copy = bytearray(data)
    cdef Fields* head = <Fields*><char*>copy
    cdef uint64_t said
    if <uint64_t>len(copy) < sizeof(Fields):
        return False
    said = head.check
    head.check = 0
    return hash_bytes(head, len(copy)) == said

"""What one rank has heard of commits, and that the job is over, in a line of shared memory that outlives the process.

A line of 128 bytes has room for two records, used in turn, each with a check, so that a process killed in the middle of
one leaves the one before. Readers take the newest that is right.
"""

cimport cython
from libc.stdint cimport int64_t, uint64_t
from libc.string cimport memcpy

from taskgraph._native.blockhash cimport hash_bytes
from taskgraph._native.loan cimport Loan

cdef enum:
    KNOWN = 5           # fields of `Known`; then come generation and status of `Over`

LINE = 2 * sizeof(Record)


@cython.final
cdef class CommitLine:
    """The line of one rank, which nobody else writes.

    Parameters
    ----------
    memory
        Of the lines of all ranks of a host, writable; it stays exported as long as this object lives.
    index : int
        Of the rank among those of its host.
    """

    def __cinit__(self, memory, Py_ssize_t index):
        cdef int i
        self.loan = Loan([memory], True)
        if not 0 <= index < <Py_ssize_t>(self.loan.spans[0].nbytes // LINE):
            raise IndexError(index)
        self.records = <Record*>self.loan.spans[0].origin + 2 * index
        for i in range(FIELDS):
            self.last.fields[i] = -1
        self.last.fields[FIELDS - 1] = 0

    cpdef void heard(self, int64_t generation, int64_t safe, int64_t delivered, int64_t end_at, int64_t end) except *:
        """Write down what a commit said (the fields of `Known`), unless more is written there already."""
        cdef int64_t said[KNOWN]
        cdef int i
        said[0], said[1], said[2], said[3], said[4] = generation, safe, delivered, end_at, end
        for i in range(KNOWN):
            if said[i] != self.last.fields[i]:
                break
        else:
            return
        if said[i] > self.last.fields[i]:
            memcpy(self.last.fields, said, sizeof(said))
            self.write()

    def mark_over(self, int64_t generation, int64_t status):
        """Write down that a generation of the job is over."""
        self.last.fields[KNOWN], self.last.fields[KNOWN + 1] = generation, status
        self.write()

    cdef void write(self) noexcept:
        self.last.check = hash_bytes(self.last.fields, sizeof(self.last.fields)) | 1    # never 0, as fresh memory is
        self.records[self.turn] = self.last
        self.turn = 1 - self.turn


def read(memory):
    """Return the records that are right, each as (generation, safe, delivered, end_at, end, over, status)."""
    cdef Loan loan = Loan([memory])
    cdef Record record
    cdef uint64_t i
    cdef list found = []
    for i in range(loan.spans[0].nbytes // sizeof(Record)):
        record = (<Record*>loan.spans[0].origin)[i]
        if record.check == hash_bytes(record.fields, sizeof(record.fields)) | 1:
            found.append(tuple([int(field) for field in record.fields]))
    return found

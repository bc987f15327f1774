"""The bytes of a slot in blocks: copied, compared with the snapshot before, and hashed, in one pass without the GIL.

A snapshot is a row of *parts* (arrays, then byte strings), each cut into blocks of the same size, the last one shorter.
A slot has room for each part, where it starts on a line of 64 bytes, and a table of the hashes of all blocks.

Rule 1: of each block this process knows the *version*: the number of the write that gave it its content, 0 for unknown.
Equal versions of a block in two slots mean equal bytes. So a slot that held a snapshot of three boundaries ago takes
in only what changed since. Versions are private: they are worth nothing to another process, which starts at 0.
Rule 2: a block that equals the base's is copied from the base, with the base's hash. Never from the source, which
somebody may be writing to, nor is the base hashed again, so what was damaged in it keeps a hash that tells.
Rule 3: a hash is of what was stored, taken in the same pass.
"""

cimport cython
from libc.stdint cimport uint8_t, uint64_t
from libc.stdlib cimport calloc, free, malloc
from libc.string cimport memcmp, memcpy, memset

from taskgraph._native.blockhash cimport copy_and_hash, drain_stores, hash_bytes
from taskgraph._native.deltahead cimport Run
from taskgraph._native.loan cimport Loan, Span

cdef enum:
    LINE = 64
    STREAM_BYTES = 4 << 20      # slots from this size on are copied past the caches
    STREAM_ALIGNED = 16


cdef inline uint64_t blocks_of(uint64_t nbytes, uint64_t block) noexcept nogil:
    return nbytes // block + (nbytes % block != 0)


@cython.final
cdef class Blocks:
    """The parts of one slot, in its mapped memory.

    Parameters
    ----------
    memory
        Of the whole slot; it stays exported as long as this object lives. Writable, unless the slot is another's.
    block : int
        Bytes of a block, a multiple of 1024.
    rooms, starts : sequence of int
        For each part the bytes that it may have, and where it begins in `memory`: a multiple of 64.
    hashes_at : int
        Where the table of hashes begins: a multiple of 8.
    lengths : sequence of int, optional
        Bytes of each part of the snapshot that is there.

    Raises
    ------
    ValueError
        Something of this does not fit into the memory.
    """
    def __cinit__(self, memory, uint64_t block, rooms, starts, uint64_t hashes_at, lengths=None, bint writable=True):
        cdef Py_ssize_t i
        cdef uint64_t size, end
        self.loan = Loan([memory], writable)
        self.memory = self.loan.spans[0].origin
        size = self.loan.spans[0].nbytes
        self.block = block
        self.parts = len(rooms)
        if block == 0 or block % 1024 or len(starts) != self.parts:
            raise ValueError(f"blocks of {block} bytes, {self.parts} parts, {len(starts)} starts")
        self.rooms = <uint64_t*>calloc(4 * (self.parts + 1), sizeof(uint64_t))
        if self.rooms == NULL:
            raise MemoryError
        self.starts = self.rooms + self.parts + 1
        self.firsts = self.starts + self.parts + 1
        self.lengths = self.firsts + self.parts + 1
        for i in range(self.parts):
            self.rooms[i] = rooms[i]
            self.starts[i] = starts[i]
            if self.starts[i] % LINE or self.starts[i] > size or self.rooms[i] > size - self.starts[i]:
                raise ValueError(f"part {i} has {rooms[i]} bytes at {starts[i]} of {size}")
            self.firsts[i + 1] = self.firsts[i] + blocks_of(self.rooms[i], block)
        end = self.firsts[self.parts]
        if hashes_at % 8 or hashes_at > size or end > (size - hashes_at) // 8:
            raise ValueError(f"{end} hashes at {hashes_at} of {size}")
        self.hashes = <uint64_t*>(self.memory + hashes_at)
        self.versions = <uint64_t*>calloc(end + 1, sizeof(uint64_t))
        self.changed = <uint8_t*>calloc(end + 1, 1)
        if self.versions == NULL or self.changed == NULL:
            raise MemoryError
        self.stream = size >= STREAM_BYTES
        if lengths is not None:
            self.set_lengths(lengths)

    def __dealloc__(self):
        free(self.rooms)
        free(self.versions)
        free(self.changed)

    cdef int set_lengths(self, lengths) except -1:
        cdef Py_ssize_t i
        if len(lengths) != self.parts:
            raise ValueError(f"{len(lengths)} parts for a slot of {self.parts}")
        for i in range(self.parts):
            self.set_length(i, lengths[i])
        return 0

    cdef int set_length(self, Py_ssize_t part, uint64_t nbytes) except -1:
        if nbytes > self.rooms[part]:
            raise ValueError(f"part {part} of {nbytes} bytes does not fit into {self.rooms[part]}")
        self.lengths[part] = nbytes
        return 0

    def write(self, parts, Blocks base, uint64_t version):
        """Take in a snapshot. Afterwards `changes` tells what was not the same in the base.

        Parameters
        ----------
        parts : sequence of ndarray or bytes
            The state. Arrays are contiguous, in either order.
        base : Blocks or None
            Snapshot to compare with: not this slot, and not written to meanwhile.
        version : int
            Number of this write, above that of all before of this process for this task.
        """
        self.take_in(Loan(parts), base, version)

    cdef int take_in(self, Loan loan, Blocks base, uint64_t version) except -1:
        """Do as `write`, with parts that are pinned already."""
        cdef Py_ssize_t i
        if loan.count != self.parts:
            raise ValueError(f"{loan.count} parts for a slot of {self.parts}")
        for i in range(self.parts):
            self.set_length(i, loan.spans[i].nbytes)
        self.check_base(base)
        with nogil:
            for i in range(self.parts):
                self.write_part(i, loan.spans[i].origin, base, version)
            drain_stores()
        return 0

    cdef int check_base(self, Blocks base) except -1:
        if base is not None and (base is self or base.parts != self.parts or base.block != self.block):
            raise ValueError(f"a base of {base.parts} parts in blocks of {base.block}")
        return 0

    cdef void write_part(self, Py_ssize_t part, char* source, Blocks base, uint64_t version) noexcept nogil:
        cdef uint64_t i, n, at, number, length = self.lengths[part]
        cdef char* target = self.memory + self.starts[part]
        for i in range(blocks_of(length, self.block)):
            at = i * self.block
            n = min(self.block, length - at)
            number = self.firsts[part] + i
            if self.in_base(base, part, i, n) and memcmp(source + at, base.memory + base.starts[part] + at, n) == 0:
                self.keep(base, part, i, n, version)
            else:
                self.hashes[number] = copy_and_hash(target + at, source + at, n, self.stream)
                self.versions[number] = version
                self.changed[number] = True

    cdef bint in_base(self, Blocks base, Py_ssize_t part, uint64_t i, uint64_t nbytes) noexcept nogil:
        """Tell whether the base has a block of this number and size."""
        cdef uint64_t at = i * self.block
        return base is not None and at < base.lengths[part] and min(self.block, base.lengths[part] - at) == nbytes

    cdef void keep(self, Blocks base, Py_ssize_t part, uint64_t i, uint64_t nbytes, uint64_t version) noexcept nogil:
        """Make a block what it is in the base, unless it is already (rules 1 and 2)."""
        cdef uint64_t number = self.firsts[part] + i, other = base.firsts[part] + i, at = i * self.block
        self.changed[number] = False
        if base.versions[other] == 0:
            base.versions[other] = version
        if self.versions[number] != base.versions[other]:
            memcpy(self.memory + self.starts[part] + at, base.memory + base.starts[part] + at, nbytes)
            self.hashes[number] = base.hashes[other]
            self.versions[number] = base.versions[other]

    def apply(self, lengths, runs, frames, Blocks base, uint64_t version):
        """Take in what changed of a snapshot since the base.

        Parameters
        ----------
        lengths : sequence of int
            Bytes of each part of the snapshot.
        runs : sequence of tuple of int
            (part, first block, number of blocks), as `changes` returns them.
        frames : sequence of bytes-like
            The bytes of those blocks, one after the other, cut anywhere.
        base, version
            As for `write`. None: everything has to be in the runs.

        Returns
        -------
        bool
            False where these do not fit together; the slot then holds nothing of use.
        """
        cdef Loan loan = Loan(frames)
        cdef uint64_t reached = 0
        self.set_lengths(lengths)
        memset(self.changed, 0, self.firsts[self.parts])
        for part, first, count in runs:
            if not self.mark(part, first, count, &reached):
                return False
        return bool(self.take_marked(base, loan.spans, loan.count, version))

    cdef bint take_runs(self, Blocks base, const Run* runs, uint64_t count, Span* frames, Py_ssize_t left,
                        uint64_t version) except -1:
        """Do as `apply`, with parts that are as long as those of the base, and frames that are pinned already."""
        cdef Py_ssize_t part
        cdef uint64_t i, reached = 0
        self.check_base(base)
        for part in range(self.parts):
            self.set_length(part, base.lengths[part])
        memset(self.changed, 0, self.firsts[self.parts])
        for i in range(count):
            if not self.mark(runs[i].part, runs[i].first, runs[i].count, &reached):
                return False
        return self.take_marked(base, frames, left, version)

    cdef bint mark(self, uint64_t part, uint64_t first, uint64_t count, uint64_t* reached) noexcept:
        """Set a run of `changed`, above what was `reached`; return False where it lies elsewhere."""
        if part >= <uint64_t>self.parts or count == 0:
            return False
        if first >= blocks_of(self.lengths[part], self.block):
            return False
        if count > blocks_of(self.lengths[part], self.block) - first or self.firsts[part] + first < reached[0]:
            return False
        reached[0] = self.firsts[part] + first + count
        memset(self.changed + self.firsts[part] + first, 1, count)
        return True

    cdef bint take_marked(self, Blocks base, Span* frames, Py_ssize_t left, uint64_t version) except -1:
        """Take what is marked as changed from frames, and the rest from the base."""
        cdef Py_ssize_t part
        cdef Stream stream
        cdef bint good = True
        cdef char* scratch
        self.check_base(base)
        scratch = <char*>malloc(self.block)
        if scratch == NULL:
            raise MemoryError
        stream.spans, stream.left, stream.at, stream.scratch = frames, left, 0, scratch
        with nogil:
            for part in range(self.parts):
                good = good and self.apply_part(part, &stream, base, version)
            drain_stores()
        free(scratch)
        return good and exhausted(&stream)

    cdef bint apply_part(self, Py_ssize_t part, Stream* stream, Blocks base, uint64_t version) noexcept nogil:
        cdef uint64_t i, n, number, length = self.lengths[part]
        cdef char* target = self.memory + self.starts[part]
        cdef char* source
        for i in range(blocks_of(length, self.block)):
            n = min(self.block, length - i * self.block)
            number = self.firsts[part] + i
            if not self.changed[number]:
                if not self.in_base(base, part, i, n):
                    return False
                self.keep(base, part, i, n, version)
                continue
            source = pull(stream, n)
            if source == NULL:
                return False
            self.hashes[number] = copy_and_hash(target + i * self.block, source, n, self.stream)
            self.versions[number] = version
        return True

    cpdef list changes(self):
        """Return the blocks that the last `write` or `apply` found changed: (part, first block, number of blocks)."""
        cdef Py_ssize_t part
        cdef uint64_t i, first, count
        cdef list runs = []
        for part in range(self.parts):
            first, i, count = self.firsts[part], 0, blocks_of(self.lengths[part], self.block)
            while i < count:
                if not self.changed[first + i]:
                    i += 1
                    continue
                begin = i
                while i < count and self.changed[first + i]:
                    i += 1
                runs.append((int(part), int(begin), int(i - begin)))
        return runs

    def everything(self):
        """Return the runs of all blocks."""
        cdef Py_ssize_t part
        return [(int(part), 0, int(blocks_of(self.lengths[part], self.block)))
                for part in range(self.parts) if self.lengths[part]]

    cpdef tuple place(self, tuple run):
        """Return (offset in memory, bytes) of a run."""
        cdef uint64_t part = run[0], first = run[1], count = run[2]
        if part >= <uint64_t>self.parts or first + count > blocks_of(self.lengths[part], self.block):
            raise IndexError(run)
        return (int(self.starts[part] + first * self.block),
                int(min((first + count) * self.block, self.lengths[part]) - first * self.block))

    cpdef uint64_t checksum(self, uint64_t form) noexcept:
        """Return the checksum of the snapshot: of its form, and the lengths and hashes of its parts."""
        cdef Py_ssize_t part
        for part in range(self.parts):
            form = join(form, self.lengths[part], hash_bytes(
                self.hashes + self.firsts[part], 8 * blocks_of(self.lengths[part], self.block)))
        return form

    def read(self, uint64_t form, targets=None):
        """Copy the snapshot out, or only look at it, and return the checksum of what was found.

        Parameters
        ----------
        form : int
            As for `checksum`: where the content is intact, so is the result.
        targets : sequence of ndarray or bytearray, optional
            Writable and contiguous, each of the length of its part. None: copy nothing.
        """
        cdef Loan loan = Loan([] if targets is None else targets, True)
        cdef Py_ssize_t part
        cdef uint64_t most = 0
        cdef uint64_t* hashes
        for part in range(self.parts):
            most = max(most, blocks_of(self.lengths[part], self.block))
            if targets is not None and (loan.count != self.parts or loan.spans[part].nbytes != self.lengths[part]):
                raise ValueError(f"part {part} of {self.lengths[part]} bytes does not go into what was given")
        hashes = <uint64_t*>malloc(8 * most + 8)
        if hashes == NULL:
            raise MemoryError
        with nogil:
            for part in range(self.parts):
                self.read_part(part, NULL if targets is None else loan.spans[part].origin, hashes)
                form = join(form, self.lengths[part], hash_bytes(hashes, 8 * blocks_of(self.lengths[part], self.block)))
        free(hashes)
        return int(form)

    cdef void read_part(self, Py_ssize_t part, char* target, uint64_t* hashes) noexcept nogil:
        cdef uint64_t i, at, n, length = self.lengths[part]
        cdef char* source = self.memory + self.starts[part]
        cdef bint stream = self.stream and <uint64_t>target % STREAM_ALIGNED == 0
        for i in range(blocks_of(length, self.block)):
            at = i * self.block
            n = min(self.block, length - at)
            if target == NULL:
                hashes[i] = hash_bytes(source + at, n)
            else:
                hashes[i] = copy_and_hash(target + at, source + at, n, stream)
        drain_stores()


cdef char* pull(Stream* stream, uint64_t nbytes) noexcept nogil:
    """Return the next bytes, at most a block, in one piece. NULL where so many are not left."""
    cdef uint64_t got = 0, n
    cdef char* piece
    while stream.left:
        n = min(nbytes - got, stream.spans.nbytes - stream.at)
        piece = stream.spans.origin + stream.at
        stream.at += n
        if n == nbytes:
            return piece
        memcpy(stream.scratch + got, piece, n)
        got += n
        if got == nbytes:
            return stream.scratch
        stream.spans += 1
        stream.left -= 1
        stream.at = 0
    return NULL


cdef bint exhausted(Stream* stream) noexcept nogil:
    while stream.left and stream.at == stream.spans.nbytes:
        stream.spans += 1
        stream.left -= 1
        stream.at = 0
    return stream.left == 0


cdef uint64_t join(uint64_t before, uint64_t length, uint64_t hashes) noexcept nogil:
    cdef uint64_t three[3]
    three[0], three[1], three[2] = before, length, hashes
    return hash_bytes(three, 24)

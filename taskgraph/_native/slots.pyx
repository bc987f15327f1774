"""The states of a host's slots, and its floor: words in shared memory that any process may change, and none can hold.

One file, a header of two lines of 64 bytes, then a line for each slot::

    header   0: magic   8: number of slots   16: run (16 bytes)      64: floor   72: slots ever used
             80: boundary held back, plus 1
    slot     0: word (`slotword.pxd`)   8: owner   16: task   24: boundary   32: generation that wrote
             40: check of 16 to 39 and of the word's cycle

Theory of operation. Whatever changes a slot is one compare-and-swap of its word, so a process that is killed or stopped
anywhere leaves the word before or after it, and nobody waits for anybody.

Rule 1: the *fence* is the lowest generation that may still change the slot. `begin` sets it to the generation that
begins; `complete` wants it unchanged; `free` wants it at or below the caller's.
Rule 2: `raise_floor(g)` stores the floor, then lifts every fence to g, and refuses what an older generation is writing.
When it has returned, a `begin`, `complete` or `free` of an older generation either swapped its word before the fence
was lifted, and shows in what is listed now, or finds the fence and is refused: floor and state are one step.
Rule 3: a slot that is being added appears in `used` first, and takes its fence from the floor last. A `raise_floor`
that did not see it in `used` had stored the floor before that, so the slot finds it. It is begun by nobody before.
Rule 4: a raise does all of this also where the floor is high enough already: who stored it may have been stopped.
Rule 5: the *cycle* counts up with each new content and each new owner, so a word that was read once and is the same
again means that nothing was written between: readers look, read, and look again.
Rule 6: a slot changes hands only when its owner is gone for good. `take` passes through TAKING, where the old owner's
name still stands, and which therefore nobody else may take from.

What else is in a slot is written by its owner, between changes of the word.
"""

cimport cython
from cpython.buffer cimport PyBUF_WRITABLE, PyBuffer_Release, PyObject_GetBuffer
from libc.stdint cimport int64_t, uint64_t
from libc.string cimport memcpy

from taskgraph._native.blockhash cimport hash_bytes
from taskgraph._native.slotword cimport (
    CYCLES, _DAMAGED, _EMPTY, _FREE, _MAKING, _REFUSED, _TAKING, _WHOLE, _WRITING,
    cycle_of, fence, fence_of, lift, load, state_of, store, swap, word_of,
)

cdef enum:
    LINE = 64
    WORDS = 8               # of a line
    MAGIC = 0x31746f6c73677431
    OWNER = 1
    TASK = 2
    BOUNDARY = 3
    GENERATION = 4
    CHECK = 5
    HELD_BACK = 2

EMPTY, TAKING, MAKING, FREE, WRITING, WHOLE, REFUSED, DAMAGED = (
    _EMPTY, _TAKING, _MAKING, _FREE, _WRITING, _WHOLE, _REFUSED, _DAMAGED)
FENCED, GONE, HELD, FULL = _FENCED, _GONE, _HELD, _FULL
NOBODY = (1 << 64) - 1
MAX_GENERATION = (1 << 32) - 1


cdef int check_generation(uint64_t generation) except -1:
    if generation > <uint64_t>MAX_GENERATION:
        raise ValueError(f"generation={generation} is above {MAX_GENERATION}")
    return 0


cdef void lift_fence(uint64_t* word, uint64_t generation) noexcept nogil:
    """Let no older generation change the slot. A swap that fails means that another process got on, so this ends."""
    cdef uint64_t now, state
    while True:
        now = load(word)
        state = state_of(now)
        if state == _DAMAGED or fence_of(now) >= generation:
            return
        if state == _WRITING:
            state = _REFUSED
        if swap(word, now, word_of(generation, cycle_of(now), state)):
            return


@cython.final
cdef class SlotTable:
    """The words of all slots of a host.

    Parameters
    ----------
    memory
        The mapped file, writable. It stays exported as long as this object lives.

    Raises
    ------
    ValueError
        It is no table, or of another size than it says.
    """
    def __cinit__(self, memory):
        PyObject_GetBuffer(memory, &self.view, PyBUF_WRITABLE)
        self.exported = True
        self.words = <uint64_t*>self.view.buf
        if self.view.len < 2 * LINE or self.words[0] != MAGIC or <uint64_t>self.view.len // LINE - 2 != self.words[1] \
                or self.view.len % LINE:
            raise ValueError(f"{self.view.len} bytes that are no table of slots")
        self.capacity = <int>self.words[1]

    def __dealloc__(self):
        if self.exported:
            PyBuffer_Release(&self.view)

    @staticmethod
    def fresh(int capacity, bytes run):
        """Return the content of a new table: so many empty slots, of the run that these 16 bytes name."""
        cdef bytearray content = bytearray((2 + capacity) * LINE)
        cdef uint64_t head[2]
        head[0] = MAGIC
        head[1] = capacity
        memcpy(<char*>content, head, 16)
        content[16:32] = run[:16].ljust(16, b"\0")
        return bytes(content)

    @property
    def run(self):
        """The 16 bytes that name the run."""
        return (<char*>self.words)[16:32]

    @property
    def floor(self):
        """The lowest generation that may still change a slot."""
        return load(self.words + WORDS)

    cpdef bint admits(self, uint64_t generation) noexcept:
        """Tell whether a generation is not below the floor."""
        return load(self.words + WORDS) <= generation

    @property
    def held_back(self):
        """The boundary whose snapshots `free_below` leaves, for somebody who copies them elsewhere; -1: none."""
        return <int64_t>load(self.words + WORDS + HELD_BACK) - 1

    @held_back.setter
    def held_back(self, int64_t boundary):
        store(self.words + WORDS + HELD_BACK, <uint64_t>(boundary + 1))

    def raise_floor(self, uint64_t generation):
        """Let no generation below this one begin, complete or free a slot from now on (rules 2 and 4)."""
        cdef uint64_t i, used
        check_generation(generation)
        with nogil:
            lift(self.words + WORDS, generation)
            used = self.used()
            for i in range(used):
                lift_fence(self.line(i), generation)

    cdef uint64_t used(self) noexcept nogil:
        return min(load(self.words + WORDS + 1), <uint64_t>self.capacity)

    cdef uint64_t* line(self, uint64_t index) noexcept nogil:
        return self.words + (2 + index) * WORDS

    cdef uint64_t* at(self, int index) except NULL:
        if not 0 <= index < self.capacity:
            raise IndexError(index)
        return self.line(index)

    def look(self, int index):
        """Return (state, fence, cycle) of a slot, of one moment."""
        cdef uint64_t word = load(self.at(index))
        return int(state_of(word)), int(fence_of(word)), int(cycle_of(word))

    # ---- whose a slot is ----

    def add(self, int64_t task, uint64_t owner):
        """Take an empty entry for a slot of a task. Return its index, -1 where there is none; its state is MAKING."""
        cdef int i
        cdef uint64_t now
        for i in range(self.capacity):
            now = load(self.line(i))
            if state_of(now) == _EMPTY and self.seize(i, now, task, owner):
                return i
        return -1

    def take(self, int index, uint64_t cycle, int64_t task, uint64_t owner):
        """Take over a slot that is not whole and whose owner, seen in this cycle, is gone for good, or is the caller.

        Return whether it is now the caller's, in state MAKING; else somebody was faster.
        """
        cdef uint64_t now = load(self.at(index)), state = state_of(now)
        if state not in (_MAKING, _FREE, _WRITING, _REFUSED) or cycle_of(now) != cycle:
            return False
        return self.seize(index, now, task, owner)

    cdef bint seize(self, int index, uint64_t now, int64_t task, uint64_t owner) noexcept:
        cdef uint64_t* word = self.line(index)
        cdef uint64_t before = state_of(now), cycle = cycle_of(now)
        cdef uint64_t next_cycle = (cycle + 1) % CYCLES
        lift(self.words + WORDS + 1, index + 1)           # rule 3: first of all
        while not swap(word, now, word_of(fence_of(now), next_cycle, _TAKING)):
            now = load(word)                              # lifting a fence may come between, and nothing else
            if cycle_of(now) != cycle:
                return False
            if state_of(now) != before and not (before == _WRITING and state_of(now) == _REFUSED):
                return False
        store(word + OWNER, owner)
        store(word + TASK, <uint64_t>task)
        return self.move(index, next_cycle, _TAKING, _MAKING)

    def settle(self, int index):
        """The memory of a slot in state MAKING is there: make it FREE, its fence at the floor (rule 3)."""
        cdef uint64_t* word = self.at(index)
        cdef uint64_t floor
        if not self.move(index, cycle_of(load(word)), _MAKING, _FREE):
            return False
        while True:
            floor = load(self.words + WORDS)
            lift_fence(word, floor)
            if load(self.words + WORDS) == floor:
                return True

    def give_back(self, int index, uint64_t cycle):
        """Make the entry of a slot of the caller, which is not whole and whose memory is gone, an empty one."""
        cdef int state = state_of(load(self.at(index)))
        return state in (_MAKING, _FREE, _REFUSED) and self.move(index, cycle, state, _EMPTY)

    def disown(self, int index):
        """Let others have a slot of the caller, who will never write to it again."""
        store(self.at(index) + OWNER, NOBODY)

    def owner(self, int index):
        """Return whose the slot is: what was given to `add` or `take`, or NOBODY."""
        return load(self.at(index) + OWNER)

    cdef bint move(self, int index, uint64_t cycle, uint64_t before, uint64_t after) noexcept nogil:
        """Change the state within one cycle, whatever the fence is meanwhile lifted to. For the slot's owner."""
        cdef uint64_t* word = self.line(index)
        cdef uint64_t now
        while True:
            now = load(word)
            if state_of(now) != before or cycle_of(now) != cycle:
                return False
            if swap(word, now, word_of(fence_of(now), cycle, after)):
                return True

    # ---- one snapshot ----

    cpdef int64_t begin(self, int index, uint64_t generation) except? -9:
        """Begin to write to a slot of the caller.

        Return the cycle, or FENCED where the generation is over, or GONE where the slot is neither free nor refused.
        """
        cdef uint64_t* word = self.at(index)
        cdef uint64_t now, cycle
        check_generation(generation)
        while True:
            now = load(word)
            if state_of(now) not in (_FREE, _REFUSED):
                return _GONE
            if fence_of(now) > generation or load(self.words + WORDS) > generation:
                return _FENCED
            cycle = (cycle_of(now) + 1) % CYCLES
            if swap(word, now, word_of(generation, cycle, _WRITING)):
                fence()                                   # nothing of the new content before the word
                return cycle

    cpdef int complete(self, int index, uint64_t cycle, uint64_t generation, int64_t boundary,
                       uint64_t wrote) except? -9:
        """Say that a slot that was begun is whole: snapshot of this boundary, written in generation `wrote`.

        Return 0, or FENCED where the generation is over.
        """
        cdef uint64_t* word = self.at(index)
        cdef uint64_t now = word_of(generation, cycle, _WRITING)
        store(word + BOUNDARY, <uint64_t>boundary)
        store(word + GENERATION, wrote)
        store(word + CHECK, self.stamp_check(word, cycle))
        # The swap releases all that was written before it. Nothing else but a fence changes a word that is WRITING.
        return 0 if swap(word, now, word_of(generation, cycle, _WHOLE)) else _FENCED

    cpdef void cancel(self, int index, uint64_t cycle) except *:
        """Give up what was begun. The slot can be begun again."""
        self.at(index)
        self.move(index, cycle, _WRITING, _REFUSED)

    def free(self, int index, uint64_t cycle, uint64_t generation):
        """Free the whole snapshot that was seen in this cycle.

        Return 0, FENCED where the generation is over, GONE where that snapshot is not there any more.
        """
        cdef uint64_t* word = self.at(index)
        cdef uint64_t now
        while True:
            now = load(word)
            if state_of(now) != _WHOLE or cycle_of(now) != cycle:
                return _GONE
            if fence_of(now) > generation:
                return _FENCED
            if swap(word, now, word_of(fence_of(now), cycle, _FREE)):
                return 0

    cpdef int free_below(self, int64_t boundary, uint64_t generation, int64_t task=-1) noexcept:
        """Free every whole snapshot of a boundary below this one and not held back, of all tasks or one.

        Return 0, or FENCED where the generation is over; some may have been freed by then.
        """
        cdef int i
        cdef uint64_t now, cycle
        cdef int64_t at, kept = <int64_t>load(self.words + WORDS + HELD_BACK) - 1
        cdef uint64_t* word
        for i in range(<int>self.used()):
            word = self.line(i)
            while True:
                now = load(word)
                at = <int64_t>load(word + BOUNDARY)
                if state_of(now) != _WHOLE or at >= boundary or at == kept:
                    break
                if task >= 0 and <int64_t>load(word + TASK) != task:
                    break
                cycle = cycle_of(now)
                if load(word + CHECK) != self.stamp_check(word, cycle):
                    break                                 # it changes this moment, or is damaged
                if fence_of(now) > generation:
                    return _FENCED
                if swap(word, now, word_of(fence_of(now), cycle, _FREE)):
                    break
        return 0

    cpdef bint is_whole(self, int index, uint64_t cycle) except -1:
        """Tell whether what was read since the cycle was looked up is all of that snapshot (rule 5)."""
        fence()
        cdef uint64_t now = load(self.at(index))
        return state_of(now) == _WHOLE and cycle_of(now) == cycle

    def whole(self, int64_t task=-1):
        """Return (index, cycle, task, boundary, generation) of all whole slots, or those of one task."""
        cdef int i
        cdef uint64_t now, cycle
        cdef int64_t found
        cdef uint64_t* word
        cdef list result = []
        for i in range(<int>self.used()):
            word = self.line(i)
            now = load(word)
            found = <int64_t>load(word + TASK)
            if (task >= 0 and found != task) or state_of(now) != _WHOLE:
                continue
            cycle = cycle_of(now)
            stamp = (i, int(cycle), int(found), int(<int64_t>load(word + BOUNDARY)), int(load(word + GENERATION)))
            if load(word + CHECK) == self.stamp_check(word, cycle) and self.is_whole(i, cycle):
                result.append(stamp)
        return result

    cpdef int refuses(self, int64_t task, int64_t boundary, uint64_t wrote, int room, uint64_t generation) noexcept:
        """Tell why a snapshot of a task is not begun in a generation; 0: it may be.

        FENCED: the generation is over. HELD: it is here. FULL: there are `room` whole ones of the task.
        """
        cdef int i, count = 0
        cdef uint64_t now
        cdef uint64_t* word
        if load(self.words + WORDS) > generation:
            return _FENCED
        for i in range(<int>self.used()):
            word = self.line(i)
            now = load(word)
            if <int64_t>load(word + TASK) != task or state_of(now) != _WHOLE:
                continue
            if load(word + CHECK) != self.stamp_check(word, cycle_of(now)):
                continue
            if <int64_t>load(word + BOUNDARY) == boundary and load(word + GENERATION) == wrote:
                return _HELD
            count += 1
        return _FULL if count >= room else 0

    cpdef bint is_free(self, int index) except -1:
        """Tell whether a slot of the caller can be begun."""
        return state_of(load(self.at(index))) in (_FREE, _REFUSED)

    def others(self, int64_t task=-1):
        """Return (index, cycle, task, owner, state) of all slots that are not whole, or those of one task."""
        cdef int i
        cdef uint64_t now, state
        cdef int64_t found
        cdef list result = []
        for i in range(<int>self.used()):
            now = load(self.line(i))
            state = state_of(now)
            found = <int64_t>load(self.line(i) + TASK)
            if state in (_MAKING, _FREE, _WRITING, _REFUSED) and (task < 0 or found == task):
                result.append((i, int(cycle_of(now)), int(found), int(load(self.line(i) + OWNER)), int(state)))
        return result

    cdef uint64_t stamp_check(self, uint64_t* word, uint64_t cycle) noexcept nogil:
        cdef uint64_t stamp[4]
        memcpy(stamp, word + TASK, 24)
        stamp[3] = cycle
        return hash_bytes(stamp, 32)

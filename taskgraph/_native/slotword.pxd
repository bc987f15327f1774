"""The word of a slot, in shared memory: its state, changed by one compare-and-swap.

::

    fence (32 bits) | cycle (20) | state (4) | CRC-8 of the rest

What is no word of ours reads as DAMAGED: polynomial 0x97 notices up to three wrong bits for sure. A word of zeros is
EMPTY. All accesses are sequentially consistent.
"""

from libc.stdint cimport uint64_t

cdef enum State:
    _EMPTY = 0              # no slot: an entry never used, or given back
    _TAKING = 1             # changing hands
    _MAKING = 2             # its owner makes the memory
    _FREE = 3
    _WRITING = 4
    _WHOLE = 5
    _REFUSED = 6            # was being written when its generation ended; free in all but name
    _DAMAGED = 15

cdef enum:
    CYCLES = 1 << 20

cdef extern from *:
    """
    #include <stdatomic.h>
    #include <stdint.h>

    static inline uint64_t tg_load(uint64_t *word)
    {
        return atomic_load((_Atomic uint64_t *)word);
    }

    static inline void tg_store(uint64_t *word, uint64_t value)
    {
        atomic_store((_Atomic uint64_t *)word, value);
    }

    static inline int tg_swap(uint64_t *word, uint64_t before, uint64_t after)
    {
        return atomic_compare_exchange_strong((_Atomic uint64_t *)word, &before, after);
    }

    static inline void tg_lift(uint64_t *word, uint64_t value)
    {
        uint64_t now = atomic_load((_Atomic uint64_t *)word);
        while (now < value && !atomic_compare_exchange_weak((_Atomic uint64_t *)word, &now, value)) {}
    }

    /* Neither plain stores after it overtake a swap before it, nor plain loads before it a look after it. */
    static inline void tg_fence(void)
    {
        atomic_thread_fence(memory_order_seq_cst);
    }

    static inline uint64_t tg_word(uint64_t fence, uint64_t cycle, uint64_t state)
    {
        static const uint8_t table[16] = {  /* CRC-8 of a half byte */
            0x00, 0x97, 0xb9, 0x2e, 0xe5, 0x72, 0x5c, 0xcb, 0x5d, 0xca, 0xe4, 0x73, 0xb8, 0x2f, 0x01, 0x96,
        };
        uint64_t body = fence << 32 | (cycle & 0xfffff) << 12 | (state & 15) << 8;
        uint8_t check = 0;
        for (int shift = 60; shift >= 8; shift -= 4)
            check = (uint8_t)(check << 4) ^ table[(check >> 4 ^ body >> shift) & 15];
        return body | check;
    }

    static inline uint64_t tg_state(uint64_t word)
    {
        return word == tg_word(word >> 32, word >> 12, word >> 8) ? word >> 8 & 15 : 15;
    }

    static inline uint64_t tg_cycle(uint64_t word) { return word >> 12 & 0xfffff; }
    static inline uint64_t tg_word_fence(uint64_t word) { return word >> 32; }
    """
    uint64_t load "tg_load"(uint64_t* word) noexcept nogil
    void store "tg_store"(uint64_t* word, uint64_t value) noexcept nogil
    bint swap "tg_swap"(uint64_t* word, uint64_t before, uint64_t after) noexcept nogil
    void lift "tg_lift"(uint64_t* word, uint64_t value) noexcept nogil
    void fence "tg_fence"() noexcept nogil
    uint64_t word_of "tg_word"(uint64_t fence, uint64_t cycle, uint64_t state) noexcept nogil
    uint64_t state_of "tg_state"(uint64_t word) noexcept nogil
    uint64_t cycle_of "tg_cycle"(uint64_t word) noexcept nogil
    uint64_t fence_of "tg_word_fence"(uint64_t word) noexcept nogil

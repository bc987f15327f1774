"""A 64-bit hash of a block of memory, and the copy that takes it on its way.

The loop is that of XXH3 (Yann Collet, xxHash 0.8): eight lanes, each adding the 32x32-bit product of a keyed word and
its neighbour's word, scrambled every 1024 bytes, folded by 128-bit products. Kept out are its short forms: what is left
at the end is filled up with zeros to a stripe, and the length goes into the fold. The keys are the first outputs of
splitmix64. So the values are ours, the same on every little-endian machine.

Why it notices every single wrong byte, and not just most: a word enters its neighbour's lane by addition, and all that
a lane goes through afterwards, addition and scramble, is a bijection; so one lane at least ends different. Only the
fold can hide that, once in 2^64.
"""

from libc.stdint cimport uint64_t

cdef extern from *:
    """
    #include <stdint.h>
    #include <string.h>
    #if defined(__SSE2__)
    #  include <emmintrin.h>
    #endif

    static const uint64_t tg_key[24] = {
        0xe220a8397b1dcdafu, 0x6e789e6aa1b965f4u, 0x06c45d188009454fu, 0xf88bb8a8724c81ecu,
        0x1b39896a51a8749bu, 0x53cb9f0c747ea2eau, 0x2c829abe1f4532e1u, 0xc584133ac916ab3cu,
        0x3ee5789041c98ac3u, 0xf3b8488c368cb0a6u, 0x657eecdd3cb13d09u, 0xc2d326e0055bdef6u,
        0x8621a03fe0bbdb7bu, 0x8e1f7555983aa92fu, 0xb54e0f1600cc4d19u, 0x84bb3f97971d80abu,
        0x7d29825c75521255u, 0xc3cf17102b7f7f86u, 0x3466e9a083914f64u, 0xd81a8d2b5a4485acu,
        0xdb01602b100b9ed7u, 0xa9038a921825f10du, 0xedf5f1d90dca2f6au, 0x54496ad67bd2634cu,
    };

    #define TG_PRIME_32 0x9E3779B1u
    #define TG_PRIME_64 0x9E3779B185EBCA87u

    /* Hash `stripes` times 64 bytes, the first being number `index` of its block, and copy them unless `to` is NULL.
       Each word is loaded once, so what is hashed is what is stored, also if somebody writes to `from` meanwhile.
       `stream` stores past the caches: a large slot is not read again soon, and its old content need not be fetched. */
    static inline __attribute__((always_inline)) void tg_stripes(
        uint64_t lanes[8], char *to, const char *from, size_t stripes, size_t index, int stream)
    {
    #if defined(__SSE2__)
        __m128i acc[4], prime = _mm_set1_epi32((int)TG_PRIME_32);
        for (int k = 0; k < 4; k++) acc[k] = _mm_loadu_si128((const __m128i *)lanes + k);
        for (size_t i = 0; i < stripes; i++, index++) {
            const uint64_t *key = tg_key + (index & 15);
            for (int k = 0; k < 4; k++) {
                __m128i word = _mm_loadu_si128((const __m128i *)(from + 64 * i) + k);
                __m128i keyed = _mm_xor_si128(word, _mm_loadu_si128((const __m128i *)key + k));
                if (to && stream) _mm_stream_si128((__m128i *)(to + 64 * i) + k, word);
                else if (to) _mm_storeu_si128((__m128i *)(to + 64 * i) + k, word);
                acc[k] = _mm_add_epi64(acc[k], _mm_shuffle_epi32(word, 0x4e));
                acc[k] = _mm_add_epi64(acc[k], _mm_mul_epu32(keyed, _mm_srli_epi64(keyed, 32)));
            }
            if ((index & 15) == 15)
                for (int k = 0; k < 4; k++) {
                    __m128i mixed = _mm_xor_si128(acc[k], _mm_srli_epi64(acc[k], 47));
                    mixed = _mm_xor_si128(mixed, _mm_loadu_si128((const __m128i *)(tg_key + 16) + k));
                    acc[k] = _mm_add_epi64(_mm_mul_epu32(mixed, prime),
                                           _mm_slli_epi64(_mm_mul_epu32(_mm_srli_epi64(mixed, 32), prime), 32));
                }
        }
        for (int k = 0; k < 4; k++) _mm_storeu_si128((__m128i *)lanes + k, acc[k]);
    #else
        (void)stream;
        for (size_t i = 0; i < stripes; i++, index++) {
            uint64_t word[8];
            memcpy(word, from + 64 * i, 64);
            if (to) memcpy(to + 64 * i, word, 64);
            for (int k = 0; k < 8; k++) {
                uint64_t keyed = word[k] ^ tg_key[(index & 15) + k];
                lanes[k ^ 1] += word[k];
                lanes[k] += (keyed & 0xffffffffu) * (keyed >> 32);
            }
            if ((index & 15) == 15)
                for (int k = 0; k < 8; k++)
                    lanes[k] = (lanes[k] ^ lanes[k] >> 47 ^ tg_key[16 + k]) * TG_PRIME_32;
        }
    #endif
    }

    static inline __attribute__((always_inline)) uint64_t tg_pass(char *to, const char *from, size_t nbytes, int stream)
    {
        uint64_t lanes[8];
        size_t whole = nbytes / 64, rest = nbytes % 64;
        memcpy(lanes, tg_key, sizeof lanes);
        tg_stripes(lanes, to, from, whole, 0, stream);
        if (rest) {
            char last[64] = {0};
            memcpy(last, from + 64 * whole, rest);
            if (to) memcpy(to + 64 * whole, last, rest);
            tg_stripes(lanes, NULL, last, 1, whole, 0);
        }
        uint64_t hash = nbytes * TG_PRIME_64;
        for (int k = 0; k < 8; k += 2) {
            __uint128_t product = (__uint128_t)(lanes[k] ^ tg_key[8 + k]) * (lanes[k + 1] ^ tg_key[9 + k]);
            hash += (uint64_t)product ^ (uint64_t)(product >> 64);
        }
        hash ^= hash >> 37;
        hash *= 0x165667919E3779F9u;
        return hash ^ hash >> 32;
    }

    static inline uint64_t tg_hash(const void *from, size_t nbytes)
    {
        return tg_pass(NULL, (const char *)from, nbytes, 0);
    }

    /* For `stream`, `to` has to be aligned to 16 bytes, and `tg_drain` called before others are told to read it. */
    static inline uint64_t tg_copy_hash(void *to, const void *from, size_t nbytes, int stream)
    {
        if (stream) return tg_pass((char *)to, (const char *)from, nbytes, 1);
        return tg_pass((char *)to, (const char *)from, nbytes, 0);
    }

    static inline void tg_drain(void)
    {
    #if defined(__SSE2__)
        _mm_sfence();
    #endif
    }
    """
    uint64_t hash_bytes "tg_hash"(const void* origin, size_t nbytes) noexcept nogil
    uint64_t copy_and_hash "tg_copy_hash"(void* to, const void* origin, size_t nbytes, bint stream) noexcept nogil
    void drain_stores "tg_drain"() noexcept nogil

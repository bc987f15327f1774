"""The header of a snapshot on its way to another host."""

from libc.stdint cimport int64_t, uint32_t, uint64_t

cdef packed struct Fields:
    char[4] magic
    uint32_t block              # bytes of one
    int64_t task
    int64_t boundary
    uint64_t generation         # that wrote the snapshot
    int64_t note
    uint64_t form
    uint64_t checksum           # of the whole snapshot, when the changes have been applied
    uint64_t nbytes             # of all frames together
    uint32_t parts
    uint32_t pairs
    uint32_t runs
    uint32_t has_base
    int64_t base_boundary
    uint64_t base_generation
    uint64_t base_checksum

cdef struct Run:                # of changed blocks
    uint64_t part
    uint64_t first
    uint64_t count

cdef bytes made(const Fields* fields, bytes tail, list runs)
cdef const Fields* intact(const char* header, uint64_t nbytes) noexcept
cdef const char* tail_of(const Fields* fields) noexcept
cdef const Run* runs_of(const Fields* fields) noexcept

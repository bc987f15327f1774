"""The head of a slot's file; what it means says `taskgraph.backends.slot_file`, which reads it."""

from libc.stdint cimport int64_t, uint32_t, uint64_t

cdef packed struct SlotHead:
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

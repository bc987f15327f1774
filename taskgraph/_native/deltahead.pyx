"""The header of a snapshot on its way to another host: which it is, and what of it changed since which base.

::

    0        fields
    104      length of each part, pairs of the history: as behind the head of a slot
    ...      runs of changed blocks: part, first block, number of blocks
    ...      check, of all before it

The lengths decide how much memory is made, so nothing of a header is believed before its check is right.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from libc.stdint cimport int64_t, uint64_t
from libc.string cimport memcmp, memcpy

from taskgraph._native.blockhash cimport hash_bytes

import struct

cdef char* MAGIC = b"tgd2"


cdef bytes made(const Fields* fields, bytes tail, list runs):
    """Return a header. Of the fields, the magic and the number of runs are filled in."""
    cdef uint64_t size = sizeof(Fields) + <uint64_t>len(tail) + sizeof(Run) * <uint64_t>len(runs)
    cdef uint64_t check
    cdef bytes header = PyBytes_FromStringAndSize(NULL, size + sizeof(uint64_t))
    cdef char* start = PyBytes_AS_STRING(header)
    cdef char* at = start + sizeof(Fields)
    cdef Run run
    memcpy(start, fields, sizeof(Fields))
    memcpy((<Fields*>start).magic, MAGIC, 4)
    (<Fields*>start).runs = <int>len(runs)
    memcpy(at, PyBytes_AS_STRING(tail), len(tail))
    at += len(tail)
    for run.part, run.first, run.count in runs:
        memcpy(at, &run, sizeof(Run))
        at += sizeof(Run)
    check = hash_bytes(start, size)
    memcpy(at, &check, sizeof(uint64_t))
    return header


cdef const Fields* intact(const char* header, uint64_t nbytes) noexcept:
    """Return the fields of a header; NULL where the bytes are none."""
    cdef const Fields* fields = <const Fields*>header
    cdef uint64_t check
    if nbytes < sizeof(Fields) + sizeof(uint64_t):
        return NULL
    memcpy(&check, header + nbytes - sizeof(uint64_t), sizeof(uint64_t))
    if memcmp(fields.magic, MAGIC, 4) != 0 or hash_bytes(header, nbytes - sizeof(uint64_t)) != check:
        return NULL
    if nbytes != <const char*>(runs_of(fields) + fields.runs) - header + sizeof(uint64_t) or fields.has_base > 1:
        return NULL
    return fields


cdef const char* tail_of(const Fields* fields) noexcept:
    """Return where the lengths begin."""
    return <const char*>(fields + 1)


cdef const Run* runs_of(const Fields* fields) noexcept:
    """Return where the runs begin."""
    return <const Run*>(tail_of(fields) + 8 * <uint64_t>fields.parts + 16 * <uint64_t>fields.pairs)


def encode(int64_t task, int64_t boundary, uint64_t generation, int64_t note, history, uint64_t form,
           uint64_t checksum, block, lengths, base, runs, uint64_t nbytes):
    """Return the header that says so. `base` is (boundary, generation, checksum), or None."""
    cdef Fields fields
    fields.task, fields.boundary, fields.generation, fields.note = task, boundary, generation, note
    fields.form, fields.checksum, fields.block, fields.nbytes = form, checksum, block, nbytes
    fields.parts, fields.pairs, fields.has_base = len(lengths), len(history), base is not None
    fields.base_boundary, fields.base_generation, fields.base_checksum = (0, 0, 0) if base is None else base
    tail = struct.pack(f"<{len(lengths)}Q{'Qq' * len(history)}", *lengths, *[n for pair in history for n in pair])
    return made(&fields, tail, list(runs))


def decode(bytes header not None):
    """Return what was given to `encode`.

    Raises
    ------
    ValueError
        The bytes are no header.
    """
    cdef const Fields* fields = intact(PyBytes_AS_STRING(header), len(header))
    cdef const Run* run
    if fields == NULL:
        raise ValueError(f"{len(header)} bytes that are no header of a snapshot")
    run = runs_of(fields)
    pairs_at = sizeof(Fields) + 8 * fields.parts
    lengths = struct.unpack_from(f"<{fields.parts}Q", header, sizeof(Fields))
    history = tuple(struct.iter_unpack("<Qq", header[pairs_at:pairs_at + 16 * fields.pairs]))
    base = (int(fields.base_boundary), int(fields.base_generation), int(fields.base_checksum))
    return (int(fields.task), int(fields.boundary), int(fields.generation), int(fields.note), history,
            int(fields.form), int(fields.checksum), int(fields.block), lengths, base if fields.has_base else None,
            tuple([(int(run[i].part), int(run[i].first), int(run[i].count)) for i in range(fields.runs)]),
            int(fields.nbytes))

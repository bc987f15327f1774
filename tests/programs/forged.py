"""Messages of the wire, written by hand, most of them lies."""

from __future__ import annotations

import pickle
import struct

import numpy as np

from taskgraph._native.message import eager_bytes

HEADER = struct.Struct("<QQQIIIBBBB")
ARRAY, OBJECT, CONTROL = 1, 2, 3
INLINE, FORTRAN, NAMED, MORE = 1, 2, 4, 8
UINT8 = np.dtype("u1").num


def header(kind=ARRAY, shape=(4,), pieces=(), named=b"", payload=b"abcd", **fields) -> bytes:
    """Write a message; the fields of its header may lie."""
    known = {
        "channel": 1,
        "epoch": 0,
        "nbytes": len(payload),
        "generation": 0,
        "meta": len(named),
        "frames": len(pieces),
        "kind": kind,
        "dtype": UINT8,
        "ndim": len(shape),
        "flags": INLINE,
        **fields,
    }
    sizes = struct.pack(f"<{len(shape)}q{len(pieces)}Q", *shape, *pieces)
    return HEADER.pack(*known.values()) + sizes + named + payload


def forged() -> list[bytes]:
    """Return messages that must not be believed."""
    rng = np.random.default_rng(9)
    whole = header()
    return [
        b"",
        b"x",
        bytes(HEADER.size - 1),
        bytes(HEADER.size),
        bytes(eager_bytes),
        b"\xff" * eager_bytes,
        b"\xff" * 100,
        whole[:-1],
        whole + b"x",
        bytes(eager_bytes + 1),  # longer than what is received in one piece
        header(kind=0),
        header(kind=4),
        header(ndim=0),
        header(ndim=64),
        header(ndim=65),
        header(ndim=255),
        header(shape=(-4,)),
        header(shape=(2, -2)),
        header(shape=(5,)),
        header(shape=(3,)),
        header(shape=(2**62, 4)),
        header(shape=(2**32, 2**32)),
        header(shape=(2**62,), nbytes=2**62, flags=0, payload=b""),
        header(shape=(2**63 - 1,), nbytes=2**63 - 1, flags=0, payload=b""),
        header(nbytes=2**64 - 1),
        header(nbytes=2**63),
        header(nbytes=3),
        header(nbytes=0),
        header(nbytes=0, shape=(0,), payload=b"", flags=0),
        header(flags=0),
        header(shape=(5000,), nbytes=5000, flags=0, payload=b""),  # its first piece is missing
        header(flags=NAMED),
        header(flags=INLINE | NAMED),
        header(flags=INLINE | NAMED, named=b"no pickle"),
        header(flags=INLINE | NAMED, named=pickle.dumps(np.dtype("O"))),
        header(flags=INLINE | NAMED, named=pickle.dumps("u1")),
        header(flags=INLINE | NAMED, named=pickle.dumps(np.dtype(">u2"))),
        header(meta=2**32 - 1),
        header(dtype=np.dtype("O").num),
        header(dtype=np.dtype("f8").num),
        header(dtype=24),
        header(dtype=255),
        header(frames=1),
        header(frames=2**32 - 1),
        header(kind=OBJECT),
        header(kind=OBJECT, shape=()),
        header(kind=OBJECT, shape=(), pieces=(5,)),
        header(kind=OBJECT, shape=(), pieces=(3,)),
        header(kind=OBJECT, shape=(), pieces=(2, 2**64 - 1)),
        header(kind=OBJECT, shape=(), pieces=(0,) * 256),
        header(kind=OBJECT, shape=(), pieces=(4,)),  # believed, but no pickle
        header(kind=OBJECT, shape=(), pieces=(0, 4)),
        header(kind=CONTROL, shape=()),
        header(kind=CONTROL, shape=(), pieces=(2, 2)),
        header(kind=CONTROL, shape=(), pieces=(2,)),
        header(kind=CONTROL, shape=(), pieces=(100,), nbytes=100, flags=0, payload=b""),
        *(rng.bytes(int(size)) for size in rng.integers(0, 300, 100)),
    ]


def mutated() -> list[bytes]:
    """Return a good message with some bytes changed. Some are still good: it must only be survived."""
    rng = np.random.default_rng(11)
    messages = []
    for _ in range(300):
        changed = bytearray(header())
        for at in rng.integers(16, HEADER.size + 8, 3):
            changed[at] ^= int(rng.integers(1, 256))
        messages.append(bytes(changed))
    return messages

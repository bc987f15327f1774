"""What a run leaves for those who check it: the final protected state of every task as a digest, failures, recoveries.

One file a process, JSON a line, each line in one write: what is there survives the process.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterable
from hashlib import blake2b
from pathlib import Path

import numpy as np

from taskgraph.errors import UsageError
from taskgraph.ids import Epoch, Rank
from taskgraph.plan.decision import Decision
from taskgraph.plan.ending import Ending
from taskgraph.plan.faults import Fault
from taskgraph.run.state.replicas import Replica


class ProofWriter:
    """Writes one rank's file. It is a hook of `taskgraph.trace`.

    Parameters
    ----------
    directory
        Where to; it has to be there.

    Raises
    ------
    UsageError
        It cannot be written to.
    """

    def __init__(self, directory: str, rank: Rank) -> None:
        path = Path(directory) / f"rank-{rank}.{os.getpid()}.jsonl"
        try:
            self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise UsageError(f"proof={directory!r} cannot be written to ({error}): name a directory") from None
        self._left_at = 0.0
        self._epoch: Epoch = 0

    def __call__(self, point: str, subject: object) -> None:
        """Note that this rank has come to a point."""
        match point, subject:
            case "epoch", int(epoch):
                self._epoch = epoch
            case "recovery.left", _:
                self._left_at = time.monotonic()
            case "recovery.restored", Decision() as decision:
                took_ms = 1000 * (time.monotonic() - self._left_at)
                self.write(
                    "generation",
                    generation=decision.generation,
                    ms=round(took_ms, 3),
                    boundary=decision.boundary,
                    dead=list(decision.dead),
                )
            case "exit", (int(generation), list(replicas)):
                self.states(generation, replicas)
            case "end", Ending() as ending:
                self.write("end", status=ending.status, message=ending.message, task=ending.task)

    def fault(self, fault: Fault, point: str, epoch: Epoch) -> None:
        """Write down that a fault is about to hit."""
        self.write("fault", fault=str(fault), point=point, epoch=epoch)

    def states(self, generation: int, replicas: Iterable[Replica]) -> None:
        """Write down the state of tasks."""
        for replica in replicas:
            self.write("state", task=replica.id, generation=generation, epochs=self._epoch + 1, digest=digest(replica))

    def write(self, event: str, **fields: object) -> None:
        """Write a line."""
        line = json.dumps({"event": event, "pid": os.getpid(), "at": time.time(), **fields})
        os.write(self._file, line.encode() + b"\n")


def digest(replica: Replica) -> str:
    """Return the digest of the state that a task protects: names, types, shapes and every byte."""
    hashed = blake2b(digest_size=16)
    for name, value in replica.state.items():
        if isinstance(value, np.ndarray):
            lead, content = (name, value.dtype.str, value.shape), value.tobytes()
        else:
            content = value.save()
            lead = (name, "bytes", (len(content),))
        hashed.update(repr(lead).encode())
        hashed.update(content)
    return hashed.hexdigest()

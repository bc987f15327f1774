"""A rank without MPI: it joins its host as a real one does, then does what its standard input says.

Arguments: directory of the host, index on the host, rank, "claim" where it is the root.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from taskgraph.backends.etcd import EtcdCoordinator
from taskgraph.backends.launcher import mpi_files
from taskgraph.backends.processes import Process
from taskgraph.backends.words import AbortWords
from taskgraph.plan.ending import Ending
from taskgraph.plan.lifecycle import Unit
from taskgraph.run.host.directory import HostDir
from taskgraph.run.host.keeper_spec import KeeperSpec
from taskgraph.run.host.roster import add_rank, leave
from taskgraph.run.keeper.guard import KeeperGuard, wait_for_etcd
from taskgraph.run.unit.duties import Registration
from taskgraph.run.unit.sidecar import Sidecar

LIMIT_S = 20.0


def main() -> None:
    directory = HostDir.open(sys.argv[1])
    index, rank = int(sys.argv[2]), int(sys.argv[3])
    files = mpi_files({**os.environ}, [path for path in os.environ.get("MAPPED", "").split(":") if path])
    add_rank(directory, index, Process.current(), files)
    spec = KeeperSpec.decode(Path(directory.spec).read_text(encoding="utf-8"))
    coordinator = EtcdCoordinator(wait_for_etcd(directory, 20).within(2.0), spec.job, spec.run)
    if "claim" in sys.argv:
        coordinator.claim(spec.run)
    unit = Unit(run=spec.run, host=spec.host, rank=rank)
    sidecar = Sidecar(
        coordinator,
        unit,
        on_end=lambda ending: print("over", ending.status, flush=True),
        words=AbortWords.open(directory.words),
        duties=[Registration(unit, Process.current()), KeeperGuard(directory)],
    )
    sidecar.start()
    print("ready", flush=True)
    for line in sys.stdin:
        match line.split():
            case ["end", status]:
                sidecar.ask_end(Ending(status=int(status), message="" if status == "0" else "it broke")).result(LIMIT_S)
            case ["leave"]:
                sidecar.close()
                leave(directory, index)
                print("left", flush=True)


main()

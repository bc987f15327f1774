"""What a host has of the launches before, when a supervised job is launched again: taken over by the new one.

Rule 1: first everything of the earlier launches is killed on this host, ranks and keeper, and then what they held is
read: nobody writes to it any more. Rule 2: whatever is interrupted here can be done again by the next launch: the
snapshots move in one step, and the old directory is removed last.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import time
from collections.abc import Iterator
from pathlib import Path

from taskgraph.backends.commits import Commits
from taskgraph.backends.processes import Process, alive, kill
from taskgraph.backends.slots import SlotDir
from taskgraph.errors import TaskgraphError, UsageError
from taskgraph.ids import Host
from taskgraph.plan.holdings import NOTHING_KNOWN, Known
from taskgraph.plan.relaunch import first_generation
from taskgraph.plan.revival import Inherited
from taskgraph.run.host.directory import HostDir, machine
from taskgraph.run.host.files import read_process
from taskgraph.run.host.forgotten import remove_left_by_launcher
from taskgraph.run.host.keeper_spec import KeeperSpec
from taskgraph.run.host.roster import close_roster
from taskgraph.run.host.supervised import Supervised
from taskgraph.run.keeper.etcd_keeping import EtcdKeeping
from taskgraph.run.state.host_snapshots import stamp

log = logging.getLogger(__name__)

_KILL_S = 10.0
_UNLOCK_S = 2.0


def directories(base: Path, series: str) -> Iterator[tuple[HostDir, KeeperSpec]]:
    """Yield what there is on this machine of a supervised run, the oldest attempt first."""
    found = []
    for path in base.iterdir():
        if re.fullmatch(rf"taskgraph-{os.geteuid()}-.+-[0-9a-f]{{8}}-\d+", path.name):
            with contextlib.suppress(UsageError, OSError, ValueError, KeyError, TypeError):
                directory = HostDir.open(path)
                spec = KeeperSpec.decode(directory.spec.read_text(encoding="utf-8"))
                if spec.attempt is not None and spec.attempt.series == series and _is_of_here(directory):
                    found.append((spec.attempt.attempt, directory, spec))
    for _, directory, spec in sorted(found, key=lambda item: item[0]):
        yield directory, spec


def _is_of_here(directory: HostDir) -> bool:
    """Whether it was made on this machine since it started: others may see the same place."""
    return directory.owner.read_text(encoding="utf-8").split("\n", 1)[1] == machine()


def end_all(directory: HostDir) -> None:
    """Kill the keeper and the ranks of a directory, and wait until they are gone. Its etcd goes with its keeper.

    Raises
    ------
    TaskgraphError
        One does not die.
    """
    keeper = read_process(directory.keeper)
    files = set()
    processes = [] if keeper is None else [keeper]
    with contextlib.suppress(FileNotFoundError):
        for entry in close_roster(directory):
            processes += [] if entry.left else [entry.process]
            files |= set(entry.files)
    for process in processes:
        if kill(process):
            log.info("killed %s, which is left of an earlier launch", process)
    _wait_for_end(processes)
    remove_left_by_launcher(files)


def _wait_for_end(processes: list[Process]) -> None:
    deadline = time.monotonic() + _KILL_S
    while any(map(alive, processes)):
        if time.monotonic() > deadline:
            raise TaskgraphError(f"{', '.join(map(str, filter(alive, processes)))} of an earlier launch does not die")
        time.sleep(0.002)


def remove(directory: HostDir) -> None:
    """Remove a directory of which nothing lives any more, and the data of its etcd."""
    data = directory.etcd_data()
    deadline = time.monotonic() + _UNLOCK_S
    EtcdKeeping(data).end()
    while data.exists() and time.monotonic() < deadline:  # the kernel is still taking the lock from who was killed
        time.sleep(0.01)
        EtcdKeeping(data).end()
    directory.remove()


def inherit(directory: HostDir, host: Host, attempt: Supervised) -> Inherited | None:
    """Take over what earlier launches of a run have left on this host; None where that is nothing.

    Parameters
    ----------
    directory
        Of this launch, without slots. It has those that were found afterwards.
    """
    known, found = NOTHING_KNOWN, False
    others = [old for old, spec in directories(directory.path.parent, attempt.series) if spec.host == host]
    others = [old for old in others if old.path != directory.path]
    for old in others:
        end_all(old)
    for old in reversed(others):  # the newest has what the others had
        known = max(known, _known(old))
        found = _move(old.slots, directory.slots) or found
        _move(old.path / "faults", directory.path / "faults")
    inherited = _read(directory, attempt, known) if found or known != NOTHING_KNOWN else None
    for old in others:
        remove(old)
    return inherited


def pass_on(directory: HostDir, known: Known) -> None:
    """Write down in a launch's own file what the commits of earlier ones had said."""
    commits = Commits.open(directory.commits)
    commits.line(0).heard(*known)
    commits.close()


def _known(directory: HostDir) -> Known:
    try:
        commits = Commits.open(directory.commits)
    except (OSError, ValueError):
        return NOTHING_KNOWN
    try:
        return commits.read()[0]
    finally:
        commits.close()


def _move(old: Path, new: Path) -> bool:
    try:
        os.rename(old, new)
    except OSError:  # there is none, or it had been moved already
        return False
    return True


def _read(directory: HostDir, attempt: Supervised, known: Known) -> Inherited:
    if not directory.slots.exists():
        return Inherited((), known)
    slots = SlotDir.open(directory.slots)
    slots.raise_floor(first_generation(attempt.attempt))
    held = slots.holdings()
    newest = max(held, key=lambda slot: slot.generation, default=None)
    history = () if newest is None else tuple((int(g), int(b)) for g, b in newest.history)
    return Inherited(tuple(map(stamp, held)), known, -1 if newest is None else newest.generation, history)

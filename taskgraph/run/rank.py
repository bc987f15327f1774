"""One rank of a job under MPI, from start to end: its sidecar, its worker, and how it leaves."""

from __future__ import annotations

import atexit
import os
import sys
from collections.abc import Mapping
from contextlib import ExitStack, closing, suppress
from functools import partial
from typing import TYPE_CHECKING

from taskgraph import trace
from taskgraph.backends.commits import Commits
from taskgraph.backends.etcd import EtcdCoordinator
from taskgraph.backends.etcd_access import EtcdAccess
from taskgraph.backends.launcher import mpi_files
from taskgraph.backends.mpi import open_communicator, open_wire
from taskgraph.backends.processes import Process
from taskgraph.backends.slots import SlotDir
from taskgraph.backends.words import AbortWords
from taskgraph.config import Config
from taskgraph.errors import GraphError
from taskgraph.ids import Epoch, TaskId
from taskgraph.plan.decision import Decision
from taskgraph.plan.ending import Ending
from taskgraph.plan.lifecycle import Unit
from taskgraph.plan.succession import Succession
from taskgraph.program.graph import TaskGraph, check
from taskgraph.run.blame import ending_of
from taskgraph.run.control import JobEnded
from taskgraph.run.duties import Duty, Registration
from taskgraph.run.guard import KeeperGuard
from taskgraph.run.host_snapshots import HostSnapshots
from taskgraph.run.hostdir import HostDir
from taskgraph.run.observer import Observer
from taskgraph.run.probing import probe
from taskgraph.run.rank_control import Inbox, RankControl, tell_if_first
from taskgraph.run.recovery import Recovery
from taskgraph.run.replicas import Program
from taskgraph.run.roster import leave
from taskgraph.run.sidecar import Sidecar
from taskgraph.run.starting import starting
from taskgraph.run.startup import (
    ROOT,
    Site,
    StartFailed,
    begin,
    find_etcd,
    lay_out,
    meet,
    prepare_host,
    together,
)
from taskgraph.run.worker import Worker

if TYPE_CHECKING:
    from mpi4py.MPI import Intracomm

_OPERATION_S = 2.0
"""Time limit of one operation of a sidecar in etcd, in seconds. It tries again."""


def run_rank(program: Program, observer: Observer) -> int:
    """Run this process's rank, and return the status of the job.

    An exception of user code ends the job on every rank; the rank whose ending was first tells the observer.
    """
    with ExitStack() as until_kept:
        until_kept.enter_context(starting(os.environ))
        communicator = open_communicator()
        try:
            site = meet(communicator, program.config)
            directory = prepare_host(communicator, program.config, site)
            until_kept.close()  # the keeper sees to it from now on
            try:
                return _run(program, observer, communicator, site, directory)
            finally:
                leave(directory, site.index)
        except StartFailed as error:
            if communicator.rank == error.rank:
                observer.failed(Ending(status=1, message=f"the job could not start: {error}", rank=error.rank))
            return 1
        finally:
            observer.close()


def _run(program: Program, observer: Observer, communicator: Intracomm, site: Site, directory: HostDir) -> int:
    config = program.config
    if config.faults or config.proof is not None:
        together(communicator, lambda: probe(config, site, directory))
    access = find_etcd(communicator, config, site, directory)
    coordinator = together(communicator, lambda: _join(config.name, site, access))
    decision = begin(communicator, config, site, coordinator, lay_out(config, site))
    words, slots, commits = (
        AbortWords.open(directory.words),
        SlotDir.open(directory.slots),
        Commits.open(directory.commits),
    )
    inbox = Inbox(observer.failed if site.rank == ROOT else None)
    sidecar = _sidecar(config, site, coordinator, directory, inbox, observer, words, slots, commits)
    sidecar.start()
    try:
        worker = _worker(program, observer, communicator, site, decision, sidecar, inbox, words, slots, commits)
        return _work(worker)
    finally:
        sidecar.close()


def _join(job: str, site: Site, access: EtcdAccess) -> EtcdCoordinator:
    if site.rank == ROOT:
        with closing(EtcdCoordinator(access, job)) as patient:
            patient.claim(site.run)
    return EtcdCoordinator(access.within(_OPERATION_S), job, site.run)


def _sidecar(
    config: Config,
    site: Site,
    coordinator: EtcdCoordinator,
    directory: HostDir,
    inbox: Inbox,
    observer: Observer,
    words: AbortWords,
    slots: SlotDir,
    commits: Commits,
) -> Sidecar:
    unit = Unit(run=site.run, host=site.host, rank=site.rank, root=site.rank == ROOT)
    machine = Succession(unit, backups=config.backups, placement=config.placement)
    duties: list[Duty] = [Registration(unit, Process.current()), KeeperGuard(directory)]
    return Sidecar(
        coordinator,
        unit,
        on_end=inbox.ended,
        on_failure=observer.failed,
        words=words,
        duties=duties,
        recovery=Recovery(machine, slots, commits, words, inbox),
    )


def _worker(
    program: Program,
    observer: Observer,
    communicator: Intracomm,
    site: Site,
    decision: Decision,
    sidecar: Sidecar,
    inbox: Inbox,
    words: AbortWords,
    slots: SlotDir,
    commits: Commits,
) -> Worker:
    def check_beside(graph: Mapping[TaskId, TaskGraph], epoch: Epoch) -> None:
        sidecar.call(partial(check_now, graph, epoch))

    def check_now(graph: Mapping[TaskId, TaskGraph], epoch: Epoch) -> None:
        try:
            check(graph, epoch)
        except GraphError as error:
            rank = site.rank if error.task is None else decision.layout.primary(error.task)
            tell_if_first(sidecar, observer, ending_of(error, rank, error.task, error.epoch))

    word = words.buffer(site.index).cast("q")
    return Worker(
        program,
        site.rank,
        site.host,
        decision,
        partial(open_wire, communicator, word, program.config.waiting, site.ranks_here),
        check_beside,
        HostSnapshots(slots, commits, site.index),
        RankControl(site.rank, sidecar, inbox, observer, communicator.Abort),
    )


def _work(worker: Worker) -> int:
    """Run the worker. After a loss, or a failure, see that the process ends without MPI_Finalize."""
    try:
        status = worker.run()
        trace.reached("end", Ending(status=status))
    except JobEnded as ended:
        status = ended.ending.status
        trace.reached("end", ended.ending)
        if ended.ending.message:
            return _leave_hard(status)
    if worker.generation > 0:
        return _leave_hard(status)
    worker.close()
    return status


def _leave_hard(status: int) -> int:
    """Let this process end by `os._exit`: MPI_Finalize may wait for ranks that will never come.

    It would have removed what MPI keeps in shared memory, of the dead as well.
    """

    def leave_now() -> None:
        for file in mpi_files(os.environ):
            if file.path.startswith("/dev/shm/") and file.still_there():
                with suppress(OSError):  # others of the job do the same
                    os.unlink(file.path)
        for stream in (sys.stdout, sys.stderr):
            if stream is not None:
                stream.flush()
        os._exit(status)

    atexit.register(leave_now)
    return status

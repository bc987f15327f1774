"""One rank of a job under MPI, from start to end: its sidecar, its worker, and how it leaves."""

from __future__ import annotations

import atexit
import logging
import os
import sys
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from contextlib import closing
from functools import partial
from typing import TYPE_CHECKING

from taskgraph.backends.etcd import EtcdCoordinator
from taskgraph.backends.etcd_access import EtcdAccess
from taskgraph.backends.mpi import open_communicator, open_wire
from taskgraph.backends.processes import Process
from taskgraph.backends.words import AbortWords
from taskgraph.errors import CoordinatorError, EpochAborted, GraphError, PeerLost
from taskgraph.ids import Epoch, Generation, Rank, TaskId
from taskgraph.plan.decision import start
from taskgraph.plan.ending import Ending
from taskgraph.plan.lifecycle import Unit
from taskgraph.program.graph import TaskGraph, check
from taskgraph.run.blame import ending_of
from taskgraph.run.control import NoControl
from taskgraph.run.duties import Duty, Registration
from taskgraph.run.guard import KeeperGuard
from taskgraph.run.hostdir import HostDir
from taskgraph.run.observer import Observer
from taskgraph.run.replicas import Program
from taskgraph.run.roster import leave
from taskgraph.run.sidecar import Sidecar
from taskgraph.run.snapshots import NoSnapshots
from taskgraph.run.startup import ROOT, Site, StartFailed, find_etcd, lay_out, meet, prepare_host, together
from taskgraph.run.worker import Worker

if TYPE_CHECKING:
    from mpi4py.MPI import Intracomm

log = logging.getLogger(__name__)

_OPERATION_S = 2.0
"""Time limit of one operation of a sidecar in etcd, in seconds. It tries again."""

_END_KNOWN_S = 5.0
"""How long a rank whose abort word is set waits to hear why, in seconds."""


def run_rank(program: Program, observer: Observer) -> int:
    """Run this process's rank, and return the status of the job.

    An exception of user code ends the job on every rank; the rank whose ending was first tells the observer.
    """
    communicator = open_communicator()
    try:
        site = meet(communicator, program.config)
        directory, words = prepare_host(communicator, program.config, site)
        try:
            return _run(program, observer, communicator, site, directory, words)
        finally:
            leave(directory, site.local.index(site.rank))
    except StartFailed as error:
        if communicator.rank == error.rank:
            observer.failed(Ending(status=1, message=f"the job could not start: {error}", rank=error.rank))
        return 1
    finally:
        observer.close()


def _run(
    program: Program, observer: Observer, communicator: Intracomm, site: Site, directory: HostDir, words: AbortWords
) -> int:
    config = program.config
    access = find_etcd(communicator, config, site, directory)
    coordinator = together(communicator, lambda: _join(config.name, site, access))
    end = End(observer.failed if site.rank == ROOT else None)
    unit = Unit(run=site.run, host=site.host, rank=site.rank, root=site.rank == ROOT)
    duties: list[Duty] = [Registration(unit, Process.current()), KeeperGuard(directory)]
    sidecar = Sidecar(coordinator, unit, on_end=end.known, words=words, duties=duties)
    sidecar.start()
    try:
        return _work(program, observer, communicator, site, words, sidecar, end)
    finally:
        sidecar.close()


def _join(job: str, site: Site, access: EtcdAccess) -> EtcdCoordinator:
    if site.rank == ROOT:
        with closing(EtcdCoordinator(access, job)) as patient:
            patient.claim(site.run)
    return EtcdCoordinator(access.within(_OPERATION_S), job, site.run)


class End:
    """The end of the job, once it is known on this rank."""

    def __init__(self, tell: Callable[[Ending], None] | None) -> None:
        self._tell = tell
        self._known = threading.Event()
        self._ending: Ending | None = None

    def known(self, ending: Ending) -> None:
        """Take it from the sidecar. What no rank has said, such as the loss of etcd's data, is told here."""
        if ending.message and ending.rank is None and self._tell is not None:
            self._tell(ending)
        self._ending = ending
        self._known.set()

    def wait(self, timeout_s: float) -> Ending | None:
        """Return it, or None where it is not known in time."""
        self._known.wait(timeout_s)
        return self._ending


def _work(
    program: Program,
    observer: Observer,
    communicator: Intracomm,
    site: Site,
    words: AbortWords,
    sidecar: Sidecar,
    end: End,
) -> int:
    config = program.config
    word = words.buffer(site.local.index(site.rank)).cast("q")
    layout = lay_out(config, site)
    connect = partial(open_wire, communicator, word, config.waiting, site.ranks_here)

    def check_beside(graph: Mapping[TaskId, TaskGraph], epoch: Epoch) -> None:
        sidecar.call(partial(check_now, graph, epoch))

    def check_now(graph: Mapping[TaskId, TaskGraph], epoch: Epoch) -> None:
        try:
            check(graph, epoch)
        except GraphError as error:
            rank = site.rank if error.task is None else layout.primary(error.task)
            ending = ending_of(error, rank, error.task, error.epoch)
            sidecar.ask_end(ending).add_done_callback(partial(_leave_word, observer, ending))

    together(communicator, lambda: None)
    decision = start(dict(enumerate(site.hosts)), layout)
    control = RankControl(sidecar, observer if site.rank == ROOT else None)
    worker = Worker(program, site.rank, site.host, decision, connect, check_beside, NoSnapshots(), control)
    try:
        status = worker.run()
    except EpochAborted:
        ending = end.wait(_END_KNOWN_S)
        if ending is None or ending.message:
            return _leave_hard(ending.status if ending is not None else 1)
        status = ending.status  # all have finished: the news came through etcd before it came down the tree
    except BaseException as error:
        return _leave_hard(_fail(ending_of(error, site.rank, *worker.where()), communicator, sidecar, observer, end))
    worker.close()
    return status


def _won(done: Future[bool]) -> bool:
    return not done.cancelled() and done.exception() is None and done.result()


class RankControl(NoControl):
    """Passes on to the sidecar what the main thread says."""

    def __init__(self, sidecar: Sidecar, observer: Observer | None) -> None:
        self._sidecar = sidecar
        self._observer = observer

    def conclude(self, generation: Generation, status: int) -> None:
        """Write the status, after what was handed to the sidecar before: a check of a graph may still end the job."""
        answer: Future[bool] = Future()

        def ask() -> None:
            self._sidecar.ask_end(Ending(status=status)).add_done_callback(lambda done: answer.set_result(_won(done)))

        self._sidecar.call(ask)
        try:
            first = answer.result(_END_KNOWN_S)
        except TimeoutError:
            log.warning("etcd did not take the end of the job within %.1f s; nothing is lost by that", _END_KNOWN_S)
            return
        if not first:
            raise EpochAborted

    def progress(self, epochs: Epoch) -> None:
        """Pass it on to the sidecar, and on the root to the observer."""
        self._sidecar.progress(epochs)
        if self._observer is not None:
            self._observer.progress(epochs)

    def finishing(self) -> None:
        """Let the tasks have the terminal."""
        if self._observer is not None:
            self._observer.close()

    def lost(self, rank: Rank) -> None:
        """End the job: MPI says that a rank has died."""
        raise PeerLost(rank, "MPI sent to it or received from it")


def _leave_word(observer: Observer, ending: Ending, future: Future[bool]) -> None:
    """Tell the observer of an ending, if it is the first of the job."""
    if _won(future):
        observer.failed(ending)


def _fail(ending: Ending, communicator: Intracomm, sidecar: Sidecar, observer: Observer, end: End) -> int:
    """End the job on every rank; tell the observer if this ending is the first."""
    try:
        if sidecar.end(ending):
            observer.failed(ending)
    except CoordinatorError as error:
        log.error("%s; the job is ended through MPI", error)
        observer.failed(ending)
        communicator.Abort(ending.status)
    ruling = end.wait(_END_KNOWN_S)
    return ruling.status if ruling is not None else ending.status


def _leave_hard(status: int) -> int:
    """See that this process ends without MPI_Finalize, which may wait for ranks that will never come."""

    def leave_now() -> None:
        for stream in (sys.stdout, sys.stderr):
            if stream is not None:
                stream.flush()
        os._exit(status)

    atexit.register(leave_now)
    return status

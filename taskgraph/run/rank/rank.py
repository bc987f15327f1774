"""One rank of a job under MPI, from start to end: its sidecar, its worker, and how it leaves."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from functools import partial
from typing import TYPE_CHECKING

from taskgraph import trace
from taskgraph._native.channel import Epoch as NativeEpoch
from taskgraph.backends.checkpoint_store import CheckpointStore
from taskgraph.backends.etcd import EtcdCoordinator
from taskgraph.backends.etcd_access import EtcdAccess
from taskgraph.backends.launcher import launchers, remove_own_segments
from taskgraph.backends.mpi import open_communicator, open_wire
from taskgraph.backends.processes import Process, alive
from taskgraph.backends.transport import Handlers, Transport
from taskgraph.config import Config
from taskgraph.errors import GraphError
from taskgraph.ids import Epoch, Host, TaskId
from taskgraph.plan.decision import Decision
from taskgraph.plan.ending import Ending
from taskgraph.plan.relaunch import failures_before
from taskgraph.plan.revival import Inherited
from taskgraph.program.codec import Codec
from taskgraph.program.graph import TaskGraph, check
from taskgraph.run.checkpoints.gate import Gate
from taskgraph.run.checkpoints.rounds import Rounds
from taskgraph.run.checkpoints.shelf import Beginning, Shelf
from taskgraph.run.checkpoints.writer import Checkpointing
from taskgraph.run.host.before_keeper import starting
from taskgraph.run.host.directory import HostDir
from taskgraph.run.host.roster import leave
from taskgraph.run.host.supervised import Supervised
from taskgraph.run.probes.install import probe
from taskgraph.run.rank.beside import Beside, Shared
from taskgraph.run.rank.control import RankControl, tell_if_first
from taskgraph.run.rank.error_ending import ending_of
from taskgraph.run.rank.leaving import all_come, leave_hard, leave_through_mpi
from taskgraph.run.rank.observer import Observer
from taskgraph.run.start.beginning import look
from taskgraph.run.start.etcd import find_etcd
from taskgraph.run.start.loss import lost_ranks
from taskgraph.run.start.mortality import survives, warn_of_mortality
from taskgraph.run.start.prepare import begin, lay_out, prepare_host
from taskgraph.run.start.site import ROOT, Site, StartFailed, meet, together
from taskgraph.run.state.host_snapshots import HostSnapshots
from taskgraph.run.state.replicas import Program
from taskgraph.run.state.task_files import TaskFiles
from taskgraph.run.worker.control import JobEnded
from taskgraph.run.worker.worker import Worker

if TYPE_CHECKING:
    from mpi4py.MPI import Intracomm

_OPERATION_S = 2.0
"""Time limit of one operation of a sidecar in etcd, in seconds. It tries again."""

_TELL_S = 1.0
"""How long ranks wait for the one that tells of a loss at the start, in seconds: the launcher may end all at once."""


def run_rank(program: Program, observer: Observer) -> int:
    """Run this process's rank, and return the status of the job.

    An exception of user code ends the job on every rank; the rank whose ending was first tells the observer.
    """
    attempt = None if program.config.supervised is None else Supervised.decode(program.config.supervised)
    if attempt is not None:
        attempt.reached()
    with _end_of_all(observer, attempt) as waiting, ExitStack() as until_kept:
        until_kept.enter_context(starting(os.environ))
        communicator = open_communicator()
        waiting.append(communicator)
        try:
            site = meet(communicator, program.config)
            if site.rank == ROOT:
                warn_of_mortality(communicator.size, os.environ, sys.orig_argv)
            directory, inherited = prepare_host(communicator, program.config, site)
            until_kept.close()  # the keeper sees to it from now on
            try:
                return _run(program, observer, communicator, site, directory, inherited)
            except StartFailed:
                directory.mark_over()
                raise
            finally:
                leave(directory, site.index)
        except StartFailed as error:
            ending = Ending(status=1, message=f"the job could not start: {error}", rank=error.rank)
            if attempt is not None:
                attempt.ended(ending)
            if communicator.rank == error.rank:
                observer.failed(ending)
            if communicator.size == 1:  # one of many under the launcher of another MPI, which may end it at once
                remove_own_segments(os.environ)
            return 1
        except Exception as error:
            lost = lost_ranks(error, communicator)
            if not lost:
                raise
            until_kept.close()
            remove_own_segments(os.environ)  # before the launcher ends all, which it may at the first status
            if communicator.rank == min(set(range(communicator.size)) - set(lost)):
                why = f"MPI reports the loss of rank {', '.join(map(str, lost))}"
                observer.failed(Ending(status=1, message=f"the job could not start: {why}"))
            else:
                time.sleep(_TELL_S)
            return leave_hard(1)
        finally:
            observer.close()


@contextmanager
def _end_of_all(observer: Observer, attempt: Supervised | None) -> Iterator[list[Intracomm]]:
    """Take the other ranks along where this one leaves by an interrupt, or a fault of ours: they would wait for it.

    The loss of another rank while the job starts does not come here: it is no end of the job, where somebody launches
    it again.
    """
    waiting: list[Intracomm] = []
    try:
        yield waiting
    except BaseException as error:
        if not waiting:
            raise
        ending = ending_of(error, waiting[0].rank, None, None)
        if attempt is not None:
            attempt.ended(ending)
        observer.failed(ending)
        waiting[0].Abort(ending.status)
        raise


def _run(
    program: Program,
    observer: Observer,
    communicator: Intracomm,
    site: Site,
    directory: HostDir,
    inherited: Mapping[Host, Inherited],
) -> int:
    config = program.config
    if config.faults or config.proof is not None:
        together(communicator, lambda: probe(config, site, directory))
    access = find_etcd(communicator, config, site, directory)
    coordinator = together(communicator, lambda: _join(config.name, site, access))
    beginning = look(communicator, config, site, lay_out(config, site), inherited)
    if beginning.decision.checkpoint is not None and site.rank == ROOT:
        observer.resumes(beginning.decision.checkpoint, str(config.checkpoint))
    decision = begin(communicator, config, site, coordinator, beginning.decision, beginning.newest)
    shared = Shared.open(directory)
    gate = Gate(config.protect_every)
    files, checkpointing = _checkpointing(config, site, beginning, shared, coordinator, gate)
    with Beside(config, site, directory, shared, coordinator, decision, observer, checkpointing) as beside:
        worker, control = _worker(program, observer, communicator, site, decision, beside, shared, files, gate)
        return _work(worker, control, beside, site, directory, communicator)


def _join(job: str, site: Site, access: EtcdAccess) -> EtcdCoordinator:
    if site.rank == ROOT:
        with closing(EtcdCoordinator(access, job)) as patient:
            patient.claim(site.run)
    return EtcdCoordinator(access.within(_OPERATION_S), job, site.run)


def _checkpointing(
    config: Config, site: Site, beginning: Beginning, shared: Shared, coordinator: EtcdCoordinator, gate: Gate
) -> tuple[TaskFiles | None, Checkpointing | None]:
    if config.checkpoint is None:
        return None, None
    store = CheckpointStore(config.checkpoint, config.name)
    shared.slots.room += 1
    files = TaskFiles(store, shared.slots, config.num_tasks)
    progress = partial(shared.words.progress, site.index)
    shelf = Shelf(store, config.num_tasks, site.run, beginning)
    rounds = Rounds(config, site.run, shelf, coordinator, progress, gate)
    slots, commits = shared.slots, shared.commits
    return files, Checkpointing(config, site.run, site.rank, slots, commits, coordinator, files, rounds)


def _worker(
    program: Program,
    observer: Observer,
    communicator: Intracomm,
    site: Site,
    decision: Decision,
    beside: Beside,
    shared: Shared,
    files: TaskFiles | None,
    gate: Gate,
) -> tuple[Worker, RankControl]:
    sidecar = beside.sidecar

    def check_beside(graph: Mapping[TaskId, TaskGraph], epoch: Epoch) -> None:
        sidecar.call(partial(check_now, graph, epoch))

    def check_now(graph: Mapping[TaskId, TaskGraph], epoch: Epoch) -> None:
        try:
            check(graph, epoch)
        except GraphError as error:
            rank = site.rank if error.task is None else decision.layout.primary(error.task)
            tell_if_first(sidecar, observer, ending_of(error, rank, error.task, error.epoch))

    word = shared.words.buffer(site.index).cast("q")

    def connect(epoch: NativeEpoch, codec: Codec, handlers: Handlers) -> Transport:
        beside.stall.watch(epoch)
        epoch.mark_in(shared.words.mark(site.index))
        return open_wire(communicator, word, program.config.waiting, site.ranks_here, epoch, codec, handlers)

    launched_by = launchers(Process.current())
    control = RankControl(
        site.rank,
        sidecar,
        beside.inbox,
        beside.timeline,
        observer,
        communicator.Abort,
        partial(shared.words.reached, site.index),
        beside.adopted,
        lambda: not all(map(alive, launched_by)),
        gate,
        beside.must_write,
    )
    snapshots = HostSnapshots(shared.slots, shared.commits, site.index, files)
    return Worker(program, site.rank, site.host, decision, connect, check_beside, snapshots, control), control


def _work(
    worker: Worker,
    control: RankControl,
    beside: Beside,
    site: Site,
    directory: HostDir,
    communicator: Intracomm,
) -> int:
    """Run the worker. After a loss, or a failure, see that the process ends without MPI_Finalize."""
    try:
        status = worker.run()
        control.left()
        beside.end_checkpoints(finished=True)
        trace.reached("end", Ending(status=status))
        _say_over(Ending(status=status), site, directory)
    except JobEnded as ended:
        status = ended.ending.status
        trace.reached("end", ended.ending)
        if not ended.ending.lost:
            _say_over(ended.ending, site, directory)
        if ended.ending.message:
            return leave_hard(status)
        control.left()
        beside.end_checkpoints(finished=True)
    if failures_before(worker.generation) or beside.has_lost:
        return leave_hard(status)
    worker.close()
    if survives(os.environ) and not all_come(communicator):
        return leave_hard(status)
    return leave_through_mpi(status, directory)


def _say_over(ending: Ending, site: Site, directory: HostDir) -> None:
    """Tell the supervisor and the keeper, where there is a supervisor, that the job will not be launched again."""
    if site.attempt is not None:
        site.attempt.ended(ending)
        directory.mark_over()

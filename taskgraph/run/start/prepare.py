"""What a job needs before its first epoch: a layout, a directory and a keeper on each host, and the first decision."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING

from taskgraph.backends.commits import Commits
from taskgraph.backends.coordinator import Coordinator
from taskgraph.backends.launcher import launchers, mpi_files
from taskgraph.backends.processes import Process
from taskgraph.backends.slots import SlotDir
from taskgraph.backends.words import AbortWords
from taskgraph.config import Config
from taskgraph.errors import CoordinatorError
from taskgraph.ids import Host
from taskgraph.plan import records
from taskgraph.plan.decision import Decision
from taskgraph.plan.layout import Layout, assign
from taskgraph.plan.manifest import Name
from taskgraph.plan.records import HOSTS
from taskgraph.plan.revival import Inherited
from taskgraph.run.host.directory import HostDir
from taskgraph.run.host.files import write_atomically
from taskgraph.run.host.keeper_spec import EtcdPart, KeeperSpec
from taskgraph.run.host.roster import add_rank
from taskgraph.run.keeper.guard import start_keeper
from taskgraph.run.start.inheritance import inherit, pass_on
from taskgraph.run.start.site import ROOT, Site, together

if TYPE_CHECKING:
    from mpi4py.MPI import Intracomm

log = logging.getLogger(__name__)


def lay_out(config: Config, site: Site) -> Layout:
    """Assign the tasks; say so, once, where there are fewer copies than were asked for."""
    layout = assign(config.num_tasks, site.hosts, config.backups, config.placement)
    if site.rank == ROOT:
        warn_of_few_copies(config, layout)
    return layout


def warn_of_few_copies(config: Config, layout: Layout) -> None:
    """Warn where there are not enough ranks for the backups that were asked for."""
    fewest = layout.fewest_backups()
    if fewest < config.backups:
        log.warning(
            "there are too few ranks for backups=%d: some task has %s",
            config.backups,
            f"only {fewest}" if fewest else "none",
        )


def prepare_host(communicator: Intracomm, config: Config, site: Site) -> tuple[HostDir, Mapping[Host, Inherited]]:
    """Make the directory of each host and start its keeper; add this rank to it.

    Returns
    -------
    HostDir, mapping of Host to Inherited
        The directory of this host, and what each host has of the launches before.

    Raises
    ------
    StartFailed
    """
    first = site.local[0]

    def make() -> tuple[str, Inherited | None]:
        if site.rank != first:
            return "", None
        directory = HostDir.create(config.name, site.run, site.host_index)
        spec = _spec(config, site)
        write_atomically(directory.spec, spec.encode())
        AbortWords.create(directory.words, len(site.local)).close()
        found = None if site.attempt is None else inherit(directory, site.host, site.attempt)
        if not directory.slots.exists():
            SlotDir.create(directory.slots, site.series)
        Commits.create(directory.commits, len(site.local))
        if found is not None:
            pass_on(directory, found.known)
        start_keeper(directory, spec)
        return os.fspath(directory.path), found

    made = together(communicator, make)
    everywhere = communicator.allgather(made)
    path = everywhere[first][0]

    def join() -> HostDir:
        directory = HostDir.open(path)
        add_rank(directory, site.index, Process.current(), mpi_files(os.environ))
        return directory

    inherited = {host: found for host, (_, found) in zip(site.hosts, everywhere, strict=True) if found is not None}
    return together(communicator, join), inherited


def _spec(config: Config, site: Site) -> KeeperSpec:
    return KeeperSpec(
        job=config.name,
        run=site.run,
        host=site.host,
        ranks=site.local,
        backups=config.backups,
        placement=config.placement,
        lease_s=config.lease_s,
        abort_grace_s=config.abort_grace_s,
        etcd_lost_after_s=config.etcd_lost_after_s,
        launcher=launchers(Process.current()),
        supervised=config.supervised,
        pauses=config.checkpoint is not None,
        supervisor=None if site.attempt is None else site.attempt.supervisor(),
        etcd=_etcd_part(config, site),
        several_machines=site.machine_count > 1,
    )


def _etcd_part(config: Config, site: Site) -> EtcdPart:
    if config.etcd:
        return "none"
    if site.machines[site.rank] != site.machines[ROOT]:
        return "elsewhere"
    return "serve" if site.host == site.hosts[ROOT] else "stand by"


def begin(
    communicator: Intracomm,
    config: Config,
    site: Site,
    coordinator: Coordinator,
    decision: Decision,
    newest: Name | None,
) -> Decision:
    """Write the first decision once every host holds its lease; return it.

    Parameters
    ----------
    newest
        The newest checkpoint that there is, for decisions to come.

    Raises
    ------
    StartFailed
    """

    def write() -> None:
        if site.rank == ROOT:
            _wait_for_hosts(coordinator, set(site.hosts), config.etcd_timeout_s)
            first = records.begin(decision, newest)
            coordinator.write(first.entries, absent=first.absent)

    together(communicator, write)
    if site.attempt is not None:
        site.attempt.resumed(decision.boundary, decision.why)
    return decision


def _wait_for_hosts(coordinator: Coordinator, hosts: set[Host], timeout_s: float) -> None:
    """Wait until the keepers hold their leases: without one a host counts as lost."""
    deadline = time.monotonic() + timeout_s
    while missing := hosts - {key.removeprefix(HOSTS) for key in coordinator.read(HOSTS)}:
        if time.monotonic() > deadline:
            raise CoordinatorError(f"the keepers of {', '.join(sorted(missing))} were not up within {timeout_s:.1f} s")
        time.sleep(0.005)

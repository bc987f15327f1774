"""How the ranks of a job come to their etcd: the user's, or the one that the job brings, near or on another machine."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import TYPE_CHECKING

from taskgraph.backends import etcd_bridge
from taskgraph.backends.addresses import reachable
from taskgraph.backends.etcd_access import EtcdAccess
from taskgraph.config import Config
from taskgraph.errors import CoordinatorError
from taskgraph.run.host.directory import HostDir
from taskgraph.run.keeper.guard import tell_etcd, wait_for_etcd
from taskgraph.run.start.site import ROOT, Site, together

if TYPE_CHECKING:
    from mpi4py.MPI import Intracomm

log = logging.getLogger(__name__)

_CONNECT_S = 3.0


def find_etcd(communicator: Intracomm, config: Config, site: Site, directory: HostDir) -> EtcdAccess:
    """Return how etcd is reached: the user's, or the one that the root's keeper starts.

    What is secret of the job's own is handed round through MPI.

    Raises
    ------
    StartFailed
    """

    def find() -> EtcdAccess | None:
        etcd_bridge.load()  # every rank needs it, and the keeper is just starting etcd
        if site.rank != ROOT:
            return None
        if config.etcd:
            return EtcdAccess.of_config(config)
        return wait_for_etcd(directory, config.etcd_timeout_s)

    found = together(communicator, find)
    access: EtcdAccess = communicator.bcast(found, root=ROOT)
    if not config.etcd and site.machine_count > 1:
        access = _from_here(communicator, access, site)
    if site.rank == site.local[0] and (config.etcd or site.host != site.hosts[ROOT]):
        tell_etcd(directory, access)
    return access


def _from_here(communicator: Intracomm, access: EtcdAccess, site: Site) -> EtcdAccess:
    """Choose, once on each machine, those addresses of the job's own etcd that can be reached from there."""
    first = site.machines.index(site.machines[site.rank])

    def choose() -> tuple[str, ...]:
        if site.rank != first:
            return ()
        found = reachable(access.endpoints, _CONNECT_S)
        if not found:
            raise CoordinatorError(
                f"the job's own etcd, on {site.hosts[ROOT]}, cannot be reached from {site.host}: tried "
                f"{', '.join(access.endpoints)}; let these machines connect to each other, or name an etcd that all "
                "reach in TASKGRAPH_ETCD"
            )
        return found

    chosen = communicator.allgather(together(communicator, choose))[first]
    if site.rank == ROOT:
        log.info("the etcd of this job is one member, on %s: with that machine the job ends", site.host)
    return replace(access, endpoints=chosen)

"""For tests of drivers, and of this package: ranks in one process, real MPI jobs, coordinators without etcd."""

from taskgraph.testing.ranks import run

__all__ = ["run"]

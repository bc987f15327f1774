"""For tests of drivers, and of this package: ranks in one process, real MPI jobs, no etcd, failures on purpose."""

from taskgraph.testing.faults import by_seed, exit_at, kill_at, kill_host, kill_keeper, raise_at, stop_at
from taskgraph.testing.ranks import run

__all__ = ["by_seed", "exit_at", "kill_at", "kill_host", "kill_keeper", "raise_at", "run", "stop_at"]

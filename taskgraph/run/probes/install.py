"""Hook into the runtime for a job that was given faults, or asked for a proof. Any other job is left alone."""

from __future__ import annotations

from taskgraph import trace
from taskgraph.config import Config
from taskgraph.ids import Epoch
from taskgraph.plan.faults import Fault, expand, parse
from taskgraph.run.host.directory import HostDir
from taskgraph.run.probes.injection import Injector, of_rank
from taskgraph.run.probes.proof import ProofWriter
from taskgraph.run.start.site import Site


def probe(config: Config, site: Site, directory: HostDir) -> None:
    """Set the hook, if the configuration asks for one. Call it before any thread of ours is started.

    Raises
    ------
    UsageError
        The faults mean nothing here, or the proof cannot be written.
    """
    proof = None
    if config.proof is not None:
        proof = ProofWriter(config.proof, site.rank)
        proof.write("start", hosts=site.hosts, tasks=config.num_tasks, backups=config.backups)
    faults = expand(parse(config.faults), site.hosts, config.epochs)
    mine = of_rank(faults, site.rank, site.host_index)
    if mine or proof is not None:
        tell = proof.fault if proof else _tell_nobody
        trace.hook = _Both(proof, Injector(mine, directory, site.index, tell) if mine else None)


class _Both:
    """A proof, and what injects faults: in this order, as the second may end the process."""

    def __init__(self, proof: ProofWriter | None, injector: Injector | None) -> None:
        self._hooks = [hook for hook in (proof, injector) if hook is not None]

    def __call__(self, point: str, subject: object) -> None:
        for hook in self._hooks:
            hook(point, subject)


def _tell_nobody(fault: Fault, point: str, epoch: Epoch) -> None:
    """Do nothing: the log has it."""

"""The keeper of a host: a process of its own, started by a rank, belonging to nobody.

No Python thread gets to run while user code holds the GIL, and no rank can clean up after its own death; this small
process can. It holds the host's lease, watches the ranks and their launcher, and when these are gone or the job is
over it ends what is left and removes the files: last of all its own.

Two threads. This one watches processes and never waits for etcd, so that nothing an etcd does or fails to do can keep
it from cleaning up. The other is a `Sidecar`, as each rank has one. What the first finds out goes through the table of
`taskgraph.plan.keeping`.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import time

from taskgraph.backends.addresses import own_addresses
from taskgraph.backends.commits import Commits
from taskgraph.backends.coordinator import Coordinator
from taskgraph.backends.etcd_access import EtcdAccess
from taskgraph.backends.processes import Process, alive, kill
from taskgraph.backends.slots import SlotDir
from taskgraph.backends.words import OVER, AbortWords
from taskgraph.errors import TaskgraphError, UsageError
from taskgraph.plan import keeping
from taskgraph.plan.decision import Decision
from taskgraph.plan.ending import Ending
from taskgraph.plan.evidence import Tombstone, Work
from taskgraph.plan.keeping import Do, Fact, Phase
from taskgraph.plan.lifecycle import Unit
from taskgraph.plan.lineage import History
from taskgraph.plan.news import Checkpoints
from taskgraph.plan.succession import Succession
from taskgraph.run.host.directory import HostDir
from taskgraph.run.host.files import lock, write_atomically, write_process
from taskgraph.run.host.forgotten import remove_dead_siblings, remove_forgotten, remove_left_by_launcher
from taskgraph.run.host.keeper_spec import KeeperSpec
from taskgraph.run.keeper.etcd_keeping import EtcdKeeping
from taskgraph.run.keeper.holding import Holding
from taskgraph.run.keeper.host_view import HostView
from taskgraph.run.keeper.last_host import remove_keys
from taskgraph.run.keeper.rank_watch import Death
from taskgraph.run.unit.duties import HostLease
from taskgraph.run.unit.etcd_state import Patience
from taskgraph.run.unit.recovery import Recovery
from taskgraph.run.unit.sidecar import Sidecar

log = logging.getLogger(__name__)

_LOOK_S = 0.5
_RELEASE_S = 1.0
_OPERATION_S = 2.0
_FAULTS = 20
_FAULT_PAUSE_S = 0.1


class _Bystander:
    """A keeper has no main thread that would follow a decision."""

    def decided(self, decision: Decision, history: History) -> None:
        """Do nothing."""

    def lost(self, tombstone: Tombstone) -> None:
        """Do nothing."""

    def dead(self, tombstone: Tombstone) -> None:
        """Do nothing: a keeper is no rank."""

    def checkpoint(self, said: Checkpoints) -> None:
        """Do nothing: ranks write checkpoints."""


class Keeper:
    """One keeper, from its start to its end.

    Parameters
    ----------
    directory
        Of its host.
    spec
        What it is to do.
    """

    def __init__(self, directory: HostDir, spec: KeeperSpec) -> None:
        self._directory = directory
        self._spec = spec
        self._words = AbortWords.open(directory.words)
        self._host = HostView(directory, spec, self._died)
        self._etcd = EtcdKeeping(directory.etcd_data()) if spec.etcd in ("serve", "stand by") else None
        self._sidecar: Sidecar | None = None
        self._ending: Ending | None = None
        self._phase = Phase.SERVING
        self._since = time.monotonic()
        self._grace_ends: float | None = None
        self._deaths: list[Death] = []
        self._holding = Holding(spec.supervisor)
        self._access: EtcdAccess | None = None

    def run(self) -> None:
        """Keep the host until nobody needs it, then clean up."""
        if self._etcd is not None and self._spec.etcd == "serve":
            self._serve_etcd(self._etcd)
        with contextlib.suppress(OSError):  # seen by others as well, who may be faster
            remove_forgotten(self._directory.path.parent)
        for _ in range(_FAULTS):
            try:
                while not self._turn():
                    self._host.wait(self._patience_s())
            except Exception:
                log.exception("a fault of the keeper: it goes on, since nobody else cleans up")
                time.sleep(_FAULT_PAUSE_S)
            else:
                break
        if self._spec.etcd == "none" and self._access is not None:
            self._remove_keys(self._access)

    def _turn(self) -> bool:
        """Find out what is so, and act on it, one fact after the other. True when everything is cleaned up."""
        if self._leaves:  # the first try met a fault
            self._clean_up()
            return True
        self._look()
        if self._ending is not None:
            self._take(keeping.verdict(self._ending))
        if self._grace_ends is not None and time.monotonic() >= self._grace_ends:
            self._take(Fact.GRACE_OVER)
        if self._host.launcher_gone():
            self._take(Fact.LAUNCHER_GONE)
        if self._host.is_deserted():
            self._take(Fact.RANKS_LEFT if self._host.all_left() else Fact.RANKS_GONE)
        if (fact := self._whether_to_stay()) is not None:
            self._take(fact)
        return self._leaves

    @property
    def _leaves(self) -> bool:
        return self._phase is Phase.LEAVING

    # What it looks at.

    def _look(self) -> None:
        if self._sidecar is None and self._phase is not Phase.HOLDING and self._directory.etcd_access.exists():
            self._join()  # takes a while: the rest is looked at after it
        self._host.hush()
        if self._phase is Phase.HOLDING:
            return
        self._host.look()
        if self._ending is not None:
            self._kill_declared_dead()
        if self._etcd is not None and (server := self._etcd.look()) is not None:
            self._host.watch(server)

    def _died(self, death: Death) -> None:
        self._deaths.append(death)
        self._report_deaths()

    def _report_deaths(self) -> None:
        """Tell etcd who died, once there is somebody to do so."""
        while self._deaths and self._sidecar is not None:
            death = self._deaths.pop(0)
            rank = self._spec.ranks[death.index]
            log.warning("rank=%d is dead: %s (%s)", rank, death.evidence.value, death.detail)
            working = self._words.working(death.index)
            self._sidecar.accuse([rank], death.evidence, death.detail, death.at, Work(*working) if working else None)

    def _whether_to_stay(self) -> Fact | None:
        not_needed, patience_over = not self._needed(), self._patience_s(longest_s=1e9) <= 0
        if self._phase is Phase.LINGERING and (not_needed or patience_over) and self._unfinished():
            return Fact.UNFINISHED
        if not_needed:
            return Fact.NOT_NEEDED
        return Fact.PATIENCE_OVER if patience_over else None

    def _unfinished(self) -> bool:
        """Whether the job goes on without this launch."""
        if self._spec.supervised is None or self._directory.over.exists():
            return False
        return self._ending is None or self._ending.lost

    def _needed(self) -> bool:
        """Whether others depend on this keeper, or it has to see something go first."""
        if self._phase is Phase.HOLDING:
            return self._holding.is_expected()
        if self._etcd is not None and self._etcd.holds and self._sidecar is not None:
            others = (self._sidecar.hosts or frozenset()) - {self._spec.host}
            if others:
                return True
        return not self._host.all_left() and bool(self._spec.launcher) and not self._host.launcher_gone()

    def _patience_s(self, longest_s: float = _LOOK_S) -> float:
        """Return how long to wait for something to happen, in seconds."""
        now = time.monotonic()
        holds = self._etcd is not None and self._etcd.holds
        patience_s = keeping.patience_s(self._phase, holds)
        if self._phase is Phase.HOLDING:
            patience_s = self._holding.limit_s
        left_s = self._since + patience_s - now
        if self._grace_ends is not None and self._phase is Phase.ENDING:
            left_s = min(left_s, self._grace_ends - now)
        return min(left_s, longest_s)

    # What it does.

    def _take(self, fact: Fact) -> None:
        after, orders = keeping.step(self._phase, fact)
        if after is not self._phase:
            log.info("%s -> %s: %s", self._phase.name, after.name, fact.name)
            self._phase, self._since = after, time.monotonic()
        for order in orders:
            self._obey(order)
        if fact is Fact.LAUNCHER_GONE:
            self._kill_ranks()  # also those that were added meanwhile

    def _obey(self, order: Do) -> None:
        match order:
            case Do.SET_WORDS:
                self._words.set_all(OVER)
            case Do.START_GRACE:
                self._grace_ends = time.monotonic() + self._spec.abort_grace_s
            case Do.KILL_RANKS:
                self._kill_ranks()
            case Do.REPORT_LAUNCHER:
                self._report_launcher()
            case Do.RELEASE:
                self._release()
            case Do.CLEAN_UP:
                self._clean_up()
            case Do.HAND_BACK:
                self._holding.hand_back()

    def _report_launcher(self) -> None:
        if self._sidecar is not None and self._spec.supervised is None:
            gone = ", ".join(str(process) for process in self._spec.launcher if not alive(process))
            self._sidecar.ask_end(Ending(status=1, message=f"the launcher on host {self._spec.host} is gone ({gone})"))

    def _kill_ranks(self) -> None:
        for process in self._host.living():
            self._host.note_files(process)
            if kill(process, signal.SIGKILL):
                log.warning("killed a rank of this host: %s", process)

    def _kill_declared_dead(self) -> None:
        """End ranks that were taken for dead, are not, and cannot leave: the launcher would wait for them forever."""
        dead = () if self._sidecar is None else self._sidecar.tombstones
        for entry in self._host.roster:
            if not entry.left and self._spec.ranks[entry.index] in dead and kill(entry.process, signal.SIGKILL):
                log.warning("killed a rank that had been declared dead: %s", entry.process)

    def _serve_etcd(self, etcd: EtcdKeeping) -> None:
        """Start etcd, or go on with it, and say how it is reached; or say why not."""
        try:
            access = etcd.begin(own_addresses() if self._spec.several_machines else ())
            write_atomically(self._directory.etcd_access, access.encode())
        except TaskgraphError as error:
            log.error("the job's etcd does not start: %s", error)
            write_atomically(self._directory.problem, str(error))

    def _join(self) -> None:
        """Begin to talk to etcd, in a thread."""
        access = self._access = EtcdAccess.decode(self._directory.etcd_access.read_text(encoding="utf-8"))
        coordinator = self._coordinator(access)
        unit = Unit(run=self._spec.run, host=self._spec.host)
        lease = HostLease(self._spec.host, Process.current(), self._spec.lease_s)
        succession = Succession(unit, backups=self._spec.backups, placement=self._spec.placement)
        slots, commits = SlotDir.open(self._directory.slots), Commits.open(self._directory.commits)
        recovery = Recovery(succession, slots, commits, self._words, _Bystander(), lease_s=self._spec.lease_s)
        self._sidecar = Sidecar(
            coordinator,
            unit,
            on_end=self._over,
            words=self._words,
            duties=[lease],
            recovery=recovery,
            on_fault=lambda error: os._exit(1),  # a rank starts another
            patience=Patience(own=self._spec.etcd != "none", lost_after_s=self._spec.etcd_lost_after_s),
        )
        self._sidecar.start()
        self._report_deaths()

    def _coordinator(self, access: EtcdAccess) -> Coordinator:
        from taskgraph.backends.etcd import EtcdCoordinator  # gRPC takes longer to import than an etcd to start

        return EtcdCoordinator(access.within(_OPERATION_S), self._spec.job, self._spec.run)

    def _over(self, ending: Ending) -> None:
        """Take the end of the job from the sidecar's thread."""
        self._ending = ending
        if self._spec.attempt is not None and not ending.lost:
            self._spec.attempt.ended(ending)
        self._host.wake()

    def _clean_up(self) -> None:
        """Remove everything. The host's directory is last: as long as it is there, this can be tried again."""
        self._release()
        attempt, supervisor = self._spec.attempt, self._spec.supervisor
        if attempt is not None and supervisor is not None and not alive(supervisor):
            attempt.close()
        remove_dead_siblings(self._directory)
        self._directory.remove()

    def _remove_keys(self, access: EtcdAccess) -> None:
        """Remove what the run has in the user's etcd, if this host is the last. Everything else is cleaned up."""
        remove_keys(self._coordinator(access), self._spec.lease_s)

    def _release(self) -> None:
        """Let go of all but the host's directory. Idempotent."""
        launcher_gone = bool(self._spec.launcher) and self._host.launcher_gone()
        self._host.close_roster()
        self._kill_ranks()  # one that was added in the last moment: nobody would keep it
        if self._sidecar is not None:
            self._sidecar.close(_RELEASE_S)  # ends the lease
        if self._etcd is not None:
            self._etcd.end()
        if launcher_gone:
            remove_left_by_launcher(self._host.files)


def keep(path: str) -> None:
    """Keep the host whose directory this is, until nobody needs it; unless it is kept already, or was given up."""
    try:
        directory = HostDir.open(path)
        held = lock(directory.keeper_lock)
        if held is None:
            log.info("there is a keeper already")
            return
        write_process(directory.keeper, Process.current())
        spec = KeeperSpec.decode(directory.spec.read_text(encoding="utf-8"))
    except (UsageError, FileNotFoundError) as error:
        log.info("the host has been given up: %s", error)
        return
    Keeper(directory, spec).run()

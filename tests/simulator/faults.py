"""What goes wrong, and how it becomes known."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from taskgraph.plan import outage
from taskgraph.plan.ending import Ending
from taskgraph.plan.evidence import Evidence
from tests.simulator.etcd import FOR_EVER
from tests.simulator.parts import Host, Rank, UnitState
from tests.simulator.schedules import ON_HOSTS, Fault, Kind, Moment

if TYPE_CHECKING:
    from tests.simulator.world import World

LEASE = 30.0
LOST_AFTER_S = 60.0


class Faults:
    """Lets the faults of a schedule happen."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._seen: Counter[Moment] = Counter()
        self._at: dict[tuple[Moment, int], list[Fault]] = {}

    def arm(self) -> None:
        """Set up what the schedule asks for."""
        for fault in self._world.schedule.faults:
            if fault.moment is Moment.TIME:
                self._world.after(fault.at, self._strike, fault, None)
            else:
                self._at.setdefault((fault.moment, int(fault.at)), []).append(fault)

    def happens(self, moment: Moment, who: Rank | UnitState | None) -> None:
        """Count a moment; what was to happen at it happens very soon."""
        self._seen[moment] += 1
        for fault in self._at.get((moment, self._seen[moment]), ()):
            self._world.after(
                self._world.delay(0.1) if self._world.rng.random() < 0.5 else 0.0, self._strike, fault, who
            )

    def _strike(self, fault: Fault, who: Rank | UnitState | None) -> None:
        world = self._world
        rank, host = self._victims(fault, who)
        world.stats[fault.kind.name] += 1
        match fault.kind:
            case Kind.KILL_RANK:
                self.kill_rank(rank)
            case Kind.KILL_HOST:
                self.kill_host(host)
            case Kind.KILL_PRIMARY:
                self.kill_host(self._hosts_of(fault.target)[0])
            case Kind.KILL_TASK:
                for one in self._hosts_of(fault.target):
                    self.kill_host(one)
            case Kind.KILL_KEEPER:
                self._kill_keeper(host)
            case Kind.SUSPECT:
                world.log("rank %d is suspected, falsely", rank.number)
                self._accused([rank], Evidence.PEER)
            case Kind.STOP:
                self._stop(rank, fault.lasts)
            case Kind.CUT:
                self._cut(host, fault.lasts)
            case Kind.OUTAGE:
                world.log("etcd is down for %.0f", fault.lasts)
                world.etcd.down_until = max(world.etcd.down_until, world.now + fault.lasts)
            case Kind.WIPE:
                world.log("etcd is wiped")
                world.etcd.wipe()
            case Kind.COMPACT:
                world.log("watches are compacted")
                world.etcd.compact()
            case Kind.RAISE:
                rank.failing = True
                world.log("user code on rank %d is going to raise", rank.number)

    def _victims(self, fault: Fault, who: Rank | UnitState | None) -> tuple[Rank, Host]:
        world = self._world
        if fault.target >= 0:
            if fault.kind in ON_HOSTS:
                return world.ranks[0], world.hosts[fault.target % len(world.hosts)]
            rank = world.ranks[fault.target % len(world.ranks)]
            return rank, rank.host
        if isinstance(who, Rank):
            return who, who.host
        if isinstance(who, UnitState):
            return who.rank or who.host.ranks[0], who.host
        rank = world.rng.choice(world.ranks)
        return rank, rank.host

    def _hosts_of(self, task: int) -> list[Host]:
        """Return the hosts of a task's replicas, the primary's first."""
        newest = self._world.newest()
        return [self._world.ranks[rank].host for rank in newest.layout.replicas[task % self._world.schedule.tasks]]

    # ---- deaths ----

    def kill_rank(self, rank: Rank) -> None:
        """End a process."""
        if not rank.runs or not self._others_run([rank]):
            return
        self._world.log("rank %d dies", rank.number)
        rank.up = False
        for unit in self._world.all_units:
            if unit.host is rank.host and unit.runs:
                self._world.after(
                    self._world.delay(0.3), self._world.units.accuse, unit, (rank.number,), Evidence.PROCESS
                )
        self._peers_notice([rank])
        self._last_resort(rank.host)

    def kill_host(self, host: Host) -> None:
        """End a machine, with everything on it."""
        if not host.up or not self._others_run(host.ranks):
            return
        self._world.log("host %s dies, with ranks %s", host.name, [rank.number for rank in host.ranks if rank.runs])
        host.up = False
        host.slots.clear()
        self._peers_notice(host.ranks)
        self._lapse(host)

    def _others_run(self, victims: list[Rank]) -> bool:
        return any(rank.runs for rank in self._world.ranks if rank not in victims)

    def _peers_notice(self, ranks: list[Rank]) -> None:
        world = self._world
        if world.rng.random() < 0.5:
            return
        for peer in world.rng.sample(world.ranks, min(3, len(world.ranks))):
            if peer not in ranks and peer.unit is not None:
                chosen = tuple(rank.number for rank in ranks if world.rng.random() < 0.8)
                world.after(world.delay(0.5), world.units.accuse, peer.unit, chosen, Evidence.PEER)

    def _last_resort(self, host: Host) -> None:
        """See that a host with no unit left loses its lease."""
        if not any(unit.runs for unit in self._world.all_units if unit.host is host):
            self._lapse(host)

    def _lapse(self, host: Host, *, back: bool = False) -> None:
        world = self._world

        def expire() -> None:
            if world.now < world.etcd.down_until:
                world.after(world.etcd.down_until - world.now + LEASE, expire)
            elif (
                not host.up
                or world.now < host.cut_until
                or not any(unit.runs for unit in world.all_units if unit.host is host)
            ):
                host.leased = False
                world.etcd.expire(host.name)

        world.after(LEASE + world.delay(), expire)

    def _kill_keeper(self, host: Host) -> None:
        world = self._world
        for unit in world.all_units:
            if unit.host is host and unit.rank is None and unit.up:
                unit.up = False
                world.log("the keeper of %s dies", host.name)
                world.after(world.delay(2), self._restart_keeper, host)

    def _restart_keeper(self, host: Host) -> None:
        if any(rank.runs for rank in host.ranks):
            self._world.add_unit(host, None)
        else:
            self._last_resort(host)

    # ---- what looks like a death ----

    def _accused(self, ranks: list[Rank], evidence: Evidence) -> None:
        world = self._world
        accusers = [
            unit
            for unit in world.all_units
            if unit.runs and unit.rank not in ranks and unit.host.cut_until <= world.now
        ]
        if accusers:
            numbers = tuple(rank.number for rank in ranks)
            world.after(world.delay(), world.units.accuse, world.rng.choice(accusers), numbers, evidence)

    def _stop(self, rank: Rank, lasts: float) -> None:
        world = self._world
        if not rank.runs:
            return
        world.log("rank %d is stopped for %.0f", rank.number, lasts)
        rank.stopped_until = world.now + lasts
        if lasts > 10:
            for unit in world.all_units:
                if unit.host is rank.host and unit.rank is not rank and unit.runs:
                    world.after(8 + world.delay(), world.units.accuse, unit, (rank.number,), Evidence.STOPPED)
        world.after(lasts + 1e-3, world.main.poll, rank)

    def _cut(self, host: Host, lasts: float) -> None:
        world = self._world
        if not host.up or not any(rank.runs for rank in world.ranks if rank.host is not host):
            return
        if any(other.cut_until > world.now for other in world.hosts):
            return
        world.log("host %s is cut off from etcd for %.0f", host.name, lasts)
        host.cut_until = world.now + lasts
        self._lapse(host)
        for seconds in (LOST_AFTER_S + 1, outage.STILL_S + 1):
            world.after(seconds * 1000, self._despair, host, seconds)
        if lasts < FOR_EVER:
            world.after(lasts + world.delay(), self._reconnect, host)

    def _despair(self, host: Host, seconds: float) -> None:
        """Let the ranks of a host that is cut off forever give up, if it is time."""
        world = self._world
        for rank in host.ranks:
            if rank.runs and host.cut_until >= FOR_EVER and rank.unit is not None:
                known = rank.unit.succession.failure_known
                own = world.schedule.seed % 2 == 0
                if outage.gives_up(seconds, seconds, own=own, failure_known=known, lost_after_s=LOST_AFTER_S):
                    world.log("rank %d gives up: etcd is away", rank.number)
                    world.checks.despaired(rank)
                    world.main.ended(rank, Ending(status=1, message="etcd is away"), everywhere=False)

    def _reconnect(self, host: Host) -> None:
        if host.up and not host.leased and any(rank.runs for rank in host.ranks):
            host.leased = True
            self._world.log("host %s reaches etcd again", host.name)
            self._world.etcd.renew(host.name)

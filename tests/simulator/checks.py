"""The invariants of recovery, checked as things happen, by one that sees everything.

What is safe is never undone while, for each task, a host that completed its snapshot of that boundary, in a history
still true, is live and not declared dead; and where it is undone, the decision says that it may be. All states restored
by one decision belong to one consistent cut. There is one decision a generation. Every epoch's ``committed`` is called,
in order. A job goes on or ends with a reason that holds.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from typing import TYPE_CHECKING, NoReturn

from taskgraph.plan import news, records
from taskgraph.plan.decision import Decision
from taskgraph.plan.ending import Ending
from taskgraph.plan.evidence import Evidence, Tombstone
from taskgraph.plan.holdings import Known
from taskgraph.plan.manifest import Name
from taskgraph.plan.records import Write
from tests.simulator.parts import Host, Rank, Slot
from tests.simulator.schedules import Moment

if TYPE_CHECKING:
    from tests.simulator.world import World


class Violation(AssertionError):
    """An invariant does not hold."""


class Checks:
    """What is true, as opposed to what anybody in the world knows."""

    def __init__(self, world: World) -> None:
        self._world = world
        plan = world.schedule
        self._plan = plan
        self.decisions: dict[int, Decision] = {}
        self._safe = -1
        self._completed: dict[tuple[int, int], set[tuple[str, int]]] = defaultdict(set)
        self._restored: dict[int, dict[int, int]] = defaultdict(dict)
        self._made_of: dict[int, dict[int, int]] = {}
        self._cuts: set[tuple[int, ...]] = set()
        self._calls: Counter[tuple[int, int]] = Counter()
        self._upto: dict[tuple[int, int, int], int] = {}
        self._exits: Counter[int] = Counter()
        self._kept: dict[tuple[int, int], int] = {}
        self._undone = False
        self._ending: Ending | None = None
        self._left_ok = False
        self._over_in: set[int] = set()
        self._begun_by_root: set[int] = set()
        self._despaired: set[int] = set()
        self._wrote: dict[tuple[int, int, int], int] = {}
        self._known: dict[int, Name] = {}
        self._reference = self._run_without_failures()

    def bad(self, what: str, why: str = "") -> NoReturn:
        """Say that something must not be."""
        raise Violation(f"{what}: {why}" if why else what)

    # ---- the application ----

    def initial(self, task: int, boundary: int) -> int:
        """Return the state of a task as `init` makes it; one that protects nothing has none but the epoch."""
        if task in self._plan.stateless:
            return hash((task, "nothing", boundary))
        return hash((task, 77, self._world.rng.random() if self._plan.nondeterministic else 0.0))

    def step(self, task: int, epoch: int, own: int, values: list[tuple[int, int]]) -> int:
        """Return the next state of a task."""
        if task in self._plan.stateless:
            return self.initial(task, epoch + 1)
        nonce = self._world.rng.random() if self._plan.nondeterministic else 0.0
        after = hash((task, epoch, own, tuple(values), nonce))
        self._made_of[after] = {**dict(values), task: own}
        return after

    def _run_without_failures(self) -> list[list[int]]:
        if self._plan.nondeterministic:
            return []
        tasks = range(self._plan.tasks)
        around = [sorted({(task + 1) % len(tasks), (task - 1) % len(tasks)} - {task}) for task in tasks]
        states = [[self.initial(task, 0) for task in tasks]]
        for epoch in range(self._plan.epochs):
            now = states[-1]
            states.append(
                [self.step(task, epoch, now[task], [(other, now[other]) for other in around[task]]) for task in tasks]
            )
        return states

    # ---- etcd ----

    def written(self, write: Write) -> None:
        """Look at a transaction that is being carried out."""
        for key, value in write.entries.items():
            match self._world.decode(key, value):
                case news.Decided(decision):
                    self.decided(decision)
                case news.Ended(ending):
                    self._ended(ending)
                case news.RankDead(rank, tombstone):
                    self._buried(rank, tombstone)
                case news.Published(generation, holdings):
                    self._world.log("etcd: %s offers to generation %d: %s", holdings.host, generation,
                                    [tuple(slot) for slot in holdings.slots])  # fmt: skip

    def _buried(self, rank: int, tombstone: Tombstone) -> None:
        if rank == tombstone.ranks[0]:
            self._world.log("etcd: %s", tombstone.describe())
        newest = self.decisions[max(self.decisions)]
        if rank in newest.host_of and records.NEWEST in self._world.etcd.keys:
            name = Name.read(self._world.etcd.keys[records.NEWEST].decode())
            if self._is_true(name.boundary, name.generation):
                self._known.setdefault(newest.generation + 1, name)
        host = self._world.ranks[rank].host.name
        if tombstone.evidence is Evidence.LEASE and records.host_key(host) in self._world.etcd.keys:
            self.bad("a host that holds its lease is called silent", host)

    def decided(self, decision: Decision) -> None:
        """Look at a new generation."""
        self._world.log(
            "etcd: generation %d by %s: boundary %d, layout %s, live %s; %s",
            decision.generation, decision.by, decision.boundary, decision.layout.replicas, decision.live, decision.why,
        )  # fmt: skip
        if decision.generation in self.decisions:
            self.bad("two decisions of one generation", str(decision.generation))
        if self._left_ok or self._ending is not None:
            self.bad("a generation begins after the job has ended", str(decision.generation))
        self._check_checkpoint(decision)
        if decision.boundary < self._safe:
            self._rolled_back(decision)
        for task in decision.rebuild:  # by `init`, maybe otherwise: of the first boundary nothing is committed
            self._kept.pop((task, decision.first), None)
        self.decisions[decision.generation] = decision
        self._world.stats["decisions"] += decision.generation > 0
        self._check_layout(decision)

    def _check_checkpoint(self, decision: Decision) -> None:
        """See that one that was complete before the failure is used, where nothing newer is left."""
        if decision.checkpoint is not None:
            self._world.stats["went back to a checkpoint"] += 1
            if decision.checkpoint not in self._world.checkpoints.complete:
                self.bad("a decision names a checkpoint that is not complete", str(decision.checkpoint))
        known = self._known.get(decision.generation)
        if known is not None and known.boundary > decision.boundary:
            self.bad("a complete checkpoint is not used", f"{known}, boundary {decision.boundary}")

    def _rolled_back(self, decision: Decision) -> None:
        if self._all_were_held(set(decision.host_of.values())):
            self.bad("what was committed is undone", f"{self._safe} to {decision.boundary}")
        if not decision.undoes:
            self.bad("what was committed is undone without a word", f"{self._safe} to {decision.boundary}")
        self._world.stats["undone"] += 1
        self._undone = True
        self._safe = decision.boundary
        self._kept = {key: value for key, value in self._kept.items() if key[1] <= decision.boundary}

    def _all_were_held(self, live: set[str]) -> bool:
        """Whether every task once had the safe boundary, in a history still true, on a host that lives."""
        hosts = {host.name for host in self._world.hosts if host.up} & live
        return self._safe >= 0 and all(
            any(
                host in hosts and self._is_true(self._safe, written)
                for host, written in self._completed[task, self._safe]
            )
            for task in range(self._plan.tasks)
        )

    def _is_true(self, boundary: int, written: int) -> bool:
        return all(d.boundary >= boundary for generation, d in self.decisions.items() if generation > written)

    def _check_layout(self, decision: Decision) -> None:
        hosts = set(decision.host_of.values())
        for replicas in decision.layout.replicas:
            if len(set(replicas)) != len(replicas) or any(rank not in decision.host_of for rank in replicas):
                self.bad("a layout with ranks that are not live, or twice the same", str(replicas))
            wanted = min(self._plan.backups + 1, len(hosts))
            if len({decision.host_of[rank] for rank in replicas}) < wanted:
                self.bad("copies that are not kept apart", str(replicas))

    def _ended(self, ending: Ending) -> None:
        self._world.log("etcd: the job ends, status %d %s", ending.status, ending.message)
        self._ending = ending
        if not ending.message and max(self.decisions) not in self._over_in:
            self.bad("a generation that is not over is ended", str(max(self.decisions)))
        if ending.message == "false":
            self.bad("an error that garbage made ends the job")
        if ending.message.startswith("all copies"):
            self._check_loss()

    def _check_loss(self) -> None:
        self._world.stats["lost"] += 1
        newest = self.decisions[max(self.decisions)]
        if newest.generation + 1 in self._known:
            self.bad("a job is lost though a checkpoint is complete", str(self._known[newest.generation + 1]))
        dead = {key for key in self._world.etcd.keys if key.startswith("dead/")}
        live = {host for rank, host in newest.host_of.items() if records.dead_key(rank) not in dead}
        if self._safe <= 0:
            self.bad("a job that could start again is lost")
        if self._all_were_held(live):
            self.bad("a job is lost though a cut was held", str(self._safe))
        stamps = [slot.stamp for host in self._world.hosts if host.up and host.name in live for slot in host.whole()]
        held = {s.task for s in stamps if s.boundary >= self._safe and self._is_true(s.boundary, s.generation)}
        if len(held) == self._plan.tasks:
            self.bad("a job is lost though every task is held", str(sorted(stamps)))

    # ---- generations ----

    def adopted(self, rank: Rank, decision: Decision) -> None:
        """Look at a rank that enters a generation."""
        if self.decisions.get(decision.generation) is not decision:
            self.bad("a rank adopts what was not decided", str(decision.generation))
        if rank.number not in decision.host_of:
            self.bad("a rank adopts a generation that it is not of", str(rank.number))

    def restored(self, rank: Rank, boundary: int) -> None:
        """Look at the state that a rank starts a generation with."""
        generation = rank.member.generation
        if rank.number == self.decisions[generation].live[0]:
            self._begun_by_root.add(generation)
        for task, value in rank.state.items():
            known = self._restored[generation].setdefault(task, value)
            if known != value and boundary > 0:
                self.bad("two states of one task in one generation", str(task))
            if self._reference and value != self._reference[boundary][task]:
                self.bad("a wrong state is restored", f"task {task}, boundary {boundary}, rank {rank.number}")
            newest = generation == max(self.decisions)  # else the rank is late, and has no say any more
            if newest and self._kept.get((task, boundary), value) != value:
                self.bad("what was committed has changed", f"task {task}, boundary {boundary}")
            key = (task, rank.number, generation)
            self._upto.pop(key, None)
        whole = self._restored[generation]
        if len(whole) == self._plan.tasks and not self._reference and self._plan.tasks <= 100:
            self._check_cut(dict(whole), boundary)

    def _check_cut(self, values: dict[int, int], boundary: int) -> None:
        """See that the states of all tasks belong to one run of the epochs before."""
        while boundary > 0:
            cut = tuple(values[task] for task in sorted(values))
            if cut in self._cuts:
                return
            before: dict[int, int] = {}
            for value in values.values():
                for task, of_it in self._made_of.get(value, {}).items():
                    if before.setdefault(task, of_it) != of_it:
                        self.bad("an inconsistent cut", f"task {task} at boundary {boundary - 1}")
            self._cuts.add(cut)
            if len(before) < len(values):
                return
            values, boundary = before, boundary - 1

    # ---- snapshots and commits ----

    def begun(self, host: Host, slot: Slot) -> None:
        """Look at a slot that is about to be written."""
        old = host.slots.get(slot.stamp[:3])
        if old is not None and old.whole:
            self.bad("a whole snapshot is written again", str(slot.stamp))

    def completed(self, rank: Rank, slot: Slot) -> None:
        """Look at a slot that has become whole."""
        stamp = slot.stamp
        self._completed[stamp.task, stamp.boundary].add((rank.host.name, stamp.generation))
        self._wrote[stamp[:3]] = slot.value
        whole = [
            other
            for other in rank.host.whole()
            if other.stamp.task == stamp.task and self._is_true(other.stamp.boundary, other.stamp.generation)
        ]
        if len(whole) > 3 + bool(self._plan.checkpoint_every):  # one may be held back, or have been until just now
            self.bad("a host keeps more than three snapshots", f"{[s.stamp for s in whole]} on {rank.host.name}")

    def recorded(self, rank: Rank, known: Known) -> None:
        """Look at a commit that a rank acts on."""
        if known.safe <= self._safe or not self._is_true(known.safe, known.generation):
            return
        self._safe = known.safe
        self._world.log("boundary %d is safe (rank %d, generation %d)", known.safe, rank.number, known.generation)
        self._world.happens(Moment.SAFE, rank)
        if known.safe == self.decisions[0].first:
            return  # of what lies before nothing is ever committed, and `init` may make it again
        for task in range(self._plan.tasks):
            stamps = [w for _, w in self._completed[task, known.safe] if self._is_true(known.safe, w)]
            if not stamps:
                self.bad("a boundary is called safe of which a task has no snapshot", f"{known.safe}, task {task}")
            value = self._wrote[task, known.safe, max(stamps)]
            if self._kept.setdefault((task, known.safe), value) != value:
                self.bad("what was committed has changed", f"task {task}, boundary {known.safe}")

    def called(self, rank: Rank, task: int, start: int, stop: int) -> None:
        """Look at calls of ``committed``."""
        key = (task, rank.number, rank.member.generation)
        if self._upto.setdefault(key, start) != start:
            self.bad("committed is not called in order", f"task {task}, epoch {start}")
        if start > 0 and not self._calls[task, start - 1] and not self._undone:
            self.bad("committed is not called of an epoch", f"task {task}, epoch {start - 1}")
        if stop > self._safe and self._is_true(stop, rank.member.generation):
            self.bad("committed is called too early", f"task {task}, epoch {stop - 1}")
        self._upto[key] = stop
        for epoch in range(start, stop):
            self._calls[task, epoch] += 1

    # ---- the end ----

    def exited(self, rank: Rank, tasks: tuple[int, ...]) -> None:
        """Look at calls of ``exit``."""
        for task in tasks:
            self._exits[task] += 1
            if rank.member.boundary != self._plan.epochs:
                self.bad("a job ends at the wrong boundary", str(rank.member.boundary))
            if self._reference and rank.state[task] != self._reference[-1][task]:
                self.bad("a wrong result", f"task {task}")

    def over(self, rank: Rank) -> None:
        """Look at a rank that knows that the job is over."""
        self._over_in.add(rank.member.generation)
        if self._safe < self._plan.epochs:
            self.bad("a job is over before it is safe", str(self._safe))

    def despaired(self, rank: Rank) -> None:
        """Look at a rank that gives up because etcd is away."""
        self._world.stats["gave up"] += 1
        self._despaired.add(rank.number)
        for generation in self._begun_by_root:
            if generation > rank.member.generation and rank.number not in self.decisions[generation].host_of:
                self.bad("a rank that is cut off is not told that its generation is over", str(rank.number))

    def left(self, rank: Rank) -> None:
        """Look at a rank that leaves."""
        wanted = 3 if self._plan.by_shutdown else 0
        if rank.left == wanted and self._safe >= self._plan.epochs:
            self._left_ok = True

    def judge(self, endless: bool) -> None:
        """Look at how the world ended."""
        world = self._world
        stuck = [rank.number for rank in world.ranks if rank.runs]
        if endless:
            state = [(r.number, r.member.phase.name, r.member.generation) for r in world.ranks]
            self.bad("it goes on forever", str(state))
        if stuck:
            members = [(rank.number, rank.member) for rank in world.ranks if rank.runs]
            state = [(number, m.phase.name, m.generation, m.boundary) for number, m in members]
            self.bad("it hangs", str(state))
        if world.stats["WIPE"] or (self._ending is not None and self._ending.message):
            return
        if self._left_ok and self._plan.mismatch_at >= 0:
            self.bad("a job whose graph does not fit ends well")
        if not self._left_ok:
            if any(rank.left is not None and rank.up for rank in world.ranks):
                self._check_nobody()
            return
        gaps = [
            (task, epoch)
            for task in range(self._plan.tasks)
            for epoch in range(self._plan.epochs)
            if not self._calls[task, epoch]
        ]
        if gaps and not self._undone:
            self.bad("committed is not called of an epoch", str(gaps))
        if any(not self._exits[task] for task in range(self._plan.tasks)):
            self.bad("exit is not called of every task", str(self._exits))

    def _check_nobody(self) -> None:
        """Everybody left without an end: allowed only to those declared dead, and those that etcd is lost to."""
        newest = self.decisions[max(self.decisions)]
        listed = [self._world.ranks[r] for r in newest.live if records.dead_key(r) not in self._world.etcd.keys]
        left = [rank.number for rank in listed if rank.up and rank.host.up and rank.number not in self._despaired]
        if left:
            self.bad("ranks left without an end of the job", str(left))

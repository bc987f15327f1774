"""What all ranks of a generation agree on: who lives, who runs what, and where it goes on from.

There is at most one decision a generation, and none is ever deleted. Generation 0 has one too: the layout that the job
starts with.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from taskgraph.ids import Epoch, Generation, Host, Rank, TaskId
from taskgraph.plan.holdings import NO_END
from taskgraph.plan.layout import Layout
from taskgraph.plan.lineage import History
from taskgraph.plan.manifest import Name
from taskgraph.plan.relaunch import failures_before


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """A generation.

    Attributes
    ----------
    generation
        Its number.
    host_of
        The live ranks, ascending, each with its host. A tombstone of one of them, and nothing else, starts the next
        generation.
    layout
        Who runs what.
    boundary
        Resume from here.
    holders
        By task: the hosts that hold its snapshot of `boundary`.
    rebuild
        Tasks of which no host does: `init` makes them anew, and `checkpoint` fills them.
    checkpoint
        The one of `boundary` that tasks to be rebuilt are filled from; None: `init` is enough. Ranks never look for
        one themselves.
    safe, delivered
        The newest boundary known to be safe, at most `boundary`, and how far ``committed`` is known to have been called
        for every task.
    first
        The boundary that the job started from.
    stateless
        Tasks that protect nothing.
    end
        The status of the job where it ends at `boundary`, or `NO_END`.
    undoes
        Something that was committed may be undone: all replicas of a task are lost.
    dead
        The ranks of the generation before that are not in this one.
    gone
        All ranks of earlier generations that are not in this one.
    earlier
        Number and resume boundary of each generation of earlier launches. See `taskgraph.plan.relaunch`.
    why
        Why this boundary; goes to the log and to the person as it is.
    by
        The unit that decided.
    """

    generation: Generation
    host_of: Mapping[Rank, Host]
    layout: Layout
    boundary: Epoch
    holders: tuple[frozenset[Host], ...]
    rebuild: tuple[TaskId, ...] = ()
    checkpoint: Name | None = None
    safe: Epoch
    delivered: Epoch
    first: Epoch = 0
    stateless: frozenset[TaskId] = frozenset()
    end: int = NO_END
    undoes: bool = False
    dead: tuple[Rank, ...] = ()
    gone: tuple[Rank, ...] = ()
    earlier: tuple[tuple[Generation, Epoch], ...] = ()
    why: str = ""
    by: str = ""
    live: tuple[Rank, ...] = field(init=False, repr=False, compare=False)
    """The live ranks, ascending."""
    ranks_of: Mapping[Host, tuple[Rank, ...]] = field(init=False, repr=False, compare=False)
    """By live host, in the order of their first ranks: its live ranks, ascending."""

    def __post_init__(self) -> None:
        ranks_of: dict[Host, list[Rank]] = {}
        for rank, host in self.host_of.items():
            ranks_of.setdefault(host, []).append(rank)
        object.__setattr__(self, "live", tuple(self.host_of))
        object.__setattr__(self, "ranks_of", {host: tuple(ranks) for host, ranks in ranks_of.items()})

    @property
    def follows_failure(self) -> bool:
        """Whether the launch that it belongs to had lost ranks before."""
        return failures_before(self.generation) > 0

    @property
    def history(self) -> History:
        """The boundaries resumed from, as far as this decision tells of them."""
        return {**dict(self.earlier), self.generation: self.boundary}

    def hosts_of(self, task: TaskId) -> set[Host]:
        """Return the hosts of a task's replicas."""
        return {self.host_of[rank] for rank in self.layout.replicas[task]}

    def encode(self) -> bytes:
        """Return the value of the key ``gen/<g>/decision``."""
        number = {host: at for at, host in enumerate(self.ranks_of)}
        return json.dumps(
            {
                "generation": self.generation,
                "hosts": self.ranks_of,
                "layout": self.layout.replicas,
                "boundary": self.boundary,
                "holders": [sorted(number[host] for host in some) for some in self.holders],
                "rebuild": self.rebuild,
                "checkpoint": None if self.checkpoint is None else str(self.checkpoint),
                "safe": self.safe,
                "delivered": self.delivered,
                "first": self.first,
                "stateless": sorted(self.stateless),
                "end": self.end,
                "undoes": self.undoes,
                "dead": self.dead,
                "gone": self.gone,
                "earlier": self.earlier,
                "why": self.why,
                "by": self.by,
            },
            separators=(",", ":"),
        ).encode()

    @classmethod
    def decode(cls, value: bytes) -> Decision:
        """Read such a value. Raises ValueError where it is none."""
        try:
            read = json.loads(value)
            hosts = list(read["hosts"])
            pairs = sorted((rank, host) for host, ranks in read["hosts"].items() for rank in ranks)
            return cls(
                generation=int(read["generation"]),
                host_of=dict(pairs),
                layout=Layout(tuple(map(tuple, read["layout"]))),
                boundary=int(read["boundary"]),
                holders=tuple(frozenset(hosts[at] for at in some) for some in read["holders"]),
                rebuild=tuple(read["rebuild"]),
                checkpoint=None if read["checkpoint"] is None else Name.read(read["checkpoint"]),
                safe=int(read["safe"]),
                delivered=int(read["delivered"]),
                first=int(read["first"]),
                stateless=frozenset(read["stateless"]),
                end=int(read["end"]),
                undoes=bool(read["undoes"]),
                dead=tuple(read["dead"]),
                gone=tuple(read["gone"]),
                earlier=tuple((int(generation), int(boundary)) for generation, boundary in read["earlier"]),
                why=str(read["why"]),
                by=str(read["by"]),
            )
        except (KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
            raise ValueError(f"not a decision: {value[:80]!r}") from error


def start(
    host_of: Mapping[Rank, Host],
    layout: Layout,
    *,
    checkpoint: Name | None = None,
    delivered: Epoch = 0,
    stateless: Iterable[TaskId] = (),
    by: str = "start",
) -> Decision:
    """Return the decision of generation 0: `init` makes every task, and the checkpoint fills it if there is one.

    Parameters
    ----------
    delivered
        How far ``committed`` was called for every task before that checkpoint.
    """
    first = 0 if checkpoint is None else checkpoint.boundary
    tasks = len(layout.replicas)
    return Decision(
        generation=0,
        host_of=dict(sorted(host_of.items())),
        layout=layout,
        boundary=first,
        holders=(frozenset(),) * tasks,
        rebuild=tuple(range(tasks)),
        checkpoint=checkpoint,
        safe=first - 1,  # nothing has been kept yet
        delivered=delivered,
        first=first,
        stateless=frozenset(stateless),
        why=f"the job starts at boundary {first}" + (f", of checkpoint {checkpoint}" if checkpoint else ""),
        by=by,
    )

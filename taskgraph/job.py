"""What a driver configures and starts."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Any, Literal, Protocol

from taskgraph.backends.launcher import detect
from taskgraph.config import Config, Placement, Resuming
from taskgraph.errors import UsageError
from taskgraph.ids import TaskId
from taskgraph.plan.faults import Draw, Fault, parse
from taskgraph.program.task import Task
from taskgraph.program.topology import Linkage, Topology
from taskgraph.report import Reporter
from taskgraph.run.alone import run_alone
from taskgraph.run.state.replicas import Program


class TaskBuilder(Protocol):
    """An object that makes tasks."""

    def build(self, task_id: TaskId) -> Task:
        """Return the task of an id. Called on each rank that holds a replica of it."""


class Job:
    """One run of a driver: tasks, how they are linked, and how they are kept alive.

    Every rank makes the same `Job` and starts it; ``mpirun -n N python driver.py`` makes N ranks, plain
    ``python driver.py`` one.

    Parameters
    ----------
    name
        Key of the job: letters, digits, ``_``, ``.``, ``-``.
    num_tasks
        Number of tasks.
    epochs
        Number of epochs; None: until a task calls ``shutdown``.
    backups
        Backup replicas of each task.
    placement
        ``"buddy"``: every rank runs tasks and backs up others'; ``"dedicated"``: backup ranks wait.
    checkpoint
        URL where checkpoints are written and, at the start, looked for; None: nowhere.
    checkpoint_every
        Epochs between two checkpoints; ``"auto"``, the default, chooses by measured cost and `mtbf_s`.
    resume
        ``"auto"``, ``"never"``, ``"require"``: whether to go on from the newest complete checkpoint: if there is one,
        never, or fail without one.
    seed
        Seed of every task's ``ctx.rng``.
    etcd
        Endpoints of an etcd, ``"host:port,host:port"`` or a sequence; None: the job brings its own.
    **options
        Any other field of `taskgraph.config.Config`. Each option also comes from the environment, as ``TASKGRAPH_``
        and its name in capitals; an argument takes precedence over the environment.

    Raises
    ------
    UsageError
        An option is unknown or out of its bounds.
    """

    def __init__(
        self,
        name: str,
        num_tasks: int,
        *,
        epochs: int | None = None,
        backups: int | None = None,
        placement: Placement | None = None,
        checkpoint: str | None = None,
        checkpoint_every: int | Literal["auto"] | None = None,
        resume: Resuming | None = None,
        seed: int | None = None,
        etcd: str | Sequence[str] | None = None,
        **options: Any,
    ) -> None:
        unknown = sorted(options.keys() - Config.__slots__)
        if unknown:
            raise UsageError(f"{unknown[0]}={options[unknown[0]]!r}: Job has no option of that name")
        for option, value in (("name", name), ("num_tasks", num_tasks)):
            if value is None:
                raise UsageError(f"{option}=None: a job has to have one")
        if not isinstance(etcd, str | Sequence | None):
            raise UsageError(f"etcd={etcd!r} is neither 'host:port,...' nor a sequence of such")
        faults = options.get("faults")
        if isinstance(faults, Fault | Draw):
            options["faults"] = str(faults)
        elif faults is not None and not isinstance(faults, str):
            options["faults"] = "; ".join(map(str, faults))
        self.config = Config.from_env(
            os.environ,
            name=name,
            num_tasks=num_tasks,
            epochs=epochs,
            backups=backups,
            placement=placement,
            checkpoint=checkpoint,
            checkpoint_every=checkpoint_every,
            resume=resume,
            seed=seed,
            etcd=etcd if etcd is None or isinstance(etcd, str) else tuple(etcd),
            **options,
        )
        parse(self.config.faults)  # a mistake is told here, not on every rank
        self._build: Callable[[TaskId], object] | None = None
        self._linkages: dict[str, Linkage] = {}

    def set_task_builder(self, builder: Callable[[TaskId], Task] | TaskBuilder) -> None:
        """Say how tasks are made: a callable of the task id, or an object with ``build(task_id)``."""
        build = getattr(builder, "build", builder)
        if not callable(build):
            raise UsageError(f"builder={builder!r} is neither callable nor has a build method")
        self._build = build

    def add_linkage(self, name: str, neighbors: Linkage) -> None:
        """Name a relation between tasks.

        Parameters
        ----------
        name
            What `Context.neighbors` is asked for.
        neighbors
            Called as ``neighbors(task_id, num_tasks, epoch)`` in every epoch; returns task ids.
        """
        if not isinstance(name, str) or not name:
            raise UsageError(f"linkage name={name!r} is not a name: give a non-empty str")
        if name in self._linkages:
            raise UsageError(f"linkage {name!r} was added twice")
        if not callable(neighbors):
            raise UsageError(f"linkage {name!r}: {neighbors!r} is not callable")
        self._linkages[name] = neighbors

    def add_topology(self, topology: Topology) -> None:
        """Add the linkages of a topology under their names.

        Raises
        ------
        UsageError
            It does not fit the number of tasks, or a name is taken.
        """
        if isinstance(topology, type) or not callable(getattr(topology, "linkages", None)):
            raise UsageError(f"topology={topology!r} is no topology: give an object, such as taskgraph.topology.Ring()")
        for name, linkage in topology.linkages(self.config.num_tasks).items():
            self.add_linkage(name, linkage)

    def start(self) -> int:
        """Run the job to its end. Call it on every rank; another call is another run.

        Inside, MPI belongs to the framework; MPI calls of your own come before or after.

        Returns
        -------
        int
            The status, the same on every rank: 0 when the job finished; what ``shutdown`` was given; not 0 after an
            error, which was then printed once.

        Raises
        ------
        UsageError
            The job lacks a task builder, or the ranks do not agree on what it is.
        Exception
            In a job of one process, whatever user code raises, as it is.
        """
        program = self.program()
        launched = detect(os.environ)
        reporter = Reporter(self.config, launched)
        if launched is None:
            return run_alone(program, reporter)
        from taskgraph.run.rank.rank import (
            run_rank,  # with it come gRPC and etcd, which a job of one process does without
        )

        return run_rank(program, reporter)

    def program(self) -> Program:
        """Return what was configured, as a value. Raises UsageError where the task builder is missing."""
        if self._build is None:
            raise UsageError(f"job {self.config.name!r} has no task builder: call set_task_builder before start")
        return Program(self.config, self._build, dict(self._linkages))

"""SPMD tasks over MPI that compose a graph each epoch. Start with `Task` and `Job`."""

from taskgraph import testing
from taskgraph.errors import CoordinatorError, GraphError, TaskgraphError, UsageError
from taskgraph.job import Job, TaskBuilder
from taskgraph.program import topology
from taskgraph.program.channel import InboundChannel, OutboundChannel
from taskgraph.program.context import Context
from taskgraph.program.framework import Framework
from taskgraph.program.task import Task

__all__ = [
    "Context",
    "CoordinatorError",
    "Framework",
    "GraphError",
    "InboundChannel",
    "Job",
    "OutboundChannel",
    "Task",
    "TaskBuilder",
    "TaskgraphError",
    "UsageError",
    "__version__",
    "testing",
    "topology",
]

__version__ = "0.1.0"

"""What a person sees of a job: how far it is, and why it failed. A job that ends well says nothing."""

from taskgraph.report.failure import failure
from taskgraph.report.progress import Progress
from taskgraph.report.reporter import Reporter

__all__ = ["Progress", "Reporter", "failure"]

"""The public names, and what importing them does not do."""

from __future__ import annotations

import subprocess
import sys
from importlib import metadata

import taskgraph

PUBLIC = {
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
}


def test_the_public_names_are_these():
    assert set(taskgraph.__all__) == PUBLIC
    assert list(taskgraph.__all__) == sorted(taskgraph.__all__)


def test_every_public_name_is_there_and_says_what_it_is():
    for name in PUBLIC - {"__version__"}:
        assert getattr(taskgraph, name).__doc__, name


def test_the_version_is_the_installed_one():
    assert taskgraph.__version__ == metadata.version("taskgraph")


def test_importing_taskgraph_starts_neither_mpi_nor_a_client_of_etcd():
    code = """
import sys, taskgraph
loaded = {name.partition(".")[0] for name in sys.modules} & {"mpi4py", "etcd3", "grpc", "google", "rich"}
libraries = {line.split()[-1] for line in open("/proc/self/maps") if "libmpi" in line}
print(sorted(loaded), sorted(libraries))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout == "[] []\n", done.stderr


def test_importing_taskgraph_configures_no_logging_and_starts_no_thread():
    code = """
import logging, threading, taskgraph
print(logging.getLogger().handlers, logging.getLogger("taskgraph").handlers, threading.active_count())
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout == "[] [] 1\n", done.stderr

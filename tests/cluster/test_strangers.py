"""Who is not the user, or has no certificate of the run, gets nothing of a job on several hosts."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable

import pytest
from batch import Batch, assert_nothing_left, ring
from lab import Lab

# Says of each port at which a host listens what a client without certificate gets to hear, over HTTP and over TLS.
KNOCK = """
import json, socket, ssl, sys, urllib.request
context = ssl.create_default_context()
context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
heard = {}
for port in map(int, sys.argv[2:]):
    for scheme in ("http", "https"):
        try:
            url = f"{scheme}://{sys.argv[1]}:{port}/health"
            heard[url] = urllib.request.urlopen(url, timeout=3, context=context).read().decode()
        except Exception as error:
            heard[url] = type(error).__name__
print(json.dumps(heard))
"""

# Says what another user can open below a directory.
PRY = """
import os, sys
os.setgid(65534); os.setuid(65534)
opened = []
for place in sys.argv[1:]:
    for directory, names, files in os.walk(place):
        for name in files:
            try:
                open(os.path.join(directory, name), "rb").close()
                opened.append(os.path.join(directory, name))
            except OSError:
                pass
print("\\n".join(opened))
"""


@pytest.fixture
def job(submit: Callable[..., Batch]) -> Batch:
    started = submit(ring(epochs=100_000), "--nodes=2", "--ntasks-per-node=2", "--no-kill", "--nodelist=n1,n2")
    started.wait_for_line("^epoch 5$")
    return started


def test_another_host_without_a_certificate_gets_nothing_from_etcd(lab: Lab, job: Batch):
    sockets = lab.run("n1", "cat", "/proc/net/tcp").splitlines()[1:]
    outside = [
        fields[1] for line in sockets if (fields := line.split())[3] == "0A" and not fields[1].startswith("0100007F")
    ]
    ports = {int(where.partition(":")[2], 16) for where in outside}
    etcd = [port for port in ports if 20_000 <= port < 32_000]
    assert etcd, "etcd listens beyond loopback, as ranks of another host need it"
    heard = json.loads(lab.run("n3", sys.executable, "-c", KNOCK, lab.address("n1"), *etcd))
    assert not [url for url, text in heard.items() if "health" in text], heard
    assert json.loads(lab.run("n1", sys.executable, "-c", KNOCK, "127.0.0.1", *etcd)) != {}
    job.cancel()
    assert_nothing_left(lab, lab.names, 40.0)


def test_another_user_can_read_nothing_of_it(lab: Lab, job: Batch):
    for host in ("n1", "n2"):
        assert "taskgraph-" in lab.run(host, "ls", "/dev/shm")
        assert lab.run(host, sys.executable, "-c", PRY, "/dev/shm").split() == []
    job.cancel()
    assert_nothing_left(lab, lab.names, 40.0)

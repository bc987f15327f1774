"""Try the bridge to etcd3 under every protobuf it is for. By hand: it downloads each.

python tests/protobuf_matrix.py
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

VERSIONS = ("3.20", "4.21", "4.25", "5", "6", "7")
ROOT = Path(__file__).resolve().parent.parent
CODE = """
import sys, google.protobuf
from google.protobuf.internal import api_implementation
from pathlib import Path
from taskgraph.backends import etcd_server
from taskgraph.backends.etcd import EtcdCoordinator
from taskgraph.backends.etcd_access import EtcdAccess
server = etcd_server.start(Path(sys.argv[1]) / "etcd", 30)
try:
    coordinator = EtcdCoordinator(EtcdAccess(endpoints=(server.endpoint,)), "matrix")
    coordinator.claim("run")
    assert coordinator.write({"a": b"1"}, absent=["a"]) and not coordinator.write({"a": b"2"}, absent=["a"])
    assert coordinator.renew(coordinator.grant(5))
    (event,) = coordinator.news(30)
    assert event.entries == {"run": b"run", "a": b"1"}, event
    coordinator.write({"b": b"2"})
    (event,) = coordinator.news(30)
    assert (event.key, event.value) == ("b", b"2")
    coordinator.close()
finally:
    server.stop()
print(google.protobuf.__version__, api_implementation.Type())
"""


def main() -> int:
    """Print one line for each version; the status is 1 if one fails."""
    failed = False
    for version in VERSIONS:
        with tempfile.TemporaryDirectory() as directory:
            target = Path(directory) / "packages"
            install = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", str(target)]
            subprocess.run([*install, f"protobuf=={version}.*"], check=True)
            environment = {**os.environ, "PYTHONPATH": f"{target}:{ROOT}"}
            done = subprocess.run(
                [sys.executable, "-c", CODE, directory], env=environment, capture_output=True, text=True, timeout=120
            )
            words = done.stdout.strip() if done.returncode == 0 else done.stderr.strip().splitlines()[-1]
            print(f"protobuf {version:5} {'ok' if done.returncode == 0 else 'FAILED'}  {words}", flush=True)
            failed |= done.returncode != 0
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())

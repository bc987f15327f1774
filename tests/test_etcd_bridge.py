"""PyPI's etcd3 imports under the protobuf that is installed, and nothing else notices."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from taskgraph.backends import etcd_bridge
from taskgraph.errors import UsageError

TIMEOUT_S = 60


def run(code: str, *path: Path) -> str:
    """Run code in a fresh interpreter, with warnings as errors, and return what it prints."""
    environment = {"PYTHONPATH": ":".join(map(str, [*path, Path(__file__).parent.parent])), "PYTHONWARNINGS": "error"}
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_messages_survive_a_round_trip():
    rpc = etcd_bridge.load()
    request = rpc.PutRequest(key=b"k", value=b"\x00\xff", lease=7)
    assert rpc.PutRequest.FromString(request.SerializeToString()) == request
    assert rpc.Compare.CompareResult.Value("EQUAL") == rpc.Compare.EQUAL


def test_loading_twice_is_the_same_module():
    assert etcd_bridge.load() is etcd_bridge.load() is sys.modules["etcd3.etcdrpc"]


def test_the_users_own_import_of_etcd3_works_after_it():
    code = """
        from taskgraph.backends import etcd_bridge
        etcd_bridge.load()
        import etcd3
        from etcd3.etcdrpc import kv_pb2, rpc_pb2
        print(etcd3.__version__, kv_pb2.Event.DELETE, rpc_pb2.RangeRequest(key=b"a").key)
    """
    assert run(code) == "0.12.0 1 b'a'"


def test_files_of_the_same_names_in_the_users_own_descriptor_pool_do_not_collide():
    code = """
        from google.protobuf import descriptor_pb2, descriptor_pool
        for name in ("rpc.proto", "kv.proto", "auth.proto"):
            file = descriptor_pb2.FileDescriptorProto(name=name, package=f"mine.{name[:-6]}")
            file.message_type.add(name="PutRequest")
            descriptor_pool.Default().AddSerializedFile(file.SerializeToString())
        from taskgraph.backends import etcd_bridge
        print(etcd_bridge.load().PutRequest(key=b"a").key)
        print(descriptor_pool.Default().FindFileByName("rpc.proto").package)
    """
    assert run(code).split() == ["b'a'", "mine.rpc"]


def test_no_variable_is_set_and_the_implementation_of_protobuf_stays_the_fast_one():
    code = """
        import os
        before = dict(os.environ)
        from google.protobuf.internal import api_implementation
        kind = api_implementation.Type()
        from taskgraph.backends import etcd_bridge
        etcd_bridge.load()
        print(dict(os.environ) == before, api_implementation.Type() == kind)
    """
    assert run(code) == "True True"


def test_an_etcd3_that_works_already_is_used_as_it_is(tmp_path: Path):
    package = tmp_path / "etcd3"
    (package / "etcdrpc").mkdir(parents=True)
    (package / "__init__.py").write_text("import etcd3.etcdrpc as etcdrpc\n")
    (package / "etcdrpc" / "__init__.py").write_text("class KVStub: own = True\n")
    code = """
        import etcd3
        from taskgraph.backends import etcd_bridge
        print(etcd_bridge.load() is etcd3.etcdrpc, etcd3.etcdrpc.KVStub.own)
    """
    assert run(code, tmp_path) == "True True"


def test_another_release_that_imports_by_itself_is_used(tmp_path: Path):
    package = tmp_path / "etcd3"
    (package / "etcdrpc").mkdir(parents=True)
    (package / "__init__.py").write_text("")
    (package / "etcdrpc" / "__init__.py").write_text("class KVStub: own = True\n")
    assert run("from taskgraph.backends import etcd_bridge; print(etcd_bridge.load().KVStub.own)", tmp_path) == "True"


def test_one_that_does_not_import_is_named_with_the_release_that_does(tmp_path: Path):
    package = tmp_path / "etcd3"
    package.mkdir()
    (package / "__init__.py").write_text("raise TypeError('Descriptors cannot be created directly')")
    code = """
        from taskgraph.backends import etcd_bridge
        from taskgraph.errors import UsageError
        try:
            etcd_bridge.load()
        except UsageError as error:
            print(error)
    """
    message = run(code, tmp_path)
    assert str(package) in message
    assert "pip install etcd3==0.12.0" in message


def test_a_missing_package_is_an_error_that_names_it(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delitem(sys.modules, "etcd3.etcdrpc", raising=False)
    monkeypatch.setattr(etcd_bridge.importlib.util, "find_spec", lambda _: None)
    with pytest.raises(UsageError, match=r"etcd3 is not installed: pip install etcd3==0\.12\.0"):
        etcd_bridge.load()

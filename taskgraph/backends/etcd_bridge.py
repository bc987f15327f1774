"""Import PyPI's `etcd3` 0.12.0, as it is, whichever protobuf is installed.

The generated modules of that release build their descriptors in Python statements, which protobuf has refused since 4.
The serialized descriptors inside those statements are as good as ever. So they are read out of the source text,
message classes are made from them, and the result stands in ``sys.modules`` before etcd3 looks for its own. The classes
live in a descriptor pool of their own: ``rpc.proto``, ``kv.proto`` and ``auth.proto`` are names that others use too,
and in the process-wide pool they would collide.

This rests on the file layout of one release, which is why that release is pinned.
"""

from __future__ import annotations

import ast
import importlib
import importlib.util
import sys
import threading
from pathlib import Path
from types import ModuleType
from typing import Any

from taskgraph.errors import UsageError

_STEMS = ("kv", "auth", "rpc")  # in the order of their imports
_one_at_a_time = threading.Lock()


def load() -> Any:
    """Return ``etcd3.etcdrpc``: the stubs and messages of etcd's API.

    An etcd3 that the program has imported already is used as it is.

    Raises
    ------
    UsageError
        etcd3 is not installed, or is a release that neither imports nor can be bridged.
    """
    with _one_at_a_time:
        loaded = sys.modules.get("etcd3.etcdrpc")
        if loaded is not None and hasattr(loaded, "KVStub"):
            return loaded
        return _import(_package_directory())


def _package_directory() -> Path:
    spec = importlib.util.find_spec("etcd3")
    if spec is None or not spec.submodule_search_locations:
        raise UsageError("the package etcd3 is not installed: pip install etcd3==0.12.0")
    return Path(next(iter(spec.submodule_search_locations)))


def _import(package: Path) -> Any:
    sources = {stem: package / "etcdrpc" / f"{stem}_pb2.py" for stem in _STEMS}
    descriptors = {stem: _serialized_descriptor(path) for stem, path in sources.items()}
    seeded: list[str] = []
    try:
        if None not in descriptors.values():  # else another release: its own modules may do
            for module in _modules({stem: raw for stem, raw in descriptors.items() if raw is not None}):
                sys.modules[module.__name__] = module
                seeded.append(module.__name__)
        importlib.import_module("etcd3")
        return importlib.import_module("etcd3.etcdrpc")
    except Exception as error:
        for name in seeded:
            sys.modules.pop(name, None)
        raise UsageError(
            f"the package etcd3 at {package} does not import ({error}): pip install etcd3==0.12.0"
        ) from error


def _serialized_descriptor(source: Path) -> bytes | None:
    """Find the argument ``serialized_pb`` of the call of ``FileDescriptor``; the code is read, never run."""
    try:
        tree = ast.parse(source.read_text(encoding="utf-8"))
    except OSError:
        return None
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "FileDescriptor":
            for keyword in node.keywords:
                if keyword.arg == "serialized_pb":
                    return _literal(keyword.value)
    return None


def _literal(node: ast.expr) -> bytes | None:
    if isinstance(node, ast.Call) and len(node.args) == 1:  # _b('...'): Latin-1 text that stands for bytes
        node = node.args[0]
    if not isinstance(node, ast.Constant):
        return None
    value = node.value
    if isinstance(value, str):
        return value.encode("latin-1")
    return value if isinstance(value, bytes) else None


def _modules(descriptors: dict[str, bytes]) -> list[ModuleType]:
    from google.protobuf import descriptor_pb2, descriptor_pool

    pool = descriptor_pool.DescriptorPool()
    modules = []
    for stem, raw in descriptors.items():
        pool.AddSerializedFile(raw)
        name = descriptor_pb2.FileDescriptorProto.FromString(raw).name
        modules.append(_module(f"etcd3.etcdrpc.{stem}_pb2", pool, pool.FindFileByName(name)))
    return modules


def _module(name: str, pool: Any, file: Any) -> ModuleType:
    from google.protobuf import message_factory
    from google.protobuf.internal import enum_type_wrapper

    message_class: Any = getattr(message_factory, "GetMessageClass", None)
    if message_class is None:  # before protobuf 4.22
        message_class = message_factory.MessageFactory(pool).GetPrototype
    module = ModuleType(name, "Stands in for the generated module of the same name.")
    contents: dict[str, Any] = {"DESCRIPTOR": file}
    for message, descriptor in file.message_types_by_name.items():
        contents[message] = message_class(descriptor)
    for enum, descriptor in file.enum_types_by_name.items():
        contents[enum] = enum_type_wrapper.EnumTypeWrapper(descriptor)
        contents.update({value.name: value.number for value in descriptor.values})
    vars(module).update(contents)
    return module

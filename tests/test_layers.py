"""Imports point one way, at any depth: inside functions, in stubs and in Cython too."""

from __future__ import annotations

import ast
import graphlib
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "taskgraph"

# The lowest first. What shares a line is one layer: its modules may import each other, but never in a circle.
LAYERS = (
    ("ids", "errors", "config", "trace"),
    ("program",),
    ("plan",),
    ("_native",),
    ("backends",),
    ("run",),
    ("report",),
    ("job",),
    ("testing",),
    ("cli", "__main__"),
)
LEVEL = {name: level for level, names in enumerate(LAYERS) for name in names}

# The same within `taskgraph.run`.
PARTS = ("state", "host", "worker", "checkpoints", "unit", "keeper", "start", "probes", "rank")

CYTHON_IMPORT = re.compile(
    r"^[ \t]*(?:from[ \t]+([\w.]+)[ \t]+c?import[ \t]+\(?([\w, \t]+)|c?import[ \t]+([\w., \t]+))", re.MULTILINE
)


def modules() -> dict[str, list[Path]]:
    """Return the files of each module: a compiled one has several."""
    found: dict[str, list[Path]] = {}
    for path in sorted(PACKAGE.rglob("*.py*")):
        if path.suffix in {".py", ".pyi", ".pyx", ".pxd"}:
            parts = path.relative_to(ROOT).with_suffix("").parts
            found.setdefault(".".join(parts).removesuffix(".__init__"), []).append(path)
    return found


def named(path: Path) -> set[tuple[str, str]]:
    """Return what a file imports: pairs of a full dotted name and what is taken from it, "" for itself."""
    package = path.relative_to(ROOT).with_suffix("").parts[:-1]
    text = path.read_text(encoding="utf-8")
    if path.suffix in {".pyx", ".pxd"}:
        return _named_in_cython(text, package)
    names = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            names |= {(alias.name, "") for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            start = _absolute("." * node.level + (node.module or ""), package)
            names |= {(start, alias.name) for alias in node.names}
    return names


def _named_in_cython(text: str, package: tuple[str, ...]) -> set[tuple[str, str]]:
    names = set()
    for start, some, plain in CYTHON_IMPORT.findall(text):
        for part in (some or plain).split(","):
            if part.strip():
                word = part.split()[0]
                names.add((_absolute(start, package), word) if start else (word, ""))
    return names


def _absolute(name: str, package: tuple[str, ...]) -> str:
    stem = name.lstrip(".")
    dots = len(name) - len(stem)
    if not dots:
        return name
    return ".".join([*package[: len(package) - dots + 1], *filter(None, [stem])])


def imports() -> dict[str, set[str]]:
    """Return for each module those modules of the package that it imports."""
    known = modules()
    graph = {}
    for module, paths in known.items():
        # What is taken may be a module itself, as in "from taskgraph.program import topology", or an attribute.
        names = {
            f"{start}.{taken}" if f"{start}.{taken}" in known else start
            for path in paths
            for start, taken in named(path)
            if start.split(".")[0] == "taskgraph"
        }
        graph[module] = names - {module}
    return graph


def layer(module: str) -> str:
    return module.split(".")[1]


def test_every_module_has_its_layer():
    assert {layer(module) for module in modules() if "." in module} <= set(LEVEL)


def test_no_module_imports_one_of_a_higher_layer():
    upwards = [
        f"{module} imports {other}"
        for module, others in imports().items()
        for other in others
        if "." in module and "." in other and LEVEL[layer(other)] > LEVEL[layer(module)]
    ]
    assert not upwards


def test_no_part_of_run_imports_a_higher_one():
    def level(module: str) -> int:
        parts = module.split(".")
        return PARTS.index(parts[2]) if len(parts) > 3 else len(PARTS)  # `alone` and `supervisor` use all of them

    graph = {module: others for module, others in imports().items() if module.startswith("taskgraph.run.")}
    assert {module.split(".")[2] for module in graph if module.count(".") > 2} == set(PARTS)
    upwards = [
        f"{module} imports {other}"
        for module, others in graph.items()
        for other in others
        if other in graph and level(other) > level(module)
    ]
    assert not upwards


def test_nothing_in_the_package_imports_the_package_as_a_whole():
    assert not [module for module, others in imports().items() if "taskgraph" in others]


def test_imports_form_no_circle():
    graphlib.TopologicalSorter(imports()).prepare()


@pytest.mark.parametrize(
    ("suffix", "text", "expected"),
    [
        (".py", "def f():\n    from taskgraph.run import worker", {("taskgraph.run", "worker")}),
        (".py", "if True:\n    import taskgraph.job as j", {("taskgraph.job", "")}),
        (".py", "import taskgraph", {("taskgraph", "")}),
        (".py", "from ..run import worker", {("taskgraph.run", "worker")}),
        (".py", "from . import mpi", {("taskgraph._native", "mpi")}),
        (".pyx", "from taskgraph.run cimport worker", {("taskgraph.run", "worker")}),
        (".pyx", "cdef f():\n    from .message cimport Message, Head as H", {
            ("taskgraph._native.message", "Message"), ("taskgraph._native.message", "Head")}),
        (".pxd", "cimport numpy as np, taskgraph.plan.tree", {("numpy", ""), ("taskgraph.plan.tree", "")}),
    ],
)  # fmt: skip
def test_imports_are_seen_wherever_they_stand(tmp_path, monkeypatch, suffix, text, expected):
    monkeypatch.setitem(globals(), "ROOT", tmp_path)
    path = (tmp_path / "taskgraph" / "_native" / "some").with_suffix(suffix)
    path.parent.mkdir(parents=True)
    path.write_text(text)
    assert named(path) == expected

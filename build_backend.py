"""The build backend: setuptools, and setup.py is told whether the installation is editable.

A wheel goes to other machines, so what it requires must not depend on this one. An editable installation stays here,
and can look for the Paddle that is installed. setup.py itself cannot tell the two apart.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from setuptools import build_meta
from setuptools.build_meta import (
    build_sdist,
    build_wheel,
    get_requires_for_build_editable,
    get_requires_for_build_sdist,
    get_requires_for_build_wheel,
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
EDITABLE = "PPREPLK_EDITABLE"  # read in setup.py, which runs in this process


@contextmanager
def editable() -> Iterator[None]:
    os.environ[EDITABLE] = "1"
    try:
        yield
    finally:
        del os.environ[EDITABLE]


def prepare_metadata_for_build_editable(*args: Any, **kwargs: Any) -> str:
    with editable():
        return build_meta.prepare_metadata_for_build_editable(*args, **kwargs)


def build_editable(*args: Any, **kwargs: Any) -> str:
    with editable():
        return build_meta.build_editable(*args, **kwargs)

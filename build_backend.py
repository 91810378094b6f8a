"""The build backend: setuptools, and setup.py is told whether the installation is editable, and what to prebuild.

A wheel goes to other machines, so what it requires must not depend on this one. An editable installation stays here,
and can look for the Paddle that is installed. setup.py itself cannot tell the two apart.

A wheel holds compiled code if that is asked for: ``python -m build --wheel --config-setting prebuilt=core``.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Optional

from setuptools import build_meta
from setuptools.build_meta import (
    build_sdist,
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
EDITABLE, PREBUILT = "PPREPLK_EDITABLE", "PPREPLK_PREBUILT"  # read in setup.py, which runs in this process


@contextmanager
def told(name: str, value: str) -> Iterator[None]:
    os.environ[name] = value
    try:
        yield
    finally:
        del os.environ[name]


def prepare_metadata_for_build_editable(*args: Any, **kwargs: Any) -> str:
    with told(EDITABLE, "1"):
        return build_meta.prepare_metadata_for_build_editable(*args, **kwargs)


def build_editable(*args: Any, **kwargs: Any) -> str:
    with told(EDITABLE, "1"):
        return build_meta.build_editable(*args, **kwargs)


def build_wheel(folder: str, config_settings: Optional[dict[str, Any]] = None, metadata: Optional[str] = None) -> str:
    settings = dict(config_settings or {})
    with told(PREBUILT, str(settings.pop("prebuilt", ""))):
        return build_meta.build_wheel(folder, settings, metadata)

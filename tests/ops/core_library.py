"""The core, compiled once and kept beside the operators, for tests."""

import hashlib
from pathlib import Path

import pytest

from ppreplk.ops import compiler
from ppreplk.ops.cache import cache_folder


def built_core() -> Path:
    """The core of these sources. Skip the test where there is no compiler."""
    command = compiler.find_compiler()
    if command is None:
        pytest.skip("no C++ compiler")
    sources = [path.read_bytes() for path in sorted(compiler.CORE_SOURCES.iterdir())]
    parts = [*sources, *(text.encode() for text in (*compiler.CORE_COMPILE, compiler.run([*command, "--version"])))]
    folder = cache_folder() / f"core-{hashlib.sha256(b'|'.join(parts)).hexdigest()[:16]}"
    path = folder / compiler.CORE
    return path if path.is_file() else compiler.build_core(folder)

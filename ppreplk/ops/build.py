"""Building and finding the operators in C++.

There are two libraries of operators. ``depthwise`` holds the depthwise convolution, and needs nothing but a compiler.
``channels_last`` holds the other layers of a channels-last program, which call the oneDNN inside Paddle or kernels for
AVX-512 and AMX, and what runs on AMX in trainings. A third one, the core of ``depthwise``, has no operators and comes
with wheels: ``compiler.py``.

Libraries are kept in a cache folder of the user's (``cache.py``), under a key that depends on the sources, Paddle, and
the compiler.
"""

from __future__ import annotations

import glob
import logging
import platform
import shutil
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

import paddle

from ..utils.errors import UserError
from . import onednn_headers as headers
from .cache import building, cache_folder, digest
from .compiler import COMMON, CORE_SOURCES, CSRC, PREBUILT, STAGING, compile_library, find_compiler, no_compiler, run

logger = logging.getLogger(__name__)


class Library(NamedTuple):
    """Operators that are built together.

    Args:
        name: for :func:`ppreplk.load_ops` and the command line.
        sources: folders of their C++ sources.
        onednn: whether they call the oneDNN inside Paddle.
    """

    name: str
    sources: tuple[Path, ...]
    onednn: bool = False

    @property
    def contents(self) -> str:
        """What messages call the operators."""
        return f"the {self.name.replace('_', '-')} operators"


DEPTHWISE = Library("depthwise", (CORE_SOURCES, CSRC / "paddle", CSRC / "training"))
CHANNELS_LAST = Library("channels_last", (CSRC / "onednn", CSRC / "amx", CSRC / "avx512"), onednn=True)
ONEDNN = "libdnnl.so.3"
LIBRARY = "libppreplk_ops.so"
COMPILE = ["-std=c++17", "-O3", "-fPIC", "-fopenmp", "-DPADDLE_WITH_CUSTOM_KERNEL"]
HOW_TO = "python -m ppreplk.ops builds it"


def find_library(library: Library = DEPTHWISE) -> Path | None:
    """The library built from these sources for this Paddle, or None.

    It is the one that the compiler at hand has built, or if no compiler runs here, any one.
    """
    try:
        folder = cache_folder() / _source_key(library)
    except UserError:  # no home folder; build_library reports it
        return None
    compiler = find_compiler()
    try:
        key = _compiler_key(compiler) if compiler else "*"
    except UserError:  # the compiler does not run; build_library reports it
        key = "*"
    found = glob.glob(f"{glob.escape(str(folder))}/{key}/{LIBRARY}")  # empty, too, if the folder cannot be read
    return Path(min(found)) if found else None


def build_library(library: Library = DEPTHWISE) -> Path:
    """Compile the operators, unless that has been done; returns the file.

    Raises:
        UserError: no compiler, no place to write or to load from, no oneDNN where it is needed, or the compiler failed;
            says which.
    """
    if not sys.platform.startswith("linux"):
        raise UserError(
            f"{library.contents} are built on Linux only, this is {sys.platform}", code="ops.unsupported-system"
        )
    compiler = find_compiler()
    if compiler is None:
        raise no_compiler()
    target = cache_folder() / _source_key(library) / _compiler_key(compiler) / LIBRARY
    with building(target) as missing:
        if missing:
            logger.info("building %s in %s; this takes about a minute, once", library.contents, target.parent)
            _build(library, compiler, target)
    return target


def find_prebuilt(library: Library = DEPTHWISE) -> Path | None:
    """The library that came with the wheel, if it is of these sources and for this Paddle, or None."""
    path = PREBUILT / _source_key(library) / LIBRARY
    return path if path.is_file() else None


def prebuild(library: Library, folder: Path) -> Path:
    """Compile the operators for the Paddle that is installed here, to be part of a wheel; returns the file.

    Args:
        folder: what :data:`PREBUILT` will be where the wheel is installed.

    Raises:
        UserError: no compiler, no oneDNN where it is needed, or the compiler failed.
    """
    compiler = find_compiler()
    if compiler is None:
        raise no_compiler()
    target = folder / _source_key(library) / LIBRARY
    target.parent.mkdir(parents=True, exist_ok=True)
    _build(library, compiler, target)
    return target


def _build(library: Library, compiler: list[str], target: Path) -> None:
    include = paddle.sysconfig.get_include()
    folders = [include, f"{include}/third_party", COMMON, *library.sources]
    link_arguments = _link_arguments(library)
    for left in target.parent.glob(f"{STAGING}*"):  # from a build that was interrupted
        shutil.rmtree(left, ignore_errors=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=STAGING) as folder:
        if library.onednn:
            headers.provide(Path(folder))
            folders.append(folder)
        arguments = [*COMPILE, *(f"-I{name}" for name in folders)]
        compile_library(compiler, library.sources, arguments, link_arguments, target)


def _link_arguments(library: Library) -> list[str]:
    """Paddle's own libraries, its OpenMP included: two OpenMP runtimes in one process halve each other's speed."""
    core = Path(paddle.base.core.__file__).parent / "libpaddle.so"
    openmp, onednn = (Path(paddle.sysconfig.get_lib()) / name for name in ("libiomp5.so", ONEDNN))
    arguments = [str(core), str(openmp) if openmp.is_file() else "-fopenmp"]
    if library.onednn:
        if not onednn.is_file():
            raise UserError(
                f"{library.contents} need oneDNN, and this Paddle is without it ({ONEDNN})", code="ops.no-onednn"
            )
        arguments.append(str(onednn))
    return arguments


def _source_key(library: Library) -> str:
    """A key of the sources, Paddle, the processor's architecture, the flags and the headers."""
    parts = [paddle.__version__, paddle.version.commit, platform.machine(), *COMPILE]
    if library.onednn:
        parts += [headers.REQUIREMENT, *map(str, headers.SETTINGS.items())]
    for path in sorted(path for folder in (COMMON, *library.sources) for path in folder.iterdir()):
        parts += [path.name, path.read_text(encoding="utf-8")]
    return digest(parts)


def _compiler_key(compiler: list[str]) -> str:
    return digest([*compiler, run([*compiler, "--version"])])

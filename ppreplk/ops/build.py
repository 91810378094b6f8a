"""Building and finding the operators in C++.

There are two libraries. ``depthwise`` holds the depthwise convolution, and needs nothing but a compiler.
``channels_last`` holds the other layers of a channels-last program, which call the oneDNN inside Paddle.

Libraries are kept in a cache folder of the user's, under a key that depends on the sources, Paddle, and the compiler.
A library appears there as a whole or not at all. If several processes want it, one builds it and the others wait.
"""

from __future__ import annotations

import glob
import hashlib
import logging
import os
import platform
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import paddle

from ..utils.errors import UserError
from . import onednn_headers as headers

logger = logging.getLogger(__name__)


class Library(NamedTuple):
    """Operators that are built together.

    Args:
        name: for :func:`ppreplk.load_ops` and the command line.
        sources: folder of their C++ sources.
        onednn: whether they call the oneDNN inside Paddle.
        more: folders with further sources.
    """

    name: str
    sources: Path
    onednn: bool = False
    more: tuple[Path, ...] = ()

    def files(self) -> list[Path]:
        """All its sources."""
        return sorted(path for folder in (self.sources, *self.more) for path in folder.iterdir())

    @property
    def contents(self) -> str:
        """What messages call the operators."""
        return f"the {self.name.replace('_', '-')} operators"


CSRC = Path(__file__).parent / "csrc"
COMMON = CSRC / "common"  # sources of both
DEPTHWISE = Library("depthwise", CSRC / "cpu")
CHANNELS_LAST = Library("channels_last", CSRC / "onednn", onednn=True, more=(CSRC / "amx",))
ONEDNN = "libdnnl.so.3"
LIBRARY = "libppreplk_ops.so"
STAGING = "building-"
COMPILE = ["-std=c++17", "-O3", "-fPIC", "-fopenmp", "-DPADDLE_WITH_CUSTOM_KERNEL"]
ELSEWHERE = "set XDG_CACHE_HOME to a folder on another one"  # another file system
HOW_TO = "python -m ppreplk.ops builds it"


def cache_folder() -> Path:
    """Where libraries are kept: ``$XDG_CACHE_HOME/ppreplk``, by default ``~/.cache/ppreplk``.

    Raises:
        UserError: there is no home folder: ``HOME`` is not set, and the system does not know the user.
    """
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "ppreplk"
    except RuntimeError as error:
        raise UserError(
            "this user has no home folder to keep compiled operators in; set XDG_CACHE_HOME to a writable folder",
            code="ops.no-home",
        ) from error


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


def find_compiler() -> list[str] | None:
    """Path and arguments of the compiler: ``$CXX``, else ``g++`` or ``clang++``; None if there is none."""
    for command in [os.environ["CXX"]] if os.environ.get("CXX") else ["g++", "clang++"]:
        try:
            program, *arguments = shlex.split(command)
        except ValueError:  # an unmatched quotation mark, or nothing but spaces
            continue
        if path := shutil.which(program):
            return [path, *arguments]
    return None


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
        named = os.environ.get("CXX")
        tried = f"$CXX is {named!r}; let it name one" if named else "g++ or clang++; $CXX names another"
        raise UserError(f"no C++ compiler was found ({tried})", code="ops.no-compiler")
    target = cache_folder() / _source_key(library) / _compiler_key(compiler) / LIBRARY
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        if os.statvfs(target.parent).f_flag & os.ST_NOEXEC:
            raise UserError(
                f"{target.parent} is on a file system from which nothing can be loaded (mounted noexec); {ELSEWHERE}",
                code="ops.noexec",
            )
        with _lock(target.parent / "lock"):
            if not target.is_file():
                logger.info("building %s in %s; this takes about a minute, once", library.contents, target.parent)
                _build(library, compiler, target)
    except OSError as error:
        raise UserError(
            f"cannot write to {target.parent} ({error.strerror or error}); set XDG_CACHE_HOME to a writable folder",
            code="ops.not-writable",
        ) from error
    return target


def _build(library: Library, compiler: list[str], target: Path) -> None:
    units = [path for path in library.files() if path.suffix in (".cc", ".cpp")]
    include = paddle.sysconfig.get_include()
    includes = [f"-I{include}", f"-I{include}/third_party", f"-I{COMMON}"]
    includes += [f"-I{folder}" for folder in library.more]
    link_arguments = _link_arguments(library)
    for left in target.parent.glob(f"{STAGING}*"):  # from a build that was interrupted
        shutil.rmtree(left, ignore_errors=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=STAGING) as folder:
        if library.onednn:
            headers.provide(Path(folder))
            includes.append(f"-I{folder}")
        objects = [Path(folder) / f"{unit.stem}.o" for unit in units]
        commands = [
            [*compiler, *COMPILE, *includes, "-c", str(unit), "-o", str(result)] for unit, result in zip(units, objects)
        ]
        with ThreadPoolExecutor(len(commands)) as pool:
            list(pool.map(_run, commands))
        built = Path(folder) / LIBRARY
        _run([*compiler, "-shared", *map(str, objects), *link_arguments, "-o", str(built)])
        os.replace(built, target)


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


def _run(command: list[str]) -> str:
    """Run the compiler; returns what it prints."""
    try:
        process = subprocess.run(command, capture_output=True, text=True, errors="replace")
    except OSError as error:
        raise UserError(
            f"{command[0]} cannot be run ({error.strerror or error}); let $CXX name another", code="ops.compiler-failed"
        ) from error
    if process.returncode:
        errors = [line for line in process.stderr.splitlines() if "error" in line] or process.stderr.splitlines()
        reason = errors[0] if errors else f"exit code {process.returncode}"
        raise UserError(f"{command[0]} failed: {reason}", code="ops.compiler-failed")
    return process.stdout


def _source_key(library: Library) -> str:
    """A key of the sources, Paddle, the processor's architecture, the flags and the headers."""
    parts = [paddle.__version__, paddle.version.commit, platform.machine(), *COMPILE]
    if library.onednn:
        parts += [headers.REQUIREMENT, *map(str, headers.SETTINGS.items())]
    for path in [*sorted(COMMON.iterdir()), *library.files()]:
        parts += [path.name, path.read_text(encoding="utf-8")]
    return _digest(parts)


def _compiler_key(compiler: list[str]) -> str:
    return _digest([*compiler, _run([*compiler, "--version"])])


def _digest(parts: list[str]) -> str:
    return hashlib.sha256("\0".join(parts).encode("utf-8")).hexdigest()[:16]


@contextmanager
def _lock(path: Path) -> Iterator[None]:
    """Hold an exclusive lock on ``path``. The system releases it when the process ends, in whatever way."""
    import fcntl  # not on every system; build_library has refused those

    with open(path, "w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX)
        except OSError:
            logger.debug("no locks on the file system of %s: several processes may build the same", path)
        yield

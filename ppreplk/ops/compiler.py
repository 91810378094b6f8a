"""The compiler, and the core: the numerical part of the depthwise convolution, as a library that knows no Paddle.

Nothing here imports Paddle, so that a wheel with the core can be built without it.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from ..utils.errors import UserError

CSRC = Path(__file__).parent / "csrc"
CORE_SOURCES, COMMON = CSRC / "cpu", CSRC / "common"  # the second: headers of all libraries
PREBUILT = Path(__file__).parent / "prebuilt"  # libraries that came with the wheel
CORE = "libppreplk_core.so"
CORE_COMPILE = ["-std=c++17", "-O3", "-fPIC", "-fvisibility=hidden", f"-I{COMMON}"]
STAGING = "building-"
# {x of glibc 2.x: (y of GLIBCXX_3.4.y, z of CXXABI_1.3.z)}: what the libstdc++ of every system with that glibc has.
LIBSTDCXX = {17: (19, 7), 24: (22, 10), 27: (24, 11), 31: (28, 12), 34: (29, 13), 35: (30, 13), 39: (33, 15)}


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


def no_compiler() -> UserError:
    """The error that there is none."""
    named = os.environ.get("CXX")
    tried = f"$CXX is {named!r}; let it name one" if named else "g++ or clang++; $CXX names another"
    return UserError(f"no C++ compiler was found ({tried})", code="ops.no-compiler")


def run(command: list[str], setting: str = "CXX") -> str:
    """Run the compiler; returns what it prints.

    Args:
        setting: the environment variable that names another one, for the message.

    Raises:
        UserError: it cannot be run, or it failed.
    """
    try:
        process = subprocess.run(command, capture_output=True, text=True, errors="replace")
    except OSError as error:
        raise UserError(
            f"{command[0]} cannot be run ({error.strerror or error}); let ${setting} name another",
            code="ops.compiler-failed",
        ) from error
    if process.returncode:
        errors = [line for line in process.stderr.splitlines() if "error" in line] or process.stderr.splitlines()
        reason = errors[0] if errors else f"exit code {process.returncode}"
        raise UserError(f"{command[0]} failed: {reason}", code="ops.compiler-failed")
    return process.stdout


def compile_library(
    compiler: list[str], folders: Sequence[Path], compile_arguments: list[str], link_arguments: list[str], target: Path
) -> None:
    """Compile all sources of some folders into one library. The file appears as a whole or not at all.

    Raises:
        UserError: the compiler cannot be run, or it failed.
    """
    units = sorted(path for folder in folders for path in folder.iterdir() if path.suffix in (".cc", ".cpp"))
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=STAGING) as staging:
        # Folders may have files of the same name.
        objects = [Path(staging) / f"{number}-{unit.stem}.o" for number, unit in enumerate(units)]
        commands = [
            [*compiler, *compile_arguments, "-c", str(unit), "-o", str(result)] for unit, result in zip(units, objects)
        ]
        with ThreadPoolExecutor(min(len(commands), os.cpu_count() or 1)) as pool:  # each takes much memory
            list(pool.map(run, commands))
        built = Path(staging) / target.name
        run([*compiler, "-shared", *map(str, objects), *link_arguments, "-o", str(built)])
        os.replace(built, target)


def build_core(folder: Path) -> Path:
    """Compile the core into a folder, for any Linux or macOS machine of this architecture; returns the file.

    The instruction set is chosen when it runs. It needs neither Paddle nor an OpenMP runtime, see ``csrc/cpu/core.h``.

    Raises:
        UserError: no compiler, or it failed.
    """
    compiler = find_compiler()
    if compiler is None:
        raise no_compiler()
    folder.mkdir(parents=True, exist_ok=True)
    compile_library(compiler, [CORE_SOURCES], CORE_COMPILE, ["-pthread"], folder / CORE)
    return folder / CORE


def platform_tag(paths: Sequence[Path], machine: str) -> str:
    """The platform tag of a wheel with these libraries, such as ``manylinux_2_27_x86_64``.

    On Linux it is read from the versions of the functions that the libraries name, of glibc and of libstdc++.

    Args:
        machine: what ``sysconfig.get_platform()`` says of this one.
    """
    name = re.sub(r"[-.]", "_", machine)
    if not sys.platform.startswith("linux"):
        return name
    glibc, *libstdcxx = (_newest(paths, family) for family in (rb"GLIBC_2\.", rb"GLIBCXX_3\.4\.", rb"CXXABI_1\.3\."))
    systems = [minor for minor, has in LIBSTDCXX.items() if has[0] >= libstdcxx[0] and has[1] >= libstdcxx[1]]
    here = int(os.confstr("CS_GNU_LIBC_VERSION").rpartition(".")[2])  # type: ignore[union-attr]
    minor = max(glibc, min(systems, default=here))
    return f"manylinux_2_{minor}_{name.partition('_')[2]}"


def _newest(paths: Sequence[Path], family: bytes) -> int:
    found = {match for path in paths for match in re.findall(rb"\b" + family + rb"(\d+)\b", path.read_bytes())}
    return max(map(int, found), default=0)

"""nvcc, and the library of device kernels that it builds from ``csrc/cuda``. Nothing here imports a framework.

One library holds code for several architectures of GPUs. Its folder in the cache (``cache.py``) is named for the
sources, for nvcc, and for the architectures.
"""

from __future__ import annotations

import functools
import logging
import os
import platform
import shlex
import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Optional

from ..utils.errors import UserError
from .cache import building, cache_folder, digest
from .compiler import CSRC, STAGING, run

logger = logging.getLogger(__name__)

SOURCES = CSRC / "cuda"
LIBRARY = "libppreplk_cuda.so"
# From Volta to Hopper, by compute capability without its point. Newer GPUs compile the newest one's PTX when it loads.
ARCHITECTURES = (70, 75, 80, 86, 89, 90)
COMPILE = ["-std=c++17", "-O3", "-Xcompiler", "-fPIC,-fvisibility=hidden"]
PLACES = ("/usr/local/cuda/bin/nvcc",)  # where NVIDIA's packages put it, without a link on the path
HOW_TO = "python -m ppreplk.ops cuda builds it"


def find_nvcc() -> Optional[list[str]]:
    """Path and arguments of nvcc: ``$NVCC``, else on the path, in ``$CUDA_HOME``, or in its usual place; or None."""
    if named := os.environ.get("NVCC"):
        try:
            program, *arguments = shlex.split(named)
        except ValueError:  # an unmatched quotation mark, or nothing but spaces
            return None
        path = shutil.which(program)
        return [path, *arguments] if path else None
    home = os.environ.get("CUDA_HOME")
    for candidate in ("nvcc", *([f"{home}/bin/nvcc"] if home else []), *PLACES):
        if path := shutil.which(candidate):
            return [path]
    return None


def needed_nvcc() -> list[str]:
    """As :func:`find_nvcc`.

    Raises:
        UserError: there is none.
    """
    nvcc = find_nvcc()
    if nvcc is not None:
        return nvcc
    named = os.environ.get("NVCC")
    tried = f"$NVCC is {named!r}; let it name one" if named else "on the path, in $CUDA_HOME; $NVCC names another"
    raise UserError(f"no nvcc, the compiler of NVIDIA's CUDA toolkit, was found ({tried})", code="ops.no-nvcc")


@functools.cache
def _known(nvcc: tuple[str, ...]) -> tuple[int, ...]:
    listed = run([*nvcc, "--list-gpu-code"], "NVCC").split()
    return tuple(sorted(int(name[3:]) for name in listed if name.startswith("sm_") and name[3:].isdigit()))


def known_architectures(nvcc: Sequence[str]) -> tuple[int, ...]:
    """Those of :data:`ARCHITECTURES` that an nvcc makes code for.

    Raises:
        UserError: it cannot be run, or it knows none of them.
    """
    known = _known(tuple(nvcc))
    usable = tuple(each for each in ARCHITECTURES if each in known)
    if not usable:
        raise UserError(
            f"{nvcc[0]} makes no code for any of {names(ARCHITECTURES)}; let $NVCC name another",
            code="ops.compiler-failed",
        )
    return usable


def architectures_for(capability: int, nvcc: Sequence[str]) -> tuple[int, ...]:
    """What to compile for one GPU: its own architecture, or where nvcc does not know that, the newest before it.

    Args:
        capability: compute capability without its point, 90 for 9.0.

    Raises:
        UserError: the GPU is older than all of them.
    """
    older = [each for each in known_architectures(nvcc) if each <= capability]
    if not older:
        raise UserError(
            f"{nvcc[0]} makes no code for this GPU (sm_{capability}); let $NVCC name another",
            code="ops.compiler-failed",
        )
    return (older[-1],)


def names(architectures: Sequence[int]) -> str:
    """What messages call them.

    >>> names([80, 90])
    'sm_80, sm_90'
    """
    return ", ".join(f"sm_{each}" for each in architectures)


def serves(architectures: Sequence[int], capability: int) -> bool:
    """Whether a library with code for these architectures runs on a GPU of this compute capability.

    Machine code runs on GPUs of the same generation that are not older; the PTX of the newest one on all newer ones.

    >>> serves([75, 80], 86), serves([75, 80], 120), serves([80, 90], 75)
    (True, True, False)
    """
    same = any(each // 10 == capability // 10 and each <= capability for each in architectures)
    return same or max(architectures) <= capability


def compile_command(nvcc: Sequence[str], architectures: Sequence[int], target: Path) -> list[str]:
    """The command that compiles all sources into one library.

    Args:
        architectures: of the machine code; PTX of the newest is added for GPUs that come later.
    """
    codes = {each: f"sm_{each}" for each in sorted(architectures)}
    codes[max(codes)] = f"[sm_{max(codes)},compute_{max(codes)}]"
    options = [part for each, code in codes.items() for part in ("-gencode", f"arch=compute_{each},code={code}")]
    units = [str(path) for path in sorted(SOURCES.glob("*.cu"))]
    return [*nvcc, *COMPILE, "-shared", "--threads", "0", *options, "-I", str(SOURCES), *units, "-o", str(target)]


def build_cuda(architectures: Optional[Sequence[int]] = None) -> Path:
    """Compile the device kernels, unless that has been done; returns the file.

    Args:
        architectures: of the GPUs; None is all that nvcc knows.

    Raises:
        UserError: no nvcc, no place to write or to load from, or nvcc failed; says which.
    """
    if not sys.platform.startswith("linux"):
        raise UserError(
            f"the device kernels are built on Linux only, this is {sys.platform}", code="ops.unsupported-system"
        )
    nvcc = needed_nvcc()
    wanted = known_architectures(nvcc) if architectures is None else tuple(sorted(architectures))
    target = _target(nvcc, wanted)
    with building(target) as missing:
        if missing:
            logger.info("building the device kernels for %s in %s, once", names(wanted), target.parent)
            with tempfile.TemporaryDirectory(dir=target.parent, prefix=STAGING) as staging:
                built = Path(staging) / LIBRARY
                run(compile_command(nvcc, wanted, built), "NVCC")
                os.replace(built, target)
    return target


def find_cuda(capability: int) -> Optional[Path]:
    """A library that was built from these sources and runs on a GPU of this compute capability, or None.

    It is one that the nvcc at hand has built, with the code that it would make for this GPU, or where there is no nvcc,
    any one. That with the fewest architectures is taken.
    """
    nvcc = find_nvcc()
    try:
        folder = cache_folder() / _source_key()
        found = list(folder.glob(f"{_nvcc_key(nvcc) if nvcc else '*'}/*/{LIBRARY}"))
        best = architectures_for(capability, nvcc)[0] if nvcc and found else None
    except (UserError, OSError):  # no home folder, or nvcc does not run; build_cuda reports it
        return None
    usable = [
        path
        for path, built in ((path, architectures_of(path)) for path in found)
        if (serves(built, capability) if best is None else best in built)
    ]
    return min(usable, key=lambda path: (len(architectures_of(path)), str(path)), default=None)


def architectures_of(library: Path) -> list[int]:
    """The architectures that a library in the cache was built for.

    >>> architectures_of(Path("0123/4567/sm_75-sm_80") / LIBRARY)
    [75, 80]
    """
    return [int(name[3:]) for name in library.parent.name.split("-")]


def _target(nvcc: Sequence[str], architectures: Sequence[int]) -> Path:
    folder = names(architectures).replace(", ", "-")
    return cache_folder() / _source_key() / _nvcc_key(nvcc) / folder / LIBRARY


def _source_key() -> str:
    """A key of the sources, the processor's architecture and the flags."""
    parts = ["cuda", platform.machine(), *COMPILE]
    for path in sorted(path for path in SOURCES.rglob("*") if path.is_file()):
        parts += [path.name, path.read_text(encoding="utf-8")]
    return digest(parts)


@functools.cache
def _version(nvcc: tuple[str, ...]) -> str:
    return run([*nvcc, "--version"], "NVCC")


def _nvcc_key(nvcc: Sequence[str]) -> str:
    return digest([*nvcc, _version(tuple(nvcc))])

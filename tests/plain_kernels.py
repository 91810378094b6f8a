"""The interface of the device kernels on the processor (plain_kernels.cpp), to test who calls it."""

import ctypes
import hashlib
from pathlib import Path

import pytest

from ppreplk.ops import compiler, cuda_kernels, nvcc
from ppreplk.ops.cache import building, cache_folder

SOURCE = Path(__file__).with_suffix(".cpp")
STREAM = 0x5713  # where tests say the stream is


class PlainKernels(cuda_kernels.Kernels):
    """It also says which operation it last ran, and on which stream."""

    def __init__(self, path: Path):
        super().__init__(path)
        self._library.plain_last_operation.restype = ctypes.c_char_p
        self._library.plain_last_stream.restype = ctypes.c_int64

    @property
    def last(self) -> tuple[str, int]:
        return self._library.plain_last_operation().decode(), self._library.plain_last_stream()


def plain_library() -> Path:
    """The library, compiled once and kept beside the operators. Skip the test where there is no compiler."""
    command = compiler.find_compiler()
    if command is None:
        pytest.skip("no C++ compiler")
    parts = [SOURCE.read_bytes(), (nvcc.SOURCES / "depthwise.h").read_bytes(), " ".join(command).encode()]
    target = cache_folder() / f"plain-{hashlib.sha256(b'|'.join(parts)).hexdigest()[:16]}" / "libplain_kernels.so"
    with building(target) as missing:
        if missing:
            options = ["-std=c++17", "-O1", "-fPIC", "-shared", f"-I{nvcc.SOURCES}"]
            compiler.run([*command, *options, str(SOURCE), "-o", str(target)])
    return target

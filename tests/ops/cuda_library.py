"""The device code of ``ops/csrc/cuda`` compiled for this processor (see ``cuda_emulation/``), and calls of it."""

import ctypes
import functools
import hashlib
import os
from pathlib import Path

import numpy as np
import pytest

from ppreplk.ops import compiler
from ppreplk.ops.build import cache_folder

SOURCES = compiler.CSRC / "cuda"
EMULATION = Path(__file__).parent / "cuda_emulation"
NAME = "libppreplk_cuda_emulated.so"
COMPILE = ["-std=c++17", "-O1", "-fPIC", "-fvisibility=hidden", f"-I{EMULATION}", f"-I{SOURCES}"]
FORWARD, GRADIENT_INPUT, GRADIENT_WEIGHT, BACKWARD = range(4)
FLOAT32, FLOAT16, BFLOAT16 = range(3)
ASCENDING, DESCENDING = 0, 1  # orders of the threads of a block; larger numbers mix them
_POINTER, _INT, _COUNT = ctypes.c_void_p, ctypes.c_int, ctypes.c_int64
PROBLEM = ctypes.c_int64 * 5
_END = [_POINTER, _COUNT, _POINTER]  # workspace, its bytes, stream
ARGUMENTS = {
    "ppreplk_cuda_workspace": [PROBLEM, _INT, _INT, ctypes.POINTER(_COUNT)],
    "ppreplk_cuda_forward": [PROBLEM, _INT, _INT, _POINTER, _POINTER, _POINTER, _INT, _POINTER, *_END],
    "ppreplk_cuda_gradient_input": [PROBLEM, _INT, _INT, *[_POINTER] * 3, *_END],
    "ppreplk_cuda_gradient_weight": [PROBLEM, _INT, _INT, *[_POINTER] * 3, *_END],
    "ppreplk_cuda_backward": [PROBLEM, _INT, _INT, *[_POINTER] * 5, *_END],
}


def emulated_library(*more: str) -> Path:
    """The library of these sources, compiled once and kept. Skip the test where there is no compiler.

    Args:
        more: arguments of the compiler, such as ``-fsanitize=address``.
    """
    command = compiler.find_compiler()
    if command is None or not Path(command[0]).name.startswith("g++"):
        pytest.skip("no g++")
    files = sorted(path for folder in (SOURCES, EMULATION) for path in folder.iterdir())
    parts = [path.read_bytes() for path in files]
    parts += [text.encode() for text in (*COMPILE[:-2], *more, compiler.run([*command, "--version"]))]
    folder = cache_folder() / f"cuda-emulated-{hashlib.sha256(b'|'.join(parts)).hexdigest()[:16]}"
    if not (folder / NAME).is_file():
        _build([*command, *COMPILE, *more], [path for path in files if path.suffix in (".cu", ".cpp")], folder)
    return folder / NAME


def _build(command: list, units: list, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    objects = [folder / f"{unit.name}.{os.getpid()}.o" for unit in units]
    for unit, result in zip(units, objects):
        compiler.run([*command, "-x", "c++", "-c", str(unit), "-o", str(result)])
    built = folder / f"{NAME}.{os.getpid()}"
    compiler.run([*command, "-shared", *map(str, objects), "-o", str(built)])
    os.replace(built, folder / NAME)
    for result in objects:
        result.unlink()


@functools.cache
def load(path: Path) -> ctypes.CDLL:
    library = ctypes.CDLL(str(path))
    for name, types in ARGUMENTS.items():
        getattr(library, name).argtypes = types
    library.ppreplk_cuda_error_text.restype = ctypes.c_char_p
    library.ppreplk_cuda_algorithm.restype = ctypes.c_char_p
    return library


def stored(values: np.ndarray, dtype: int) -> np.ndarray:
    """Float32 values as numbers of a dtype; bfloat16 as the upper halves of float32 numbers, rounded to nearest."""
    if dtype == FLOAT32:
        return np.ascontiguousarray(values, np.float32)
    if dtype == FLOAT16:
        return values.astype(np.float16)
    bits = np.ascontiguousarray(values, np.float32).view(np.uint32)
    return ((bits + 0x7FFF + (bits >> 16 & 1)) >> 16).astype(np.uint16)


def read(values: np.ndarray, dtype: int) -> np.ndarray:
    """The other way, as float32."""
    return (values.astype(np.uint32) << 16).view(np.float32) if dtype == BFLOAT16 else values.astype(np.float32)


def _like(values: np.ndarray, dtype: int) -> np.ndarray:
    """Room for a result, which is NaN until it is written."""
    return stored(np.full(values.shape, np.nan, np.float32), dtype)


def _address(array):
    return None if array is None else array.ctypes.data


class Kernels:
    """Operations of one problem on arrays of one dtype."""

    def __init__(self, library, shape, dtype=FLOAT32, weight_dtype=None):
        self.library, self.dtype = library, dtype
        self.weight_dtype = dtype if weight_dtype is None else weight_dtype
        self.problem = PROBLEM(*shape)

    def check(self, code):
        assert code == 0, (code, self.library.ppreplk_cuda_error_text(code), list(self.problem))

    def workspace_bytes(self, operation):
        size = _COUNT()
        self.check(self.library.ppreplk_cuda_workspace(self.problem, self.dtype, operation, ctypes.byref(size)))
        return size.value

    def _call(self, name, operation, *arguments):
        workspace = np.full(self.workspace_bytes(operation), 0xFF, np.uint8)
        function = getattr(self.library, f"ppreplk_cuda_{name}")
        end = workspace.ctypes.data, workspace.nbytes, None
        self.check(function(self.problem, self.dtype, self.weight_dtype, *arguments, *end))

    def forward(self, x, weight, bias=None, relu=False):
        y = _like(x, self.dtype)
        self._call("forward", FORWARD, _address(x), _address(weight), _address(bias), relu, _address(y))
        return y

    def gradient_input(self, dy, weight):
        dx = _like(dy, self.dtype)
        self._call("gradient_input", GRADIENT_INPUT, _address(dy), _address(weight), _address(dx))
        return dx

    def gradient_weight(self, x, dy):
        _, channels, _, _, kernel = self.problem
        dweight = _like(np.empty((channels, 1, kernel, kernel)), self.weight_dtype)
        self._call("gradient_weight", GRADIENT_WEIGHT, _address(x), _address(dy), _address(dweight))
        return dweight

    def backward(self, x, weight, dy):
        dx, dweight = _like(x, self.dtype), _like(weight, self.weight_dtype)
        self._call("backward", BACKWARD, *map(_address, (x, weight, dy, dx, dweight)))
        return dx, dweight

    def everything(self, x, weight, bias, dy):
        """y, dx, dweight, and the last two at once."""
        alone = self.forward(x, weight, bias), self.gradient_input(dy, weight), self.gradient_weight(x, dy)
        return [*alone, *self.backward(x, weight, dy)]

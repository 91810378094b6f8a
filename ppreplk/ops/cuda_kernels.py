"""The device kernels as a loaded library, for whatever framework has the tensors. Nothing here imports one.

The library is a set of C functions, ``csrc/cuda/depthwise.h``, that take addresses and a stream.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Optional

from ..utils.errors import UserError
from . import nvcc

ABI = 1  # PPREPLK_CUDA_ABI in depthwise.h
FLOAT32, FLOAT16, BFLOAT16 = 0, 1, 2
FORWARD, GRADIENT_INPUT, GRADIENT_WEIGHT, BACKWARD = 0, 1, 2, 3
INVALID_ARGUMENT, RUNTIME = 1, 1000
# cudaErrorInsufficientDriver, cudaErrorNoDevice, cudaErrorNoKernelImageForDevice: the machine is wrong, not the program
WRONG_MACHINE = (RUNTIME + 35, RUNTIME + 100, RUNTIME + 209)
MAX_KERNEL = 127
ALIGNMENT = 256  # bytes, of workspaces
STATE = "experimental, not run on a GPU yet"  # what log lines and reports say of the kernels

_POINTER, _INT, _LONG = ctypes.c_void_p, ctypes.c_int, ctypes.c_int64
_PROBLEM = _LONG * 5
_WORKSPACE = [_POINTER, _LONG, _POINTER]  # its address and size, and the stream
ARGUMENTS = {
    "ppreplk_cuda_workspace": [_PROBLEM, _INT, _INT, ctypes.POINTER(_LONG)],
    "ppreplk_cuda_forward": [_PROBLEM, _INT, _INT, _POINTER, _POINTER, _POINTER, _INT, _POINTER, *_WORKSPACE],
    "ppreplk_cuda_gradient_input": [_PROBLEM, _INT, _INT, *[_POINTER] * 3, *_WORKSPACE],
    "ppreplk_cuda_gradient_weight": [_PROBLEM, _INT, _INT, *[_POINTER] * 3, *_WORKSPACE],
    "ppreplk_cuda_backward": [_PROBLEM, _INT, _INT, *[_POINTER] * 5, *_WORKSPACE],
}


class Call(NamedTuple):
    """What every operation needs beside its tensors.

    Args:
        sizes: batch, channels, height, width, kernel.
        dtype: of images and their gradients: :data:`FLOAT32`, :data:`FLOAT16` or :data:`BFLOAT16`.
        weight_dtype: of weights and their gradients.
        allocate: bytes -> the address of a workspace, which lives until the call has returned.
        stream: address of the CUDA stream, 0 for the default one.
    """

    sizes: Sequence[int]
    dtype: int
    weight_dtype: int
    allocate: Callable[[int], int]
    stream: int


class Kernels:
    """The library in a file. Its operations take addresses of contiguous tensors, and do not wait for the GPU.

    Raises:
        UserError: it cannot be loaded, or has another interface.
    """

    def __init__(self, path: Path):
        try:
            self._library = ctypes.CDLL(str(path))
            abi = self._library.ppreplk_cuda_abi()
            for name, types in ARGUMENTS.items():
                getattr(self._library, name).argtypes = types
            self._library.ppreplk_cuda_error_text.restype = ctypes.c_char_p
            self._library.ppreplk_cuda_algorithm.restype = ctypes.c_char_p
            self._library.ppreplk_cuda_algorithm.argtypes = [_PROBLEM]
        except (OSError, AttributeError) as error:
            reason = str(error).partition("\n")[0].removeprefix(f"{path}: ")
            raise UserError(
                f"the device kernels in {path} cannot be loaded ({reason}); delete that file and try again",
                code="ops.not-loadable",
            ) from error
        if abi != ABI:
            raise UserError(
                f"the device kernels in {path} have interface {abi}, needed is {ABI}", code="ops.not-loadable"
            )
        self.path = path

    def algorithm(self, sizes: Sequence[int]) -> str:
        """How the current device solves a problem: ``"direct"``, ``"small"`` or ``"spectral"``."""
        name = self._library.ppreplk_cuda_algorithm(_PROBLEM(*sizes))
        return name.decode("ascii") if name else "none"

    def forward(self, call: Call, x: int, weight: int, bias: Optional[int], relu: bool, y: int) -> None:
        """Write y = convolution + bias, and a ReLU. The bias is float32."""
        self._run("forward", FORWARD, call, x, weight, bias, int(relu), y)

    def gradients(self, call: Call, x: int, weight: int, dy: int, dx: Optional[int], dweight: Optional[int]) -> None:
        """Write the gradients of x and of the weight, those whose address is not None."""
        if dx is not None and dweight is not None:
            self._run("backward", BACKWARD, call, x, weight, dy, dx, dweight)
        elif dx is not None:
            self._run("gradient_input", GRADIENT_INPUT, call, dy, weight, dx)
        elif dweight is not None:
            self._run("gradient_weight", GRADIENT_WEIGHT, call, x, dy, dweight)

    def _run(self, name: str, operation: int, call: Call, *arguments: Any) -> None:
        problem, needed = _PROBLEM(*call.sizes), _LONG()
        self._check(self._library.ppreplk_cuda_workspace(problem, call.dtype, operation, ctypes.byref(needed)))
        workspace = None
        if needed.value:
            workspace = -(-call.allocate(needed.value + ALIGNMENT) // ALIGNMENT) * ALIGNMENT
        function = getattr(self._library, f"ppreplk_cuda_{name}")
        self._check(function(problem, call.dtype, call.weight_dtype, *arguments, workspace, needed.value, call.stream))

    def _check(self, status: int) -> None:
        if not status:
            return
        text = self._library.ppreplk_cuda_error_text(status).decode("utf-8", errors="replace")
        if status == INVALID_ARGUMENT:
            raise UserError(text, code="ops.bad-shape")
        if status in WRONG_MACHINE:
            raise UserError(f"the device kernels in {self.path} do not run here: {text}", code="ops.wrong-device")
        raise RuntimeError(f"ppreplk: {text}")


def kernels_for(capability: int) -> Kernels:
    """The kernels for a GPU of this compute capability (90 for 9.0), built now where that has not been done.

    Raises:
        UserError: they cannot be built or loaded; says why.
    """
    path = nvcc.find_cuda(capability)
    if path is None:
        path = nvcc.build_cuda(nvcc.architectures_for(capability, nvcc.needed_nvcc()))
    return Kernels(path)


def sizes_of(x: Sequence[int], weight: Sequence[int]) -> list[int]:
    """Batch, channels, height, width and kernel, after a check that the shapes fit together.

    Raises:
        UserError: they do not; the kernels get no more than addresses.
    """
    if len(x) != 4 or list(weight) != [x[1], 1, weight[-1], weight[-1]]:
        raise UserError(
            f"depthwise convolution of x {list(x)} with weight {list(weight)}: they do not fit together",
            code="ops.bad-shape",
        )
    return [*x, weight[-1]]

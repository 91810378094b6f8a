"""The depthwise convolution through the core: eager mode without an operator that was compiled for this Paddle.

The core is a library of C functions, ``csrc/cpu/core.h``, which comes with a platform wheel. It computes the same bits
as the operators, which are made from the same sources.
"""

from __future__ import annotations

import ctypes
import functools
import logging
import os
import sys
from pathlib import Path
from typing import Any, Optional

import paddle
from paddle import Tensor
from paddle.autograd import PyLayer

from ..utils.errors import UserError
from . import compiler

logger = logging.getLogger(__name__)

ABI = 1  # PPREPLK_ABI in core.h
DTYPES = {paddle.float32: 0, paddle.float16: 1, paddle.bfloat16: 2}
NCHW, NHWC = 0, 1
OUT_OF_MEMORY = 2
PADDLE_THREADS = 0  # as many as OpenMP's current setting says
OPENMP = "libiomp5.dylib" if sys.platform == "darwin" else "libiomp5.so"
OPENMP_FUNCTIONS = ("GOMP_parallel", "omp_get_thread_num", "omp_get_num_threads", "omp_get_max_threads")

_POINTER, _INT = ctypes.c_void_p, ctypes.c_int
_PROBLEM, _COUNT, _FLAG = ctypes.c_int64 * 5, ctypes.POINTER(ctypes.c_int64), ctypes.POINTER(ctypes.c_int)
ARGUMENTS = {
    "ppreplk_depthwise_forward": [_PROBLEM, _INT, _INT, _POINTER, _POINTER, _POINTER, _INT, _POINTER, _INT],
    "ppreplk_depthwise_backward": [_PROBLEM, _INT, _POINTER, _POINTER, _POINTER, _POINTER, _POINTER, _INT],
    "ppreplk_depthwise_packed_floats": [_PROBLEM, _COUNT],
    "ppreplk_depthwise_pack": [_PROBLEM, _POINTER, _POINTER, _INT],
    "ppreplk_depthwise_packed_fits": [_PROBLEM, _POINTER, ctypes.c_int64, _FLAG],
    "ppreplk_depthwise_forward_packed": [_PROBLEM, _INT, _INT, _POINTER, _POINTER, _POINTER, _INT, _POINTER, _INT],
}


def available() -> bool:
    """Whether the core came with the wheel and loads here."""
    return _library() is not None


def handle() -> ctypes.CDLL:
    """The loaded core. It must be :func:`available`."""
    library = _library()
    assert library is not None
    return library


@functools.cache
def _library() -> Optional[ctypes.CDLL]:
    path = compiler.PREBUILT / compiler.CORE
    if not path.is_file():
        return None
    try:
        return load(path)
    except UserError as error:
        logger.info("%s", error)
        return None


def load(path: Path) -> ctypes.CDLL:
    """Load a core, and let it work with the threads of Paddle's OpenMP runtime.

    Raises:
        UserError: it cannot be loaded, or is of another version.
    """
    try:
        library = ctypes.CDLL(str(path))
        abi = library.ppreplk_abi()
        for name, types in ARGUMENTS.items():
            getattr(library, name).argtypes = types
    except (OSError, AttributeError) as error:
        reason = str(error).partition("\n")[0].removeprefix(f"{path}: ")
        raise UserError(f"the core in {path} cannot be loaded ({reason})", code="ops.not-loadable") from error
    if abi != ABI:
        raise UserError(f"the core in {path} has interface {abi}, needed is {ABI}", code="ops.not-loadable")
    library.ppreplk_error.restype = ctypes.c_char_p
    library.ppreplk_use_openmp.argtypes = [_POINTER] * 4
    library.ppreplk_use_openmp.restype = None
    if functions := _openmp():
        library.ppreplk_use_openmp(*functions)
        # A forked process does not have the runtime's threads, and may wait for them for ever.
        os.register_at_fork(after_in_child=lambda: library.ppreplk_use_openmp(None, None, None, None))
    return library


def _openmp() -> list[Optional[int]]:
    """Addresses of functions of the OpenMP runtime that Paddle has loaded; empty where it has another, or none."""
    path = Path(paddle.sysconfig.get_lib()) / OPENMP
    try:
        runtime = ctypes.CDLL(str(path))
        return [ctypes.cast(getattr(runtime, name), _POINTER).value for name in OPENMP_FUNCTIONS]
    except (OSError, AttributeError):
        logger.debug("no OpenMP in %s: the core uses threads of its own", path)
        return []


def _call(name: str, *arguments: Any) -> None:
    library = handle()
    status = getattr(library, name)(*arguments)
    if status:
        message = library.ppreplk_error().decode("utf-8", errors="replace")
        if status == OUT_OF_MEMORY:
            raise MemoryError(f"ppreplk: {message}")
        raise UserError(message, code="ops.bad-shape")


def _problem(x: Tensor, weight: Tensor, layout: int) -> Any:
    """The sizes, after a check that they fit together: the core gets no more than addresses."""
    shape, kernel = list(x.shape), list(weight.shape)
    sizes = shape if layout == NCHW else [shape[0], *shape[3:], *shape[1:3]]
    if len(shape) != 4 or kernel != [sizes[1], 1, kernel[-1], kernel[-1]]:
        raise UserError(
            f"depthwise convolution of x {shape} with weight {kernel}: they do not fit together", code="ops.bad-shape"
        )
    return _PROBLEM(*sizes, kernel[-1])


def _ready(tensor: Tensor, dtype: Optional[paddle.dtype] = None) -> Tensor:
    """The tensor in this type, in one piece of the processor's memory."""
    if not tensor.place.is_cpu_place():
        raise UserError(
            f"depthwise implementation 'cpu' takes tensors in the processor's memory, got one in {tensor.place}",
            code="ops.wrong-device",
        )
    tensor = tensor if dtype is None or tensor.dtype == dtype else tensor.astype(dtype)
    return tensor if tensor.is_contiguous() else tensor.contiguous()


def _address(tensor: Optional[Tensor]) -> Optional[int]:
    return None if tensor is None or not tensor.size else tensor.data_ptr()


def _forward(x: Tensor, weight: Tensor, bias: Optional[Tensor], relu: bool, layout: int) -> Tensor:
    problem = _problem(x, weight, layout)
    x, weight = _ready(x), _ready(weight, paddle.float32)
    bias = None if bias is None else _ready(bias, paddle.float32)
    y = paddle.empty_like(x)
    addresses = _address(x), _address(weight), _address(bias)
    _call("ppreplk_depthwise_forward", problem, DTYPES[x.dtype], layout, *addresses, relu, _address(y), PADDLE_THREADS)
    return y


class _Conv2D(PyLayer):
    """With weights that are packed on every call. The bias may be None."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Optional[Tensor]) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.wanted = [tensor is not None and not tensor.stop_gradient for tensor in (x, weight, bias)]
        ctx.bias_dtype = None if bias is None else bias.dtype
        return _forward(x, weight, bias, False, NCHW)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Optional[Tensor], ...]:
        x, weight = ctx.saved_tensor()
        problem, dtype = _problem(x, weight, NCHW), weight.dtype
        x, weight, dy = _ready(x), _ready(weight, paddle.float32), _ready(gradient, x.dtype)
        dx = paddle.empty_like(x) if ctx.wanted[0] else None
        dweight = paddle.empty_like(weight) if ctx.wanted[1] else None
        if dx is not None or dweight is not None:
            addresses = (_address(tensor) for tensor in (x, weight, dy, dx, dweight))
            _call("ppreplk_depthwise_backward", problem, DTYPES[x.dtype], *addresses, PADDLE_THREADS)
        if dweight is not None:
            dweight = dweight.astype(dtype)
        if ctx.bias_dtype is None:
            return dx, dweight
        dbias = dy.astype(paddle.float32).sum([0, 2, 3]).astype(ctx.bias_dtype) if ctx.wanted[2] else None
        return dx, dweight, dbias


def conv2d(x: Tensor, weight: Tensor, bias: Optional[Tensor]) -> Tensor:
    """As :func:`ppreplk.depthwise_conv2d`, with gradients."""
    return _Conv2D.apply(x, weight, bias)


def pack(weight: Tensor, height: int, width: int) -> Tensor:
    """Weights (C, 1, K, K) in the form that this processor convolves maps of this size with."""
    channels, kernel = weight.shape[0], weight.shape[-1]
    if list(weight.shape) != [channels, 1, kernel, kernel]:
        raise UserError(f"depthwise convolution packs weight (C, 1, K, K), got {weight.shape}", code="ops.bad-shape")
    problem, floats = _PROBLEM(1, channels, height, width, kernel), ctypes.c_int64()
    _call("ppreplk_depthwise_packed_floats", problem, ctypes.byref(floats))
    weight = _ready(weight, paddle.float32)
    packed = paddle.empty([floats.value], paddle.float32)
    _call("ppreplk_depthwise_pack", problem, _address(weight), _address(packed), PADDLE_THREADS)
    return packed


def packed_conv2d(
    x: Tensor, weight: Tensor, packed: Tensor, bias: Optional[Tensor], relu: bool, layout: int = NCHW
) -> Tensor:
    """Convolution with :func:`pack`'s weights, without gradients; the plain ``weight`` serves maps of other sizes."""
    problem, fits = _problem(x, weight, layout), ctypes.c_int()
    x, packed = _ready(x), _ready(packed, paddle.float32)
    _call("ppreplk_depthwise_packed_fits", problem, _address(packed), packed.size, ctypes.byref(fits))
    if not fits.value:
        return _forward(x, weight, bias, relu, layout)
    bias = None if bias is None else _ready(bias, paddle.float32)
    y = paddle.empty_like(x)
    addresses = _address(x), _address(packed), _address(bias)
    _call(
        "ppreplk_depthwise_forward_packed",
        *(problem, DTYPES[x.dtype], layout, *addresses, relu, _address(y), PADDLE_THREADS),
    )
    return y

"""The compiled CPU operators: loading them, and calling them in eager mode and in static graphs."""

from __future__ import annotations

import ctypes
import functools
from pathlib import Path

import paddle
from paddle import _C_ops
from paddle.base import core

from ..errors import UserError
from .build import build_library, find_library

OPERATOR_PREFIX = "ppreplk_"  # of the operators' names in programs
LARGEST_KERNEL = 127
DTYPES = (paddle.float32, paddle.float16, paddle.bfloat16)


def load_ops() -> None:
    """Make the compiled operators usable in this process, building them where that has not been done.

    An exported program that contains them needs this before it is loaded.

    Raises:
        UserError: they cannot be built or loaded; says why.
    """
    if not available():
        build_library()
        available.cache_clear()
        library = find_library()
        if library is None or not _register(library):
            raise UserError(f"the compiled operators in {library} cannot be loaded; delete that folder and try again")


@functools.cache
def available() -> bool:
    """Whether the operators are loaded, or were built before and can be loaded now; nothing is built."""
    library = find_library()
    return library is not None and _register(library)


@functools.cache
def _register(library: Path) -> bool:
    try:
        core.load_op_meta_info_and_register_op(str(library))
    except (OSError, RuntimeError, ValueError):  # a library for another system, say
        return False
    return True


def instruction_set() -> str:
    """What the operators run on here: ``avx512``, ``avx2`` or ``portable``. They must be loaded."""
    function = _library().ppreplk_instruction_set
    function.restype = ctypes.c_char_p
    return function().decode("ascii")


def use_instruction_set(name: str) -> None:
    """Run on a lesser instruction set, for tests and benchmarks; weights packed for another no longer fit.

    Raises:
        UserError: this processor does not have it.
    """
    function = _library().ppreplk_use_instruction_set
    function.restype = ctypes.c_bool
    if not function(name.encode("ascii")):
        raise UserError(f"the compiled operators cannot use {name!r} on this processor")


def _library() -> ctypes.CDLL:
    return ctypes.CDLL(str(find_library()))


def serves(dtype: paddle.dtype, kernel_size: int) -> bool:
    """Whether the operators take such tensors and kernels."""
    return dtype in DTYPES and kernel_size <= LARGEST_KERNEL


def compiled_conv2d(x: paddle.Tensor, weight: paddle.Tensor, bias: paddle.Tensor | None) -> paddle.Tensor:
    """As :func:`ppreplk.depthwise_conv2d`, with gradients."""
    if bias is None:
        return _run("ppreplk_depthwise_conv", x, weight)
    return _run("ppreplk_depthwise_conv_bias", x, weight, bias)


def static_conv2d(x, weight, bias, relu: bool):
    """The same in a static graph, without gradients: the program packs the weights once, when it is loaded."""
    packed = pack(weight, *x.shape[2:])
    # oneDNN hands its own memory layout to operators it does not know, unless something in between asks for Paddle's
    return packed_conv2d(paddle.assign(x), weight, packed, bias, relu)


def pack(weight: paddle.Tensor, height: int, width: int) -> paddle.Tensor:
    """Weights (C, 1, K, K) in the form the convolution of maps of this size reads, for this processor."""
    return _run("ppreplk_depthwise_pack", weight, height, width)


def packed_conv2d(x, weight, packed, bias, relu: bool) -> paddle.Tensor:
    """Convolution, bias and optionally ReLU, without gradients. Maps of another size go by ``weight``."""
    return _run("ppreplk_depthwise_conv_packed", x, weight, packed, bias, relu)


def _run(operator: str, *arguments):
    return _C_ops._run_custom_op(operator, *arguments)[0]


def require() -> None:
    """Raise a :class:`UserError` that says why, where the operators cannot be used on the device that is set."""
    if paddle.get_device() != "cpu":
        raise UserError(f"depthwise implementation 'compiled' runs on cpu, the device is {paddle.get_device()}")
    try:
        load_ops()
    except UserError as error:
        raise UserError(f"depthwise implementation 'compiled' cannot run: {error}") from error

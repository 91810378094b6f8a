"""The compiled depthwise convolution, in eager mode and in static graphs."""

from __future__ import annotations

import ctypes

import paddle

from ..utils.errors import UserError
from . import loading
from .build import DEPTHWISE
from .loading import call

OPERATOR_PREFIX = "ppreplk_depthwise_"  # of the operators' names in programs
LARGEST_KERNEL = 127
DTYPES = (paddle.float32, paddle.float16, paddle.bfloat16)


def available() -> bool:
    """Whether the operators are loaded, or were built before and can be loaded now; nothing is built."""
    return loading.available(DEPTHWISE)


def instruction_set() -> str:
    """What the operators run on here: ``avx512``, ``avx2`` or ``portable``. They must be loaded."""
    function = loading.handle(DEPTHWISE).ppreplk_instruction_set
    function.restype = ctypes.c_char_p
    return function().decode("ascii")


def use_instruction_set(name: str) -> None:
    """Run on a lesser instruction set, for tests and benchmarks; weights packed for another no longer fit.

    Raises:
        UserError: this processor does not have it.
    """
    function = loading.handle(DEPTHWISE).ppreplk_use_instruction_set
    function.restype = ctypes.c_bool
    if not function(name.encode("ascii")):
        raise UserError(f"the compiled operators cannot use {name!r} on this processor")


def serves(dtype: paddle.dtype, kernel_size: int) -> bool:
    """Whether the operators take such tensors and kernels."""
    return dtype in DTYPES and kernel_size <= LARGEST_KERNEL


def compiled_conv2d(x: paddle.Tensor, weight: paddle.Tensor, bias: paddle.Tensor | None) -> paddle.Tensor:
    """As :func:`ppreplk.depthwise_conv2d`, with gradients."""
    if bias is None:
        return call("ppreplk_depthwise_conv", x, weight)
    return call("ppreplk_depthwise_conv_bias", x, weight, bias)


def static_conv2d(x, weight, bias, relu: bool):
    """The same in a static graph, without gradients: the program packs the weights once, when it is loaded."""
    packed = pack(weight, *x.shape[2:])
    # oneDNN hands its own memory layout to operators it does not know, unless something in between asks for Paddle's
    return packed_conv2d(paddle.assign(x), weight, packed, bias, relu)


def pack(weight: paddle.Tensor, height: int, width: int) -> paddle.Tensor:
    """Weights (C, 1, K, K) in the form the convolution of maps of this size reads, for this processor."""
    return call("ppreplk_depthwise_pack", weight, height, width)


def packed_conv2d(x, weight, packed, bias, relu: bool) -> paddle.Tensor:
    """Convolution, bias and optionally ReLU, without gradients. Maps of another size go by ``weight``."""
    return call("ppreplk_depthwise_conv_packed", x, weight, packed, bias, relu)


def packed_conv2d_nhwc(x, weight, packed, bias, relu: bool) -> paddle.Tensor:
    """:func:`packed_conv2d` of x (N, H, W, C)."""
    return call("ppreplk_depthwise_conv_packed_nhwc", x, weight, packed, bias, relu)


def require() -> None:
    """Raise a :class:`UserError` that says why, where the operators cannot be used on the device that is set."""
    if paddle.get_device() != "cpu":
        raise UserError(f"depthwise implementation 'compiled' runs on cpu, the device is {paddle.get_device()}")
    try:
        loading.load(DEPTHWISE)
    except UserError as error:
        raise UserError(f"depthwise implementation 'compiled' cannot run: {error}") from error

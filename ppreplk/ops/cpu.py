"""The depthwise convolution in C++, in eager mode and in static graphs."""

from __future__ import annotations

import ctypes

import paddle

from ..utils.errors import UserError
from . import loading
from .build import DEPTHWISE
from .loading import call

OPERATOR_PREFIX = "ppreplk_depthwise_"  # of the operators' names in programs
MAX_KERNEL = 127
DTYPES = (paddle.float32, paddle.float16, paddle.bfloat16)


def available() -> bool:
    """Whether the operators are loaded, or were built before and can be loaded now; builds nothing."""
    return loading.available(DEPTHWISE)


def check_available() -> None:
    """Check that the operators can run on the device that is set; builds and loads them if needed.

    Raises:
        UserError: they cannot; says why.
    """
    if paddle.get_device() != "cpu":
        raise UserError(
            f"depthwise implementation 'cpu' runs on cpu, the device is {paddle.get_device()}", code="ops.wrong-device"
        )
    try:
        loading.load(DEPTHWISE)
    except UserError as error:
        raise error.at("depthwise implementation 'cpu' cannot run") from error


def instruction_set() -> str:
    """The instruction set in use: ``avx512``, ``avx2`` or ``portable``. The operators must be loaded."""
    function = loading.handle(DEPTHWISE).ppreplk_instruction_set
    function.restype = ctypes.c_char_p
    return function().decode("ascii")


def use_instruction_set(name: str) -> None:
    """Switch to another instruction set, for tests and benchmarks. Weights packed for the old one no longer fit.

    Raises:
        UserError: this processor does not have it.
    """
    function = loading.handle(DEPTHWISE).ppreplk_use_instruction_set
    function.restype = ctypes.c_bool
    if not function(name.encode("ascii")):
        raise UserError(
            f"the depthwise operators cannot use {name!r} on this processor", code="ops.unknown-instruction-set"
        )


def serves(dtype: paddle.dtype, kernel_size: int) -> bool:
    """Whether the operators take tensors of this type and kernels of this size."""
    return dtype in DTYPES and kernel_size <= MAX_KERNEL


def conv2d(x: paddle.Tensor, weight: paddle.Tensor, bias: paddle.Tensor | None) -> paddle.Tensor:
    """As :func:`ppreplk.depthwise_conv2d`, with gradients."""
    if bias is None:
        return call("ppreplk_depthwise_conv", x, weight)
    return call("ppreplk_depthwise_conv_bias", x, weight, bias)


def static_conv2d(x: paddle.Tensor, weight: paddle.Tensor, bias: paddle.Tensor | None, relu: bool) -> paddle.Tensor:
    """The same in a static graph, without gradients. The program packs the weights once, when it is loaded."""
    packed = pack(weight, *x.shape[2:])
    # oneDNN passes its own memory layout on to operators it does not know. The assignment converts it to Paddle's.
    return packed_conv2d(paddle.assign(x), weight, packed, bias, relu)


def pack(weight: paddle.Tensor, height: int, width: int) -> paddle.Tensor:
    """Weights (C, 1, K, K) in the form that this processor convolves maps of this size with."""
    return call("ppreplk_depthwise_pack", weight, height, width)


def packed_conv2d(
    x: paddle.Tensor, weight: paddle.Tensor, packed: paddle.Tensor, bias: paddle.Tensor | None, relu: bool
) -> paddle.Tensor:
    """Convolution of x (N, C, H, W), bias and optionally ReLU, without gradients.

    Maps of another size than ``packed`` is for are convolved with the plain ``weight``, which is slower.
    """
    return call("ppreplk_depthwise_conv_packed", x, weight, packed, bias, relu)


def packed_conv2d_nhwc(
    x: paddle.Tensor, weight: paddle.Tensor, packed: paddle.Tensor, bias: paddle.Tensor | None, relu: bool
) -> paddle.Tensor:
    """:func:`packed_conv2d` of x (N, H, W, C)."""
    return call("ppreplk_depthwise_conv_packed_nhwc", x, weight, packed, bias, relu)

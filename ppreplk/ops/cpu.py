"""The depthwise convolution in C++, in eager mode and in static graphs."""

from __future__ import annotations

import ctypes

import paddle

from ..utils.errors import UserError
from . import core, loading
from .build import DEPTHWISE
from .loading import call

OPERATOR_PREFIX = "ppreplk_depthwise_"  # of the operators' names in programs
MAX_KERNEL = 127
DTYPES = (paddle.float32, paddle.float16, paddle.bfloat16)


def available() -> bool:
    """Whether the convolution can run in eager mode now: by operators or by the prebuilt core. Builds nothing."""
    return loading.available(DEPTHWISE) or core.available()


def is_prebuilt() -> bool:
    """Whether eager mode runs the core that came with the wheel, for want of operators for this Paddle."""
    return not loading.available(DEPTHWISE) and core.available()


def prepare() -> None:
    """Get the convolution ready; builds it if there is no other way. A static graph takes nothing but operators.

    Raises:
        UserError: it cannot run; says why.
    """
    if not (paddle.in_dynamic_mode() and available()):
        loading.load(DEPTHWISE)


@paddle.jit.not_to_static
def check_available() -> None:
    """Check that the convolution can run on the device that is set; builds and loads it if needed.

    Raises:
        UserError: it cannot; says why.
    """
    if paddle.get_device() != "cpu":
        raise UserError(
            f"depthwise implementation 'cpu' runs on cpu, the device is {paddle.get_device()}", code="ops.wrong-device"
        )
    try:
        prepare()
    except UserError as error:
        raise error.at("depthwise implementation 'cpu' cannot run") from error


def _handle() -> ctypes.CDLL:
    return core.handle() if is_prebuilt() else loading.handle(DEPTHWISE)


def _runs_core() -> bool:
    return paddle.in_dynamic_mode() and is_prebuilt()


def instruction_set() -> str:
    """The instruction set in use: ``avx512``, ``avx2`` or ``portable``. The convolution must be :func:`available`."""
    function = _handle().ppreplk_instruction_set
    function.restype = ctypes.c_char_p
    return function().decode("ascii")


def use_instruction_set(name: str) -> None:
    """Switch to another instruction set, for tests and benchmarks. Weights packed for the old one no longer fit.

    Raises:
        UserError: this processor does not have it.
    """
    if _handle().ppreplk_use_instruction_set(name.encode("ascii")):
        raise UserError(
            f"the depthwise operators cannot use {name!r} on this processor", code="ops.unknown-instruction-set"
        )


def serves(dtype: paddle.dtype, kernel_size: int) -> bool:
    """Whether the operators take tensors of this type and kernels of this size."""
    return dtype in DTYPES and kernel_size <= MAX_KERNEL


def conv2d(x: paddle.Tensor, weight: paddle.Tensor, bias: paddle.Tensor | None) -> paddle.Tensor:
    """As :func:`ppreplk.depthwise_conv2d`, with gradients."""
    if _runs_core():
        return core.conv2d(x, weight, bias)
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
    if _runs_core():
        return core.pack(weight, height, width)
    return call("ppreplk_depthwise_pack", weight, height, width)


def packed_conv2d(
    x: paddle.Tensor, weight: paddle.Tensor, packed: paddle.Tensor, bias: paddle.Tensor | None, relu: bool
) -> paddle.Tensor:
    """Convolution of x (N, C, H, W), bias and optionally ReLU, without gradients.

    Maps of another size than ``packed`` is for are convolved with the plain ``weight``, which is slower.
    """
    if _runs_core():
        return core.packed_conv2d(x, weight, packed, bias, relu)
    return call("ppreplk_depthwise_conv_packed", x, weight, packed, bias, relu)


def packed_conv2d_nhwc(
    x: paddle.Tensor, weight: paddle.Tensor, packed: paddle.Tensor, bias: paddle.Tensor | None, relu: bool
) -> paddle.Tensor:
    """:func:`packed_conv2d` of x (N, H, W, C)."""
    if _runs_core():
        return core.packed_conv2d(x, weight, packed, bias, relu, core.NHWC)
    return call("ppreplk_depthwise_conv_packed_nhwc", x, weight, packed, bias, relu)

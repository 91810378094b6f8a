"""The dense and strided convolutions of a ``fast`` program: tensors (N, H, W, C), inference only."""

from __future__ import annotations

import ctypes

import paddle

from . import loading
from .build import DENSE
from .loading import call

OPERATOR_PREFIX = "ppreplk_dense_"  # of the operators' names in programs
FORMS = ("automatic", "convolution", "product")  # FormChoice in dense.h


def has_bfloat16() -> bool:
    """Whether this processor multiplies bfloat16. Others compute the same in float32, and no faster than that."""
    function = loading.handle(DENSE).ppreplk_dense_has_bfloat16
    function.restype = ctypes.c_bool
    return function()


def choose_form(form: str) -> None:
    """Pack pointwise weights for oneDNN's ``"convolution"`` or its matrix ``"product"`` from now on, whatever suits
    this processor; for tests and benchmarks. ``"automatic"`` goes back to the rule."""
    loading.handle(DENSE).ppreplk_dense_choose_form(FORMS.index(form))


def implementation(
    channels: int, out: int, kernel: int, stride: int, groups: int, bfloat16: bool, shape: tuple[int, int, int]
) -> str:
    """What a layer runs as here on maps of ``shape`` (N, H, W): the form, oneDNN's name for its code, the type of the
    arithmetic, as in ``"convolution jit_1x1:avx2 f32"``."""
    function = loading.handle(DENSE).ppreplk_dense_implementation
    function.restype = ctypes.c_char_p
    function.argtypes = [ctypes.c_int64] * 5 + [ctypes.c_bool] + [ctypes.c_int64] * 3
    return function(channels, out, kernel, stride, groups, bfloat16, *shape).decode("ascii")


def images(x: paddle.Tensor, bfloat16: bool) -> paddle.Tensor:
    """(N, C, H, W) float32 to (N, H, W, C), float32 or bfloat16."""
    return call("ppreplk_dense_images", x, bfloat16)


def pack(weight, height: int, width: int, stride: int, groups: int, bfloat16: bool) -> paddle.Tensor:
    """Weights (out, in / groups, K, K) in the form that suits maps of this size on this processor."""
    return call("ppreplk_dense_pack", weight, height, width, stride, groups, bfloat16)


def conv(x, packed, bias, residual, kernel: int, stride: int, groups: int, activation: str) -> paddle.Tensor:
    """activation(convolution + bias + residual) with padding ``kernel // 2``; ``none``, ``relu`` or ``gelu``.

    (N, H, W, in) -> (N, ceil(H / stride), ceil(W / stride), out). Maps of another size than was packed for are
    computed from weights packed again at every call, where that is necessary.
    """
    return call("ppreplk_dense_conv", x, packed, bias, residual, kernel, stride, groups, activation)


def pool(x: paddle.Tensor) -> paddle.Tensor:
    """Means over the pixels: (N, H, W, C) of either type to (N, C) float32."""
    return call("ppreplk_dense_pool", x)

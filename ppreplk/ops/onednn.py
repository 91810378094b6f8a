"""The dense and strided convolutions of a ``fast`` program: tensors (N, H, W, C), inference only."""

from __future__ import annotations

import ctypes

import paddle

from ..utils.errors import UserError
from . import loading
from .build import CHANNELS_LAST
from .loading import call

OPERATOR_PREFIX = "ppreplk_dense_"  # of the operators' names in programs
ACTIVATIONS = ("none", "relu", "gelu")  # Activation in dense.h
FORMS = ("automatic", "convolution", "product")  # FormChoice in dense.h


def has_bfloat16() -> bool:
    """Whether this processor multiplies bfloat16. Others compute the same in float32, and no faster than that."""
    function = loading.handle(CHANNELS_LAST).ppreplk_dense_has_bfloat16
    function.restype = ctypes.c_bool
    return function()


def choose_form(form: str) -> None:
    """Pack pointwise weights for oneDNN's ``"convolution"`` or its matrix ``"product"`` from now on, whatever suits
    this processor; for tests and benchmarks. ``"automatic"`` goes back to the rule."""
    loading.handle(CHANNELS_LAST).ppreplk_dense_choose_form(FORMS.index(form))


def implementation(
    layer: tuple[int, int, int, int, int],
    bfloat16: bool,
    map_size: tuple[int, int, int],
    packed_for: tuple[int, int, int] | None = None,
    activation: str = "none",
    residual: bool = False,
) -> str:
    """What a layer runs as here: the form, oneDNN's name for its code, the type of the arithmetic.

    For example ``"convolution brgconv_1x1:avx2 f32"``, and ``repacked`` behind that where every call packs the
    weights again.

    Args:
        layer: channels in and out, kernel, stride, groups.
        map_size: (N, H, W).
        packed_for: the map the weights were packed for, if another.

    Raises:
        UserError: there is none; says why.
    """
    function = loading.handle(CHANNELS_LAST).ppreplk_dense_implementation
    sizes = ctypes.c_int64 * 3
    function.restype = ctypes.c_bool
    function.argtypes = [ctypes.c_int64] * 5 + [ctypes.c_bool, sizes, sizes, ctypes.c_int, ctypes.c_bool]
    function.argtypes += [ctypes.POINTER(ctypes.c_char_p)]
    what, text = ACTIVATIONS.index(activation), ctypes.c_char_p()
    where = sizes(*(packed_for or map_size)), sizes(*map_size)
    if not function(*layer, bfloat16, *where, what, residual, ctypes.byref(text)):
        raise UserError(text.value.decode("ascii"))
    return text.value.decode("ascii")


def mismatch(major: int, minor: int, runtime: int) -> str | None:
    """Why oneDNN of that version and threading runtime does not fit what the operators were compiled for."""
    function = loading.handle(CHANNELS_LAST).ppreplk_dense_mismatch_of
    function.restype = ctypes.c_char_p
    reason = function(major, minor, runtime)
    return reason and reason.decode("ascii")


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

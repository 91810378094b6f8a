"""The layers of a channels-last program, all but the large kernels: tensors (N, H, W, C), inference only."""

from __future__ import annotations

import ctypes

import paddle

from ..utils.errors import UserError
from . import loading
from .build import CHANNELS_LAST
from .loading import call

OPERATOR_PREFIX = "ppreplk_channels_last_"  # of the operators' names in programs
OPERATOR_PREFIXES = (OPERATOR_PREFIX, "ppreplk_dense_")  # the second in programs exported by version 0.1.0
ACTIVATIONS = ("none", "relu", "gelu", "relu6")  # Activation in channels_last.h
FORMS = ("automatic", "convolution", "matmul", "tiles", "vectors")  # FormChoice in channels_last.h
PRECISIONS = ("fp32", "fp32-bf16x3", "bf16", "int8")  # Precision in channels_last.h
BACKENDS = ("none", "hardware", "emulated", "emulated plain")  # amx::Backend in products.h


def has_bfloat16() -> bool:
    """Whether this processor multiplies bfloat16. Others do the same rounding in float32, at the speed of float32."""
    function = loading.handle(CHANNELS_LAST).ppreplk_channels_last_has_bfloat16
    function.restype = ctypes.c_bool
    return function()


def has_int8() -> bool:
    """Whether this processor multiplies 8-bit integers (VNNI). Others multiply the same numbers in float32."""
    function = loading.handle(CHANNELS_LAST).ppreplk_channels_last_has_int8
    function.restype = ctypes.c_bool
    return function()


def tiles_backend() -> str:
    """What computes our own kernels for AMX, one of :data:`BACKENDS`: ``"none"`` if the processor has no AMX."""
    return BACKENDS[loading.handle(CHANNELS_LAST).ppreplk_channels_last_backend()]


def choose_tiles_backend(backend: str) -> bool:
    """Choose what computes our own kernels for AMX from now on, for tests. Returns whether it runs here.

    Args:
        backend: one of :data:`BACKENDS`. ``"none"`` goes back to what the processor has. The emulated ones are far
            slower than oneDNN; the plain one runs on every processor.
    """
    function = loading.handle(CHANNELS_LAST).ppreplk_channels_last_choose_backend
    function.restype = ctypes.c_bool
    return function(BACKENDS.index(backend))


def kept_bytes() -> int:
    """Bytes of freed outputs that are kept for the next run. There are at most 512 MiB of them in a process.

    The C library would give large pieces of memory back to the system, which fills the next ones with zeros first.
    """
    function = loading.handle(CHANNELS_LAST).ppreplk_channels_last_kept_bytes
    function.restype = ctypes.c_int64
    return function()


def release() -> None:
    """Give back what :func:`kept_bytes` counts."""
    loading.handle(CHANNELS_LAST).ppreplk_channels_last_release()


def choose_form(form: str) -> None:
    """Choose the form that weights of pointwise convolutions are packed for from now on, for tests and benchmarks.

    Args:
        form: ``"convolution"`` or ``"matmul"`` for that operation of oneDNN's, ``"tiles"`` or ``"vectors"`` for our own
            kernels on AMX or AVX-512, ``"automatic"`` for the one that suits the processor.
    """
    loading.handle(CHANNELS_LAST).ppreplk_channels_last_choose_form(FORMS.index(form))


def implementation(
    layer: tuple[int, int, int, int, int],
    precision: str,
    map_size: tuple[int, int, int],
    packed_for: tuple[int, int, int] | None = None,
    activation: str = "none",
    residual: bool = False,
) -> str:
    """How a layer runs on this processor: the form, oneDNN's name for its code, the type of the arithmetic.

    For example ``"convolution brgconv_1x1:avx2 f32"``; for our own kernels, ``"tiles amx bf16x3"`` or
    ``"vectors avx512 f32"``. If every call packs the weights again, ``repacked`` follows.

    Args:
        layer: channels in and out, kernel, stride, groups.
        precision: one of :data:`PRECISIONS`.
        map_size: (N, H, W).
        packed_for: the map the weights were packed for, if another.

    Raises:
        UserError: the layer cannot run; says why.
    """
    function = loading.handle(CHANNELS_LAST).ppreplk_channels_last_implementation
    sizes = ctypes.c_int64 * 3
    function.restype = ctypes.c_bool
    function.argtypes = [ctypes.c_int64] * 5 + [ctypes.c_int, sizes, sizes, ctypes.c_int, ctypes.c_bool]
    function.argtypes += [ctypes.POINTER(ctypes.c_char_p)]
    result = ctypes.c_char_p()
    maps = sizes(*(packed_for or map_size)), sizes(*map_size)
    found = function(
        *layer, PRECISIONS.index(precision), *maps, ACTIVATIONS.index(activation), residual, ctypes.byref(result)
    )
    text = (result.value or b"").decode("ascii")
    if not found:
        raise UserError(text, code="ops.no-implementation")
    return text


def mismatch(major: int, minor: int, runtime: int) -> str | None:
    """Why oneDNN of that version and threading runtime does not fit the one that the operators were compiled for."""
    function = loading.handle(CHANNELS_LAST).ppreplk_channels_last_mismatch_of
    function.restype = ctypes.c_char_p
    reason = function(major, minor, runtime)
    return reason and reason.decode("ascii")


def images(x: paddle.Tensor, bfloat16: bool) -> paddle.Tensor:
    """(N, C, H, W) float32 to (N, H, W, C), float32 or bfloat16."""
    return call("ppreplk_channels_last_images", x, bfloat16)


def pack(
    weight: paddle.Tensor, height: int, width: int, stride: int, groups: int, precision: str = "fp32"
) -> paddle.Tensor:
    """Weights (out, in / groups, K, K) in the form that suits maps of this size on this processor.

    Args:
        precision: one of :data:`PRECISIONS` but ``"int8"``, see :func:`pack_int8`. ``"bf16"`` is for bfloat16 tensors,
            the others are for float32. ``"fp32-bf16x3"`` is the same as ``"fp32"`` where there is no AMX.

    Raises:
        ValueError: another precision.
    """
    if precision not in PRECISIONS or precision == "int8":
        raise ValueError(f"weights are packed for fp32, fp32-bf16x3 or bf16, got {precision!r}; pack_int8 is for int8")
    if precision == "fp32-bf16x3":
        return call("ppreplk_channels_last_pack_bf16x3", weight, height, width, stride, groups)
    return call("ppreplk_channels_last_pack", weight, height, width, stride, groups, precision == "bf16")


def pack_int8(weight: paddle.Tensor, height: int, width: int, low: float, high: float) -> paddle.Tensor:
    """Weights (out, in, 1, 1) as 8-bit integers, for inputs of either type that are quantized.

    Args:
        low, high: the range of the input. Values beyond it become its ends; it is extended to hold zero.
    """
    return call("ppreplk_channels_last_pack_int8", weight, height, width, low, high)


def conv(
    x: paddle.Tensor,
    packed: paddle.Tensor,
    bias: paddle.Tensor,
    residual: paddle.Tensor | None,
    kernel: int,
    stride: int,
    groups: int,
    activation: str,
) -> paddle.Tensor:
    """activation(convolution + bias + residual), with padding ``kernel // 2``.

    (N, H, W, in) -> (N, ceil(H / stride), ceil(W / stride), out). The map may have another size than the weights were
    packed for; where that size needs another packing, every call does it again.

    Args:
        packed: what :func:`pack` or :func:`pack_int8` returned.
        bias: (out,) float32.
        residual: like the output.
        activation: one of :data:`ACTIVATIONS`.
    """
    return call("ppreplk_channels_last_conv", x, packed, bias, residual, kernel, stride, groups, activation)


def feed_forward(
    x: paddle.Tensor,
    packed1: paddle.Tensor,
    bias1: paddle.Tensor,
    packed2: paddle.Tensor,
    bias2: paddle.Tensor,
) -> paddle.Tensor:
    """x + second(gelu(first(x))) for two pointwise convolutions. (N, H, W, C) -> (N, H, W, C).

    The wide layer between them exists in pieces only: rows or slices of channels in our own kernels, some images in
    oneDNN's. With weights of :func:`pack_int8` it is quantized as soon as it is computed.

    Args:
        packed1: weights (hidden, C, 1, 1), packed.
        bias1: (hidden,) float32.
        packed2: weights (C, hidden, 1, 1), packed.
        bias2: (C,) float32.
    """
    return call("ppreplk_channels_last_feed_forward", x, packed1, bias1, packed2, bias2)


def pool(x: paddle.Tensor) -> paddle.Tensor:
    """Means over the pixels: (N, H, W, C) of either type to (N, C) float32."""
    return call("ppreplk_channels_last_pool", x)

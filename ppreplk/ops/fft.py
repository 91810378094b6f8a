"""The depthwise convolution through Paddle's own Fourier transforms: fast at large kernels, no compiler needed.

The time is that of the transforms, and hardly depends on the size of the kernel. Transforms of size H + K // 2 or more
are large enough: what wraps around falls into rows and columns that are cropped away. Conjugates come from transforms
in the other direction (``ihfftn``, ``hfftn``), which is free; an operator for them would take as long as a transform.
"""

from __future__ import annotations

from typing import Any, Optional

import paddle
import paddle.nn.functional as F
from paddle import Tensor
from paddle.autograd import PyLayer
from paddle.fft import hfftn, ihfftn, irfftn, rfftn

FACTORS = (2, 3, 5, 7)
AXES = (-2, -1)


def transform_size(minimum: int) -> int:
    """The smallest size of a fast transform that is at least ``minimum``; it has no prime factor above 7.

    >>> transform_size(71)
    72
    """
    size = minimum
    while True:
        rest = size
        for factor in FACTORS:
            while rest % factor == 0:
                rest //= factor
        if rest == 1:
            return size
        size += 1


def _sizes(x: Tensor, weight: Tensor) -> tuple[list[int], int]:
    """Transform sizes of rows and columns, and the padding, K // 2."""
    kernel = weight.shape[-1]
    pad = kernel // 2
    return [transform_size(max(side + pad, kernel)) for side in x.shape[2:]], pad


def _shifted(x: Tensor, sizes: list[int], pad: int) -> Tensor:
    """``x`` padded with zeros to the transform's size, ``pad`` of them at the top and on the left."""
    height, width = x.shape[2:]
    return F.pad(x, [0, 0, 0, 0, pad, sizes[0] - height - pad, pad, sizes[1] - width - pad])


def _crop(maps: Tensor, offset: int, like: Tensor) -> Tensor:
    """The part of ``maps`` that begins at (``offset``, ``offset``) and has the shape of ``like``."""
    # crop copies faster than a slice
    rank = len(like.shape)
    return paddle.crop(maps, list(like.shape), [0] * (rank - 2) + [offset, offset])


def _convolve(x: Tensor, weight: Tensor) -> Tensor:
    """y[i] = sum over k of weight[k] x[i + k - K // 2]. It is a correlation, so one spectrum is conjugated."""
    sizes, pad = _sizes(x, weight)
    spectrum = rfftn(_shifted(x, sizes, pad), axes=AXES)
    conjugate = ihfftn(weight.squeeze(1), s=sizes, axes=AXES, norm="forward")
    return _crop(irfftn(spectrum * conjugate, s=sizes, axes=AXES), 0, x)


class _SpectralConv2D(PyLayer):
    """:func:`_convolve`, with a backward pass in which both gradients share the transform of the output's gradient.

    The backward pass computes the spectra again, because they take several times the memory of the maps.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        return _convolve(x, weight)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Optional[Tensor], Optional[Tensor]]:
        x, weight = ctx.saved_tensor()
        sizes, pad = _sizes(x, weight)
        spectrum = rfftn(gradient, s=sizes, axes=AXES)
        x_gradient = weight_gradient = None
        if not x.stop_gradient:
            of_weight = rfftn(weight.squeeze(1), s=sizes, axes=AXES)
            x_gradient = _crop(irfftn(spectrum * of_weight, s=sizes, axes=AXES), pad, x)
        if not weight.stop_gradient:
            conjugate = ihfftn(_shifted(x, sizes, pad), axes=AXES, norm="forward")
            gradient_spectrum = (spectrum * conjugate).sum(0)
            weight_gradient = _crop(hfftn(gradient_spectrum, s=sizes, axes=AXES, norm="forward"), 0, weight.squeeze(1))
            weight_gradient = weight_gradient.unsqueeze(1)
        return x_gradient, weight_gradient


def spectral_conv2d(x: Tensor, weight: Tensor, bias: Optional[Tensor]) -> Tensor:
    """As :func:`ppreplk.depthwise_conv2d`. Half precision is computed in single precision."""
    dtype = x.dtype if x.dtype == paddle.float64 else paddle.float32
    convolve = _SpectralConv2D.apply if paddle.in_dynamic_mode() else _convolve
    y = convolve(x.astype(dtype), weight.astype(dtype))
    if bias is not None:
        y = y + bias.astype(dtype).reshape([1, -1, 1, 1])
    return y.astype(x.dtype)

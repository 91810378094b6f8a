"""The depthwise convolution through Paddle's own Fourier transforms: fast at large kernels, no compiler needed.

A kernel of any size costs what the transforms cost. With transforms of size H + K // 2 or more, the circular
wrap-around falls into rows and columns that are cropped away. Conjugates come from the transforms' direction
(``ihfftn``, ``hfftn``), which is free; as operators of their own they cost as much as a transform.
"""

from __future__ import annotations

import paddle
import paddle.nn.functional as F
from paddle.autograd import PyLayer
from paddle.fft import hfftn, ihfftn, irfftn, rfftn

FACTORS = (2, 3, 5, 7)
AXES = (-2, -1)


def transform_size(least: int) -> int:
    """The smallest number from ``least`` on without a prime factor above 7: such transforms are fast."""
    size = least
    while True:
        rest = size
        for factor in FACTORS:
            while rest % factor == 0:
                rest //= factor
        if rest == 1:
            return size
        size += 1


def _sizes(x, weight) -> tuple[list[int], int]:
    """Transform sizes of rows and columns, and the reach of the kernel, K // 2."""
    kernel = weight.shape[-1]
    reach = kernel // 2
    return [transform_size(max(side + reach, kernel)) for side in x.shape[2:]], reach


def _shifted(x, sizes: list[int], reach: int):
    """``x`` in a field of zeros of the transform's size, ``reach`` away from the upper left corner."""
    height, width = x.shape[2:]
    return F.pad(x, [0, 0, 0, 0, reach, sizes[0] - height - reach, reach, sizes[1] - width - reach])


def _crop(maps, offset: int, like):
    """The part of ``maps`` from ``offset`` on that has the shape of ``like``; ``crop`` copies faster than a slice."""
    rank = len(like.shape)
    return paddle.crop(maps, list(like.shape), [0] * (rank - 2) + [offset, offset])


def _convolve(x, weight):
    """y[i] = sum over k of weight[k] x[i + k - K // 2]: a correlation, so one spectrum is conjugated."""
    sizes, reach = _sizes(x, weight)
    spectrum = rfftn(_shifted(x, sizes, reach), axes=AXES)
    conjugate = ihfftn(weight.squeeze(1), s=sizes, axes=AXES, norm="forward")
    return _crop(irfftn(spectrum * conjugate, s=sizes, axes=AXES), 0, x)


class _SpectralConv2D(PyLayer):
    """:func:`_convolve` with a backward pass that shares the transform of the output's gradient.

    Spectra are computed again rather than kept: they take several times the memory of the maps.
    """

    @staticmethod
    def forward(ctx, x, weight):
        ctx.save_for_backward(x, weight)
        return _convolve(x, weight)

    @staticmethod
    def backward(ctx, gradient):
        x, weight = ctx.saved_tensor()
        sizes, reach = _sizes(x, weight)
        spectrum = rfftn(gradient, s=sizes, axes=AXES)
        x_gradient = weight_gradient = None
        if not x.stop_gradient:
            of_weight = rfftn(weight.squeeze(1), s=sizes, axes=AXES)
            x_gradient = _crop(irfftn(spectrum * of_weight, s=sizes, axes=AXES), reach, x)
        if not weight.stop_gradient:
            conjugate = ihfftn(_shifted(x, sizes, reach), axes=AXES, norm="forward")
            product = (spectrum * conjugate).sum(0)
            weight_gradient = _crop(hfftn(product, s=sizes, axes=AXES, norm="forward"), 0, weight.squeeze(1))
            weight_gradient = weight_gradient.unsqueeze(1)
        return x_gradient, weight_gradient


def spectral_conv2d(x: paddle.Tensor, weight: paddle.Tensor, bias: paddle.Tensor | None) -> paddle.Tensor:
    """As :func:`ppreplk.depthwise_conv2d`. Half precision is computed in single precision."""
    dtype = x.dtype if x.dtype == paddle.float64 else paddle.float32
    convolve = _SpectralConv2D.apply if paddle.in_dynamic_mode() else _convolve
    y = convolve(x.astype(dtype), weight.astype(dtype))
    if bias is not None:
        y = y + bias.astype(dtype).reshape([1, -1, 1, 1])
    return y.astype(x.dtype)

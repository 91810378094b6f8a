"""Layers of a channels-last network in training on a CPU: tensors (N, H, W, C) in float32, with gradients.

The operators are built with those of the depthwise convolution. Sums over pixels are the same for every number of
threads. Products of matrices are Paddle's in float32, or ours on AMX, whose operators are built with those of
channels-last programs.
"""

from __future__ import annotations

from typing import Literal, Optional

import paddle
from paddle import Tensor, nn

from . import loading, onednn
from .build import CHANNELS_LAST, DEPTHWISE, HOW_TO
from .loading import call

ACTIVATIONS = ("none", "relu", "gelu", "relu6")  # Activation in norm.h
# How matrices are multiplied: in float32 by Paddle, or float32 in two bfloat16 parts by our kernels on AMX
# (csrc/amx/training_products.h).
Products = Literal["fp32", "fp32-bf16x3"]


def available() -> bool:
    """Whether the operators are loaded, or built and load now. Builds nothing."""
    return loading.available(DEPTHWISE)


def products_problem(products: Products) -> Optional[str]:
    """Why matrices cannot be multiplied so on this processor, or None. Builds nothing."""
    if products == "fp32":
        return None
    if not loading.available(CHANNELS_LAST):
        return f"{CHANNELS_LAST.contents} are not built ({HOW_TO.replace('builds it', 'channels_last builds them')})"
    return "this processor has no AMX" if onednn.tiles_backend() == "none" else None


def _parts(bn: nn.BatchNorm2D) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    return bn.weight, bn.bias, bn._mean, bn._variance


def norm(x: Tensor, bn: nn.BatchNorm2D, activation: str = "none") -> Tensor:
    """activation(bn(x)) on the statistics of this batch; updates the running ones. (N, H, W, C) -> (N, H, W, C).

    Args:
        bn: its parameters and statistics are used.
        activation: one of :data:`ACTIVATIONS`.
    """
    return call("ppreplk_training_norm", x, *_parts(bn), bn._epsilon, bn._momentum, activation)


def norm_sum(x: Tensor, bn: nn.BatchNorm2D, residual: Tensor, keep: Tensor) -> Tensor:
    """residual + keep * bn(x), as :func:`norm`.

    Args:
        residual: like x.
        keep: (N,), a factor for each image, which gets no gradient.
    """
    return call("ppreplk_training_norm_sum", x, *_parts(bn), residual, keep, bn._epsilon, bn._momentum)


def norm_pair(x: Tensor, bn: nn.BatchNorm2D, x2: Tensor, bn2: nn.BatchNorm2D, activation: str = "none") -> Tensor:
    """activation(bn(x) + bn2(x2)), as :func:`norm`, for two normalizations of the same momentum and epsilon."""
    arguments = (x, *_parts(bn), x2, *_parts(bn2), bn._epsilon, bn._momentum, activation)
    return call("ppreplk_training_norm_pair", *arguments)


def depthwise(x: Tensor, weight: Tensor, stride: int = 1) -> Tensor:
    """Depthwise convolution with odd kernel and padding ``K // 2``.

    (N, H, W, C) -> (N, ceil(H / stride), ceil(W / stride), C). A strided one is computed at stride 1, and what lies
    between the strides dropped.

    Args:
        weight: (C, 1, K, K), K at most :data:`ppreplk.ops.cpu.MAX_KERNEL`.
    """
    return call("ppreplk_training_depthwise", x, weight, stride)


def pointwise(x: Tensor, weight: Tensor, products: Products = "fp32") -> Tensor:
    """Convolution with a 1x1 kernel, (N, H, W, in) -> (N, H, W, out), as a product of matrices.

    Args:
        weight: (out, in, 1, 1), or (out, ...) with ``in`` numbers for each output channel.
        products: without a :func:`products_problem`; of the gradients too.
    """
    if products == "fp32":
        return paddle.matmul(x, weight.flatten(1), transpose_y=True)
    operator = "ppreplk_training_product"
    if x.stop_gradient != weight.stop_gradient:  # one gradient alone is needed
        operator += "_weight" if x.stop_gradient else "_input"
    return call(operator, x, weight)


def images_conv(images: Tensor, weight: Tensor, stride: int, products: Products = "fp32") -> Tensor:
    """Convolution of images, which get no gradient, with odd kernel and padding ``K // 2``.

    (N, C, H, W) -> (N, ceil(H / stride), ceil(W / stride), out).

    Args:
        weight: (out, C, K, K).
        products: as in :func:`pointwise`.
    """
    patches = call("ppreplk_training_patches", images, weight.shape[-1], stride)
    return pointwise(patches, weight, products)

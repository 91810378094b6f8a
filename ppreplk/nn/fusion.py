"""Fusion maths on plain arrays: what structural re-parameterization computes, without any layers.

All functions take and return numpy arrays and compute in float64, so that a fused network differs from
the unfused one only by the rounding of the final cast. A batch normalization in inference is the affine
map ``scale * x + shift`` per channel; the functions below move such maps into neighbouring convolutions.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike


def bn_scale_shift(
    gamma: ArrayLike, beta: ArrayLike, mean: ArrayLike, variance: ArrayLike, epsilon: float
) -> tuple[np.ndarray, np.ndarray]:
    """The affine map of a batch normalization on its running statistics.

    Args:
        gamma, beta, mean, variance: (C,) each.
        epsilon: added to the variance.

    Returns:
        ``scale`` and ``shift``, (C,) float64 each.
    """
    gamma, beta, mean, variance = (np.asarray(a, np.float64) for a in (gamma, beta, mean, variance))
    scale = gamma / np.sqrt(variance + epsilon)
    return scale, beta - mean * scale


def scale_conv_output(
    weight: ArrayLike, bias: ArrayLike | None, scale: np.ndarray, shift: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Fuse an affine map that *follows* a convolution into it (conv + BN).

    Args:
        weight: (out, in/groups, K, K).
        bias: (out,), or None for zero.
        scale, shift: (out,).

    Returns:
        Fused weight and bias, float64.
    """
    weight = np.asarray(weight, np.float64)
    bias = np.zeros(weight.shape[0]) if bias is None else np.asarray(bias, np.float64)
    return weight * scale[:, None, None, None], bias * scale + shift


def scale_conv_input(
    weight: ArrayLike, bias: ArrayLike | None, scale: np.ndarray, shift: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Fuse an affine map that *precedes* a dense 1x1 convolution without padding into it (BN + conv).

    It is exact only there: with padding, the zeros at the border would have to be shifted too.

    Args:
        weight: (out, in, 1, 1).
        bias: (out,), or None for zero.
        scale, shift: (in,).

    Returns:
        Fused weight and bias, float64.
    """
    weight = np.asarray(weight, np.float64)
    assert weight.shape[2:] == (1, 1), f"only a 1x1 convolution can absorb its input's shift, got {weight.shape}"
    bias = np.zeros(weight.shape[0]) if bias is None else np.asarray(bias, np.float64)
    return weight * scale[None, :, None, None], bias + weight[:, :, 0, 0] @ shift


def scale_linear_input(
    weight: ArrayLike, bias: ArrayLike, scale: np.ndarray, shift: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Fuse an affine map that precedes a linear layer into it; an average pool between them commutes.

    Args:
        weight: (in, out), Paddle's layout.
        bias: (out,).
        scale, shift: (in,).

    Returns:
        Fused weight and bias, float64.
    """
    weight = np.asarray(weight, np.float64)
    return weight * scale[:, None], np.asarray(bias, np.float64) + shift @ weight


def add_branches(
    weight: ArrayLike, bias: ArrayLike, small_weight: ArrayLike, small_bias: ArrayLike
) -> tuple[np.ndarray, np.ndarray]:
    """Fuse two parallel convolutions into one: the small kernel is added to the centre of the large one (section 3.1).

    Args:
        weight, small_weight: (out, in/groups, K, K) and (out, in/groups, k, k), see :func:`pad_kernel`.
        bias, small_bias: (out,).

    Returns:
        Fused weight and bias, float64.
    """
    weight, bias, small_bias = (np.asarray(a, np.float64) for a in (weight, bias, small_bias))
    return weight + pad_kernel(small_weight, weight.shape[-1]), bias + small_bias


def pad_kernel(weight: ArrayLike, size: int) -> np.ndarray:
    """Embed (out, in/groups, k, k) kernels in the centre of zero kernels of side ``size``.

    ``k`` and ``size`` must both be odd or both even, else there is no centre; ``k <= size``.

    >>> pad_kernel(np.ones((1, 1, 1, 1)), 3)[0, 0]
    array([[0., 0., 0.],
           [0., 1., 0.],
           [0., 0., 0.]])
    """
    weight = np.asarray(weight, np.float64)
    margin = size - weight.shape[-1]
    assert margin >= 0 and margin % 2 == 0, f"cannot centre a {weight.shape[-1]} kernel in {size}"
    half = margin // 2
    return np.pad(weight, ((0, 0), (0, 0), (half, half), (half, half)))
